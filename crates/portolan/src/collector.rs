//! The rounds of a process, and how they follow the configuration while they run.
//!
//! Promises:
//! - a configuration that cannot be taken changes nothing: the old one goes on;
//! - what the old and the new one say alike goes on: no round of it is ended, no connection of it is closed;
//! - what has changed ends its round first (committed, acknowledged), and goes on from the committed position.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use portolan_connect::Registry;
use portolan_lake::Lake;
use portolan_model::config::{Configuration, ConnectorSet, RoundSpec, SourceSpec};
use portolan_model::source::Environment;
use portolan_model::{Error, ErrorKind, RoundName, SourceName};
use portolan_rounds::coordinator::{Observer, RoundRunner, Shared};
use portolan_rounds::slot::Slot;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};

use crate::exit::Stop;
use crate::wiring;

/// The time from one look at what maintenance is due to the next.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(5);

/// A configuration to go on with.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) configuration: Configuration,
    /// Whether sources that have not changed are opened anew, too, where they have secrets or certificates.
    pub(crate) reopen: bool,
}

/// Rounds that run.
pub(crate) struct Collector {
    configuration: Configuration,
    environment: Environment,
    lake: Arc<Lake>,
    shared: Shared,
    /// How each round that runs is told to end.
    running: BTreeMap<RoundName, watch::Sender<bool>>,
    tasks: JoinSet<(RoundName, Vec<Slot>)>,
}

impl Collector {
    /// Begins every round of the configuration into its lake.
    pub(crate) async fn start(
        configuration: Configuration,
        folder: &Path,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, Stop> {
        wiring::supported(&configuration)?;
        let environment = wiring::environment(folder, Some(&configuration.lake.path));
        // What can be wrong with a source is found before the lake is touched and before any round has begun.
        let slots = wiring::open_slots(&configuration.sources, &environment)?;
        let lake = Arc::new(Lake::open(&configuration.lake, environment.clock.clone())?);
        let shared = Shared {
            catalog: lake.clone(),
            checker: wiring::checker(&configuration.lake.path, &environment.clock),
            clock: environment.clock.clone(),
            observer,
            jitter: || {
                f64::from(std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.subsec_nanos()) % 1_000)
                    / 1_000.0
            },
        };
        let (running, tasks) = (BTreeMap::new(), JoinSet::new());
        let mut collector = Self { configuration, environment, lake, shared, running, tasks };
        let rounds = collector.configuration.rounds.clone();
        collector.begin(rounds, slots, Vec::new()).await?;
        tracing::info!(
            lake = %collector.configuration.lake.path.display(),
            sources = collector.configuration.sources.len(),
            rounds = collector.configuration.rounds.len(),
            "collecting"
        );
        Ok(collector)
    }

    /// Collects until `stop` turns true, with whatever configuration `changes` brings.
    pub(crate) async fn run(
        mut self,
        mut stop: watch::Receiver<bool>,
        mut changes: mpsc::Receiver<Change>,
    ) -> Result<(), Stop> {
        let maintenance = tokio::spawn(maintain(self.lake.clone(), stop.clone()));
        let mut is_open = true;
        while !*stop.borrow() {
            tokio::select! {
                _ = stop.changed() => {}
                change = changes.recv(), if is_open => match change {
                    Some(change) => self.change(change).await?,
                    None => is_open = false,
                },
                Some(ended) = self.tasks.join_next() => {
                    let (round, _) = ended.map_err(ended_by_itself)?;
                    return Err(anyhow::anyhow!("round `{round}` ended by itself").into());
                }
            }
        }
        let all: Vec<RoundName> = self.running.keys().cloned().collect();
        close(self.end(&all).await?).await;
        // The job that runs is ended: each is bounded.
        if let Err(error) = maintenance.await {
            return Err(anyhow::anyhow!("the maintenance task ended by itself: {error}").into());
        }
        self.lake.close().await?;
        Ok(())
    }

    /// Goes on with another configuration, or as before if that one cannot be taken.
    async fn change(&mut self, change: Change) -> Result<(), Stop> {
        let difference = Difference::between(&self.configuration, &change);
        if difference.is_empty() && change.configuration.lake == self.configuration.lake {
            tracing::info!("configuration read again: nothing in it has changed");
            return Ok(());
        }
        let opened = match self.open(&change.configuration, &difference) {
            Ok(opened) => opened,
            Err(error) => {
                let next = error.hint().unwrap_or("correct the configuration; it is read again when it changes");
                tracing::error!(kind = %error.kind(), next, "the old configuration stays: {}", error.chain());
                return Ok(());
            }
        };
        let kept = self.end(&difference.ends).await?;
        let (kept, left): (Vec<Slot>, Vec<Slot>) =
            kept.into_iter().partition(|slot| difference.same_sources.contains(&slot.name));
        close(left).await;
        self.configuration = change.configuration;
        self.begin(difference.begins, opened, kept).await?;
        let Difference { added, changed, removed, .. } = difference;
        tracing::info!(
            added = join(&added),
            changed = join(&changed),
            removed = join(&removed),
            sources = self.configuration.sources.len(),
            rounds = self.configuration.rounds.len(),
            "collecting with the new configuration"
        );
        Ok(())
    }

    /// Opens what the new configuration needs, before anything of the old one is ended.
    fn open(&self, configuration: &Configuration, difference: &Difference) -> portolan_model::Result<Vec<Slot>> {
        if let Err(Stop::Error(_, error)) = wiring::supported(configuration) {
            return Err(error);
        }
        if configuration.lake != self.configuration.lake {
            let message = "the settings of [lake] have changed, and they are read at the start alone";
            return Err(Error::new(ErrorKind::Configuration, "take configuration", message)
                .with_hint("restart the collector to use them; the other changes wait with them"));
        }
        // Those that are the same, too: their rounds may hand back none for a source that is down.
        let concerned =
            |source: &&SourceSpec| difference.begins.iter().any(|round| round.sources.contains(&source.name));
        wiring::open_slots(configuration.sources.iter().filter(concerned), &self.environment)
    }

    /// Begins rounds with the slots that are `kept` from others, and those `opened` for the rest.
    async fn begin(&mut self, rounds: Vec<RoundSpec>, mut opened: Vec<Slot>, kept: Vec<Slot>) -> Result<(), Stop> {
        opened.retain(|slot| kept.iter().all(|kept| kept.name != slot.name));
        let mut slots: BTreeMap<SourceName, Slot> =
            opened.into_iter().chain(kept).map(|slot| (slot.name.clone(), slot)).collect();
        // The kept ones, too: a round that was given up at its end may have been committed all the same.
        wiring::restore(slots.values_mut(), &*self.lake).await?;
        for round in rounds {
            let own: Vec<Slot> = round.sources.iter().filter_map(|name| slots.remove(name)).collect();
            let (stop, stopped) = watch::channel(false);
            let name = round.name.clone();
            self.running.insert(name.clone(), stop);
            let runner = RoundRunner::new(round, own, self.shared.clone());
            self.tasks.spawn(async move { (name, runner.run(stopped).await) });
        }
        Ok(())
    }

    /// Ends rounds: what they are reading is committed and acknowledged. Returns their slots.
    async fn end(&mut self, rounds: &[RoundName]) -> Result<Vec<Slot>, Stop> {
        let mut waiting: Vec<&RoundName> = Vec::new();
        for name in rounds {
            if let Some(stop) = self.running.remove(name) {
                // Its task has ended by itself if nobody listens: that is told below.
                let _ = stop.send(true);
                waiting.push(name);
            }
        }
        let mut slots = Vec::new();
        while !waiting.is_empty() {
            let Some(ended) = self.tasks.join_next().await else { break };
            let (name, own) = ended.map_err(ended_by_itself)?;
            waiting.retain(|waiting| **waiting != name);
            slots.extend(own);
        }
        Ok(slots)
    }
}

fn ended_by_itself(error: JoinError) -> Stop {
    anyhow::anyhow!("a round's task ended by itself: {error}").into()
}

async fn close(slots: Vec<Slot>) {
    for mut slot in slots {
        slot.source.close().await;
    }
}

fn join(names: &[SourceName]) -> String {
    names.iter().map(SourceName::as_str).collect::<Vec<_>>().join(",")
}

/// What a change makes of sources and rounds.
#[derive(Debug, Default)]
struct Difference {
    added: Vec<SourceName>,
    changed: Vec<SourceName>,
    removed: Vec<SourceName>,
    same_sources: Vec<SourceName>,
    /// Rounds that run and are to end.
    ends: Vec<RoundName>,
    /// Rounds that are to begin.
    begins: Vec<RoundSpec>,
}

impl Difference {
    fn between(old: &Configuration, change: &Change) -> Self {
        let new = &change.configuration;
        let mut difference = Self::default();
        for source in &new.sources {
            let list = match old.sources.iter().find(|known| known.name == source.name) {
                None => &mut difference.added,
                Some(known) if known.is_same(source) && !(change.reopen && reads_secrets(source)) => {
                    &mut difference.same_sources
                }
                Some(_) => &mut difference.changed,
            };
            list.push(source.name.clone());
        }
        let is_gone = |source: &&SourceSpec| new.sources.iter().all(|other| other.name != source.name);
        difference.removed = old.sources.iter().filter(is_gone).map(|source| source.name.clone()).collect();
        let same_sources = &difference.same_sources;
        let is_same = |round: &RoundSpec, others: &[RoundSpec]| {
            others.contains(round) && round.sources.iter().all(|name| same_sources.contains(name))
        };
        let ends =
            old.rounds.iter().filter(|round| !is_same(round, &new.rounds)).map(|round| round.name.clone()).collect();
        let begins = new.rounds.iter().filter(|round| !is_same(round, &old.rounds)).cloned().collect();
        Self { ends, begins, ..difference }
    }

    fn is_empty(&self) -> bool {
        self.ends.is_empty() && self.begins.is_empty()
    }
}

/// Whether a source that has not changed is to be opened anew, to read its secrets and certificates again.
fn reads_secrets(source: &SourceSpec) -> bool {
    Registry.get(&source.protocol).is_none_or(|connector| connector.reads_secrets(source))
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
