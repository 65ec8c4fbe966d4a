//! A stream by the binary: watermark and late rows over a restart, an as-of join, the difference of two rounds.

#![cfg(feature = "sql")]
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use std::io::Write;
use std::net::TcpStream;

use portolan_testkit::api::Api;
use portolan_testkit::process::{Signal, free_port};
use serde_json::json;
use support::{Bench, PATIENCE};

fn configuration(devices: u16, api: u16) -> String {
    let plain = "tls = { allow_plaintext = \"test on loopback\" }\nevery = \"50ms\"\n";
    format!(
        "[server]\nhost = \"127.0.0.1\"\n\
         [[source]]\nname = \"devices\"\nport = {devices}\nprotocol = \"tcp\"\nlisten = true\n\
         event_time = \"at\"\nlateness = \"2s\"\n{plain}\
         [[source]]\nname = \"orders\"\nport = {api}\nprotocol = \"http\"\npath = \"/plain/orders\"\nmode = \"replace\"\n\
         key = [\"id\"]\n{plain}"
    )
}

fn send(port: u16, bench: &Bench, readings: &[(&str, &str, f64)]) {
    let before = bench.number("select count(*) from devices");
    let line =
        |(at, device, value): &(&str, &str, f64)| format!("{}\n", json!({"at": at, "device": device, "value": value}));
    // In one piece: a round that begins between two readings makes the second late.
    let lines: String = readings.iter().map(line).collect();
    TcpStream::connect(("127.0.0.1", port)).unwrap().write_all(lines.as_bytes()).unwrap();
    bench.wait_until("readings are stored", || {
        bench.number("select count(*) from devices") == before + readings.len() as i64
    });
}

#[test]
fn a_stream_keeps_its_watermark_and_is_joined_as_of_a_moment() {
    let api = Api::start().unwrap();
    api.replace("orders", [json!({"id": 1, "placed_at": "2026-01-01T10:00:05Z", "device": "a", "amount": 3})]);
    let port = free_port().unwrap();
    let bench = Bench::new(&configuration(port, api.port()));
    let start = || {
        let collector = bench.start(&["run"]);
        bench.wait_for_lake("devices");
        bench.wait_until("the port is open", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        bench.wait_until("both have tables", || {
            bench.run(&["query", "select count(*) from devices, orders"]).status.success()
        });
        collector
    };
    // A table that has no rows yet has no columns: the first reading makes it.
    let mut collector = bench.start(&["run"]);
    bench.wait_for_lake("devices");
    bench.wait_until("the first reading is stored", || {
        let sent = TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| {
            stream.write_all(b"{\"at\":\"2026-01-01T10:00:00Z\",\"device\":\"a\",\"value\":1.0}\n")
        });
        std::thread::sleep(std::time::Duration::from_millis(200));
        sent.is_ok() && bench.run(&["query", "select at from devices limit 1"]).status.success()
    });
    send(port, &bench, &[("2026-01-01T10:00:10Z", "a", 2.0), ("2026-01-01T10:00:04+00:00", "b", 7.0)]);
    let mark =
        || bench.query("select max(watermark) as w from portolan.receipts where source = 'devices'")[0]["w"].clone();
    assert_eq!(mark(), "2026-01-01T10:00:08Z");
    collector.stop(Signal::TERM, PATIENCE).unwrap();

    let mut collector = start();
    send(port, &bench, &[("2026-01-01T10:00:03Z", "a", 1.5), ("2026-01-01T10:00:09Z", "b", 8.0)]);
    let late = "select sum(late) as n from portolan.receipts where source = 'devices' and round > \
                (select min(round) from portolan.receipts where watermark = timestamptz '2026-01-01T10:00:08Z')";
    assert_eq!(bench.number(&format!("select cast(n as bigint) as n from ({late})")), 1);
    assert_eq!(mark(), "2026-01-01T10:00:08Z", "it does not go back");
    let state = "select o.id, d.value from orders o asof join devices d on o.device = d.device and o.placed_at >= d.at";
    assert_eq!(bench.query(state), [json!({"id": 1, "value": 1.5})]);

    let before = bench.number("select max(round) from portolan.receipts where source = 'orders' and verdict = 'ok'");
    api.replace(
        "orders",
        [
            json!({"id": 1, "placed_at": "2026-01-01T10:00:05Z", "device": "a", "amount": 4}),
            json!({"id": 2, "placed_at": "2026-01-01T10:00:06Z", "device": "b", "amount": 1}),
        ],
    );
    bench.wait_until("the orders have changed", || bench.number("select count(*) from orders") == 2);
    collector.stop(Signal::TERM, PATIENCE).unwrap();
    // Not the highest number: rounds that go on beside each other may commit in another order than they began.
    let after = bench.number("select max(_round) from orders");
    let (one, two) = (before.to_string(), after.to_string());
    let lines = bench.json(&["diff", &one, &two, "orders", "--format", "json"]);
    let mut changed = lines[0].clone();
    assert!(changed.as_object_mut().unwrap().remove("round").unwrap().as_i64().unwrap() > before);
    let expected =
        json!({"change": "changed", "item": {"id": 1}, "column": "amount", "before": 3, "after": 4, "rows": 1});
    assert_eq!(changed, expected);
    assert_eq!(
        (&lines[1]["change"], &lines[1]["item"], &lines[1]["after"]["amount"]),
        (&json!("added"), &json!({"id": 2}), &json!(1))
    );
    let summary = bench.json(&["diff", &two, &one, "--format", "json"]);
    assert_eq!(
        (&summary[1]["table"], &summary[1]["removed"], &summary[1]["changed"]),
        (&json!("orders"), &json!(1), &json!(1))
    );
    assert_eq!(summary[1]["compared_by"], "id");
    assert_eq!(bench.run(&["diff", &one, &two, "--exit-code"]).status.code(), Some(1));
    assert_eq!(bench.run(&["diff", &two, &two, "--exit-code"]).status.code(), Some(0));
    assert_eq!(bench.run(&["diff", &one, "99999"]).status.code(), Some(5));
    assert_eq!(bench.run(&["diff", &one, "soon"]).status.code(), Some(2));
    let csv = bench.text(&["diff", &one, &two, "orders", "--limit", "1", "--format", "csv"]);
    assert_eq!(csv.lines().count(), 2, "{csv}");
}
