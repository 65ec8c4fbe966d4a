//! A `tcp` source: the intake log's blocks in, rows and a position out.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use portolan_model::clock::Clock;
use portolan_model::error::{Error, ErrorKind, Result};
use portolan_model::name::SourceName;
use portolan_model::position::Position;
use portolan_model::source::{Capabilities, Output, Phase, Probe, QuarantineItem, ReadEnd, Source};
use tokio::task::JoinHandle;

use super::decode;
use super::engine::{Endpoint, Engine, LogSpec};
use super::options::Plan;
use super::position::TcpPosition;
use crate::format::Item;
use crate::intake::{Chunk, Log, Place};

/// Bytes of blocks that are decoded at once.
const CHUNK_BYTES: usize = 512 << 10;

/// What the quarantine takes of one read, in items and bytes: well below what the lake takes of one round.
const QUARANTINE_MAX: (usize, usize) = (30_000, 8 << 20);

/// How often a read that may wait looks whether something has come.
const WAIT_PAUSE: Duration = Duration::from_millis(5);
/// How long it waits for more then.
const SETTLE: Duration = Duration::from_millis(200);

/// One `tcp` source.
pub(super) struct TcpSource {
    pub(super) name: SourceName,
    pub(super) address: String,
    pub(super) plan: Arc<Plan>,
    pub(super) endpoint: Endpoint,
    pub(super) log: LogSpec,
    /// A folder that goes with the source, where nothing is committed.
    pub(super) temporary: Option<super::TemporaryFolder>,
    pub(super) connect_timeout: Duration,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) engine: Option<Engine>,
    /// Up to where the log is committed, as far as this source has been told.
    pub(super) committed: Option<Place>,
}

/// A chunk on its way into rows.
type Decoding = JoinHandle<Result<Decoded>>;

struct Decoded {
    items: Vec<Item>,
    payloads: Vec<Bytes>,
    next: Place,
    /// How much of it goes to the quarantine: items, bytes.
    quarantined: (usize, usize),
}

impl TcpSource {
    fn place(&self, error: Error) -> Error {
        error.with_source(&self.name).with_address(self.address.as_str())
    }

    /// The running engine, and what is wrong with its port or its log.
    async fn start(&mut self) -> Result<(&mut Engine, Result<()>)> {
        if self.temporary.is_some() && self.plan.acknowledge {
            let message = "its senders are told that messages are safe, and nothing would be stored here";
            return Err(Error::new(ErrorKind::Configuration, "open intake log", message)
                .with_hint("store what comes: portolan run, or portolan fetch --save"));
        }
        if self.engine.is_none() {
            self.engine = Some(Engine::open(&self.log, &self.plan, &self.clock)?);
        }
        let Some(engine) = self.engine.as_mut() else {
            return Err(Error::new(ErrorKind::Internal, "open intake log", "the log is not open"));
        };
        let started = engine.start(&self.endpoint, self.connect_timeout).await;
        let state = started.and_then(|()| match engine.intake.failure() {
            Some(failure) => Err(Error::new(ErrorKind::Storage, "write intake log", failure)
                .with_hint("what has arrived is kept in memory and the senders wait; free space: df -h")),
            None => Ok(()),
        });
        Ok((engine, state))
    }

    /// The engine for a read. What is wrong is no error while the log has something to give.
    async fn ready(&mut self) -> Result<&mut Engine> {
        let committed = self.committed;
        let (engine, state) = self.start().await?;
        // What is not committed is to be read, also where it has been read before: the round may have been rejected.
        let has_rows = committed.is_none_or(|place| place < engine.intake.log().synced()) && !engine.intake.is_new();
        if !has_rows {
            state?;
        }
        Ok(engine)
    }

    async fn read_log(&mut self, from: Option<&Position>, output: &mut dyn Output) -> Result<ReadEnd> {
        let before = from.map(TcpPosition::read).transpose()?;
        let plan = Arc::clone(&self.plan);
        let engine = self.ready().await?;
        let log = Arc::clone(engine.intake.log());
        output.released(None).await;
        let mut place = log.start();
        self.committed = before.as_ref().filter(|before| before.log == log.id()).map(|before| before.place);
        match before {
            Some(before) if before.log == log.id() => place = before.place,
            Some(before) => output.quarantine(lost_log(before, log.id())).await?,
            None => {}
        }
        if place >= log.synced() && !output.rows_wait().is_zero() {
            wait_for_rows(&log, place, output.rows_wait()).await;
        }
        // What has arrived by now is read, and nothing else.
        let until = log.synced();
        output.mark(Phase::FirstByte);
        let mut decoding = start_decoding(&log, &plan, place, CHUNK_BYTES);
        let mut quarantined = (0, 0);
        loop {
            let mut decoded = finish(decoding).await?;
            let exceeds = |more: (usize, usize)| {
                quarantined.0 + more.0 > QUARANTINE_MAX.0 || quarantined.1 + more.1 > QUARANTINE_MAX.1
            };
            if exceeds(decoded.quarantined) {
                // What has been given is stored first. A single block always has room.
                if quarantined != (0, 0) {
                    break;
                }
                decoded = finish(start_decoding(&log, &plan, place, 1)).await?;
            }
            quarantined = (quarantined.0 + decoded.quarantined.0, quarantined.1 + decoded.quarantined.1);
            let is_full = quarantined.0 > QUARANTINE_MAX.0 || quarantined.1 > QUARANTINE_MAX.1;
            // What comes next is decoded while this is stored.
            let has_more = decoded.next < until;
            let next = (has_more && !is_full).then(|| start_decoding(&log, &plan, decoded.next, CHUNK_BYTES));
            for payload in &decoded.payloads {
                output.payload(payload);
            }
            output.mark(Phase::LastByte);
            for item in decoded.items {
                match item {
                    Item::Batch(batch) => output.batch(batch).await?,
                    Item::Quarantine(item) => output.quarantine(item).await?,
                }
            }
            place = decoded.next;
            match next {
                Some(next) if !output.is_enough() => decoding = next,
                Some(next) => {
                    next.abort();
                    break;
                }
                None => break,
            }
        }
        let position = TcpPosition { log: log.id(), place }.to_position();
        // Where nothing has ever come there is nothing to continue from.
        let is_empty = from.is_none() && place == log.start();
        Ok(ReadEnd { position: (!is_empty).then_some(position), more: place < until, ..ReadEnd::default() })
    }
}

/// Waits until something has come, and then a little for what comes with it.
async fn wait_for_rows(log: &Log, place: Place, patience: Duration) {
    let start = tokio::time::Instant::now();
    while log.synced() <= place && start.elapsed() < patience {
        tokio::time::sleep(WAIT_PAUSE).await;
    }
    tokio::time::sleep(SETTLE.min(patience)).await;
}

fn start_decoding(log: &Arc<Log>, plan: &Arc<Plan>, from: Place, bytes_max: usize) -> Decoding {
    let (log, plan) = (Arc::clone(log), Arc::clone(plan));
    tokio::task::spawn_blocking(move || {
        let chunk = log.read(from, bytes_max).map_err(|error| {
            let message = format!("the intake log cannot be read in segment {}", from.segment);
            Error::new(ErrorKind::Storage, "read intake log", message)
                .with_hint("look at the lake's folder `intake` and at the disk: dmesg")
                .with_cause(error)
        })?;
        let Chunk { blocks, damage, next } = chunk;
        let mut items: Vec<Item> = damage
            .into_iter()
            .map(|damage| {
                let detail = format!(
                    "intake log, segment {}, byte {}: {} ({} bytes)",
                    damage.at.segment, damage.at.offset, damage.detail, damage.bytes
                );
                Item::Quarantine(decode::quarantined("intake_damaged", b"", detail))
            })
            .collect();
        decode::rows(&plan, &blocks, &mut |item| {
            items.push(item);
            Ok(())
        })?;
        let quarantined = items.iter().fold((0, 0), |(count, bytes), item| match item {
            Item::Quarantine(item) => (count + 1, bytes + item.content.len() + item.detail.len()),
            Item::Batch(_) => (count, bytes),
        });
        let payloads = blocks.into_iter().map(|block| block.payload).collect();
        Ok(Decoded { items, payloads, next, quarantined })
    })
}

async fn finish(decoding: Decoding) -> Result<Decoded> {
    decoding.await.map_err(|error| {
        Error::new(ErrorKind::Internal, "decode messages", "the decoding ended early").with_cause(error)
    })?
}

/// The log that a committed position belongs to is not there any more: what it held and no round had stored is lost.
fn lost_log(before: TcpPosition, now: i64) -> QuarantineItem {
    let detail = format!(
        "the committed position is in intake log {} at segment {}, byte {}; the folder holds log {now}: \
         what had arrived behind that position is not there any more",
        before.log, before.place.segment, before.place.offset
    );
    decode::quarantined("intake_lost", b"", detail)
}

#[async_trait]
impl Source for TcpSource {
    fn capabilities(&self) -> Capabilities {
        Capabilities { listens: matches!(self.endpoint, Endpoint::Listen { .. }), ..super::CAPABILITIES }
    }

    async fn prepare(&mut self) -> Result<()> {
        match self.ready().await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.place(error)),
        }
    }

    async fn read(&mut self, from: Option<&Position>, output: &mut dyn Output) -> Result<ReadEnd> {
        match self.read_log(from, output).await {
            Ok(end) => Ok(end),
            Err(error) => Err(self.place(error)),
        }
    }

    fn complaint(&self) -> Option<Error> {
        let engine = self.engine.as_ref().filter(|engine| engine.intake.is_full())?;
        let message = format!(
            "the intake log is full ({} MiB): senders wait until a round has stored more",
            engine.intake.log().bytes() >> 20
        );
        let error = Error::new(ErrorKind::Limit, "write intake log", message).with_hint(
            "does a required source reject the round? portolan status. If rounds are stored and more comes than they take, read \
             more often (`every`) or raise `max_intake`",
        );
        Some(self.place(error))
    }

    async fn acknowledge(&mut self, position: &Position) -> Result<()> {
        let position = TcpPosition::read(position)?;
        let Some(engine) = &self.engine else { return Ok(()) };
        if position.log != engine.intake.log().id() {
            return Ok(());
        }
        self.committed = self.committed.max(Some(position.place));
        engine.intake.remove_before(position.place).map_err(|error| {
            self.place(
                Error::new(ErrorKind::Storage, "remove what is committed", "a segment of the intake log stays")
                    .with_hint("look at the rights of the lake's folder `intake`")
                    .with_cause(error),
            )
        })
    }

    async fn probe(&mut self) -> Result<Probe> {
        let address = self.address.clone();
        let what = if self.capabilities().listens { "can be opened" } else { "connected to" };
        let tried = match &self.temporary {
            // Nothing is taken that a round would not store: senders wait, or try again.
            Some(_) => self.endpoint.reach(self.connect_timeout).await.map(|()| Vec::new()),
            None => self.start().await.and_then(|(engine, state)| state.map(|()| engine.facts())),
        };
        let mut facts = tried.map_err(|error| self.place(error))?;
        facts.insert(0, (what.to_owned(), address));
        Ok(Probe { server: None, tls: None, facts })
    }

    async fn close(&mut self) {
        if let Some(engine) = self.engine.take() {
            engine.close().await;
        }
    }
}
