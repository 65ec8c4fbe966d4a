//! Rounds over worlds drawn from a seed, each looked at after its commit, and what they came to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use portolan_lake::Lake;
use portolan_model::clock::SystemClock;
use portolan_model::config::LakeSpec;
use portolan_model::round::{ConsistencyReached, RoundRecord, RoundVerdict};
use portolan_rounds::coordinator::RoundRunner;
use portolan_testkit::api::Look;
use portolan_testkit::crash::random::Random;
use portolan_testkit::duckdb;
use portolan_testkit::memory::MemoryCatalog;

use crate::world::{Habit, Server, World, versions};

/// The most attempts of a round.
const ATTEMPTS: usize = 6;
/// Rounds of one world that promise proof.
const WORLD_ROUNDS: u64 = 100;
/// So many of the rounds of a world are read once more with each of the lesser promises, for comparison.
const CONTROL_SHARE: u64 = 5;
/// Of so many worlds one is a Redis, one a MariaDB, and one is committed to a real lake.
const WORLDS_CYCLE: u64 = 20;
/// Where the table is divided: changes a second, ports.
const RATES: [(f64, &str); 6] =
    [(3.0, "1–3"), (10.0, "3–10"), (30.0, "10–30"), (100.0, "30–100"), (300.0, "100–300"), (1e9, "300–1,000")];
const PORTS: [(usize, &str); 3] = [(2, "2"), (4, "3–4"), (8, "5–8")];

/// What rounds came to.
#[derive(Default)]
struct Tally {
    rounds: u64,
    proven: u64,
    /// Rounds proven at the second attempt, the third …
    proven_at: [u64; ATTEMPTS + 1],
    durations_us: Vec<i64>,
    /// Rounds with each of the lesser promises, and those among them that mix states.
    released: (u64, u64),
    none: (u64, u64),
    /// Rounds that promised proof, did not reach it, and mix states.
    unproven_mixed: u64,
}

/// Tallies by server, rate and ports.
#[derive(Default)]
pub(crate) struct Report(BTreeMap<(String, usize, usize), Tally>);

impl Report {
    /// Rounds proven.
    pub(crate) fn proven(&self) -> u64 {
        self.0.values().map(|tally| tally.proven).sum()
    }

    /// Rounds that were merely released, and mix states.
    pub(crate) fn released_mixed(&self) -> u64 {
        self.0.values().map(|tally| tally.released.1).sum()
    }

    /// Rounds that promised nothing, and mix states.
    pub(crate) fn none_mixed(&self) -> u64 {
        self.0.values().map(|tally| tally.none.1).sum()
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let percent = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
        writeln!(
            formatter,
            "| server | changes/s | ports | rounds | proven | mixed among them | proven at attempt 2 / 3 / 4 / 5 / 6 | p50 ms | p99 ms \
             | mixed, unproven | mixed, released | mixed, none |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
        )?;
        for ((server, rate, ports), tally) in &self.0 {
            let mut durations = tally.durations_us.clone();
            durations.sort_unstable();
            let at = |share: f64| {
                let index = ((durations.len() as f64 * share) as usize).min(durations.len().saturating_sub(1));
                durations.get(index).map_or(0.0, |us| *us as f64 / 1_000.0)
            };
            let mut attempts = String::new();
            for count in &tally.proven_at[2..] {
                let divider = if attempts.is_empty() { "" } else { " / " };
                write!(attempts, "{divider}{:.0} %", percent(*count, tally.proven))?;
            }
            writeln!(
                formatter,
                "| {server} | {} | {} | {} | {:.1} % | 0 | {attempts} | {:.1} | {:.1} | {:.1} % | {:.1} % | {:.1} % |",
                RATES[*rate].1,
                PORTS[*ports].1,
                tally.rounds,
                percent(tally.proven, tally.rounds),
                at(0.5),
                at(0.99),
                percent(tally.unproven_mixed, tally.rounds - tally.proven),
                percent(tally.released.1, tally.released.0),
                percent(tally.none.1, tally.none.0),
            )?;
        }
        Ok(())
    }
}

/// Runs `rounds` rounds that promise proof, over as many worlds as that takes.
///
/// # Errors
/// A round that says it is proven is not.
pub(crate) fn run(rounds: u64, seed: u64) -> Result<Report> {
    let mut report = Report::default();
    for index in 0..rounds.div_ceil(WORLD_ROUNDS) {
        let mut random = Random::new(seed.wrapping_mul(1_000_003).wrapping_add(index));
        // Spread evenly over the orders of magnitude.
        let rate = 1_000f64.powf(random.between(0, 1_001) as f64 / 1_000.0);
        let count = WORLD_ROUNDS.min(rounds - index * WORLD_ROUNDS);
        let context = || format!("seed {seed}, world {index}, {rate:.0} changes a second");
        match index % WORLDS_CYCLE {
            1 => over_light(&World::redis()?, rate, count, "Redis", &mut random, &mut report),
            2 => over_light(&World::maria_db()?, rate, count, "MariaDB", &mut random, &mut report),
            3 => over_lake(&draw(&mut random, &[Habit::Plain, Habit::Vague, Habit::Links])?, rate, count, &mut random),
            _ => over_light(&draw(&mut random, &Habit::HONEST)?, rate, count, "HTTP", &mut random, &mut report),
        }
        .with_context(context)?;
    }
    Ok(report)
}

/// A world of two to eight ports, some of which take their time.
fn draw(random: &mut Random, habits: &[Habit]) -> Result<World> {
    let ports = random.between(2, 9);
    let habits: Vec<Habit> = (0..ports).map(|_| habits[random.between(0, habits.len() as u64) as usize]).collect();
    let delay = Duration::from_micros([0, 100, 300, 1_000][random.between(0, 4) as usize]);
    World::http(&habits, delay, random.any())
}

fn double_collect() -> String {
    format!("consistency = \"double_collect\"\nattempts = {ATTEMPTS}")
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// One round, which must have been stored.
async fn round(runner: &mut RoundRunner) -> Result<Arc<RoundRecord>> {
    let end = runner.round_with(None).await;
    if let Some(error) = end.error {
        bail!("the round is not stored: {error}");
    }
    let record = end.record.context("nobody was read")?;
    ensure!(record.verdict == RoundVerdict::Complete, "{:?}: {:?}", record.verdict, record.receipts);
    Ok(record)
}

fn over_light(
    world: &World,
    rate: f64,
    count: u64,
    server: &str,
    random: &mut Random,
    report: &mut Report,
) -> Result<()> {
    let classes = (
        RATES.iter().position(|(below, _)| rate <= *below).unwrap_or_default(),
        PORTS.iter().position(|(most, _)| world.parts() <= *most).unwrap_or_default(),
    );
    let tally = report.0.entry((server.to_owned(), classes.0, classes.1)).or_default();
    let (runtime, catalog) = (runtime()?, MemoryCatalog::default());
    world.while_changing(rate, random.any(), || {
        for (promise, counts) in [("released", &mut tally.released), ("none", &mut tally.none)] {
            let promise = format!("consistency = \"{promise}\"");
            let mut runner = world.runner(&promise, "replace", Arc::new(catalog.clone()))?;
            for _ in 0..count.div_ceil(CONTROL_SHARE) {
                runtime.block_on(round(&mut runner))?;
                counts.0 += 1;
                counts.1 += u64::from(shown(&catalog).len() > 1);
            }
        }
        let mut runner = world.runner(&double_collect(), "replace", Arc::new(catalog.clone()))?;
        for _ in 0..count {
            if let Server::Http { api, .. } = &world.server {
                api.take_looks();
            }
            let begun = Instant::now();
            let record = runtime.block_on(round(&mut runner))?;
            let ended = Instant::now();
            let shown = shown(&catalog);
            tally.rounds += 1;
            tally.durations_us.push(record.duration_us);
            if record.consistency.reached != ConsistencyReached::Proven {
                tally.unproven_mixed += u64::from(shown.len() > 1);
                continue;
            }
            tally.proven += 1;
            tally.proven_at[record.consistency.attempts as usize] += 1;
            check(world, &record, &shown, (begun, ended))?;
        }
        Ok(())
    })
}

/// The versions that the committed rows show: those of the last round, which replaces what came before.
pub(crate) fn shown(catalog: &MemoryCatalog) -> BTreeSet<i64> {
    catalog.tables().values().flatten().flat_map(versions).collect()
}

/// What is proven must be one state, which held between the two collects as they are seen from outside.
pub(crate) fn check(
    world: &World,
    record: &RoundRecord,
    shown: &BTreeSet<i64>,
    (begun, ended): (Instant, Instant),
) -> Result<()> {
    ensure!(shown.len() == 1, "a proven round shows the versions {shown:?}: {record:?}");
    let version = *shown.first().context("nothing is shown")? as usize;
    let changes = world.changes.lock().unwrap_or_else(|_| panic!("the writer panicked"));
    let came = changes.get(version).with_context(|| format!("version {version} was never written"))?;
    let went = changes.get(version + 1);
    if let Server::Http { api, habits, .. } = &world.server {
        let attempts = record.consistency.attempts as usize;
        let (first_ended, second_begun) = gap(&api.take_looks(), habits, attempts)?;
        ensure!(first_ended < second_begun, "the second collect began before the first had ended: {record:?}");
        let held = came.to <= first_ended && went.is_none_or(|went| went.from > second_begun);
        ensure!(held, "version {version} did not hold from {first_ended:?} to {second_begun:?}: {came:?}, {went:?}");
    } else {
        // When the server acted is not seen: no earlier than the round, no later than its end.
        let last_byte_us = record.receipts.iter().filter_map(|receipt| receipt.last_byte_us).max().unwrap_or(0);
        let first_ended = begun + Duration::from_micros(last_byte_us.unsigned_abs());
        let may_have_held = came.from < ended && went.is_none_or(|went| went.to > first_ended);
        ensure!(may_have_held, "version {version} had not come by the round's end, or gone before its first collect's");
    }
    Ok(())
}

/// When the server had answered all of the last collect but one, and when it was first asked in the last.
fn gap(looks: &[Look], habits: &[Habit], attempts: usize) -> Result<(Instant, Instant)> {
    let (mut first_ended, mut second_begun) = (None, None);
    for (part, habit) in habits.iter().enumerate() {
        let name = format!("part_{part}");
        let own: Vec<Instant> = looks.iter().filter(|look| look.collection == name).map(|look| look.at).collect();
        ensure!(own.len() == attempts * habit.looks(), "{} looks at {name} in {attempts} attempts", own.len());
        let second = own.len() - habit.looks();
        first_ended = first_ended.max(Some(own[second - 1]));
        second_begun = Some(second_begun.map_or(own[second], |begun: Instant| begun.min(own[second])));
    }
    first_ended.zip(second_begun).context("no ports")
}

/// The same over a real lake, whose rows are then read by DuckDB.
fn over_lake(world: &World, rate: f64, count: u64, random: &mut Random) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let spec = LakeSpec { path: folder.path().to_owned(), ..LakeSpec::default() };
    let lake = Arc::new(Lake::open(&spec, Arc::new(SystemClock::new()))?);
    let runtime = runtime()?;
    let proven = world.while_changing(rate, random.any(), || {
        let mut runner = world.runner(&double_collect(), "append", lake.clone())?;
        let mut proven = 0i64;
        for _ in 0..count {
            let record = runtime.block_on(round(&mut runner))?;
            proven += i64::from(record.consistency.reached == ConsistencyReached::Proven);
        }
        Ok(proven)
    })?;
    runtime.block_on(lake.close())?;
    if proven == 0 {
        return Ok(());
    }
    let parts: Vec<String> =
        (0..world.parts()).map(|part| format!("SELECT _round, {part} AS part, version FROM part_{part}")).collect();
    let sql = format!(
        "SELECT round, count(DISTINCT version) AS versions, count(DISTINCT part) AS parts
         FROM portolan.rounds JOIN ({}) ON _round = round WHERE reached = 'proven' GROUP BY round",
        parts.join(" UNION ALL ")
    );
    let rounds = duckdb::query(folder.path(), &sql)?;
    ensure!(rounds.len() as i64 == proven, "{} rounds are stored as proven, {proven} were", rounds.len());
    for round in &rounds {
        ensure!(round["versions"] == 1, "a proven round in the lake shows several versions: {round}");
        ensure!(round["parts"] == world.parts(), "a proven round in the lake lacks ports: {round}");
    }
    Ok(())
}
