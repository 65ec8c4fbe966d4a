//! A small source that is sent to, sound or broken in one way: what its sender is told is safe stays in memory that all
//! sources of a fixture share, as another's would on disk.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result as TestResult;
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::DataType;
use async_trait::async_trait;
use portolan_model::config::{Diagnostic, SourceSpec};
use portolan_model::error::{Error, ErrorKind, Result};
use portolan_model::position::Position;
use portolan_model::source::{
    Capabilities, Connector, Environment, Output, Phase, Probe, QuarantineItem, ReadEnd, ReleaseKind, Source,
};
use portolan_testkit::conformance::source::{STORED_BYTES_MAX, Shape, SourceFixture, spec};
use portolan_testkit::process::free_port;
use portolan_testkit::senders::AcknowledgedSender;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const BATCH_ROWS: usize = 500;
const ITEM_BYTES_MAX: usize = 4_096;
const PAUSE: Duration = Duration::from_millis(5);
const BIND_ATTEMPTS: u32 = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PushDefect {
    None,
    StoresWithoutLimit,
    TakesCutForWhole,
    DropsOversized,
}

/// What has arrived and is acknowledged.
#[derive(Default)]
struct Store {
    messages: Vec<String>,
    /// How many of the first ones are committed, and gone.
    committed: usize,
    bytes: usize,
    last_number: usize,
}

type SharedStore = Arc<Mutex<Store>>;

const CAPABILITIES: Capabilities = Capabilities {
    resume: true,
    acknowledge: true,
    reread: true,
    payload: true,
    push: true,
    listens: true,
    tls: false,
    release: ReleaseKind::Arrived,
};

pub(crate) struct PushFixture {
    port: u16,
    sender: AcknowledgedSender,
    runs: AtomicU32,
    connector: PushConnector,
}

impl PushFixture {
    pub(crate) fn start(defect: PushDefect) -> Self {
        let connector = PushConnector { defect, store: Mutex::default() };
        Self { port: free_port().unwrap(), sender: AcknowledgedSender::start(), runs: AtomicU32::new(0), connector }
    }
}

impl SourceFixture for PushFixture {
    fn connector(&self) -> &dyn Connector {
        &self.connector
    }

    fn server_port(&self) -> u16 {
        self.port
    }

    fn spec(&self, port: u16, shape: Shape) -> SourceSpec {
        self.sender.set_port(port);
        spec(
            "items",
            "push",
            self.port,
            match shape {
                Shape::SmallStore => "small_store = true",
                Shape::SmallItems => "small_items = true",
                Shape::Whole | Shape::Incremental => "",
            },
        )
    }

    fn write(&mut self, ids: Range<i64>, padding: usize) -> TestResult<()> {
        let padding = "p".repeat(padding);
        let item = |id| json!({ "id": id, "name": format!("item {id}"), "padding": padding }).to_string();
        self.sender.send(ids.map(item));
        Ok(())
    }

    fn clear(&mut self) -> TestResult<()> {
        *self.connector.store.lock().unwrap() = SharedStore::default();
        self.sender.begin_as(&format!("sender-{}", self.runs.fetch_add(1, Ordering::Relaxed)));
        Ok(())
    }

    fn restart(&mut self) -> TestResult<()> {
        self.sender.reconnect();
        Ok(())
    }

    fn kill(&mut self) -> TestResult<()> {
        self.sender.kill();
        Ok(())
    }

    fn start_again(&mut self) -> TestResult<()> {
        self.sender.revive();
        Ok(())
    }

    fn expected(&self, id: i64) -> Value {
        json!({ "id": id, "name": format!("item {id}") })
    }

    fn columns(&self) -> Vec<(&'static str, DataType)> {
        vec![("id", DataType::Int64), ("name", DataType::Utf8)]
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

struct PushConnector {
    defect: PushDefect,
    store: Mutex<SharedStore>,
}

impl Connector for PushConnector {
    fn protocol(&self) -> &'static str {
        "push"
    }

    fn summary(&self) -> &'static str {
        "is sent to"
    }

    fn default_port(&self) -> Option<u16> {
        None
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn option_schema(&self) -> schemars::Schema {
        schemars::json_schema!({ "type": "object" })
    }

    fn check(&self, _: &SourceSpec) -> Vec<Diagnostic> {
        Vec::new()
    }

    fn open(&self, spec: &SourceSpec, _: &Environment) -> Result<Box<dyn Source>> {
        let has = |option| spec.options.keys().any(|(key, _)| key == option);
        let is_limited = has("small_store") && self.defect != PushDefect::StoresWithoutLimit;
        Ok(Box::new(PushSource {
            defect: self.defect,
            port: spec.port,
            bytes_max: if is_limited { STORED_BYTES_MAX as usize } else { usize::MAX },
            item_bytes_max: if has("small_items") { ITEM_BYTES_MAX } else { usize::MAX },
            store: Arc::clone(&self.store.lock().unwrap()),
            server: JoinSet::new(),
        }))
    }
}

struct PushSource {
    defect: PushDefect,
    port: u16,
    bytes_max: usize,
    item_bytes_max: usize,
    store: SharedStore,
    server: JoinSet<()>,
}

/// Takes what one sender sends, as far as there is room.
async fn serve(stream: TcpStream, store: SharedStore, bytes_max: usize, defect: PushDefect) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = String::new();
    reader.read_line(&mut line).await?;
    let last = store.lock().unwrap().last_number;
    writer.write_all(format!("OK {last}\n").as_bytes()).await?;
    loop {
        while store.lock().unwrap().bytes >= bytes_max {
            tokio::time::sleep(PAUSE).await;
        }
        line.clear();
        let count = reader.read_line(&mut line).await?;
        if count == 0 || (!line.ends_with('\n') && defect != PushDefect::TakesCutForWhole) {
            return Ok(());
        }
        let Some((number, message)) = line.trim_end().split_once(' ') else { return Ok(()) };
        let number = number.parse().unwrap_or(0);
        {
            let mut store = store.lock().unwrap();
            if number == store.last_number + 1 {
                store.last_number = number;
                store.bytes += message.len();
                store.messages.push(message.to_owned());
            }
        }
        if reader.buffer().is_empty() || number.is_multiple_of(100) {
            writer.write_all(format!("ACK {number}\n").as_bytes()).await?;
        }
    }
}

impl PushSource {
    async fn start(&mut self) -> Result<()> {
        while self.server.try_join_next().is_some() {}
        if !self.server.is_empty() {
            return Ok(());
        }
        let unreachable = |error| {
            Error::new(ErrorKind::Unreachable, "listen", "the port is taken")
                .with_address(format!("127.0.0.1:{}", self.port))
                .with_hint("look who has it")
                .with_cause(error)
        };
        let mut attempts = 0;
        let listener = loop {
            attempts += 1;
            match TcpListener::bind(("127.0.0.1", self.port)).await {
                // The source before this one may be about to let go of it.
                Err(_) if attempts < BIND_ATTEMPTS => tokio::time::sleep(PAUSE).await,
                bound => break bound.map_err(unreachable)?,
            }
        };
        let (store, bytes_max, defect) = (Arc::clone(&self.store), self.bytes_max, self.defect);
        self.server.spawn(async move {
            // One sender; a later connection replaces the one before.
            let mut connection = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connection.shutdown().await;
                let store = Arc::clone(&store);
                connection.spawn(async move {
                    let _ = serve(stream, store, bytes_max, defect).await;
                });
            }
        });
        Ok(())
    }

    async fn give(&self, messages: &[String], output: &mut dyn Output) -> Result<()> {
        let (mut ids, mut names) = (Vec::new(), Vec::new());
        for message in messages {
            output.payload(message.as_bytes());
            let item: Value = serde_json::from_str(message).unwrap_or_default();
            match item["id"].as_i64() {
                Some(id) if message.len() <= self.item_bytes_max => {
                    ids.push(id);
                    names.push(item["name"].as_str().unwrap_or_default().to_owned());
                }
                _ if self.defect == PushDefect::DropsOversized => {}
                _ => {
                    let (content, detail) = (message.chars().take(64).collect(), "it does not fit".to_owned());
                    let item = QuarantineItem { reason: "item", column: None, row: Value::Null, content, detail };
                    output.quarantine(item).await?;
                }
            }
        }
        let columns: [(&str, ArrayRef); 2] =
            [("id", Arc::new(Int64Array::from(ids))), ("name", Arc::new(StringArray::from(names)))];
        let batch = RecordBatch::try_from_iter(columns)
            .map_err(|error| Error::new(ErrorKind::Internal, "build batch", error.to_string()))?;
        output.batch(batch).await
    }
}

#[async_trait]
impl Source for PushSource {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn prepare(&mut self) -> Result<()> {
        self.start().await
    }

    async fn read(&mut self, from: Option<&Position>, output: &mut dyn Output) -> Result<ReadEnd> {
        self.start().await?;
        output.released(None).await;
        output.mark(Phase::FirstByte);
        let from = from.and_then(|position| position.value.as_u64()).unwrap_or(0) as usize;
        let (messages, until) = {
            let store = self.store.lock().unwrap();
            let from = from.max(store.committed);
            (store.messages[from - store.committed..].to_vec(), store.committed + store.messages.len())
        };
        let mut place = until - messages.len();
        for batch in messages.chunks(BATCH_ROWS) {
            self.give(batch, output).await?;
            place += batch.len();
            if output.is_enough() {
                break;
            }
        }
        output.mark(Phase::LastByte);
        let position = Some(Position::new(1, json!(place)));
        Ok(ReadEnd { position, more: place < until, ..ReadEnd::default() })
    }

    fn complaint(&self) -> Option<Error> {
        let is_full = self.store.lock().unwrap().bytes >= self.bytes_max;
        is_full.then(|| Error::new(ErrorKind::Limit, "store message", "there is no room").with_hint("read"))
    }

    async fn acknowledge(&mut self, position: &Position) -> Result<()> {
        let mut store = self.store.lock().unwrap();
        let place = position.value.as_u64().unwrap_or(0) as usize;
        let count = place.saturating_sub(store.committed).min(store.messages.len());
        let bytes: usize = store.messages.drain(..count).map(|message| message.len()).sum();
        store.bytes -= bytes;
        store.committed += count;
        Ok(())
    }

    async fn probe(&mut self) -> Result<Probe> {
        self.start().await?;
        Ok(Probe { facts: vec![("listens on".into(), self.port.to_string())], ..Probe::default() })
    }

    async fn close(&mut self) {
        self.server.shutdown().await;
    }
}
