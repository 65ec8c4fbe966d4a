//! What happens while a round is held: some of its sources are ready and wait, one is not.
//!
//! That one is a Redis behind a port that accepts connections and says nothing: its login does not end.

use std::time::Duration;

use portolan_testkit::api::Api;
use portolan_testkit::process::{Process, Signal};
use portolan_testkit::proxy::{FaultProxy, Mode};
use portolan_testkit::servers::Redis;
use serde_json::json;

use crate::support::{Bench, PATIENCE};
use crate::{add_events, api, configuration, events, http, receipts, rounds};

struct HeldRound {
    api: Api,
    redis: Redis,
    proxy: FaultProxy,
    bench: Bench,
    collector: Process,
}

/// A first round that is held: `left` and `right` have all but the last byte of their requests.
fn hold(ready_within: &str, more: &str) -> HeldRound {
    let (api, redis) = (api(), Redis::start().unwrap());
    add_events(&redis, 0..5);
    let proxy = FaultProxy::start(redis.port()).unwrap();
    proxy.set(Mode::Hang);
    let late = "required = false\nconnect_timeout = \"40s\"";
    let late = events(proxy.port(), late);
    let sources = [("left", http("left", api.port(), "")), ("right", http("right", api.port(), "")), ("events", late)];
    let round = format!("deadline = \"40s\"\nready_within = \"{ready_within}\"\n{more}");
    let bench = Bench::new(&configuration(&sources, &round));
    let collector = bench.start(&["run"]);
    bench.wait_until("two requests are held", || api.connections_open() == 2 && proxy.counts().connections > 0);
    // All but the last byte is on its way; what was not asked whole has not been asked.
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(api.take_requests(), Vec::<String>::new());
    HeldRound { api, redis, proxy, bench, collector }
}

impl HeldRound {
    fn stop(mut self) -> Bench {
        assert_eq!(self.collector.stop(Signal::TERM, PATIENCE).unwrap().code(), Some(0), "{}", self.bench.log());
        self.bench
    }
}

#[test]
fn who_is_not_ready_within_the_time_allowed_has_failed_and_the_others_are_released() {
    for promise in ["released", "double_collect"] {
        let round = hold("500ms", &format!("consistency = \"{promise}\""));
        let bench = &round.bench;
        bench.wait_for_lake("left");
        bench.wait_until("the round is stored", || rounds(bench, "verdict = 'partial'") > 0);
        let missed =
            "source = 'events' and error_kind = 'timeout' and error like '%not ready for the release within 500 ms%'";
        assert!(receipts(bench, missed) > 0, "{:?}", bench.query("select * from portolan.receipts"));
        // The others of that round were released together, once that time had gone by.
        let released = "round = 1 and source <> 'events' and verdict = 'ok' and released_us >= 500000";
        assert_eq!(receipts(bench, released), 2);
        let expected = if promise == "released" { "released" } else { "proven" };
        assert_eq!(
            rounds(bench, &format!("round = 1 and reached = '{expected}'")),
            1,
            "{:?}",
            bench.query("select reached, reason, attempts from portolan.rounds")
        );
        round.proxy.set(Mode::Pass);
        bench.wait_until("the source has come back", || bench.status("events")["state"] == "healthy");
        bench.wait_until("its rows are there", || bench.number("select count(*) as n from events") == 5);
        round.stop();
    }
}

#[test]
fn a_server_that_closes_a_held_request_is_given_it_again() {
    let round = hold("10s", "consistency = \"released\"");
    for time in 1..=3 {
        round.api.close_connections();
        round.bench.wait_until("the requests are held again", || {
            round.api.connections() == 2 + 2 * time && round.api.connections_open() == 2
        });
    }
    assert_eq!(round.api.take_requests(), Vec::<String>::new());
    round.proxy.set(Mode::Pass);
    round.bench.wait_for_lake("left");
    round.bench.wait_until("the round is stored", || rounds(&round.bench, "round = 1") == 1);
    let bench = round.stop();
    assert_eq!(rounds(&bench, "round = 1 and verdict = 'complete' and reached = 'released' and attempts = 1"), 1);
}

#[test]
fn a_stop_lets_a_held_round_end() {
    let round = hold("2s", "consistency = \"released\"");
    let bench = round.stop();
    assert_eq!(rounds(&bench, "verdict = 'partial' and reached = 'released'"), 1, "{}", bench.log());
    assert_eq!(rounds(&bench, "true"), 1);
    assert_eq!(bench.number("select count(*) as n from \"left\""), 1);
}

#[test]
fn a_stop_gives_a_round_up_that_is_held_for_longer_than_it_waits() {
    let round = hold("19s", "consistency = \"released\"");
    let (asked, bench) = (round.api.take_requests(), round.stop());
    assert_eq!(rounds(&bench, "true"), 0, "{}", bench.log());
    assert_eq!(asked, Vec::<String>::new(), "nobody was released");
}

#[test]
fn a_change_of_the_configuration_waits_for_a_held_round() {
    let round = hold("2s", "consistency = \"released\"");
    let bench = &round.bench;
    let (api, proxy) = (&round.api, &round.proxy);
    api.append("more", [json!({"id": 1})]);
    let sources = [
        ("left", http("left", api.port(), "")),
        ("right", http("right", api.port(), "")),
        ("events", events(proxy.port(), "required = false\nconnect_timeout = \"40s\"")),
        ("more", http("more", api.port(), "")),
    ];
    let text = configuration(&sources, "deadline = \"40s\"\nready_within = \"2s\"\nconsistency = \"released\"");
    std::fs::write(bench.path().join("portolan.new"), text).unwrap();
    std::fs::rename(bench.path().join("portolan.new"), bench.path().join("portolan.toml")).unwrap();
    round.collector.signal(Signal::HUP).unwrap();
    bench.wait_for_lake("more");
    bench.wait_until("the new source is read", || receipts(bench, "source = 'more' and verdict = 'ok'") > 0);
    proxy.set(Mode::Pass);
    bench.wait_until("the source has come back", || bench.status("events")["state"] == "healthy");
    // The held round was ended in order, without the new source.
    assert_eq!(receipts(bench, "round = 1"), 3);
    assert_eq!(rounds(bench, "round = 1 and verdict = 'partial' and reached = 'released'"), 1);
    add_events(&round.redis, 5..8);
    bench.wait_until("every row is there", || bench.number("select count(*) as n from events") == 8);
    round.stop();
}
