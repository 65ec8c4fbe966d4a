//! The sample cache: a Redis of one's own, where `redis-server` is installed, with a stream of alarms.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::process::{KnownPorts, SampleProcess, find, password, write_private};
use super::{MACHINES, Optional, Part};

/// The port of the sample cache, where it is free.
const PORT: u16 = 6379;
/// The time from one alarm to the next.
const ALARM_INTERVAL: Duration = Duration::from_millis(150);

pub(super) const SERVER: Optional = Optional {
    name: "Redis",
    is_installed: || find("redis-server").is_some(),
    start,
    install_hint: "apt-get install redis-server   (or your system's Redis package)",
};

/// Starts a server and the writer of its stream, which ends with it.
fn start(home: &Path, ports: KnownPorts) -> anyhow::Result<Part> {
    let server = find("redis-server").context("redis-server is not installed")?;
    let folder = tempfile::tempdir().context("failed to make a temporary folder for Redis")?;
    let (port, password, password_file) = (ports.free(PORT)?, password()?, "redis.password");
    write_private(&home.join(password_file), &password)?;
    let (file, log) = (folder.path().join("redis.conf"), folder.path().join("server.log"));
    // In a file, because everybody sees the arguments of a process.
    let text = format!(
        "bind 127.0.0.1\nport {port}\nrequirepass {password}\nsave \"\"\nappendonly no\ndaemonize no\n\
         dir \"{}\"\nlogfile \"{}\"\n",
        folder.path().display(),
        log.display()
    );
    write_private(&file, &text)?;
    let mut command = Command::new(server);
    command.arg(&file);
    let process = SampleProcess::start(command, port, &log, folder)?;
    tokio::spawn(write(port, password));
    let configuration = format!(
        r#"[[source]]
name = "alarms"
port = {port}
protocol = "redis"
password = {{ file = "{password_file}" }}
stream = "alarms"
columns = {{ number = "bigint", severity = "integer" }}
tls = {{ allow_plaintext = "sample server on loopback" }}
"#
    );
    Ok(Part::new("alarms", configuration, Some(process)))
}

/// Adds alarms until the server ends.
async fn write(port: u16, password: String) -> anyhow::Result<()> {
    let mut connection = BufReader::new(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?);
    command(&mut connection, &format!("AUTH {password}")).await?;
    let mut interval = tokio::time::interval(ALARM_INTERVAL);
    for number in 1_usize.. {
        interval.tick().await;
        let machine = MACHINES[number * 3 % MACHINES.len()];
        let (code, severity) = (["door", "heat", "oil", "tool"][number * 7 % 4], number * 5 % 3 + 1);
        let alarm = format!("XADD alarms * number {number} machine {machine} code {code} severity {severity}");
        command(&mut connection, &alarm).await?;
    }
    Ok(())
}

/// Sends an inline command and reads its answer: a line, or for a string its length and the string.
async fn command(connection: &mut BufReader<TcpStream>, words: &str) -> anyhow::Result<()> {
    connection.write_all(format!("{words}\r\n").as_bytes()).await?;
    let mut line = String::new();
    connection.read_line(&mut line).await?;
    ensure!(line.starts_with(['+', '$']), "Redis answered {}", line.trim_end());
    if line.starts_with('$') {
        connection.read_line(&mut line).await?;
    }
    Ok(())
}
