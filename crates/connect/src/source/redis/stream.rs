//! The entries of a stream after a position, page by page.
//!
//! A read takes what the stream holds when it begins: `XINFO STREAM` tells the last id, and pages come from the
//! position up to it by `XRANGE`, which gives what `XREAD` gives and knows an end. Promise: each entry comes once;
//! entries that were removed before they were read are counted, by what the server has ever added, and shown in the
//! quarantine.

use std::cmp::Ordering;
use std::sync::Arc;

use portolan_model::source::{Output, QuarantineItem, ReadEnd};
use portolan_model::{ErrorKind, Position, Result};

use super::connection::Connection;
use super::entry::{EntryId, StreamInfo, push_entries, survey};
use super::error::refused;
use super::plan::{StreamPlan, give};
use super::position::StreamPosition;
use super::reply::Value;
use super::rows::Table;

/// A page should not be larger than this, in bytes.
const PAGE_BYTES: usize = 2 << 20;
/// Entries of the first page, before their size is known.
const ENTRIES_AT_FIRST: u32 = 8;
/// How fast pages grow.
const GROWTH: u32 = 8;

/// How many entries the next page has.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageSize {
    next: u32,
    limit: u32,
    /// What the limit was at first; it returns to it when entries are small again.
    most: u32,
}

impl PageSize {
    pub(super) fn new(limit: u32) -> Self {
        Self { next: ENTRIES_AT_FIRST.min(limit), limit, most: limit }
    }

    pub(super) fn next(self) -> u32 {
        self.next
    }

    /// A page of so many entries had so many bytes.
    pub(super) fn measure(&mut self, entries: u32, bytes: usize) {
        if entries > 0 {
            let fitting = (PAGE_BYTES / (bytes / entries as usize).max(1)).clamp(1, self.limit as usize) as u32;
            self.next = fitting.min(self.next.saturating_mul(GROWTH)).max(1);
            if fitting >= self.limit {
                self.limit = self.limit.saturating_mul(2).min(self.most);
            }
        }
    }

    /// A page was larger than allowed.
    pub(super) fn shrink(&mut self) {
        self.limit = (self.next / GROWTH).max(1);
        self.next = self.limit;
    }
}

/// How a read came to its end.
pub(super) struct Reading {
    pub(super) end: ReadEnd,
    /// Replies are still under way: the connection is of no use any more.
    pub(super) is_cut: bool,
}

/// Reads the entries after `from`.
pub(super) async fn read(
    plan: &Arc<StreamPlan>,
    connection: &mut Connection,
    page: &mut PageSize,
    from: Option<&Position>,
    output: &mut dyn Output,
) -> Result<Reading> {
    let before = from.map(|position| StreamPosition::read(plan, position)).transpose()?;
    connection.command(&[b"XINFO", b"STREAM", plan.stream.as_bytes()]);
    connection.release(output).await?;
    // It holds the first and the last entry, of which the ids are wanted alone.
    connection.pass_large(true);
    connection.receive(output).await?;
    connection.pass_large(false);
    let ended = |position: Option<Position>, more| Reading {
        end: ReadEnd { position, more, ..ReadEnd::default() },
        is_cut: false,
    };
    let Some(info) = stream_info(connection)? else { return Ok(ended(from.cloned(), false)) };
    let (mut at, items) = begin(plan, before, &info);
    for item in items {
        output.quarantine(item).await?;
    }
    let start = at;
    let mut table = Table::new(plan.layout.clone());
    let mut entries = 0_u64;
    let ask = |connection: &mut Connection, after: EntryId, count: u32| {
        let first = after.next().unwrap_or(after).to_string();
        let (last, count) = (info.last.to_string(), count.to_string());
        connection.command(&[
            b"XRANGE",
            plan.stream.as_bytes(),
            first.as_bytes(),
            last.as_bytes(),
            b"COUNT",
            count.as_bytes(),
        ]);
    };
    let mut is_asked = at.id < info.last;
    let mut more = false;
    if is_asked {
        ask(connection, at.id, page.next());
        connection.flush().await?;
    }
    while is_asked {
        match connection.receive(output).await {
            Ok(()) => {}
            // Large entries after small ones: what has come is kept, and the next read goes on with smaller pages.
            Err(error) if error.kind() == ErrorKind::Limit && entries > 0 => {
                page.shrink();
                give(table.take()?, output).await?;
                let end = ReadEnd { position: Some(at.to_position(plan)), more: true, ..ReadEnd::default() };
                return Ok(Reading { end, is_cut: true });
            }
            Err(error) => {
                if error.kind() == ErrorKind::Limit {
                    page.shrink();
                }
                return Err(error);
            }
        }
        connection.check("read stream", "XRANGE")?;
        let seen = survey(connection.reply(), &mut |_| {}).map_err(|fault| refused(&fault))?;
        let asked = page.next();
        page.measure(seen.count, connection.reply_bytes());
        entries += u64::from(seen.count);
        let last = seen.last.unwrap_or(info.last).max(at.id);
        let is_last = seen.count < asked || last >= info.last;
        is_asked = !is_last && !output.is_enough();
        more = !is_last && !is_asked;
        if is_asked {
            ask(connection, last, page.next());
            connection.flush().await?;
        }
        push_entries(connection.reply(), &mut table).map_err(|fault| refused(&fault))?;
        connection.consume();
        at = StreamPosition { id: last, added: at.added.map(|added| added + u64::from(seen.count)) };
        if table.is_full() || !is_asked {
            give(table.take()?, output).await?;
        }
    }
    if !more {
        if let Some(item) = missed(plan, start, at, &info) {
            output.quarantine(item).await?;
        }
        at = StreamPosition { id: at.id.max(info.last), added: info.added };
    }
    let is_begun = from.is_some() || entries > 0 || info.last != EntryId::default();
    Ok(ended(is_begun.then(|| at.to_position(plan)), more))
}

/// The answer to `XINFO STREAM`; `None` if there is no stream.
pub(super) fn stream_info(connection: &mut Connection) -> Result<Option<StreamInfo>> {
    if let Some(Value::Error(text)) = connection.reply().peek()
        && text.starts_with(b"ERR no such key")
    {
        connection.consume();
        return Ok(None);
    }
    connection.check("read stream", "XINFO STREAM")?;
    let info = StreamInfo::read(connection.reply()).map_err(|fault| refused(&fault))?;
    connection.consume();
    Ok(Some(info))
}

/// Where the read begins, and what is to be shown of what is gone.
fn begin(
    plan: &StreamPlan,
    before: Option<StreamPosition>,
    info: &StreamInfo,
) -> (StreamPosition, Vec<QuarantineItem>) {
    let removed = info.removed();
    let Some(before) = before else {
        // What was removed before this source existed is not its loss.
        return (StreamPosition { id: EntryId::default(), added: removed }, Vec::new());
    };
    let all_are_new = info.first.is_some_and(|first| first > before.id);
    let is_another = info.last < before.id
        || matches!((before.added, info.added), (Some(before), Some(now)) if now < before)
        // All it holds is new, and with what was removed it is less than what had been added before.
        || (all_are_new && matches!((before.added, removed), (Some(before), Some(removed)) if removed < before));
    if is_another {
        let item = recreated(plan, before, info);
        return (StreamPosition { id: EntryId::default(), added: removed }, vec![item]);
    }
    match (all_are_new, before.added, removed) {
        (true, Some(known), Some(removed)) if removed > known => {
            let item = trimmed(&plan.stream, removed - known, before.id, info.first.unwrap_or_default());
            (StreamPosition { added: Some(removed), ..before }, vec![item])
        }
        _ => (before, Vec::new()),
    }
}

/// What the server has counted and was not read: entries that were removed between others or while they were read.
fn missed(plan: &StreamPlan, start: StreamPosition, end: StreamPosition, info: &StreamInfo) -> Option<QuarantineItem> {
    let (counted, read) = (info.added?, end.added?);
    let after_last = info.last.next().unwrap_or(info.last);
    match counted.cmp(&read) {
        Ordering::Equal => None,
        Ordering::Greater => Some(trimmed(&plan.stream, counted - read, start.id, after_last)),
        // It holds ids of before and after the position, yet fewer were added than had been read.
        Ordering::Less => Some(recreated(plan, start, info)),
    }
}

/// What is shown of entries that were removed before they were read.
pub(super) fn trimmed(stream: &str, count: u64, after: EntryId, before: EntryId) -> QuarantineItem {
    QuarantineItem {
        reason: "stream_trimmed",
        column: None,
        row: serde_json::json!({ "stream": stream, "after": after.to_string(), "before": before.to_string() }),
        content: format!("{count} entries"),
        detail: format!(
            "{count} entries after {after} and before {before} were removed (MAXLEN, MINID, XTRIM or XDEL) before they \
             were read: keep more of the stream, or read more often"
        ),
    }
}

fn recreated(plan: &StreamPlan, before: StreamPosition, info: &StreamInfo) -> QuarantineItem {
    QuarantineItem {
        reason: "stream_recreated",
        column: None,
        row: serde_json::json!({ "stream": plan.stream, "after": before.id.to_string() }),
        content: format!("last id {}, entries added {:?}", info.last, info.added),
        detail: format!(
            "the stream is not the one that was read up to {}: it was deleted and made anew. What was added to the old \
             one after that id is lost. The new one is read from its beginning, unless it goes beyond that id and begins \
             before it: then entries up to it are passed over",
            before.id
        ),
    }
}
