//! The coordinator in a deterministic simulation: servers, network, disk and time are models, drawn from a seed; sources
//! fail in every way the contract knows, the catalog fails, the process dies and starts again. What must hold is in
//! `checks.rs`. The real catalog and real servers are covered by the crash campaigns.
//!
//! A seed that fails is the same run again: `cargo xtask simulation --seed N`.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod catalog;
mod checker;
mod checks;
mod plan;
mod source;
mod world;

use std::cell::RefCell;
use std::sync::{Arc, Once};
use std::time::Duration;

use fastrand::Rng;
use portolan_model::RoundName;
use portolan_model::catalog::Catalog;
use portolan_model::config::RoundSpec;
use portolan_rounds::coordinator::{Event, Observer, RoundRunner, STOP_GRACE, Shared};
use tokio::sync::watch;

use crate::catalog::{ModelCatalog, STEP_MS};
use crate::plan::Break;
use crate::world::{Counts, World};

thread_local! {
    static JITTER: RefCell<Rng> = const { RefCell::new(Rng::with_seed(0)) };
}

struct Silent;

impl Observer for Silent {
    fn event(&self, _: Event) {}
}

/// A run from its seed: what it has covered, and what went against a promise.
fn simulate(seed: u64, broken: Option<Break>) -> (Counts, Vec<String>) {
    JITTER.with_borrow_mut(|random| *random = Rng::with_seed(seed));
    let world = World::new(seed, broken);
    for (end, is_asked) in world.plan.ends.clone() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(life(&world, end, is_asked));
        // Whatever still runs dies with the process.
        drop(runtime);
    }
    if world.known.lock().unwrap().violations.is_empty() {
        checks::calm(&world);
    }
    let known = world.known.lock().unwrap();
    (known.counts, known.violations.clone())
}

/// One life of the process: until it dies, or is asked to end.
async fn life(world: &Arc<World>, end: Duration, is_asked: bool) {
    world.clock.begin_life();
    let catalog = ModelCatalog(world.clone());
    let (positions, statuses) = (catalog.positions().await.unwrap(), catalog.statuses().await.unwrap());
    let watermarks = catalog.watermarks().await.unwrap();
    let (stop, stopped) = watch::channel(false);
    let runners: Vec<_> = world
        .plan
        .rounds
        .iter()
        .enumerate()
        .map(|(index, round)| {
            let mut slots: Vec<_> = round.servers.iter().map(|server| source::slot(world, *server)).collect();
            for slot in &mut slots {
                slot.restore(positions.get(&slot.name).cloned(), &statuses, &watermarks);
            }
            let spec = RoundSpec {
                name: RoundName::new(&checks::round_name(index)).unwrap(),
                sources: slots.iter().map(|slot| slot.name.clone()).collect(),
                every: round.every,
                deadline: plan::DEADLINE,
                consistency: round.consistency.clone(),
                checks: if round.is_checked { vec![checker::spec()] } else { Vec::new() },
            };
            let shared = Shared {
                catalog: Arc::new(catalog.clone()),
                checker: Some(Arc::new(checker::ModelChecker(world.clone()))),
                clock: world.clock.clone(),
                observer: Arc::new(Silent),
                jitter: || JITTER.with_borrow_mut(Rng::f64),
            };
            tokio::spawn(RoundRunner::new(spec, slots, shared).run(stopped.clone()))
        })
        .collect();
    tokio::time::sleep(end.saturating_sub(world.clock.now())).await;
    if is_asked {
        let asked = tokio::time::Instant::now();
        let _ = stop.send(true);
        for runner in runners {
            if runner.await.is_err() {
                world.violated("a runner panicked".into());
            }
        }
        let allowed = STOP_GRACE + Duration::from_millis(4 * STEP_MS);
        if asked.elapsed() > allowed {
            world.violated(format!("stopped after {:?} of {allowed:?}", asked.elapsed()));
        }
    } else if runners.iter().any(tokio::task::JoinHandle::is_finished) {
        world.violated("a runner has ended by itself".into());
    }
    world.known.lock().unwrap().counts.deaths += u64::from(!is_asked);
    world.clock.end_life();
}

/// The panics that the model makes say nothing; every other one does.
fn silence_planned_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic.payload().downcast_ref::<&str>() != Some(&source::PLANNED_PANIC) {
                usual(panic);
            }
        }));
    });
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

#[test]
fn nothing_that_fails_breaks_a_promise() {
    silence_planned_panics();
    let first = setting("PORTOLAN_SIMULATION_FIRST", 1);
    let seeds = setting("PORTOLAN_SIMULATION_SEEDS", 1_000);
    let mut all = Counts::default();
    for seed in first..first + seeds {
        let (counts, violations) = simulate(seed, None);
        assert!(
            violations.is_empty(),
            "seed {seed} breaks a promise (again by `cargo xtask simulation --seed {seed}`):\n{}",
            violations.join("\n")
        );
        all.add(&counts);
    }
    println!("{seeds} seeds from {first}: {all:?}");
    // One seed alone need not meet everything.
    let Counts { rounds, rejected, partial, released, proven, unproven, snapshots, no_snapshots, .. } = all;
    let Counts { faults, deaths, refused, withheld, moved, .. } = all;
    let met = [rounds, rejected, partial, released, proven, unproven, snapshots, no_snapshots];
    let mut met = met.into_iter().chain([faults, deaths, refused, withheld, moved]);
    assert!(seeds < 100 || met.all(|count| count > 0), "something was never met: {all:?}");
}

#[test]
fn a_seed_is_the_same_run_again() {
    silence_planned_panics();
    for seed in 1..50 {
        let [one, other] = [0, 1].map(|_| format!("{:?}", simulate(seed, None)));
        assert_eq!(one, other, "seed {seed}");
    }
}

#[test]
fn each_broken_part_is_found() {
    silence_planned_panics();
    for broken in Break::ALL {
        let found = (1..400).find(|seed| !simulate(*seed, Some(broken)).1.is_empty());
        println!("{broken:?}: found by seed {found:?}");
        assert!(found.is_some(), "{broken:?} is not found");
    }
}
