//! `portolan demo`: a tour with a sample server, nothing to set up.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use portolan_lake::{At, LakeReader, Snapshot};
use portolan_model::port::{PortClass, service_name};
use portolan_model::{Error, ErrorKind};
use portolan_rounds::coordinator::{Event, Observer};
use tokio::sync::{mpsc, watch};

use crate::collector::Collector;
use crate::demo::queries::{self, Question};
use crate::demo::{LeftOut, SampleServer};
use crate::exit::{Exit, Stop};

/// Arguments of `portolan demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  portolan demo --seconds 10 && portolan --config portolan-demo/portolan.toml status")]
pub(crate) struct Arguments {
    /// How long to collect.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Folder for the configuration and the lake: an empty one, or that of an earlier demo, which is replaced.
    #[arg(long, value_name = "FOLDER", default_value = "portolan-demo")]
    folder: PathBuf,
}

/// The file that tells a demo's folder from any other.
const MARKER: &str = ".portolan-demo";

/// Runs the tour, or as much of it as there is time for until it is asked to stop: what it has started ends with it.
pub(crate) async fn run(arguments: Arguments) -> Result<Exit, Stop> {
    let (stop_sender, stop) = watch::channel(false);
    let mut signals = super::run::StopSignals::new()?;
    let ends = tokio::spawn(async move {
        signals.next().await;
        // Nobody listens any more only when the tour has ended.
        let _ = stop_sender.send(true);
        std::future::pending::<()>().await;
    });
    let result = tour(arguments, stop.clone()).await;
    ends.abort();
    if *stop.borrow() {
        say("Stopped.")?;
    }
    result
}

async fn tour(arguments: Arguments, stop: watch::Receiver<bool>) -> Result<Exit, Stop> {
    let folder = prepare_folder(&arguments.folder)?;
    say("Starting a sample server on loopback …")?;
    let sample = SampleServer::start(&folder).await?;
    if *stop.borrow() {
        return Ok(Exit::Success);
    }
    let config = folder.join("portolan.toml");
    std::fs::write(&config, sample.configuration()).with_context(|| format!("failed to write {}", config.display()))?;
    let (configuration, base) = super::configuration(&config)?;
    show_ports(&configuration, &sample.left_out)?;
    collect(&configuration, &base, arguments.seconds, stop.clone()).await?;
    if *stop.borrow() {
        return Ok(Exit::Success);
    }
    show_rounds(&configuration.lake.path).await?;
    say(format_args!(
        "\nOn your own server:\n  describe its ports in portolan.toml (docs/getting-started.md; {config} is one),\n  \
         portolan check --connect      # is it right, does every port answer?\n  \
         portolan fetch                # one round now, as JSON\n  \
         portolan run                  # collect for good\n  \
         portolan query \"select …\"     # SQL over everything collected\n\n\
         What the demo collected stays in {folder}:\n  \
         portolan --config {config} status",
        config = config.display(),
        folder = folder.display(),
    ))?;
    Ok(Exit::Success)
}

fn say(text: impl std::fmt::Display) -> std::io::Result<()> {
    super::print_line(text)
}

/// Makes the folder; removes only what a demo before this one made, and not while somebody collects into it.
fn prepare_folder(folder: &Path) -> Result<PathBuf, Stop> {
    let context = || format!("failed to make {}", folder.display());
    std::fs::create_dir_all(folder).with_context(context)?;
    let marker = folder.join(MARKER);
    let is_empty = std::fs::read_dir(folder).with_context(context)?.next().is_none();
    if !is_empty && !marker.is_file() {
        let message = format!("{} holds files that no demo has made", folder.display());
        return Err(Error::new(ErrorKind::Configuration, "start demo", message)
            .with_hint("name an empty folder, or one that is not there yet, with --folder")
            .into());
    }
    std::fs::write(&marker, "portolan demo replaces what is in this folder.\n").with_context(context)?;
    let lake = folder.join("lake");
    if lake.join("catalog.sqlite").is_file() {
        // A lake that was only begun cannot say who collects: nobody does.
        let collector = LakeReader::open(&lake).and_then(|reader| reader.collector()).unwrap_or_default();
        if let Some(process) = collector {
            let message = format!("process {process} collects into {}", lake.display());
            return Err(Error::new(ErrorKind::Conflict, "start demo", message)
                .with_hint("end it first, or name another folder with --folder")
                .into());
        }
        std::fs::remove_dir_all(&lake).with_context(|| format!("failed to remove {}", lake.display()))?;
    }
    Ok(folder.canonicalize().with_context(context)?)
}

fn show_ports(configuration: &portolan_model::config::Configuration, left_out: &[LeftOut]) -> std::io::Result<()> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["PORT", "CLASS (RFC 6335)", "REGISTERED SERVICE (IANA)", "SOURCE", "SPOKEN HERE"]);
    for source in &configuration.sources {
        let class = PortClass::of(source.port).to_string();
        let service = service_name(source.port).unwrap_or("none");
        table.add_row([&source.port.to_string(), &class, service, source.name.as_str(), &source.protocol]);
    }
    say(format_args!("\nPorts of the sample server\n{table}"))?;
    for LeftOut { name, reason } in left_out {
        say(format_args!("Left out: {name}, {reason}"))?;
    }
    Ok(())
}

/// Counts what the progress line shows.
struct Progress {
    bar: ProgressBar,
    rounds: AtomicU64,
    rows: AtomicU64,
}

impl Observer for Progress {
    fn event(&self, event: Event) {
        match event {
            Event::Committed { commit, record } => {
                let rows: u64 = record.receipts.iter().map(|receipt| receipt.rows).sum();
                let rounds = self.rounds.fetch_add(1, Ordering::Relaxed) + 1;
                let rows = self.rows.fetch_add(rows, Ordering::Relaxed) + rows;
                let duration_ms = record.duration_us as f64 / 1_000.0;
                let bound_us = record.skew_bound_us.unwrap_or_default();
                self.bar.set_message(format!(
                    "{rounds} rounds, {rows} rows; round {} took {duration_ms:.1} ms, all ports within {bound_us} µs",
                    commit.round
                ));
            }
            Event::NotStored { error, .. } => self.bar.println(format!("round not stored: {}", error.chain())),
            Event::SourceChanged(status) => {
                if let Some(cause) = status.cause {
                    self.bar.println(format!("{}: {cause}", status.source));
                }
            }
            Event::Missed { .. } => {}
        }
    }
}

async fn collect(
    configuration: &portolan_model::config::Configuration,
    base: &Path,
    seconds: u64,
    mut asked: watch::Receiver<bool>,
) -> Result<(), Stop> {
    say(format_args!("\nCollecting all ports at once, four rounds a second, for {seconds} s"))?;
    let bar = ProgressBar::new(seconds * 10);
    if let Ok(style) = ProgressStyle::with_template("  [{bar:20}] {msg}") {
        bar.set_style(style);
    }
    let progress = Arc::new(Progress { bar: bar.clone(), rounds: AtomicU64::new(0), rows: AtomicU64::new(0) });
    let (stop_sender, stop) = watch::channel(false);
    let timer = tokio::spawn(async move {
        for _ in 0..seconds * 10 {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(100)) => bar.inc(1),
                _ = asked.changed() => break,
            }
        }
        // The collector has ended early if nobody listens.
        let _ = stop_sender.send(true);
    });
    let (_, changes) = mpsc::channel(1);
    let result = match Collector::start(configuration.clone(), base, progress.clone()).await {
        Ok(collector) => collector.run(stop, changes).await,
        Err(error) => Err(error),
    };
    timer.abort();
    progress.bar.finish();
    if progress.bar.is_hidden() {
        let (rounds, rows) = (progress.rounds.load(Ordering::Relaxed), progress.rows.load(Ordering::Relaxed));
        say(format_args!("  {rounds} rounds, {rows} rows"))?;
    }
    result
}

#[cfg(feature = "sql")]
async fn show_rounds(lake: &Path) -> Result<(), Stop> {
    use crate::output::{Options, Target, deliver_stream, format};
    let engine = super::query::engine(256)?;
    let (questions, snapshot) = questions(lake)?;
    engine.attach_lake(Arc::new(snapshot))?;
    for Question { title, sql } in questions {
        say(format_args!("\n{title}\n  {sql}\n"))?;
        let stream = engine.sql(&sql).await.map_err(|error| Stop::Error(Exit::Query, error))?;
        let schema = stream.schema.clone();
        deliver_stream(format("table")?, &Target::Stdout, &Options::default(), "", &schema, stream.batches).await?;
    }
    Ok(())
}

#[cfg(not(feature = "sql"))]
async fn show_rounds(lake: &Path) -> Result<(), Stop> {
    say(format_args!("\nThis build has no SQL. A full build, or DuckDB on {}, answers these:", lake.display()))?;
    for Question { title, sql } in questions(lake)?.0 {
        say(format_args!("\n{title}\n  {sql}"))?;
    }
    Ok(())
}

/// What can be asked of the tables that are there.
fn questions(lake: &Path) -> Result<(Vec<Question>, Snapshot), Stop> {
    let snapshot = LakeReader::open(lake)?.snapshot(At::Head)?;
    let tables = snapshot.tables()?;
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    Ok((queries::of(&names), snapshot))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_somebody_else_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("portolan.toml");
        std::fs::write(&file, "mine").unwrap();
        std::fs::create_dir(folder.path().join("lake")).unwrap();
        std::fs::write(folder.path().join("lake/catalog.sqlite"), "mine").unwrap();
        assert!(matches!(prepare_folder(folder.path()), Err(Stop::Error(Exit::Usage, _))));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
        assert!(folder.path().join("lake/catalog.sqlite").is_file());
        assert!(!folder.path().join(MARKER).exists());
    }

    #[test]
    fn a_demo_replaces_the_demo_before_it() {
        let folder = tempfile::tempdir().unwrap();
        assert!(prepare_folder(folder.path()).is_ok());
        std::fs::create_dir(folder.path().join("lake")).unwrap();
        std::fs::write(folder.path().join("lake/catalog.sqlite"), "").unwrap();
        assert!(prepare_folder(folder.path()).is_ok());
        assert!(!folder.path().join("lake").exists());
    }
}
