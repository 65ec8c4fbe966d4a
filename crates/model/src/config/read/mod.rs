//! Text to configuration, or to every diagnostic that can be found.
//!
//! Each table is first compared with the keys it may have (all unknown keys are reported, with the nearest known one),
//! then read value by value through serde, then the whole is checked: names, references, exceptions.

mod check;
mod round;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IntoDeserializer};
use toml_edit::{Document, Item, Table, Value};

use super::diagnostic::{explain, suggestion};
use super::{
    Configuration, ConnectorSet, Consistency, Diagnostic, DurationText, EventTimeUnit, ForeignKeyTable, FreshnessTable,
    LakeSpec, OnCheckFailure, OnFailure, RangeTable, RowCountTable, SkewMeasure, SourceSpec, SumTable, TlsSpec, Within,
};
use crate::catalog::WriteMode;

/// The longest text read, in bytes.
pub(crate) const TEXT_LENGTH_MAX: usize = 4 << 20;
/// The most sources in one configuration.
pub(crate) const SOURCES_MAX: usize = 4_096;

/// The `[server]` table.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServerTable {
    /// Host name or address of the server whose ports are read; a source may name its own.
    pub(crate) host: Option<String>,
}

/// The keys of a `[[source]]` that all protocols share.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceTable {
    /// Name of the source and of its table in the lake: a-z, 0-9 and _, starting with a letter.
    pub(crate) name: String,
    /// Host name or address, where it is not that of `[server]`.
    pub(crate) host: Option<String>,
    /// TCP port; by default the protocol's own.
    pub(crate) port: Option<u16>,
    /// Protocol spoken on the port.
    pub(crate) protocol: String,
    /// How the connection is secured; absent means TLS 1.3 with certificate checks.
    pub(crate) tls: Option<TlsSpec>,
    /// Whether a round is rejected when this source fails.
    pub(crate) required: Option<bool>,
    /// The time from one read to the next, for a source that no `[[round]]` names.
    pub(crate) every: Option<DurationText>,
    /// The longest a read may take, for a source that no `[[round]]` names.
    pub(crate) deadline: Option<DurationText>,
    /// How rows meet those already in the table.
    pub(crate) mode: Option<WriteMode>,
    /// Columns that identify an item; an item that has been committed is not stored again.
    #[serde(default)]
    pub(crate) key: Vec<String>,
    /// How many of the latest keys are remembered for that.
    pub(crate) key_memory: Option<u64>,
    /// The column that holds the instant of a row's event: a timestamp, RFC 3339 text, or a number of `event_time_unit`s.
    pub(crate) event_time: Option<String>,
    /// What a number in that column counts, since 1970: s, ms, us or ns.
    pub(crate) event_time_unit: Option<EventTimeUnit>,
    /// How far out of order rows may come; one that comes later is stored and counted as late.
    pub(crate) lateness: Option<DurationText>,
    /// Types for columns, instead of the inferred ones.
    #[serde(default)]
    pub(crate) columns: BTreeMap<String, String>,
    /// The longest that connecting and its handshakes may take.
    pub(crate) connect_timeout: Option<DurationText>,
    /// The longest the server may stay silent during a read.
    pub(crate) idle_timeout: Option<DurationText>,
}

/// A `[[round]]` table.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RoundTable {
    /// Name of the round.
    pub(crate) name: String,
    /// The sources read together.
    pub(crate) sources: Vec<String>,
    /// The time from one start to the next.
    pub(crate) every: Option<DurationText>,
    /// The longest a round may take.
    pub(crate) deadline: Option<DurationText>,
    /// What is promised of the reads' common moment.
    #[serde(default)]
    pub(crate) consistency: Consistency,
    /// The longest that the reads may have taken effect apart.
    pub(crate) max_skew: Option<DurationText>,
    /// Which measure `max_skew` bounds.
    pub(crate) skew_measure: Option<SkewMeasure>,
    /// The most times that the sources are read until the promise is kept.
    pub(crate) attempts: Option<u32>,
    /// What becomes of a round that does not keep its promise.
    pub(crate) on_failure: Option<OnFailure>,
    /// The longest that sources wait for each other before they are released.
    pub(crate) ready_within: Option<DurationText>,
}

/// A `[[check]]` table: exactly one of `sql`, `rows`, `unique`, `not_null`, `range`, `row_count`, `sum`, `foreign_key` and
/// `freshness`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CheckTable {
    /// What holds, in words: stored with each result.
    pub(crate) name: String,
    /// The source whose rows are checked.
    pub(crate) source: Option<String>,
    /// The round whose rows are checked, for checks over several sources.
    pub(crate) round: Option<String>,
    /// What becomes of a round of which it does not hold.
    pub(crate) on_failure: Option<OnCheckFailure>,
    /// The longest it may take; a quarter of the round's deadline by default.
    pub(crate) timeout: Option<DurationText>,
    /// Whether it is about the rows of the round alone, or about what the lake will hold after it.
    #[serde(rename = "in")]
    pub(crate) within: Option<Within>,
    /// A query that gives one row with one boolean, which must be true.
    pub(crate) sql: Option<String>,
    /// A query that gives the `_row` of each row that fails.
    pub(crate) rows: Option<String>,
    /// No two rows have the same values in these columns.
    pub(crate) unique: Option<Vec<String>>,
    /// These columns are never NULL.
    pub(crate) not_null: Option<Vec<String>>,
    /// The values of a column lie between bounds.
    pub(crate) range: Option<RangeTable>,
    /// There are so many rows, or as many as another source has.
    pub(crate) row_count: Option<RowCountTable>,
    /// A column's sum is that of another source's.
    pub(crate) sum: Option<SumTable>,
    /// The values of columns stand in another source's.
    pub(crate) foreign_key: Option<ForeignKeyTable>,
    /// The newest value of a time column is at most so old.
    pub(crate) freshness: Option<FreshnessTable>,
}

const SHORTEST: Duration = Duration::from_millis(1);
const EVERY_DEFAULT: Duration = Duration::from_secs(10);
const DEADLINE_DEFAULT: Duration = Duration::from_secs(60);
const IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
const KEY_MEMORY_DEFAULT: u64 = 100_000;

/// Reads a configuration. Touches no file and no network.
///
/// # Errors
/// Every problem found, in the order of the text.
pub fn read(text: &str, connectors: &dyn ConnectorSet) -> Result<Configuration, Vec<Diagnostic>> {
    if text.len() > TEXT_LENGTH_MAX {
        let message = format!("the configuration has {} bytes, more than the {TEXT_LENGTH_MAX} allowed", text.len());
        return Err(vec![Diagnostic::new(message, None)]);
    }
    let document = Document::parse(text).map_err(|error| {
        vec![
            Diagnostic::new(error.message().trim().replace('\n', ", "), error.span())
                .with_label("not valid TOML here")
                .of_syntax(),
        ]
    })?;
    let mut reader = Reader {
        connectors,
        diagnostics: Vec::new(),
        sources_written: BTreeSet::new(),
        rounds_written: BTreeSet::new(),
    };
    let configuration = reader.document(document.as_table());
    let mut diagnostics = reader.diagnostics;
    match configuration {
        Some(configuration) if diagnostics.is_empty() => Ok(configuration),
        _ => {
            diagnostics.sort_by_key(|diagnostic| diagnostic.span.as_ref().map_or(0, |span| span.start));
            Err(diagnostics)
        }
    }
}

/// When a source that no `[[round]]` names is read.
struct Rhythm {
    every: Option<Duration>,
    deadline: Option<Duration>,
    every_span: Option<Range<usize>>,
    deadline_span: Option<Range<usize>>,
}

struct Reader<'a> {
    connectors: &'a dyn ConnectorSet,
    diagnostics: Vec<Diagnostic>,
    /// Names of sources and rounds that are written, whether or not they can be read: what names one of them is not wrong.
    sources_written: BTreeSet<String>,
    rounds_written: BTreeSet<String>,
}

impl Reader<'_> {
    fn report(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    fn document(&mut self, root: &Table) -> Option<Configuration> {
        const SECTIONS: [&str; 5] = ["server", "lake", "source", "round", "check"];
        for (key, item) in root {
            if !SECTIONS.contains(&key) {
                let span = root.key(key).and_then(toml_edit::Key::span).or_else(|| item.span());
                self.report(unknown_key("section", key, &SECTIONS, span));
            }
        }
        let server: ServerTable = self.section(root, "server").unwrap_or_default();
        let lake: LakeSpec = self.section(root, "lake").unwrap_or_default();
        self.lake(&lake, root);
        if let Some(host) = &server.host
            && !is_host(host)
        {
            let span = root.get("server").and_then(|server| server.get("host")).and_then(Item::span);
            self.report(
                Diagnostic::new(format!("{host:?} is not a host name or address"), span)
                    .with_help("write the name or address alone, without a scheme, a port or a path"),
            );
        }
        let source_tables = self.tables(root, "source");
        if source_tables.is_empty() && self.diagnostics.is_empty() {
            self.report(
                Diagnostic::new("no [[source]] in the configuration", None)
                    .with_help("describe at least one port, such as:\n[[source]]\nname = \"metrics\"\nport = 3000\nprotocol = \"http\""),
            );
        }
        if source_tables.len() > SOURCES_MAX {
            let message = format!("{} sources, more than the {SOURCES_MAX} allowed", source_tables.len());
            self.report(Diagnostic::new(message, None));
            return None;
        }
        let mut sources: Vec<SourceSpec> = Vec::new();
        let mut names: BTreeMap<String, Option<Range<usize>>> = BTreeMap::new();
        let mut alone = BTreeMap::new();
        let mut with_snapshot = BTreeSet::new();
        for table in &source_tables {
            let written = name_of(table);
            if let Some((name, span)) = &written
                && self.is_new("source", name, span.clone(), &names)
            {
                names.insert(name.clone(), span.clone());
            }
            if let Some((spec, rhythm)) = self.source(table, &server) {
                alone.insert(spec.name.clone(), rhythm);
                let connector = self.connectors.get(&spec.protocol);
                if connector.is_some_and(|connector| connector.snapshot_group(&spec).is_some()) {
                    with_snapshot.insert(spec.name.as_str().to_owned());
                }
                sources.push(spec);
            }
        }
        let mut rounds = self.rounds(root, &names, &alone, &with_snapshot);
        self.sources_written = names.into_keys().collect();
        self.checks(root, &mut rounds);
        Some(Configuration { lake, sources, rounds })
    }

    fn lake(&mut self, lake: &LakeSpec, root: &Table) {
        let span = |key: &str| root.get("lake").and_then(|lake| lake.get(key)).and_then(Item::span);
        for (key, value) in [("inline_rows", lake.inline_rows), ("flush_rows", lake.flush_rows)] {
            if value > 1_000_000 {
                self.report(
                    Diagnostic::new(format!("lake.{key} = {value} is more than 1000000"), span(key))
                        .with_help("rows inside the catalog are for small rounds; files hold the rest"),
                );
            }
        }
        if lake.path.as_os_str().is_empty() {
            self.report(Diagnostic::new("lake.path is empty", span("path")));
        }
    }

    /// Reads one optional `[section]`; a problem is reported and gives `None`.
    fn section<T: DeserializeOwned + JsonSchema>(&mut self, root: &Table, key: &str) -> Option<T> {
        let item = root.get(key)?;
        let Some(table) = item.as_table_like() else {
            self.report(
                Diagnostic::new(format!("`{key}` is a table"), item.span()).with_help(format!("write [{key}]")),
            );
            return None;
        };
        let table = as_table(table);
        self.unknown_keys::<T>(&table, key);
        self.values(table, item.span(), &format!("[{key}]"))
    }

    /// The tables of `[[key]]`.
    fn tables(&mut self, root: &Table, key: &str) -> Vec<Table> {
        match root.get(key) {
            None => Vec::new(),
            Some(Item::ArrayOfTables(tables)) => tables.iter().cloned().collect(),
            Some(Item::Value(Value::Array(array))) if array.iter().all(Value::is_inline_table) => {
                array.iter().filter_map(Value::as_inline_table).map(|table| as_table(table)).collect()
            }
            Some(item) => {
                let message = format!("`{key}` is a list of tables");
                self.report(Diagnostic::new(message, item.span()).with_help(format!("write [[{key}]], once for each")));
                Vec::new()
            }
        }
    }

    fn unknown_keys<T: JsonSchema>(&mut self, table: &Table, section: &str) {
        let names = property_names(&schemars::SchemaGenerator::default().into_root_schema_for::<T>());
        let known: Vec<&str> = names.iter().map(String::as_str).collect();
        for (key, item) in table {
            if !known.contains(&key) {
                let span = table.key(key).and_then(toml_edit::Key::span).or_else(|| item.span());
                self.report(unknown_key(&format!("key of [{section}]"), key, &known, span));
            }
        }
    }

    /// Reads the values of a table whose unknown keys have been reported already.
    fn values<T: DeserializeOwned>(&mut self, table: Table, span: Option<Range<usize>>, what: &str) -> Option<T> {
        match T::deserialize(Value::from(table.into_inline_table()).into_deserializer()) {
            Ok(value) => Some(value),
            Err(error) => {
                let error: toml_edit::de::Error = error;
                let message = error.message().trim();
                if message.starts_with("unknown field") && error.span().is_some() && self.has_unknown_at(error.span()) {
                    return None;
                }
                match message.strip_prefix("missing field ") {
                    Some(field) => self.report(Diagnostic::new(format!("{what} needs {field}"), error.span().or(span))),
                    None => self.report(explain(&error, span)),
                }
                None
            }
        }
    }

    fn has_unknown_at(&self, span: Option<Range<usize>>) -> bool {
        self.diagnostics.iter().any(|diagnostic| diagnostic.span == span)
    }

    fn is_new(
        &mut self,
        entity: &str,
        name: &str,
        span: Option<Range<usize>>,
        names: &BTreeMap<String, Option<Range<usize>>>,
    ) -> bool {
        let Some(first) = names.get(name) else { return true };
        let mut diagnostic = Diagnostic::new(format!("a second {entity} named `{name}`"), span)
            .with_label("this name is taken")
            .with_help(format!("every {entity} has a name of its own"));
        if let Some(first) = first {
            diagnostic = diagnostic.with_related(first.clone(), "the first one");
        }
        self.report(diagnostic);
        false
    }
}

fn as_table(table: &dyn toml_edit::TableLike) -> Table {
    let mut copy = Table::new();
    for (key, item) in table.iter() {
        let key = table.key(key).cloned().unwrap_or_else(|| toml_edit::Key::new(key));
        copy.insert_formatted(&key, item.clone());
    }
    copy
}

/// Whether a text can be a host name or address; whether there is such a host is found by asking. A colon stands in IPv6
/// addresses alone, which may name their interface (`fe80::1%eth0`).
fn is_host(text: &str) -> bool {
    let address = text.split('%').next().unwrap_or(text);
    !text.is_empty()
        && !text.contains(['/', ' ', '@', '?', '#', '[', ']'])
        && (!text.contains(':') || address.parse::<std::net::Ipv6Addr>().is_ok())
}

fn name_of(table: &Table) -> Option<(String, Option<Range<usize>>)> {
    let item = table.get("name")?;
    Some((item.as_str()?.to_owned(), item.span()))
}

/// The property names of an object schema, in the schema's order.
pub(crate) fn property_names(schema: &schemars::Schema) -> Vec<String> {
    schema
        .get("properties")
        .and_then(|properties| properties.as_object())
        .map(|properties| properties.keys().cloned().collect())
        .unwrap_or_default()
}

fn unknown_key(entity: &str, key: &str, known: &[&str], span: Option<Range<usize>>) -> Diagnostic {
    Diagnostic::new(format!("unknown {entity}: `{key}`"), span).with_help(suggestion(key, known))
}

fn unknown_value(entity: &str, value: &str, known: &[&str], span: Option<Range<usize>>) -> Diagnostic {
    Diagnostic::new(format!("unknown {entity} `{value}`"), span).with_help(suggestion(value, known))
}
