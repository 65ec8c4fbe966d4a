//! What a `fetch` has read so far of each source, for its bar.
//!
//! Promise: a source that is watched gives what it would give otherwise; where nobody can see the bar none is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use indicatif::{HumanBytes, HumanCount};
use portolan_model::clock::{Clock, SystemClock};
use portolan_model::source::{Capabilities, Held, Output, Phase, Probe, QuarantineItem, ReadEnd, Source};
use portolan_model::{Error, Position, Result};
use portolan_rounds::slot::Slot;

use super::progress::Progress;

/// The least time from one text to the next.
const PAUSE: Duration = Duration::from_millis(100);

/// The sources of a fetch and its bar.
pub(crate) struct Watch {
    bar: Progress,
    sources: Vec<Counts>,
    clock: SystemClock,
    /// When the bar was told last.
    told: Mutex<Duration>,
}

/// What has come of one source.
struct Counts {
    name: String,
    rows: AtomicU64,
    bytes: AtomicU64,
    has_ended: AtomicBool,
}

impl Watch {
    /// Watches the sources of `slots` from here on, if there is a terminal.
    pub(crate) fn over(slots: Vec<Slot>) -> (Vec<Slot>, Option<Arc<Self>>) {
        let bar = Progress::text();
        if !bar.is_seen() {
            return (slots, None);
        }
        let counts = |slot: &Slot| Counts {
            name: slot.name.to_string(),
            rows: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            has_ended: AtomicBool::new(false),
        };
        let sources = slots.iter().map(counts).collect();
        let watch = Arc::new(Self { bar, sources, clock: SystemClock::new(), told: Mutex::default() });
        watch.bar.keep_moving();
        watch.bar.tell(watch.text());
        let watched = slots.into_iter().enumerate().map(|(place, mut slot)| {
            let source = slot.source;
            slot.source = Box::new(Watched { source, place, watch: Arc::clone(&watch) });
            slot
        });
        (watched.collect(), Some(watch))
    }

    /// Takes the bar away; nothing is shown from here on.
    pub(crate) fn end(&self) {
        self.bar.clear();
    }

    fn tell(&self) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.monotonic();
        if now.saturating_sub(*told) >= PAUSE {
            *told = now;
            self.bar.tell(self.text());
        }
    }

    /// Those that still read, each with what has come.
    fn text(&self) -> String {
        let mut text = String::new();
        let ended = self.sources.iter().filter(|counts| counts.has_ended.load(Ordering::Relaxed)).count();
        for counts in self.sources.iter().filter(|counts| !counts.has_ended.load(Ordering::Relaxed)) {
            let rows = HumanCount(counts.rows.load(Ordering::Relaxed));
            let bytes = HumanBytes(counts.bytes.load(Ordering::Relaxed));
            text.push_str(&format!("{}: {rows} rows, {bytes}; ", counts.name));
        }
        text.push_str(&format!("{ended} of {} sources read", self.sources.len()));
        text
    }
}

/// A source whose rows and bytes are counted.
struct Watched {
    source: Box<dyn Source>,
    place: usize,
    watch: Arc<Watch>,
}

#[async_trait]
impl Source for Watched {
    fn capabilities(&self) -> Capabilities {
        self.source.capabilities()
    }

    async fn prepare(&mut self) -> Result<()> {
        self.source.prepare().await
    }

    async fn read(&mut self, from: Option<&Position>, output: &mut dyn Output) -> Result<ReadEnd> {
        let mut output = Counting { output, counts: &self.watch.sources[self.place], watch: &self.watch };
        let end = self.source.read(from, &mut output).await;
        self.watch.sources[self.place].has_ended.store(true, Ordering::Relaxed);
        self.watch.tell();
        end
    }

    fn complaint(&self) -> Option<Error> {
        self.source.complaint()
    }

    fn without_validator(&self, position: Position) -> Position {
        self.source.without_validator(position)
    }

    async fn acknowledge(&mut self, position: &Position) -> Result<()> {
        self.source.acknowledge(position).await
    }

    async fn probe(&mut self) -> Result<Probe> {
        self.source.probe().await
    }

    async fn close(&mut self) {
        self.source.close().await;
    }
}

/// Passes everything on, and counts it.
struct Counting<'o> {
    output: &'o mut dyn Output,
    counts: &'o Counts,
    watch: &'o Watch,
}

impl Counting<'_> {
    fn bytes(&self, bytes: u64) {
        self.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.watch.tell();
    }
}

#[async_trait]
impl Output for Counting<'_> {
    fn mark(&mut self, phase: Phase) {
        self.output.mark(phase);
    }

    fn payload(&mut self, bytes: &[u8]) {
        self.output.payload(bytes);
        self.bytes(bytes.len() as u64);
    }

    fn count_bytes(&mut self, bytes: u64) {
        self.output.count_bytes(bytes);
        self.bytes(bytes);
    }

    fn is_enough(&self) -> bool {
        self.output.is_enough()
    }

    fn is_held(&self) -> bool {
        self.output.is_held()
    }

    async fn released(&mut self, held: Option<Arc<dyn Held>>) {
        self.output.released(held).await;
    }

    fn rows_wait(&self) -> Duration {
        self.output.rows_wait()
    }

    async fn batch(&mut self, batch: RecordBatch) -> Result<()> {
        self.counts.rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
        self.watch.tell();
        self.output.batch(batch).await
    }

    async fn quarantine(&mut self, item: QuarantineItem) -> Result<()> {
        self.output.quarantine(item).await
    }
}
