//! Blocks of the intake log to rows: pure functions.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Field, Schema};
use bytes::Bytes;
use portolan_model::error::{Error, ErrorKind, Result};
use portolan_model::source::{KeptRow, QuarantineItem, RetriedRow};
use serde_json::Value;

use super::options::{MessageFormat, Plan};
use crate::format::{BATCH_ROWS, Format, Item, Sink, csv, decode, kept, quarantine_text};
use crate::intake::{Block, Kind, Layout};

/// Turns blocks into rows and quarantined messages, in order.
///
/// # Errors
/// `Limit` if a message has too many columns, and what `sink` returns.
pub(super) fn rows(plan: &Plan, blocks: &[Block], sink: &mut Sink<'_>) -> Result<()> {
    let mut rest = blocks;
    while let Some(first) = rest.first() {
        if first.kind == Kind::Rejected {
            sink(Item::Quarantine(rejected(first)))?;
            rest = &rest[1..];
            continue;
        }
        // With the columns of the origin, rows of one sender and moment go together; without, all do.
        let together = rest.iter().take_while(|block| {
            block.kind == Kind::Data
                && (!plan.origin
                    || (&block.peer, &block.sender, block.received_us)
                        == (&first.peer, &first.sender, first.received_us))
        });
        let (run, others) = rest.split_at(together.count());
        let run = &laid_out(plan.layout(), run)[..];
        let mut with_origin = |item| match item {
            Item::Batch(batch) if plan.origin => sink(Item::Batch(add_origin(batch, first)?)),
            Item::Quarantine(item) if plan.origin => sink(Item::Quarantine(of_origin(item, first))),
            item => sink(item),
        };
        messages(plan, run, &mut with_origin)?;
        rest = others;
    }
    Ok(())
}

fn messages(plan: &Plan, run: &[Block], sink: &mut Sink<'_>) -> Result<()> {
    match plan.format {
        MessageFormat::Json => decode(Format::Ndjson, &joined(run), &plan.settings, sink).map(drop),
        MessageFormat::Csv => csv_records(plan, run, sink),
        MessageFormat::Text => values(run, sink, &|part: &[Bytes], sink: &mut Sink<'_>| {
            let mut texts = Vec::with_capacity(part.len());
            for message in part {
                let message = message.strip_suffix(b"\r").unwrap_or(message);
                match std::str::from_utf8(message) {
                    Ok(text) => texts.push(text),
                    Err(error) => {
                        let detail = format!("the message is not UTF-8 at byte {}", error.valid_up_to());
                        sink(Item::Quarantine(quarantined("message_not_utf8", message, detail)))?;
                    }
                }
            }
            Ok(Arc::new(StringArray::from(texts)) as ArrayRef)
        }),
        MessageFormat::Binary => values(run, sink, &|part: &[Bytes], _: &mut Sink<'_>| {
            Ok(Arc::new(part.iter().map(|message| Some(message.as_ref())).collect::<BinaryArray>()) as ArrayRef)
        }),
    }
}

/// The blocks with their messages told apart as the present format wants it: they may have come under another one.
fn laid_out(wanted: Layout, run: &[Block]) -> Cow<'_, [Block]> {
    let is_other = |block: &Block| block.layout != wanted && block.layout != Layout::Unsaid;
    if !run.iter().any(is_other) {
        return Cow::Borrowed(run);
    }
    let other = |block: &Block| {
        if !is_other(block) {
            return block.clone();
        }
        let mut payload = bytes::BytesMut::with_capacity(block.payload.len() * 2);
        if wanted == Layout::Lines {
            let mut rest = block.payload.clone();
            while let Some((message, behind)) = split_counted(&rest) {
                push_line(&message, &mut payload);
                rest = behind;
            }
        } else {
            let lines = block.payload.strip_suffix(b"\n").unwrap_or(&block.payload);
            lines.split(|byte| *byte == b'\n').for_each(|line| push_counted(line, &mut payload));
        }
        Block { layout: wanted, payload: payload.freeze(), ..block.clone() }
    };
    Cow::Owned(run.iter().map(other).collect())
}

fn joined(run: &[Block]) -> Bytes {
    if let [block] = run {
        return block.payload.clone();
    }
    let mut body = Vec::with_capacity(run.iter().map(|block| block.payload.len()).sum());
    for block in run {
        body.extend_from_slice(&block.payload);
    }
    body.into()
}

/// One body of all records. A record whose quotes are not closed would swallow those behind it: it goes to the
/// quarantine before.
fn csv_records(plan: &Plan, run: &[Block], sink: &mut Sink<'_>) -> Result<()> {
    let mut body = Vec::with_capacity(plan.header.len() + run.iter().map(|block| block.payload.len()).sum::<usize>());
    body.extend_from_slice(&plan.header);
    for block in run {
        let mut rest = block.payload.clone();
        while let Some((message, behind)) = split_counted(&rest) {
            if memchr::memchr_iter(b'"', &message).count().is_multiple_of(2) {
                body.extend_from_slice(&message);
                body.push(b'\n');
            } else {
                let detail = "a quoted field of the record is not closed".to_owned();
                sink(Item::Quarantine(quarantined("row_quote_open", &message, detail)))?;
            }
            rest = behind;
        }
        left_over(&rest, sink)?;
    }
    csv::decode(&body, &plan.settings, sink).map(drop)
}

type Column = dyn Fn(&[Bytes], &mut Sink<'_>) -> Result<ArrayRef>;

/// One column `value` of the messages, each of which has its length in front.
fn values(run: &[Block], sink: &mut Sink<'_>, column: &Column) -> Result<()> {
    let mut part = Vec::new();
    for block in run {
        let mut rest = block.payload.clone();
        while let Some((message, behind)) = split_counted(&rest) {
            part.push(message);
            rest = behind;
            if part.len() == BATCH_ROWS {
                give(&std::mem::take(&mut part), sink, column)?;
            }
        }
        left_over(&rest, sink)?;
    }
    give(&part, sink, column)
}

fn give(part: &[Bytes], sink: &mut Sink<'_>, column: &Column) -> Result<()> {
    let array = column(part, sink)?;
    if array.is_empty() {
        return Ok(());
    }
    let field = Field::new("value", array.data_type().clone(), true);
    sink(Item::Batch(RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![array]).map_err(internal)?))
}

/// A message as a line. In JSON a line feed stands between values alone, where a space means the same.
pub(super) fn push_line(message: &[u8], payload: &mut bytes::BytesMut) {
    if memchr::memchr(b'\n', message).is_none() {
        payload.extend_from_slice(message);
    } else {
        payload.extend(message.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }));
    }
    payload.extend_from_slice(b"\n");
}

/// What is left of a block when its messages have been taken: none, unless it is not what it is taken for.
fn left_over(rest: &Bytes, sink: &mut Sink<'_>) -> Result<()> {
    if rest.is_empty() {
        return Ok(());
    }
    let detail = "a part of a block holds no messages of the source's format".to_owned();
    sink(Item::Quarantine(quarantined("intake_damaged", rest, detail)))
}

/// A message with its length in front, for [`split_counted`].
pub(super) fn push_counted(message: &[u8], payload: &mut bytes::BytesMut) {
    payload.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_le_bytes());
    payload.extend_from_slice(message);
}

fn split_counted(bytes: &Bytes) -> Option<(Bytes, Bytes)> {
    let head: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
    let end = (u32::from_le_bytes(head) as usize).checked_add(4)?;
    (end <= bytes.len()).then(|| (bytes.slice(4..end), bytes.slice(end..)))
}

fn add_origin(batch: RecordBatch, block: &Block) -> Result<RecordBatch> {
    let rows = batch.num_rows();
    let text = |bytes: &Bytes| {
        let text = String::from_utf8_lossy(bytes);
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(text, rows))) as ArrayRef
    };
    let instants = TimestampMicrosecondArray::from_iter_values(std::iter::repeat_n(block.received_us, rows));
    let mut fields = batch.schema().fields().to_vec();
    let mut columns = batch.columns().to_vec();
    let mut add = |name: &str, array: ArrayRef| {
        // A message's own member of that name stays what it is.
        if fields.iter().all(|field| field.name() != name) {
            fields.push(Arc::new(Field::new(name, array.data_type().clone(), true)));
            columns.push(array);
        }
    };
    add("peer", text(&block.peer));
    add("received_at", Arc::new(instants.with_timezone("UTC")));
    if !block.sender.is_empty() {
        add("sender", text(&block.sender));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(internal)
}

/// Keeps with a message whose columns it would have had.
fn of_origin(mut item: QuarantineItem, block: &Block) -> QuarantineItem {
    if item.column.is_none() {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned().into();
        let known =
            [("peer", text(&block.peer)), ("sender", text(&block.sender)), ("received_us", block.received_us.into())];
        kept::add(&mut item.row, known.into_iter().map(|(name, value)| (name.to_owned(), value)).collect());
    }
    item
}

/// Reads a message again that could not be read.
///
/// # Errors
/// As of [`rows`].
pub(super) fn retry(plan: &Plan, row: &KeptRow<'_>) -> Result<RetriedRow> {
    let is_whole = matches!(
        row.reason,
        "row_not_json" | "row_wrong_length" | "row_not_utf8" | "row_quote_open" | "message_not_utf8"
    );
    let Some(content) = kept::bytes(row).filter(|_| is_whole) else { return Ok(RetriedRow::Unable) };
    let text = |name: &str| row.row.get(name).and_then(Value::as_str);
    let received_us = row.row.get("received_us").and_then(Value::as_i64);
    let mut payload = bytes::BytesMut::new();
    let layout = plan.layout();
    match layout {
        Layout::Lines => push_line(&content, &mut payload),
        Layout::Counted | Layout::Unsaid => push_counted(&content, &mut payload),
    }
    let bytes = |name: &str| Bytes::copy_from_slice(text(name).unwrap_or_default().as_bytes());
    let (peer, sender) = (bytes("peer"), bytes("sender"));
    let received = received_us.unwrap_or_default();
    let payload = payload.freeze();
    let block = Block { kind: Kind::Data, layout, sender, peer, received_us: received, sequence: 0, payload };
    // What was not kept of its origin is not made up: the columns are NULL.
    let plan = Plan { origin: plan.origin && received_us.is_some(), ..plan.clone() };
    kept::retried(|sink| rows(&plan, &[block], sink))
}

/// What could not be taken as a message, as it went into the log: the reason, a line end, and what came.
fn rejected(block: &Block) -> QuarantineItem {
    let split = block.payload.iter().position(|byte| *byte == b'\n').unwrap_or(block.payload.len());
    let content = block.payload.get(split + 1..).unwrap_or_default();
    let told = String::from_utf8_lossy(&block.payload[..split]);
    let (code, detail) = told.split_once(' ').unwrap_or((&told, ""));
    let reason = REASONS.iter().find(|(reason, _)| *reason == code).map_or("message_rejected", |(reason, _)| reason);
    let detail = format!("{detail}; from {}", String::from_utf8_lossy(&block.peer));
    quarantined(reason, content, detail)
}

/// Why what arrives is no message: stable short reason → what it means.
pub(super) const REASONS: [(&str, &str); 3] = [
    ("message_too_large", "it has more bytes than max_message allows"),
    ("message_cut", "the connection ended before the message did"),
    ("message_unnumbered", "it does not begin with its number"),
];

/// A quarantined message.
pub(super) fn quarantined(reason: &'static str, content: &[u8], detail: String) -> QuarantineItem {
    let row = kept::place(None, content, None);
    QuarantineItem { reason, column: None, row, content: quarantine_text(content), detail }
}

fn internal(error: arrow::error::ArrowError) -> Error {
    Error::new(ErrorKind::Internal, "decode messages", "the rows do not fit together").with_cause(error)
}
