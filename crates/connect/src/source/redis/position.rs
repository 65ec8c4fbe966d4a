//! Where a stream or a group continues.

use portolan_model::{Error, ErrorKind, Position, Result};
use serde_json::json;

use super::entry::EntryId;
use super::plan::StreamPlan;

const VERSION: u32 = 1;

/// Where a stream without a group continues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StreamPosition {
    /// The last entry read, or passed over.
    pub(super) id: EntryId,
    /// Entries added to the stream up to it, as far as the server counts them.
    pub(super) added: Option<u64>,
}

/// What is known of a group's past. The server itself keeps where it continues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct GroupPosition {
    /// Entries given to the lake so far: tells one position from another.
    pub(super) entries: u64,
    /// Entries ever added to the stream that need no further thought: given to consumers, or shown as removed.
    pub(super) accounted: Option<u64>,
    /// The last read showed entries that were removed, and took none that are new.
    pub(super) shown: bool,
}

impl StreamPosition {
    pub(super) fn read(plan: &StreamPlan, position: &Position) -> Result<Self> {
        check(plan, position)?;
        Ok(Self { id: id(position, "id")?, added: position.value["added"].as_u64() })
    }

    pub(super) fn to_position(self, plan: &StreamPlan) -> Position {
        let Self { id, added } = self;
        let value = json!({ "stream": plan.stream, "database": plan.database, "id": id.to_string(), "added": added });
        Position::new(VERSION, value)
    }
}

impl GroupPosition {
    pub(super) fn read(plan: &StreamPlan, position: &Position) -> Result<Self> {
        check(plan, position)?;
        let entries = position.value["entries"].as_u64().ok_or_else(|| unreadable(position))?;
        let shown = position.value["shown"].as_bool().unwrap_or_default();
        Ok(Self { entries, accounted: position.value["accounted"].as_u64(), shown })
    }

    pub(super) fn to_position(self, plan: &StreamPlan) -> Position {
        let value = json!({
            "stream": plan.stream,
            "database": plan.database,
            "group": plan.group.as_ref().map(|group| &group.group),
            "entries": self.entries,
            "accounted": self.accounted,
            "shown": self.shown,
        });
        Position::new(VERSION, value)
    }
}

/// A position belongs to what it was read from.
fn check(plan: &StreamPlan, position: &Position) -> Result<()> {
    let value = &position.value;
    let group = plan.group.as_ref().map(|group| group.group.as_str());
    if position.version != VERSION || value["stream"].as_str().is_none() {
        return Err(unreadable(position));
    }
    let is_ours = value["stream"] == plan.stream.as_str() && value["database"].as_u64() == Some(plan.database.into());
    if !is_ours || value["group"].as_str() != group {
        let of = |stream: &str, database: u64, group: Option<&str>| {
            let group = group.map_or("no group".to_owned(), |group| format!("group `{group}`"));
            format!("stream `{stream}` of database {database} with {group}")
        };
        let theirs = of(
            value["stream"].as_str().unwrap_or_default(),
            value["database"].as_u64().unwrap_or_default(),
            value["group"].as_str(),
        );
        let message = format!(
            "the stored position is of {theirs}, the configuration reads {}",
            of(&plan.stream, plan.database.into(), group)
        );
        return Err(Error::new(ErrorKind::Configuration, "continue stream", message)
            .with_hint("give the source a new name to start again, or put the configuration back"));
    }
    Ok(())
}

fn id(position: &Position, name: &str) -> Result<EntryId> {
    let text = position.value[name].as_str().unwrap_or_default();
    EntryId::parse(text.as_bytes()).ok_or_else(|| unreadable(position))
}

fn unreadable(position: &Position) -> Error {
    let message = format!("the stored position {} is not one of this connector's", position.to_text());
    Error::new(ErrorKind::Configuration, "continue stream", message)
        .with_hint("give the source a new name to start again")
}
