//! What a round promises of its reads' common moment: released together, within a skew, proven by two collects, of one
//! snapshot.

use std::time::Duration;

use crate::support::{CAPABILITIES, Step, World};
use portolan_model::ErrorKind;
use portolan_model::config::{CONNECT_TIMEOUT_DEFAULT, Consistency, ConsistencySpec, OnFailure, SkewMeasure};
use portolan_model::round::{ConsistencyReached, RoundConsistency, RoundVerdict};
use portolan_model::source::Capabilities;

const MS: Duration = Duration::from_millis(1);
/// What can be read twice.
const READER: Capabilities = Capabilities { acknowledge: false, ..CAPABILITIES };

fn released() -> ConsistencySpec {
    ConsistencySpec { mode: Consistency::Released, ..ConsistencySpec::default() }
}

fn within(skew_max: Duration) -> ConsistencySpec {
    ConsistencySpec { skew_max: Some(skew_max), ..released() }
}

fn double() -> ConsistencySpec {
    ConsistencySpec { mode: Consistency::DoubleCollect, attempts_max: 4, ..ConsistencySpec::default() }
}

fn last(world: &World) -> (RoundVerdict, RoundConsistency) {
    let record = world.catalog.rounds().last().unwrap().record.clone();
    (record.verdict, record.consistency)
}

#[tokio::test(start_paused = true)]
async fn all_are_released_at_one_instant_however_long_each_takes_to_be_ready() {
    let world = World::new();
    let rows = || vec![Step::Slow(3 * MS, 1)];
    let mut runner =
        world.runner_with(released(), READER, &[("a", true, rows()), ("b", true, rows()), ("c", true, rows())]);
    world.set_connects_in("b", 700 * MS);
    runner.round().await;
    let record = &world.catalog.rounds()[0].record;
    assert_eq!(record.consistency.reached, ConsistencyReached::Released);
    assert_eq!(record.release_spread_us, Some(0));
    for receipt in &record.receipts {
        assert!((700_000..710_000).contains(&receipt.released_us.unwrap()), "{receipt:?}");
    }
    assert!((3_000..5_000).contains(&record.skew_bound_us.unwrap()), "{record:?}");
}

#[tokio::test(start_paused = true)]
async fn who_is_not_ready_in_time_is_left_behind() {
    let world = World::new();
    let mut runner = world.runner_with(
        ConsistencySpec { ready_within: 100 * MS, ..released() },
        READER,
        &[("a", true, vec![Step::Rows(1)]), ("b", false, vec![Step::Rows(1)])],
    );
    world.set_connects_in("b", Duration::from_secs(5));
    let failures = runner.round_with(None).await.failures;
    assert!(failures[0].chain().contains("ms: it was still connecting or logging in"), "{failures:?}");
    assert!(failures[0].hint().unwrap().starts_with("others of the round were ready"), "{failures:?}");
    let record = &world.catalog.rounds()[0].record;
    assert_eq!(record.verdict, RoundVerdict::Partial);
    assert_eq!(record.receipts[1].error_kind, Some(ErrorKind::Timeout));
    assert!(record.receipts[1].error.as_ref().unwrap().contains("not ready for the release within 100 ms"));
    assert!((100_000..110_000).contains(&record.receipts[0].released_us.unwrap()));
    assert_eq!(world.catalog.rows("a"), 1);
    // Where nobody was ready, nobody says that others were.
    let world = World::new();
    let spec = ConsistencySpec { ready_within: 100 * MS, ..released() };
    let mut runner = world.runner_with(spec, READER, &[("a", true, vec![Step::Rows(1)])]);
    world.set_connects_in("a", Duration::from_secs(5));
    let failures = runner.round_with(None).await.failures;
    assert!(failures[0].hint().unwrap().starts_with("is the server at work"), "{failures:?}");
}

/// A source that gives up a server by itself says why, also where others wait for it.
#[tokio::test(start_paused = true)]
async fn by_default_the_cause_comes_before_the_others_are_released() {
    let world = World::new();
    let mut runner =
        world.runner_with(released(), READER, &[("a", true, vec![Step::Rows(1)]), ("b", false, vec![Step::Rows(1)])]);
    world.set_connects_in("b", CONNECT_TIMEOUT_DEFAULT);
    world.set_unreachable("b", true);
    let failures = runner.round_with(None).await.failures;
    assert_eq!(failures[0].kind(), ErrorKind::Unreachable, "{failures:?}");
    assert_eq!(world.catalog.rows("a"), 1);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_end_in_time_says_how_far_it_had_got() {
    for (connects_in, step, expected) in [
        (Duration::ZERO, Step::Hang, "had answered nothing within the deadline"),
        (Duration::ZERO, Step::Begin, "had begun to answer, and not ended, within the deadline"),
        (Duration::from_secs(60), Step::Hang, "was not connected and logged in within the deadline"),
    ] {
        let world = World::new();
        let mut runner = world.runner_with(ConsistencySpec::default(), READER, &[("a", true, vec![step])]);
        world.set_connects_in("a", connects_in);
        let failures = runner.round_with(None).await.failures;
        assert!(failures[0].chain().contains(expected), "{failures:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_fails_before_the_release_holds_nobody_up() {
    let world = World::new();
    let mut runner = world.runner_with(
        released(),
        READER,
        &[("a", true, vec![Step::Rows(1)]), ("b", false, vec![Step::FailAtGate]), ("c", false, vec![Step::Rows(2)])],
    );
    world.set_unreachable("c", true);
    runner.round().await;
    assert_eq!(last(&world).0, RoundVerdict::Partial);
    assert_eq!(world.catalog.rows("a"), 1);
    assert!(world.clock.now() < 50 * MS);
    // And where nobody is ready, nobody waits.
    let world = World::new();
    let mut runner = world.runner_with(released(), READER, &[("a", true, vec![Step::FailAtGate])]);
    runner.round().await;
    assert_eq!(last(&world).0, RoundVerdict::Rejected);
    assert!(world.clock.now() < 50 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_skew_that_is_too_large_is_tried_again() {
    let world = World::new();
    let mut runner = world.runner_with(
        within(10 * MS),
        READER,
        &[("a", true, vec![Step::Slow(30 * MS, 5), Step::Slow(3 * MS, 2)]), ("b", true, vec![])],
    );
    runner.round().await;
    let (verdict, consistency) = last(&world);
    assert_eq!(verdict, RoundVerdict::Complete);
    assert_eq!(consistency.reached, ConsistencyReached::Released);
    assert_eq!((consistency.attempts, consistency.reason), (2, None));
    // Nothing of the first attempt is kept.
    assert_eq!(world.catalog.rows("a"), 2);
    assert_eq!(world.reads_from("a"), [None, None]);
}

#[tokio::test(start_paused = true)]
async fn a_skew_that_stays_too_large_is_marked_or_rejected() {
    for (on_failure, expected) in
        [(OnFailure::Mark, RoundVerdict::Complete), (OnFailure::Reject, RoundVerdict::Rejected)]
    {
        let world = World::new();
        let spec = ConsistencySpec { on_failure, ..within(10 * MS) };
        let mut runner = world.runner_with(spec, READER, &[("a", true, vec![Step::Slow(30 * MS, 5); 9])]);
        runner.round().await;
        let (verdict, consistency) = last(&world);
        assert_eq!((verdict, consistency.reached), (expected, ConsistencyReached::SkewExceeded));
        assert_eq!(consistency.attempts, 3);
        let reason = consistency.reason.unwrap();
        assert!(
            reason.starts_with("skew bound of 3") && reason.contains("over max_skew of 10ms, in 3 attempts"),
            "{reason}"
        );
        let is_kept = on_failure == OnFailure::Mark;
        assert_eq!(world.catalog.rows("a"), if is_kept { 5 } else { 0 });
        assert_eq!(world.catalog.position("a"), is_kept.then_some(5));
    }
}

#[tokio::test(start_paused = true)]
async fn the_spread_of_releases_can_be_what_is_bounded() {
    let world = World::new();
    let spec = ConsistencySpec { skew_measure: SkewMeasure::Release, ..within(10 * MS) };
    let mut runner = world.runner_with(spec, READER, &[("a", true, vec![Step::Slow(30 * MS, 5)]), ("b", true, vec![])]);
    runner.round().await;
    assert_eq!(last(&world).1.attempts, 1);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_twice_is_not() {
    let world = World::new();
    let mut runner = world.runner_with(within(10 * MS), CAPABILITIES, &[("a", true, vec![Step::Slow(30 * MS, 5)])]);
    runner.round().await;
    let consistency = last(&world).1;
    assert_eq!((consistency.reached, consistency.attempts), (ConsistencyReached::SkewExceeded, 1));
    assert!(consistency.reason.unwrap().ends_with("and `a` cannot be read twice"));
    let world = World::new();
    let mut runner = world.runner_with(double(), CAPABILITIES, &[("a", true, vec![Step::Rows(5)])]);
    runner.round().await;
    assert_eq!(last(&world).1.reached, ConsistencyReached::Unproven);
    assert_eq!(world.reads_from("a").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn two_collects_that_agree_are_proof() {
    let world = World::new();
    let steps = |rows: [i64; 3]| rows.map(|rows| Step::Slow(5 * MS, rows)).to_vec();
    let mut runner =
        world.runner_with(double(), READER, &[("a", true, steps([1, 2, 2])), ("b", true, steps([4, 4, 4]))]);
    runner.round().await;
    let (verdict, consistency) = last(&world);
    assert_eq!((verdict, consistency.reached), (RoundVerdict::Complete, ConsistencyReached::Proven));
    assert_eq!(consistency.attempts, 3);
    assert_eq!((world.catalog.rows("a"), world.catalog.rows("b")), (2, 4));
    assert_eq!(world.catalog.position("a"), Some(2));
}

#[tokio::test(start_paused = true)]
async fn the_second_collect_begins_after_all_of_the_first_has_ended() {
    let world = World::new();
    let mut runner = world.runner_with(
        double(),
        READER,
        &[("a", true, vec![Step::Slow(5 * MS, 1); 2]), ("b", true, vec![Step::Slow(90 * MS, 1); 2])],
    );
    runner.round().await;
    let (a, b) = (world.reads_at("a"), world.reads_at("b"));
    assert_eq!((a.len(), b.len()), (2, 2));
    assert!(a[1].0 >= b[0].1 && b[1].0 >= b[0].1, "{a:?} {b:?}");
}

#[tokio::test(start_paused = true)]
async fn without_agreement_there_is_no_proof() {
    for (on_failure, expected) in
        [(OnFailure::Mark, RoundVerdict::Complete), (OnFailure::Reject, RoundVerdict::Rejected)]
    {
        let world = World::new();
        let steps = (1..9).map(Step::Rows).collect();
        let spec = ConsistencySpec { on_failure, ..double() };
        let mut runner = world.runner_with(spec, READER, &[("a", true, steps)]);
        runner.round().await;
        let (verdict, consistency) = last(&world);
        assert_eq!((verdict, consistency.reached), (expected, ConsistencyReached::Unproven));
        assert_eq!(consistency.attempts, 4);
        // What is kept is the last collect.
        assert_eq!(world.catalog.rows("a"), if on_failure == OnFailure::Mark { 4 } else { 0 });
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_bounds_all_attempts_together() {
    let world = World::new();
    let steps = (1..9).map(|rows| Step::Slow(Duration::from_secs(8), rows)).collect();
    let mut runner = world.runner_with(double(), READER, &[("a", true, steps)]);
    runner.round().await;
    let consistency = last(&world).1;
    assert_eq!((consistency.reached, consistency.attempts), (ConsistencyReached::Unproven, 2));
    assert!(consistency.reason.unwrap().contains("the deadline allows no further one"));
    assert!(world.clock.now() <= crate::support::DEADLINE);
}

#[tokio::test(start_paused = true)]
async fn a_required_source_that_fails_ends_the_attempts() {
    let world = World::new();
    let mut runner = world.runner_with(
        double(),
        READER,
        &[("a", true, vec![Step::Rows(1), Step::Fail(ErrorKind::Disconnected)]), ("b", true, vec![])],
    );
    runner.round().await;
    let (verdict, consistency) = last(&world);
    assert_eq!((verdict, consistency.reached), (RoundVerdict::Rejected, ConsistencyReached::Unproven));
    assert_eq!(consistency.attempts, 2);
}

#[tokio::test(start_paused = true)]
async fn a_backlog_that_takes_long_keeps_within_the_skew_part_by_part() {
    let world = World::new();
    let spec = ConsistencySpec { on_failure: OnFailure::Reject, ..within(1_000 * MS) };
    let mut runner = world.runner_with(spec, READER, &[("a", true, vec![Step::Endless(90 * MS); 3])]);
    for _ in 0..3 {
        runner.round().await;
    }
    let (verdict, consistency) = last(&world);
    assert_eq!((verdict, consistency.reached), (RoundVerdict::Complete, ConsistencyReached::Released));
    // Asked to end after half of the skew allowed: six rows a round.
    assert_eq!((world.catalog.rows("a"), world.catalog.position("a")), (18, Some(18)));
}

#[tokio::test(start_paused = true)]
async fn a_backlog_that_is_cut_is_read_again_as_far_and_proven() {
    let world = World::new();
    let spec = ConsistencySpec { on_failure: OnFailure::Reject, ..double() };
    // The second collect is slower: by time alone it would not come as far.
    let steps = vec![Step::Endless(100 * MS), Step::Endless(120 * MS)];
    let mut runner = world.runner_with(spec, READER, &[("a", true, steps), ("b", true, vec![])]);
    runner.round().await;
    let (verdict, consistency) = last(&world);
    assert_eq!(
        (verdict, consistency.reached, consistency.attempts),
        (RoundVerdict::Complete, ConsistencyReached::Proven, 2)
    );
    assert_eq!((world.catalog.rows("a"), world.catalog.position("a")), (50, Some(50)));
}

fn one_snapshot() -> ConsistencySpec {
    ConsistencySpec { mode: Consistency::Snapshot, ..ConsistencySpec::default() }
}

#[tokio::test(start_paused = true)]
async fn sources_that_read_one_snapshot_keep_the_promise_and_name_it() {
    let world = World::new();
    let step = || vec![Step::Snapshot(Some("s1"))];
    let mut runner = world.runner_with(one_snapshot(), READER, &[("a", true, step()), ("b", true, step())]);
    runner.round().await;
    let record = &world.catalog.rounds()[0].record;
    assert_eq!(record.consistency.reached, ConsistencyReached::Snapshot);
    assert_eq!((record.consistency.attempts, &record.consistency.reason), (1, &None));
    assert!(record.receipts.iter().all(|receipt| receipt.snapshot.as_deref() == Some("s1")), "{record:?}");
}

#[tokio::test(start_paused = true)]
async fn different_snapshots_are_read_again_then_marked_or_rejected() {
    for (on_failure, expected) in
        [(OnFailure::Mark, RoundVerdict::Complete), (OnFailure::Reject, RoundVerdict::Rejected)]
    {
        let world = World::new();
        let spec = ConsistencySpec { on_failure, ..one_snapshot() };
        let steps = |name| vec![Step::Snapshot(name); 3];
        let sources = [("a", true, steps(Some("s1"))), ("b", true, steps(Some("s2")))];
        let mut runner = world.runner_with(spec, READER, &sources);
        runner.round().await;
        let (verdict, consistency) = last(&world);
        assert_eq!((verdict, consistency.reached), (expected, ConsistencyReached::NoSnapshot));
        assert_eq!(consistency.attempts, 3);
        assert_eq!(consistency.reason.as_deref(), Some("`a` and `b` read different snapshots, in 3 attempts"));
        assert_eq!(world.catalog.rows("a"), u64::from(on_failure == OnFailure::Mark));
    }
    // The second attempt may do.
    let world = World::new();
    let sources = [
        ("a", true, vec![Step::Snapshot(None), Step::Snapshot(Some("s3"))]),
        ("b", true, vec![Step::Snapshot(Some("s2")), Step::Snapshot(Some("s3"))]),
    ];
    world.runner_with(one_snapshot(), READER, &sources).round().await;
    let consistency = last(&world).1;
    assert_eq!((consistency.reached, consistency.attempts), (ConsistencyReached::Snapshot, 2));
}

#[tokio::test(start_paused = true)]
async fn who_opens_no_snapshot_in_time_is_left_behind_and_holds_nobody_up() {
    let world = World::new();
    let spec = ConsistencySpec { ready_within: 100 * MS, ..one_snapshot() };
    let step = || vec![Step::Snapshot(Some("s1"))];
    let sources = [("a", true, step()), ("b", false, vec![Step::Hang]), ("c", true, step())];
    world.runner_with(spec, READER, &sources).round().await;
    let record = &world.catalog.rounds()[0].record;
    assert_eq!((record.verdict, record.consistency.reached), (RoundVerdict::Partial, ConsistencyReached::Snapshot));
    assert_eq!(record.receipts[1].error_kind, Some(ErrorKind::Timeout));
    assert!(record.receipts[1].error.as_ref().unwrap().contains("no snapshot within 100 ms"), "{record:?}");
    assert!(world.clock.now() < 200 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_round_that_read_no_snapshot_says_so() {
    let world = World::new();
    let mut runner = world.runner_with(one_snapshot(), CAPABILITIES, &[("a", true, vec![Step::Rows(1)])]);
    runner.round().await;
    let consistency = last(&world).1;
    assert_eq!((consistency.reached, consistency.attempts), (ConsistencyReached::NoSnapshot, 1));
    assert!(consistency.reason.unwrap().starts_with("no source with snapshots was read"));
}

#[tokio::test(start_paused = true)]
async fn a_round_that_has_read_nothing_keeps_no_promise() {
    for (promise, reached) in [
        (released(), ConsistencyReached::None),
        (double(), ConsistencyReached::Unproven),
        (ConsistencySpec { mode: Consistency::Snapshot, ..double() }, ConsistencyReached::NoSnapshot),
    ] {
        let world = World::new();
        let fails = || vec![Step::Fail(ErrorKind::Data); 4];
        let reject = ConsistencySpec { on_failure: OnFailure::Reject, ..promise.clone() };
        let mut runner = world.runner_with(promise, READER, &[("a", false, fails()), ("b", false, fails())]);
        runner.round().await;
        let (verdict, consistency) = last(&world);
        assert_eq!((verdict, consistency.reached, consistency.attempts), (RoundVerdict::Partial, reached, 1));
        assert!(consistency.reason.unwrap().starts_with("no source"));
        let mut runner = world.runner_with(reject, READER, &[("a", false, fails())]);
        runner.round().await;
        assert_eq!(last(&world).0, RoundVerdict::Rejected);
    }
}
