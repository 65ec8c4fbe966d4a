//! The entries of a stream: their ids, what `XINFO` says of them, and their rows.

use std::fmt;

use portolan_model::source::QuarantineItem;

use super::reply::{Reply, Value};
use super::resp::Fault;
use super::rows::{RECORD_FIELDS_MAX, Table};
use crate::format::{CONTENT_BYTES_MAX, quarantine_text};

/// The id of an entry: milliseconds and a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryId {
    ms: u64,
    sequence: u64,
}

impl EntryId {
    /// Reads the written form, `ms-sequence`.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (ms, sequence) = std::str::from_utf8(text).ok()?.split_once('-')?;
        let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        Some(Self { ms: number(ms)?, sequence: number(sequence)? })
    }

    /// The least id above this one; `None` above the highest of all.
    pub(super) fn next(self) -> Option<Self> {
        match self.sequence.checked_add(1) {
            Some(sequence) => Some(Self { sequence, ..self }),
            None => Some(Self { ms: self.ms.checked_add(1)?, sequence: 0 }),
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.ms, self.sequence)
    }
}

/// What was seen of a list of entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// How many there were, deleted ones included.
    pub count: u32,
    /// The id of the last one.
    pub last: Option<EntryId>,
}

/// Looks at a list of entries without making rows, so that the next page can be asked for early.
///
/// # Errors
/// It is no list of entries.
pub fn survey(mut reply: Reply<'_>, ids: &mut dyn FnMut(EntryId)) -> Result<Entries, Fault> {
    let mut entries = Entries::default();
    if matches!(reply.peek(), Some(Value::Null)) {
        return Ok(entries);
    }
    for _ in 0..reply.array()? {
        let id = entry_head(&mut reply)?;
        reply.pass();
        ids(id);
        entries.count += 1;
        entries.last = Some(id);
    }
    Ok(entries)
}

fn entry_head(reply: &mut Reply<'_>) -> Result<EntryId, Fault> {
    if reply.array()? != 2 {
        return Err(Fault::Malformed("an entry that is no pair"));
    }
    EntryId::parse(reply.text()?).ok_or(Fault::Malformed("an entry's id that is none"))
}

/// Makes rows of a list of entries. One that a group has still pending though it is gone goes to the quarantine.
///
/// # Errors
/// It is no list of entries.
pub fn push_entries(mut reply: Reply<'_>, table: &mut Table) -> Result<(), Fault> {
    if matches!(reply.peek(), Some(Value::Null)) {
        return Ok(());
    }
    for _ in 0..reply.array()? {
        let id = entry_head(&mut reply)?;
        let count = match reply.next() {
            Some(Value::Array(count)) if count % 2 == 0 => count / 2,
            Some(Value::Null) => {
                table.quarantine(gone(id));
                continue;
            }
            _ => return Err(Fault::Malformed("an entry without its fields")),
        };
        if count as usize > RECORD_FIELDS_MAX {
            table.quarantine(too_wide(id, count as usize, &mut reply)?);
            continue;
        }
        table.begin(id.to_string().as_bytes());
        for _ in 0..count {
            let (name, value) = (reply.text()?, reply.text()?);
            table.field(name, value);
        }
        table.end();
    }
    Ok(())
}

/// An entry with more fields than a row has columns.
fn too_wide(id: EntryId, fields: usize, reply: &mut Reply<'_>) -> Result<QuarantineItem, Fault> {
    let mut content = Vec::new();
    for _ in 0..fields {
        let (name, value) = (reply.text()?, reply.text()?);
        for part in [name, b"=", value, b"\n"] {
            let left = CONTENT_BYTES_MAX.saturating_sub(content.len());
            content.extend_from_slice(&part[..part.len().min(left)]);
        }
    }
    Ok(QuarantineItem {
        reason: "entry_too_wide",
        column: None,
        row: serde_json::json!({ "id": id.to_string() }),
        content: quarantine_text(&content),
        detail: format!("an entry with {fields} fields, more than {RECORD_FIELDS_MAX}, is no record"),
    })
}

/// An entry that was delivered to the consumer and removed before it was stored.
fn gone(id: EntryId) -> QuarantineItem {
    QuarantineItem {
        reason: "stream_trimmed",
        column: None,
        row: serde_json::json!({ "id": id.to_string() }),
        content: id.to_string(),
        detail: "the entry was pending and has been removed from the stream: its content is lost".into(),
    }
}

/// What `XINFO STREAM` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamInfo {
    /// Entries in it.
    pub length: u64,
    /// The highest id ever given.
    pub last: EntryId,
    /// The first entry's id.
    pub first: Option<EntryId>,
    /// Entries ever added (Redis 7).
    pub added: Option<u64>,
}

impl StreamInfo {
    /// Entries that were ever added and are gone.
    pub(super) fn removed(&self) -> Option<u64> {
        self.added.map(|added| added.saturating_sub(self.length))
    }

    /// Reads the answer of `XINFO STREAM`.
    ///
    /// # Errors
    /// It is none.
    pub fn read(mut reply: Reply<'_>) -> Result<Self, Fault> {
        let mut info = Self::default();
        for _ in 0..reply.array()? / 2 {
            match reply.text()? {
                b"length" => info.length = unsigned(&mut reply)?,
                b"entries-added" => info.added = Some(unsigned(&mut reply)?),
                b"last-generated-id" => {
                    info.last = EntryId::parse(reply.text()?).ok_or(Fault::Malformed("an entry's id that is none"))?;
                }
                b"first-entry" => {
                    let mut entry = reply.clone();
                    if matches!(entry.peek(), Some(Value::Array(_))) {
                        info.first = Some(entry_head(&mut entry)?);
                    }
                    reply.pass();
                }
                _ => reply.pass(),
            }
        }
        Ok(info)
    }
}

/// What `XINFO GROUPS` says of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupInfo {
    /// The last entry given to a consumer.
    pub delivered: EntryId,
    /// Entries given to consumers, counted from the first ever added (Redis 7); `None` where the server does not know.
    pub read: Option<u64>,
}

impl GroupInfo {
    /// Finds a group in the answer of `XINFO GROUPS`.
    ///
    /// # Errors
    /// It is none.
    pub fn find(mut reply: Reply<'_>, name: &[u8]) -> Result<Option<Self>, Fault> {
        for _ in 0..reply.array()? {
            let (mut info, mut is_it) = (Self::default(), false);
            for _ in 0..reply.array()? / 2 {
                match reply.text()? {
                    b"name" => is_it = reply.text()? == name,
                    b"last-delivered-id" => {
                        info.delivered =
                            EntryId::parse(reply.text()?).ok_or(Fault::Malformed("an entry's id that is none"))?;
                    }
                    b"entries-read" if !matches!(reply.peek(), Some(Value::Null)) => {
                        info.read = Some(unsigned(&mut reply)?);
                    }
                    _ => reply.pass(),
                }
            }
            if is_it {
                return Ok(Some(info));
            }
        }
        Ok(None)
    }
}

fn unsigned(reply: &mut Reply<'_>) -> Result<u64, Fault> {
    u64::try_from(reply.integer()?).map_err(|_| Fault::Malformed("a negative number where none belongs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_an_order_and_a_form() {
        let id = |text: &str| EntryId::parse(text.as_bytes());
        assert!(id("2-0") > id("1-18446744073709551615"));
        assert_eq!(id("1-18446744073709551615").unwrap().next(), id("2-0"));
        assert_eq!(id("18446744073709551615-18446744073709551615").unwrap().next(), None);
        assert_eq!(id("1526919030474-55").unwrap().to_string(), "1526919030474-55");
        for bad in ["", "1", "-", "1-", "+1-1", "a-1", "1-1-1", "18446744073709551616-0"] {
            assert_eq!(id(bad), None, "{bad}");
        }
    }
}
