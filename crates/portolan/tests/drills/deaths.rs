//! The process dies in the middle of a release, between two collects: at a named point, so that it is always the same one.

use std::collections::BTreeMap;

use portolan_testkit::api::Api;
use portolan_testkit::crash::collector::Collector;
use portolan_testkit::process::{Signal, was_killed_by};
use portolan_testkit::servers::Redis;
use serde_json::json;

use crate::support::{Bench, PATIENCE, built_binary};
use crate::{add_events, api, configuration, events, http, pending, rounds};

/// Runs the binary until it dies before the handover number `handover` (from 0) of what is held.
fn die_before(bench: &Bench, handover: u32) {
    let action = if handover == 0 { "return".to_owned() } else { format!("{handover}*off->return") };
    die_at(bench, &format!("release::before_handover={action}"));
}

/// Runs the binary until it dies at the point that is armed.
fn die_at(bench: &Bench, armed: &str) {
    let (configuration, log) = (bench.path().join("portolan.toml"), bench.path().join("run.log"));
    let mut collector = Collector::start_with(&built_binary(), &configuration, &log, &[("FAILPOINTS", armed)]).unwrap();
    let status = collector.process().wait(PATIENCE).unwrap();
    assert!(status.is_some_and(|status| was_killed_by(status, Signal::ABORT)), "{armed}: {status:?}\n{}", bench.log());
}

/// Runs the binary until `condition` holds, and ends it in order.
fn run_until(bench: &Bench, what: &str, condition: impl FnMut() -> bool) {
    let mut collector = bench.start(&["run"]);
    bench.wait_for_lake("left");
    bench.wait_until(what, condition);
    assert_eq!(collector.stop(Signal::TERM, PATIENCE).unwrap().code(), Some(0), "{}", bench.log());
}

/// Everything that readers see and the next round goes on from.
fn visible(bench: &Bench, tables: &[&str]) -> BTreeMap<String, Vec<String>> {
    let tables = tables.iter().map(|table| format!("\"{table}\""));
    let own = ["rounds", "receipts"].map(|table| format!("portolan.{table}"));
    tables
        .chain(own)
        .map(|table| {
            let rows = bench.query(&format!("select * from {table}"));
            let mut rows: Vec<String> = rows.iter().map(ToString::to_string).collect();
            rows.sort();
            (table, rows)
        })
        .collect()
}

fn await_no_connection(bench: &Bench, api: &Api) {
    bench.wait_until("the half requests are gone", || api.connections_open() == 0);
}

#[test]
fn death_in_the_middle_of_a_release_leaves_nothing_and_loses_nothing() {
    let (api, redis) = (api(), Redis::start().unwrap());
    let sources = [
        ("left", http("left", api.port(), "")),
        ("events", events(redis.port(), "")),
        ("right", http("right", api.port(), "")),
    ];
    let bench = Bench::new(&configuration(&sources, "deadline = \"5s\"\nconsistency = \"released\""));
    add_events(&redis, 0..10);
    run_until(&bench, "all is there", || rounds(&bench, "reached = 'released' and verdict = 'complete'") > 0);
    // Before each handover, and (3) with everything read and nothing committed.
    for handover in 0..4 {
        let before = visible(&bench, &["left", "events", "right"]);
        let added = 10 * (handover + 1);
        add_events(&redis, added..added + 10);
        for name in ["left", "right"] {
            api.replace(name, [json!({"id": 1, "state": added})]);
        }
        api.take_requests();
        if handover < 3 {
            die_before(&bench, handover);
            await_no_connection(&bench, &api);
            // Those before it have been released, and nobody behind it.
            let asked = if handover >= 1 { vec!["GET /plain/left"] } else { vec![] };
            assert_eq!(api.take_requests(), asked, "death before handover {handover}");
        } else {
            die_at(&bench, "commit::before_commit=return");
            await_no_connection(&bench, &api);
            assert_eq!(pending(&redis), 10, "the server has given the entries away");
        }
        assert_eq!(visible(&bench, &["left", "events", "right"]), before, "death before handover {handover}");
        let complete = rounds(&bench, "verdict = 'complete'");
        run_until(&bench, "the rounds go on", || {
            rounds(&bench, "verdict = 'complete'") > complete
                && bench.number("select count(*) as n from events") >= i64::from(added) + 10
        });
        let sql = "select count(distinct number) * 1000000 + count(*) as n from events";
        assert_eq!(bench.number(sql), 1_000_001 * (i64::from(added) + 10), "each entry once");
        assert_eq!(pending(&redis), 0);
        assert_eq!(bench.number("select state as n from \"right\""), i64::from(added));
    }
    assert_eq!(bench.json(&["verify", "--json"])["sound"], true);
}

#[test]
fn death_between_two_collects_and_in_the_second_leaves_nothing() {
    let api = api();
    let sources = [("left", http("left", api.port(), "")), ("right", http("right", api.port(), ""))];
    let bench = Bench::new(&configuration(&sources, "deadline = \"5s\"\nconsistency = \"double_collect\""));
    run_until(&bench, "a round is proven", || rounds(&bench, "reached = 'proven'") > 0);
    // Two handovers a collect: before the second collect's first one, and between its two.
    for handover in [2, 3] {
        let before = visible(&bench, &["left", "right"]);
        for name in ["left", "right"] {
            api.replace(name, [json!({"id": 1, "state": handover})]);
        }
        api.take_requests();
        die_before(&bench, handover);
        await_no_connection(&bench, &api);
        assert_eq!(api.take_requests().len() as u32, handover);
        assert_eq!(visible(&bench, &["left", "right"]), before, "death before handover {handover}");
        let proven = rounds(&bench, "reached = 'proven'");
        run_until(&bench, "rounds are proven again", || rounds(&bench, "reached = 'proven'") > proven);
        assert_eq!(bench.number("select state as n from \"left\""), i64::from(handover));
    }
}

#[cfg(feature = "sql")]
#[test]
fn death_between_the_checks_and_the_commit_withholds_nothing_twice() {
    use crate::checks::{EVEN, is_each_once, sources};

    let (api, redis) = (api(), Redis::start().unwrap());
    let bench = Bench::new(&configuration(&sources(&api, api.port(), &redis), EVEN));
    let count = || bench.number("select count(*) as n from events");
    let kept = || bench.query("select round, content from portolan.quarantine order by content");
    add_events(&redis, 0..4);
    let mut collector = bench.start(&["run"]);
    bench.wait_for_lake("events");
    bench.wait_until("the first are stored", || count() == 2);
    bench.wait_until("and acknowledged", || pending(&redis) == 0);
    collector.stop(Signal::TERM, PATIENCE).unwrap();
    let before = kept();
    for (number, armed) in ["commit::before_commit=return", "commit::after_commit=return"].into_iter().enumerate() {
        let first = 4 + 6 * number as u32;
        add_events(&redis, first..first + 6);
        die_at(&bench, armed);
        if number == 0 {
            assert_eq!(kept(), before);
        }
        let all = i64::from(first) + 6;
        run_until(&bench, "the rest is acknowledged", || count() == all / 2 && pending(&redis) == 0);
        // Withheld rows have no key in the lake: what the server was not told is stored it gives again, and they are
        // withheld again.
        is_each_once(&bench, all, all / 2, if armed.contains("after") { 3 } else { 0 });
    }
    assert_eq!(bench.json(&["verify", "--json"])["sound"], true);
}
