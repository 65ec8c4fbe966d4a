//! What every test here needs: a server, a source of it, and an output that records.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use portolan_connect::Registry;
use portolan_connect::transport::SystemSecrets;
use portolan_model::clock::SystemClock;
use portolan_model::config::{self, ConnectorSet, Diagnostic, SourceSpec};
use portolan_model::source::{Environment, Output, Phase, QuarantineItem, ReadEnd, Source};
use portolan_model::{Error, Position, Result};
use portolan_testkit::conformance::source::to_json;
use portolan_testkit::servers::Redis;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The server that tests share which do it no harm. Each test's thread holds it, and the last one takes it and its
/// folder down: nothing stays behind, whether tests share a process or not.
pub(crate) fn server() -> Arc<Redis> {
    static SERVER: Mutex<Weak<Redis>> = Mutex::new(Weak::new());
    thread_local! {
        static HELD: RefCell<Option<Arc<Redis>>> = const { RefCell::new(None) };
    }
    HELD.with_borrow_mut(|held| {
        let start = || {
            let mut shared = SERVER.lock().unwrap();
            shared.upgrade().unwrap_or_else(|| {
                let server = Arc::new(Redis::start().unwrap());
                *shared = Arc::downgrade(&server);
                server
            })
        };
        held.get_or_insert_with(start).clone()
    })
}

/// A name that no other test uses.
pub(crate) fn fresh(prefix: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}_{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

pub(crate) const PLAIN: &str = "tls = { allow_plaintext = \"loopback\" }";

/// The configuration of one source.
pub(crate) fn text(port: u16, options: &str) -> String {
    let mut text =
        format!("[server]\nhost = \"127.0.0.1\"\n[[source]]\nname = \"s\"\nport = {port}\nprotocol = \"redis\"\n");
    if !options.lines().any(|option| option.trim_start().starts_with("tls")) {
        text.push_str(PLAIN);
        text.push('\n');
    }
    text + options
}

pub(crate) fn problems(options: &str) -> Vec<Diagnostic> {
    config::read(&text(6379, options), &Registry).err().unwrap_or_default()
}

pub(crate) fn spec(port: u16, options: &str) -> SourceSpec {
    config::read(&text(port, options), &Registry).unwrap().sources.remove(0)
}

pub(crate) fn open_at(port: u16, options: &str) -> Box<dyn Source> {
    let environment =
        Environment { clock: Arc::new(SystemClock::new()), secrets: Arc::new(SystemSecrets::new("/")), intake: None };
    let spec = spec(port, options);
    Registry.get(&spec.protocol).unwrap().open(&spec, &environment).unwrap()
}

/// A source of the shared server.
pub(crate) fn open(options: &str) -> Box<dyn Source> {
    open_at(server().port(), options)
}

/// Records what a source says.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) batches: Vec<RecordBatch>,
    pub(crate) quarantined: Vec<QuarantineItem>,
    pub(crate) phases: Vec<Phase>,
    pub(crate) payload: Vec<u8>,
    /// Asks the read to end.
    pub(crate) has_enough: bool,
    /// Called with each batch, to interfere.
    pub(crate) interference: Option<Box<dyn FnMut(usize) -> Option<Error> + Send>>,
}

#[async_trait]
impl Output for Recorder {
    fn mark(&mut self, phase: Phase) {
        if phase != Phase::LastByte || self.phases.last() != Some(&Phase::LastByte) {
            self.phases.push(phase);
        }
    }

    fn payload(&mut self, bytes: &[u8]) {
        self.payload.extend_from_slice(bytes);
    }

    fn count_bytes(&mut self, _bytes: u64) {
        panic!("the protocol shows its payload");
    }

    fn is_enough(&self) -> bool {
        self.has_enough
    }

    async fn batch(&mut self, batch: RecordBatch) -> Result<()> {
        self.batches.push(batch);
        let count = self.batches.len();
        match self.interference.as_mut().and_then(|interfere| interfere(count)) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    async fn quarantine(&mut self, item: QuarantineItem) -> Result<()> {
        self.quarantined.push(item);
        Ok(())
    }
}

impl Recorder {
    pub(crate) fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// The rows as JSON objects without nulls.
    pub(crate) fn json(&self) -> Vec<Value> {
        self.batches.iter().flat_map(|batch| to_json(batch).unwrap()).collect()
    }

    /// The rows as JSON objects, ordered by their text.
    pub(crate) fn sorted(&self) -> Vec<Value> {
        let mut rows = self.json();
        rows.sort_by_key(Value::to_string);
        rows
    }

    /// One column of every row, as text; empty where null.
    pub(crate) fn texts(&self, column: &str) -> Vec<String> {
        let text = |row: &Value| match &row[column] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        self.json().iter().map(text).collect()
    }

    /// What went to the quarantine: reasons and contents.
    pub(crate) fn reasons(&self) -> Vec<(&'static str, &str)> {
        self.quarantined.iter().map(|item| (item.reason, item.content.as_str())).collect()
    }
}

/// Commands as words, sent at once.
pub(crate) fn send(server: &Redis, commands: &[&str]) {
    for command in commands {
        server.command(command).unwrap_or_else(|error| panic!("{command}: {error}"));
    }
}

/// Prepares and reads once.
pub(crate) async fn read(source: &mut Box<dyn Source>, from: Option<&Position>) -> Result<(Recorder, ReadEnd)> {
    source.prepare().await?;
    let mut recorder = Recorder::default();
    let end = source.read(from, &mut recorder).await?;
    Ok((recorder, end))
}

/// The error of a read that must fail.
pub(crate) async fn failure(source: &mut Box<dyn Source>) -> Error {
    match read(source, None).await {
        Ok((recorder, _)) => panic!("{} rows instead of an error", recorder.rows()),
        Err(error) => error,
    }
}

/// How a server greets in RESP3.
pub(crate) const HELLO: &[u8] = b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n";

/// A server that answers each piece it receives with the next of `answers`.
pub(crate) async fn scripted(answers: Vec<Vec<u8>>) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 4096];
        for answer in answers {
            let received = socket.read(&mut buffer).await.unwrap();
            assert!(received > 0, "the client left early");
            // The client may have given up by then.
            let _ = socket.write_all(&answer).await;
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
    });
    port
}
