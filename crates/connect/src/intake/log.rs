//! The folder of segments: recovery when it is opened, reading, removal of what is committed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::Place;
use super::block::{Block, Kind};
use super::segment::{self, HEAD_BYTES, WalkEnd};

/// Where the committed position of a source fits no block any more, or blocks cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where it begins.
    pub at: Place,
    /// Bytes that were passed over; 0 where nobody knows how many.
    pub bytes: u64,
    /// What is wrong.
    pub detail: String,
}

/// Blocks read at once.
#[derive(Debug, Default)]
pub struct Chunk {
    /// The blocks with messages or rejected ones, in order.
    pub blocks: Vec<Block>,
    /// What could not be read on the way.
    pub damage: Vec<Damage>,
    /// Where the next chunk begins.
    pub next: Place,
}

/// A log on disk: what the thread that writes and those who read share.
#[derive(Debug)]
pub struct Log {
    folder: PathBuf,
    id: i64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The size of each segment on disk.
    segments: BTreeMap<u64, u64>,
    /// Up to where blocks are durable.
    synced: Place,
}

/// What recovery found.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) log: Log,
    /// The highest durable sequence of each sender.
    pub(super) marks: BTreeMap<Bytes, u64>,
}

impl Log {
    /// Opens the log of a folder, which is made where it is missing, and cuts off a torn end. `now_us`, microseconds
    /// since 1970, names a new log.
    pub(super) fn recover(folder: &Path, now_us: i64) -> io::Result<Recovered> {
        let mut segments = BTreeMap::new();
        let mut marks = BTreeMap::new();
        let mut id = None;
        let numbers = segment::numbers(folder)?;
        for number in &numbers {
            let path = segment::path(folder, *number);
            let file = File::options().read(true).write(true).open(&path)?;
            match segment::log_of(&file, *number)? {
                Some(log) => {
                    id.get_or_insert(log);
                    segments.insert(*number, file.metadata()?.len());
                }
                // A crash came before its head was durable, so there is nothing behind it.
                None if Some(number) == numbers.last() && file.metadata()?.len() <= HEAD_BYTES => {
                    std::fs::remove_file(&path)?;
                }
                None => return Err(io::Error::other(format!("{} is not a segment of an intake log", path.display()))),
            }
        }
        let mut synced = Place { segment: segments.keys().next().copied().unwrap_or(1), offset: HEAD_BYTES };
        while let Some(number) = segments.keys().next_back().copied() {
            let path = segment::path(folder, number);
            let file = File::options().read(true).write(true).open(&path)?;
            let mut is_empty = true;
            let end = segment::walk(&file, number, HEAD_BYTES, u64::MAX, u64::MAX, &mut |block| {
                is_empty = false;
                note_marks(&block, &mut marks);
                true
            })?;
            // A crash came before its first block was durable: it counts for nothing, and the one before knows the senders.
            if is_empty && segments.len() > 1 {
                std::fs::remove_file(&path)?;
                segments.remove(&number);
                continue;
            }
            let at = match end {
                WalkEnd::Sealed(at) => at,
                WalkEnd::Stopped(at) | WalkEnd::Torn { at, .. } => {
                    segment::seal(&file, number, at, now_us)?;
                    at
                }
            };
            segments.insert(number, file.metadata()?.len());
            synced = Place { segment: number, offset: at };
            break;
        }
        let state = Mutex::new(State { segments, synced });
        let log = Log { folder: folder.to_owned(), id: id.unwrap_or(now_us), state };
        Ok(Recovered { log, marks })
    }

    /// What tells this log from another one in the same folder, earlier or later.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// The first place that can be read.
    pub fn start(&self) -> Place {
        let first = self.state().segments.keys().next().copied();
        Place { segment: first.unwrap_or(1), offset: HEAD_BYTES }
    }

    /// Up to where blocks are durable.
    pub fn synced(&self) -> Place {
        self.state().synced
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.state().segments.values().sum()
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn next_number(&self) -> u64 {
        self.state().segments.keys().next_back().map_or(1, |number| number + 1)
    }

    pub(super) fn grew(&self, synced: Place) {
        let mut state = self.state();
        state.segments.insert(synced.segment, synced.offset);
        state.synced = synced;
    }

    /// Reads blocks from `from` to the synced end, about `bytes_max` bytes of them and at least one.
    ///
    /// # Errors
    /// A segment cannot be opened or read.
    pub fn read(&self, from: Place, bytes_max: usize) -> io::Result<Chunk> {
        let (until, segments) = {
            let state = self.state();
            // The sizes are those that count: what a failed write left behind them is in the next segment.
            let segments: Vec<(u64, u64)> =
                state.segments.range(from.segment..).map(|(number, size)| (*number, *size)).collect();
            (state.synced, segments)
        };
        let mut chunk = Chunk { next: from, ..Chunk::default() };
        let Some((first, _)) = segments.first().copied() else { return Ok(chunk) };
        if first != from.segment {
            let detail = format!("the segments before {first} are gone");
            chunk.damage.push(Damage { at: from, bytes: 0, detail });
            chunk.next = Place { segment: first, offset: HEAD_BYTES };
        }
        let mut taken = 0;
        for (number, size) in segments {
            if number != chunk.next.segment {
                chunk.next = Place { segment: number, offset: HEAD_BYTES };
            }
            let file = File::open(segment::path(&self.folder, number))?;
            let limit = if number == until.segment { until.offset } else { size };
            let offset = chunk.next.offset.max(HEAD_BYTES);
            let wanted = bytes_max.saturating_sub(taken) as u64;
            let end = segment::walk(&file, number, offset, limit, wanted, &mut |block| {
                taken += block.stored_bytes();
                if matches!(block.kind, Kind::Data | Kind::Rejected) {
                    chunk.blocks.push(block);
                }
                taken < bytes_max
            })?;
            match end {
                WalkEnd::Stopped(at) => {
                    chunk.next.offset = at;
                    if taken >= bytes_max {
                        break;
                    }
                }
                WalkEnd::Sealed(at) => chunk.next.offset = at,
                WalkEnd::Torn { at, .. } => {
                    let bytes = limit - at;
                    let place = Place { segment: number, offset: at };
                    let detail = "a block cannot be read; what follows it in its segment is passed over".to_owned();
                    chunk.damage.push(Damage { at: place, bytes, detail });
                    chunk.next.offset = limit;
                }
            }
        }
        Ok(chunk)
    }

    /// Removes the segments that lie wholly before `place`; the latest stays, because it knows the senders.
    ///
    /// # Errors
    /// A file cannot be removed; the others are.
    pub fn remove_before(&self, place: Place) -> io::Result<()> {
        let mut state = self.state();
        let latest = state.segments.keys().next_back().copied().unwrap_or(0);
        let behind: Vec<u64> = state.segments.range(..place.segment.min(latest)).map(|(number, _)| *number).collect();
        let mut outcome = Ok(());
        for number in behind {
            match std::fs::remove_file(segment::path(&self.folder, number)) {
                Ok(()) => {
                    state.segments.remove(&number);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    state.segments.remove(&number);
                }
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn note_marks(block: &Block, marks: &mut BTreeMap<Bytes, u64>) {
    match block.kind {
        Kind::Marks => {
            for line in block.payload.split(|byte| *byte == b'\n') {
                let Some(space) = line.iter().position(|byte| *byte == b' ') else { continue };
                let sequence = std::str::from_utf8(&line[..space]).ok().and_then(|text| text.parse().ok());
                if let Some(sequence) = sequence {
                    marks.insert(block.payload.slice_ref(&line[space + 1..]), sequence);
                }
            }
        }
        Kind::Data | Kind::Rejected if !block.sender.is_empty() => {
            let mark = marks.entry(block.sender.clone()).or_default();
            *mark = block.sequence.max(*mark);
        }
        _ => {}
    }
}
