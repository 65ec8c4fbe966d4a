//! The options of an `ftp` source, and what is wrong with them before the network is touched.
//!
//! The doc comments here are the option reference: the JSON Schema carries them, and `docs/connectors/ftp.md` follows.

use std::collections::BTreeMap;

use portolan_model::catalog::WriteMode;
use portolan_model::config::{ByteSize, Diagnostic, SecretReference, SourceSpec};
use schemars::JsonSchema;
use serde::Deserialize;

use super::glob::Pattern;
use crate::format::{ColumnType, Format, RowPath, Settings};

/// The largest `max_body`: an Arrow column counts its bytes with 32 bits.
const BODY_MAX: ByteSize = ByteSize(1 << 30);
/// The largest `max_files`.
const FILES_MAX: u32 = 100_000;
/// The largest `max_file`.
const FILE_MAX: ByteSize = ByteSize(1 << 40);

/// The options that only this protocol has.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    /// Which files are read: an absolute path whose parts may hold `*`, `?` and `[…]`, and one `**` for folders of any
    /// depth (at most 16).
    pub(super) path: String,
    /// The account to log in with. Default `anonymous`.
    #[serde(default = "anonymous")]
    pub(super) user: String,
    /// The account's password; `anonymous` needs none.
    pub(super) password: Option<SecretReference>,
    /// How files are written: `auto` goes by the ending of the name (`.csv`, `.tsv`, `.ndjson`, `.jsonl`, `.json`, `.parquet`);
    /// `raw` makes one row of each file, with its bytes in a column `content`. Default `auto`.
    #[serde(default)]
    pub(super) format: FormatOption,
    /// What is read: `new`, each file once and what is appended to it; or `all`, every file whole in each round.
    /// Default `new`, with `mode = "replace"` `all`.
    pub(super) read: Option<Read>,
    /// Whether CSV and NDJSON files grow at their end: what is appended is read by itself, and a last line without a
    /// line end is left until it has one. Otherwise a file is read to its last byte, and whole again when it has
    /// changed. Default true, with `read = "all"` false.
    pub(super) growing: Option<bool>,
    /// JSONPath (RFC 9535) of the rows in a JSON file, such as `$.data[*]`. Default: the elements of an array, or the
    /// whole value.
    pub(super) rows: Option<String>,
    /// Character between the fields of CSV. Default `,`, for `.tsv` a tab.
    pub(super) delimiter: Option<char>,
    /// Infer the types of CSV columns. Default false: text.
    pub(super) infer: Option<bool>,
    /// The column that holds the path of the file a row came from. Default `_file`.
    #[serde(default = "file_column")]
    pub(super) file_column: String,
    /// The most files that `path` may mean. Default 10000, at most 100000.
    #[serde(default = "max_files")]
    #[schemars(range(min = 1, max = 100_000))]
    pub(super) max_files: u32,
    /// The largest JSON or raw file, and the longest line of CSV and NDJSON. Default `64MiB`, at most `1GiB`.
    #[serde(default = "max_body")]
    pub(super) max_body: ByteSize,
    /// The largest Parquet file: it is kept on disk while it is read. Default `4GiB`, at most `1024GiB`.
    #[serde(default = "max_file")]
    pub(super) max_file: ByteSize,
    /// Whether TLS begins with the connection instead of by `AUTH TLS`. Default: on port 990.
    pub(super) implicit: Option<bool>,
}

fn anonymous() -> String {
    "anonymous".into()
}

fn file_column() -> String {
    "_file".into()
}

fn max_files() -> u32 {
    10_000
}

fn max_body() -> ByteSize {
    ByteSize(64 << 20)
}

fn max_file() -> ByteSize {
    ByteSize(4 << 30)
}

/// How files are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum FormatOption {
    /// By the ending of the name.
    #[default]
    Auto,
    /// One JSON value.
    Json,
    /// One JSON value a line.
    Ndjson,
    /// Comma-separated values with a header line.
    Csv,
    /// Apache Parquet.
    Parquet,
    /// One row a file, with its bytes.
    Raw,
}

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Read {
    /// What has not been read before.
    New,
    /// Every file.
    All,
}

/// How one file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileFormat {
    /// Rows; for CSV the byte between fields.
    Rows(Format, u8),
    /// Row groups.
    Parquet,
    /// Bytes.
    Raw,
}

impl FileFormat {
    /// Whether rows are lines, so that a file can be read in parts.
    pub(super) fn is_lines(self) -> bool {
        matches!(self, Self::Rows(Format::Csv | Format::Ndjson, _))
    }
}

/// The options worked out.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) pattern: Pattern,
    pub(super) is_incremental: bool,
    pub(super) is_growing: bool,
    pub(super) settings: Settings,
    pub(super) file_column: String,
    pub(super) files_max: usize,
    pub(super) body_max: u64,
    pub(super) file_max: u64,
    format: FormatOption,
    delimiter: Option<u8>,
}

/// What is wrong with an option: its key, and the words.
type Problem = (&'static str, String, String);

impl Options {
    /// What is read, where it is not said.
    pub(super) fn read(&self, mode: Option<WriteMode>) -> Read {
        self.read.unwrap_or(if mode == Some(WriteMode::Replace) { Read::All } else { Read::New })
    }
}

impl Plan {
    pub(super) fn new(spec: &SourceSpec, options: &Options) -> Result<Self, Problem> {
        let pattern = Pattern::parse(&options.path)
            .map_err(|problem| ("path", problem, "write the whole path, such as \"/out/*.csv\"".to_owned()))?;
        let rows = options.rows.as_deref().map(RowPath::parse).transpose();
        let rows = rows.map_err(|problem| ("rows", format!("rows: {problem}"), "it is a JSONPath".into()))?;
        let mut columns = BTreeMap::new();
        for (name, text) in &spec.columns {
            let type_ = ColumnType::parse(text).map_err(|problem| {
                ("columns", format!("column `{name}`: {problem}"), "the types are in docs/connectors/http.md".into())
            })?;
            columns.insert(name.clone(), type_);
        }
        let delimiter = options.delimiter.map(|delimiter| delimiter as u8);
        let settings = Settings {
            rows,
            columns,
            identity: spec.key.iter().filter(|name| **name != options.file_column).cloned().collect(),
            cursor: None,
            csv_delimiter: delimiter.unwrap_or(b','),
            csv_infer: options.infer.unwrap_or(false),
            ..Settings::default()
        };
        let is_incremental = options.read(spec.mode) == Read::New;
        let plan = Self {
            pattern,
            is_incremental,
            is_growing: options.growing.unwrap_or(is_incremental),
            settings,
            file_column: options.file_column.clone(),
            files_max: options.max_files as usize,
            body_max: options.max_body.0,
            file_max: options.max_file.0,
            format: options.format,
            delimiter,
        };
        let last = options.path.rsplit('/').next().unwrap_or_default();
        let ending = last.rsplit_once('.').map_or("", |(_, ending)| ending);
        if !last.ends_with(['*', '?', ']']) && !ending.contains(['*', '?', '[', ']']) && plan.format(last).is_none() {
            return Err((
                "format",
                format!("the ending of {last:?} does not say how the files are written"),
                "set format to csv, ndjson, json, parquet or raw".into(),
            ));
        }
        Ok(plan)
    }

    /// How a file of this name is written; `None` if its ending does not say.
    pub(super) fn format(&self, name: &str) -> Option<FileFormat> {
        let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending).to_ascii_lowercase();
        let comma = self.delimiter.unwrap_or(b',');
        let csv = FileFormat::Rows(Format::Csv, if ending == "tsv" { self.delimiter.unwrap_or(b'\t') } else { comma });
        Some(match (self.format, ending.as_str()) {
            (FormatOption::Csv, _) | (FormatOption::Auto, "csv" | "tsv") => csv,
            (FormatOption::Ndjson, _) | (FormatOption::Auto, "ndjson" | "jsonl") => {
                FileFormat::Rows(Format::Ndjson, comma)
            }
            (FormatOption::Json, _) | (FormatOption::Auto, "json") => FileFormat::Rows(Format::Json, comma),
            (FormatOption::Parquet, _) | (FormatOption::Auto, "parquet") => FileFormat::Parquet,
            (FormatOption::Raw, _) => FileFormat::Raw,
            (FormatOption::Auto, _) => return None,
        })
    }
}

/// Every problem of a source's options.
pub(super) fn check(spec: &SourceSpec) -> Vec<Diagnostic> {
    let options: Options = match spec.options.parse() {
        Ok(options) => options,
        Err(problem) => return vec![problem],
    };
    let mut problems: Vec<Problem> = Vec::new();
    let mut problem = |key: &'static str, message: String, help: &str| problems.push((key, message, help.to_owned()));
    if options.user.is_empty() || options.user.chars().any(char::is_control) {
        problem("user", format!("user {:?} is none that can be sent", options.user), "write the account's name");
    }
    if options.password.is_none() && options.user != "anonymous" {
        problem(
            "password",
            format!("user `{}` has no `password`", options.user),
            "write password = { env = \"NAME\" }",
        );
    }
    let mode = spec.mode;
    match options.read(mode) {
        Read::New if mode == Some(WriteMode::Replace) => problem(
            "read",
            "mode = \"replace\" beside read = \"new\": each round would leave only the newest rows".into(),
            "leave one of the two out",
        ),
        _ => {}
    }
    let is = |format: FormatOption| options.format == format;
    if options.rows.is_some() && !(is(FormatOption::Auto) || is(FormatOption::Json)) {
        problem("rows", "`rows` selects within one JSON value; it has no effect here".into(), "remove it");
    }
    for (key, present) in [("delimiter", options.delimiter.is_some()), ("infer", options.infer.is_some())] {
        if present && !(is(FormatOption::Csv) || is(FormatOption::Auto)) {
            problem(key, format!("`{key}` is for CSV alone"), "remove it");
        }
    }
    if options.growing.is_some() && (is(FormatOption::Json) || is(FormatOption::Parquet) || is(FormatOption::Raw)) {
        problem("growing", "`growing` is for CSV and NDJSON alone: other files are read whole".into(), "remove it");
    }
    if let Some(delimiter) = options.delimiter
        && (!delimiter.is_ascii() || matches!(delimiter, '"' | '\r' | '\n'))
    {
        problem("delimiter", format!("delimiter {delimiter:?} may not separate fields"), "write one ASCII character");
    }
    if options.file_column.is_empty() || options.file_column.chars().any(char::is_control) {
        problem("file_column", format!("file_column {:?} is no name", options.file_column), "the default is _file");
    }
    if is(FormatOption::Raw) && options.file_column == super::convert::CONTENT_COLUMN {
        problem("file_column", "raw files have a column `content` already".into(), "choose another name");
    }
    if options.max_files == 0 || options.max_files > FILES_MAX {
        let message = format!("max_files {} is not between 1 and {FILES_MAX}", options.max_files);
        problem("max_files", message, "the default is 10000");
    }
    if options.max_body > BODY_MAX || options.max_body.0 == 0 {
        let message = format!("max_body {} is not between 1B and {BODY_MAX}", options.max_body);
        problem("max_body", message, "the default is \"64MiB\"");
    }
    if options.max_file > FILE_MAX || options.max_file.0 == 0 {
        let message = format!("max_file {} is not between 1B and {FILE_MAX}", options.max_file);
        problem("max_file", message, "the default is \"4GiB\"");
    }
    if is(FormatOption::Parquet) && !spec.columns.is_empty() {
        let message = "`columns` has no effect on Parquet: the files give their columns types".into();
        problem("format", message, "remove `columns`");
    }
    if options.implicit == Some(true) && !spec.tls.is_enabled() {
        problem(
            "implicit",
            "`implicit` has no effect on a connection without TLS".into(),
            "remove it, or allow_plaintext",
        );
    }
    if let Err(found) = Plan::new(spec, &options) {
        problems.push(found);
    }
    let diagnostic =
        |(key, message, help): Problem| Diagnostic::new(message, spec.options.span_of(key)).with_help(help);
    problems.into_iter().map(diagnostic).collect()
}
