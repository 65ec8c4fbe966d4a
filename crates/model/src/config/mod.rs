//! `portolan.toml` as values.
//!
//! [`read`] turns text into a [`Configuration`] or into every [`Diagnostic`] it can find, each with its place in the
//! text. The keys that all protocols share are here; a protocol's own keys stay an [`OptionTable`] that its connector
//! reads. Nothing here touches a file: reading the text and resolving secrets belong to the binary.

mod check;
mod diagnostic;
mod options;
mod read;
mod schema;
mod value;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::catalog::WriteMode;
use crate::name::{RoundName, SourceName};
use crate::source::Connector;

pub use check::{
    Bound, CheckKind, CheckSpec, ColumnOf, ColumnsOf, ForeignKeyTable, FreshnessTable, OnCheckFailure, Place,
    RangeTable, RowCountTable, SumTable, Within,
};
pub use diagnostic::{Diagnostic, line_and_column};
pub use options::OptionTable;
pub use read::read;
pub use schema::json_schema;
pub use value::{ByteSize, DurationText, SecretReference};

/// The connectors a configuration may name.
pub trait ConnectorSet {
    /// Every connector, in the order of the documentation.
    fn all(&self) -> Vec<&dyn Connector>;

    /// The connector of a protocol.
    fn get(&self, protocol: &str) -> Option<&dyn Connector> {
        self.all().into_iter().find(|connector| connector.protocol() == protocol)
    }
}

/// A whole configuration, checked.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// Where rounds are committed.
    pub lake: LakeSpec,
    /// Sources in the order of the file.
    pub sources: Vec<SourceSpec>,
    /// Rounds in the order of the file, then one round for each source that no `[[round]]` names: such a source keeps its
    /// own rhythm and waits for no other.
    pub rounds: Vec<RoundSpec>,
}

/// Where rounds are committed, and how the store is kept in shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LakeSpec {
    /// Folder of the lake, relative to the configuration file.
    pub path: PathBuf,
    /// A table's rows of one round are kept inside the catalog up to this many, and in a Parquet file of their own
    /// above.
    pub inline_rows: u32,
    /// Rows kept inside the catalog are flushed to Parquet once a table has this many.
    pub flush_rows: u32,
    /// Rows kept inside the catalog are flushed to Parquet once the oldest is this old.
    pub flush_after: DurationText,
    /// Adjacent Parquet files of a table are merged while smaller than this.
    pub merge_below: ByteSize,
    /// Snapshots older than this can no longer be read with `--at`; the rows stay.
    pub keep_snapshots: DurationText,
}

impl Default for LakeSpec {
    fn default() -> Self {
        Self {
            path: PathBuf::from("./lake"),
            inline_rows: 1_000,
            flush_rows: 50_000,
            flush_after: DurationText(Duration::from_secs(600)),
            merge_below: ByteSize(64 << 20),
            keep_snapshots: DurationText(Duration::from_secs(7 * 86_400)),
        }
    }
}

/// One source, checked; what only its protocol knows is in `options`.
#[derive(Clone, Debug)]
pub struct SourceSpec {
    /// Its name, which is also its table's.
    pub name: SourceName,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The connector's protocol.
    pub protocol: String,
    /// How the connection is secured.
    pub tls: TlsSpec,
    /// Whether a round that holds it is rejected when it fails.
    pub required: bool,
    /// How rows meet those already in the table; `None` lets the connector's documented default apply.
    pub mode: Option<WriteMode>,
    /// Columns that identify an item, for deduplication.
    pub key: Vec<String>,
    /// How many of the latest keys are remembered.
    pub key_memory: u64,
    /// Which instant of a row is its event's, where the data has it.
    pub event_time: Option<EventTimeSpec>,
    /// Types that columns are given instead of the inferred ones: column → DuckLake type name.
    pub columns: BTreeMap<String, String>,
    /// The longest a connection and its handshakes may take.
    pub connect_timeout: Duration,
    /// The longest the server may stay silent during a read.
    pub idle_timeout: Duration,
    /// The protocol's own keys.
    pub options: OptionTable,
    /// Where the source stands in the text.
    pub span: Option<Range<usize>>,
}

impl SourceSpec {
    /// Whether both say the same, wherever it stands in a text.
    pub fn is_same(&self, other: &Self) -> bool {
        let Self {
            name,
            host,
            port,
            protocol,
            tls,
            required,
            mode,
            key,
            key_memory,
            event_time,
            columns,
            connect_timeout,
            idle_timeout,
            options,
            span: _,
        } = self;
        *name == other.name
            && *host == other.host
            && *port == other.port
            && *protocol == other.protocol
            && *tls == other.tls
            && *required == other.required
            && *mode == other.mode
            && *key == other.key
            && *key_memory == other.key_memory
            && *event_time == other.event_time
            && *columns == other.columns
            && *connect_timeout == other.connect_timeout
            && *idle_timeout == other.idle_timeout
            && options.is_same(&other.options)
    }

    /// `host:port`, with brackets round an IPv6 address.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Which instant of a row is its event's, and how far out of order rows may come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventTimeSpec {
    /// The column: a timestamp, a date, RFC 3339 text, or a number of `unit`s since 1970.
    pub column: String,
    /// What a number in it counts; `None`: numbers are refused.
    pub unit: Option<EventTimeUnit>,
    /// How much later than a row of a later event time a row may come without being late.
    pub lateness: Duration,
}

/// What a number counts that is an event time: since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EventTimeUnit {
    /// Seconds.
    #[serde(rename = "s")]
    Second,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Millisecond,
    /// Microseconds.
    #[serde(rename = "us")]
    Microsecond,
    /// Nanoseconds.
    #[serde(rename = "ns")]
    Nanosecond,
}

/// How a connection is secured: TLS 1.3 with certificate checks, unless an exception is written with its reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TlsSpec {
    /// PEM file of the authorities to trust instead of the system's, relative to the configuration file.
    pub ca: Option<PathBuf>,
    /// PEM file of the client certificate chain.
    pub certificate: Option<PathBuf>,
    /// PEM file of the client certificate's private key.
    pub key: Option<PathBuf>,
    /// The name the server's certificate must carry, where it is not the host.
    pub server_name: Option<String>,
    /// The reason for speaking without TLS. Present: plaintext. Absent: TLS.
    pub allow_plaintext: Option<String>,
    /// The reason for accepting TLS 1.2 besides 1.3.
    pub allow_tls12: Option<String>,
}

impl TlsSpec {
    /// Whether the connection is encrypted.
    pub fn is_enabled(&self) -> bool {
        self.allow_plaintext.is_none()
    }
}

/// A group of sources that are read together.
#[derive(Clone, Debug, PartialEq)]
pub struct RoundSpec {
    /// Its name.
    pub name: RoundName,
    /// Its sources, in the order of the file.
    pub sources: Vec<SourceName>,
    /// The time from one start to the next.
    pub every: Duration,
    /// The longest a round may take; a source that has not ended by then has failed.
    pub deadline: Duration,
    /// What is promised of the reads' common moment.
    pub consistency: ConsistencySpec,
    /// What its rows are checked for before they are committed, in the order of the file.
    pub checks: Vec<CheckSpec>,
}

/// What a round promises of its reads' common moment, and what follows where it is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsistencySpec {
    /// The promise.
    pub mode: Consistency,
    /// The longest that the reads may have taken effect apart.
    pub skew_max: Option<Duration>,
    /// What of a round is compared with it.
    pub skew_measure: SkewMeasure,
    /// The most times that a round's sources are read until the promise is kept.
    pub attempts_max: u32,
    /// What becomes of a round that does not keep it.
    pub on_failure: OnFailure,
    /// The longest that sources wait for each other before they are released. By default longer than a source waits for a server
    /// that does not answer, so that its own cause is told.
    pub ready_within: Duration,
}

impl Default for ConsistencySpec {
    fn default() -> Self {
        Self {
            mode: Consistency::None,
            skew_max: None,
            skew_measure: SkewMeasure::Bound,
            attempts_max: 3,
            on_failure: OnFailure::Mark,
            ready_within: CONNECT_TIMEOUT_DEFAULT + Duration::from_secs(1),
        }
    }
}

/// The longest that a source waits for a server that does not answer while it connects, where nothing else is said.
pub const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// What a round promises of its reads' common moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// Read at once, with the skew measured and stored; nothing else is promised.
    #[default]
    None,
    /// Connected, authenticated and asked before; what makes the servers act is released for all at one instant.
    Released,
    /// Read until two reads in a row, the second begun after the first has wholly ended, agree: between them all ports
    /// showed these values at one instant.
    DoubleCollect,
    /// Released as with `released`; all sources of one database server read one snapshot of it, opened within the release.
    Snapshot,
}

impl Consistency {
    /// The stable name, as written and stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Released => "released",
            Self::DoubleCollect => "double_collect",
            Self::Snapshot => "snapshot",
        }
    }
}

/// Which measure of a round `max_skew` bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SkewMeasure {
    /// From the first release to the last answer's first byte: no two servers can have acted further apart.
    #[default]
    Bound,
    /// From the first release to the last one.
    Release,
}

/// What becomes of a round that does not keep its promise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// It is stored, and marked.
    #[default]
    Mark,
    /// Its rows are not stored.
    Reject,
}
