//! The options of a `redis` source, and what is wrong with them before the network is touched.

use std::collections::BTreeMap;
use std::sync::Arc;

use portolan_model::catalog::WriteMode;
use portolan_model::config::{ByteSize, Diagnostic, SecretReference, SourceSpec};
use schemars::JsonSchema;
use serde::Deserialize;

use super::plan::{FieldsAs, GroupPlan, KeyKind, KeyPlan, Plan, StreamPlan, ValueFormat};
use super::rows::Layout;
use crate::format::ColumnType;
use crate::options::Problems;

const COUNT_MAX: u32 = 100_000;
const COUNT_DEFAULT: u32 = 1_000;
/// Entries taken and not acknowledged: their ids are kept, 16 bytes each.
const TAKEN_MAX: u64 = 1 << 20;
/// What a Redis server itself allows, by default.
const VALUE_MAX: ByteSize = ByteSize(512 << 20);
const VALUE_MAX_DEFAULT: ByteSize = ByteSize(64 << 20);

/// The options that only this protocol has.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The ACL user to log in as; the server's default user where absent.
    pub user: Option<String>,
    /// The user's password; none where the server asks for none or knows the client by its certificate.
    pub password: Option<SecretReference>,
    /// The number of the database.
    #[serde(default)]
    pub database: u32,
    /// The keys to read, by a pattern with `*`, `?` and `[…]`. Either this or `stream`.
    pub keys: Option<String>,
    /// The type of the keys to read; all but streams where absent.
    #[serde(rename = "type")]
    pub key_type: Option<KeyKind>,
    /// What the fields of a hash become: columns of one row, or a row each.
    #[serde(default)]
    pub fields_as: FieldsAs,
    /// How strings and elements are written.
    #[serde(default)]
    pub format: ValueFormat,
    /// Infer the types of columns: one whose values are all whole numbers, numbers or true/false, written canonically,
    /// gets that type. Otherwise columns are text.
    #[serde(default)]
    pub infer: bool,
    /// The stream to read. Either this or `keys`.
    pub stream: Option<String>,
    /// The consumer group to read the stream as.
    pub group: Option<String>,
    /// The name among the group's consumers; the source's name where absent.
    pub consumer: Option<String>,
    /// Make the group, and the stream, where there is none. The group begins with the first entry.
    #[serde(default)]
    pub create_group: bool,
    /// The column of the entry id; `id` where absent.
    pub id_column: Option<String>,
    /// Keys, elements or entries that are asked for at once, at most.
    #[schemars(range(min = 1, max = 100_000))]
    pub count: Option<u32>,
    /// The largest value that is read.
    pub max_value: Option<ByteSize>,
}

impl Options {
    /// The column of the entry id.
    pub(super) fn id_column(&self) -> &str {
        self.id_column.as_deref().unwrap_or("id")
    }

    /// The largest value that is read, in bytes.
    pub(super) fn value_bytes_max(&self) -> usize {
        self.max_value.unwrap_or(VALUE_MAX_DEFAULT).0.min(VALUE_MAX.0) as usize
    }

    /// What is read; `None` if the options do not say.
    pub(super) fn plan(&self, spec: &SourceSpec) -> Option<Plan> {
        let columns: BTreeMap<String, ColumnType> = spec
            .columns
            .iter()
            .filter_map(|(name, type_)| Some((name.clone(), ColumnType::parse(type_).ok()?)))
            .collect();
        let count = self.count.unwrap_or(COUNT_DEFAULT).clamp(1, COUNT_MAX);
        match (&self.keys, &self.stream) {
            (Some(pattern), None) => {
                let has_type = self.key_type.is_none();
                let is_json = self.format == ValueFormat::Json;
                let mut reserved = vec!["ttl_ms"];
                if has_type {
                    reserved.extend(["type", "index", "field", "value", "score"]);
                }
                if is_json {
                    reserved.extend(["index", "score"]);
                }
                let layout = Layout {
                    identity: "key".into(),
                    has_ttl: true,
                    has_type,
                    is_json,
                    columns,
                    infer: self.infer,
                    reserved,
                };
                let (pattern, kind, fields_as) = (pattern.clone(), self.key_type, self.fields_as);
                Some(Plan::Keys(Arc::new(KeyPlan { pattern, kind, fields_as, count, layout })))
            }
            (None, Some(stream)) => {
                let layout = Layout {
                    identity: self.id_column().into(),
                    has_ttl: false,
                    has_type: false,
                    is_json: false,
                    columns,
                    infer: self.infer,
                    reserved: Vec::new(),
                };
                let group = self.group.clone().map(|group| GroupPlan {
                    group,
                    consumer: self.consumer.clone().unwrap_or_else(|| spec.name.to_string()),
                    create: self.create_group,
                    entries_max: spec.key_memory.clamp(1, TAKEN_MAX) as usize,
                });
                let (stream, database) = (stream.clone(), self.database);
                Some(Plan::Stream(Arc::new(StreamPlan { stream, database, group, count, layout })))
            }
            _ => None,
        }
    }
}

/// Every problem of a source's options.
pub(super) fn problems(spec: &SourceSpec) -> Vec<Diagnostic> {
    let options: Options = match spec.options.parse() {
        Ok(options) => options,
        Err(problem) => return vec![problem],
    };
    let mut problems = Problems::of(spec);
    let either = [("keys", options.keys.is_some()), ("stream", options.stream.is_some())];
    problems.check_either(either, "write keys = \"PATTERN:*\" or stream = \"NAME\"");
    let texts = [
        ("user", &options.user),
        ("keys", &options.keys),
        ("stream", &options.stream),
        ("group", &options.group),
        ("consumer", &options.consumer),
        ("id_column", &options.id_column),
    ];
    for (key, text) in texts {
        if text.as_ref().is_some_and(|text| text.trim().is_empty()) {
            problems.add(key, format!("`{key}` is empty"), "write a name");
        }
    }
    if options.user.is_some() && options.password.is_none() && spec.tls.certificate.is_none() {
        problems.add("user", "`user` without `password`", "write password = { env = \"NAME\" }");
    }
    if let Some(count) = options.count
        && !(1..=COUNT_MAX).contains(&count)
    {
        problems.add("count", format!("`count` is {count}, not from 1 to {COUNT_MAX}"), "the default is 1000");
    }
    if let Some(size) = options.max_value
        && !(1..=VALUE_MAX.0).contains(&size.0)
    {
        problems.add("max_value", format!("`max_value` is {size}, not from 1B to {VALUE_MAX}"), "the default is 64MiB");
    }
    for (column, type_) in &spec.columns {
        if let Err(message) = ColumnType::parse(type_) {
            problems.add(
                "columns",
                format!("column `{column}`: {message}"),
                "write a type such as \"bigint\" or \"timestamptz\"",
            );
        }
    }
    let of_keys = [
        ("type", options.key_type.is_some()),
        ("fields_as", options.fields_as != FieldsAs::Columns),
        ("format", options.format != ValueFormat::Text),
    ];
    let of_streams = [
        ("group", options.group.is_some()),
        ("consumer", options.consumer.is_some()),
        ("create_group", options.create_group),
        ("id_column", options.id_column.is_some()),
    ];
    if options.stream.is_some() {
        for (key, _) in of_keys.into_iter().filter(|(_, is_set)| *is_set) {
            problems.add(key, format!("`{key}` is for `keys`, not for a stream"), "leave it out");
        }
        for (key, is_set) in [("consumer", options.consumer.is_some()), ("create_group", options.create_group)] {
            if is_set && options.group.is_none() {
                problems.add(key, format!("`{key}` needs `group`"), "name the consumer group");
            }
        }
        if spec.mode == Some(WriteMode::Replace) {
            problems.add(
                "mode",
                "with `mode = \"replace\"` the table would hold only what is new since the last round",
                "use mode = \"append\" for a stream",
            );
        }
    } else if options.keys.is_some() {
        for (key, _) in of_streams.into_iter().filter(|(_, is_set)| *is_set) {
            problems.add(key, format!("`{key}` is for `stream`, not for keys"), "leave it out");
        }
        if options.fields_as == FieldsAs::Rows && options.key_type.is_some_and(|kind| kind != KeyKind::Hash) {
            problems.add("fields_as", "`fields_as` is for hashes", "write type = \"hash\", or leave it out");
        }
        if options.format == ValueFormat::Json && matches!(options.key_type, None | Some(KeyKind::Hash)) {
            problems.add(
                "format",
                "`format = \"json\"` needs the `type` of keys whose values are JSON: string, list, set or zset",
                "for a field of a hash write columns = { FIELD = \"json\" }",
            );
        }
    }
    problems.into_found()
}
