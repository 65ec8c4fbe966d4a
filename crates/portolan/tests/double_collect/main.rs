//! What `double_collect` proves, against ports that show one state which is never the same twice: no round that says it is
//! proven mixes two states. The connectors, the rounds and (in part) the lake are the product's own, the servers real.
//!
//! `cargo xtask double-collect` runs the whole campaign; here stands a short one, and what shows that it can fail.
//!
//! A body that is made half before and half after a change is no case of its own: an answer is made under the lock. Reads
//! that are torn in time are those of several answers (pages), between which the state changes.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod campaign;
mod twin;
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portolan_model::round::ConsistencyReached;
use portolan_testkit::memory::MemoryCatalog;

use crate::twin::{Twin, Way};
use crate::world::{Habit, Server, World};

/// How long a mistake is looked for at one rate of changes.
const FIND_PATIENCE: Duration = Duration::from_secs(40);
/// Rates at which it is: reads that are slow on a busy machine agree at low ones alone.
const FIND_RATES: [f64; 4] = [100.0, 30.0, 10.0, 3.0];

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn no_proven_round_mixes_two_states() {
    let (rounds, seed) = (setting("PORTOLAN_DOUBLE_COLLECT_ROUNDS", 500), setting("PORTOLAN_DOUBLE_COLLECT_SEED", 1));
    let begun = Instant::now();
    let report = campaign::run(rounds, seed).unwrap_or_else(|error| panic!("{error:#}"));
    println!("{report}");
    println!("{rounds} rounds, seed {seed}, {} proven, 0 of them mixed; {:?}", report.proven(), begun.elapsed());
    // The same look at rounds that promise less finds what it looks for.
    assert!(report.proven() > 0 && report.released_mixed() > 0 && report.none_mixed() > 0, "{report}");
}

/// Rounds of the twin that agree until one of them shows two states; `None` if none does of `rounds`, or in time.
fn mixed_by(way: Way, rate: f64, rounds: u64) -> Option<u64> {
    let world = World::http(&[Habit::Plain; 2], Duration::from_millis(4), 7).unwrap();
    let begun = Instant::now();
    world
        .while_changing(rate, 7, || {
            let mut twin = Twin::new(&world.configuration("", "replace")?, way)?;
            let (runtime, mut agreed) = (runtime(), 0);
            while agreed < rounds && (way == Way::Right || begun.elapsed() < FIND_PATIENCE) {
                let Some(collect) = runtime.block_on(twin.round())? else { continue };
                agreed += 1;
                if collect.into_iter().flatten().collect::<BTreeSet<i64>>().len() > 1 {
                    return Ok(Some(agreed));
                }
            }
            Ok(None)
        })
        .unwrap()
}

#[test]
fn a_double_collect_that_is_done_wrongly_is_found() {
    for way in [Way::Overlapping, Way::OneCompared] {
        let found = FIND_RATES.iter().find_map(|rate| Some((*rate, mixed_by(way, *rate, u64::MAX)?)));
        println!("{way:?}: found at changes a second, in round: {found:?}");
        assert!(found.is_some(), "{way:?} is not found");
    }
    assert_eq!(mixed_by(Way::Right, 10.0, 60), None);
}

/// Rounds of the product over two ports of `habit` until a proven one fails the check.
fn refuted(habit: Habit, rounds: u64) -> Option<String> {
    let world = World::http(&[habit; 2], Duration::from_millis(2), 7).unwrap();
    let catalog = MemoryCatalog::default();
    world
        .while_changing(20.0, 7, || {
            let promise = "consistency = \"double_collect\"\nattempts = 6";
            let mut runner = world.runner(promise, "replace", Arc::new(catalog.clone()))?;
            let (runtime, mut proven) = (runtime(), 0);
            while proven < rounds {
                if let Server::Http { api, .. } = &world.server {
                    api.take_looks();
                }
                let begun = Instant::now();
                let record = runtime.block_on(runner.round_with(None)).record.unwrap();
                if record.consistency.reached != ConsistencyReached::Proven {
                    continue;
                }
                proven += 1;
                let shown = campaign::shown(&catalog);
                if let Err(error) = campaign::check(&world, &record, &shown, (begun, Instant::now())) {
                    return Ok(Some(format!("{error:#}")));
                }
            }
            Ok(None)
        })
        .unwrap()
}

/// Were a weak ETag taken as proof, a server that gives one would look to us like one whose strong ETags lie.
#[test]
fn a_weak_etag_is_no_proof_and_one_that_lies_is_found() {
    assert_eq!(refuted(Habit::Vague, 60), None);
    let found = refuted(Habit::Lying, 100).expect("an ETag that does not change is taken as proof");
    assert!(found.contains("did not hold") || found.contains("shows the versions"), "{found}");
}

/// The hole, as documented: values that change and change back between their two readings are not seen.
#[test]
fn a_value_that_changed_and_changed_back_is_not_seen() {
    let (world, catalog) = (World::alternating().unwrap(), MemoryCatalog::default());
    let mut runner = world.runner("consistency = \"double_collect\"", "replace", Arc::new(catalog.clone())).unwrap();
    let record = runtime().block_on(runner.round_with(None)).record.unwrap();
    assert_eq!(record.consistency.reached, ConsistencyReached::Proven, "{record:?}");
    assert_eq!(campaign::shown(&catalog), BTreeSet::from([0, 1]), "states that never held together");
}
