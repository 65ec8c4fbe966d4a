//! Up to where a stream is complete: what moves the watermark, and what must not.

use std::time::Duration;

use jiff::Timestamp;
use portolan_model::ErrorKind;
use portolan_model::config::ConsistencySpec;
use portolan_model::source::Capabilities;

use crate::support::{CAPABILITIES, Step, World};

fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp::from_second(seconds).unwrap())
}

fn watermarks(world: &World) -> Vec<Option<Timestamp>> {
    world.catalog.rounds().iter().map(|round| round.record.receipts[0].watermark).collect()
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_complete_up_to_the_release_of_its_last_whole_read() {
    let world = World::new();
    let steps = vec![
        Step::Slow(Duration::from_secs(2), 1),
        Step::More(5),
        Step::Fail(ErrorKind::Disconnected),
        Step::Unchanged,
    ];
    let mut runner = world.runner(&[("a", false, steps)]);
    for _ in 0..4 {
        runner.round().await;
        tokio::time::advance(Duration::from_secs(10)).await;
    }
    // Released at 0 s; more was waiting; failed; nothing new since 32 s.
    assert_eq!(watermarks(&world), [at(0), at(0), None, at(32)]);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_round_moves_no_watermark() {
    let world = World::new();
    let mut runner = world.runner(&[
        ("a", true, vec![Step::Rows(1)]),
        ("b", true, vec![Step::Fail(ErrorKind::Disconnected), Step::Fail(ErrorKind::Disconnected)]),
    ]);
    runner.round().await;
    tokio::time::advance(Duration::from_secs(10)).await;
    runner.round().await;
    assert_eq!(watermarks(&world), [None, None]);
}

#[tokio::test(start_paused = true)]
async fn what_is_read_whole_each_time_has_none() {
    let world = World::new();
    let capabilities = Capabilities { resume: false, acknowledge: false, ..CAPABILITIES };
    let sources = [("a", true, vec![Step::Rows(1)])];
    world.runner_with(ConsistencySpec::default(), capabilities, &sources).round().await;
    assert_eq!(watermarks(&world), [None]);
}
