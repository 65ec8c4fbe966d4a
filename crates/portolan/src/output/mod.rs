//! Results on standard output or in a file: one module a format, one table of formats.
//!
//! Promise: values keep their exact text (decimals, unsigned 64-bit, timestamps with their digits; see [`cell`] for
//! each form); rows are written as they come and never collected, except the few a `table` shows; a reader that goes
//! away (`| head`) ends the command quietly; a file appears under its name only when it is whole.

mod cell;
mod columnar;
mod csv;
mod json;
mod table;
mod target;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::pin::Pin;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use futures_util::{Stream, StreamExt};
use portolan_model::{Error, ErrorKind, Result};

pub(crate) use target::Target;

/// Text of a server's for a terminal: control characters are escaped, lines stay lines.
pub(crate) fn visible(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(|line| table::visible(line, usize::MAX)).collect();
    lines.join("\n")
}

/// A value as JSON, with its exact text.
///
/// # Errors
/// `Data` for a type that has no text.
pub(crate) fn json_text(
    array: &dyn arrow::array::Array,
    field: &arrow::datatypes::Field,
    row: usize,
) -> Result<String> {
    let mut text = String::new();
    cell::json_value(array, field, row, &mut text)?;
    Ok(text)
}

/// Where formats put what they write.
type Sink = Box<dyn Write + Send>;

/// A way to write results.
pub(crate) struct Format {
    /// The name given to `--format`.
    pub(crate) name: &'static str,
    /// One line for `--help` and the documentation.
    pub(crate) summary: &'static str,
    /// Whether one output can hold the results of several sources.
    pub(crate) several: bool,
    /// Whether the output is bytes that a terminal should not get.
    pub(crate) binary: bool,
    open: fn(Sink, &Options) -> Box<dyn Writer>,
}

/// Every format, in the order of the documentation.
pub(crate) static FORMATS: [Format; 6] = [
    Format {
        name: "table",
        summary: "aligned columns for people, the first rows only (`--rows`)",
        several: true,
        binary: false,
        open: table::open,
    },
    Format {
        name: "json",
        summary: "one JSON document: an array of objects, or {source: [objects]} from fetch",
        several: true,
        binary: false,
        open: json::open_document,
    },
    Format {
        name: "ndjson",
        summary: "one JSON object a line; from several sources {\"source\": name, \"row\": object}",
        several: true,
        binary: false,
        open: json::open_lines,
    },
    Format {
        name: "csv",
        summary: "RFC 4180 with a header; NULL is an empty field, an empty text is \"\"",
        several: false,
        binary: false,
        open: csv::open,
    },
    Format {
        name: "arrow",
        summary: "Arrow IPC stream, every type as it is",
        several: false,
        binary: true,
        open: columnar::open_arrow,
    },
    Format {
        name: "parquet",
        summary: "Parquet, zstd, every type as it is",
        several: false,
        binary: true,
        open: columnar::open_parquet,
    },
];

/// The format of that name.
///
/// # Errors
/// `Configuration`, with the names there are.
pub(crate) fn format(name: &str) -> Result<&'static Format> {
    FORMATS.iter().find(|format| format.name == name).ok_or_else(|| {
        let names: Vec<_> = FORMATS.iter().map(|format| format!("{} ({})", format.name, format.summary)).collect();
        Error::new(ErrorKind::Configuration, "choose format", format!("there is no format `{name}`"))
            .with_hint(format!("formats: {}", names.join(", ")))
    })
}

/// Says before anything is read whether `target` can take `results` results in `format`.
///
/// # Errors
/// `Configuration` where the format holds one result and there are several, or a terminal would get bytes.
pub(crate) fn accept(format: &Format, target: &Target, results: usize) -> Result<()> {
    if results != 1 && !format.several {
        let message = format!("`{}` holds the rows of one source, these are {results}", format.name);
        return Err(Error::new(ErrorKind::Configuration, "write output", message)
            .with_hint("name one source, or use json, ndjson or table, or join them with --sql"));
    }
    target.open(format).map(drop)
}

/// How results are shown.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Results carry their names (`fetch`); otherwise there is one result without a name (`query`).
    pub(crate) named: bool,
    /// Rows of each result that `table` shows; `None` is all, held in memory.
    pub(crate) rows_max: Option<usize>,
    /// Characters of a value that `table` shows.
    pub(crate) value_width_max: usize,
    /// Characters a line of `table` may have, where known (the terminal's width).
    pub(crate) line_width_max: Option<u16>,
}

impl Default for Options {
    fn default() -> Self {
        Self { named: false, rows_max: Some(100), value_width_max: 60, line_width_max: None }
    }
}

/// Whether a writer wants more rows of the present result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    More,
    Enough,
}

/// Writes results one after the other: `begin`, `write` …, `end` for each, then `finish`.
trait Writer: Send {
    /// Begins a result.
    fn begin(&mut self, name: &str, schema: &SchemaRef) -> Result<()>;
    /// Writes rows of it.
    fn write(&mut self, batch: &RecordBatch) -> Result<Flow>;
    /// Ends it. `whole` is false where further rows exist that [`Flow::Enough`] cut off.
    fn end(&mut self, whole: bool) -> Result<()>;
    /// Ends the output.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// One result that is in memory.
pub(crate) struct Rows {
    /// Its name.
    pub(crate) name: String,
    /// Its columns.
    pub(crate) schema: SchemaRef,
    /// Its rows.
    pub(crate) batches: Vec<RecordBatch>,
}

/// Writes one result as its rows come. Returns the rows written; a reader that went away is not an error.
///
/// # Errors
/// The stream's own; `Storage` or `StorageFull` where the output cannot be written.
#[cfg_attr(not(feature = "sql"), allow(dead_code, reason = "builds without SQL stream no query"))]
pub(crate) async fn deliver_stream(
    format: &Format,
    target: &Target,
    options: &Options,
    name: &str,
    schema: &SchemaRef,
    mut batches: Pin<Box<dyn Stream<Item = Result<RecordBatch>> + Send>>,
) -> Result<u64> {
    let mut rows = 0;
    let opened = target.open(format)?;
    let mut writer = (format.open)(opened.sink()?, options);
    let mut flow = quiet(writer.begin(name, schema).map(|()| Flow::More))?;
    let mut whole = true;
    while flow == Some(Flow::More) {
        let Some(batch) = batches.next().await else { break };
        let batch = batch?;
        rows += batch.num_rows() as u64;
        flow = quiet(writer.write(&batch))?;
        whole = flow == Some(Flow::More);
    }
    // Dropped before the end is written: what the query holds is free again, and a query cut short stops.
    drop(batches);
    if flow.is_some() && quiet(writer.end(whole).and_then(|()| writer.finish()))?.is_some() {
        opened.keep()?;
    }
    Ok(rows)
}

/// Writes results that are in memory.
///
/// # Errors
/// `Configuration` where the format holds one result and there are several; else as [`deliver_stream`].
pub(crate) fn deliver_rows(format: &Format, target: &Target, options: &Options, results: &[Rows]) -> Result<u64> {
    accept(format, target, results.len())?;
    let mut rows = 0;
    let opened = target.open(format)?;
    let mut writer = (format.open)(opened.sink()?, options);
    let written = write_all(writer.as_mut(), results, &mut rows).and_then(|()| writer.finish());
    if quiet(written)?.is_some() {
        opened.keep()?;
    }
    Ok(rows)
}

fn write_all(writer: &mut dyn Writer, results: &[Rows], rows: &mut u64) -> Result<()> {
    for result in results {
        writer.begin(&result.name, &result.schema)?;
        let mut whole = true;
        for batch in &result.batches {
            *rows += batch.num_rows() as u64;
            whole = writer.write(batch)? == Flow::More;
            if !whole {
                break;
            }
        }
        writer.end(whole)?;
    }
    Ok(())
}

/// Takes a reader that went away out of the errors.
fn quiet<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if target::reader_is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
