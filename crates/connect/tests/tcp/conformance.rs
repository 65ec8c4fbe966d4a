//! The contract of sources, held against the `tcp` connector: a port of ours with a sender that is acknowledged, and a
//! device's port that we connect to.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;
use arrow::datatypes::DataType;
use portolan_connect::source::tcp::Tcp;
use portolan_model::config::SourceSpec;
use portolan_model::source::{Capabilities, Connector};
use portolan_testkit::conformance::source::{STORED_BYTES_MAX, Shape, SourceFixture, run, spec};
use portolan_testkit::process::free_port;
use portolan_testkit::senders::{AcknowledgedSender, Device};
use serde_json::{Value, json};

const ITEM_BYTES_MAX: usize = 8 << 10;

fn item(id: i64) -> Value {
    json!({ "id": id, "name": format!("item {id}"), "price": id as f64 + 0.25, "on": id % 2 == 0 })
}

fn message(id: i64, padding: usize) -> String {
    let mut item = item(id);
    if padding > 0 {
        item["padding"] = "x".repeat(padding).into();
    }
    item.to_string()
}

fn columns() -> Vec<(&'static str, DataType)> {
    vec![("id", DataType::Int64), ("name", DataType::Utf8), ("price", DataType::Float64), ("on", DataType::Boolean)]
}

fn limits(shape: Shape) -> String {
    match shape {
        Shape::SmallStore => format!("max_intake = \"{}MiB\"\n", STORED_BYTES_MAX >> 20),
        Shape::SmallItems => format!("max_message = \"{}KiB\"\n", ITEM_BYTES_MAX >> 10),
        Shape::Whole | Shape::Incremental => String::new(),
    }
}

/// A port of ours; the fault proxy stands between the sender and it.
struct Listening {
    port: u16,
    sender: AcknowledgedSender,
    runs: AtomicU32,
    /// The port that the sender connects to, once a source is specified.
    towards: Mutex<Option<u16>>,
}

impl SourceFixture for Listening {
    fn connector(&self) -> &dyn Connector {
        &Tcp
    }

    fn server_port(&self) -> u16 {
        self.port
    }

    fn spec(&self, port: u16, shape: Shape) -> SourceSpec {
        *self.towards.lock().unwrap() = Some(port);
        self.sender.set_port(port);
        spec("items", "tcp", self.port, &format!("listen = true\nacknowledge = true\n{}", limits(shape)))
    }

    fn write(&mut self, ids: Range<i64>, padding: usize) -> Result<()> {
        self.sender.send(ids.map(|id| message(id, padding)));
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        self.sender.begin_as(&format!("sender-{run}"));
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        self.sender.reconnect();
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        self.sender.kill();
        Ok(())
    }

    fn start_again(&mut self) -> Result<()> {
        self.sender.revive();
        Ok(())
    }

    fn expected(&self, id: i64) -> Value {
        item(id)
    }

    fn columns(&self) -> Vec<(&'static str, DataType)> {
        columns()
    }

    fn item_bytes_max(&self) -> Option<usize> {
        Some(ITEM_BYTES_MAX)
    }

    fn not_applicable(&self) -> &'static [&'static str] {
        &[
            "what_is_acknowledged_does_not_come_again",
            "a_slow_consumer_slows_the_server",
            "a_cut_answer_is_an_error",
            "a_dead_port_is_named_and_heals",
            "a_hanging_port_times_out_and_heals",
            "hostile_bytes_are_an_error",
            "an_oversized_item_is_a_limit",
        ]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_of_ours_keeps_the_contract() {
    let mut fixture = Listening {
        port: free_port().unwrap(),
        sender: AcknowledgedSender::start(),
        runs: AtomicU32::new(0),
        towards: Mutex::new(None),
    };
    run(&mut fixture).await;
}

/// A device's port; what is under way when a connection is cut is lost with it, so that is not asked of it.
struct Dialling {
    device: Device,
}

impl SourceFixture for Dialling {
    fn connector(&self) -> &dyn Connector {
        &Tcp
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { listens: false, ..Tcp.capabilities() }
    }

    fn server_port(&self) -> u16 {
        self.device.port()
    }

    fn spec(&self, port: u16, shape: Shape) -> SourceSpec {
        spec("items", "tcp", port, &limits(shape))
    }

    fn write(&mut self, ids: Range<i64>, padding: usize) -> Result<()> {
        self.device.send(ids.map(|id| message(id, padding)));
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        self.device.clear();
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        self.device.restart();
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        self.device.kill();
        Ok(())
    }

    fn start_again(&mut self) -> Result<()> {
        self.device.revive();
        Ok(())
    }

    fn expected(&self, id: i64) -> Value {
        item(id)
    }

    fn columns(&self) -> Vec<(&'static str, DataType)> {
        columns()
    }

    fn item_bytes_max(&self) -> Option<usize> {
        Some(ITEM_BYTES_MAX)
    }

    fn not_applicable(&self) -> &'static [&'static str] {
        &[
            "what_is_acknowledged_does_not_come_again",
            "a_slow_consumer_slows_the_server",
            "a_cut_answer_is_an_error",
            "a_hanging_port_times_out_and_heals",
            "hostile_bytes_are_an_error",
            "a_network_cut_is_survived",
            "a_cut_connection_loses_nothing",
            "an_oversized_item_is_a_limit",
        ]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_of_a_device_keeps_the_contract() {
    run(&mut Dialling { device: Device::start().unwrap() }).await;
}
