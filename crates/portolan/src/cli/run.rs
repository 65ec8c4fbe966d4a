//! `portolan run`: collects for good.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use portolan_lake::Lake;
use portolan_model::config::Configuration;
use portolan_model::round::{ReceiptVerdict, RoundVerdict};
use portolan_model::state::State;
use portolan_rounds::coordinator::{Event, Observer, RoundRunner, Shared};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::exit::{Exit, Stop};
use crate::wiring;

/// The time from one look at what maintenance is due to the next.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(5);

/// Signals that come within this time are one request to stop.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// Arguments of `portolan run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Stops in order on Ctrl-C or a termination signal: the round that runs is ended, committed and
acknowledged. Asked again after a second or more, it ends at once: the lake is whole, rows under way are read
again. A port that is down is probed beside the rounds; the others go on.

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
    let (configuration, folder) = super::configuration(config)?;
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
        collected = collect(&configuration, &folder, Arc::new(Log), stop) => {
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

/// Runs every round of the configuration into its lake until `stop` turns true.
pub(crate) async fn collect(
    configuration: &Configuration,
    folder: &Path,
    observer: Arc<dyn Observer>,
    stop: watch::Receiver<bool>,
) -> Result<(), Stop> {
    let environment = wiring::environment(folder, Some(&configuration.lake.path));
    // What can be wrong with a source is found before the lake is touched and before any round has begun.
    let mut rounds = Vec::with_capacity(configuration.rounds.len());
    for round in &configuration.rounds {
        let specs = configuration.sources.iter().filter(|source| round.sources.contains(&source.name));
        rounds.push((round.clone(), wiring::open_slots(specs, &environment)?));
    }
    let lake = Arc::new(Lake::open(&configuration.lake, environment.clock.clone())?);
    wiring::restore(rounds.iter_mut().flat_map(|(_, slots)| slots), &*lake).await?;
    let shared = Shared {
        catalog: lake.clone(),
        clock: environment.clock.clone(),
        observer,
        jitter: || {
            f64::from(std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.subsec_nanos()) % 1_000) / 1_000.0
        },
    };
    let mut runners = JoinSet::new();
    for (round, slots) in rounds {
        runners.spawn(RoundRunner::new(round, slots, shared.clone()).run(stop.clone()));
    }
    tracing::info!(
        lake = %configuration.lake.path.display(),
        sources = configuration.sources.len(),
        rounds = configuration.rounds.len(),
        "collecting"
    );
    let maintenance = tokio::spawn(maintain(lake.clone(), stop));
    while let Some(ended) = runners.join_next().await {
        if let Err(error) = ended {
            return Err(anyhow::anyhow!("a round's task ended by itself: {error}").into());
        }
    }
    // The job that runs is ended: each is bounded.
    if let Err(error) = maintenance.await {
        return Err(anyhow::anyhow!("the maintenance task ended by itself: {error}").into());
    }
    lake.close().await?;
    Ok(())
}

async fn maintain(lake: Arc<Lake>, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        tokio::select! {
            () = tokio::time::sleep(MAINTENANCE_INTERVAL) => {}
            () = lake.flush_due() => {}
            _ = stop.changed() => return,
        }
        match lake.maintain().await {
            Ok(report) if !report.is_empty() => tracing::info!("maintenance: {report}"),
            Ok(_) => {}
            Err(error) => tracing::warn!(kind = %error.kind(), "maintenance is put off: {}", error.chain()),
        }
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
struct Log;

impl Observer for Log {
    fn event(&self, event: Event) {
        match event {
            Event::Committed { commit, record } => {
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
