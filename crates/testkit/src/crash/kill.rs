//! SIGKILL at random moments: of the collector, also while it starts or keeps the lake in shape, of the servers, or of
//! both at once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::audit::{self, compare_all, compare_prefix};
use super::collector::Collector;
use super::random::Random;
use super::world::World;
use super::{Options, Report};

/// The lake is looked at after so many kills, while the collector is dead.
const KILLS_PER_LOOK: u64 = 20;

/// A look takes longer the more there is: between two of a mixture, so many times as long as the last one took goes by.
const LOOK_SPACING: u32 = 4;

/// How long a campaign goes on.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Blows.
    pub blows: u64,
    /// The longest it may take; then it ends early and says so.
    pub longest: Option<Duration>,
}

impl Extent {
    fn is_over(&self, start: Instant) -> bool {
        self.longest.is_some_and(|longest| start.elapsed() >= longest)
    }
}

/// Kills the collector.
pub fn collector(options: &Options, extent: Extent) -> Result<Report> {
    let mut random = Random::new(options.seed);
    let mut world = World::start(None)?;
    world.start_writers(options.seed);
    let start = Instant::now();
    let mut kills = 0;
    while kills < extent.blows && !extent.is_over(start) {
        let mut collector = Collector::start(&options.binary, &world, &[])?;
        // Every fifth dies while it starts, every eighth lives long enough for its maintenance.
        let life = match kills {
            kill if kill % 5 == 0 => random.moment(0, 60),
            kill if kill % 8 == 3 => random.moment(4_900, 6_500),
            _ => random.moment(60, 1_400),
        };
        std::thread::sleep(life);
        collector.kill().with_context(|| format!("before kill {kills}, after {life:?}"))?;
        kills += 1;
        if kills % KILLS_PER_LOOK == 0 {
            let audited = compare_prefix(world.lake()).with_context(|| format!("after {kills} kills"))?;
            audit::prove(&options.binary, world.lake()).with_context(|| format!("after {kills} kills"))?;
            println!("{kills} kills, {} rows, {} rounds: as written", audited.rows, audited.rounds);
        }
    }
    finish(&mut world, options, kills, "kills of the collector")
}

/// Kills and freezes the servers while the collector goes on.
pub fn servers(options: &Options, extent: Extent) -> Result<Report> {
    let mut random = Random::new(options.seed);
    let mut world = World::start(None)?;
    world.start_writers(options.seed);
    let mut collector = Collector::start(&options.binary, &world, &[])?;
    let start = Instant::now();
    let mut kills = 0;
    while kills < extent.blows && !extent.is_over(start) {
        std::thread::sleep(random.moment(50, 800));
        let name = world.blow_server(&mut random)?;
        kills += 1;
        if kills % KILLS_PER_LOOK == 0 {
            // Frozen while it is looked at: several statements then see one state, whatever DuckDB holds between them.
            collector.process().pause()?;
            let looked = compare_prefix(world.lake()).with_context(|| format!("after {kills} blows, {name} last"));
            collector.process().resume()?;
            // The collector goes on meanwhile.
            audit::prove(&options.binary, world.lake()).with_context(|| format!("after {kills} blows"))?;
            let audited = looked?;
            println!("{kills} blows, {} rows, {} rounds: as written", audited.rows, audited.rounds);
        }
    }
    world.stop_writers()?;
    audit::drain(&world, world.lake(), &mut collector)?;
    collector.stop()?;
    world.check_acknowledgements()?;
    let audited = compare_all(&world, world.lake())?;
    audit::prove(&options.binary, world.lake())?;
    Ok(Report {
        blows: kills,
        blow_name: "kills and freezes of servers",
        rows: audited.rows,
        rounds: audited.rounds,
        notes: Vec::new(),
    })
}

/// Kills collector and servers in random mixture; at times the one dies while the other is down.
pub fn mixture(options: &Options, extent: Extent) -> Result<Report> {
    let mut random = Random::new(options.seed);
    let mut world = World::start(None)?;
    world.start_writers(options.seed);
    let mut collector = Collector::start(&options.binary, &world, &[])?;
    let start = Instant::now();
    let mut blows: BTreeMap<&'static str, u64> = BTreeMap::new();
    let (mut count, mut looked) = (0, 0);
    let mut next_look = start;
    while count < extent.blows && !extent.is_over(start) {
        let (hits_collector, hits_server) = match random.between(0, 4) {
            0 => (true, true),
            1 => (false, true),
            _ => (true, false),
        };
        // Some live long enough for their maintenance.
        let life = if random.once_in(16) { random.moment(4_900, 6_500) } else { random.moment(20, 1_100) };
        let moment = random.moment(0, 1_100);
        let mut of_server = Random::new(random.any());
        let world_now = &world;
        let name = std::thread::scope(|scope| {
            let server = hits_server.then(|| {
                scope.spawn(move || {
                    std::thread::sleep(moment);
                    world_now.blow_server(&mut of_server)
                })
            });
            if hits_collector {
                std::thread::sleep(life);
                collector.kill().with_context(|| format!("after {count} blows and {life:?}"))?;
                collector = Collector::start(&options.binary, world_now, &[])?;
            }
            let panicked = || anyhow::anyhow!("what hits the servers panicked");
            server.map(|server| server.join().map_err(|_| panicked())?).transpose()
        })?;
        for name in name.into_iter().chain(hits_collector.then_some("collector")) {
            *blows.entry(name).or_default() += 1;
            count += 1;
        }
        if count / KILLS_PER_LOOK > looked && Instant::now() >= next_look {
            looked = count / KILLS_PER_LOOK;
            let begun = Instant::now();
            collector.kill()?;
            let audited = compare_prefix(world.lake()).with_context(|| format!("after {count} blows"))?;
            audit::prove(&options.binary, world.lake()).with_context(|| format!("after {count} blows"))?;
            println!("{count} blows, {} rows, {} rounds: as written", audited.rows, audited.rounds);
            next_look = Instant::now() + begun.elapsed() * LOOK_SPACING;
            collector = Collector::start(&options.binary, &world, &[])?;
        }
    }
    collector.kill()?;
    let mut report = finish(&mut world, options, count, "kills of collector and servers")?;
    let each: Vec<String> = blows.iter().map(|(name, count)| format!("{name} {count}")).collect();
    report.notes.push(each.join(", "));
    Ok(report)
}

/// Lets the collector catch up undisturbed, stops it in order, and compares everything.
pub(super) fn finish(world: &mut World, options: &Options, blows: u64, blow_name: &'static str) -> Result<Report> {
    world.stop_writers()?;
    let mut collector = Collector::start(&options.binary, world, &[])?;
    audit::drain(world, world.lake(), &mut collector)?;
    collector.stop()?;
    world.check_acknowledgements()?;
    let audited = compare_all(world, world.lake())?;
    audit::prove(&options.binary, world.lake())?;
    Ok(Report { blows, blow_name, rows: audited.rows, rounds: audited.rounds, notes: Vec::new() })
}
