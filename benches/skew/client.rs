//! `skew ADDRESS FIRST_PORT PORTS CONSISTENCY [CA_FILE]`: our client of the skew comparison.
//!
//! For each line on standard input, one round over all ports through the product's own path, committed to a lake in a
//! temporary folder as `portolan run` does it, with kept connections; prints `answers release_spread_us skew_bound_us`, the
//! latter as the round's record has them. CONSISTENCY is `released`, or `none` for our plain concurrent send. With CA_FILE
//! the ports speak TLS.

#![forbid(unsafe_code)]

use std::io::{BufRead, Write};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use portolan_bench::Sample;
use portolan_connect::Registry;
use portolan_connect::transport::SystemSecrets;
use portolan_lake::Lake;
use portolan_model::clock::SystemClock;
use portolan_model::config::{Configuration, ConnectorSet, LakeSpec};
use portolan_model::round::RoundRecord;
use portolan_model::source::Environment;
use portolan_rounds::coordinator::{Event, Observer, RoundRunner, Shared};
use portolan_rounds::slot::Slot;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (host, first_port, ports, consistency, ca_file) = match words.as_slice() {
        [host, first_port, ports, consistency] => (host, first_port, ports, consistency, None),
        [host, first_port, ports, consistency, ca_file] => {
            (host, first_port, ports, consistency, Some(ca_file.as_str()))
        }
        _ => bail!("usage: skew ADDRESS FIRST_PORT PORTS CONSISTENCY [CA_FILE]"),
    };
    let sample = Sample { host, first_port: first_port.parse()?, ports: ports.parse()?, ca_file, consistency };
    let lake = tempfile::tempdir()?;
    let mut runner = runner(&sample.configuration()?, lake.path())?;
    // The runtime of the product's `main`, half the cores, and the round in a task of its own, as `portolan run` has it.
    let workers = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    let mut output = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        line?;
        let (back, record) = runtime.block_on(runtime.spawn(next(runner)))?;
        runner = back;
        let record = record?;
        let answers = record.receipts.iter().filter(|receipt| receipt.rows == 1).count();
        let [spread_us, bound_us] = [record.release_spread_us, record.skew_bound_us].map(Option::unwrap_or_default);
        writeln!(output, "{answers} {spread_us} {bound_us}")?;
        output.flush()?;
    }
    Ok(())
}

fn runner(configuration: &Configuration, lake: &std::path::Path) -> Result<RoundRunner> {
    let clock = Arc::new(SystemClock::new());
    let secrets = Arc::new(SystemSecrets::new(&std::env::current_dir()?));
    let environment = Environment { clock: clock.clone(), secrets, intake: None };
    let connector = Registry.get("http").context("this build has no http")?;
    let specs = configuration.sources.iter();
    let slots = specs.map(|spec| Slot::open(spec, connector, &environment, None)).collect::<Result<_, _>>()?;
    let spec = configuration.rounds.first().context("no round")?.clone();
    let lake = LakeSpec { path: lake.to_owned(), ..LakeSpec::default() };
    let catalog = Arc::new(Lake::open(&lake, clock.clone())?);
    Ok(RoundRunner::new(
        spec,
        slots,
        Shared { catalog, clock, checker: None, observer: Arc::new(Nobody), jitter: || 1.0 },
    ))
}

async fn next(mut runner: RoundRunner) -> (RoundRunner, Result<Arc<RoundRecord>>) {
    let end = runner.round_with(None).await;
    let record = match end.error {
        Some(error) => Err(anyhow::anyhow!("{}", error.chain())),
        None => end.record.context("nobody was due"),
    };
    (runner, record)
}

/// Nobody watches.
struct Nobody;

impl Observer for Nobody {
    fn event(&self, _: Event) {}
}
