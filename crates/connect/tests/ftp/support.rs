//! What every test here needs: a source of a server, an output that keeps what it is given, and a clock that is set.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use portolan_connect::Registry;
use portolan_connect::transport::SystemSecrets;
use portolan_model::clock::Clock;
use portolan_model::config::{self, ConnectorSet, SourceSpec};
use portolan_model::source::{Environment, Output, Phase, QuarantineItem, ReadEnd, Source};
use portolan_model::{Error, Position, Result};
use portolan_testkit::conformance::source::to_json;
use portolan_testkit::servers::{FtpServer, PureFtpd, VsFtpd};
use serde_json::Value;

pub(crate) const PLAIN: &str = "tls = { allow_plaintext = \"loopback\" }";

/// One of each kind: MLSD and LIST.
pub(crate) fn servers() -> [FtpServer; 2] {
    [PureFtpd::start().unwrap(), VsFtpd::start().unwrap()]
}

/// The configuration of one source.
pub(crate) fn text(host: &str, port: u16, keys: &str) -> String {
    let tls = if keys.contains("tls =") { "" } else { PLAIN };
    format!("[[source]]\nname = \"s\"\nhost = \"{host}\"\nport = {port}\nprotocol = \"ftp\"\n{tls}\n{keys}\n")
}

pub(crate) fn spec(host: &str, port: u16, keys: &str) -> SourceSpec {
    let text = text(host, port, keys);
    let read = config::read(&text, &Registry).unwrap_or_else(|problems| panic!("{problems:#?}"));
    read.sources.into_iter().next().unwrap()
}

/// Time that stands until it is set.
#[derive(Debug, Default)]
pub(crate) struct SetClock(AtomicI64);

impl SetClock {
    pub(crate) fn set(&self, seconds: i64) {
        self.0.store(seconds, Ordering::Relaxed);
    }
}

impl Clock for SetClock {
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn wall(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1_700_000_000 + self.0.load(Ordering::Relaxed))
    }
}

pub(crate) fn open_at(host: &str, port: u16, keys: &str, clock: Arc<SetClock>) -> Box<dyn Source> {
    let environment = Environment { clock, secrets: Arc::new(SystemSecrets::new("/")), intake: None };
    let spec = spec(host, port, keys);
    Registry.get("ftp").unwrap().open(&spec, &environment).unwrap()
}

/// A source of a server; `keys` begin with `path`.
pub(crate) fn open(server: &FtpServer, keys: &str) -> Box<dyn Source> {
    open_with_clock(server, keys, Arc::default())
}

pub(crate) fn open_with_clock(server: &FtpServer, keys: &str, clock: Arc<SetClock>) -> Box<dyn Source> {
    let address = server.address();
    open_at(&address.ip().to_string(), address.port(), &as_user(server, keys), clock)
}

/// `keys` with who may log in.
pub(crate) fn as_user(server: &FtpServer, keys: &str) -> String {
    format!("user = \"{}\"\npassword = {{ literal = \"{}\" }}\n{keys}", server.user, server.password)
}

/// Keeps everything.
#[derive(Default)]
pub(crate) struct Collected {
    pub(crate) batches: Vec<RecordBatch>,
    pub(crate) quarantine: Vec<QuarantineItem>,
    pub(crate) payload: Vec<u8>,
    /// Asks the read to end.
    pub(crate) has_enough: bool,
}

impl Collected {
    pub(crate) fn rows(&self) -> Vec<Value> {
        self.batches.iter().flat_map(|batch| to_json(batch).unwrap()).collect()
    }

    /// The texts of a column.
    pub(crate) fn texts(&self, column: &str) -> Vec<String> {
        let arrays = self.batches.iter().map(|batch| batch.column_by_name(column).unwrap().as_string::<i32>());
        arrays.flat_map(|array| (0..array.len()).map(|row| array.value(row).to_owned()).collect::<Vec<_>>()).collect()
    }

    pub(crate) fn reasons(&self) -> Vec<&'static str> {
        self.quarantine.iter().map(|item| item.reason).collect()
    }
}

#[async_trait]
impl Output for Collected {
    fn mark(&mut self, _: Phase) {}

    fn payload(&mut self, bytes: &[u8]) {
        self.payload.extend_from_slice(bytes);
    }

    fn count_bytes(&mut self, _: u64) {
        panic!("the protocol shows its payload");
    }

    fn is_enough(&self) -> bool {
        self.has_enough
    }

    async fn batch(&mut self, batch: RecordBatch) -> Result<()> {
        self.batches.push(batch);
        Ok(())
    }

    async fn quarantine(&mut self, item: QuarantineItem) -> Result<()> {
        self.quarantine.push(item);
        Ok(())
    }
}

/// Prepares and reads once.
pub(crate) async fn read(source: &mut Box<dyn Source>, from: Option<&Position>) -> Result<(Collected, ReadEnd)> {
    source.prepare().await?;
    let mut output = Collected::default();
    let end = source.read(from, &mut output).await?;
    Ok((output, end))
}

/// Reads on from `position`, and moves it.
pub(crate) async fn read_on(source: &mut Box<dyn Source>, position: &mut Option<Position>) -> Collected {
    let (output, end) = read(source, position.as_ref()).await.unwrap();
    assert!(!end.more);
    // As it is stored.
    *position = end.position.map(|position| Position::from_text(&position.to_text()).unwrap());
    output
}

/// The error of a read that must fail.
pub(crate) async fn failure(source: &mut Box<dyn Source>) -> Error {
    match read(source, None).await {
        Ok((output, _)) => panic!("{:?} instead of an error", output.rows()),
        Err(error) => {
            assert!(error.hint().is_some() && error.address().is_some() && error.source_name().is_some(), "{error:?}");
            error
        }
    }
}
