//! Digests of rows, a fixed size each, grouped by what tells items apart: in memory up to a bound, beyond it in temporary
//! files that have no name.
//!
//! Promise: where equal rows are counted, memory is bounded by the different ones, however often each is there.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use portolan_model::Result;

use crate::error::file as file_error;

/// Parts by the digests' first byte: each is looked at by itself.
const PARTS: usize = 64;
/// Records held in memory, over all parts.
const HELD_MAX: usize = 1 << 20;
const RECORD_BYTES: usize = 49;

/// A row as it is compared, or several equal ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Record {
    /// What tells items apart.
    pub(super) identity: [u8; 16],
    /// All its values.
    pub(super) content: [u8; 16],
    /// The row; the last of equal ones.
    pub(super) row_id: i64,
    /// How many there are.
    pub(super) count: u64,
    /// Of the second state.
    pub(super) is_after: bool,
}

/// Records on their way to be compared.
pub(super) struct Digests {
    parts: Vec<Part>,
    held: usize,
    held_max: usize,
    /// Whether rows of one identity are counted: one record of each state stands for all of them.
    is_counting: bool,
}

#[derive(Default)]
struct Part {
    records: Vec<Record>,
    spilled: Option<File>,
}

impl Digests {
    pub(super) fn new(is_counting: bool) -> Self {
        Self::bounded(is_counting, HELD_MAX)
    }

    fn bounded(is_counting: bool, held_max: usize) -> Self {
        Self { parts: (0..PARTS).map(|_| Part::default()).collect(), held: 0, held_max, is_counting }
    }

    pub(super) fn push(&mut self, record: Record) -> Result<()> {
        self.parts[usize::from(record.identity[0]) % PARTS].records.push(record);
        self.held += 1;
        if self.held < self.held_max {
            return Ok(());
        }
        if self.is_counting {
            self.parts.iter_mut().for_each(|part| count_equal(&mut part.records));
            self.held = self.parts.iter().map(|part| part.records.len()).sum();
            // What makes little room would soon be done again.
            if self.held <= self.held_max / 2 {
                return Ok(());
            }
        }
        self.spill().map_err(|error| file_error("compare rows", &std::env::temp_dir(), error))
    }

    fn spill(&mut self) -> std::io::Result<()> {
        for part in self.parts.iter_mut().filter(|part| !part.records.is_empty()) {
            let mut bytes = Vec::with_capacity(part.records.len() * RECORD_BYTES);
            for record in part.records.drain(..) {
                bytes.extend_from_slice(&record.identity);
                bytes.extend_from_slice(&record.content);
                bytes.extend_from_slice(&record.row_id.to_le_bytes());
                bytes.extend_from_slice(&record.count.to_le_bytes());
                bytes.push(u8::from(record.is_after));
            }
            let file = match part.spilled.take() {
                Some(file) => file,
                None => tempfile::tempfile()?,
            };
            part.spilled.insert(file).write_all(&bytes)?;
        }
        self.held = 0;
        Ok(())
    }

    /// Hands the records of each item to `take`, those of the first state first, in the order of their rows.
    pub(super) fn items(self, mut take: impl FnMut(&mut [Record])) -> Result<()> {
        let (is_counting, held_max) = (self.is_counting, self.held_max);
        for part in self.parts {
            let mut records = part.records;
            if let Some(file) = part.spilled {
                let mut room = held_max;
                let outcome = read(file, &mut |record| {
                    records.push(record);
                    if is_counting && records.len() >= room {
                        count_equal(&mut records);
                        room = held_max.max(records.len() * 2);
                    }
                });
                outcome.map_err(|error| file_error("compare rows", &std::env::temp_dir(), error))?;
            }
            match is_counting {
                true => count_equal(&mut records),
                false => sort(&mut records),
            }
            records.chunk_by_mut(|one, other| one.identity == other.identity).for_each(&mut take);
        }
        Ok(())
    }
}

fn sort(records: &mut [Record]) {
    records.sort_unstable_by_key(|record| (record.identity, record.is_after, record.row_id));
}

/// Makes one record of those of one identity and state.
fn count_equal(records: &mut Vec<Record>) {
    sort(records);
    records.dedup_by(|next, kept| {
        let is_equal = (next.identity, next.is_after) == (kept.identity, kept.is_after);
        if is_equal {
            kept.count += next.count;
            kept.row_id = next.row_id;
        }
        is_equal
    });
}

fn read(mut file: File, take: &mut dyn FnMut(Record)) -> std::io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    let mut reader = std::io::BufReader::with_capacity(1 << 16, file);
    let mut bytes = [0; RECORD_BYTES];
    loop {
        match reader.read_exact(&mut bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
        take(Record {
            identity: part(&bytes, 0),
            content: part(&bytes, 16),
            row_id: i64::from_le_bytes(part(&bytes, 32)),
            count: u64::from_le_bytes(part(&bytes, 40)),
            is_after: bytes[48] != 0,
        });
    }
}

fn part<const BYTES: usize>(record: &[u8; RECORD_BYTES], from: usize) -> [u8; BYTES] {
    std::array::from_fn(|place| record[from + place])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spilled_comes_back_with_what_is_not() {
        let record = |number: u64| {
            let mut identity = [0; 16];
            identity[..8].copy_from_slice(&(number % 500).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
            Record {
                identity,
                content: [number as u8; 16],
                row_id: number as i64,
                count: 1,
                is_after: number.is_multiple_of(3),
            }
        };
        let collect = |held_max| {
            let mut digests = Digests::bounded(false, held_max);
            (0..2_000).for_each(|number| digests.push(record(number)).unwrap());
            let mut items: Vec<Vec<Record>> = Vec::new();
            digests.items(|item| items.push(item.to_vec())).unwrap();
            items.sort();
            items
        };
        let items = collect(usize::MAX);
        assert_eq!((items.len(), items.iter().map(Vec::len).sum::<usize>()), (500, 2_000));
        assert_eq!(collect(77), items);
    }

    #[test]
    fn equal_rows_are_counted_in_bounded_memory() {
        let collect = |different: u64, held_max| {
            let mut digests = Digests::bounded(true, held_max);
            let mut held = 0;
            for number in 0..30_000_u64 {
                let mut identity = [0; 16];
                identity[8..].copy_from_slice(&(number % different).to_le_bytes());
                let record =
                    Record { identity, content: identity, row_id: number as i64, count: 1, is_after: number >= 20_000 };
                digests.push(record).unwrap();
                held = digests.parts.iter().map(|part| part.records.capacity()).sum::<usize>().max(held);
            }
            let is_spilled = digests.parts.iter().any(|part| part.spilled.is_some());
            let mut items: Vec<Vec<Record>> = Vec::new();
            digests.items(|item| items.push(item.to_vec())).unwrap();
            (items, held, is_spilled)
        };
        let (items, held, is_spilled) = collect(1, 100);
        let found: Vec<_> = items[0].iter().map(|one| (one.is_after, one.count, one.row_id)).collect();
        assert_eq!((items.len(), found), (1, vec![(false, 20_000, 19_999), (true, 10_000, 29_999)]));
        assert!(held <= 256 && !is_spilled, "{held} held, spilled: {is_spilled}");
        // All in one part, and more than what is held.
        let (items, held, is_spilled) = collect(300, 100);
        assert!(items.len() == 300 && held <= 256 && is_spilled, "{held} held, spilled: {is_spilled}");
        assert_eq!(items, collect(300, usize::MAX).0);
    }
}
