//! The coordinator against scripted sources and a catalog in memory: what each kind of failure may and may not touch.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::{Step, World};
use portolan_model::round::{ReceiptVerdict, RoundVerdict};
use portolan_model::state::State;
use portolan_model::{ErrorKind, RoundId};

#[tokio::test(start_paused = true)]
async fn rows_position_and_record_are_published_together_and_then_acknowledged() {
    let world = World::new();
    let mut runner = world.runner(&[("a", true, vec![Step::Rows(3), Step::Rows(2)]), ("b", true, vec![Step::Rows(1)])]);
    assert!(!runner.round().await);
    let rounds = world.catalog.rounds();
    assert_eq!(rounds.len(), 1);
    assert_eq!(rounds[0].record.verdict, RoundVerdict::Complete);
    assert_eq!(world.catalog.rows("a"), 3);
    assert_eq!(world.catalog.rows("b"), 1);
    assert_eq!(world.catalog.position("a"), Some(3));
    assert_eq!(world.acknowledged("a"), vec![3]);
    runner.round().await;
    assert_eq!(world.catalog.position("a"), Some(5));
    assert_eq!(world.acknowledged("a"), vec![3, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_required_source_that_fails_rejects_the_round_and_moves_no_position() {
    let world = World::new();
    let mut runner =
        world.runner(&[("a", true, vec![Step::Rows(3)]), ("b", true, vec![Step::Fail(ErrorKind::Disconnected)])]);
    runner.round().await;
    let rounds = world.catalog.rounds();
    assert_eq!(rounds[0].record.verdict, RoundVerdict::Rejected);
    assert_eq!(rounds[0].record.consistency.reason.as_deref(), Some("`b` is required, and not there"));
    assert_eq!(world.catalog.rows("a"), 0);
    assert_eq!(world.catalog.position("a"), None);
    assert!(world.acknowledged("a").is_empty());
    let receipt = &rounds[0].record.receipts[1];
    assert_eq!(receipt.verdict, ReceiptVerdict::Failed);
    assert_eq!(receipt.error_kind, Some(ErrorKind::Disconnected));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_not_required_is_left_out_and_marked() {
    let world = World::new();
    let mut runner =
        world.runner(&[("a", true, vec![Step::Rows(3)]), ("b", false, vec![Step::Fail(ErrorKind::Timeout)])]);
    runner.round().await;
    assert_eq!(world.catalog.rounds()[0].record.verdict, RoundVerdict::Partial);
    assert_eq!(world.catalog.rows("a"), 3);
    assert_eq!(world.catalog.position("b"), None);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_source_is_cut_off_at_the_deadline_and_the_others_are_kept() {
    let world = World::new();
    let mut runner = world.runner(&[("a", true, vec![Step::Rows(1)]), ("b", false, vec![Step::Hang])]);
    runner.round().await;
    let rounds = world.catalog.rounds();
    assert_eq!(rounds[0].record.receipts[1].error_kind, Some(ErrorKind::Timeout));
    assert_eq!(world.catalog.rows("a"), 1);
    assert_eq!(world.clock.now(), crate::support::DEADLINE);
}

#[tokio::test(start_paused = true)]
async fn a_panicking_connector_fails_its_own_source_alone() {
    let world = World::new();
    let mut runner = world.runner(&[("a", true, vec![Step::Rows(1)]), ("b", false, vec![Step::Panic])]);
    runner.round().await;
    let rounds = world.catalog.rounds();
    assert_eq!(rounds[0].record.receipts[1].error_kind, Some(ErrorKind::Internal));
    assert_eq!(world.catalog.rows("a"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_panics_when_it_acknowledges_fails_and_its_rounds_go_on() {
    let world = World::new();
    let mut runner =
        world.runner(&[("a", true, vec![Step::Rows(1)]), ("b", false, vec![Step::Rows(1), Step::Rows(1)])]);
    runner.round().await;
    world.set_panics_on_acknowledge("a", true);
    runner.round().await;
    runner.round().await;
    assert_eq!(world.catalog.rounds().len(), 3);
    let status = world.catalog.status("a").unwrap();
    assert_eq!((status.state, status.cause_kind.as_deref()), (State::Degraded, Some("internal")));
    assert!(status.cause.unwrap().contains("source `a`: acknowledge: the connector panicked: scripted"));
    world.set_panics_on_acknowledge("a", false);
    runner.round().await;
    runner.round().await;
    assert_eq!(world.catalog.status("a").unwrap().state, State::Healthy);
    assert_eq!(world.catalog.rows("b"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_fails_half_way_publishes_none_of_its_rows() {
    let world = World::new();
    let mut runner = world.runner(&[
        ("a", true, vec![Step::Rows(1)]),
        ("b", false, vec![Step::RowsThenFail(5, ErrorKind::Disconnected), Step::Rows(5)]),
    ]);
    runner.round().await;
    assert_eq!(world.catalog.rows("b"), 0);
    runner.round().await;
    assert_eq!(world.catalog.rows("b"), 5);
}

#[tokio::test(start_paused = true)]
async fn a_round_that_cannot_be_stored_is_read_again_from_the_old_position() {
    let world = World::new();
    let mut runner = world.runner(&[("a", true, vec![Step::Rows(3), Step::Rows(3)])]);
    world.catalog.fail_next_commit.store(true, Ordering::SeqCst);
    runner.round().await;
    assert_eq!((world.catalog.rows("a"), world.catalog.position("a")), (0, None));
    assert!(world.acknowledged("a").is_empty());
    runner.round().await;
    assert_eq!((world.catalog.rows("a"), world.catalog.position("a")), (3, Some(3)));
    assert_eq!(world.reads_from("a"), vec![None, None]);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_down_is_probed_beside_the_rounds_and_comes_back() {
    let world = World::new();
    let fail = || Step::Fail(ErrorKind::Unreachable);
    let mut runner = world.runner(&[
        ("a", true, vec![Step::Rows(1); 200]),
        ("b", false, vec![fail(), fail(), fail(), Step::Rows(7), Step::Rows(7)]),
    ]);
    for _ in 0..3 {
        runner.round().await;
    }
    assert_eq!(world.catalog.status("b").map(|status| status.state), Some(State::Down));
    world.set_unreachable("b", true);
    tokio::time::sleep(Duration::from_secs(30)).await;
    runner.round().await;
    let skipped = world.catalog.rounds().last().unwrap().record.receipts[1].clone();
    assert_eq!((skipped.source.as_str(), skipped.verdict), ("b", ReceiptVerdict::Skipped));
    assert!(world.probes("b") >= 2, "{} probes", world.probes("b"));
    world.set_unreachable("b", false);
    tokio::time::sleep(Duration::from_secs(90)).await;
    runner.round().await;
    assert_eq!(world.catalog.rows("b"), 7);
    assert_eq!(world.catalog.status("b").map(|status| status.state), Some(State::Healthy));
    assert_eq!(world.catalog.rounds().last().map(|round| round.record.verdict), Some(RoundVerdict::Complete));
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_round_that_runs_and_starts_no_other() {
    let world = World::new();
    let runner = world.runner(&[("a", true, vec![Step::Slow(Duration::from_secs(2), 4); 10])]);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let task = tokio::spawn(runner.run(stopped));
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.send(true).unwrap();
    task.await.unwrap();
    assert_eq!(world.catalog.rows("a"), 4);
    assert_eq!(world.acknowledged("a"), vec![4]);
    assert_eq!(world.catalog.rounds().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn more_rows_waiting_make_the_next_round_follow_at_once() {
    let world = World::new();
    let runner = world.runner(&[("a", true, vec![Step::More(2), Step::More(2), Step::Rows(1)])]);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let task = tokio::spawn(runner.run(stopped));
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(world.catalog.rows("a"), 5);
    assert_eq!(world.catalog.rounds().last().map(|round| round.id), Some(RoundId(3)));
    stop.send(true).unwrap();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_too_much_for_one_round_comes_in_several() {
    let world = World::new();
    let second = Duration::from_secs(1);
    let mut runner = world.runner(&[("a", true, vec![Step::Endless(second); 3]), ("b", true, vec![Step::Rows(1)])]);
    assert!(runner.round().await, "more is waiting");
    assert!(world.clock.now() < crate::support::DEADLINE, "it ended before the deadline would have taken everything");
    let first = world.catalog.rows("a");
    assert!(first >= 5, "{first} rows in half of a deadline of 20 s");
    runner.round().await;
    assert_eq!(world.catalog.rows("a"), 2 * first);
    assert_eq!(world.catalog.position("a"), Some(2 * first as i64));
    assert_eq!(world.catalog.rows("b"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_round_that_nothing_follows_reads_whole_or_fails() {
    let world = World::new();
    let endless = vec![Step::Endless(Duration::from_secs(1))];
    let mut runner = world.runner(&[("a", false, endless), ("b", true, vec![Step::Rows(1)])]).whole();
    let end = runner.round_with(None).await;
    assert!(end.more.is_empty());
    let failed: Vec<_> = end.failures.iter().map(|error| error.kind()).collect();
    assert_eq!(failed, [ErrorKind::Timeout]);
    assert_eq!((world.catalog.rows("a"), world.catalog.rows("b")), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_trial_reads_no_more_than_the_first_part() {
    let world = World::new();
    let fail = || Step::Fail(ErrorKind::Unreachable);
    // Whole, the backlog would never be read within a deadline: the source would stay down for ever.
    let backlog = Step::Endless(crate::support::DEADLINE / 4);
    let mut runner = world.runner(&[("a", true, vec![fail(), fail(), fail(), backlog.clone(), backlog])]);
    for _ in 0..3 {
        runner.round().await;
    }
    assert_eq!(world.catalog.status("a").map(|status| status.state), Some(State::Down));
    tokio::time::sleep(Duration::from_secs(2) + crate::support::DEADLINE / 4).await;
    assert_eq!(world.reads_from("a").len(), 4, "one trial, and it has ended");
    runner.round().await;
    assert_eq!(world.catalog.status("a").map(|status| status.state), Some(State::Healthy));
    assert!(world.catalog.rows("a") > 0);
}

#[tokio::test(start_paused = true)]
async fn a_port_that_accepts_and_hangs_holds_no_round_up_once_it_is_down() {
    let world = World::new();
    let mut runner = world.runner(&[("a", true, vec![Step::Rows(1); 200]), ("b", false, vec![Step::Hang; 200])]);
    for _ in 0..3 {
        runner.round().await;
    }
    assert_eq!(world.catalog.status("b").map(|status| status.state), Some(State::Down));
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let before = world.clock.now();
        runner.round().await;
        assert_eq!(world.clock.now(), before);
    }
    assert!(world.reads_from("b").len() > 4, "it is read again beside the rounds");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_has_not_changed_keeps_its_table_out_of_the_round() {
    let world = World::new();
    let mut runner = world.runner(&[("a", true, vec![Step::Rows(1)]), ("b", true, vec![Step::Unchanged])]);
    runner.round().await;
    let receipt = world.catalog.rounds()[0].record.receipts[1].clone();
    assert_eq!(receipt.verdict, ReceiptVerdict::Unchanged);
    // A table that takes part with no rows would empty one that is replaced each round.
    assert!(world.catalog.has_table("a") && !world.catalog.has_table("b"));
}

#[tokio::test(start_paused = true)]
async fn a_rejected_round_keeps_nothing_and_its_receipts_say_so() {
    let world = World::new();
    let mut runner = world
        .runner(&[("a", true, vec![Step::Rows(3), Step::Rows(3)]), ("b", true, vec![Step::Fail(ErrorKind::Timeout)])]);
    runner.round().await;
    let receipt = world.catalog.rounds()[0].record.receipts[0].clone();
    assert_eq!((receipt.verdict, receipt.rows), (ReceiptVerdict::Ok, 0));
    assert_eq!(receipt.position_after, receipt.position_before);
}

#[tokio::test(start_paused = true)]
async fn receipts_count_no_item_of_the_quarantine_that_is_not_stored() {
    let world = World::new();
    let cut = || Step::RowsThenFail(1, ErrorKind::Disconnected);
    let mut runner = world.runner(&[
        ("a", true, vec![Step::Quarantine(1), Step::Quarantine(1), cut()]),
        ("b", false, vec![Step::Rows(1), cut(), Step::Quarantine(1)]),
    ]);
    for (expected_verdict, expected) in
        [(RoundVerdict::Complete, [1, 0]), (RoundVerdict::Partial, [1, 0]), (RoundVerdict::Rejected, [0, 0])]
    {
        runner.round().await;
        let record = world.catalog.rounds().last().unwrap().record.clone();
        assert_eq!(record.verdict, expected_verdict);
        let quarantined: Vec<u64> = record.receipts.iter().map(|receipt| receipt.quarantined).collect();
        assert_eq!(quarantined, expected, "{expected_verdict:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_success_is_the_start_of_the_last_round_that_was_kept() {
    let world = World::new();
    let fail = || Step::Fail(ErrorKind::Timeout);
    let mut runner = world.runner(&[
        ("a", true, vec![Step::Slow(Duration::from_secs(2), 1), Step::Rows(1), Step::Rows(1), fail(), Step::Unchanged]),
        ("b", true, vec![Step::Rows(1), fail(), Step::Rows(1), Step::Rows(1), Step::Rows(1)]),
    ]);
    let last_success = |source: &str| {
        let time = world.catalog.status(source)?.last_success?;
        Some(time.duration_since(jiff::Timestamp::UNIX_EPOCH).as_secs())
    };
    tokio::time::sleep(Duration::from_secs(5)).await;
    runner.round().await;
    assert_eq!((last_success("a"), last_success("b")), (Some(5), Some(5)), "not the end of the slow read");
    // A rejected round, one that is not stored, and another rejected one, whose states are stored.
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(60)).await;
        world.catalog.fail_next_commit.store(world.reads_from("a").len() == 2, Ordering::SeqCst);
        runner.round().await;
        assert_eq!((last_success("a"), last_success("b")), (Some(5), Some(5)));
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let start = world.clock.now().as_secs() as i64;
    runner.round().await;
    assert_eq!((last_success("a"), last_success("b")), (Some(start), Some(start)), "unchanged is a success too");
}

#[tokio::test(start_paused = true)]
async fn nobody_is_read_for_a_round_that_lacks_a_required_source() {
    let world = World::new();
    let fail = || Step::Fail(ErrorKind::Unreachable);
    let mut runner =
        world.runner(&[("a", true, vec![Step::Rows(1); 9]), ("b", true, vec![fail(), fail(), fail(), Step::Rows(7)])]);
    for _ in 0..3 {
        runner.round().await;
    }
    let reads = world.reads_from("a").len();
    assert!(!runner.round().await);
    assert_eq!(world.reads_from("a").len(), reads);
    let record = world.catalog.rounds().last().unwrap().record.clone();
    assert_eq!(record.verdict, RoundVerdict::Rejected);
    assert!(record.receipts.iter().all(|receipt| receipt.verdict == ReceiptVerdict::Skipped));
    tokio::time::sleep(Duration::from_secs(90)).await;
    runner.round().await;
    assert_eq!(world.catalog.rounds().last().map(|round| round.record.verdict), Some(RoundVerdict::Complete));
    assert_eq!(world.catalog.rows("a"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_hides_no_failure_of_a_source_and_blames_none() {
    let world = World::new();
    let steps = vec![Step::Fail(ErrorKind::Unreachable); 3];
    let mut runner = world.runner(&[("a", true, vec![Step::Rows(1); 9]), ("b", false, steps)]);
    world.catalog.is_full.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let end = runner.round_with(None).await;
        assert_eq!(end.error.map(|error| error.kind()), Some(ErrorKind::StorageFull));
    }
    world.catalog.is_full.store(false, Ordering::SeqCst);
    runner.round().await;
    let receipts = world.catalog.rounds()[0].record.receipts.clone();
    let verdicts: Vec<_> = receipts.iter().map(|receipt| receipt.verdict).collect();
    assert_eq!(verdicts, [ReceiptVerdict::Ok, ReceiptVerdict::Skipped], "b has gone down meanwhile");
    assert_eq!(world.catalog.status("a").map(|status| status.errors_total), Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_for_time_gets_it() {
    let world = World::new();
    let wait = Step::Wait(Duration::from_secs(2 * 3_600));
    let mut runner = world.runner(&[("a", true, vec![Step::Rows(1); 9]), ("b", false, vec![wait, Step::Rows(7)])]);
    for seconds in [0, 5_400, 1_799] {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        runner.round().await;
        assert_eq!(world.reads_from("b").len(), 1);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    runner.round().await;
    assert_eq!(world.catalog.rows("b"), 7);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hears_no_acknowledgement_holds_the_round_up_no_longer_than_the_deadline() {
    let world = World::new();
    let mut runner = world.runner(&[("a", true, vec![Step::Rows(1), Step::Rows(1)])]);
    world.set_deaf("a", true);
    runner.round().await;
    assert_eq!((world.clock.now(), world.catalog.position("a")), (crate::support::DEADLINE, Some(1)));
    world.set_deaf("a", false);
    runner.round().await;
    assert_eq!(world.acknowledged("a"), vec![2]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_acknowledged_is_told_and_is_no_reason_to_go_on_at_once() {
    let world = World::new();
    let mut runner = world.runner(&[("a", true, vec![Step::More(1); 10])]);
    let state = || world.catalog.status("a").map(|status| (status.state, status.cause_kind));
    world.set_refuses_acknowledgements("a", true);
    assert!(!runner.round().await, "the same rows would come again");
    for _ in 0..5 {
        assert!(!runner.round().await);
        assert_eq!(state(), Some((State::Degraded, Some("permission".into()))), "read on, and not well");
    }
    assert_eq!(world.catalog.rows("a"), 6);
    world.set_refuses_acknowledgements("a", false);
    assert!(runner.round().await);
    runner.round().await;
    assert_eq!(state(), Some((State::Healthy, None)));
    assert_eq!(world.acknowledged("a"), vec![7, 8]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_gives_a_round_up_that_does_not_end() {
    let world = World::new();
    let runner = world.runner(&[("a", true, vec![Step::Hang])]);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let task = tokio::spawn(runner.run(stopped));
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.send(true).unwrap();
    task.await.unwrap();
    assert_eq!(world.clock.now(), Duration::from_secs(1) + portolan_rounds::coordinator::STOP_GRACE);
    assert!(world.catalog.rounds().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_source_that_complains_is_read_on_and_shown() {
    let world = World::new();
    let mut runner = world.runner(&[("a", true, vec![Step::Rows(1); 9])]);
    world.set_complains("a", true);
    for _ in 0..5 {
        runner.round().await;
    }
    let status = world.catalog.status("a").unwrap();
    assert_eq!(status.state, State::Degraded);
    assert!(status.cause.unwrap().contains("senders wait"));
    assert_eq!(world.catalog.rows("a"), 5);
    world.set_complains("a", false);
    runner.round().await;
    assert_eq!(world.catalog.status("a").unwrap().state, State::Healthy);
}

#[tokio::test(start_paused = true)]
async fn a_stop_while_a_server_is_told_leaves_every_slot_at_what_is_committed() {
    let world = World::new();
    let runner = world.runner(&[("a", true, vec![Step::Rows(1)]), ("b", true, vec![Step::Rows(2)])]);
    world.set_deaf("a", true);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let task = tokio::spawn(runner.run(stopped));
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.send(true).unwrap();
    let slots = task.await.unwrap();
    let positions: Vec<_> = slots.iter().map(|slot| slot.position.as_ref().and_then(|p| p.value.as_i64())).collect();
    assert_eq!(positions, [world.catalog.position("a"), world.catalog.position("b")]);
    assert_eq!(positions, [Some(1), Some(2)]);
}
