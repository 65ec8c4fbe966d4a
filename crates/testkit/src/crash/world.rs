//! The servers that a campaign collects from, and the writers that change them meanwhile.
//!
//! What a row holds follows from its number, so the ledger needs only the numbers: a writer that was cut off looks how
//! far it came and goes on from there.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::random::Random;
use crate::api::Api;
use crate::process::free_port;
use crate::senders::AcknowledgedSender;
use crate::servers::{COLLECTOR_PASSWORD, MariaDb, Nginx, NginxOptions, Session};

/// Tables whose rows rise by number: table and the ledger's key.
pub const RISING: [&str; 3] = ["orders", "events", "signals"];
/// A burst is a batch that is too large to be kept inside the catalog.
const BURST_ROWS: i64 = 400;
/// The table that is read whole each time.
pub const WHOLE: &str = "devices";

/// The servers, the writers and the folder with configuration and lake.
#[derive(Debug)]
pub struct World {
    servers: Arc<Servers>,
    progress: Arc<Progress>,
    writers: Option<Writers>,
    folder: TempDir,
    lake: PathBuf,
}

#[derive(Debug)]
struct Servers {
    mariadb: Mutex<MariaDb>,
    api: Mutex<Api>,
    nginx: Mutex<Nginx>,
    /// Sends to a port of the collector's.
    sender: AcknowledgedSender,
}

/// The highest number written for sure, by table.
#[derive(Debug, Default)]
pub struct Progress {
    orders: AtomicI64,
    events: AtomicI64,
    signals: AtomicI64,
}

#[derive(Debug)]
struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

/// A row of `orders` as the lake must show it.
pub fn order(id: i64) -> Value {
    let note = if id % 5 == 0 { Value::Null } else { json!(format!("note é \"{id}\"\n")) };
    let amount = format!("{}.{:02}", id * 37 % 100_000, id % 100);
    json!({ "id": id, "customer": format!("customer-{}", id % 97), "amount": amount, "note": note })
}

/// An item of `events` as the API shows it and the lake must.
pub fn event(id: i64) -> Value {
    let kind = ["on", "off", "alarm"][(id % 3) as usize];
    json!({ "id": id, "kind": kind, "value": id * 7 % 1_000, "ratio": id as f64 / 8.0, "text": format!("event {id} ✓") })
}

/// A message of `signals` as its sender sends it and the lake must show it.
pub fn signal(id: i64) -> Value {
    json!({ "id": id, "device": format!("pump-{}", id % 13), "level": id as f64 / 4.0, "open": id % 2 == 0 })
}

/// A row of a rising table.
pub fn content(table: &str) -> fn(i64) -> Value {
    match table {
        "orders" => order,
        "events" => event,
        _ => signal,
    }
}

impl World {
    /// Starts the servers with empty tables, and writes the configuration. The lake is `lake` where given.
    pub fn start(lake: Option<&Path>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("portolan-crash-").tempdir()?;
        let lake = lake.map_or_else(|| folder.path().join("lake"), Path::to_owned);
        let mariadb = MariaDb::start()?;
        mariadb.sql(
            "CREATE TABLE orders (id BIGINT PRIMARY KEY, customer VARCHAR(40) NOT NULL, amount DECIMAL(12,2) NOT NULL, \
             note TEXT)",
        )?;
        let api = Api::start()?;
        api.replace(WHOLE, (0..5).map(|id| json!({ "id": id, "version": 0 })));
        let nginx = Nginx::start(NginxOptions { upstream_port: Some(api.port()) })?;
        let signals = free_port()?;
        let sender = AcknowledgedSender::start();
        sender.begin_as("signals");
        sender.set_port(signals);
        let ports = [mariadb.port(), api.port(), nginx.http_port(), signals];
        std::fs::write(folder.path().join("portolan.toml"), configuration(&lake, ports))?;
        let servers = Servers { mariadb: Mutex::new(mariadb), api: Mutex::new(api), nginx: Mutex::new(nginx), sender };
        Ok(Self { servers: Arc::new(servers), progress: Arc::default(), writers: None, folder, lake })
    }

    /// The folder that holds `portolan.toml`, logs, and the lake unless it was put elsewhere.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration.
    pub fn configuration(&self) -> PathBuf {
        self.folder.path().join("portolan.toml")
    }

    /// The same configuration with another lake.
    pub fn configuration_for(&self, lake: &Path) -> Result<PathBuf> {
        let text = std::fs::read_to_string(self.configuration())?;
        let path = self.folder.path().join("portolan-other.toml");
        std::fs::write(&path, text.replace(&self.lake.display().to_string(), &lake.display().to_string()))?;
        Ok(path)
    }

    /// The lake's folder.
    pub fn lake(&self) -> &Path {
        &self.lake
    }

    /// The highest number written to a rising table.
    pub fn written(&self, table: &str) -> i64 {
        let counter = match table {
            "orders" => &self.progress.orders,
            "events" => &self.progress.events,
            _ => &self.progress.signals,
        };
        counter.load(Ordering::SeqCst)
    }

    /// Whether the sender was ever told that something is safe which was not.
    ///
    /// # Errors
    /// It was: a message that had been acknowledged was asked for again.
    pub fn check_acknowledgements(&self) -> Result<()> {
        self.servers.sender.broken_promise().map_or(Ok(()), |broken| anyhow::bail!("{broken}"))
    }

    /// What the table that is read whole holds now.
    pub fn whole(&self) -> Vec<Value> {
        lock(&self.servers.api).items(WHOLE)
    }

    /// Starts the writers, one a server.
    pub fn start_writers(&mut self, seed: u64) {
        let stop = Arc::new(AtomicBool::new(false));
        let spawn = |work: fn(&Servers, &Progress, &AtomicBool, Random) -> Result<()>, seed| {
            let (servers, progress, stop) = (self.servers.clone(), self.progress.clone(), stop.clone());
            std::thread::spawn(move || work(&servers, &progress, &stop, Random::new(seed)))
        };
        let threads =
            vec![spawn(write_orders, seed ^ 1), spawn(write_events, seed ^ 2), spawn(write_signals, seed ^ 3)];
        self.writers = Some(Writers { stop, threads });
    }

    /// Stops the writers.
    ///
    /// # Errors
    /// A writer failed for another reason than a killed server.
    pub fn stop_writers(&mut self) -> Result<()> {
        let Some(writers) = self.writers.take() else { return Ok(()) };
        writers.stop.store(true, Ordering::SeqCst);
        for thread in writers.threads {
            thread.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??;
        }
        Ok(())
    }

    /// Kills one of the servers, leaves it dead for a while, and starts it again. Returns its name.
    pub fn blow_server(&self, random: &mut Random) -> Result<&'static str> {
        let pause = random.moment(0, 900);
        match random.between(0, 5) {
            0 => {
                let mut api = lock(&self.servers.api);
                api.kill();
                std::thread::sleep(pause);
                api.start_again()?;
                Ok("api")
            }
            1 => {
                let mut nginx = lock(&self.servers.nginx);
                nginx.kill()?;
                std::thread::sleep(pause);
                nginx.start_again()?;
                Ok("nginx")
            }
            4 => {
                self.servers.sender.reconnect();
                Ok("sender")
            }
            2 => {
                let mariadb = lock(&self.servers.mariadb);
                mariadb.process().pause()?;
                std::thread::sleep(pause);
                mariadb.process().resume()?;
                Ok("mariadb (frozen)")
            }
            _ => {
                let mut mariadb = lock(&self.servers.mariadb);
                mariadb.kill()?;
                std::thread::sleep(pause);
                mariadb.start_again()?;
                Ok("mariadb")
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.stop_writers();
        if std::thread::panicking() || std::env::var_os("PORTOLAN_KEEP").is_some() {
            self.folder.disable_cleanup(true);
            eprintln!("kept for looking at: {}", self.folder.path().display());
        }
    }
}

/// Small thresholds, so that within seconds rows are inlined, flushed, merged, and snapshots expire.
fn configuration(lake: &Path, [mariadb, api, nginx, signals]: [u16; 4]) -> String {
    let lake = lake.display();
    format!(
        r#"
[server]
host = "127.0.0.1"

[lake]
path = "{lake}"
inline_rows = 100
flush_rows = 2000
flush_after = "3s"
merge_below = "1MiB"
keep_snapshots = "10s"

[[source]]
name = "orders"
port = {mariadb}
protocol = "mysql"
tls = {{ allow_plaintext = "loopback" }}
user = "collector"
password = {{ literal = "{COLLECTOR_PASSWORD}" }}
database = "shop"
table = "orders"
cursor = "id"
required = false

[[source]]
name = "events"
port = {nginx}
protocol = "http"
tls = {{ allow_plaintext = "loopback" }}
path = "/api/link/events?limit=60"
pagination = {{ by = "link" }}
cursor = {{ parameter = "since", column = "id" }}
required = false

[[source]]
name = "devices"
port = {api}
protocol = "http"
tls = {{ allow_plaintext = "loopback" }}
path = "/plain/devices"
mode = "replace"
required = false

[[source]]
name = "signals"
port = {signals}
protocol = "tcp"
tls = {{ allow_plaintext = "loopback" }}
listen = true
acknowledge = true
required = false

[[round]]
name = "all"
sources = ["orders", "events", "devices", "signals"]
every = "50ms"
deadline = "5s"
"#
    )
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn batch(random: &mut Random, next: i64) -> std::ops::Range<i64> {
    let count = if random.once_in(25) { BURST_ROWS } else { random.between(1, 12) as i64 };
    next..next + count
}

fn write_orders(servers: &Servers, progress: &Progress, stop: &AtomicBool, mut random: Random) -> Result<()> {
    let mut session: Option<Session> = None;
    while !stop.load(Ordering::SeqCst) {
        std::thread::sleep(random.moment(10, 150));
        // The lock is held only to connect: a killed server must be able to start while we wait.
        let mut open = match session.take() {
            Some(session) => session,
            None => {
                let Ok(mut fresh) = lock(&servers.mariadb).session() else { continue };
                // Whether the statement that was cut off took effect is seen here.
                let Ok(rows) = fresh.execute("SELECT COALESCE(MAX(id), 0) FROM orders;") else { continue };
                let highest = rows.first().and_then(|row| row.parse().ok()).unwrap_or(0);
                progress.orders.fetch_max(highest, Ordering::SeqCst);
                fresh
            }
        };
        let ids = batch(&mut random, progress.orders.load(Ordering::SeqCst) + 1);
        let highest = ids.end - 1;
        let rows: Vec<String> = ids.map(order_values).collect();
        if open.execute(&format!("INSERT INTO orders VALUES {};", rows.join(","))).is_ok() {
            progress.orders.store(highest, Ordering::SeqCst);
            session = Some(open);
        }
    }
    // What was cut off last may have taken effect.
    let highest = lock(&servers.mariadb).sql("SELECT COALESCE(MAX(id), 0) FROM orders")?;
    progress.orders.fetch_max(highest.trim().parse()?, Ordering::SeqCst);
    Ok(())
}

fn order_values(id: i64) -> String {
    let row = order(id);
    let note = match row["note"].as_str() {
        Some(note) => format!("'{}'", note.replace('\n', "\\n")),
        None => "NULL".into(),
    };
    format!(
        "({id},'{}',{},{note})",
        row["customer"].as_str().unwrap_or_default(),
        row["amount"].as_str().unwrap_or("0")
    )
}

fn write_events(servers: &Servers, progress: &Progress, stop: &AtomicBool, mut random: Random) -> Result<()> {
    let mut version = 0;
    while !stop.load(Ordering::SeqCst) {
        std::thread::sleep(random.moment(10, 150));
        let ids = batch(&mut random, progress.events.load(Ordering::SeqCst) + 1);
        let highest = ids.end - 1;
        let Ok(api) = servers.api.try_lock() else { continue };
        api.append("events", ids.map(event));
        progress.events.store(highest, Ordering::SeqCst);
        if random.once_in(10) {
            version += 1;
            api.replace(WHOLE, (0..5).map(|id| json!({ "id": id, "version": version })));
        }
    }
    Ok(())
}

fn write_signals(servers: &Servers, progress: &Progress, stop: &AtomicBool, mut random: Random) -> Result<()> {
    while !stop.load(Ordering::SeqCst) {
        std::thread::sleep(random.moment(10, 150));
        let ids = batch(&mut random, progress.signals.load(Ordering::SeqCst) + 1);
        let highest = ids.end - 1;
        servers.sender.send(ids.map(|id| signal(id).to_string()));
        progress.signals.store(highest, Ordering::SeqCst);
    }
    Ok(())
}

/// How long a lake may take to hold everything once nothing is written any more.
pub const DRAIN_PATIENCE: Duration = Duration::from_secs(120);
