//! Items that have been stored before are not stored again.
//!
//! Promise: a row whose key was committed before or came earlier in the same round, and is still remembered, is left out
//! and counted. Of one round, as of all, the latest `key_memory` keys are remembered: that bounds memory and the
//! transaction that publishes them with their rows. A row whose key columns are all null has no identity and is always
//! kept.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use arrow::array::{Array, BooleanArray};
use arrow::compute::filter_record_batch;
use arrow::record_batch::RecordBatch;
use portolan_model::{Error, ErrorKind, Result, SourceName};
use rusqlite::{Connection, params};
use sha2::{Digest, Sha256};

use crate::digest;
use crate::error::{arrow as arrow_error, sqlite};
use crate::shape::Columns;

/// A key that a round brings, with the number of its row among those staged.
pub(crate) type NewKey = (u64, KeyDigest);

/// The digest of a key's canonical bytes.
pub(crate) type KeyDigest = [u8; 16];

/// Leaves out items that have been stored before.
pub(crate) struct KeyFilter {
    source: SourceName,
    key: Vec<String>,
    memory: usize,
    seen: HashSet<KeyDigest>,
    /// The latest keys of this round, in row order.
    pub(crate) new: VecDeque<NewKey>,
    /// Those of which further rows came in this round and were left out.
    pub(crate) repeated: HashSet<KeyDigest>,
    /// Rows let through so far.
    rows: u64,
}

impl KeyFilter {
    /// A filter that remembers `key_memory` keys of the round.
    pub(crate) fn new(source: SourceName, key: Vec<String>, key_memory: u64) -> Self {
        let memory = usize::try_from(key_memory).unwrap_or(usize::MAX);
        Self { source, key, memory, seen: HashSet::new(), new: VecDeque::new(), repeated: HashSet::new(), rows: 0 }
    }

    /// The rows of `batch` that have not been stored before, and how many have.
    pub(crate) fn filter(&mut self, batch: RecordBatch, catalog: &Mutex<Connection>) -> Result<(RecordBatch, u64)> {
        let digests = self.digests(&batch)?;
        let stored = self.stored(&digests, catalog)?;
        let mut keep = Vec::with_capacity(digests.len());
        for digest in digests {
            let Some(digest) = digest else {
                self.rows += 1;
                keep.push(true);
                continue;
            };
            let is_stored = stored.contains(&digest);
            let new = !is_stored && self.seen.insert(digest);
            if !new && !is_stored {
                self.repeated.insert(digest);
            }
            if new {
                self.new.push_back((self.rows, digest));
                self.rows += 1;
                if self.new.len() > self.memory
                    && let Some((_, oldest)) = self.new.pop_front()
                {
                    self.seen.remove(&oldest);
                    self.repeated.remove(&oldest);
                }
            }
            keep.push(new);
        }
        let duplicates = keep.iter().filter(|keep| !**keep).count() as u64;
        if duplicates == 0 {
            return Ok((batch, 0));
        }
        let batch = filter_record_batch(&batch, &BooleanArray::from(keep));
        Ok((batch.map_err(|error| arrow_error("leave out duplicates", error))?, duplicates))
    }

    /// Which of the keys were committed before. All are looked up in one read transaction, in the order of the index:
    /// a transaction a key costs more than finding it, and neighbours lie on the same page.
    fn stored(&self, digests: &[Option<KeyDigest>], catalog: &Mutex<Connection>) -> Result<HashSet<KeyDigest>> {
        let error = |error| sqlite("look up item keys", error);
        let mut ordered: Vec<KeyDigest> = digests.iter().flatten().copied().collect();
        ordered.sort_unstable();
        let connection = catalog.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = connection.unchecked_transaction().map_err(error)?;
        let mut stored = HashSet::new();
        {
            let sql = "SELECT 1 FROM portolan_item_key WHERE source = ?1 AND digest = ?2";
            let mut statement = transaction.prepare_cached(sql).map_err(error)?;
            for digest in ordered {
                if statement.exists(params![self.source.as_str(), digest]).map_err(error)? {
                    stored.insert(digest);
                }
            }
        }
        transaction.finish().map_err(error)?;
        Ok(stored)
    }

    fn digests(&self, batch: &RecordBatch) -> Result<Vec<Option<KeyDigest>>> {
        let schema = batch.schema();
        let mut parts = Vec::new();
        for name in &self.key {
            let Some((index, field)) = schema.column_with_name(name) else {
                let message = format!("rows lack the key column `{name}`");
                return Err(Error::new(ErrorKind::Data, "leave out duplicates", message)
                    .with_source(&self.source)
                    .with_hint("name columns that every row has under `key`"));
            };
            // The stored form of the values, so that a key is the same whichever width it comes in.
            let mut columns = Columns::new(None, false);
            let mut placed = Vec::new();
            columns.place(field, batch.column(index), &mut placed)?;
            if let Some((place, array)) = placed.pop() {
                parts.push((columns.list.swap_remove(place).column.kind, array));
            }
        }
        let mut bytes = Vec::new();
        let digests = (0..batch.num_rows()).map(|row| {
            if parts.iter().all(|(_, array)| array.is_null(row)) {
                return None;
            }
            bytes.clear();
            for (kind, array) in &parts {
                match array.is_valid(row) {
                    true => digest::value(array.as_ref(), row, kind, &mut bytes),
                    false => bytes.push(b'0'),
                }
            }
            let mut short = KeyDigest::default();
            short.copy_from_slice(&Sha256::digest(&bytes)[..16]);
            Some(short)
        });
        Ok(digests.collect())
    }
}

/// Stores the keys of a round and forgets old ones, a bounded number at a time.
///
/// # Errors
/// `Conflict` if another round stored one of them meanwhile.
pub(crate) fn store(
    connection: &Connection,
    source: &SourceName,
    keys: &VecDeque<NewKey>,
    key_memory: u64,
) -> Result<()> {
    let operation = "store item keys";
    let error = |error| sqlite(operation, error);
    let sql = "SELECT coalesce(max(sequence), 0), coalesce(min(sequence), 0) FROM portolan_item_key WHERE source = ?1";
    let (last, first): (i64, i64) = connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.query_row([source.as_str()], |row| Ok((row.get(0)?, row.get(1)?))))
        .map_err(error)?;
    let mut insert =
        connection.prepare_cached("INSERT OR IGNORE INTO portolan_item_key VALUES (?1, ?2, ?3)").map_err(error)?;
    let mut sequence = last;
    for (_, key) in keys {
        sequence += 1;
        if insert.execute(params![source.as_str(), key, sequence]).map_err(error)? == 0 {
            return Err(Error::new(ErrorKind::Conflict, operation, "another round stored the same item meanwhile")
                .with_source(source)
                .with_hint("read the round again: its items will be found stored"));
        }
    }
    let memory = i64::try_from(key_memory).unwrap_or(i64::MAX);
    // Twice what came, and some: the surplus shrinks at each commit, and no commit is long.
    let step = (keys.len() as i64).saturating_mul(2).saturating_add(1_000);
    let limit = sequence.saturating_sub(memory).min(first.saturating_add(step));
    if limit >= first && first > 0 {
        let sql = "DELETE FROM portolan_item_key WHERE source = ?1 AND sequence <= ?2";
        connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(params![source.as_str(), limit]))
            .map_err(error)?;
    }
    Ok(())
}
