//! `portolan demo`: a tour with a sample server, nothing to set up.
//!
//! The demo shows; it proves nothing: proofs stand on real servers, in the tests.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use portolan_lake::LakeReader;
use portolan_model::port::{PortClass, service_name};
use portolan_model::{Error, ErrorKind};
use portolan_rounds::coordinator::{Event, Observer};
use tokio::sync::{mpsc, watch};

use crate::collector::Collector;
use crate::demo::{database, server};
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
    let sample = server::start().await?;
    let database = start_database(&folder).await?;
    if *stop.borrow() {
        return Ok(Exit::Success);
    }
    let config = folder.join("portolan.toml");
    std::fs::write(&config, configuration(&sample, database.as_ref()))
        .with_context(|| format!("failed to write {}", config.display()))?;
    let (configuration, base) = super::configuration(&config)?;
    show_ports(&configuration, database.is_some())?;
    collect(&configuration, &base, arguments.seconds, stop.clone()).await?;
    if *stop.borrow() {
        return Ok(Exit::Success);
    }
    show_rounds(&configuration.lake.path, database.is_some()).await?;
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

async fn start_database(folder: &Path) -> anyhow::Result<Option<database::SampleDatabase>> {
    if !database::is_installed() {
        return Ok(None);
    }
    say("Setting up a MariaDB of its own in a temporary folder …")?;
    let folder = folder.to_path_buf();
    match tokio::task::spawn_blocking(move || database::start(&folder)).await? {
        Ok(database) => Ok(Some(database)),
        Err(error) => {
            say(format_args!("MariaDB could not be started, the demo goes on without it: {error:#}"))?;
            Ok(None)
        }
    }
}

fn configuration(sample: &server::SampleServer, database: Option<&database::SampleDatabase>) -> String {
    let (metrics_port, orders_port) = (sample.metrics_port, sample.orders_port);
    let mut text = format!(
        r#"# The sample server of `portolan demo`. Its ports close when the demo ends.
[server]
host = "127.0.0.1"

[lake]
path = "lake"

[[source]]
name = "metrics"
port = {metrics_port}
protocol = "http"
path = "/api/metrics"
tls = {{ allow_plaintext = "sample server on loopback" }}

[[source]]
name = "orders"
port = {orders_port}
protocol = "http"
path = "/api/orders"
cursor = {{ parameter = "since", column = "id" }}
columns = {{ price = "decimal(12,2)" }}
tls = {{ allow_plaintext = "sample server on loopback" }}
"#
    );
    if let Some(database) = database {
        let password_file = database.password_file.file_name().unwrap_or_default().to_string_lossy();
        text.push_str(&format!(
            r#"
[[source]]
name = "customers"
port = {}
protocol = "mysql"
user = "{}"
password = {{ file = "{password_file}" }}
database = "demo"
table = "customers"
tls = {{ allow_plaintext = "sample server on loopback" }}
"#,
            database.port,
            database::USER
        ));
    }
    let customers = if database.is_some() { ", \"customers\"" } else { "" };
    text.push_str(&format!(
        r#"
# All ports at once, four times a second, in one commit.
[[round]]
name = "tour"
sources = ["metrics", "orders"{customers}]
every = "250ms"
"#
    ));
    text
}

fn show_ports(configuration: &portolan_model::config::Configuration, has_database: bool) -> std::io::Result<()> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["PORT", "CLASS (RFC 6335)", "REGISTERED SERVICE (IANA)", "SOURCE", "SPOKEN HERE"]);
    for source in &configuration.sources {
        let class = PortClass::of(source.port).to_string();
        let service = service_name(source.port).unwrap_or("none");
        table.add_row([&source.port.to_string(), &class, service, source.name.as_str(), &source.protocol]);
    }
    say(format_args!("\nPorts of the sample server\n{table}"))?;
    if !has_database {
        say(format_args!("Left out: MySQL, because no MariaDB is installed. To have it: {}", database::INSTALL_HINT))?;
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

const QUERIES: [(&str, &str, bool); 4] = [
    (
        "The latest rounds: release spread, bound on the skew, duration against the slowest port",
        "select r.round, r.verdict, r.release_spread_us as spread_us, r.skew_bound_us as bound_us,
         round(r.duration_us / 1000.0, 2) as round_ms, round(max(p.last_byte_us) / 1000.0, 2) as slowest_port_ms
  from portolan.rounds r join portolan.receipts p on p.round = r.round
  group by r.round, r.verdict, r.release_spread_us, r.skew_bound_us, r.duration_us order by r.round desc limit 4",
        false,
    ),
    (
        "Two ports in one join: pieces ordered a machine, beside its load in the same round",
        "select o.machine, sum(o.pieces) as pieces, sum(o.pieces * o.price) as value,
         round(avg(m.load_percent), 1) as load_percent
  from orders o join metrics m on m.machine = o.machine and m._round = o._round
  group by o.machine order by value desc",
        false,
    ),
    (
        "Three ports, two protocols: what each customer ordered against the credit in MariaDB",
        "select c.name, count(*) as orders, sum(o.pieces * o.price) as value, c.credit
  from orders o join customers c on c.id = o.customer_id
  group by c.name, c.credit order by value desc limit 3",
        true,
    ),
    (
        "Nothing twice, nothing lost: orders have rising ids without a gap",
        "select count(*) as orders, count(distinct id) as distinct_ids, min(id) as first, max(id) as last from orders",
        false,
    ),
];

#[cfg(feature = "sql")]
async fn show_rounds(lake: &Path, has_database: bool) -> Result<(), Stop> {
    use portolan_lake::At;

    use crate::output::{Options, Target, deliver_stream, format};
    let engine = super::query::engine(256)?;
    engine.attach_lake(Arc::new(LakeReader::open(lake)?.snapshot(At::Head)?))?;
    for (title, sql, needs_database) in QUERIES {
        if needs_database && !has_database {
            continue;
        }
        say(format_args!("\n{title}\n  {sql}\n"))?;
        let stream = engine.sql(sql).await.map_err(|error| Stop::Error(Exit::Query, error))?;
        let schema = stream.schema.clone();
        deliver_stream(format("table")?, &Target::Stdout, &Options::default(), "", &schema, stream.batches).await?;
    }
    Ok(())
}

#[cfg(not(feature = "sql"))]
async fn show_rounds(lake: &Path, has_database: bool) -> Result<(), Stop> {
    say(format_args!("\nThis build has no SQL. A full build, or DuckDB on {}, answers these:", lake.display()))?;
    for (title, sql, _) in QUERIES.iter().filter(|(_, _, needs_database)| has_database || !needs_database) {
        say(format_args!("\n{title}\n  {sql}"))?;
    }
    Ok(())
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

    #[test]
    fn the_written_configuration_is_right() {
        let sample = server::SampleServer { metrics_port: 50_001, orders_port: 50_002 };
        let text = configuration(&sample, None);
        let read = portolan_model::config::read(&text, &portolan_connect::Registry);
        assert!(read.is_ok(), "{:?}", read.err());
    }
}
