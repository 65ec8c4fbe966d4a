//! The entries of a stream as a consumer of a group.
//!
//! The server keeps where the group stands and which entries of the consumer are pending. Each read gives the pending
//! ones first, which are those of a read that was not committed or not acknowledged; then new ones. Promise: an entry
//! is acknowledged only after the commit of its row; one that comes again is recognised by its id.

use std::sync::Arc;

use portolan_model::source::{Output, QuarantineItem, ReadEnd};
use portolan_model::{Error, ErrorKind, Position, Result};

use super::connection::{Connection, Silent};
use super::entry::{Entries, EntryId, GroupInfo, StreamInfo, push_entries, survey};
use super::error::refused;
use super::plan::{GroupPlan, StreamPlan, give};
use super::position::GroupPosition;
use super::reply::{Reply, Value};
use super::resp::Fault;
use super::rows::Table;
use super::stream::{PageSize, Reading, stream_info, trimmed};

/// Ids in one acknowledgement.
const ACKNOWLEDGED_AT_ONCE: usize = 1_000;

/// What one read has taken and not acknowledged yet.
#[derive(Debug, Default)]
pub(super) struct Taken {
    ids: Vec<EntryId>,
    position: Option<Position>,
}

/// Makes the group, and the stream with it, where there is none.
pub(super) async fn create(plan: &StreamPlan, group: &GroupPlan, connection: &mut Connection) -> Result<()> {
    connection.command(&[b"XGROUP", b"CREATE", plan.stream.as_bytes(), group.group.as_bytes(), b"0", b"MKSTREAM"]);
    connection.exchange(&mut Silent).await?;
    match connection.reply().peek() {
        Some(Value::Error(text)) if text.starts_with(b"BUSYGROUP") => {}
        _ => connection.check("create group", "XGROUP CREATE")?,
    }
    connection.consume();
    Ok(())
}

/// Reads what is pending and what is new.
pub(super) async fn read(
    plan: &Arc<StreamPlan>,
    group: &GroupPlan,
    connection: &mut Connection,
    page: &mut PageSize,
    taken: &mut Taken,
    from: Option<&Position>,
    output: &mut dyn Output,
) -> Result<Reading> {
    let before = from.map(|position| GroupPosition::read(plan, position)).transpose()?.unwrap_or_default();
    let mut reader =
        Reader { plan, group, page, ids: Vec::new(), table: Table::new(plan.layout.clone()), is_cut: false };
    connection.command(&[b"XINFO", b"STREAM", plan.stream.as_bytes()]);
    connection.command(&[b"XINFO", b"GROUPS", plan.stream.as_bytes()]);
    connection.release(output).await?;
    connection.pass_large(true);
    connection.receive(output).await?;
    connection.pass_large(false);
    let Some(info) = stream_info(connection)? else {
        // The second answer says the same.
        connection.receive(output).await?;
        return Err(no_group(plan, group, "there is no stream"));
    };
    connection.receive(output).await?;
    connection.check("read group", "XINFO GROUPS")?;
    let found = GroupInfo::find(connection.reply(), group.group.as_bytes()).map_err(|fault| refused(&fault))?;
    connection.consume();
    let Some(state) = found else { return Err(no_group(plan, group, "the stream has no group")) };

    let mut more = reader.pending(connection, output).await?;
    let mut accounted = before.accounted.max(state.read);
    let mut shown = before.shown;
    if !more {
        let mut has_gap = false;
        if matches!((before.accounted, info.added), (Some(before), Some(added)) if before > added) {
            output.quarantine(recreated_group(plan, &before, &info)).await?;
            // What was given of the new one; before its first entry is given, all that is gone is a loss.
            accounted = state.read.or_else(|| (state.delivered == EntryId::default()).then_some(0));
            has_gap = true;
        }
        if let Some((count, first)) = removed(&info, &state, accounted) {
            output.quarantine(trimmed(&plan.stream, count, state.delivered, first)).await?;
            accounted = info.removed();
            has_gap = true;
        }
        // Shown and stored before the group goes on, because the server then forgets it. Not twice in a row: who cuts a
        // stream off all the time would never have it read.
        shown = has_gap && !before.shown;
        if shown {
            more = true;
        } else {
            let taken_before = reader.ids.len();
            more = reader.fresh(connection, info.last, output).await?;
            let is_new = state.delivered == EntryId::default();
            let known = accounted.or(info.removed().filter(|_| is_new));
            let fresh = (reader.ids.len() - taken_before) as u64;
            accounted = if more { known.map(|known| known + fresh) } else { info.added };
        }
    }
    give(reader.table.take()?, output).await?;
    let ids = std::mem::take(&mut reader.ids);
    let is_begun = from.is_some() || !ids.is_empty() || more;
    let after = GroupPosition { entries: before.entries + ids.len() as u64, accounted, shown };
    let position = is_begun.then(|| after.to_position(plan));
    *taken = Taken { ids, position: position.clone() };
    Ok(Reading { end: ReadEnd { position, more, ..ReadEnd::default() }, is_cut: reader.is_cut })
}

/// Tells the server that what the read with this position took is safe.
pub(super) async fn acknowledge(
    plan: &StreamPlan,
    group: &GroupPlan,
    connection: &mut Connection,
    taken: &mut Taken,
) -> Result<()> {
    for ids in taken.ids.chunks(ACKNOWLEDGED_AT_ONCE) {
        let texts: Vec<String> = ids.iter().map(EntryId::to_string).collect();
        let mut command: Vec<&[u8]> = vec![b"XACK", plan.stream.as_bytes(), group.group.as_bytes()];
        command.extend(texts.iter().map(|text| text.as_bytes()));
        connection.command(&command);
        connection.exchange(&mut Silent).await?;
        connection.check("acknowledge", "XACK")?;
        connection.consume();
    }
    *taken = Taken::default();
    Ok(())
}

impl Taken {
    /// Whether it is what the read with this position took, and not an earlier one.
    pub(super) fn is_of(&self, position: &Position) -> bool {
        !self.ids.is_empty() && self.position.as_ref() == Some(position)
    }
}

struct Reader<'a> {
    plan: &'a StreamPlan,
    group: &'a GroupPlan,
    page: &'a mut PageSize,
    ids: Vec<EntryId>,
    table: Table,
    /// The last page was too large, and the rest of it is still under way.
    is_cut: bool,
}

impl Reader<'_> {
    /// What the consumer was given before and has not acknowledged. Whether it is not all.
    async fn pending(&mut self, connection: &mut Connection, output: &mut dyn Output) -> Result<bool> {
        let mut after = EntryId::default();
        loop {
            let Some((_, seen)) = self.page(connection, after.to_string().as_bytes(), output).await? else {
                return Ok(true);
            };
            let Some(last) = seen.last else { return Ok(false) };
            if last <= after {
                return Err(refused(&Fault::Malformed("pending entries that do not rise")));
            }
            after = last;
            if self.is_enough(output) {
                return Ok(true);
            }
        }
    }

    /// What nobody was given yet, up to `last`. Whether it is not all.
    async fn fresh(&mut self, connection: &mut Connection, last: EntryId, output: &mut dyn Output) -> Result<bool> {
        loop {
            if self.is_enough(output) {
                return Ok(true);
            }
            let Some((asked, seen)) = self.page(connection, b">", output).await? else { return Ok(true) };
            if seen.count < asked || seen.last.is_none_or(|seen| seen >= last) {
                return Ok(false);
            }
        }
    }

    /// Whether to end here. Something has been taken: the read has moved on.
    fn is_enough(&self, output: &dyn Output) -> bool {
        !self.ids.is_empty() && (output.is_enough() || self.ids.len() >= self.group.entries_max)
    }

    /// One page: how many entries were asked for, and what came; `None` if it is too large, and what has come before it is
    /// to be stored first.
    async fn page(
        &mut self,
        connection: &mut Connection,
        after: &[u8],
        output: &mut dyn Output,
    ) -> Result<Option<(u32, Entries)>> {
        let left = self.group.entries_max.saturating_sub(self.ids.len()).max(1);
        let asked = self.page.next().min(u32::try_from(left).unwrap_or(u32::MAX));
        let count = asked.to_string();
        let (group, consumer) = (self.group.group.as_bytes(), self.group.consumer.as_bytes());
        let stream = self.plan.stream.as_bytes();
        connection.command(&[
            b"XREADGROUP",
            b"GROUP",
            group,
            consumer,
            b"COUNT",
            count.as_bytes(),
            b"STREAMS",
            stream,
            after,
        ]);
        connection.flush().await?;
        if let Err(error) = connection.receive(output).await {
            if error.kind() == ErrorKind::Limit {
                // They are pending now and come again, fewer at once.
                self.page.shrink();
                self.is_cut = !self.ids.is_empty();
                if self.is_cut {
                    return Ok(None);
                }
            }
            return Err(error);
        }
        connection.check("read group", "XREADGROUP")?;
        let malformed = |fault: Fault| refused(&fault);
        let seen = match entries(connection.reply()).map_err(malformed)? {
            None => Entries::default(),
            Some(reply) => {
                let seen = survey(reply.clone(), &mut |id| self.ids.push(id)).map_err(malformed)?;
                push_entries(reply, &mut self.table).map_err(malformed)?;
                seen
            }
        };
        self.page.measure(seen.count, connection.reply_bytes());
        connection.consume();
        if self.table.is_full() {
            give(self.table.take()?, output).await?;
        }
        Ok(Some((asked, seen)))
    }
}

/// The entries of the one stream that was asked for: RESP2 answers a list of pairs, RESP3 a map.
fn entries(mut reply: Reply<'_>) -> Result<Option<Reply<'_>>, Fault> {
    match reply.next() {
        Some(Value::Null | Value::Array(0)) => return Ok(None),
        Some(Value::Array(_)) => {}
        _ => return Err(Fault::Malformed("no streams where they belong")),
    }
    if matches!(reply.peek(), Some(Value::Array(_))) {
        reply.next();
    }
    reply.text()?;
    Ok(Some(reply))
}

/// How many entries were removed before the group was given them, and the end of the gap. `accounted` are those,
/// counted from the first ever added, that were given to consumers or have been shown.
fn removed(info: &StreamInfo, state: &GroupInfo, accounted: Option<u64>) -> Option<(u64, EntryId)> {
    let end = info.first.or(info.last.next())?;
    // Otherwise what is gone is in front of what the group has had.
    let all_are_new = end > state.delivered && info.last > state.delivered;
    let count = info.removed()?.checked_sub(accounted?)?;
    (all_are_new && count > 0).then_some((count, end))
}

fn recreated_group(plan: &StreamPlan, before: &GroupPosition, info: &StreamInfo) -> QuarantineItem {
    QuarantineItem {
        reason: "stream_recreated",
        column: None,
        row: serde_json::json!({ "stream": plan.stream }),
        content: format!("last id {}, entries added {:?}", info.last, info.added),
        detail: format!(
            "the stream is not the one of which {} entries were accounted for: it was deleted and made anew, and the group \
             with it. What was added to the old one and not read is lost",
            before.accounted.unwrap_or_default()
        ),
    }
}

fn no_group(plan: &StreamPlan, group: &GroupPlan, what: &str) -> Error {
    let (stream, name) = (&plan.stream, &group.group);
    Error::new(ErrorKind::NotFound, "read group", format!("{what} (stream `{stream}`, group `{name}`)")).with_hint(
        format!("redis-cli -n {} XGROUP CREATE '{stream}' '{name}' 0 MKSTREAM, or create_group = true", plan.database),
    )
}
