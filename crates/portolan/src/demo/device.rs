//! The sample device: sends a message of each machine's vibration in turn to port 5000, which the collector opens.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::process::KnownPorts;
use super::{MACHINES, Part};

/// The port that the collector opens for the device, where it is free.
const PORT: u16 = 5000;
/// The time from one message to the next.
const MESSAGE_INTERVAL: Duration = Duration::from_millis(20);
/// The time from one attempt to connect to the next.
const CONNECT_INTERVAL: Duration = Duration::from_millis(50);

/// Starts the device. It waits until somebody listens, and ends with the process.
pub(super) fn start(ports: KnownPorts) -> anyhow::Result<Part> {
    let port = ports.free(PORT)?;
    tokio::spawn(send(port));
    let configuration = format!(
        r#"# A port of ours, to which a device sends.
[[source]]
name = "vibration"
port = {port}
protocol = "tcp"
listen = true
tls = {{ allow_plaintext = "sample server on loopback" }}
"#
    );
    Ok(Part::new("vibration", configuration, None))
}

async fn send(port: u16) {
    let mut connection = loop {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
            Ok(connection) => break connection,
            Err(_) => tokio::time::sleep(CONNECT_INTERVAL).await,
        }
    };
    let mut interval = tokio::time::interval(MESSAGE_INTERVAL);
    for number in 1_u64.. {
        interval.tick().await;
        // The collector closes the connection when the tour is over.
        if connection.write_all(message(number).as_bytes()).await.is_err() {
            return;
        }
    }
}

fn message(number: u64) -> String {
    let index = number as usize % MACHINES.len();
    let phase = number as f64 / 60.0 + index as f64;
    let micrometres = (120.0 + 80.0 * phase.sin() + 12.5 * index as f64).round() / 10.0;
    format!("{{\"number\": {number}, \"machine\": \"{}\", \"micrometres\": {micrometres:?}}}\n", MACHINES[index])
}
