//! The options of a source, worked out once: what is asked for, how the answer is read, where the next read begins.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use portolan_model::config::{DurationText, SourceSpec};
use portolan_model::error::{Error, ErrorKind, Result};
use portolan_model::source::ReadEnd;

use super::fingerprint::Fingerprint;
use super::options::{CursorOption, FormatOption, HttpOptions, LateWindow, Method};
use super::paging::PagingPlan;
use super::position::HttpPosition;
use super::request::with_parameter;
use crate::format::{ColumnType, Cursor, Format, RowPath, Settings};

const TAB_SEPARATED: &str = "text/tab-separated-values";

/// What is wrong with an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// The key in the source's table.
    pub(super) key: &'static str,
    pub(super) message: String,
    pub(super) help: Option<String>,
    /// What stands in the text there is a secret.
    pub(super) is_secret: bool,
}

impl Problem {
    pub(super) fn new(key: &'static str, message: impl Into<String>) -> Self {
        Self { key, message: message.into(), help: None, is_secret: false }
    }

    pub(super) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// The worked-out options.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) method: Method,
    pub(super) settings: Arc<Settings>,
    pub(super) paging: Option<PagingPlan>,
    pub(super) etag: bool,
    pub(super) body_max: u64,
    pub(super) cursor_value: Option<RowPath>,
    pub(super) fingerprint: Fingerprint,
    /// Rows that come again are recognised.
    pub(super) has_key: bool,
    target: String,
    has_delimiter: bool,
    cursor: Option<CursorOption>,
    format: FormatOption,
}

impl Plan {
    pub(super) fn new(spec: &SourceSpec, options: &HttpOptions) -> Result<Self, Problem> {
        let path = |key: &'static str, text: &Option<String>| {
            text.as_deref()
                .map(RowPath::parse)
                .transpose()
                .map_err(|problem| Problem::new(key, format!("{key}: {problem}")))
        };
        let mut columns = std::collections::BTreeMap::new();
        for (name, text) in &spec.columns {
            let type_ = ColumnType::parse(text)
                .map_err(|problem| Problem::new("columns", format!("column `{name}`: {problem}")))?;
            columns.insert(name.clone(), type_);
        }
        let cursor_column = options.cursor.as_ref().and_then(|cursor| cursor.column.clone());
        let mut identity = spec.key.clone();
        if identity.is_empty() {
            identity.extend(cursor_column.clone().filter(|column| !column.starts_with('$')));
        }
        let settings = Settings {
            rows: path("rows", &options.rows)?,
            columns,
            identity,
            cursor: path("cursor", &cursor_column)?,
            csv_delimiter: options.delimiter.map_or(b',', |delimiter| delimiter as u8),
            csv_infer: options.infer.unwrap_or(false),
            ..Settings::default()
        };
        let paging = options
            .pagination
            .as_ref()
            .map(PagingPlan::new)
            .transpose()
            .map_err(|problem| Problem::new("pagination", format!("pagination.value: {problem}")))?;
        let mut target = options.path.clone();
        for (name, value) in &options.query {
            target = with_parameter(&target, name, value);
        }
        Ok(Self {
            method: options.method,
            settings: Arc::new(settings),
            etag: options.etag.unwrap_or(true) && paging.is_none() && options.cursor.is_none(),
            paging,
            body_max: options.max_body.0,
            cursor_value: path("cursor", &options.cursor.as_ref().and_then(|cursor| cursor.value.clone()))?,
            fingerprint: Fingerprint::new(spec, options),
            has_key: !spec.key.is_empty(),
            target,
            has_delimiter: options.delimiter.is_some(),
            cursor: options.cursor.clone(),
            format: options.format,
        })
    }

    /// Whether only what is new is asked for.
    pub(super) fn is_incremental(&self) -> bool {
        self.cursor.is_some()
    }

    /// Path and query of the first page, asking for what is newer than `cursor`.
    pub(super) fn first_target(&self, cursor: Option<&Cursor>) -> Result<Cow<'_, str>> {
        let Some(option) = &self.cursor else { return Ok(Cow::Borrowed(&self.target)) };
        let since = match (cursor, &option.late_window) {
            (None, _) => option.initial.clone(),
            (Some(cursor), None) => Some(cursor.to_text().into_owned()),
            (Some(cursor), Some(window)) => Some(
                before(cursor, window)
                    .map_err(|problem| Error::new(ErrorKind::Data, "apply late_window", problem))?
                    .to_text()
                    .into_owned(),
            ),
        };
        Ok(match since {
            Some(since) => Cow::Owned(with_parameter(&self.target, &option.parameter, &since)),
            None => Cow::Borrowed(&self.target),
        })
    }

    /// The cursor after two pages: the higher one, or the server's latest token.
    pub(super) fn later(&self, earlier: Option<Cursor>, latest: Option<Cursor>) -> Result<Option<Cursor>> {
        match (earlier, latest) {
            (Some(earlier), Some(latest)) if self.cursor_value.is_none() => {
                earlier.later(latest).map(Some).map_err(|problem| Error::new(ErrorKind::Data, "read cursor", problem))
            }
            (earlier, latest) => Ok(latest.or(earlier)),
        }
    }

    /// Refuses a read whose rows gave no cursor: the next one would ask for the same rows, and store them, again.
    pub(super) fn require_cursor(&self, rows: u64, highest: Option<&Cursor>) -> Result<()> {
        let Some(option) = self.cursor.as_ref().filter(|_| rows > 0 && highest.is_none()) else { return Ok(()) };
        let error = |message| Error::new(ErrorKind::Data, "read cursor", message);
        Err(match (&option.column, &option.value) {
            (Some(column), _) => error(format!("none of {rows} rows has a value in the cursor's column `{column}`"))
                .with_hint("name a column that rows have in cursor.column; look at the body with curl"),
            (None, value) => {
                let path = value.as_deref().unwrap_or_default();
                error(format!("{rows} rows came, and the body has no cursor at `{path}`"))
                    .with_hint("cursor.value is the JSONPath of the server's token; look at the body with curl")
            }
        })
    }

    /// The end of a read whose pages are all there.
    pub(super) fn end(&self, before: HttpPosition, highest: Option<Cursor>) -> Result<ReadEnd> {
        if !self.is_incremental() {
            return Ok(ReadEnd::default());
        }
        // What was committed never goes back: rows read again in a late window may all be older.
        let cursor = self.later(before.cursor, highest)?;
        let position = HttpPosition { cursor, ..HttpPosition::default() };
        Ok(ReadEnd {
            // The page where an earlier round ended is behind, whether or not a cursor came.
            position: (position.cursor.is_some() || before.page.is_some())
                .then(|| position.to_position(&self.fingerprint)),
            ..ReadEnd::default()
        })
    }

    /// The settings for a body: tab-separated values, where the answer says so and no delimiter is configured.
    pub(super) fn settings_for(&self, content_type: Option<&str>) -> Cow<'_, Settings> {
        let is_tabs =
            |text: &str| text.get(..TAB_SEPARATED.len()).is_some_and(|media| media.eq_ignore_ascii_case(TAB_SEPARATED));
        if self.has_delimiter || !content_type.is_some_and(is_tabs) {
            return Cow::Borrowed(&self.settings);
        }
        Cow::Owned(Settings { csv_delimiter: b'\t', ..Settings::clone(&self.settings) })
    }

    /// The format of a body.
    pub(super) fn format(&self, content_type: Option<&str>, body: &[u8]) -> Result<Format> {
        if let Some(format) = self.format.fixed() {
            return Ok(format);
        }
        if content_type == Some("application/json") {
            return Ok(Format::Json);
        }
        let media = content_type.unwrap_or("").split(';').next().unwrap_or("").trim().to_ascii_lowercase();
        let by_type = match media.as_str() {
            "application/json" | "text/json" => Some(Format::Json),
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonlines"
            | "application/jsonlines"
            | "application/json-lines"
            | "application/json-seq" => Some(Format::Ndjson),
            "text/csv" | "application/csv" | "text/tab-separated-values" => Some(Format::Csv),
            other if other.ends_with("+json") => Some(Format::Json),
            _ => None,
        };
        if let Some(format) = by_type {
            return Ok(format);
        }
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'{' | b'[') => Ok(Format::Json),
            _ => {
                let seen =
                    if media.is_empty() { "no Content-Type".to_owned() } else { format!("Content-Type {media:?}") };
                Err(Error::new(
                    ErrorKind::Data,
                    "decode body",
                    format!("{seen}, and the body does not begin like JSON"),
                )
                .with_hint("set `format` to json, ndjson or csv; look at the answer with curl -i"))
            }
        }
    }
}

/// The cursor from which rows are read again.
pub(super) fn before(cursor: &Cursor, window: &LateWindow) -> Result<Cursor, String> {
    match (cursor, window) {
        (Cursor::Integer(value), LateWindow::Number(number)) => {
            Ok(Cursor::Integer(value.saturating_sub(i128::from(*number))))
        }
        (Cursor::Text(text), LateWindow::Duration(duration)) => {
            let instant: Timestamp = text
                .parse()
                .map_err(|_| format!("the cursor {text:?} is not an instant, so a duration cannot be taken off"))?;
            let duration: Duration = DurationText::parse(duration)?.0;
            let duration = SignedDuration::try_from(duration).map_err(|error| error.to_string())?;
            let earlier = instant.checked_sub(duration).unwrap_or(Timestamp::MIN);
            Ok(Cursor::Text(earlier.to_string()))
        }
        (Cursor::Integer(value), LateWindow::Duration(duration)) => {
            Err(format!("the cursor {value} is a number and late_window {duration:?} a duration"))
        }
        (Cursor::Text(text), LateWindow::Number(number)) => {
            Err(format!("the cursor {text:?} is text and late_window {number} a number"))
        }
    }
}
