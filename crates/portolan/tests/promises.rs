//! What rounds promise of their reads' common moment, by the binary over ports of a real server.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portolan_testkit::api::Api;
use portolan_testkit::process::Signal;
use portolan_testkit::proxy::{FaultProxy, Mode};
use serde_json::json;
use support::{Bench, PATIENCE};

fn source(name: &str, port: u16) -> String {
    format!(
        "[[source]]\nname = \"{name}\"\nport = {port}\nprotocol = \"http\"\npath = \"/plain/{name}\"\nmode = \"replace\"\n\
         etag = false\ntls = {{ allow_plaintext = \"test on loopback\" }}\n"
    )
}

fn configuration(ports: [u16; 2], promise: &str) -> String {
    format!(
        "[server]\nhost = \"127.0.0.1\"\n{}{}[[round]]\nname = \"both\"\nsources = [\"left\", \"right\"]\nevery = \"20ms\"\n\
         deadline = \"5s\"\n{promise}\n",
        source("left", ports[0]),
        source("right", ports[1])
    )
}

fn world() -> (Api, FaultProxy) {
    let api = Api::start().unwrap();
    for name in ["left", "right"] {
        api.append(name, [json!({"id": 1, "state": 0})]);
    }
    let proxy = FaultProxy::start(api.port()).unwrap();
    (api, proxy)
}

#[test]
fn released_rounds_say_what_they_reached() {
    let (api, proxy) = world();
    let bench =
        Bench::new(&configuration([api.port(), proxy.port()], "consistency = \"released\"\nmax_skew = \"250ms\""));
    let mut collector = bench.start(&["run"]);
    bench.wait_for_lake("left");
    let count = |what: &str| bench.number(&format!("select count(*) as n from portolan.rounds where {what}"));
    bench.wait_until("rounds are released", || count("reached = 'released' and consistency = 'released'") >= 5);
    // A port that answers late: read as often as allowed, then marked, with the reason.
    proxy.set(Mode::Latency(Duration::from_millis(300)));
    bench.wait_until("a skew is too large", || {
        count("reached = 'skew_exceeded' and verdict = 'complete' and attempts = 3") > 0
    });
    proxy.set(Mode::Pass);
    let released = count("reached = 'released'");
    bench.wait_until("rounds are released again", || count("reached = 'released'") > released);
    collector.stop(Signal::TERM, PATIENCE).unwrap();
    // Told when it begins and when it is over, not each time.
    let log = bench.log();
    // On a busy machine it may begin more than once.
    let begins = |from: &str, to: &str| {
        bench.number(&format!(
            "select count(*) as n from (select reached, lag(reached) over (order by round) as before from portolan.rounds) \
             where before = '{from}' and reached = '{to}'"
        ))
    };
    let told = [
        ("WARN the round is skew_exceeded, not released: ", begins("released", "skew_exceeded")),
        ("INFO the round is kept, as it promises", begins("skew_exceeded", "released")),
    ];
    for (part, times) in told {
        assert!(times > 0 && log.matches(part).count() as i64 == times, "{part}: {times} times: {log}");
    }
    assert!(count("reason like '%over max_skew of 250ms, in 3 attempts'") > 0);
    assert_eq!(count("reached = 'released' and (reason is not null or skew_bound_us > 250000)"), 0);
    // Nobody was released before all were ready.
    let early = "select count(*) as n from portolan.receipts a join portolan.receipts b using (round) where b.prepared_us > a.released_us";
    assert_eq!(bench.number(early), 0);
}

#[test]
fn two_collects_that_agree_hold_one_state() {
    let (api, proxy) = world();
    let promise = "consistency = \"double_collect\"\nattempts = 4\non_failure = \"reject\"";
    let bench = Bench::new(&configuration([api.port(), proxy.port()], promise));
    let mut collector = bench.start(&["run"]);
    bench.wait_for_lake("left");
    let (is_ended, is_slow) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // One state at two ports, never the same twice; the left is always first to know.
        scope.spawn(|| {
            for state in 1.. {
                for name in ["left", "right"] {
                    api.replace(name, [json!({"id": 1, "state": state})]);
                }
                if is_ended.load(Ordering::SeqCst) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(if is_slow.load(Ordering::SeqCst) { 200 } else { 1 }));
            }
        });
        let count = |what: &str| bench.number(&format!("select count(*) as n from portolan.rounds where {what}"));
        bench.wait_until("a round is not proven", || {
            count("reached = 'unproven' and verdict = 'rejected' and attempts = 4") > 0
        });
        is_slow.store(true, Ordering::SeqCst);
        let before = count("reached = 'proven'");
        bench.wait_until("rounds are proven", || count("reached = 'proven' and verdict = 'complete'") >= before + 10);
        is_ended.store(true, Ordering::SeqCst);
    });
    collector.stop(Signal::TERM, PATIENCE).unwrap();
    assert_eq!(
        bench.number("select count(*) as n from portolan.rounds where reached <> 'proven' and verdict = 'complete'"),
        0
    );
    // The last proven round: both ports at one state, or the right still at the one before, between the two writes.
    let states = bench.query("select l.state as l, r.state as r from \"left\" l, \"right\" r");
    let (left, right) = (states[0]["l"].as_i64().unwrap(), states[0]["r"].as_i64().unwrap());
    assert!(left == right || left == right + 1, "{left} {right}");
}

#[test]
fn a_round_by_hand_keeps_what_the_round_of_its_sources_promises() {
    let (api, proxy) = world();
    proxy.set(Mode::Latency(Duration::from_millis(900)));
    let promise = "consistency = \"released\"\nmax_skew = \"600ms\"\nattempts = 2\non_failure = \"reject\"";
    let bench = Bench::new(&configuration([api.port(), proxy.port()], promise));
    let output = bench.run(&["fetch", "--save"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(9), "{told}");
    assert!(told.contains("reject: the round is skew_exceeded, not released: "), "{told}");
    let kept = |order: &str| {
        let sql = "select verdict, consistency, attempts from portolan.rounds order by round desc limit 1";
        assert_eq!(bench.query(sql), [serde_json::from_str::<serde_json::Value>(order).unwrap()]);
    };
    kept(r#"{"verdict": "rejected", "consistency": "released", "attempts": 2}"#);
    let status = bench.text(&["status"]);
    assert!(
        status.contains("round fetch: the last one is rejected: ") && status.contains("portolan rounds show "),
        "{status}"
    );
    assert_eq!(bench.json(&["status", "--json"])["rounds"][0]["verdict"], "rejected");
    // One of them alone is of the round, too.
    let output = bench.run(&["fetch", "left", "--save"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    kept(r#"{"verdict": "complete", "consistency": "released", "attempts": 1}"#);
    // Where the round marks only, the rows are stored, and it is a warning.
    let file = bench.path().join("portolan.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replace("on_failure = \"reject\"", "on_failure = \"mark\"");
    std::fs::write(&file, &text).unwrap();
    let saved = |words: &[&str]| {
        let output = bench.run(words);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {told}");
        told
    };
    let told = saved(&["fetch", "--save"]);
    assert!(told.contains("warn: the round is skew_exceeded, not released: "), "{told}");
    kept(r#"{"verdict": "complete", "consistency": "released", "attempts": 2}"#);
    // Together with others nothing is promised, and that is told, but not of rounds of which nothing is read.
    let text = text.replace("[\"left\", \"right\"]", "[\"left\"]");
    let third = source("third", api.port()).replace("/plain/third", "/plain/left");
    let rounds =
        "[[round]]\nname = \"other\"\nsources = [\"right\"]\n[[round]]\nname = \"last\"\nsources = [\"third\"]\n";
    std::fs::write(&file, format!("{text}{third}{rounds}")).unwrap();
    for (words, warned) in [(&["fetch", "--save"][..], true), (&["fetch", "right", "third", "--save"], false)] {
        let told = saved(words);
        assert_eq!(told.contains("(both) is not asked for"), warned, "{words:?}: {told}");
        kept(r#"{"verdict": "complete", "consistency": "none", "attempts": 0}"#);
    }
}

/// A required port that is not there: every round is rejected, and who looks for the reason finds it.
#[test]
fn rounds_that_are_rejected_are_told_once_and_in_the_status() {
    let (api, proxy) = world();
    let bench = Bench::new(&configuration([api.port(), proxy.port()], ""));
    proxy.set(Mode::Refuse);
    let mut collector = bench.start(&["run"]);
    bench.wait_for_lake("left");
    let count = |what: &str| bench.number(&format!("select count(*) as n from portolan.rounds where {what}"));
    bench.wait_until("rounds are rejected", || count("verdict = 'rejected'") >= 5);
    bench.wait_until("the other port is not asked", || {
        bench.number("select count(*) as n from portolan.receipts where verdict = 'skipped' and error is not null") > 0
    });
    proxy.set(Mode::Pass);
    bench.wait_until("rounds are complete", || count("verdict = 'complete'") > 0);
    proxy.set(Mode::Refuse);
    bench.wait_until("rounds are rejected again", || bench.log().matches("the round is rejected: ").count() == 2);
    collector.stop(Signal::TERM, PATIENCE).unwrap();
    assert_eq!(bench.log().matches("WARN the round is rejected: `right` is required, and not there").count(), 2);
    let status = bench.text(&["status"]);
    assert!(status.contains("round both: the last one is rejected: `right` is required, and not there"), "{status}");
}
