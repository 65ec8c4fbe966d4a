//! What a check works with: the fixture, a fault proxy in front of its server, and sources opened through it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use portolan_model::clock::SystemClock;
use portolan_model::config::{SecretReference, SourceSpec};
use portolan_model::error::{Error, ErrorKind, Retry};
use portolan_model::position::Position;
use portolan_model::source::{Capabilities, Environment, Secret, Secrets, Source};
use serde_json::Value;

use super::{Recorder, Shape, SourceFixture};
use crate::ledger::Ledger;
use crate::proxy::FaultProxy;

/// The most reads that may follow each other because a limit per round was reached.
const READS_MAX: usize = 10_000;
/// The pause before a source that is sent to is read again.
const PUSH_PAUSE: Duration = Duration::from_millis(10);
/// How often a transient failure may be tried again after the cause has gone.
const RETRIES_MAX: usize = 5;

/// A fixture with a fault proxy in front of its server, on an empty collection.
pub struct Harness<'a> {
    /// The connector's world.
    pub fixture: &'a mut dyn SourceFixture,
    /// In front of the server.
    pub proxy: FaultProxy,
    /// Bounds every wait.
    pub patience: Duration,
    /// Where sources keep what cannot be read again.
    intake: tempfile::TempDir,
}

impl<'a> Harness<'a> {
    pub(super) fn new(fixture: &'a mut dyn SourceFixture, patience: Duration) -> Result<Self> {
        fixture.clear().context("empty the collection")?;
        let proxy = fixture.proxy()?;
        let intake = tempfile::Builder::new().prefix("portolan-intake-").tempdir()?;
        Ok(Self { fixture, proxy, patience, intake })
    }

    /// What the fixture's sources can do.
    pub fn capabilities(&self) -> Capabilities {
        self.fixture.capabilities()
    }

    /// The shape that shows most of the connector: incremental where it can.
    pub fn shape(&self) -> Shape {
        if self.capabilities().resume { Shape::Incremental } else { Shape::Whole }
    }

    /// Opens a source through the proxy.
    pub fn open(&self) -> Result<Box<dyn Source>> {
        self.open_as(self.fixture.spec(self.proxy.port(), self.shape()))
    }

    /// Opens a source as specified.
    pub fn open_as(&self, spec: SourceSpec) -> Result<Box<dyn Source>> {
        let environment = Environment { intake: Some(self.intake.path().to_owned()), ..environment() };
        self.fixture.connector().open(&spec, &environment).map_err(|error| anyhow!("open failed: {error:?}"))
    }

    /// Prepares and reads once.
    pub async fn read_once(
        &self,
        source: &mut dyn Source,
        from: Option<&Position>,
        output: &mut Recorder,
    ) -> Result<Outcome> {
        let work = async {
            source.prepare().await?;
            source.read(from, output).await
        };
        match tokio::time::timeout(self.patience, work).await {
            Ok(Ok(end)) => Ok(Outcome::Ended(end)),
            Ok(Err(error)) => Ok(Outcome::Failed(error)),
            Err(_) => bail!("prepare and read did not end within {:?}", self.patience),
        }
    }

    /// Reads to the end of what the server has, following `more`; from a source that is sent to, until `count` rows have
    /// come, for they may be on their way.
    pub async fn read_all(&self, source: &mut dyn Source, from: Option<&Position>, count: usize) -> Result<Reading> {
        let mut output = Recorder::default();
        let mut position = from.cloned();
        let start = Instant::now();
        for _ in 0..READS_MAX {
            let before = output.rows.len();
            let end = match self.read_once(source, position.as_ref(), &mut output).await? {
                Outcome::Ended(end) => end,
                Outcome::Failed(error) => bail!("the read failed: {error:?}"),
            };
            if end.unchanged {
                let rows = output.rows.len() - before;
                ensure!(rows == 0, "the read says `unchanged` and yielded {rows} rows");
            }
            if end.position.is_some() {
                position = end.position;
            }
            let is_awaited = self.capabilities().push && output.rows.len() < count && start.elapsed() < self.patience;
            if !end.more && !is_awaited {
                return Ok(Reading { output, position });
            }
            ensure!(start.elapsed() < self.patience, "there was still more after {:?}", self.patience);
            if !end.more {
                tokio::time::sleep(PUSH_PAUSE).await;
            }
        }
        bail!("{READS_MAX} reads in a row said that there is more")
    }

    /// The same after a fault has gone: transient failures are tried again a few times.
    pub async fn read_healed(&self, source: &mut dyn Source, from: Option<&Position>, count: usize) -> Result<Reading> {
        for _ in 0..RETRIES_MAX {
            let mut output = Recorder::default();
            match self.read_once(source, from, &mut output).await? {
                Outcome::Ended(end) if !end.more && !self.capabilities().push => {
                    return Ok(Reading { output, position: end.position });
                }
                Outcome::Ended(_) => return self.read_all(source, from, count).await,
                Outcome::Failed(error) => {
                    ensure!(
                        error.retry() == Retry::Transient,
                        "a failure that passes by itself is not transient: {error:?}"
                    );
                }
            }
        }
        bail!("the source still fails after the fault has gone, {RETRIES_MAX} times in a row")
    }

    /// Checks that `rows` are exactly the items of these numbers, each once and as expected.
    pub fn expect_items(&self, rows: &[Value], ids: impl IntoIterator<Item = i64>) -> Result<()> {
        let mut ledger = Ledger::default();
        for id in ids {
            ledger.wrote("items", id, self.fixture.expected(id));
        }
        let difference = ledger.compare("items", "id", rows);
        ensure!(difference.is_empty(), "rows differ from what was written: {difference}");
        Ok(())
    }

    /// Checks that an error says where it happened and what to do.
    pub fn expect_complete(&self, error: &Error) -> Result<()> {
        let port = self.proxy.port().to_string();
        ensure!(
            error.address().is_some_and(|address| address.contains(&port)),
            "the error does not carry the address with port {port}: {error:?}"
        );
        ensure!(error.hint().is_some(), "the error has no hint: {error:?}");
        ensure!(error.kind() != ErrorKind::Internal, "the error blames the program: {error:?}");
        Ok(())
    }
}

/// How a read ended.
#[derive(Debug)]
pub enum Outcome {
    /// It reached its end.
    Ended(portolan_model::source::ReadEnd),
    /// It failed.
    Failed(Error),
}

impl Outcome {
    /// The error.
    ///
    /// # Errors
    /// It succeeded, though `why` it should not have.
    pub fn failure(self, why: &str) -> Result<Error> {
        match self {
            Self::Failed(error) => Ok(error),
            Self::Ended(end) => bail!("the read succeeded though {why}: {end:?}"),
        }
    }
}

/// What was read to the end.
#[derive(Debug)]
pub struct Reading {
    /// What came.
    pub output: Recorder,
    /// Where to continue.
    pub position: Option<Position>,
}

/// The machine's clock, and secrets from the test itself: a variable's name is taken as the secret.
pub fn environment() -> Environment {
    Environment { clock: Arc::new(SystemClock::new()), secrets: Arc::new(TestSecrets), intake: None }
}

struct TestSecrets;

impl Secrets for TestSecrets {
    fn resolve(&self, reference: &SecretReference) -> portolan_model::Result<Secret> {
        match reference {
            SecretReference::Environment(text) | SecretReference::Literal(text) => Ok(Secret::new(text.as_str())),
            SecretReference::File(path) => {
                std::fs::read_to_string(path).map(|text| Secret::new(text.trim_end_matches('\n'))).map_err(|error| {
                    Error::new(ErrorKind::Configuration, "read secret", format!("file {path:?} is not readable"))
                        .with_cause(error)
                })
            }
        }
    }
}
