//! What every test here needs: a server, a source of it, and an output that records.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use portolan_connect::Registry;
use portolan_connect::transport::SystemSecrets;
use portolan_model::clock::SystemClock;
use portolan_model::config::{self, ConnectorSet, Diagnostic, SourceSpec};
use portolan_model::source::{Environment, Output, Phase, QuarantineItem, ReadEnd, Source};
use portolan_model::{Error, Position, Result};
use portolan_testkit::servers::{COLLECTOR_PASSWORD, Postgres};

/// The server that tests share which do it no harm. Each test's thread holds it, and the last one takes it and its folder
/// down: nothing stays behind, whether tests share a process or not.
pub(crate) fn server() -> Arc<Postgres> {
    static SERVER: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
    thread_local! {
        static HELD: RefCell<Option<Arc<Postgres>>> = const { RefCell::new(None) };
    }
    HELD.with_borrow_mut(|held| {
        let start = || {
            let mut shared = SERVER.lock().unwrap();
            shared.upgrade().unwrap_or_else(|| {
                let server = Arc::new(Postgres::start().unwrap());
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

/// The configuration of one source of the database `shop`, as `collector`.
pub(crate) fn text(port: u16, options: &str) -> String {
    let password = COLLECTOR_PASSWORD;
    let mut text =
        format!("[server]\nhost = \"127.0.0.1\"\n[[source]]\nname = \"s\"\nport = {port}\nprotocol = \"postgres\"\n");
    for (key, line) in [
        ("tls", PLAIN.to_owned()),
        ("user", "user = \"collector\"".into()),
        ("password", format!("password = {{ literal = \"{password}\" }}")),
        ("database", "database = \"shop\"".into()),
    ] {
        if !options.lines().any(|option| option.trim_start().starts_with(key)) {
            text.push_str(&line);
            text.push('\n');
        }
    }
    text + options
}

pub(crate) fn problems(options: &str) -> Vec<Diagnostic> {
    config::read(&text(5432, options), &Registry).err().unwrap_or_default()
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
    pub(crate) bytes: u64,
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

    fn payload(&mut self, _bytes: &[u8]) {
        panic!("the protocol shows no payload");
    }

    fn count_bytes(&mut self, bytes: u64) {
        self.bytes += bytes;
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

    /// The values of a column of 64-bit integers.
    pub(crate) fn integers(&self, column: &str) -> Vec<i64> {
        let arrays = self.batches.iter().map(|batch| batch.column_by_name(column).unwrap());
        arrays.flat_map(|array| array.as_primitive::<Int64Type>().values().to_vec()).collect()
    }

    /// The values of a column of text.
    pub(crate) fn texts(&self, column: &str) -> Vec<Option<String>> {
        let arrays = self.batches.iter().map(|batch| batch.column_by_name(column).unwrap());
        arrays
            .flat_map(|array| {
                let array = array.as_string::<i32>();
                (0..array.len()).map(|row| array.is_valid(row).then(|| array.value(row).to_owned())).collect::<Vec<_>>()
            })
            .collect()
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
