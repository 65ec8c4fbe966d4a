//! Rounds for good: schedule, read, commit, acknowledge, and the probe beside the rounds of what is down.
//!
//! Promises:
//! - a position advances only with the commit of the rows before it; the source is told after that;
//! - a source that fails changes its own state and, if it is required, the verdict of its round, nothing else;
//! - a source that is down is probed beside the rounds, with growing pauses, and rejoins by itself;
//! - a stop lets the round that runs end (bounded), commits and acknowledges it, and starts no other.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use portolan_model::catalog::{Catalog, Commit, SourceStatus};
use portolan_model::check::Checker;
use portolan_model::clock::Clock;
use portolan_model::config::RoundSpec;
use portolan_model::round::{Receipt, ReceiptVerdict, RoundRecord, RoundVerdict};
use portolan_model::{Error, Result, RoundId, RoundName, SourceName};
use tokio::sync::{mpsc, watch};

use crate::checks;
use crate::collect::{Collected, Collector};
use crate::output::{MemoryRows, Receiver};
use crate::reading::{Patience, Reading, panicked, read_all};
use crate::record::Frame;
use crate::schedule::Schedule;
use crate::slot::Slot;

/// The longest a stop waits for the round that runs.
pub const STOP_GRACE: Duration = Duration::from_secs(10);

/// What the coordinator tells those who watch: the log, the progress display, the console.
#[derive(Clone, Debug)]
pub enum Event {
    /// A round is stored. `commit.snapshot` published it; a rejected one holds only its record.
    Committed {
        /// What became visible.
        commit: Commit,
        /// What is kept of it.
        record: Arc<RoundRecord>,
    },
    /// A round could not be stored; nothing of it is visible, and its rows will be read again.
    NotStored {
        /// The group that was read.
        round: RoundName,
        /// Why.
        error: Arc<Error>,
    },
    /// A source changed its state.
    SourceChanged(SourceStatus),
    /// Starts were left out because the round before still ran.
    Missed {
        /// The group concerned.
        round: RoundName,
        /// How many so far.
        missed: u64,
    },
}

/// Who watches. Called from the coordinator's task: it must not block.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn event(&self, event: Event);
}

/// What all rounds of a process share.
#[derive(Clone)]
pub struct Shared {
    /// Where rounds are committed.
    pub catalog: Arc<dyn Catalog>,
    /// Who evaluates checks; without, rounds that have some are not stored.
    pub checker: Option<Arc<dyn Checker>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Who watches.
    pub observer: Arc<dyn Observer>,
    /// A number in 0 … 1, different at each call, that spreads probes out.
    pub jitter: fn() -> f64,
}

/// One group of sources, read round after round.
pub struct RoundRunner {
    spec: RoundSpec,
    patience: Patience,
    slots: Vec<Slot>,
    shared: Shared,
    returned: (mpsc::Sender<Slot>, mpsc::Receiver<Slot>),
    away: BTreeMap<usize, AwaySlot>,
}

/// How a round ended.
#[derive(Default)]
pub struct RoundEnd {
    /// The sources that have more waiting.
    pub more: Vec<SourceName>,
    /// What became visible; `None` if the round was not stored, or nobody was due.
    pub commit: Option<Commit>,
    /// Why sources failed.
    pub failures: Vec<Error>,
    /// Why it was not stored.
    pub error: Option<Arc<Error>>,
    /// What is kept of it.
    pub record: Option<Arc<RoundRecord>>,
    /// The rows kept in memory, where asked for, of the sources that did not fail.
    pub memory: Vec<(SourceName, MemoryRows)>,
}

/// What the runner keeps of a source that is being probed beside the rounds.
struct AwaySlot {
    name: SourceName,
    required: bool,
}

impl RoundRunner {
    /// A runner for the slots of `spec`.
    pub fn new(spec: RoundSpec, slots: Vec<Slot>, shared: Shared) -> Self {
        let returned = mpsc::channel(slots.len().max(1));
        let patience = Patience::for_round(spec.deadline);
        Self { spec, patience, slots, shared, returned, away: BTreeMap::new() }
    }

    /// Its reads take the whole deadline and come whole or fail, the limits of the configuration aside: nothing is left
    /// for a round that may never follow.
    pub fn whole(mut self) -> Self {
        self.patience = Patience::for_whole(self.spec.deadline);
        self
    }

    /// Runs until `stop` turns true. Never fails: what fails is told to the observer and tried again. Returns the slots,
    /// still open; those of sources that are down end with their probes.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> Vec<Slot> {
        let clock = self.shared.clock.clone();
        let mut schedule = Schedule::new(clock.monotonic(), self.spec.every);
        let mut missed_told = 0;
        self.store_states().await;
        while !*stop.borrow() {
            let wait = schedule.next().saturating_sub(clock.monotonic());
            // In a fixed order, here and below: a run is the same again from the same seed.
            tokio::select! {
                biased;
                _ = stop.changed() => continue,
                () = tokio::time::sleep(wait) => {}
            }
            // While more is waiting at a source, the next round follows at once.
            while self.stoppable_round(&mut stop).await && !*stop.borrow() {}
            schedule.advance(clock.monotonic());
            // Told at the first start left out, and then each time their number has doubled.
            if schedule.missed() >= (missed_told * 2).max(1) {
                missed_told = schedule.missed();
                let event = Event::Missed { round: self.spec.name.clone(), missed: missed_told };
                self.shared.observer.event(event);
            }
        }
        self.take_returned();
        std::mem::take(&mut self.slots)
    }

    /// Gives every connection up.
    pub async fn close(&mut self) {
        for slot in &mut self.slots {
            slot.source.close().await;
        }
    }

    /// One round; after a stop it has [`STOP_GRACE`] to end, or it is given up: nothing of it is visible then, unless its
    /// commit has begun. The slots may be behind the catalog after that.
    async fn stoppable_round(&mut self, stop: &mut watch::Receiver<bool>) -> bool {
        let round = self.round();
        tokio::pin!(round);
        let stopped = async {
            while !*stop.borrow() {
                if stop.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            more = &mut round => return more,
            () = stopped => {}
        }
        tokio::time::timeout(STOP_GRACE, round).await.unwrap_or(false)
    }

    /// One round: read, commit, acknowledge. Returns whether a source has more waiting.
    pub async fn round(&mut self) -> bool {
        !self.round_with(None).await.more.is_empty()
    }

    /// One round whose rows are also kept in memory, up to so many bytes a source, for those who show them.
    pub async fn round_with(&mut self, memory_bytes_max: Option<usize>) -> RoundEnd {
        self.take_returned();
        let shared = self.shared.clone();
        let clock = &*shared.clock;
        let start = clock.moment();
        let (mut due, skipped): (Vec<&mut Slot>, Vec<&mut Slot>) =
            self.slots.iter_mut().partition(|slot| slot.is_due(start.monotonic()));
        let mut skipped_receipts: Vec<(bool, Receipt)> = skipped
            .iter()
            .map(|slot| {
                let status = slot.status();
                let cause = status.cause.map(|cause| format!(": {cause}")).unwrap_or_default();
                (slot.required, not_asked(&slot.name, format!("it is {}{cause}", status.state.as_str())))
            })
            .collect();
        let tried = "it is down, and tried beside the rounds";
        skipped_receipts
            .extend(self.away.values().map(|away| (away.required, not_asked(&away.name, tried.to_owned()))));
        if due.is_empty() {
            // Nobody to read: no round. States are in `status`; an empty record every interval would say no more.
            return RoundEnd::default();
        }
        // The round is rejected already: nobody is read for nothing.
        if skipped_receipts.iter().any(|(required, _)| *required) {
            let of_others = "a source that the round requires is not there".to_owned();
            skipped_receipts.extend(due.drain(..).map(|slot| (false, not_asked(&slot.name, of_others.clone()))));
        }
        let collector =
            Collector { spec: &self.spec, shared: &shared, patience: self.patience, memory_bytes_max, start };
        let collected = match collector.collect(&mut due).await {
            Ok(collected) => collected,
            Err(error) => return RoundEnd { error: Some(self.not_stored(error)), ..RoundEnd::default() },
        };
        let storage_error = collected.storage_error().map(|error| {
            Error::new(error.kind(), "stage rows", error.chain())
                .with_hint(error.hint().unwrap_or("free space for the lake").to_owned())
        });
        let Collected { staging, mut readings, consistency, is_refused } = collected;
        if let Some(error) = storage_error {
            // What the lake refused is not the source's fault: its state stays, the rows are read again. What the
            // sources did themselves is noted as in any round.
            staging.abort().await;
            for (slot, reading) in due.iter_mut().zip(&readings) {
                if let Err(own) = &reading.outcome
                    && !is_storage(own)
                    && slot.failed(own, clock)
                {
                    shared.observer.event(Event::SourceChanged(slot.status()));
                }
            }
            let error = self.not_stored(error);
            self.send_away();
            return RoundEnd { error: Some(error), ..RoundEnd::default() };
        }
        let mut changed = Vec::new();
        for (slot, reading) in due.iter_mut().zip(&readings) {
            let has_changed = match &reading.outcome {
                Ok(_) => slot.succeeded(clock),
                Err(error) => slot.failed(error, clock),
            };
            if has_changed {
                changed.push(slot.status());
            }
        }
        let missing = missing(&due, &readings, &skipped_receipts);
        let is_partial = !skipped_receipts.is_empty() || readings.iter().any(|reading| reading.outcome.is_err());
        let frame = Frame {
            name: self.spec.name.clone(),
            start,
            duration_us: clock.moment().since_us(&start),
            verdict: match (is_refused || missing.is_some(), is_partial) {
                (true, _) => RoundVerdict::Rejected,
                (false, true) => RoundVerdict::Partial,
                (false, false) => RoundVerdict::Complete,
            },
            consistency,
            missing,
            skipped: skipped_receipts.into_iter().map(|(_, receipt)| receipt).collect(),
        };
        let (committed, record) = checks::publish(&self.spec, &shared, &frame, staging, &mut due, &mut readings).await;
        for status in changed {
            shared.observer.event(Event::SourceChanged(status));
        }
        let memory = due
            .iter()
            .zip(&mut readings)
            .filter(|(_, reading)| reading.outcome.is_ok())
            .filter_map(|(slot, reading)| Some((slot.name.clone(), reading.receiver.memory.take()?)))
            .collect();
        let mut end = RoundEnd { record: record.clone(), memory, ..RoundEnd::default() };
        match (committed, record) {
            (Ok(commit), Some(record)) => {
                if record.verdict == RoundVerdict::Rejected {
                    end.failures = readings.into_iter().filter_map(|reading| reading.outcome.err()).collect();
                } else {
                    let round = (commit.round, start.wall);
                    (end.more, end.failures) = settle(&mut due, readings, round, &shared, self.spec.deadline).await;
                }
                end.commit = Some(commit);
                shared.observer.event(Event::Committed { commit, record });
            }
            (Err(error), _) => end.error = Some(self.not_stored(error)),
            (Ok(_), None) => {}
        }
        self.send_away();
        end
    }

    fn not_stored(&self, error: Error) -> Arc<Error> {
        let error = Arc::new(error);
        self.shared.observer.event(Event::NotStored { round: self.spec.name.clone(), error: error.clone() });
        error
    }

    async fn store_states(&mut self) {
        let statuses: Vec<SourceStatus> = self.slots.iter().map(Slot::status).collect();
        if let Err(error) = self.shared.catalog.record_states(&statuses).await {
            self.not_stored(error);
        }
    }

    /// Moves sources that are down to a task of their own, which returns them once their server can be reached.
    fn send_away(&mut self) {
        let mut index = 0;
        while index < self.slots.len() {
            if self.slots[index].machine.state() != portolan_model::state::State::Down {
                index += 1;
                continue;
            }
            let slot = self.slots.remove(index);
            let number = self.away.keys().next_back().map_or(0, |last| last + 1);
            self.away.insert(number, AwaySlot { name: slot.name.clone(), required: slot.required });
            let deadline = self.spec.deadline;
            tokio::spawn(probe_until_reached(slot, self.shared.clone(), deadline, self.returned.0.clone()));
        }
    }

    fn take_returned(&mut self) {
        while let Ok(slot) = self.returned.1.try_recv() {
            self.away.retain(|_, away| away.name != slot.name);
            self.slots.push(slot);
        }
    }
}

/// Whether the lake, not the source, is the cause.
pub(crate) fn is_storage(error: &Error) -> bool {
    use portolan_model::ErrorKind::{Conflict, Corrupt, Storage, StorageFull};
    matches!(error.kind(), Storage | StorageFull | Corrupt | Conflict)
}

/// The receipt of a source that was not read, with the reason.
fn not_asked(source: &SourceName, reason: String) -> Receipt {
    Receipt { error: Some(format!("not asked: {reason}")), ..Receipt::new(source.clone(), ReceiptVerdict::Skipped) }
}

/// The required sources that a round lacks, which rejects it, for people.
fn missing(due: &[&mut Slot], readings: &[Reading], skipped: &[(bool, Receipt)]) -> Option<String> {
    let is_failed = |(slot, reading): &(&&mut Slot, &Reading)| slot.required && reading.outcome.is_err();
    let failed = due.iter().zip(readings).filter(is_failed).map(|(slot, _)| &slot.name);
    let skipped = skipped.iter().filter(|(required, _)| *required).map(|(_, receipt)| &receipt.source);
    let names: Vec<String> = failed.chain(skipped).map(|name| format!("`{name}`")).collect();
    match names.as_slice() {
        [] => None,
        [name] => Some(format!("{name} is required, and not there")),
        names => Some(format!("{} are required, and not there", names.join(", "))),
    }
}

/// After the commit of `round`, which began at `start`: positions move, servers are told. Returns who has more waiting,
/// and why others failed.
async fn settle(
    due: &mut [&mut Slot],
    readings: Vec<Reading>,
    (round, start): (RoundId, jiff::Timestamp),
    shared: &Shared,
    deadline: Duration,
) -> (Vec<SourceName>, Vec<Error>) {
    let clock = &*shared.clock;
    let (mut stored, mut failures) = (Vec::new(), Vec::new());
    // All of them before anybody is told: a stop may end that, and what is committed stays so.
    for (slot, reading) in due.iter_mut().zip(readings) {
        let watermark = reading.watermark(slot);
        let outcome = match reading.outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                failures.push(error);
                continue;
            }
        };
        let has_more = outcome.end.more;
        let position = outcome.end.position.or_else(|| slot.position.clone());
        let rows = outcome.staged.as_ref().map_or(0, |staged| staged.rows);
        slot.committed(round, start, rows, (position, watermark));
        stored.push((slot, has_more));
    }
    let mut more = Vec::new();
    for (slot, has_more) in stored {
        let mut is_told = true;
        if let (true, Some(position)) = (slot.source.capabilities().acknowledge, slot.position.clone()) {
            let told = guarded(deadline, "acknowledge", slot.source.acknowledge(&position)).await;
            let told = told.map_err(|error| error.with_source(&slot.name));
            // Where it fails the rows are safe: the server gives them again and the lake leaves them out.
            is_told = told.is_ok();
            if slot.acknowledged(&told, clock) {
                shared.observer.event(Event::SourceChanged(slot.status()));
            }
        }
        // What could not be acknowledged would come again, at once and for ever.
        if has_more && is_told {
            more.push(slot.name.clone());
        }
    }
    (more, failures)
}

/// Probes a source that is down until it can be read again, then returns it to its round.
async fn probe_until_reached(mut slot: Slot, shared: Shared, deadline: Duration, returned: mpsc::Sender<Slot>) {
    loop {
        let pause = slot.next_pause((shared.jitter)(), shared.clock.monotonic());
        tokio::select! {
            biased;
            () = returned.closed() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let Err(error) = probe(&mut slot, &*shared.clock, deadline).await else {
            slot.machine.reached(shared.clock.wall());
            shared.observer.event(Event::SourceChanged(slot.status()));
            // The round has ended for good when nobody receives any more.
            let _ = returned.send(slot).await;
            return;
        };
        if slot.failed(&error, &*shared.clock) {
            shared.observer.event(Event::SourceChanged(slot.status()));
        }
        // A state that cannot be stored is stored with the next one: `status` is late, nothing is lost.
        let _ = shared.catalog.record_states(&[slot.status()]).await;
    }
}

/// Whether a round could read the source now. Where the same rows can be read again, a read is begun and thrown away: a
/// port that accepts connections and then hangs would otherwise hold up each round that believes it. What can be read
/// in parts is read to the end of the first; what cannot, whole.
async fn probe(slot: &mut Slot, clock: &dyn Clock, deadline: Duration) -> Result<()> {
    let capabilities = slot.source.capabilities();
    if capabilities.reread && !capabilities.push {
        let mut readings = read_all(&mut [slot], vec![Receiver::default()], clock, Patience::for_trial(deadline)).await;
        return readings.pop().map_or(Ok(()), |reading| reading.outcome.map(|_| ()));
    }
    guarded(deadline, "connect", slot.source.prepare()).await.map_err(|error| error.with_source(&slot.name))
}

/// What a source does outside of a read, within the deadline; a connector that panics fails, and nothing else does.
async fn guarded<F>(deadline: Duration, operation: &'static str, step: F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    match tokio::time::timeout(deadline, AssertUnwindSafe(step).catch_unwind()).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => Err(panicked(operation, &*panic)),
        Err(_) => {
            let message = format!("no answer within the deadline of {} ms", deadline.as_millis());
            Err(Error::new(portolan_model::ErrorKind::Timeout, operation, message))
        }
    }
}
