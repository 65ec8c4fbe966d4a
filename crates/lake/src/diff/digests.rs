//! Digests of rows, a fixed size each, grouped by what tells items apart: in memory up to a bound, beyond it in temporary
//! files that have no name.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use portolan_model::Result;

use crate::error::file as file_error;

/// Parts by the digests' first byte: each is looked at by itself.
const PARTS: usize = 64;
/// Records held in memory, over all parts.
const HELD_MAX: usize = 1 << 20;
const RECORD_BYTES: usize = 41;

/// A row as it is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Record {
    /// What tells items apart.
    pub(super) identity: [u8; 16],
    /// All its values.
    pub(super) content: [u8; 16],
    pub(super) row_id: i64,
    /// Of the second state.
    pub(super) is_after: bool,
}

/// Records on their way to be compared.
pub(super) struct Digests {
    parts: Vec<Part>,
    held: usize,
    held_max: usize,
}

#[derive(Default)]
struct Part {
    records: Vec<Record>,
    spilled: Option<File>,
}

impl Digests {
    pub(super) fn new() -> Self {
        Self::bounded(HELD_MAX)
    }

    fn bounded(held_max: usize) -> Self {
        Self { parts: (0..PARTS).map(|_| Part::default()).collect(), held: 0, held_max }
    }

    pub(super) fn push(&mut self, record: Record) -> Result<()> {
        self.parts[usize::from(record.identity[0]) % PARTS].records.push(record);
        self.held += 1;
        if self.held >= self.held_max {
            self.spill().map_err(|error| file_error("compare rows", &std::env::temp_dir(), error))?;
        }
        Ok(())
    }

    fn spill(&mut self) -> std::io::Result<()> {
        for part in self.parts.iter_mut().filter(|part| !part.records.is_empty()) {
            let mut bytes = Vec::with_capacity(part.records.len() * RECORD_BYTES);
            for record in part.records.drain(..) {
                bytes.extend_from_slice(&record.identity);
                bytes.extend_from_slice(&record.content);
                bytes.extend_from_slice(&record.row_id.to_le_bytes());
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

    /// Hands the records of each item to `take`, in the order of their rows.
    pub(super) fn items(self, mut take: impl FnMut(&mut [Record])) -> Result<()> {
        for part in self.parts {
            let mut records = part.records;
            if let Some(file) = part.spilled {
                read(file, &mut records).map_err(|error| file_error("compare rows", &std::env::temp_dir(), error))?;
            }
            records.sort_unstable_by_key(|record| (record.identity, record.is_after, record.row_id));
            records.chunk_by_mut(|one, other| one.identity == other.identity).for_each(&mut take);
        }
        Ok(())
    }
}

fn read(mut file: File, records: &mut Vec<Record>) -> std::io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    let mut reader = std::io::BufReader::with_capacity(1 << 16, file);
    let mut bytes = [0; RECORD_BYTES];
    loop {
        match reader.read_exact(&mut bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut record = Record { identity: [0; 16], content: [0; 16], row_id: 0, is_after: bytes[40] != 0 };
        record.identity.copy_from_slice(&bytes[..16]);
        record.content.copy_from_slice(&bytes[16..32]);
        let mut row_id = [0; 8];
        row_id.copy_from_slice(&bytes[32..40]);
        record.row_id = i64::from_le_bytes(row_id);
        records.push(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spilled_comes_back_with_what_is_not() {
        let record = |number: u64| {
            let mut identity = [0; 16];
            identity[..8].copy_from_slice(&(number % 500).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
            Record { identity, content: [number as u8; 16], row_id: number as i64, is_after: number.is_multiple_of(3) }
        };
        let collect = |held_max| {
            let mut digests = Digests::bounded(held_max);
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
}
