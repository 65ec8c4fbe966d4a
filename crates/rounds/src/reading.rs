//! One read of a group of sources, all at once.
//!
//! A read takes as long as its slowest source, or until the deadline: whoever has not ended by then has failed with
//! `timeout`, and the others are not touched by it. Well before it, a source that can go on from where it stands is asked
//! to end there. A connector that panics fails its own source alone. Where the reads begin together, whoever is not ready
//! in time has failed, too.

use std::panic::AssertUnwindSafe;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use jiff::Timestamp;
use portolan_model::catalog::StagedTable;
use portolan_model::clock::{Clock, Moment};
use portolan_model::round::{Receipt, ReceiptVerdict};
use portolan_model::source::ReadEnd;
use portolan_model::{Error, ErrorKind, Result};

use crate::meeting::Meetings;
use crate::output::{Measured, Receiver, Recorder};
use crate::release::Gate;
use crate::slot::Slot;

/// How long a read may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// A read that has not ended by then has failed.
    pub deadline: Duration,
    /// From then on a read is asked to end where it can continue.
    pub enough_after: Duration,
    /// From so long after its release on, too, where its requests must take effect close together.
    pub enough_after_release: Option<Duration>,
    /// The longest a read waits for rows that come by themselves.
    pub rows_wait: Duration,
    /// Where the reads begin together: the longest they wait for each other. `None`: each begins when it is ready.
    pub ready_within: Option<Duration>,
    /// Whether sources of one server read one snapshot of it; those that do wait as long for each other.
    pub is_snapshot: bool,
}

impl Patience {
    fn new(deadline: Duration, enough_after: Duration, rows_wait: Duration) -> Self {
        Self { deadline, enough_after, enough_after_release: None, rows_wait, ready_within: None, is_snapshot: false }
    }

    /// For a round: half of its deadline to take what there is, the other half to end what was begun.
    pub fn for_round(deadline: Duration) -> Self {
        Self::new(deadline, deadline / 2, Duration::ZERO)
    }

    /// What is left of it after so long, shared out as the whole was.
    #[must_use]
    pub(crate) fn after(self, elapsed: Duration) -> Self {
        let deadline = self.deadline.saturating_sub(elapsed);
        let enough_after = match self.enough_after {
            Duration::MAX => Duration::MAX,
            enough_after => enough_after.min(deadline / 2),
        };
        Self { deadline, enough_after, ..self }
    }

    /// For a trial: the first page or batch says enough.
    pub fn for_trial(deadline: Duration) -> Self {
        Self::new(deadline, Duration::ZERO, Duration::ZERO)
    }

    /// For a read that must come whole or fail.
    pub fn for_whole(deadline: Duration) -> Self {
        Self::new(deadline, Duration::MAX, deadline / 2)
    }
}

/// The read of one source.
pub struct Reading {
    /// Where its rows went.
    pub receiver: Receiver,
    /// When it was ready to be read.
    pub prepared: Option<Moment>,
    /// What was measured.
    pub measured: Measured,
    /// How it ended.
    pub outcome: Result<Outcome>,
}

/// A read that ended well.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What the source says.
    pub end: ReadEnd,
    /// What the lake says, where rows were staged.
    pub staged: Option<StagedTable>,
}

impl Outcome {
    /// Whether both reads gave the same rows.
    pub(crate) fn agrees(&self, other: &Self) -> bool {
        match (&self.staged, &other.staged) {
            (Some(one), Some(other)) => one == other,
            // Proved by the server: nothing has changed since the last committed read.
            (None, None) => self.end.unchanged && other.end.unchanged,
            _ => false,
        }
    }
}

/// Reads every slot at once, each into its receiver, as long as `patience` (from now) allows.
pub async fn read_all(
    slots: &mut [&mut Slot],
    receivers: Vec<Receiver>,
    clock: &dyn Clock,
    patience: Patience,
) -> Vec<Reading> {
    debug_assert_eq!(slots.len(), receivers.len());
    let terms = Terms {
        clock,
        enough_at: clock.monotonic().saturating_add(patience.enough_after),
        enough_after_release: patience.enough_after_release,
        rows_wait: patience.rows_wait,
        gate: patience.ready_within.map(|allowed| (Gate::new(slots.len()), allowed)),
        meetings: patience.ready_within.filter(|_| patience.is_snapshot).map(|allowed| {
            let groups: Vec<_> = slots.iter().map(|slot| slot.snapshot_group.clone()).collect();
            Meetings::new(&groups, allowed, patience.deadline)
        }),
    };
    let mut begun: Vec<Begun> = receivers
        .into_iter()
        .map(|receiver| Begun { receiver, prepared: None, measured: Measured::default(), outcome: None })
        .collect();
    {
        let terms = &terms;
        let mut reads: FuturesUnordered<_> = slots
            .iter_mut()
            .zip(begun.iter_mut())
            .enumerate()
            .map(|(index, (slot, begun))| async move {
                let outcome = AssertUnwindSafe(terms.read(index, slot, begun)).catch_unwind().await;
                begun.outcome = Some(outcome.unwrap_or_else(|panic| Err(panicked("read", &*panic))));
                terms.leave(index);
            })
            .collect();
        // An elapsed deadline drops the reads that have not ended: they stay without an outcome.
        let _ = tokio::time::timeout(patience.deadline, terms.all(&mut reads)).await;
    }
    begun.into_iter().zip(slots).map(|(begun, slot)| begun.end(slot, patience.deadline)).collect()
}

/// What the reads of one round share.
struct Terms<'c> {
    clock: &'c dyn Clock,
    enough_at: Duration,
    enough_after_release: Option<Duration>,
    rows_wait: Duration,
    /// Where they begin together, and how long they wait for each other.
    gate: Option<(Gate, Duration)>,
    /// Where those meet that are to see one snapshot.
    meetings: Option<Meetings>,
}

impl Terms<'_> {
    /// Runs the reads to their ends, and releases them on the way.
    async fn all<F: Future<Output = ()>>(&self, reads: &mut FuturesUnordered<F>) {
        let Some((gate, allowed)) = &self.gate else {
            while reads.next().await.is_some() {}
            return;
        };
        let mut patience = std::pin::pin!(tokio::time::sleep(*allowed));
        let mut is_open = false;
        std::future::poll_fn(|context| {
            loop {
                match reads.poll_next_unpin(context) {
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Ready(Some(())) => {}
                    Poll::Pending if is_open => return Poll::Pending,
                    Poll::Pending => {
                        is_open = gate.try_open(self.clock);
                        if !is_open && patience.as_mut().poll(context).is_ready() {
                            gate.open(self.clock);
                            is_open = true;
                        }
                        if !is_open {
                            return Poll::Pending;
                        }
                    }
                }
            }
        })
        .await;
    }

    async fn read(&self, index: usize, slot: &mut Slot, begun: &mut Begun) -> Result<Outcome> {
        let Some((gate, allowed)) = &self.gate else {
            return self.read_one(index, None, slot, begun).await;
        };
        let no_snapshot_within = tokio::select! {
            biased;
            outcome = self.read_one(index, Some(gate), slot, begun) => return outcome,
            () = gate.missed(index) => None,
            allowed = self.meeting_missed(index) => Some(allowed),
        };
        if let Some(allowed) = no_snapshot_within {
            let message = format!("no snapshot within {} ms of the other sources of its server", allowed.as_millis());
            return Err(Error::new(ErrorKind::Timeout, "open snapshot", message)
                .with_hint("is the server busy? raise `ready_within`, or give the source a round of its own"));
        }
        let doing = match begun.prepared {
            None => "it was still connecting or logging in",
            Some(_) => "it was connected, and not yet where it could ask",
        };
        let (address, allowed) = (&slot.address, allowed.as_millis());
        let message = format!("{address} was not ready for the release within {allowed} ms: {doing}");
        Err(Error::new(ErrorKind::Timeout, "prepare", message).with_hint(if gate.has_released() {
            "others of the round were ready: raise `ready_within`, or give the source a round of its own"
        } else {
            "is the server at work, and is this its protocol? if it is slow, raise `ready_within`"
        }))
    }

    /// Ready once the read has missed a meeting; how long was waited for it.
    async fn meeting_missed(&self, index: usize) -> Duration {
        let Some(meetings) = &self.meetings else { return std::future::pending().await };
        meetings.missed(index).await;
        meetings.allowed()
    }

    async fn read_one(&self, index: usize, gate: Option<&Gate>, slot: &mut Slot, begun: &mut Begun) -> Result<Outcome> {
        slot.source.prepare().await?;
        begun.prepared = Some(self.clock.moment());
        let mut recorder = Recorder::new(self.clock, &mut begun.receiver, &mut begun.measured, self.enough_at)
            .with_enough_after_release(self.enough_after_release)
            .with_rows_wait(self.rows_wait)
            .with_meetings(self.meetings.as_ref(), index)
            .with_gate(gate.map(|gate| (gate, index)));
        let end = slot.source.read(slot.position.as_ref(), &mut recorder).await;
        recorder.end();
        let end = end?;
        if end.unchanged {
            // A table that is dropped is no part of the round: what it held stays.
            begun.receiver.table = None;
        }
        let staged = begun.receiver.finish().await?;
        Ok(Outcome { end, staged })
    }

    fn leave(&self, index: usize) {
        if let Some((gate, _)) = &self.gate {
            gate.leave(index);
        }
        if let Some(meetings) = &self.meetings {
            meetings.leave(index);
        }
    }
}

/// What to do where a deadline went by without an answer.
const UNANSWERED: &str = "is the server at work, and is this its protocol? if it is slow, raise `deadline`";

/// A read under way.
struct Begun {
    receiver: Receiver,
    prepared: Option<Moment>,
    measured: Measured,
    outcome: Option<Result<Outcome>>,
}

impl Begun {
    fn end(self, slot: &Slot, deadline: Duration) -> Reading {
        let Self { mut receiver, prepared, measured, outcome } = self;
        let outcome = outcome.unwrap_or_else(|| {
            let (address, deadline) = (&slot.address, deadline.as_millis());
            let (operation, what, hint) = match (&prepared, &measured.first_byte) {
                (None, None) => ("prepare", "was not connected and logged in", UNANSWERED),
                (Some(_), None) => ("read", "had answered nothing", UNANSWERED),
                (_, Some(_)) => (
                    "read",
                    "had begun to answer, and not ended,",
                    "raise `deadline`, or read less at once (a cursor, max_rows)",
                ),
            };
            let message = format!("{address} {what} within the deadline of {deadline} ms");
            Err(Error::new(ErrorKind::Timeout, operation, message).with_hint(hint))
        });
        let outcome = outcome.map_err(|error| {
            // Rows of a read that did not end are not part of the round.
            receiver.table = None;
            if error.source_name().is_some() { error } else { error.with_source(&slot.name) }
        });
        Reading { receiver, prepared, measured, outcome }
    }
}

/// The failure of a connector that panicked.
pub(crate) fn panicked(operation: &'static str, panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    Error::new(ErrorKind::Internal, operation, format!("the connector panicked: {text}"))
        .with_hint("this is a defect of Portolan: please report it with the configuration of the source")
}

/// Notes in a receipt that its round is rejected: nothing of what was read is kept, the source goes on where it began.
pub(crate) fn discard(receipt: &mut Receipt) {
    receipt.rows = 0;
    receipt.duplicates = 0;
    receipt.quarantined = 0;
    receipt.rows_sha256 = None;
    receipt.event_times = None;
    (receipt.late, receipt.untimed, receipt.watermark) = (0, 0, None);
    receipt.position_after.clone_from(&receipt.position_before);
}

impl Reading {
    /// How many rows came, where the server had more.
    pub(crate) fn rows_cut(&self) -> Option<u64> {
        self.outcome.as_ref().is_ok_and(|outcome| outcome.end.more).then_some(self.measured.rows)
    }

    /// Up to where its source is complete once this read is committed. It never goes back.
    ///
    /// With an event time: the latest one seen, less the lateness allowed. Without one, where rows come as a stream (the
    /// source goes on from a position, or is sent to): the instant of the release. What the server showed then, or had
    /// been sent by then, is stored, unless the read ended with more of it waiting.
    pub(crate) fn watermark(&self, slot: &Slot) -> Option<Timestamp> {
        let outcome = self.outcome.as_ref().ok()?;
        let capabilities = slot.source.capabilities();
        let is_stream = capabilities.resume || capabilities.push || capabilities.acknowledge;
        let reached = match &slot.event_time {
            Some(spec) => {
                let latest = outcome.staged.as_ref().and_then(|staged| staged.event_times.believed_max);
                latest.and_then(|latest| latest.checked_sub(spec.lateness).ok())
            }
            None if is_stream && !outcome.end.more => self.measured.released.map(|moment| moment.wall),
            None => None,
        };
        reached.max(slot.watermark)
    }

    /// The receipt of this read in a round that began at `start`.
    pub fn receipt(&self, slot: &Slot, start: &Moment) -> Receipt {
        let since = |moment: &Option<Moment>| moment.as_ref().map(|moment| moment.since_us(start));
        let mut receipt = Receipt::new(slot.name.clone(), ReceiptVerdict::Ok);
        receipt.prepared_us = since(&self.prepared);
        receipt.released_us = since(&self.measured.released);
        receipt.first_byte_us = since(&self.measured.first_byte);
        receipt.acted_us = since(&self.measured.acted);
        receipt.last_byte_us = since(&self.measured.last_byte);
        receipt.bytes = self.measured.bytes;
        receipt.rows = self.measured.rows;
        receipt.quarantined = self.measured.quarantined;
        receipt.payload_sha256 = self.measured.payload_sha256.clone();
        receipt.position_before = slot.position.clone();
        match &self.outcome {
            Ok(outcome) => {
                if outcome.end.unchanged {
                    receipt.verdict = ReceiptVerdict::Unchanged;
                }
                receipt.validator = outcome.end.validator.clone();
                receipt.snapshot = outcome.end.snapshot.clone();
                receipt.watermark = self.watermark(slot);
                receipt.position_after = outcome.end.position.clone().or_else(|| slot.position.clone());
                if let Some(staged) = &outcome.staged {
                    receipt.rows = staged.rows;
                    receipt.duplicates = staged.duplicates;
                    receipt.event_times = staged.event_times.range;
                    receipt.late = staged.event_times.late;
                    receipt.untimed = staged.event_times.untimed;
                    receipt.quarantined = staged.quarantined;
                    receipt.rows_sha256 = Some(staged.rows_sha256.clone());
                }
            }
            Err(error) => {
                receipt = receipt.failed(error);
                receipt.rows = 0;
                receipt.quarantined = 0;
                receipt.position_after = slot.position.clone();
            }
        }
        receipt
    }
}
