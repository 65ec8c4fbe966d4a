//! Scripted sources and what a test looks at.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::Int64Array;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use jiff::Timestamp;
use portolan_model::check::Checker;
use portolan_model::clock::Clock;
use portolan_model::config::{
    CheckSpec, ConsistencySpec, Diagnostic, OptionTable, RoundSpec, SecretReference, SourceSpec, TlsSpec,
};
use portolan_model::source::{
    Capabilities, Connector, Environment, Output, Phase, Probe, QuarantineItem, ReadEnd, ReleaseKind, Secret, Secrets,
    SnapshotGroup, Source,
};
use portolan_model::{Error, ErrorKind, Position, Result, RoundName, SourceName};
use portolan_rounds::coordinator::{Event, Observer, RoundRunner, Shared};
use portolan_rounds::slot::Slot;
use portolan_testkit::memory::MemoryCatalog;

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// What a source does in one read.
#[derive(Clone)]
pub(crate) enum Step {
    Rows(i64),
    More(i64),
    /// Fails after rows and one item for the quarantine.
    RowsThenFail(i64, ErrorKind),
    /// Rows, and one item for the quarantine.
    Quarantine(i64),
    Fail(ErrorKind),
    /// Fails before its release.
    FailAtGate,
    /// Fails and asks to be left alone.
    Wait(Duration),
    Hang,
    /// Begins to answer, and does not end.
    Begin,
    Panic,
    Slow(Duration, i64),
    /// A row after each pause until the round has enough; there is always more.
    Endless(Duration),
    Unchanged,
    /// A row, out of the snapshot that it names after it has met the others.
    Snapshot(Option<&'static str>),
}

/// tokio's paused clock, and a wall clock that somebody may set.
pub(crate) struct TestClock {
    begun: tokio::time::Instant,
    wall_offset_s: AtomicI64,
}

impl TestClock {
    pub(crate) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Sets the wall clock this far off.
    pub(crate) fn set_wall(&self, offset_s: i64) {
        self.wall_offset_s.store(offset_s, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn monotonic(&self) -> Duration {
        self.now()
    }
    fn wall(&self) -> Timestamp {
        let offset_s = self.wall_offset_s.load(Ordering::SeqCst);
        Timestamp::UNIX_EPOCH + self.now() + jiff::SignedDuration::from_secs(offset_s)
    }
}

#[derive(Default)]
struct Script {
    steps: Mutex<Vec<Step>>,
    reads_from: Mutex<Vec<Option<i64>>>,
    /// When each read began and ended.
    reads_at: Mutex<Vec<(Duration, Duration)>>,
    /// What the next connections take.
    connects_in: Mutex<Vec<Duration>>,
    acknowledged: Mutex<Vec<i64>>,
    unreachable: AtomicBool,
    deaf: AtomicBool,
    refuses_acknowledgements: AtomicBool,
    panics_on_acknowledge: AtomicBool,
    complains: AtomicBool,
    probes: AtomicI64,
}

struct ScriptedSource(Arc<Script>, Arc<TestClock>, Capabilities);

/// What a scripted source can do.
pub(crate) const CAPABILITIES: Capabilities = Capabilities {
    resume: true,
    acknowledge: true,
    reread: true,
    payload: false,
    push: false,
    listens: false,
    tls: false,
    release: ReleaseKind::Command,
};

/// So many rows after an identifier.
fn ids(after: i64, rows: i64) -> RecordBatch {
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]));
    let ids = Int64Array::from_iter_values(after + 1..=after + rows);
    RecordBatch::try_new(schema, vec![Arc::new(ids)]).unwrap()
}

pub(crate) fn value(position: Option<&Position>) -> Option<i64> {
    position.and_then(|position| position.value.as_i64())
}

#[async_trait]
impl Source for ScriptedSource {
    fn capabilities(&self) -> Capabilities {
        self.2
    }

    async fn prepare(&mut self) -> Result<()> {
        self.0.probes.fetch_add(1, Ordering::SeqCst);
        let pause = self.0.connects_in.lock().unwrap().pop();
        tokio::time::sleep(pause.unwrap_or_default()).await;
        if self.0.unreachable.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Unreachable, "connect", "connection refused"));
        }
        Ok(())
    }

    async fn read(&mut self, from: Option<&Position>, output: &mut dyn Output) -> Result<ReadEnd> {
        self.0.reads_from.lock().unwrap().push(value(from));
        let step = {
            let mut steps = self.0.steps.lock().unwrap();
            if steps.is_empty() { Step::Rows(0) } else { steps.remove(0) }
        };
        let begun = self.1.now();
        if let Step::FailAtGate = step {
            return Err(Error::new(ErrorKind::Disconnected, "write request", "scripted"));
        }
        output.released(None).await;
        let rows = match step {
            Step::FailAtGate => 0,
            Step::Fail(kind) => return Err(Error::new(kind, "read", "scripted")),
            Step::Wait(delay) => return Err(Error::new(ErrorKind::Busy, "read", "scripted").with_retry_after(delay)),
            Step::Hang => std::future::pending().await,
            Step::Begin => {
                output.mark(Phase::FirstByte);
                std::future::pending().await
            }
            Step::Panic => panic!("scripted"),
            Step::Slow(pause, rows) => {
                tokio::time::sleep(pause).await;
                rows
            }
            Step::Unchanged => 0,
            Step::Snapshot(_) => 1,
            Step::Endless(pause) => {
                let mut rows = 0;
                while rows == 0 || !output.is_enough() {
                    tokio::time::sleep(pause).await;
                    output.batch(ids(value(from).unwrap_or(0) + rows, 1)).await?;
                    rows += 1;
                }
                rows
            }
            Step::Rows(rows) | Step::More(rows) | Step::Quarantine(rows) | Step::RowsThenFail(rows, _) => rows,
        };
        output.mark(Phase::FirstByte);
        let mut snapshot = None;
        if let Step::Snapshot(name) = step {
            assert!(output.is_snapshot());
            output.meet(name.unwrap_or_default().to_owned()).await;
            snapshot = name.map(str::to_owned);
        }
        if matches!(step, Step::Unchanged) {
            return Ok(ReadEnd { position: from.cloned(), unchanged: true, ..ReadEnd::default() });
        }
        let start = value(from).unwrap_or(0);
        if !matches!(step, Step::Endless(_)) {
            output.batch(ids(start, rows)).await?;
        }
        if matches!(step, Step::Quarantine(_) | Step::RowsThenFail(..)) {
            let (content, detail) = (String::new(), String::new());
            let item = QuarantineItem { reason: "scripted", column: None, row: start.into(), content, detail };
            output.quarantine(item).await?;
        }
        if let Step::RowsThenFail(_, kind) = step {
            return Err(Error::new(kind, "read", "scripted"));
        }
        let position = Some(Position::new(1, (start + rows).into()));
        self.0.reads_at.lock().unwrap().push((begun, self.1.now()));
        let more = matches!(step, Step::More(_) | Step::Endless(_));
        Ok(ReadEnd { position, more, snapshot, ..ReadEnd::default() })
    }

    fn complaint(&self) -> Option<Error> {
        let complains = self.0.complains.load(Ordering::SeqCst);
        complains.then(|| Error::new(ErrorKind::Limit, "take message", "senders wait"))
    }

    async fn acknowledge(&mut self, position: &Position) -> Result<()> {
        if self.0.panics_on_acknowledge.load(Ordering::SeqCst) {
            panic!("scripted");
        }
        if self.0.deaf.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if self.0.refuses_acknowledgements.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Permission, "acknowledge", "scripted"));
        }
        self.0.acknowledged.lock().unwrap().push(value(Some(position)).unwrap());
        Ok(())
    }

    async fn probe(&mut self) -> Result<Probe> {
        Ok(Probe::default())
    }

    async fn close(&mut self) {}
}

struct ScriptedConnector(Arc<Script>, Arc<TestClock>, Capabilities);

impl Connector for ScriptedConnector {
    fn protocol(&self) -> &'static str {
        "scripted"
    }
    fn summary(&self) -> &'static str {
        "does what the test says"
    }
    fn default_port(&self) -> Option<u16> {
        None
    }
    fn capabilities(&self) -> Capabilities {
        self.2
    }
    fn option_schema(&self) -> schemars::Schema {
        schemars::Schema::default()
    }
    fn check(&self, _: &SourceSpec) -> Vec<Diagnostic> {
        Vec::new()
    }
    fn snapshot_group(&self, spec: &SourceSpec) -> Option<SnapshotGroup> {
        // What acknowledges is no database.
        (!self.2.acknowledge).then(|| SnapshotGroup::new("scripted", &spec.host, spec.port, None))
    }
    fn open(&self, _: &SourceSpec, _: &Environment) -> Result<Box<dyn Source>> {
        Ok(Box::new(ScriptedSource(self.0.clone(), self.1.clone(), self.2)))
    }
}

struct NoSecrets;

impl Secrets for NoSecrets {
    fn resolve(&self, _: &SecretReference) -> Result<Secret> {
        Err(Error::new(ErrorKind::Configuration, "read secret", "there are none here"))
    }
}

struct Silent;

impl Observer for Silent {
    fn event(&self, _: Event) {}
}

/// Everything a test looks at.
pub(crate) struct World {
    pub(crate) catalog: MemoryCatalog,
    pub(crate) clock: Arc<TestClock>,
    scripts: Mutex<BTreeMap<String, Arc<Script>>>,
    pub(crate) checks: Mutex<Vec<CheckSpec>>,
    pub(crate) checker: Mutex<Option<Arc<dyn Checker>>>,
}

impl World {
    pub(crate) fn new() -> Self {
        let clock = Arc::new(TestClock { begun: tokio::time::Instant::now(), wall_offset_s: AtomicI64::new(0) });
        Self {
            catalog: MemoryCatalog::default(),
            clock,
            scripts: Mutex::default(),
            checks: Mutex::default(),
            checker: Mutex::default(),
        }
    }

    pub(crate) fn runner(&self, sources: &[(&str, bool, Vec<Step>)]) -> RoundRunner {
        self.runner_with(ConsistencySpec::default(), CAPABILITIES, sources)
    }

    /// A runner of a round that promises something.
    pub(crate) fn runner_with(
        &self,
        consistency: ConsistencySpec,
        capabilities: Capabilities,
        sources: &[(&str, bool, Vec<Step>)],
    ) -> RoundRunner {
        let environment = Environment { clock: self.clock.clone(), secrets: Arc::new(NoSecrets), intake: None };
        let slots = sources
            .iter()
            .map(|(name, required, steps)| {
                let script = Arc::new(Script { steps: Mutex::new(steps.clone()), ..Script::default() });
                self.scripts.lock().unwrap().insert((*name).to_owned(), script.clone());
                let spec = SourceSpec {
                    name: SourceName::new(name).unwrap(),
                    host: "127.0.0.1".into(),
                    port: 1,
                    protocol: "scripted".into(),
                    tls: TlsSpec::default(),
                    required: *required,
                    mode: None,
                    key: Vec::new(),
                    key_memory: 0,
                    event_time: None,
                    columns: BTreeMap::new(),
                    connect_timeout: Duration::from_secs(5),
                    idle_timeout: Duration::from_secs(10),
                    options: OptionTable::default(),
                    span: None,
                };
                let connector = ScriptedConnector(script, self.clock.clone(), capabilities);
                Slot::open(&spec, &connector, &environment, None).unwrap()
            })
            .collect();
        let spec = RoundSpec {
            name: RoundName::new("test").unwrap(),
            sources: sources.iter().map(|(name, ..)| SourceName::new(name).unwrap()).collect(),
            every: Duration::from_secs(60),
            deadline: DEADLINE,
            consistency,
            checks: self.checks.lock().unwrap().clone(),
        };
        let shared = Shared {
            catalog: Arc::new(self.catalog.clone()),
            checker: self.checker.lock().unwrap().clone(),
            clock: self.clock.clone(),
            observer: Arc::new(Silent),
            jitter: || 1.0,
        };
        RoundRunner::new(spec, slots, shared)
    }

    fn script(&self, source: &str) -> Arc<Script> {
        self.scripts.lock().unwrap()[source].clone()
    }
    pub(crate) fn acknowledged(&self, source: &str) -> Vec<i64> {
        self.script(source).acknowledged.lock().unwrap().clone()
    }
    pub(crate) fn reads_from(&self, source: &str) -> Vec<Option<i64>> {
        self.script(source).reads_from.lock().unwrap().clone()
    }
    pub(crate) fn reads_at(&self, source: &str) -> Vec<(Duration, Duration)> {
        self.script(source).reads_at.lock().unwrap().clone()
    }
    /// What connecting takes, once.
    pub(crate) fn set_connects_in(&self, source: &str, pause: Duration) {
        self.script(source).connects_in.lock().unwrap().push(pause);
    }
    pub(crate) fn set_unreachable(&self, source: &str, is_unreachable: bool) {
        self.script(source).unreachable.store(is_unreachable, Ordering::SeqCst);
    }
    pub(crate) fn set_deaf(&self, source: &str, is_deaf: bool) {
        self.script(source).deaf.store(is_deaf, Ordering::SeqCst);
    }
    pub(crate) fn set_refuses_acknowledgements(&self, source: &str, refuses: bool) {
        self.script(source).refuses_acknowledgements.store(refuses, Ordering::SeqCst);
    }
    pub(crate) fn set_panics_on_acknowledge(&self, source: &str, panics: bool) {
        self.script(source).panics_on_acknowledge.store(panics, Ordering::SeqCst);
    }
    pub(crate) fn set_complains(&self, source: &str, complains: bool) {
        self.script(source).complains.store(complains, Ordering::SeqCst);
    }
    pub(crate) fn probes(&self, source: &str) -> i64 {
        self.script(source).probes.load(Ordering::SeqCst)
    }
}
