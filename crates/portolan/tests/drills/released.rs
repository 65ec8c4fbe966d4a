//! What happens after a release: a port that is slow, one that dies, a disk that is full at the commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portolan_testkit::api::{Api, Fault};
use portolan_testkit::crash::disk::SmallDisk;
use portolan_testkit::process::Signal;
use portolan_testkit::servers::Redis;
use serde_json::json;

use crate::support::{Bench, PATIENCE};
use crate::{add_events, api, configuration, events, http, pending, receipts, rounds};

const PROMISES: [&str; 3] = ["none", "released", "double_collect"];

fn bench_of(api: &Api, promise: &str, right: &str) -> Bench {
    let sources = [("left", http("left", api.port(), "")), ("right", http("right", api.port(), right))];
    Bench::new(&configuration(&sources, &format!("deadline = \"1s\"\nconsistency = \"{promise}\"")))
}

#[test]
fn a_port_slower_than_the_deadline_fails_alone_or_its_round_with_it() {
    for promise in PROMISES {
        for is_required in [false, true] {
            let api = api();
            let bench = bench_of(&api, promise, &format!("required = {is_required}"));
            let mut collector = bench.start(&["run"]);
            bench.wait_for_lake("left");
            let kept = match promise {
                "none" => "none",
                "released" => "released",
                _ => "proven",
            };
            bench.wait_until("rounds are complete", || {
                rounds(&bench, &format!("verdict = 'complete' and reached = '{kept}'")) > 0
            });
            api.fail("/plain/right", None, Fault::Hang);
            let late = "source = 'right' and verdict = 'failed' and error_kind = 'timeout' and error like '%deadline%'";
            bench.wait_until("the port misses the deadline", || receipts(&bench, late) > 0);
            let its_rounds = format!("round in (select round from portolan.receipts where {late})");
            let verdict = if is_required { "rejected" } else { "partial" };
            assert_eq!(rounds(&bench, &format!("{its_rounds} and verdict <> '{verdict}'")), 0);
            // Its whole time went into the first collect: there was none for a second.
            let reached = if promise == "double_collect" { "unproven" } else { kept };
            assert_eq!(rounds(&bench, &format!("{its_rounds} and reached <> '{reached}'")), 0, "{promise}");
            if !is_required {
                // Once it is down it holds nobody up, and what is read keeps the promise.
                bench.wait_until("the others go on without it", || {
                    rounds(&bench, &format!("verdict = 'partial' and reached = '{kept}' and not {its_rounds}")) > 3
                });
            }
            api.heal();
            let complete = rounds(&bench, "verdict = 'complete'");
            bench.wait_until("rounds are complete again", || rounds(&bench, "verdict = 'complete'") > complete);
            assert_eq!(collector.stop(Signal::TERM, PATIENCE).unwrap().code(), Some(0), "{}", bench.log());
        }
    }
}

#[test]
fn a_port_that_dies_between_its_release_and_its_first_byte_has_failed() {
    for promise in PROMISES {
        let (left, right) = (api(), Arc::new(api()));
        let sources =
            [("left", http("left", left.port(), "")), ("right", http("right", right.port(), "required = false"))];
        let bench = Bench::new(&configuration(&sources, &format!("deadline = \"5s\"\nconsistency = \"{promise}\"")));
        // Its last byte has arrived, and nothing is answered.
        let is_dying = Arc::new(AtomicBool::new(true));
        let (own, dies) = (Arc::downgrade(&right), is_dying.clone());
        right.on_request(move |_| {
            if let (true, Some(api)) = (dies.load(Ordering::SeqCst), own.upgrade()) {
                api.close_connections();
            }
            Duration::ZERO
        });
        let mut collector = bench.start(&["run"]);
        bench.wait_for_lake("left");
        let died = "source = 'right' and verdict = 'failed' and error_kind = 'disconnected'";
        bench.wait_until("the port has failed", || receipts(&bench, died) > 0);
        // It was released with the others, and no byte of it came.
        assert_eq!(receipts(&bench, &format!("{died} and (released_us is null or first_byte_us is not null)")), 0);
        let kept = match promise {
            "none" => "none",
            "released" => "released",
            _ => "proven",
        };
        let partial = format!("verdict = 'partial' and reached = '{kept}'");
        bench.wait_until("the others keep their promise", || rounds(&bench, &partial) > 0);
        assert_eq!(rounds(&bench, "verdict = 'rejected'"), 0);
        is_dying.store(false, Ordering::SeqCst);
        bench.wait_until("the port is read again", || bench.status("right")["state"] == "healthy");
        assert_eq!(collector.stop(Signal::TERM, PATIENCE).unwrap().code(), Some(0), "{}", bench.log());
    }
}

#[test]
fn a_disk_that_is_full_at_the_commit_of_a_released_round_loses_nothing() {
    let (api, redis) = (api(), Redis::start().unwrap());
    let place = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&place.path().join("disk")).unwrap();
    let sources = [("left", http("left", api.port(), "")), ("events", events(redis.port(), ""))];
    let round = format!(
        "deadline = \"5s\"\nconsistency = \"released\"\n[lake]\npath = \"{}\"",
        place.path().join("disk/lake").display()
    );
    let bench = Bench::new(&configuration(&sources, &round));
    add_events(&redis, 0..10);
    let mut collector = bench.start(&["run"]);
    bench.wait_for_lake("left");
    let held = || bench.number("select count(*) as n from events");
    bench.wait_until("all is there", || rounds(&bench, "reached = 'released'") > 0 && held() == 10);
    disk.fill().unwrap();
    bench.wait_until("it is said", || bench.log().contains("storage_full") || bench.log().contains("full"));
    api.replace("left", [json!({"id": 1, "state": 7})]);
    add_events(&redis, 10..30);
    bench.wait_until("the server has given the entries away", || pending(&redis) == 20);
    std::thread::sleep(Duration::from_secs(1));
    disk.free().unwrap();
    bench.wait_until("every entry is there", || held() >= 30);
    bench.wait_until("the server is told", || pending(&redis) == 0);
    assert_eq!(bench.number("select count(distinct number) * 1000 + count(*) as n from events"), 30_030);
    bench.wait_until("the state is there", || bench.number("select state as n from \"left\"") == 7);
    assert_eq!(collector.stop(Signal::TERM, PATIENCE).unwrap().code(), Some(0), "{}", bench.log());
    assert_eq!(bench.json(&["verify", "--json"])["sound"], true);
}
