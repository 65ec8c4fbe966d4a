//! A sender of acknowledged messages to a port of the collector's: `signals`.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::{Progress, Station, Writing, batch};
use crate::crash::random::Random;
use crate::process::free_port;
use crate::senders::AcknowledgedSender;

const SIGNALS: &str = "signals";

/// The sender.
#[derive(Debug)]
pub(super) struct Tcp {
    sender: AcknowledgedSender,
    port: u16,
}

/// A message of `signals` as its sender sends it and the lake must show it.
pub(super) fn signal(id: i64) -> Value {
    json!({ "id": id, "device": format!("pump-{}", id % 13), "level": id as f64 / 4.0, "open": id % 2 == 0 })
}

impl Tcp {
    pub(super) fn start() -> Result<Self> {
        let port = free_port()?;
        let sender = AcknowledgedSender::start();
        sender.begin_as(SIGNALS);
        sender.set_port(port);
        Ok(Self { sender, port })
    }
}

impl Station for Tcp {
    fn configuration(&self) -> String {
        format!(
            r#"
[[source]]
name = "signals"
port = {}
protocol = "tcp"
tls = {{ allow_plaintext = "loopback" }}
listen = true
acknowledge = true
required = false
"#,
            self.port
        )
    }

    fn write(&self, progress: &Progress, writing: &mut Writing) -> Result<()> {
        while writing.goes_on(10, 150) {
            let ids = batch(&mut writing.random, progress.of(SIGNALS) + 1);
            let highest = ids.end - 1;
            self.sender.send(ids.map(|id| signal(id).to_string()));
            progress.found(SIGNALS, highest);
        }
        Ok(())
    }

    fn blow(&self, _random: &mut Random) -> Result<&'static str> {
        self.sender.reconnect();
        Ok("sender")
    }

    fn check(&self) -> Result<()> {
        match self.sender.broken_promise() {
            Some(broken) => bail!("{broken}"),
            None => Ok(()),
        }
    }
}
