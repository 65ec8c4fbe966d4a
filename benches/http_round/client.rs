//! `http_round FIRST_PORT PORTS [LAKE]`: our client of the round comparison.
//!
//! For each line on standard input, one round over all ports through the product's own path; prints
//! `wall_us cpu_us answers`. Without LAKE a round ends with the rows in memory, as in `portolan fetch`: request, JSON
//! parsed into Arrow, SHA-256 of the payload, instants noted. With LAKE it ends when the round is committed to a lake in
//! that folder, as in `portolan run`; the difference is what committing costs. A round is timed inside the task that runs
//! it, where `portolan run` begins one when its timer rings: handing a line of input to that task is not part of it.

#![forbid(unsafe_code)]

use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use portolan_bench::{Sample, Stretch};
use portolan_connect::Registry;
use portolan_connect::transport::SystemSecrets;
use portolan_lake::Lake;
use portolan_model::clock::SystemClock;
use portolan_model::config::{Configuration, ConnectorSet, LakeSpec};
use portolan_model::source::Environment;
use portolan_rounds::coordinator::{Event, Observer, RoundRunner, Shared};
use portolan_rounds::output::{MemoryRows, Receiver};
use portolan_rounds::reading::{Patience, read_all};
use portolan_rounds::slot::Slot;

/// More than any round here takes.
const DEADLINE: Duration = Duration::from_secs(60);
const MEMORY_BYTES_MAX: usize = 64 << 20;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (first_port, ports, lake) = match words.as_slice() {
        [first_port, ports] => (first_port, ports, None),
        [first_port, ports, lake] => (first_port, ports, Some(lake)),
        _ => bail!("usage: http_round FIRST_PORT PORTS [LAKE]"),
    };
    let (first_port, ports) = (first_port.parse()?, ports.parse()?);
    let configuration =
        Sample { host: "127.0.0.1", first_port, ports, ca_file: None, consistency: "none" }.configuration()?;
    // The runtime of the product's `main`, half the cores, and the round in a task of its own, as `portolan run` has it.
    let workers = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    let clock = Arc::new(SystemClock::new());
    let secrets = Arc::new(SystemSecrets::new(&std::env::current_dir()?));
    let environment = Environment { clock: clock.clone(), secrets, intake: None };
    let slots = open(&configuration, &environment)?;
    let mut rounds = match lake {
        None => Rounds::InMemory { slots, environment },
        Some(lake) => Rounds::committed(&configuration, slots, Path::new(lake), clock)?,
    };
    let mut output = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        line?;
        let (back, (wall_us, cpu_us), answers) = runtime.block_on(runtime.spawn(rounds.next()))?;
        rounds = back;
        writeln!(output, "{wall_us:.1} {cpu_us:.1} {}", answers?)?;
        output.flush()?;
    }
    Ok(())
}

fn open(configuration: &Configuration, environment: &Environment) -> Result<Vec<Slot>> {
    let connector = Registry.get("http").context("this build has no http")?;
    let specs = configuration.sources.iter();
    Ok(specs.map(|spec| Slot::open(spec, connector, environment, None)).collect::<Result<_, _>>()?)
}

/// Where a round's rows go.
enum Rounds {
    /// They stay in memory.
    InMemory { slots: Vec<Slot>, environment: Environment },
    /// They are committed to a lake.
    Committed(Box<RoundRunner>),
}

impl Rounds {
    fn committed(
        configuration: &Configuration,
        slots: Vec<Slot>,
        lake: &Path,
        clock: Arc<SystemClock>,
    ) -> Result<Self> {
        let spec = configuration.rounds.first().context("no round")?.clone();
        let lake = LakeSpec { path: lake.to_owned(), ..LakeSpec::default() };
        let catalog = Arc::new(Lake::open(&lake, clock.clone())?);
        let shared = Shared { catalog, checker: None, clock, observer: Arc::new(Nobody), jitter: || 1.0 };
        Ok(Self::Committed(Box::new(RoundRunner::new(spec, slots, shared))))
    }

    /// Reads all ports once. Returns wall and CPU time in microseconds, and how many yielded a row; an error if one failed.
    async fn next(mut self) -> (Self, (f64, f64), Result<usize>) {
        let stretch = Stretch::begin();
        let answers = match &mut self {
            Self::InMemory { slots, environment } => in_memory(slots, environment).await,
            Self::Committed(runner) => committed(runner).await,
        };
        let times_us = stretch.end_us();
        (self, times_us, answers)
    }
}

async fn in_memory(slots: &mut [Slot], environment: &Environment) -> Result<usize> {
    let receivers =
        slots.iter().map(|_| Receiver { memory: Some(MemoryRows::new(MEMORY_BYTES_MAX)), ..Receiver::default() });
    let receivers = receivers.collect();
    let mut due: Vec<&mut Slot> = slots.iter_mut().collect();
    let readings = read_all(&mut due, receivers, &*environment.clock, Patience::for_whole(DEADLINE)).await;
    let mut answers = 0;
    for (slot, reading) in due.iter_mut().zip(readings) {
        let outcome = reading.outcome?;
        slot.position = outcome.end.position;
        let rows: usize =
            reading.receiver.memory.iter().flat_map(|rows| &rows.batches).map(|batch| batch.num_rows()).sum();
        answers += usize::from(rows == 1 && reading.measured.payload_sha256.is_some());
    }
    Ok(answers)
}

async fn committed(runner: &mut RoundRunner) -> Result<usize> {
    let end = runner.round_with(None).await;
    if let Some(error) = end.error {
        bail!("{}", error.chain());
    }
    let record = end.record.context("nobody was due")?;
    Ok(record.receipts.iter().filter(|receipt| receipt.rows == 1 && receipt.payload_sha256.is_some()).count())
}

/// Nobody watches.
struct Nobody;

impl Observer for Nobody {
    fn event(&self, _: Event) {}
}
