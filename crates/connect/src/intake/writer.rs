//! The thread that writes and syncs blocks in groups, and what others hold of it.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use portolan_model::clock::Clock;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::Place;
use super::block::{BLOCK_BYTES_MAX, Block, Kind};
use super::log::Log;
use super::segment::{self, HEAD_BYTES};

/// Blocks of one group, in bytes, roughly.
const GROUP_BYTES: usize = 4 << 20;
/// A segment is ended once it has so many bytes.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Bytes that wait in memory to be written.
const WAITING_BYTES: usize = 32 << 20;
/// Blocks that wait in memory to be written.
const WAITING_BLOCKS: usize = 4_096;
/// The least time from one sync to the next: what comes meanwhile is one group.
const SYNC_INTERVAL: Duration = Duration::from_millis(5);
/// The longest from one look whether there is room to the next.
const ROOM_PAUSE: Duration = Duration::from_millis(200);
/// The pause after a write that failed.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// How far the blocks of one sender are durable.
#[derive(Debug, Default)]
pub struct Progress {
    durable: AtomicU64,
    changed: Notify,
}

impl Progress {
    /// Beginning at a sequence that is durable.
    pub fn new(durable: u64) -> Self {
        Self { durable: AtomicU64::new(durable), changed: Notify::new() }
    }

    /// The highest durable sequence.
    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Waits until [`Progress::durable`] may have changed since the future was made.
    pub fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    fn reached(&self, sequence: u64) {
        self.durable.fetch_max(sequence, Ordering::AcqRel);
        self.changed.notify_waiters();
    }
}

struct Entry {
    block: Block,
    progress: Option<Arc<Progress>>,
    _room: OwnedSemaphorePermit,
}

/// An open log with its thread. Dropped, it writes what waits and ends.
pub struct Intake {
    log: Arc<Log>,
    shared: Arc<Shared>,
    /// The highest durable sequence of each sender when the log was opened.
    marks: BTreeMap<Bytes, u64>,
    entries: Option<mpsc::Sender<Entry>>,
    room: Arc<Semaphore>,
    ended: Option<oneshot::Receiver<()>>,
}

#[derive(Default)]
struct Shared {
    failure: Mutex<Option<String>>,
    is_full: AtomicBool,
    is_ending: AtomicBool,
    /// Signalled when bytes on disk have been removed, and at the end.
    freed: Condvar,
    freed_lock: Mutex<()>,
}

impl Intake {
    /// Opens the log in `folder`, of at most about `bytes_max` bytes on disk, and starts its thread.
    ///
    /// # Errors
    /// The folder cannot be made, read or written.
    pub fn open(folder: &Path, bytes_max: u64, clock: Arc<dyn Clock>) -> io::Result<Self> {
        segment::create_folder(folder)?;
        let lock = File::options().create(true).append(true).open(folder.join("lock"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::new(io::ErrorKind::ResourceBusy, "another collector has it open"),
            TryLockError::Error(error) => error,
        })?;
        let recovered = Log::recover(folder, clock.wall().as_microsecond())?;
        let log = Arc::new(recovered.log);
        let shared = Arc::new(Shared::default());
        let (entries, queue) = mpsc::channel(WAITING_BLOCKS);
        let writer = Writer {
            log: Arc::clone(&log),
            shared: Arc::clone(&shared),
            marks: recovered.marks.clone(),
            bytes_max,
            clock,
            segment: None,
            buffer: Vec::new(),
        };
        let (ended_sender, ended) = oneshot::channel();
        std::thread::Builder::new().name("intake".into()).spawn(move || {
            writer.run(queue);
            // Let go before it is told: who waits for the end may open the log again.
            drop(lock);
            let _ = ended_sender.send(());
        })?;
        Ok(Self {
            log,
            shared,
            marks: recovered.marks,
            entries: Some(entries),
            room: Arc::new(Semaphore::new(WAITING_BYTES)),
            ended: Some(ended),
        })
    }

    /// The log on disk.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Whether it holds as much as it may: it takes no more until something has been committed. No failure, and none of who
    /// reads it: a read is what makes room.
    pub fn is_full(&self) -> bool {
        self.shared.is_full.load(Ordering::Acquire)
    }

    /// Whether nothing has ever been kept in it.
    pub fn is_new(&self) -> bool {
        self.log.synced() == self.log.start()
    }

    /// The senders known when the log was opened, each with its highest durable sequence.
    pub fn marks(&self) -> &BTreeMap<Bytes, u64> {
        &self.marks
    }

    /// Why the last write failed, while it is tried again.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A handle to append with.
    pub fn appender(&self) -> Appender {
        Appender { entries: self.entries.clone(), room: Arc::clone(&self.room) }
    }

    /// Removes what lies before a committed place.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn remove_before(&self, place: Place) -> io::Result<()> {
        let outcome = self.log.remove_before(place);
        self.shared.freed.notify_all();
        outcome
    }
}

impl Intake {
    /// Writes what waits and lets the log go. Every [`Appender`] must have been dropped, or this waits for them.
    pub async fn close(mut self) {
        self.end();
        if let Some(ended) = self.ended.take() {
            let _ = ended.await;
        }
    }

    fn end(&mut self) {
        self.entries = None;
        self.shared.is_ending.store(true, Ordering::Release);
        self.shared.freed.notify_all();
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.end();
    }
}

/// Appends to an open log.
#[derive(Clone)]
pub struct Appender {
    entries: Option<mpsc::Sender<Entry>>,
    room: Arc<Semaphore>,
}

impl Appender {
    /// Queues a block; `progress` moves to its sequence when it is durable. Waits while the log is full.
    ///
    /// # Errors
    /// The log has been closed; the block is not kept.
    pub async fn append(&self, block: Block, progress: Option<Arc<Progress>>) -> Result<(), Closed> {
        let size = block.stored_bytes();
        debug_assert!(size < BLOCK_BYTES_MAX, "messages are bounded far below the largest block");
        let permits = u32::try_from(size.min(WAITING_BYTES)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(permits).await.map_err(|_| Closed)?;
        let entries = self.entries.as_ref().ok_or(Closed)?;
        entries.send(Entry { block, progress, _room: room }).await.map_err(|_| Closed)
    }
}

/// The log takes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

struct Writer {
    log: Arc<Log>,
    shared: Arc<Shared>,
    /// The sequences of all blocks in the log, for the head of the next segment.
    marks: BTreeMap<Bytes, u64>,
    bytes_max: u64,
    clock: Arc<dyn Clock>,
    segment: Option<Segment>,
    buffer: Vec<u8>,
}

struct Segment {
    file: File,
    number: u64,
    length: u64,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Entry>) {
        let mut group = Vec::new();
        let mut last_sync = None::<Duration>;
        while let Some(first) = queue.blocking_recv() {
            let since_sync = last_sync.map(|last| self.clock.monotonic().saturating_sub(last));
            if let Some(pause) = since_sync.and_then(|since| SYNC_INTERVAL.checked_sub(since)) {
                self.pause(pause);
            }
            let mut bytes = first.block.stored_bytes();
            group.push(first);
            while bytes < GROUP_BYTES
                && let Ok(entry) = queue.try_recv()
            {
                bytes += entry.block.stored_bytes();
                group.push(entry);
            }
            self.wait_for_room();
            while let Err(error) = self.write(&group) {
                self.abandon();
                self.fail(Some(error.to_string()));
                if self.shared.is_ending.load(Ordering::Acquire) {
                    return;
                }
                self.pause(RETRY_PAUSE);
            }
            self.fail(None);
            last_sync = Some(self.clock.monotonic());
            for entry in group.drain(..) {
                if let Some(progress) = entry.progress {
                    progress.reached(entry.block.sequence);
                }
            }
        }
        if let Some(Segment { file, number, length }) = self.segment.take() {
            // Left out, recovery does it.
            let _ = segment::seal(&file, number, length, self.clock.wall().as_microsecond());
        }
    }

    /// Writes a group behind the last one and syncs it: all of it is durable then, or none of it counts.
    fn write(&mut self, group: &[Entry]) -> io::Result<()> {
        if self.segment.as_ref().is_none_or(|segment| segment.length >= SEGMENT_BYTES) {
            self.roll()?;
        }
        let Some(segment) = &mut self.segment else { return Err(io::Error::other("no segment")) };
        self.buffer.clear();
        for entry in group {
            let offset = segment.length + self.buffer.len() as u64;
            entry.block.encode((segment.number, offset), &mut self.buffer);
        }
        segment.file.write_all_at(&self.buffer, segment.length)?;
        segment.file.sync_data()?;
        segment.length += self.buffer.len() as u64;
        self.buffer.shrink_to(2 * GROUP_BYTES);
        for entry in group.iter().filter(|entry| !entry.block.sender.is_empty()) {
            let mark = self.marks.entry(entry.block.sender.clone()).or_default();
            *mark = entry.block.sequence.max(*mark);
        }
        self.log.grew(Place { segment: segment.number, offset: segment.length });
        Ok(())
    }

    fn roll(&mut self) -> io::Result<()> {
        let now_us = self.clock.wall().as_microsecond();
        if let Some(Segment { file, number, length }) = &self.segment {
            segment::seal(file, *number, *length, now_us)?;
            self.segment = None;
        }
        let number = self.log.next_number();
        // One that an earlier attempt left behind holds nothing that counts.
        match std::fs::remove_file(segment::path(self.log.folder(), number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = segment::create(self.log.folder(), self.log.id(), number)?;
        let mut length = HEAD_BYTES;
        if !self.marks.is_empty() {
            let mut lines = Vec::new();
            for (sender, sequence) in &self.marks {
                lines.extend_from_slice(format!("{sequence} ").as_bytes());
                lines.extend_from_slice(sender);
                lines.push(b'\n');
            }
            let mut bytes = Vec::new();
            Block::bare(Kind::Marks, now_us, lines.into()).encode((number, length), &mut bytes);
            file.write_all_at(&bytes, length)?;
            length += bytes.len() as u64;
        }
        self.segment = Some(Segment { file, number, length });
        Ok(())
    }

    /// Gives the segment up after a failed write: what a failed sync leaves behind cannot be known, so the group goes to a
    /// new one.
    fn abandon(&mut self) {
        if let Some(Segment { file, number, length }) = self.segment.take() {
            let _ = segment::seal(&file, number, length, self.clock.wall().as_microsecond());
        }
    }

    fn wait_for_room(&self) {
        while self.log.bytes() >= self.bytes_max && !self.shared.is_ending.load(Ordering::Acquire) {
            self.shared.is_full.store(true, Ordering::Release);
            self.pause(ROOM_PAUSE);
        }
        self.shared.is_full.store(false, Ordering::Release);
    }

    /// Waits, at most until something has been removed or the log ends.
    fn pause(&self, duration: Duration) {
        let guard = self.shared.freed_lock.lock().unwrap_or_else(PoisonError::into_inner);
        // Whether it was woken does not matter: what it waits for is looked at again.
        drop(self.shared.freed.wait_timeout(guard, duration));
    }

    fn fail(&self, failure: Option<String>) {
        *self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }
}
