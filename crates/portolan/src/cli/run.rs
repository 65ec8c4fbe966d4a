//! `portolan run`: collects for good.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portolan_model::round::{ReceiptVerdict, RoundConsistency, RoundRecord, RoundVerdict};
use portolan_model::state::State;
use portolan_model::{RoundId, RoundName};
use portolan_rounds::coordinator::{Event, Observer};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::collector::Collector;
use crate::exit::{Exit, Stop};
use crate::reload;

/// Signals that come within this time are one request to stop.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// Arguments of `portolan run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Stops in order on Ctrl-C or a termination signal: the round that runs is ended, committed and
acknowledged. Asked again after a second or more, it ends at once: the lake is whole, rows under way are read
again. A port that is down is probed beside the rounds; the others go on.

Follows the configuration file: what has changed in it is ended in order and begun anew, the rest goes on; a
file with an error in it is told and changes nothing. SIGHUP reads it at once and opens every source anew, with
its secrets and certificates (where standard error is a terminal, it ends the command: the terminal has gone).
The settings of [lake] are read at the start alone.

Examples:
  portolan run
  PORTOLAN_LOG=debug portolan --config rack7.toml run
  portolan run --for 1h                     stop after an hour")]
pub(crate) struct Arguments {
    /// Stop after this time.
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    duration: Option<Duration>,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    portolan_model::config::DurationText::parse(text).map(|duration| duration.0)
}

/// Collects until told to stop.
pub(crate) async fn run(config: &Path, arguments: Arguments) -> Result<Exit, Stop> {
    let (configuration, folder, text) = super::configuration_with_text(config)?;
    let changes = reload::watch(config, text, !super::is_terminal_stderr())?;
    raise_file_limit();
    let (stop_sender, stop) = watch::channel(false);
    let mut signals = StopSignals::new()?;
    let asked_again = tokio::spawn(async move {
        match arguments.duration {
            Some(duration) => tokio::select! {
                _ = signals.next() => {}
                () = tokio::time::sleep(duration) => {}
            },
            None => {
                signals.next().await;
            }
        }
        tracing::info!(
            "stopping: the rounds that run are ended and committed; asked again (a second from now or later), it ends at once"
        );
        // Nobody listens any more only when everything has ended.
        let _ = stop_sender.send(true);
        // Terminals, shells and `timeout` may send one request twice.
        let settled = tokio::time::Instant::now() + SAME_REQUEST;
        while tokio::time::timeout_at(settled, signals.next()).await.is_ok() {}
        signals.next().await
    });
    tokio::select! {
        collected = async { Collector::start(configuration, &folder, Arc::new(Log::default())).await?.run(stop, changes).await } => {
            collected?;
            tracing::info!("stopped");
            Ok(Exit::Success)
        }
        exit = asked_again => {
            tracing::warn!("ended at once: what was not committed is read again");
            exit.map_err(|error| anyhow::anyhow!("the task that waits for signals ended by itself: {error}").into())
        }
    }
}

/// As many open files as the system lets us have: each source has a connection, and each sender to a port of ours.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_err() {
        tracing::debug!(current, maximum, "the limit of open files stays");
    }
}

/// The signals that ask the process to stop.
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Takes them over from the system, which would end the process.
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next one. Returns how a command ends that it ends at once.
    pub(crate) async fn next(&mut self) -> Exit {
        tokio::select! {
            _ = self.interrupt.recv() => Exit::Interrupted,
            _ = self.terminate.recv() => Exit::Terminated,
        }
    }
}

/// Writes events to the log.
#[derive(Default)]
struct Log {
    /// What was said last of each round that was not kept as it was meant to be.
    said: Mutex<BTreeMap<RoundName, String>>,
}

impl Log {
    /// Says of a round that it is rejected, or not what it promises, when that begins and when it is over.
    fn tell_promise(&self, round: RoundId, record: &RoundRecord) {
        let RoundConsistency { promised, reached, reason, .. } = &record.consistency;
        let state = match (&record.verdict, reason) {
            (RoundVerdict::Rejected, _) => Some("rejected".to_owned()),
            (_, Some(_)) => Some(super::unkept(*promised, *reached)),
            (_, None) => None,
        };
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let before = said.get(&record.name);
        match state {
            Some(state) if before != Some(&state) => {
                let next = format!("portolan rounds show {round}; nothing more is said of it until it is over");
                let reason = reason.as_deref().unwrap_or_default();
                tracing::warn!(%round, name = %record.name, next, "the round is {state}: {reason}");
                said.insert(record.name.clone(), state);
            }
            Some(_) => {}
            None if before.is_some() => {
                tracing::info!(%round, name = %record.name, "the round is kept, as it promises");
                said.remove(&record.name);
            }
            None => {}
        }
    }
}

impl Observer for Log {
    fn event(&self, event: Event) {
        match event {
            Event::Committed { commit, record } => {
                for check in record.checks.iter().filter(|check| check.outcome.is_failure()) {
                    tracing::warn!(
                        round = %commit.round, name = %record.name, check = check.name, outcome = check.outcome.as_str(),
                        on_failure = check.on_failure.as_str(), failing_rows = check.failing_rows,
                        next = "look at portolan.checks, or portolan rounds show", "{}", check.words()
                    );
                }
                self.tell_promise(commit.round, &record);
                let rows: u64 = record.receipts.iter().map(|receipt| receipt.rows).sum();
                let duration_ms = record.duration_us as f64 / 1_000.0;
                match record.verdict {
                    RoundVerdict::Complete => {
                        tracing::debug!(round = %commit.round, name = %record.name, rows, duration_ms, "round committed");
                    }
                    verdict => {
                        let without: Vec<&str> = record
                            .receipts
                            .iter()
                            .filter(|receipt| {
                                matches!(receipt.verdict, ReceiptVerdict::Failed | ReceiptVerdict::Skipped)
                            })
                            .map(|receipt| receipt.source.as_str())
                            .collect();
                        let verdict = verdict.as_str();
                        tracing::debug!(
                            round = %commit.round, name = %record.name, rows, duration_ms, verdict,
                            without = without.join(","), "round stored"
                        );
                    }
                }
            }
            Event::NotStored { round, error } => {
                let next = error.hint().unwrap_or("the rows are read again with the next round");
                tracing::error!(name = %round, kind = %error.kind(), next, "round not stored: {}", error.chain());
            }
            Event::SourceChanged(status) => {
                let source = status.source.as_str();
                let state = status.state.as_str();
                match (status.state, status.cause) {
                    (State::Degraded | State::Down, Some(cause)) => {
                        tracing::warn!(source, state, next = status.hint.unwrap_or_default(), "{cause}");
                    }
                    _ => tracing::info!(source, state, address = status.address, "source is {state}"),
                }
            }
            Event::Missed { round, missed } => {
                tracing::warn!(name = %round, missed, "the round takes longer than its interval: starts were left out");
            }
        }
    }
}
