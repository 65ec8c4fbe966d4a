//! `portolan run` follows its configuration: what changes is ended in order and begun anew, the rest goes on, and no row
//! is lost or stored twice whatever is changed.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portolan_testkit::api::{Api, TOKEN};
use portolan_testkit::process::Signal;
use serde_json::json;
use support::{Bench, PATIENCE};

/// What the collector says when it has taken a configuration.
const TAKEN: &str = "collecting with the new configuration";

fn source(name: &str, port: u16, path: &str, more: &str) -> String {
    format!(
        "[[source]]\nname = \"{name}\"\nport = {port}\nprotocol = \"http\"\npath = \"{path}\"\n\
         tls = {{ allow_plaintext = \"test on loopback\" }}\n{more}\n"
    )
}

fn incremental(name: &str, port: u16, every: &str) -> String {
    let more = format!("every = \"{every}\"\ncursor = {{ column = \"id\", parameter = \"since\" }}");
    source(name, port, &format!("/plain/{name}"), &more)
}

fn text(sources: &[String]) -> String {
    format!("[server]\nhost = \"127.0.0.1\"\n{}", sources.concat())
}

/// Writes the file as careful programs do: the new one takes the old one's place.
fn replace(folder: &Path, text: &str) {
    std::fs::write(folder.join("portolan.new"), text).unwrap();
    std::fs::rename(folder.join("portolan.new"), folder.join("portolan.toml")).unwrap();
}

/// The rows of a table, whatever is in the configuration.
fn rows(bench: &Bench, table: &str) -> i64 {
    let sql = format!("select count(*) as rows from {table}");
    bench.json(&["query", &sql, "--lake", "lake", "--format", "json"])[0]["rows"].as_i64().unwrap()
}

fn taken(bench: &Bench) -> usize {
    bench.log().matches(TAKEN).count()
}

#[test]
fn sources_come_change_and_go_beside_those_that_stay() {
    let (api, still) = (Api::start().unwrap(), Api::start().unwrap());
    for name in ["first", "second"] {
        api.append(name, [json!({"id": 1})]);
    }
    still.append("still", [json!({"id": 1})]);
    let stays = source("still", still.port(), "/plain/still", "every = \"100ms\"");
    let bench = Bench::new(&text(&[stays.clone(), incremental("first", api.port(), "100ms")]));
    let mut collector = bench.start(&["run"]);
    bench.wait_for_lake("first");
    bench.wait_until("both are read", || {
        ["first", "still"].iter().all(|source| bench.status(source)["state"] == "healthy")
    });

    let second = incremental("second", api.port(), "100ms");
    replace(bench.path(), &text(&[stays.clone(), incremental("first", api.port(), "100ms"), second.clone()]));
    bench.wait_until("the new source is read", || bench.status("second")["state"] == "healthy");
    assert!(bench.log().contains("added=\"second\" changed=\"\" removed=\"\""), "{}", bench.log());

    replace(bench.path(), &text(&[stays.clone(), incremental("first", api.port(), "150ms"), second.clone()]));
    bench.wait_until("a round's rhythm is changed", || taken(&bench) == 2);

    replace(bench.path(), &text(&[stays, second]));
    bench.wait_until("a source is removed", || taken(&bench) == 3);
    assert!(bench.log().contains("added=\"\" changed=\"\" removed=\"first\""), "{}", bench.log());
    api.append("first", [json!({"id": 2})]);
    api.append("second", [json!({"id": 2})]);
    bench.wait_until("the others are read on", || bench.number("select count(*) from second") == 2);
    assert_eq!(bench.number("select count(*) from first"), 1);
    assert_eq!(bench.status("first")["configured"], json!(false), "what is left of it is said to be that");
    assert_eq!(bench.status("second")["configured"], json!(true));

    // Whoever stayed has not noticed: one connection, and no round left out for a restart.
    assert_eq!(still.connections(), 1, "{}", bench.log());
    assert_eq!(collector.stop(Signal::TERM, PATIENCE).unwrap().code(), Some(0), "{}", bench.log());
    let longest_ms = bench.number(
        "select cast(1000 * max(gap) as bigint) from (
           select extract(epoch from started_at) - lag(extract(epoch from started_at)) over (order by round) as gap
           from portolan.rounds where name = 'still')",
    );
    assert!(longest_ms < 2_000, "{longest_ms} ms between two rounds\n{}", bench.log());
}

#[test]
fn a_wrong_configuration_changes_nothing_and_is_told_once() {
    let api = Api::start().unwrap();
    api.append("first", [json!({"id": 1})]);
    let right = text(&[incremental("first", api.port(), "100ms")]);
    let bench = Bench::new(&right);
    let mut collector = bench.start(&["run"]);
    bench.wait_for_lake("first");
    let wrong = [
        ("a key that does not exist", right.replace("every", "evry"), "portolan.toml:"),
        ("no TOML", format!("{right}[[source"), "portolan.toml:"),
        ("other settings of the lake", format!("{right}\n[lake]\ninline_rows = 7\n"), "restart the collector"),
        (
            "a secret that is not there",
            right.replace("protocol = \"http\"", "protocol = \"http\"\nauth = { bearer = { env = \"ABSENT\" } }"),
            "ABSENT",
        ),
    ];
    for (index, (what, text, told)) in wrong.iter().enumerate() {
        replace(bench.path(), text);
        bench.wait_until(what, || bench.log().matches("the old configuration stays").count() == index + 1);
        assert!(bench.log().contains(told), "{what}: {}", bench.log());
        // Still collecting, and not told again.
        api.append("first", [json!({"id": index + 2})]);
        bench.wait_until(what, || rows(&bench, "first") == index as i64 + 2);
    }
    std::fs::remove_file(bench.path().join("portolan.toml")).unwrap();
    bench.wait_until("the file is gone", || {
        bench.log().matches("the old configuration stays").count() == wrong.len() + 1
    });
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(bench.log().matches("the old configuration stays").count(), wrong.len() + 1, "{}", bench.log());
    assert_eq!(taken(&bench), 0);
    replace(bench.path(), &right.replace("100ms", "110ms"));
    bench.wait_until("a right one is taken", || taken(&bench) == 1);
    assert_eq!(collector.stop(Signal::TERM, PATIENCE).unwrap().code(), Some(0), "{}", bench.log());
}

#[test]
fn a_hangup_reads_secrets_again() {
    let api = Api::start().unwrap();
    api.append("first", [json!({"id": 1})]);
    let more = "every = \"100ms\"\nauth = { bearer = { file = \"token\" } }";
    let bench = Bench::new(&text(&[source("first", api.port(), "/bearer/plain/first", more)]));
    std::fs::write(bench.path().join("token"), "outdated").unwrap();
    let mut collector = bench.start(&["run"]);
    bench.wait_for_lake("first");
    bench.wait_until("the old token is refused", || bench.status("first")["cause_kind"] == "authentication");
    std::fs::write(bench.path().join("token"), TOKEN).unwrap();
    collector.signal(Signal::HUP).unwrap();
    bench.wait_until("the new token is taken", || bench.status("first")["state"] == "healthy");
    assert_eq!(taken(&bench), 1, "{}", bench.log());
    assert_eq!(collector.stop(Signal::TERM, PATIENCE).unwrap().code(), Some(0), "{}", bench.log());
}

#[test]
fn no_row_is_lost_or_stored_twice_while_everything_changes() {
    let api = Arc::new(Api::start().unwrap());
    let is_over = Arc::new(AtomicBool::new(false));
    let writer = {
        let (api, is_over) = (api.clone(), is_over.clone());
        std::thread::spawn(move || {
            let mut id = 0;
            while !is_over.load(Ordering::Relaxed) {
                for name in ["first", "second"] {
                    api.append(name, (0..20).map(|offset| json!({"id": id + offset})));
                }
                id += 20;
                std::thread::sleep(Duration::from_millis(5));
            }
            id
        })
    };
    let port = api.port();
    let bench = Bench::new(&text(&[incremental("first", port, "20ms"), incremental("second", port, "20ms")]));
    let mut collector = bench.start(&["run"]);
    bench.wait_for_lake("first");
    for turn in 0..8 {
        let every = format!("{}ms", 21 + turn);
        let mut sources = vec![incremental("first", port, &every)];
        if turn % 2 == 0 {
            sources.push(incremental("second", port, "20ms"));
        }
        let together = "[[round]]\nname = \"both\"\nsources = [\"first\", \"second\"]\nevery = \"25ms\"\n";
        let plain = |name: &str| incremental(name, port, "20ms").replace("every = \"20ms\"\n", "");
        if turn == 4 {
            sources = vec![plain("first"), plain("second"), together.to_owned()];
        }
        replace(bench.path(), &text(&sources));
        if turn % 3 == 0 {
            // At once, and every source anew.
            collector.signal(Signal::HUP).unwrap();
        }
        bench.wait_until("the change is taken", || taken(&bench) > turn);
    }
    replace(bench.path(), &text(&[incremental("first", port, "20ms"), incremental("second", port, "20ms")]));
    is_over.store(true, Ordering::Relaxed);
    let ids = writer.join().unwrap();
    for name in ["first", "second"] {
        bench.wait_until("every row is there", || bench.number(&format!("select count(*) from {name}")) >= ids);
        let sql = format!("select count(*) - {ids} + count(distinct id) - {ids} + max(id) - {ids} + 1 from {name}");
        assert_eq!(
            bench.number(&sql),
            0,
            "{name} of {ids}: {:?}",
            bench.query(&format!("select count(*), count(distinct id), max(id) from {name}"))
        );
    }
    assert_eq!(collector.stop(Signal::TERM, PATIENCE).unwrap().code(), Some(0), "{}", bench.log());
}
