//! JSON and NDJSON bodies to record batches, with a type inference of our own.
//!
//! A row is an object; a row that is not one becomes a column `value`. Types are inferred for each batch
//! ([`BATCH_ROWS`], [`BATCH_BYTES`]; nearly always the whole body) and what an earlier batch of the body widened stays
//! wide. A column of nothing but `null`, `{}` and `[]` is left out until something is known of it. Promise: no value is
//! lost or rounded; what a configured type does not hold exactly is null and in the quarantine.

mod column;
mod draft;
mod known;
pub mod node;
pub mod number;
pub mod parse;

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::RecordBatchOptions;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use portolan_model::error::{Error, ErrorKind, Result};
use serde_json::Value;

use self::column::{Gathered, gather};
use self::draft::{Column, Draft, Shared, Values};
use self::known::{Known, same_fields};
use self::node::Node;
use self::parse::{ParseError, Parser};
use super::path::SimplePath;
use super::{
    BATCH_BYTES, BATCH_ROWS, COLUMNS_MAX, ColumnType, Cursor, Item, Settings, Sink, Summary, data_error,
    quarantined_row, quarantined_value, utf8,
};

/// The column of a row that is not an object.
const VALUE_COLUMN: &str = "value";

/// Decodes a body that is one JSON value.
///
/// # Errors
/// `Data` if it is not JSON or nothing is where rows should be, `Limit` if a row has too many columns.
pub fn decode(body: &[u8], settings: &Settings, sink: &mut Sink<'_>) -> Result<Summary> {
    let text = utf8(body)?;
    let mut rows = Rows::new(settings, sink);
    match &settings.rows {
        None => walk(text, &SimplePath { names: Vec::new(), wildcard: false }, &mut rows)?,
        Some(path) => match path.simple() {
            Some(simple) => walk(text, simple, &mut rows)?,
            None => {
                let root = parse::parse(text).map_err(|error| not_json(text, &error))?;
                let found = path.all(&root);
                if found.is_empty() && !path.begins_in(&root) {
                    return Err(data_error("the body has nothing where `rows` begins")
                        .with_hint("`rows` is the JSONPath of the rows; look at the body with curl"));
                }
                let elements = match found.as_slice() {
                    [Node::List(items)] => items.iter().collect(),
                    _ => found,
                };
                for node in elements {
                    rows.push(node.clone(), 0)?;
                }
            }
        },
    }
    rows.finish()
}

/// Decodes a body of one JSON value a line; a line that is not JSON goes to the quarantine.
///
/// # Errors
/// `Limit` if a row has too many columns, and what `sink` returns.
pub fn decode_lines(body: &[u8], settings: &Settings, sink: &mut Sink<'_>) -> Result<Summary> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let mut rows = Rows::new(settings, sink);
    for (index, line) in body.split(|byte| *byte == b'\n').enumerate() {
        let number = index as u64 + 1;
        // A JSON text sequence (RFC 7464) begins each with a record separator.
        let line = line.strip_prefix(b"\x1e").unwrap_or(line);
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let parsed = match std::str::from_utf8(line) {
            Ok(text) => parse::parse(text).map_err(|error| format!("line {number} is not JSON: {error}")),
            Err(error) => Err(format!("line {number} is not UTF-8 at byte {}", error.valid_up_to())),
        };
        match parsed {
            Ok(node) => rows.push(node, line.len())?,
            Err(detail) => (rows.sink)(quarantined_row("row_not_json", number, line, detail))?,
        }
    }
    rows.finish()
}

/// The first value that `path` leads to in a JSON body, such as a page token.
///
/// # Errors
/// `Data` if the body is not JSON.
pub fn find(body: &[u8], path: &super::RowPath) -> Result<Option<Node<'static>>> {
    let text = utf8(body)?;
    let fail = |error: ParseError| not_json(text, &error);
    let root = match path.simple() {
        Some(simple) if !simple.wildcard => seek(&mut Parser::new(text), &simple.names).map_err(fail)?,
        _ => path.first(&parse::parse(text).map_err(fail)?).cloned(),
    };
    Ok(root.map(|node| match node {
        Node::Number(text) => Node::Number(Cow::Owned(text.into_owned())),
        Node::Text(text) => Node::Text(Cow::Owned(text.into_owned())),
        Node::Bool(value) => Node::Bool(value),
        Node::Null => Node::Null,
        other => Node::Text(Cow::Owned(other.to_compact())),
    }))
}

/// The value at the end of `names`, without keeping what stands beside it.
fn seek<'a>(parser: &mut Parser<'a>, names: &[String]) -> std::result::Result<Option<Node<'a>>, ParseError> {
    let Some((name, rest)) = names.split_first() else { return parser.value().map(Some) };
    if !parser.eat(b'{') {
        return parser.skip().map(|()| None);
    }
    if parser.eat(b'}') {
        return Ok(None);
    }
    loop {
        if parser.name()? == name.as_str() {
            return seek(parser, rest);
        }
        parser.skip()?;
        if !parser.comma_or(b'}')? {
            return Ok(None);
        }
    }
}

fn not_json(text: &str, error: &ParseError) -> Error {
    let start: String = text.trim_start().chars().take(60).collect();
    data_error(format!("the body is not JSON: {error}; it starts with {start:?}"))
        .with_hint("set format = \"ndjson\" or \"csv\" if it is one of these; look at it with curl")
}

/// Walks to the rows without keeping what stands beside them.
fn walk<'a>(text: &'a str, path: &SimplePath, rows: &mut Rows<'_, '_, 'a>) -> Result<()> {
    let fail = |error: ParseError| not_json(text, &error);
    let mut parser = Parser::new(text);
    let mut found = false;
    descend(&mut parser, text, &path.names, path.wildcard, &mut found, rows)?;
    parser.end().map_err(fail)?;
    if !found {
        return Err(data_error(format!("the body has no `$.{}`", path.names.join(".")))
            .with_hint("`rows` is the JSONPath of the rows; look at the body with curl"));
    }
    Ok(())
}

fn descend<'a>(
    parser: &mut Parser<'a>,
    text: &str,
    names: &[String],
    wildcard: bool,
    found: &mut bool,
    rows: &mut Rows<'_, '_, 'a>,
) -> Result<()> {
    let fail = |error: ParseError| not_json(text, &error);
    let Some((name, rest)) = names.split_first() else {
        *found = true;
        return match parser.peek() {
            Some(b'[') => {
                parser.eat(b'[');
                if parser.eat(b']') {
                    return Ok(());
                }
                loop {
                    let start = parser.offset();
                    let node = parser.value().map_err(fail)?;
                    rows.push(node, parser.offset() - start)?;
                    if !parser.comma_or(b']').map_err(fail)? {
                        return Ok(());
                    }
                }
            }
            _ => {
                let node = parser.value().map_err(fail)?;
                match node {
                    Node::Object(members) if wildcard => {
                        members.into_iter().try_for_each(|(_, value)| rows.push(value, 0))
                    }
                    Node::Null => Ok(()),
                    scalar if wildcard => Err(data_error(format!(
                        "`rows` asks for the elements of {}",
                        scalar.to_compact().chars().take(60).collect::<String>()
                    ))
                    .with_hint("`rows` is the JSONPath of the rows; look at the body with curl")),
                    node => rows.push(node, 0),
                }
            }
        };
    };
    if parser.peek() != Some(b'{') {
        return parser.skip().map_err(fail);
    }
    parser.eat(b'{');
    if parser.eat(b'}') {
        return Ok(());
    }
    loop {
        // Of several members of one name the first is taken here: the rows have gone out by the time another comes.
        let wanted = parser.name().map_err(fail)? == name.as_str() && !*found;
        if wanted {
            descend(parser, text, rest, wildcard, found, rows)?;
        } else {
            parser.skip().map_err(fail)?;
        }
        if !parser.comma_or(b'}').map_err(fail)? {
            return Ok(());
        }
    }
}

/// Rows on their way into batches.
pub(crate) struct Rows<'r, 's, 'a> {
    settings: &'r Settings,
    sink: &'r mut Sink<'s>,
    pending: Vec<Node<'a>>,
    pending_bytes: usize,
    /// The schema of the last batch of this body, else of the last body.
    schema: Option<SchemaRef>,
    /// Whether `schema` is of this body.
    is_of_body: bool,
    summary: Summary,
}

impl<'r, 's, 'a> Rows<'r, 's, 'a> {
    pub(crate) fn new(settings: &'r Settings, sink: &'r mut Sink<'s>) -> Self {
        Self {
            settings,
            sink,
            pending: Vec::new(),
            pending_bytes: 0,
            schema: settings.recent.get(),
            is_of_body: false,
            summary: Summary::default(),
        }
    }

    /// Adds a row of about so many bytes.
    pub(crate) fn push(&mut self, node: Node<'a>, bytes: usize) -> Result<()> {
        let row = match node {
            Node::Object(_) => node,
            other => Node::Object(vec![(Cow::Borrowed(VALUE_COLUMN), other)]),
        };
        if let Some(path) = &self.settings.cursor
            && let Some(value) = path.first(&row)
        {
            let cursor = Cursor::from_node(value).map_err(|problem| data_error(format!("cursor: {problem}")))?;
            if let Some(cursor) = cursor {
                let latest = match self.summary.cursor.take() {
                    None => cursor,
                    Some(before) => before.later(cursor).map_err(|problem| data_error(format!("cursor: {problem}")))?,
                };
                self.summary.cursor = Some(latest);
            }
        }
        self.pending.push(row);
        self.pending_bytes += bytes;
        if self.pending.len() >= BATCH_ROWS || self.pending_bytes >= BATCH_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let rows = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        if rows.is_empty() { Ok(()) } else { self.emit(&rows) }
    }

    /// Gives the last rows out.
    pub(crate) fn finish(mut self) -> Result<Summary> {
        self.flush()?;
        if let Some(schema) = self.schema {
            self.settings.recent.set(schema);
        }
        Ok(self.summary)
    }

    /// Rows with too many different names together are halved, so that each batch stays a table and not mostly holes.
    fn emit(&mut self, rows: &[Node<'a>]) -> Result<()> {
        let first_row = self.summary.rows + 1;
        let mut duplicates = Vec::new();
        let objects = rows.iter().map(|row| match row {
            Node::Object(members) => Some(members.as_slice()),
            _ => None,
        });
        let gathered = gather(objects, COLUMNS_MAX, |row, name, value| {
            duplicates.push((row, name.to_owned(), value.to_compact()));
        });
        let Some(columns) = gathered else {
            if rows.len() == 1 {
                return Err(Error::new(
                    ErrorKind::Limit,
                    "decode body",
                    format!("row {first_row} has more than {COLUMNS_MAX} columns"),
                )
                .with_hint("where the members are rows, name them in `rows`, such as \"$.*\""));
            }
            let (left, right) = rows.split_at(rows.len() / 2);
            self.emit(left)?;
            return self.emit(right);
        };
        for (row, name, content) in duplicates {
            let detail = format!("the object has `{name}` more than once; the last one is kept");
            let identity = identity(self.settings, &rows[row], first_row + row as u64);
            let Item::Quarantine(mut item) = quarantined_value(identity, &name, &content, detail) else { continue };
            item.reason = "duplicate_member";
            (self.sink)(Item::Quarantine(item))?;
        }
        let known = self.schema.clone();
        let known_fields = known.as_ref().map(|schema| schema.fields());
        let mut shared = Shared::new();
        let mut drafts = Vec::with_capacity(columns.len());
        for gathered in &columns {
            let known = Known::among(known_fields, drafts.len(), gathered.name, self.is_of_body);
            match self.settings.columns.get(gathered.name) {
                Some(type_) => {
                    let values = Values::Column(self.convert(rows, gathered, *type_, first_row)?);
                    drafts.push(Draft { name: gathered.name, known, nulls: None, values });
                }
                None => drafts.extend(column::draft(gathered.name, &gathered.values, known, &mut shared)),
            }
        }
        let internal = |error: ArrowError| Error::new(ErrorKind::Internal, "build batch", error.to_string());
        let (fields, arrays) = draft::finish_all(drafts, &shared.finish()).map_err(internal)?;
        let schema = match &known {
            Some(schema) if same_fields(known_fields, &fields).is_some() => Arc::clone(schema),
            _ => Arc::new(Schema::new(fields)),
        };
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&schema), arrays, &options).map_err(internal)?;
        self.summary.rows += rows.len() as u64;
        self.schema = Some(schema);
        self.is_of_body = true;
        (self.sink)(Item::Batch(batch))
    }

    fn convert(
        &mut self,
        rows: &[Node<'a>],
        gathered: &Gathered<'_, 'a>,
        type_: ColumnType,
        first_row: u64,
    ) -> Result<Column> {
        if type_ == ColumnType::Json {
            return Ok(column::json(gathered.name, &gathered.values));
        }
        let mut builder = type_.builder(gathered.values.len());
        for (row, value) in gathered.values.iter().enumerate() {
            let text: Cow<'_, str> = match value {
                None | Some(Node::Null) => {
                    builder.push_null();
                    continue;
                }
                Some(Node::Text(text) | Node::Number(text)) => Cow::Borrowed(text),
                Some(Node::Bool(value)) => Cow::Borrowed(if *value { "true" } else { "false" }),
                Some(other) => Cow::Owned(other.to_compact()),
            };
            if let Err(detail) = builder.push_text(&text) {
                let identity = identity(self.settings, &rows[row], first_row + row as u64);
                (self.sink)(quarantined_value(identity, gathered.name, &text, detail))?;
            }
        }
        Ok((Arc::new(type_.field(gathered.name)), builder.finish()))
    }
}

/// What identifies a row in the quarantine: its identity columns if it has them all, else its number.
fn identity(settings: &Settings, row: &Node<'_>, number: u64) -> Value {
    let named: Option<serde_json::Map<String, Value>> =
        settings.identity.iter().map(|name| Some((name.clone(), row.member(name)?.to_value()))).collect();
    match named {
        Some(map) if !map.is_empty() => Value::Object(map),
        _ => Value::from(number),
    }
}

#[cfg(test)]
mod tests;
