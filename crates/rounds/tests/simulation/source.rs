//! Sources that read the model servers, over a network and at servers that fail.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::Int64Array;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use portolan_model::catalog::WriteMode;
use portolan_model::clock::Clock;
use portolan_model::config::{Diagnostic, OptionTable, SecretReference, SourceSpec, TlsSpec};
use portolan_model::source::{
    Capabilities, Connector, Environment, Held, Output, Phase, Probe, QuarantineItem, ReadEnd, ReleaseKind, Secret,
    Secrets, SnapshotGroup, Source,
};
use portolan_model::{Error, ErrorKind, Position, Result, SourceName};
use portolan_rounds::output::hex;
use portolan_rounds::slot::Slot;
use sha2::{Digest, Sha256};

use crate::plan::{Break, DEADLINE, Kind};
use crate::world::{ReadLog, SimulatedClock, VALUE_BASE, World};

/// What a connector says that panics as planned.
pub(crate) const PLANNED_PANIC: &str = "a connector that panics";
/// Items of one page of a log.
const PAGE: i64 = 7;

/// The name of a server's source.
pub(crate) fn name(server: usize) -> SourceName {
    SourceName::new(&format!("s{server}")).unwrap()
}

/// The number that a position stands for.
pub(crate) fn number(position: Option<&Position>) -> Option<i64> {
    position.and_then(|position| position.value.as_i64())
}

/// A slot that reads `server`.
pub(crate) fn slot(world: &Arc<World>, server: usize) -> Slot {
    let kind = world.plan.servers[server].kind;
    let spec = SourceSpec {
        name: name(server),
        host: "127.0.0.1".into(),
        port: 1,
        protocol: "model".into(),
        tls: TlsSpec::default(),
        required: world.plan.servers[server].required,
        mode: Some(if kind == Kind::Value { WriteMode::Replace } else { WriteMode::Append }),
        key: if kind == Kind::Queue { vec!["id".into()] } else { Vec::new() },
        key_memory: u64::MAX,
        event_time: None,
        columns: BTreeMap::new(),
        connect_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(10),
        options: OptionTable::default(),
        span: None,
    };
    let environment = Environment { clock: world.clock.clone(), secrets: Arc::new(NoSecrets), intake: None };
    Slot::open(&spec, &ModelConnector { world: world.clone(), server }, &environment, None).unwrap()
}

struct ModelConnector {
    world: Arc<World>,
    server: usize,
}

struct ModelSource {
    world: Arc<World>,
    server: usize,
    is_connected: bool,
}

/// A request that waits for its release.
struct Request {
    clock: Arc<SimulatedClock>,
    left_at: Mutex<Option<Duration>>,
}

impl Held for Request {
    fn release(&self) {
        *self.left_at.lock().unwrap() = Some(self.clock.monotonic());
    }
}

impl ModelSource {
    fn kind(&self) -> Kind {
        self.world.plan.servers[self.server].kind
    }

    fn latency_ms(&self) -> u64 {
        self.world.plan.servers[self.server].latency_ms
    }

    fn faults(&self) -> u32 {
        self.world.plan.servers[self.server].faults
    }

    /// A step that may fail in one of several ways, or take long.
    async fn step(&mut self, operation: &'static str) -> Result<()> {
        if !self.world.fails(self.faults()) {
            return Ok(());
        }
        let error = match self.world.below(8) {
            0 => std::future::pending().await,
            1 => {
                self.world.pause(2 * DEADLINE.as_millis() as u64).await;
                return Ok(());
            }
            2 => std::panic::panic_any(PLANNED_PANIC),
            3 => Error::new(ErrorKind::Busy, operation, "come back later")
                .with_retry_after(Duration::from_millis(self.world.below(50_000))),
            4 => Error::new(ErrorKind::Server, operation, "the server says no"),
            5 => Error::new(ErrorKind::Data, operation, "not readable"),
            _ => Error::new(ErrorKind::Disconnected, operation, "the connection ended"),
        };
        self.is_connected = false;
        Err(error)
    }

    /// The server acts now: what it has.
    fn act(&self, read: &str) -> i64 {
        let now = self.act_at(read);
        self.world.content(self.server, now)
    }

    /// The server acts now.
    fn act_at(&self, read: &str) -> Duration {
        let now = self.world.clock.monotonic();
        self.world.known.lock().unwrap().reads.get_mut(read).unwrap().acts.push(now);
        now
    }

    /// Opens a snapshot and takes that of the first one over: the instant whose data it shows, and its name.
    async fn open_snapshot(&mut self, read: &str, output: &mut dyn Output) -> Result<(Duration, Option<String>)> {
        self.world.pause(self.latency_ms()).await;
        let own = self.act_at(read);
        self.world.pause(self.latency_ms()).await;
        self.step("open snapshot").await?;
        output.mark(Phase::FirstByte);
        let meeting = output.meet(own.as_nanos().to_string()).await;
        let name = meeting.word(meeting.leader()).unwrap_or_default().to_owned();
        let mut shown = own;
        if meeting.own != meeting.leader() {
            output.mark(Phase::FirstByte);
            self.world.pause(self.latency_ms()).await;
            self.step("take snapshot over").await?;
            if !self.world.is_broken(Break::SplitsSnapshot) {
                shown = Duration::from_nanos(name.parse().unwrap());
            }
        }
        self.world.known.lock().unwrap().reads.get_mut(read).unwrap().snapshot = Some(shown);
        output.meet(String::new()).await;
        // Now and then it cannot vouch for it.
        Ok((shown, (!self.world.fails(self.faults())).then_some(name)))
    }

    /// What the server has, of the snapshot where there is one.
    async fn content(
        &mut self,
        read: &str,
        output: &mut dyn Output,
        early: Option<i64>,
        snapshot: Option<Duration>,
    ) -> Result<i64> {
        let Some(at) = snapshot else { return self.exchange(read, output, early).await };
        self.world.pause(2 * self.latency_ms()).await;
        self.step("read answer").await?;
        Ok(self.world.content(self.server, at))
    }

    /// One request and the beginning of its answer.
    async fn exchange(&mut self, read: &str, output: &mut dyn Output, early: Option<i64>) -> Result<i64> {
        self.world.pause(self.latency_ms()).await;
        if self.world.is_broken(Break::MarksEarly) {
            output.mark(Phase::FirstByte);
        }
        let content = early.unwrap_or_else(|| self.act(read));
        self.world.pause(self.latency_ms()).await;
        self.step("read answer").await?;
        if !self.world.is_broken(Break::MarksEarly) {
            output.mark(Phase::FirstByte);
        }
        Ok(content)
    }

    async fn rows(&mut self, ids: impl Iterator<Item = i64>, output: &mut dyn Output) -> Result<()> {
        self.step("read rows").await?;
        output.mark(Phase::LastByte);
        let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]));
        let ids = Int64Array::from_iter_values(ids);
        output.batch(RecordBatch::try_new(schema, vec![Arc::new(ids)]).unwrap()).await?;
        if self.world.fails(self.faults()) {
            let (content, detail) = (String::new(), String::new());
            let item = QuarantineItem { reason: "unfit", column: None, row: 0.into(), content, detail };
            output.quarantine(item).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Source for ModelSource {
    fn capabilities(&self) -> Capabilities {
        let kind = self.kind();
        Capabilities {
            resume: kind != Kind::Value,
            acknowledge: kind == Kind::Queue,
            reread: true,
            payload: true,
            push: false,
            listens: false,
            tls: false,
            release: ReleaseKind::Held,
        }
    }

    async fn prepare(&mut self) -> Result<()> {
        if !self.is_connected {
            self.step("connect").await?;
            self.world.pause(self.latency_ms()).await;
            self.is_connected = true;
        }
        Ok(())
    }

    async fn read(&mut self, from: Option<&Position>, output: &mut dyn Output) -> Result<ReadEnd> {
        let committed = self.world.store.lock().unwrap().positions.get(&name(self.server)).cloned();
        if committed.as_ref() != from {
            self.world.violated(format!("s{} is read from {from:?}; committed is {committed:?}", self.server));
        }
        if !self.is_connected {
            self.world.violated(format!("s{} is read without having been prepared", self.server));
        }
        let was_connected = std::mem::take(&mut self.is_connected);
        let read = {
            let mut known = self.world.known.lock().unwrap();
            known.reads_begun += 1;
            let text = format!("read {}", known.reads_begun);
            let digest = hex(&Sha256::digest(&text));
            known.reads.insert(digest.clone(), ReadLog { server: self.server, acts: Vec::new(), snapshot: None });
            drop(known);
            output.payload(text.as_bytes());
            digest
        };
        self.step("write request").await?;
        let mut early = self.world.is_broken(Break::AsksEarly).then(|| self.act(&read));
        if output.is_held() {
            let request = Arc::new(Request { clock: self.world.clock.clone(), left_at: Mutex::default() });
            output.released(Some(request.clone())).await;
            if request.left_at.lock().unwrap().is_none() {
                self.world.violated(format!("s{} was released, and its request was not", self.server));
            }
        } else {
            output.mark(Phase::Released);
        }
        let start = number(from).unwrap_or(0);
        let mut end = ReadEnd::default();
        let mut snapshot = None;
        if output.is_snapshot() {
            let (shown, name) = self.open_snapshot(&read, output).await?;
            (snapshot, end.snapshot) = (Some(shown), name);
        }
        match self.kind() {
            Kind::Value => {
                let content = self.content(&read, output, early, snapshot).await?;
                end.position = Some(Position::new(1, content.into()));
                // One that says so always does, and the others never: every second value, that both are met.
                if number(from) == Some(content) && content % 2 == 0 {
                    end.unchanged = true;
                } else {
                    let row = VALUE_BASE * (self.server as i64 + 1) + content;
                    for _ in 0..2 {
                        self.rows(std::iter::once(row), output).await?;
                    }
                }
            }
            Kind::Log => {
                let mut at = start;
                loop {
                    let content = self.content(&read, output, early.take(), snapshot).await?;
                    let last = content.min(at + PAGE);
                    self.rows(at + 1..=last, output).await?;
                    at = last;
                    end.more = at < content;
                    if !end.more || output.is_enough() {
                        break;
                    }
                }
                end.position = Some(Position::new(1, at.into()));
            }
            Kind::Queue => {
                let pending = self.world.known.lock().unwrap().acknowledged.get(&self.server).copied().unwrap_or(0);
                let content = self.exchange(&read, output, early).await?;
                self.rows(pending + 1..=content, output).await?;
                end.position = Some(Position::new(1, content.max(start).into()));
            }
        }
        self.is_connected = was_connected;
        if let (Break::AcknowledgesEarly, Some(position), Kind::Queue) =
            (self.world.broken.unwrap_or(Break::AsksEarly), &end.position, self.kind())
        {
            self.acknowledge(&position.clone()).await?;
        }
        Ok(end)
    }

    async fn acknowledge(&mut self, position: &Position) -> Result<()> {
        let at = number(Some(position)).unwrap();
        let committed = number(self.world.store.lock().unwrap().positions.get(&name(self.server)));
        if committed.unwrap_or(0) < at {
            self.world.violated(format!("s{} acknowledges {at}; committed is {committed:?}", self.server));
        }
        self.step("acknowledge").await?;
        self.world.pause(self.latency_ms()).await;
        let mut known = self.world.known.lock().unwrap();
        let acknowledged = known.acknowledged.entry(self.server).or_default();
        *acknowledged = at.max(*acknowledged);
        Ok(())
    }

    async fn probe(&mut self) -> Result<Probe> {
        Ok(Probe::default())
    }

    async fn close(&mut self) {}
}

impl Connector for ModelConnector {
    fn protocol(&self) -> &'static str {
        "model"
    }
    fn summary(&self) -> &'static str {
        "reads a model of a server"
    }
    fn default_port(&self) -> Option<u16> {
        None
    }
    fn capabilities(&self) -> Capabilities {
        ModelSource { world: self.world.clone(), server: self.server, is_connected: false }.capabilities()
    }
    fn option_schema(&self) -> schemars::Schema {
        schemars::Schema::default()
    }
    fn check(&self, _: &SourceSpec) -> Vec<Diagnostic> {
        Vec::new()
    }
    fn snapshot_group(&self, _: &SourceSpec) -> Option<SnapshotGroup> {
        let database = self.world.plan.servers[self.server].database?;
        Some(SnapshotGroup::new("model", "127.0.0.1", database, None))
    }
    fn open(&self, _: &SourceSpec, _: &Environment) -> Result<Box<dyn Source>> {
        Ok(Box::new(ModelSource { world: self.world.clone(), server: self.server, is_connected: false }))
    }
}

struct NoSecrets;

impl Secrets for NoSecrets {
    fn resolve(&self, _: &SecretReference) -> Result<Secret> {
        Err(Error::new(ErrorKind::Configuration, "read secret", "there are none here"))
    }
}
