//! A port that is dead, hangs, is slow, sends garbage or closes in mid-stream, in turn: the other source keeps its
//! rhythm, and `status` says what is wrong.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use std::time::Duration;

use portolan_testkit::api::Api;
use portolan_testkit::process::Signal;
use portolan_testkit::proxy::{FaultProxy, Mode};
use serde_json::json;
use support::{Bench, PATIENCE};

fn configuration(good_port: u16, bad_port: u16, in_one_round: bool) -> String {
    let round = "\n[[round]]\nname = \"both\"\nsources = [\"good\", \"bad\"]\nevery = \"100ms\"\ndeadline = \"2s\"\n";
    let (rhythm, round) = if in_one_round { ("", round) } else { ("every = \"100ms\"\ndeadline = \"2s\"", "") };
    format!(
        r#"
[server]
host = "127.0.0.1"

[[source]]
name = "good"
port = {good_port}
protocol = "http"
path = "/plain/good"
{rhythm}
tls = {{ allow_plaintext = "test on loopback" }}

[[source]]
name = "bad"
port = {bad_port}
protocol = "http"
path = "/plain/bad"
etag = false
required = false
connect_timeout = "1s"
idle_timeout = "1s"
{rhythm}
tls = {{ allow_plaintext = "test on loopback" }}
{round}"#
    )
}

/// The modes, and the kinds of failure that `status` may name for each.
const FAULTS: [(&str, Mode, &[&str]); 6] = [
    ("dead", Mode::Refuse, &["unreachable", "disconnected"]),
    ("hanging", Mode::Hang, &["timeout"]),
    ("slow", Mode::Slow(10), &["timeout"]),
    ("garbage", Mode::Garbage, &["protocol", "disconnected"]),
    ("mid-stream end", Mode::CloseAfter(120), &["disconnected", "protocol"]),
    ("mid-stream reset", Mode::ResetAfter(120), &["disconnected"]),
];

fn drill(in_one_round: bool) {
    let api = Api::start().unwrap();
    api.append("good", [json!({"id": 1})]);
    api.append("bad", (0..2_000).map(|id| json!({"id": id, "text": "x".repeat(40)})));
    let proxy = FaultProxy::start(api.port()).unwrap();
    let bench = Bench::new(&configuration(api.port(), proxy.port(), in_one_round));
    let mut collector = bench.start(&["run"]);
    bench.wait_for_lake("bad");
    bench.wait_until("the port is healthy at first", || bench.status("bad")["state"] == "healthy");
    for (name, mode, kinds) in FAULTS {
        proxy.set(mode);
        bench.wait_until(&format!("the {name} port is down"), || bench.status("bad")["state"] == "down");
        let status = bench.status("bad");
        let kind = status["cause_kind"].as_str().unwrap_or_default().to_owned();
        assert!(kinds.contains(&kind.as_str()), "{name}: {status}");
        assert!(status["cause"].as_str().is_some_and(|cause| cause.contains("bad")), "{name}: {status}");
        // Down, it holds no round up: the other source's rounds go on at their rhythm.
        let before = bench.status("good")["last_round"].as_i64().unwrap();
        std::thread::sleep(Duration::from_secs(2));
        let rounds = bench.status("good")["last_round"].as_i64().unwrap() - before;
        assert!(rounds >= 5, "{name}: {rounds} rounds in two seconds");
        assert_eq!(bench.status("good")["state"], "healthy", "{name}");
        proxy.set(Mode::Pass);
        bench.wait_until(&format!("the port is healthy after {name}"), || bench.status("bad")["state"] == "healthy");
        assert_eq!(bench.status("bad")["cause"], serde_json::Value::Null);
    }
    let status = collector.stop(Signal::TERM, PATIENCE).unwrap();
    assert_eq!(status.code(), Some(0), "{}", bench.log());
    let lost = bench.number("select count(*) from portolan.receipts where source = 'good' and verdict = 'failed'");
    assert_eq!(lost, 0);
}

#[test]
fn a_failing_port_touches_no_source_outside_its_round() {
    drill(false);
}

#[test]
fn a_failing_port_that_is_not_required_holds_its_round_up_only_until_it_is_down() {
    drill(true);
}
