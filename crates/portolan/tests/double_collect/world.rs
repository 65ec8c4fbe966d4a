//! One state behind several ports, changed while it is read: each port shows its part of it, all parts change in one step,
//! and no value comes twice.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use arrow::record_batch::RecordBatch;
use portolan_connect::Registry;
use portolan_connect::transport::SystemSecrets;
use portolan_model::catalog::Catalog;
use portolan_model::clock::SystemClock;
use portolan_model::config::{Configuration, ConnectorSet, RoundSpec};
use portolan_model::source::Environment;
use portolan_rounds::coordinator::{Event, Observer, RoundRunner, Shared};
use portolan_rounds::slot::Slot;
use portolan_testkit::api::Api;
use portolan_testkit::crash::random::Random;
use portolan_testkit::servers::{COLLECTOR_PASSWORD, MariaDb, Redis};
use serde_json::{Value, json};

/// Rows that a port shows.
const ROWS: i64 = 3;
/// The column that every port shows the state's version in.
const VERSION: &str = "version";

/// The versions that rows show.
pub(crate) fn versions(batch: &RecordBatch) -> Vec<i64> {
    let numbers = cast(&batch[VERSION], &DataType::Int64).expect("a version is a number");
    numbers.as_primitive::<Int64Type>().values().to_vec()
}

/// How an HTTP port shows its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    /// One answer.
    Plain,
    /// One answer with a strong ETag, or 304.
    Strong,
    /// One answer with a weak ETag that says nothing, or 304.
    Vague,
    /// One answer with a strong ETag that says nothing, or 304: a server that breaks RFC 9110.
    Lying,
    /// A row an answer, linked.
    Links,
    /// A row an answer, numbered.
    Pages,
}

impl Habit {
    /// What honest servers do.
    pub(crate) const HONEST: [Self; 5] = [Self::Plain, Self::Strong, Self::Vague, Self::Links, Self::Pages];

    /// Looks at the state that one read takes, where nothing is proved unchanged.
    pub(crate) fn looks(self) -> usize {
        match self {
            Self::Links => ROWS as usize,
            // The page after the last one is empty: that is how its end is known.
            Self::Pages => ROWS as usize + 1,
            _ => 1,
        }
    }

    fn options(self, name: &str) -> String {
        match self {
            Self::Plain => format!("path = \"/plain/{name}\"\netag = false\n"),
            Self::Strong => format!("path = \"/plain/{name}\"\n"),
            Self::Vague => format!("path = \"/vague/{name}\"\n"),
            Self::Lying => format!("path = \"/lying/{name}\"\n"),
            Self::Links => format!("path = \"/link/{name}?limit=1\"\npagination = {{ by = \"link\" }}\n"),
            Self::Pages => {
                format!("path = \"/page/{name}?per_page=1\"\npagination = {{ by = \"page\" }}\nrows = \"$.items\"\n")
            }
        }
    }
}

/// A change: it took effect between the two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub(crate) from: Instant,
    pub(crate) to: Instant,
}

/// Who holds the state.
pub(crate) enum Server {
    Http { api: Arc<Api>, ports: Vec<u16>, habits: Vec<Habit> },
    Redis(Redis),
    MariaDb(MariaDb),
}

/// The state's changes, the first of which made it.
pub(crate) type Changes = Arc<Mutex<Vec<Change>>>;

/// A server with its state, and who changes it.
pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) changes: Changes,
}

fn name(index: usize) -> String {
    format!("part_{index}")
}

fn rows(part: usize, version: i64) -> Vec<Value> {
    let value = |row: i64| (version * 8 + part as i64) * ROWS + row;
    (0..ROWS).map(|row| json!({ "id": row, "version": version, "value": value(row) })).collect()
}

impl World {
    /// Ports of one API. Each answer is made up to `delay` late, and sent up to `delay` late.
    pub(crate) fn http(habits: &[Habit], delay: Duration, seed: u64) -> Result<Self> {
        let mut api = Api::start()?;
        let mut ports = vec![api.port()];
        while ports.len() < habits.len() {
            ports.push(api.open_port()?);
        }
        if delay > Duration::ZERO {
            let random = Mutex::new(Random::new(seed));
            api.on_request(move |_| {
                let [before, after] = [0, 1].map(|_| {
                    let delay_us = random.lock().unwrap().between(0, delay.as_micros() as u64);
                    Duration::from_micros(delay_us)
                });
                std::thread::sleep(before);
                after
            });
        }
        Self::new(Server::Http { api: Arc::new(api), ports, habits: habits.to_vec() })
    }

    /// Two ports whose state goes back and forth: it is 0 whenever the first is asked and 1 whenever the second is, in turn.
    pub(crate) fn alternating() -> Result<Self> {
        let world = Self::http(&[Habit::Plain; 2], Duration::ZERO, 0)?;
        let Server::Http { api, .. } = &world.server else { return Ok(world) };
        let own = Arc::downgrade(api);
        api.on_request(move |target| {
            let version = i64::from(target.contains(&name(1)));
            while let Some(api) = own.upgrade() {
                if api.looks(&name(0)) == api.looks(&name(1)) + version as usize {
                    api.replace_all((0..2).map(|part| (name(part), rows(part, version))));
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Duration::ZERO
        });
        Ok(world)
    }

    /// Two keys of one Redis, written in one transaction.
    pub(crate) fn redis() -> Result<Self> {
        Self::new(Server::Redis(Redis::start()?))
    }

    /// Two tables of one MariaDB, written in one transaction.
    pub(crate) fn maria_db() -> Result<Self> {
        let server = MariaDb::start()?;
        for part in 0..2 {
            server.sql(&format!("CREATE TABLE {} (id INT PRIMARY KEY, version BIGINT NOT NULL)", name(part)))?;
            server.sql(&format!("INSERT INTO {} VALUES (1, 0)", name(part)))?;
        }
        Self::new(Server::MariaDb(server))
    }

    fn new(server: Server) -> Result<Self> {
        let world = Self { server, changes: Changes::default() };
        world.writer()?.change()?;
        if let Server::Http { api, .. } = &world.server {
            api.take_looks();
        }
        Ok(world)
    }

    /// Ports.
    pub(crate) fn parts(&self) -> usize {
        match &self.server {
            Server::Http { ports, .. } => ports.len(),
            Server::Redis(_) | Server::MariaDb(_) => 2,
        }
    }

    fn writer(&self) -> Result<Writer<'_>> {
        let parts = self.parts();
        let mut write: Box<dyn FnMut(i64) -> Result<Change> + Send + '_> = match &self.server {
            Server::Http { api, .. } => Box::new(move |version| {
                let at = api.replace_all((0..parts).map(|part| (name(part), rows(part, version))));
                Ok(Change { from: at, to: at })
            }),
            Server::Redis(server) => {
                let mut session = server.session()?;
                Box::new(move |version| {
                    let from = Instant::now();
                    let value = format!("{{\"version\":{version}}}");
                    let (one, other) = (name(0), name(1));
                    let set = |key: &'_ str| vec![b"SET".to_vec(), key.as_bytes().to_vec(), value.as_bytes().to_vec()];
                    let words = [vec![b"MULTI".to_vec()], set(&one), set(&other), vec![b"EXEC".to_vec()]];
                    let words: Vec<Vec<&[u8]>> =
                        words.iter().map(|words| words.iter().map(Vec::as_slice).collect()).collect();
                    session.run_all(&words)?;
                    Ok(Change { from, to: Instant::now() })
                })
            }
            Server::MariaDb(server) => {
                let mut session = server.session()?;
                Box::new(move |version| {
                    let from = Instant::now();
                    let update = |part| format!("UPDATE {} SET version = {version};", name(part));
                    session.execute(&format!("BEGIN; {} {} COMMIT;", update(0), update(1)))?;
                    Ok(Change { from, to: Instant::now() })
                })
            }
        };
        let changes = self.changes.clone();
        Ok(Writer {
            change: Box::new(move || {
                // Held meanwhile: whoever has read a version finds its change here.
                let mut changes = changes.lock().unwrap();
                let change = write(changes.len() as i64)?;
                changes.push(change);
                Ok(())
            }),
        })
    }

    /// Changes the state `rate` times a second while `work` runs.
    pub(crate) fn while_changing<T>(&self, rate: f64, seed: u64, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let is_over = AtomicBool::new(false);
        let mut writer = self.writer()?;
        std::thread::scope(|scope| {
            let is_over = &is_over;
            let changing = scope.spawn(move || -> Result<()> {
                let mut random = Random::new(seed);
                let mut next = Instant::now();
                while !is_over.load(Ordering::Relaxed) {
                    // Between half and one and a half of the mean pause; a long one is looked at on the way.
                    next += Duration::from_secs_f64((500 + random.between(0, 1_000)) as f64 / 1_000.0 / rate);
                    while !is_over.load(Ordering::Relaxed) && Instant::now() < next {
                        let left = next.saturating_duration_since(Instant::now());
                        std::thread::sleep(left.min(Duration::from_millis(20)));
                    }
                    writer.change()?;
                }
                Ok(())
            });
            // Also where the work panics: the scope waits for the writer.
            let over = Over(is_over);
            let done = work();
            drop(over);
            changing.join().map_err(|_| anyhow!("the writer panicked"))??;
            done
        })
    }

    /// The sources, and one round of them with `promise`, in mode `mode`.
    pub(crate) fn configuration(&self, promise: &str, mode: &str) -> Result<Configuration> {
        let mut text = "[server]\nhost = \"127.0.0.1\"\n".to_owned();
        let mut names = String::new();
        for part in 0..self.parts() {
            let (port, protocol, options) = match &self.server {
                Server::Http { ports, habits, .. } => (ports[part], "http", habits[part].options(&name(part))),
                Server::Redis(server) => {
                    let keys = name(part);
                    (server.port(), "redis", format!("keys = \"{keys}\"\ntype = \"string\"\nformat = \"json\"\n"))
                }
                Server::MariaDb(server) => {
                    let login = format!("user = \"collector\"\npassword = {{ literal = \"{COLLECTOR_PASSWORD}\" }}\n");
                    (server.port(), "mysql", format!("{login}database = \"shop\"\ntable = \"{}\"\n", name(part)))
                }
            };
            write!(names, "\"{}\", ", name(part))?;
            write!(
                text,
                "[[source]]\nname = \"{}\"\nport = {port}\nprotocol = \"{protocol}\"\nmode = \"{mode}\"\n{options}\
                 tls = {{ allow_plaintext = \"test on loopback\" }}\n",
                name(part)
            )?;
        }
        write!(
            text,
            "[[round]]\nname = \"all\"\nsources = [{names}]\nevery = \"1h\"\ndeadline = \"10s\"\n{promise}\n"
        )?;
        portolan_model::config::read(&text, &Registry).map_err(|problems| {
            let messages: Vec<String> = problems.into_iter().map(|problem| problem.message).collect();
            anyhow!("{text}\n{}", messages.join("; "))
        })
    }

    /// The runner of that round, into `catalog`.
    pub(crate) fn runner(&self, promise: &str, mode: &str, catalog: Arc<dyn Catalog>) -> Result<RoundRunner> {
        let configuration = self.configuration(promise, mode)?;
        let (slots, round, environment) = opened(&configuration)?;
        let shared =
            Shared { catalog, clock: environment.clock, checker: None, observer: Arc::new(Silent), jitter: || 0.5 };
        Ok(RoundRunner::new(round, slots, shared))
    }
}

/// Tells the writer to end when it is dropped.
struct Over<'o>(&'o AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What changes the state, once a call.
struct Writer<'w> {
    change: Box<dyn FnMut() -> Result<()> + Send + 'w>,
}

impl Writer<'_> {
    fn change(&mut self) -> Result<()> {
        (self.change)()
    }
}

struct Silent;

impl Observer for Silent {
    fn event(&self, _: Event) {}
}

/// The open sources of a configuration with one round.
pub(crate) fn opened(configuration: &Configuration) -> Result<(Vec<Slot>, RoundSpec, Environment)> {
    let secrets = Arc::new(SystemSecrets::new(std::path::Path::new(".")));
    let environment = Environment { clock: Arc::new(SystemClock::new()), secrets, intake: None };
    let slots = configuration
        .sources
        .iter()
        .map(|source| {
            let connector = Registry.get(&source.protocol).ok_or_else(|| anyhow!("no {}", source.protocol))?;
            Ok(Slot::open(source, connector, &environment, None)?)
        })
        .collect::<Result<Vec<Slot>>>()?;
    Ok((slots, configuration.rounds[0].clone(), environment))
}
