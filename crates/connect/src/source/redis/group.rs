//! The entries of a stream as a consumer of a group.
//!
//! The server keeps where the group stands and which entries of the consumer are pending. Each read gives the pending
//! ones first, which are those of a read that was not committed or not acknowledged; then new ones. Promise: an entry is
//! acknowledged only after the commit of its row; one that comes again is recognised by its id.

use std::sync::Arc;

use portolan_model::source::{Output, ReadEnd};
use portolan_model::{Error, ErrorKind, Position, Result};

use super::connection::{Connection, Silent};
use super::entry::{Entries, EntryId, GroupInfo, StreamInfo, push_entries, survey};
use super::error::refused;
use super::plan::{GroupPlan, StreamPlan, give};
use super::position::GroupPosition;
use super::resp::{Fault, Reply, Value};
use super::rows::Table;
use super::stream::{PageSize, Reading, stream_info, trimmed};

/// Entries that one read takes at most: their ids are kept until they are acknowledged, 16 bytes each.
const ENTRIES_MAX: usize = 1 << 20;
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
    let mut reader = Reader { plan, group, page, ids: Vec::new(), table: Table::new(plan.layout.clone()) };
    connection.command(&[b"XINFO", b"STREAM", plan.stream.as_bytes()]);
    connection.command(&[b"XINFO", b"GROUPS", plan.stream.as_bytes()]);
    connection.release(output).await?;
    connection.receive(output).await?;
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

    let mut shown = before.shown;
    let mut more = reader.pending(connection, output).await?;
    if !more {
        match removed(&info, &state) {
            // Shown and stored before the group goes on, because the server then forgets it.
            Some((count, first)) if first > before.shown => {
                output.quarantine(trimmed(&plan.stream, count, state.delivered, first)).await?;
                shown = first;
                more = true;
            }
            _ => more = reader.fresh(connection, info.last, output).await?,
        }
    }
    give(reader.table.take()?, output).await?;
    let ids = reader.ids;
    let after = GroupPosition { entries: before.entries + ids.len() as u64, shown };
    let position = if after == before && from.is_none() { None } else { Some(after.to_position(plan)) };
    *taken = Taken { ids, position: position.clone() };
    Ok(Reading { end: ReadEnd { position, more, ..ReadEnd::default() }, is_cut: false })
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
}

impl Reader<'_> {
    /// What the consumer was given before and has not acknowledged. Whether it is not all.
    async fn pending(&mut self, connection: &mut Connection, output: &mut dyn Output) -> Result<bool> {
        let mut after = EntryId::default();
        loop {
            let seen = self.page(connection, after.to_string().as_bytes(), output).await?;
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
            let asked = self.page.next();
            let seen = self.page(connection, b">", output).await?;
            if seen.count < asked || seen.last.is_none_or(|seen| seen >= last) {
                return Ok(false);
            }
            if self.is_enough(output) {
                return Ok(true);
            }
        }
    }

    fn is_enough(&self, output: &dyn Output) -> bool {
        output.is_enough() || self.ids.len() >= ENTRIES_MAX
    }

    async fn page(&mut self, connection: &mut Connection, after: &[u8], output: &mut dyn Output) -> Result<Entries> {
        let count = self.page.next().to_string();
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
        Ok(seen)
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

/// How many entries were removed before the group was given them, and the first that is left.
fn removed(info: &StreamInfo, state: &GroupInfo) -> Option<(u64, EntryId)> {
    let first = info.first.unwrap_or(info.last);
    if first <= state.delivered {
        return None;
    }
    // All that the stream holds is new to the group.
    let count = info.added?.checked_sub(info.length)?.checked_sub(state.read?)?;
    (count > 0).then_some((count, first))
}

fn no_group(plan: &StreamPlan, group: &GroupPlan, what: &str) -> Error {
    let (stream, name) = (&plan.stream, &group.group);
    Error::new(ErrorKind::NotFound, "read group", format!("{what} (stream `{stream}`, group `{name}`)")).with_hint(
        format!("redis-cli -n {} XGROUP CREATE '{stream}' '{name}' 0 MKSTREAM, or create_group = true", plan.database),
    )
}
