//! Keys by pattern: `SCAN`, and for each page of it the reads of its keys, pipelined.
//!
//! The commands of the next keys leave while the replies of those before are decoded. How many are under way follows
//! from the size of what came lately, so that neither side holds more than about [`AHEAD_BYTES`]. A collection that
//! does not fit one page is put aside and read page by page, alone. Promise: a key or element is given once, as far as
//! [`Window`] reaches; a key that vanishes or changes its type meanwhile is left out.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use portolan_model::source::{Output, QuarantineItem};
use portolan_model::{Error, ErrorKind, Result};

use super::connection::Connection;
use super::error::refused;
use super::plan::{FieldsAs, KeyKind, KeyPlan, give};
use super::reply::{Reply, Value};
use super::resp::Fault;
use super::rows::{Fixed, RECORD_FIELDS_MAX, Table};
use super::window::Window;
use crate::format::quarantine_text;

/// Replies that are asked for ahead, in bytes, as far as can be known.
const AHEAD_BYTES: usize = 2 << 20;
/// Keys asked for at first, before their size is known.
const KEYS_AT_FIRST: usize = 32;

/// A key and the type it has.
struct Key {
    name: Vec<u8>,
    kind: KeyKind,
}

/// A reply that is due.
enum Expected {
    Page,
    Type(Vec<u8>),
    Ttl,
    Read(Key),
}

/// One read of the keys.
pub(super) struct Walk<'a> {
    plan: &'a Arc<KeyPlan>,
    connection: &'a mut Connection,
    output: &'a mut dyn Output,
    table: Table,
    window: Window,
    expected: VecDeque<Expected>,
    /// Keys found; `None` where the type is still to be asked.
    found: VecDeque<(Vec<u8>, Option<KeyKind>)>,
    /// Collections that need several pages.
    large: VecDeque<Key>,
    /// Where the scan goes on; `None` while a page is under way and after the last.
    cursor: Option<Vec<u8>>,
    /// Keys whose reads are under way.
    ahead: usize,
    ahead_max: usize,
    ttl: Option<i64>,
    bytes_a_key: f64,
}

/// What a page of a collection said.
struct Page {
    /// Where the next one begins; `None` after the last.
    next: Option<Vec<u8>>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(plan: &'a Arc<KeyPlan>, connection: &'a mut Connection, output: &'a mut dyn Output) -> Self {
        Self {
            table: Table::new(plan.layout.clone()),
            plan,
            connection,
            output,
            window: Window::default(),
            expected: VecDeque::new(),
            found: VecDeque::new(),
            large: VecDeque::new(),
            cursor: Some(b"0".to_vec()),
            ahead: 0,
            ahead_max: KEYS_AT_FIRST,
            ttl: None,
            bytes_a_key: 0.0,
        }
    }

    /// Reads every key.
    pub(super) async fn run(mut self) -> Result<()> {
        self.ask();
        self.connection.release(self.output).await?;
        while let Some(expected) = self.expected.pop_front() {
            self.receive(&expected).await?;
            self.take(expected)?;
            self.connection.consume();
            self.give_if_full().await?;
            if self.expected.is_empty() {
                while let Some(key) = self.large.pop_front() {
                    self.read_in_pages(key).await?;
                }
            }
            if self.ahead <= self.ahead_max / 2 && self.ask() {
                self.connection.flush().await?;
            }
        }
        give(self.table.take()?, self.output).await
    }

    /// Adds the commands of what may be under way by now. Whether there are some.
    fn ask(&mut self) -> bool {
        let before = self.expected.len();
        // A collection read in pages is read alone, before others.
        if !self.large.is_empty() {
            return false;
        }
        if self.found.len() < self.ahead_max
            && let Some(cursor) = self.cursor.take()
        {
            let count = self.plan.count.to_string();
            let mut command: Vec<&[u8]> =
                vec![b"SCAN", &cursor, b"MATCH", self.plan.pattern.as_bytes(), b"COUNT", count.as_bytes()];
            if let Some(kind) = self.plan.kind {
                command.extend([&b"TYPE"[..], kind.as_str().as_bytes()]);
            }
            self.connection.command(&command);
            self.expected.push_back(Expected::Page);
        }
        while self.ahead < self.ahead_max
            && let Some((name, kind)) = self.found.pop_front()
        {
            self.ahead += 1;
            match kind {
                None => {
                    self.connection.command(&[b"TYPE", &name]);
                    self.expected.push_back(Expected::Type(name));
                }
                Some(kind) => {
                    self.connection.command(&[b"PTTL", &name]);
                    self.expected.push_back(Expected::Ttl);
                    self.command_page(&name, kind, b"0");
                    self.expected.push_back(Expected::Read(Key { name, kind }));
                }
            }
        }
        self.expected.len() > before
    }

    /// The command for one page of a key.
    fn command_page(&mut self, name: &[u8], kind: KeyKind, from: &[u8]) {
        let count = self.plan.count.to_string();
        let scan = |command: &'static [u8]| [command, name, from, b"COUNT", count.as_bytes()];
        match kind {
            KeyKind::String => self.connection.command(&[b"GET", name]),
            KeyKind::Hash => self.connection.command(&scan(b"HSCAN")),
            KeyKind::Set => self.connection.command(&scan(b"SSCAN")),
            KeyKind::Zset => self.connection.command(&scan(b"ZSCAN")),
            KeyKind::List => {
                let first: u64 = std::str::from_utf8(from).ok().and_then(|from| from.parse().ok()).unwrap_or_default();
                let last = first + u64::from(self.plan.count) - 1;
                self.connection.command(&[b"LRANGE", name, from, last.to_string().as_bytes()]);
            }
        }
    }

    async fn receive(&mut self, expected: &Expected) -> Result<()> {
        let received = self.connection.receive(self.output).await;
        match expected {
            Expected::Read(key) => received.map_err(|error| of_key(error, &key.name)),
            _ => received,
        }
    }

    /// Takes one reply.
    fn take(&mut self, expected: Expected) -> Result<()> {
        let has_failed = matches!(self.connection.reply().peek(), Some(Value::Error(_)));
        let malformed = |fault: Fault| refused(&fault);
        match expected {
            Expected::Page => {
                self.connection.check("scan keys", "SCAN")?;
                let mut reply = self.connection.reply();
                let page = scan_page(&mut reply).map_err(malformed)?;
                self.cursor = page.next;
                for _ in 0..reply.array().map_err(malformed)? {
                    let name = reply.text().map_err(malformed)?;
                    if self.window.is_new(name) {
                        self.found.push_back((name.to_vec(), self.plan.kind));
                    }
                }
            }
            Expected::Type(name) => {
                self.connection.check("read key", "TYPE")?;
                self.ahead = self.ahead.saturating_sub(1);
                let kind = self.connection.reply().text().map_err(malformed)?;
                match KeyKind::from_bytes(kind) {
                    Some(kind) => self.found.push_front((name, Some(kind))),
                    // It has vanished.
                    None if kind == b"none" => {}
                    None => {
                        let kind = quarantine_text(kind);
                        self.table.quarantine(QuarantineItem {
                            reason: "type_not_read",
                            column: None,
                            row: serde_json::json!({ "key": quarantine_text(&name) }),
                            detail: format!("a key of the type {kind} is not read by pattern"),
                            content: kind,
                        });
                    }
                }
            }
            Expected::Ttl => {
                self.connection.check("read key", "PTTL")?;
                let ttl = self.connection.reply().integer().map_err(malformed)?;
                self.ttl = (ttl >= 0).then_some(ttl);
            }
            Expected::Read(key) => {
                self.ahead = self.ahead.saturating_sub(1);
                if has_failed {
                    return self.failed(&key);
                }
                self.measure(self.connection.reply_bytes());
                let ttl = self.ttl.take();
                let reply = self.connection.reply();
                let is_whole = self.plan.is_whole(key.kind, &reply).map_err(malformed)?;
                if is_whole {
                    push_key(self.plan, &mut self.table, &key, ttl, reply, &mut |_| true, 0).map_err(malformed)?;
                } else {
                    self.large.push_back(key);
                }
            }
        }
        Ok(())
    }

    /// How many keys may be under way follows from the size of the latest.
    fn measure(&mut self, bytes: usize) {
        self.bytes_a_key = self.bytes_a_key.mul_add(0.9, bytes as f64 * 0.1).max(bytes as f64 / 64.0);
        let fitting = (AHEAD_BYTES as f64 / self.bytes_a_key.max(1.0)) as usize;
        // Rising slowly: small keys may be followed by large ones.
        self.ahead_max = fitting.clamp(1, (self.ahead_max + 8).min(self.plan.count as usize));
    }

    /// An error in place of a key's value.
    fn failed(&mut self, key: &Key) -> Result<()> {
        match self.connection.reply().peek() {
            // It has been replaced by one of another type: the next round gives it.
            Some(Value::Error(text)) if text.starts_with(b"WRONGTYPE") => Ok(()),
            _ => self.connection.check("read key", key.kind.command()).map_err(|error| of_key(error, &key.name)),
        }
    }

    /// Reads a collection page by page.
    async fn read_in_pages(&mut self, key: Key) -> Result<()> {
        let malformed = |fault: Fault| refused(&fault);
        self.connection.command(&[b"PTTL", &key.name]);
        self.connection.exchange(self.output).await?;
        self.take(Expected::Ttl)?;
        self.connection.consume();
        let ttl = self.ttl.take();
        let mut record = Record::default();
        let is_record = key.kind == KeyKind::Hash && self.plan.fields_as == FieldsAs::Columns;
        let mut window = Window::default();
        let (mut from, mut index) = (b"0".to_vec(), 0_u64);
        loop {
            self.command_page(&key.name, key.kind, &from);
            self.connection.exchange(self.output).await.map_err(|error| of_key(error, &key.name))?;
            let mut reply = self.connection.reply();
            if matches!(reply.peek(), Some(Value::Error(_))) {
                self.failed(&key)?;
                self.connection.consume();
                // What has been read of it was its content until then.
                return Ok(());
            }
            let next = if key.kind == KeyKind::List {
                let count = reply.clone().array().map_err(malformed)?;
                push_key(self.plan, &mut self.table, &key, ttl, reply, &mut |_| true, index).map_err(malformed)?;
                index += u64::from(count);
                (count >= self.plan.count).then(|| index.to_string().into_bytes())
            } else if is_record {
                let page = scan_page(&mut reply).map_err(malformed)?;
                record.extend(reply).map_err(malformed)?;
                page.next.filter(|_| record.fields.len() <= RECORD_FIELDS_MAX)
            } else {
                let page = scan_page(&mut reply.clone()).map_err(malformed)?;
                let mut is_new = |element: &[u8]| window.is_new(element);
                push_key(self.plan, &mut self.table, &key, ttl, reply, &mut is_new, 0).map_err(malformed)?;
                page.next
            };
            self.connection.consume();
            self.give_if_full().await?;
            match next {
                Some(next) => from = next,
                None => break,
            }
        }
        if is_record && !record.fields.is_empty() {
            if record.fields.len() > RECORD_FIELDS_MAX {
                self.table.quarantine(too_wide(&key.name, record.fields.len()));
            } else {
                begin(self.plan, &mut self.table, &key, ttl);
                record.fields.iter().for_each(|(name, value)| self.table.field(name, value));
                self.table.end();
                self.give_if_full().await?;
            }
        }
        Ok(())
    }

    async fn give_if_full(&mut self) -> Result<()> {
        if self.table.is_full() { give(self.table.take()?, self.output).await } else { Ok(()) }
    }
}

/// The fields of a hash that comes in pages.
#[derive(Default)]
struct Record {
    fields: Vec<(Vec<u8>, Vec<u8>)>,
    seen: HashSet<Vec<u8>>,
}

impl Record {
    fn extend(&mut self, mut reply: Reply<'_>) -> Result<(), Fault> {
        for _ in 0..reply.array()? / 2 {
            let (name, value) = (reply.text()?, reply.text()?);
            if self.seen.insert(name.to_vec()) {
                self.fields.push((name.to_vec(), value.to_vec()));
            }
        }
        Ok(())
    }
}

impl KeyPlan {
    /// Whether the first page of a key is all of it.
    fn is_whole(&self, kind: KeyKind, reply: &Reply<'_>) -> Result<bool, Fault> {
        let mut reply = reply.clone();
        match kind {
            KeyKind::String => Ok(true),
            KeyKind::List => Ok(reply.array()? < self.count),
            _ => Ok(scan_page(&mut reply)?.next.is_none()),
        }
    }
}

/// The head of a scan's page.
fn scan_page(reply: &mut Reply<'_>) -> Result<Page, Fault> {
    if reply.array()? != 2 {
        return Err(Fault::Malformed("a page of a scan that is no pair"));
    }
    let cursor = reply.text()?;
    Ok(Page { next: (cursor != b"0").then(|| cursor.to_vec()) })
}

fn begin(plan: &KeyPlan, table: &mut Table, key: &Key, ttl: Option<i64>) {
    table.begin(&key.name);
    if plan.layout.has_type {
        table.bytes(Fixed::Type, key.kind.as_str().as_bytes());
    }
    if let Some(ttl) = ttl {
        table.integer(Fixed::Ttl, ttl);
    }
}

/// The rows of one page of a key; `index` is that of a list's first element.
fn push_key(
    plan: &KeyPlan,
    table: &mut Table,
    key: &Key,
    ttl: Option<i64>,
    mut reply: Reply<'_>,
    is_new: &mut dyn FnMut(&[u8]) -> bool,
    index: u64,
) -> Result<(), Fault> {
    match key.kind {
        KeyKind::String => match reply.next() {
            Some(Value::Text(value)) => {
                begin(plan, table, key, ttl);
                table.bytes(Fixed::Value, value);
                table.end();
            }
            // It has vanished.
            Some(Value::Null) => {}
            _ => return Err(Fault::Malformed("no string where one belongs")),
        },
        KeyKind::List => {
            for place in 0..u64::from(reply.array()?) {
                begin(plan, table, key, ttl);
                table.integer(Fixed::Index, (index + place) as i64);
                table.bytes(Fixed::Value, reply.text()?);
                table.end();
            }
        }
        KeyKind::Set => {
            scan_page(&mut reply)?;
            for _ in 0..reply.array()? {
                let value = reply.text()?;
                if is_new(value) {
                    begin(plan, table, key, ttl);
                    table.bytes(Fixed::Value, value);
                    table.end();
                }
            }
        }
        KeyKind::Zset => {
            scan_page(&mut reply)?;
            for _ in 0..reply.array()? / 2 {
                let (value, score) = (reply.text()?, reply.double()?);
                if is_new(value) {
                    begin(plan, table, key, ttl);
                    table.bytes(Fixed::Value, value);
                    table.double(Fixed::Score, score);
                    table.end();
                }
            }
        }
        KeyKind::Hash => {
            scan_page(&mut reply)?;
            let fields = reply.array()? / 2;
            if plan.fields_as == FieldsAs::Rows {
                for _ in 0..fields {
                    let (name, value) = (reply.text()?, reply.text()?);
                    if is_new(name) {
                        begin(plan, table, key, ttl);
                        table.bytes(Fixed::Field, name);
                        table.bytes(Fixed::Value, value);
                        table.end();
                    }
                }
            } else if fields as usize > RECORD_FIELDS_MAX {
                table.quarantine(too_wide(&key.name, fields as usize));
            } else if fields > 0 {
                begin(plan, table, key, ttl);
                for _ in 0..fields {
                    let (name, value) = (reply.text()?, reply.text()?);
                    table.field(name, value);
                }
                table.end();
            }
        }
    }
    Ok(())
}

/// A hash with more fields than a row has columns.
fn too_wide(name: &[u8], fields: usize) -> QuarantineItem {
    QuarantineItem {
        reason: "hash_too_wide",
        column: None,
        row: serde_json::json!({ "key": quarantine_text(name) }),
        content: format!("{fields} fields or more"),
        detail: format!(
            "a hash with more than {RECORD_FIELDS_MAX} fields is no record: read it with fields_as = \"rows\""
        ),
    }
}

/// Names the key that an error concerns.
fn of_key(error: Error, name: &[u8]) -> Error {
    if !matches!(error.kind(), ErrorKind::Limit | ErrorKind::Permission) {
        return error;
    }
    let message = format!("key `{}`: {}", quarantine_text(&name[..name.len().min(200)]), error.message());
    let named = Error::new(error.kind(), error.operation(), message).with_retry(error.retry());
    match error.hint() {
        Some(hint) => named.with_hint(hint),
        None => named,
    }
}
