//! What bounds a round whatever its sources do: `ready_within`, `attempts`, the deadline; and figures that no wall clock
//! can spoil.

use std::time::Duration;

use portolan_model::config::{Consistency, ConsistencySpec};
use portolan_model::round::{ConsistencyReached, ReceiptVerdict, RoundRecord, RoundVerdict};
use portolan_model::source::Capabilities;
use proptest::prelude::*;

use crate::support::{CAPABILITIES, DEADLINE, Step, World};

const MS: Duration = Duration::from_millis(1);
/// What can be read twice.
const READER: Capabilities = Capabilities { acknowledge: false, ..CAPABILITIES };
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn run<T>(test: impl AsyncFnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(test())
}

/// One round of sources, of which each connects for so many milliseconds and gives a row, at once or late.
fn released(ready_within_ms: u64, connects_in_ms: &[u64]) -> (RoundRecord, Duration) {
    run(async || {
        let world = World::new();
        let spec = ConsistencySpec {
            mode: Consistency::Released,
            ready_within: Duration::from_millis(ready_within_ms),
            ..ConsistencySpec::default()
        };
        let sources: Vec<_> =
            connects_in_ms.iter().zip(NAMES).map(|(_, name)| (name, false, vec![Step::Slow(MS, 1)])).collect();
        let mut runner = world.runner_with(spec, READER, &sources);
        for (pause, name) in connects_in_ms.iter().zip(NAMES) {
            world.set_connects_in(name, Duration::from_millis(*pause));
        }
        runner.round().await;
        (world.catalog.rounds()[0].record.clone(), world.clock.now())
    })
}

/// One double collect of a source that gives so many rows each time, in so many milliseconds.
fn collected(attempts_max: u32, rows: &[i64], takes_ms: u64) -> (RoundRecord, Duration, usize) {
    run(async || {
        let world = World::new();
        let spec = ConsistencySpec { mode: Consistency::DoubleCollect, attempts_max, ..ConsistencySpec::default() };
        let steps = rows.iter().map(|rows| Step::Slow(Duration::from_millis(takes_ms), *rows)).collect();
        let mut runner = world.runner_with(spec, READER, &[("a", true, steps)]);
        runner.round().await;
        let reads = world.reads_from("a").len();
        (world.catalog.rounds()[0].record.clone(), world.clock.now(), reads)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whoever is ready in time is released with the others, when the last of them is ready or the time is over; whoever is
    /// not has failed; nobody waits longer.
    #[test]
    fn ready_within_parts_those_who_are_ready_from_those_who_are_not(
        ready_within_ms in 1u64..15_000,
        connects_in_ms in prop::collection::vec(prop_oneof![0u64..40, 0u64..30_000], 1..=5),
    ) {
        // What connects in just this time may be on either side.
        let allowed = ready_within_ms.min(DEADLINE.as_millis() as u64 / 2);
        prop_assume!(connects_in_ms.iter().all(|pause| pause.abs_diff(allowed) > 2));
        let (record, took) = released(ready_within_ms, &connects_in_ms);
        let ready: Vec<bool> = connects_in_ms.iter().map(|pause| *pause < allowed).collect();
        let slowest = connects_in_ms.iter().copied().max().unwrap_or(0);
        let released_ms = slowest.min(allowed);
        for (is_ready, receipt) in ready.iter().zip(&record.receipts) {
            prop_assert_eq!(receipt.verdict == ReceiptVerdict::Ok, *is_ready, "{:?}", receipt);
            match receipt.released_us {
                Some(us) => prop_assert!((released_ms * 1_000..=(released_ms + 2) * 1_000).contains(&(us as u64)), "{receipt:?}"),
                None => prop_assert!(!is_ready),
            }
        }
        if ready.iter().any(|is_ready| *is_ready) {
            prop_assert_eq!(record.release_spread_us, Some(0));
            prop_assert_eq!(record.consistency.reached, ConsistencyReached::Released);
        }
        prop_assert!(took <= Duration::from_millis(allowed + 10), "{:?}", took);
    }

    /// A round is read until two collects in a row agree, at most `attempts` times and within the deadline; it is proven if
    /// and only if the last two did.
    #[test]
    fn attempts_end_at_the_first_agreement_or_where_they_are_bounded(
        attempts_max in 2u32..12,
        rows in prop::collection::vec(0i64..3, 12),
        takes_ms in prop_oneof![1u64..100, 1u64..9_000],
    ) {
        let (record, took, reads) = collected(attempts_max, &rows, takes_ms);
        let consistency = &record.consistency;
        let attempts = consistency.attempts as usize;
        prop_assert_eq!(attempts, reads);
        prop_assert!(attempts <= attempts_max as usize && took <= DEADLINE, "{attempts} in {took:?}");
        let agree = |last: usize| last >= 2 && rows[last - 1] == rows[last - 2];
        prop_assert_eq!(consistency.reached == ConsistencyReached::Proven, agree(attempts));
        prop_assert!((2..attempts).all(|last| !agree(last)), "it went on after an agreement");
        if consistency.reached != ConsistencyReached::Proven {
            // Nothing but the bounds ends it.
            let left = DEADLINE.saturating_sub(took);
            prop_assert!(attempts == attempts_max as usize || left <= Duration::from_millis(takes_ms + 2), "{left:?}");
        }
        prop_assert_eq!(record.verdict, RoundVerdict::Complete);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_is_set_back_in_the_middle_of_a_round_spoils_no_figure() {
    for mode in [Consistency::None, Consistency::Released, Consistency::DoubleCollect] {
        let mut figures = Vec::new();
        // Set back by an hour while sources are awaited, and while they answer; set forward; not set.
        for (after_ms, offset_s) in [(100, 0), (100, -3_600), (210, -3_600), (210, 86_400)] {
            let world = World::new();
            let spec = ConsistencySpec { mode, ..ConsistencySpec::default() };
            let steps = |pause: Duration| vec![Step::Slow(pause, 1); 2];
            let mut runner =
                world.runner_with(spec, READER, &[("a", true, steps(30 * MS)), ("b", true, steps(3 * MS))]);
            world.set_connects_in("b", 200 * MS);
            let clock = world.clock.clone();
            let setter = tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(after_ms)).await;
                clock.set_wall(offset_s);
            });
            runner.round().await;
            setter.await.unwrap();
            let record = world.catalog.rounds()[0].record.clone();
            assert_eq!(record.verdict, RoundVerdict::Complete);
            let receipts: Vec<_> = record
                .receipts
                .iter()
                .map(|receipt| (receipt.prepared_us, receipt.released_us, receipt.first_byte_us, receipt.acted_us))
                .collect();
            let spans = (record.duration_us, record.release_spread_us, record.skew_bound_us);
            figures.push((receipts, spans, record.consistency, record.started_at));
        }
        assert!(figures.iter().all(|other| *other == figures[0]), "{mode:?}: {figures:?}");
    }
}
