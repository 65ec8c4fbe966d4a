//! What a connector promises.
//!
//! A [`Connector`] speaks one protocol and opens [`Source`]s. A source yields Arrow record batches, a new
//! [`Position`], and marks of when things happened, into an [`Output`]. Poll and stream are the same contract with
//! different [`Capabilities`]; one conformance suite, chosen by capability, runs over every connector.
//!
//! # The life of a source
//!
//! ```text
//! open ─► prepare ─► read ─► (rows are committed) ─► acknowledge ─► prepare ─► …
//!            ▲         │
//!            └─────────┴── an error, or the future is dropped (deadline, stop): prepare again, from the same position
//! ```

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use serde_json::Value;

use crate::catalog::WriteMode;
use crate::clock::Clock;
use crate::config::{Diagnostic, SecretReference, SourceSpec};
use crate::error::{Error, Result};
use crate::position::Position;

/// One protocol. Adding a protocol is one module that implements this and one row in the registry.
pub trait Connector: Send + Sync {
    /// The protocol's name as written in `protocol = "…"`.
    fn protocol(&self) -> &'static str;

    /// One line that says what it reads.
    fn summary(&self) -> &'static str;

    /// The port used where the configuration names none.
    fn default_port(&self) -> Option<u16>;

    /// What its sources can do.
    fn capabilities(&self) -> Capabilities;

    /// The JSON Schema of the options that only this protocol has. The keys listed there are the keys accepted.
    fn option_schema(&self) -> schemars::Schema;

    /// Checks the options without touching the network; every problem found, each with its place in the file.
    fn check(&self, spec: &SourceSpec) -> Vec<Diagnostic>;

    /// Whether a source of this specification reads secrets or certificates when it is opened: where the collector is told
    /// to read them again, it is opened anew.
    fn reads_secrets(&self, _spec: &SourceSpec) -> bool {
        true
    }

    /// How rows meet those already there, where the configuration does not say.
    fn default_mode(&self, _spec: &SourceSpec) -> WriteMode {
        WriteMode::Append
    }

    /// With which other sources a source of this specification can read one snapshot; `None` where its protocol has none.
    fn snapshot_group(&self, _spec: &SourceSpec) -> Option<SnapshotGroup> {
        None
    }

    /// The columns by which the lake recognises an item it has stored before; empty: no deduplication.
    fn item_key(&self, spec: &SourceSpec) -> Vec<String> {
        spec.key.clone()
    }

    /// Tries a whole row of the quarantine (an item without a column) once more, by the present settings of `spec` and
    /// without the network.
    ///
    /// # Errors
    /// `Configuration` if an option cannot be used.
    fn retry_row(&self, _spec: &SourceSpec, _row: &KeptRow<'_>) -> Result<RetriedRow> {
        Ok(RetriedRow::Unable)
    }

    /// Opens a source. Touches no network: a port that is down is found by [`Source::prepare`].
    ///
    /// # Errors
    /// `Configuration` if a secret cannot be read or an option cannot be used.
    fn open(&self, spec: &SourceSpec, environment: &Environment) -> Result<Box<dyn Source>>;
}

/// What the snapshots of a server are of: sources of one group can read one snapshot together, over connections of their own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotGroup(String);

impl SnapshotGroup {
    /// The group of the server at `host:port`, or of one `database` of it where its snapshots go no further.
    pub fn new(protocol: &str, host: &str, port: u16, database: Option<&str>) -> Self {
        let host = host.to_ascii_lowercase();
        Self(format!("{protocol} {host} {port} {}", database.unwrap_or_default()))
    }
}

/// A whole row as the quarantine keeps it: what of a [`QuarantineItem`] is stored and may tell how to read it.
#[derive(Clone, Copy, Debug)]
pub struct KeptRow<'r> {
    /// [`QuarantineItem::reason`].
    pub reason: &'r str,
    /// [`QuarantineItem::row`].
    pub row: &'r Value,
    /// [`QuarantineItem::content`].
    pub content: &'r str,
}

/// What came of a row of the quarantine that was tried once more.
#[derive(Clone, Debug, PartialEq)]
pub enum RetriedRow {
    /// What the quarantine keeps of such a row is not enough to read it.
    Unable,
    /// It still does not fit; why, for people.
    Unfit(String),
    /// It fits.
    Fits {
        /// The row, as a read would have given it.
        batches: Vec<RecordBatch>,
        /// Values of it that do not fit their columns.
        quarantined: Vec<QuarantineItem>,
    },
}

/// What a connector may use of the world beside the network.
#[derive(Clone)]
pub struct Environment {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where secrets come from.
    pub secrets: Arc<dyn Secrets>,
    /// A folder beside the lake, on the same disk, for what a source must keep before it is committed because it cannot be read
    /// again (the intake log); a source uses the folder of its own name in it. `None` where nothing is committed:
    /// what is kept then ends with the process.
    pub intake: Option<PathBuf>,
}

/// Turns a reference to a secret into the secret.
pub trait Secrets: Send + Sync {
    /// Reads the secret.
    ///
    /// # Errors
    /// `Configuration`, naming the variable or file that is missing, never the value.
    fn resolve(&self, reference: &SecretReference) -> Result<Secret>;
}

/// A secret in memory. Neither `Debug` nor `Display` shows it.
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

/// What a connector's sources can do; the conformance suite and the documentation's delivery table follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Can continue from a position, so that a row is read once (needs a cursor in the configuration).
    pub resume: bool,
    /// Tells the server that rows are safe ([`Source::acknowledge`] does something).
    pub acknowledge: bool,
    /// What was read can be read again after a failure, from the same position.
    pub reread: bool,
    /// Shows the raw bytes as they arrive, so that a payload digest is kept.
    pub payload: bool,
    /// Rows arrive by themselves; a read ends when the round asks for it rather than when the data ends.
    pub push: bool,
    /// Waits for connections at a port of its own instead of opening them.
    pub listens: bool,
    /// Can run over TLS.
    pub tls: bool,
    /// How its reads begin together with those of other ports.
    pub release: ReleaseKind,
}

impl Capabilities {
    /// Whether two reads from one position can be compared: both are of what the server holds then, and take nothing.
    pub fn is_comparable(&self) -> bool {
        self.reread && !self.push && !self.acknowledge
    }
}

/// How the read of a source begins in a round that is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseKind {
    /// Its request is written before, and what makes the server act is held back beneath TLS: [`Held`].
    Held,
    /// Its first command is written after the release, as a whole.
    Command,
    /// What it gives has arrived before, by itself: it reads up to the release.
    Arrived,
}

impl ReleaseKind {
    /// The stable name, as shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Command => "command",
            Self::Arrived => "arrived",
        }
    }
}

/// A request that has been written up to the bytes that make its server act; these are held back.
pub trait Held: Any + Send + Sync {
    /// Hands the bytes to the operating system. Does not wait: what cannot be handed over at once follows when the source
    /// goes on, and a broken connection is found there, too.
    fn release(&self);

    /// Readies `all`, this one among them, to be handed over in one call to the system, in their order. `None` where there
    /// is no such call, or not for all of them: nothing has happened then, and each is released by itself.
    fn together<'h>(&self, all: &'h [Arc<dyn Held>]) -> Option<Box<dyn HeldTogether + 'h>> {
        let _ = all;
        None
    }
}

/// What many sources hold, ready to be handed over at once.
pub trait HeldTogether {
    /// Hands it all over, as [`Held::release`] does with each. Returns how long it took, by `clock` or better, from the
    /// begin of the first handing over to the end of the last.
    fn release(self: Box<Self>, clock: &dyn Clock) -> Duration;
}

/// One stream of data behind a port.
///
/// Futures are cancel-safe in this sense: a dropped `prepare` or `read` loses at most the connection; the next
/// `prepare` starts clean and a `read` from the same position yields the same rows again (if `capabilities.reread`).
#[async_trait]
pub trait Source: Send {
    /// What this source can do with its present configuration (never more than its connector can).
    fn capabilities(&self) -> Capabilities;

    /// Connects, authenticates and readies everything that can be ready before the read starts. Cheap when already
    /// ready: a kept connection is reused.
    async fn prepare(&mut self) -> Result<()>;

    /// Reads from `from` (from the start where `None`) to the end of what the server has, into `output`.
    ///
    /// A source that can continue from a position asks [`Output::is_enough`] where it could end (between two pages or
    /// batches), and ends there with [`ReadEnd::more`] if so: what is too much for one round comes in several, and no
    /// read is lost to a deadline for being long.
    ///
    /// Marks [`Phase::Released`] at the instant the request goes out and [`Phase::FirstByte`] when an answer begins, of each
    /// request that it takes. Where [`Output::is_held`], the first request goes out by [`Output::released`]. Where
    /// [`Output::is_snapshot`], the first request opens a snapshot, which all reads agree on by [`Output::meet`] before they
    /// read rows; it is marked as answered when the snapshot stands, and what is read from it afterwards is not.
    /// Called without a successful `prepare` before it, it prepares by itself.
    async fn read(&mut self, from: Option<&Position>, output: &mut dyn Output) -> Result<ReadEnd>;

    /// What is wrong though its reads succeed, if anything: shown with the state of the source until it passes.
    fn complaint(&self) -> Option<Error> {
        None
    }

    /// `position` without what lets the server say that nothing has changed since: rows of that read were withheld from a
    /// table that each read replaces, and must come again.
    fn without_validator(&self, position: Position) -> Position {
        position
    }

    /// The rows up to `position` are committed: tells the server, where the protocol has a way to. Redelivery after a
    /// crash between commit and acknowledgement is deduplicated by item key (see [`crate::catalog::TableSpec::key`]).
    async fn acknowledge(&mut self, position: &Position) -> Result<()>;

    /// What the server says about itself and this source, for `check --connect` and `doctor`.
    async fn probe(&mut self) -> Result<Probe>;

    /// Gives the connection up politely. Never fails: what cannot be said is dropped.
    async fn close(&mut self);
}

/// How a read ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReadEnd {
    /// Where to continue; `None` if this source has no position (it is read whole each time).
    pub position: Option<Position>,
    /// The server has more than a limit per round, or [`Output::is_enough`], allowed: the next round should follow at
    /// once. The position has moved.
    pub more: bool,
    /// The server proved that nothing has changed since the last committed read (strong ETag, HTTP 304). No rows came.
    pub unchanged: bool,
    /// A strong validator of what was read, where the server gives one (a strong ETag).
    pub validator: Option<String>,
    /// The snapshot that was read, as its server names it, where [`Output::is_snapshot`] and all who met have agreed on one:
    /// reads that say the same have seen one state.
    pub snapshot: Option<String>,
}

/// Evidence about a port, gathered by [`Source::probe`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probe {
    /// What the server calls itself, such as `10.11.6-MariaDB` or `nginx/1.22`.
    pub server: Option<String>,
    /// Negotiated TLS version and cipher suite, or `None` on a plain connection.
    pub tls: Option<String>,
    /// Further findings as `name: value`, in reading order.
    pub facts: Vec<(String, String)>,
}

/// The instants of one read that receipts keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// What triggers execution on the server has been handed to the operating system.
    Released,
    /// The first byte of an answer has arrived; marked with each answer of a read that asks several times.
    FirstByte,
    /// A byte of the answer has arrived that may be the last one; marked again as more arrive.
    LastByte,
}

/// Where a source puts what it reads. Each method waits while the receiver is full: back-pressure reaches the socket.
#[async_trait]
pub trait Output: Send {
    /// Notes the instant of `phase`. `Released` counts once.
    fn mark(&mut self, phase: Phase);

    /// Raw bytes of the answer as they arrived, before anything parses them: counted and digested.
    fn payload(&mut self, bytes: &[u8]);

    /// Counts bytes of a protocol that shows no payload.
    fn count_bytes(&mut self, bytes: u64);

    /// Whether the read should end at the next place from which it can continue: the time of its round runs out, or a
    /// trial has seen what it wanted. Once true it stays so.
    fn is_enough(&self) -> bool {
        false
    }

    /// Whether the read is to begin together with others: its first request is then held back and handed to
    /// [`Output::released`]. False once that has happened.
    fn is_held(&self) -> bool {
        false
    }

    /// Waits until the round is released, which hands over what is `held`, if anything, and is the instant of
    /// [`Phase::Released`]. May be dropped and called again: the round waits for the source until it is released or fails.
    async fn released(&mut self, held: Option<Arc<dyn Held>>) {
        self.mark(Phase::Released);
        if let Some(held) = held {
            held.release();
        }
    }

    /// Whether the read is to see the same snapshot as those of its group ([`Connector::snapshot_group`]).
    fn is_snapshot(&self) -> bool {
        false
    }

    /// Meets the other reads of its group: hands `word` in, waits until each of them that has not ended has handed in its
    /// own, and gets all of them. Who is not there in time has failed, so that nobody waits for ever. Dropped before it
    /// ends, it has not been called. Reads of one group call it equally often, unless they end.
    async fn meet(&mut self, word: String) -> Meeting {
        Meeting { words: vec![Some(word)], own: 0 }
    }

    /// Waits until every other read of its group has ended, or its end is near: for a read whose transaction must outlast them.
    async fn others_ended(&mut self) {}

    /// How long the read of a source that is sent to may wait where nothing has come yet: no time in rounds, of which the next
    /// one follows; part of the deadline where none does.
    fn rows_wait(&self) -> Duration {
        Duration::ZERO
    }

    /// Rows, in source order. Batches of one read may differ in schema: the lake widens without loss.
    async fn batch(&mut self, batch: RecordBatch) -> Result<()>;

    /// A value or row that cannot be stored as configured: kept whole, with the reason.
    async fn quarantine(&mut self, item: QuarantineItem) -> Result<()>;
}

/// What the reads of one group have told each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meeting {
    /// The word of each read, in the order of the sources; `None` of one that has ended.
    pub words: Vec<Option<String>>,
    /// The place of the read that asks.
    pub own: usize,
}

impl Meeting {
    /// The place of the first read that is there: the same for all who met.
    pub fn leader(&self) -> usize {
        self.words.iter().position(Option::is_some).unwrap_or(self.own)
    }

    /// What the read in a place has said, if it was there.
    pub fn word(&self, place: usize) -> Option<&str> {
        self.words.get(place)?.as_deref()
    }

    /// What all who were there have said, if it was the same.
    pub fn agreed(&self) -> Option<&str> {
        let mut words = self.words.iter().flatten();
        let first = words.next()?;
        words.all(|word| word == first).then_some(first)
    }
}

/// What goes to `portolan.quarantine`.
#[derive(Clone, Debug, PartialEq)]
pub struct QuarantineItem {
    /// Stable short reason, such as `zero_date` or `row_not_json`.
    pub reason: &'static str,
    /// The column concerned, if one.
    pub column: Option<String>,
    /// What identifies the row: its key or cursor column, or its number in the body.
    pub row: Value,
    /// The value or row as it came, as text (bytes that are not UTF-8 as `\xNN`), cut at 64 KiB.
    pub content: String,
    /// What is wrong with it, for people.
    pub detail: String,
}
