//! Where a source's rows go during a read, and what is measured and digested on the way.

use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use portolan_model::catalog::{StagedTable, TableStaging};
use portolan_model::clock::{Clock, Moment};
use portolan_model::source::{Held, Meeting, Output, Phase, QuarantineItem};
use portolan_model::{Error, ErrorKind, Result};
use sha2::{Digest, Sha256};

use crate::meeting::Meetings;
use crate::release::Gate;

/// The rows of one source kept in memory, for `fetch`.
#[derive(Debug, Default)]
pub struct MemoryRows {
    /// Rows in source order.
    pub batches: Vec<RecordBatch>,
    /// Values and rows that do not fit.
    pub quarantine: Vec<QuarantineItem>,
    bytes: usize,
    bytes_max: usize,
}

impl MemoryRows {
    /// Keeps up to `bytes_max` bytes of rows.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, ..Self::default() }
    }

    fn keep(&mut self, batch: RecordBatch) -> Result<()> {
        self.grow(batch.get_array_memory_size())?;
        self.batches.push(batch);
        Ok(())
    }

    fn keep_quarantined(&mut self, item: QuarantineItem) -> Result<()> {
        let column = item.column.as_ref().map_or(0, String::len);
        let row = item.row.to_string().len();
        self.grow(size_of::<QuarantineItem>() + column + row + item.content.len() + item.detail.len())?;
        self.quarantine.push(item);
        Ok(())
    }

    fn grow(&mut self, bytes: usize) -> Result<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.bytes_max {
            let message = format!("the rows of one fetch take more than {} MiB of memory", self.bytes_max >> 20);
            return Err(Error::new(ErrorKind::Limit, "fetch", message).with_hint(
                "narrow the source (a query, a cursor), raise --memory-limit, or collect with `portolan run`",
            ));
        }
        Ok(())
    }
}

/// Where the rows go.
#[derive(Default)]
pub struct Receiver {
    /// The staged table of a round that will be committed.
    pub table: Option<Box<dyn TableStaging>>,
    /// Memory, for what is shown at once.
    pub memory: Option<MemoryRows>,
    /// From so many rows on the read is asked to end, not by the skew that is allowed.
    pub rows_enough: Option<u64>,
}

impl Receiver {
    async fn batch(&mut self, batch: RecordBatch) -> Result<()> {
        match (&mut self.memory, &mut self.table) {
            (Some(memory), None) => memory.keep(batch),
            (Some(memory), Some(table)) => {
                memory.keep(batch.clone())?;
                table.write(batch).await
            }
            (None, Some(table)) => table.write(batch).await,
            (None, None) => Ok(()),
        }
    }

    async fn quarantine(&mut self, item: QuarantineItem) -> Result<()> {
        if let Some(memory) = &mut self.memory {
            memory.keep_quarantined(item.clone())?;
        }
        match &mut self.table {
            Some(table) => table.quarantine(item).await,
            None => Ok(()),
        }
    }

    /// Ends the staged table, if there is one.
    pub async fn finish(&mut self) -> Result<Option<StagedTable>> {
        match self.table.take() {
            Some(table) => table.finish().await.map(Some),
            None => Ok(None),
        }
    }
}

/// The [`Output`] of one read: forwards rows, notes instants, counts and digests bytes.
pub struct Recorder<'a> {
    clock: &'a dyn Clock,
    receiver: &'a mut Receiver,
    digest: Option<Sha256>,
    measured: &'a mut Measured,
    enough_at: Duration,
    /// From so long after its release on it is asked to end as well.
    enough_after_release: Option<Duration>,
    rows_wait: Duration,
    /// Where the read waits for its release, until it has had it.
    gate: Option<(&'a Gate, usize)>,
    /// Where it meets those that are to see the same snapshot.
    meetings: Option<(&'a Meetings, usize)>,
}

/// What a read measured of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// When the request went out.
    pub released: Option<Moment>,
    /// When the answer began.
    pub first_byte: Option<Moment>,
    /// When the answer to its last request began: its server had acted by then.
    pub acted: Option<Moment>,
    /// When the answer ended.
    pub last_byte: Option<Moment>,
    /// Bytes received.
    pub bytes: u64,
    /// Rows yielded, before deduplication.
    pub rows: u64,
    /// Values and rows that went to quarantine.
    pub quarantined: u64,
    /// SHA-256 of the payload, lower-case hex, if there was one.
    pub payload_sha256: Option<String>,
}

impl<'a> Recorder<'a> {
    /// A recorder that forwards to `receiver` and notes into `measured`, which outlives a read that is cut off. From
    /// `enough_at` on, monotonic time, it asks the read to end.
    pub fn new(
        clock: &'a dyn Clock,
        receiver: &'a mut Receiver,
        measured: &'a mut Measured,
        enough_at: Duration,
    ) -> Self {
        Self {
            clock,
            receiver,
            digest: None,
            measured,
            enough_at,
            enough_after_release: None,
            rows_wait: Duration::ZERO,
            gate: None,
            meetings: None,
        }
    }

    /// Asks the read to end from so long after its release on, too.
    pub(crate) fn with_enough_after_release(mut self, after: Option<Duration>) -> Self {
        self.enough_after_release = after;
        self
    }

    /// A read that no other follows may wait so long for rows that come by themselves.
    pub fn with_rows_wait(mut self, rows_wait: Duration) -> Self {
        self.rows_wait = rows_wait;
        self
    }

    /// The read begins with the others at a gate, in this place.
    pub(crate) fn with_gate(mut self, gate: Option<(&'a Gate, usize)>) -> Self {
        self.gate = gate;
        self
    }

    /// The read sees the same snapshot as those it meets there, where it belongs to a group. A snapshot stands: that it takes
    /// long to be read moves nothing apart.
    pub(crate) fn with_meetings(mut self, meetings: Option<&'a Meetings>, index: usize) -> Self {
        self.meetings = meetings.filter(|meetings| meetings.has(index)).map(|meetings| (meetings, index));
        if self.meetings.is_some() {
            self.enough_after_release = None;
        }
        self
    }

    /// Ends the read: the digest of its payload is taken.
    pub fn end(self) {
        self.measured.payload_sha256 = self.digest.map(|digest| hex(&digest.finalize()));
    }
}

#[async_trait]
impl Output for Recorder<'_> {
    fn mark(&mut self, phase: Phase) {
        let moment = self.clock.moment();
        match phase {
            // A request that was sent again, because its connection had ended, went out the second time.
            Phase::Released if self.measured.first_byte.is_none() => self.measured.released = Some(moment),
            Phase::Released => {}
            Phase::FirstByte => {
                self.measured.first_byte.get_or_insert(moment);
                self.measured.acted = Some(moment);
                self.measured.last_byte = Some(moment);
            }
            Phase::LastByte => self.measured.last_byte = Some(moment),
        }
    }

    fn payload(&mut self, bytes: &[u8]) {
        self.measured.bytes += bytes.len() as u64;
        self.digest.get_or_insert_with(Sha256::new).update(bytes);
    }

    fn count_bytes(&mut self, bytes: u64) {
        self.measured.bytes += bytes;
    }

    fn is_enough(&self) -> bool {
        let now = self.clock.monotonic();
        let is_late = match (self.receiver.rows_enough, self.enough_after_release, self.measured.released) {
            (Some(enough), ..) => self.measured.rows >= enough,
            (None, Some(after), Some(released)) => now >= released.monotonic().saturating_add(after),
            _ => false,
        };
        is_late || now >= self.enough_at
    }

    fn is_held(&self) -> bool {
        self.gate.is_some()
    }

    async fn released(&mut self, held: Option<Arc<dyn Held>>) {
        let Some((gate, index)) = self.gate else {
            self.mark(Phase::Released);
            if let Some(held) = held {
                held.release();
            }
            return;
        };
        let moment = gate.wait(index, held).await;
        self.gate = None;
        self.measured.released = Some(moment);
    }

    fn is_snapshot(&self) -> bool {
        self.meetings.is_some()
    }

    async fn meet(&mut self, word: String) -> Meeting {
        match self.meetings {
            Some((meetings, index)) => meetings.meet(index, word).await,
            None => Meeting { words: vec![Some(word)], own: 0 },
        }
    }

    async fn others_ended(&mut self) {
        if let Some((meetings, index)) = self.meetings {
            meetings.others_ended(index).await;
        }
    }

    fn rows_wait(&self) -> Duration {
        self.rows_wait
    }

    async fn batch(&mut self, batch: RecordBatch) -> Result<()> {
        self.measured.rows += batch.num_rows() as u64;
        self.receiver.batch(batch).await
    }

    async fn quarantine(&mut self, item: QuarantineItem) -> Result<()> {
        self.measured.quarantined += 1;
        self.receiver.quarantine(item).await
    }
}

/// Lower-case hexadecimal text of bytes.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

#[cfg(test)]
mod tests {
    use portolan_model::clock::SystemClock;

    use super::*;

    #[test]
    fn payload_is_digested_over_all_its_pieces() {
        let clock = SystemClock::new();
        let mut receiver = Receiver::default();
        let mut measured = Measured::default();
        let mut recorder = Recorder::new(&clock, &mut receiver, &mut measured, Duration::MAX);
        recorder.payload(b"a");
        recorder.payload(b"bc");
        recorder.end();
        assert_eq!(measured.bytes, 3);
        assert_eq!(
            measured.payload_sha256.as_deref(),
            // FIPS 180-2, appendix B.1
            Some("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        );
    }

    #[tokio::test]
    async fn what_is_quarantined_counts_as_memory() {
        let mut receiver = Receiver { memory: Some(MemoryRows::new(10_000)), ..Receiver::default() };
        let item = QuarantineItem {
            reason: "invalid_text",
            column: None,
            row: serde_json::Value::Null,
            content: "x".repeat(4_000),
            detail: String::new(),
        };
        receiver.quarantine(item.clone()).await.unwrap();
        receiver.quarantine(item.clone()).await.unwrap();
        assert_eq!(receiver.quarantine(item).await.unwrap_err().kind(), ErrorKind::Limit);
    }

    #[test]
    fn no_payload_has_no_digest() {
        let clock = SystemClock::new();
        let mut receiver = Receiver::default();
        let mut measured = Measured::default();
        let mut recorder = Recorder::new(&clock, &mut receiver, &mut measured, Duration::MAX);
        recorder.count_bytes(7);
        recorder.end();
        assert_eq!(measured, Measured { bytes: 7, ..Measured::default() });
    }
}
