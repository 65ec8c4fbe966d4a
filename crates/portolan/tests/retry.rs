//! `quarantine retry` after the configuration was corrected: broken, corrected, tried again, compared, and stored once.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use std::io::Write;
use std::net::TcpStream;

use portolan_testkit::process::{Signal, free_port};
use portolan_testkit::servers::PureFtpd;
use serde_json::{Value, json};
use support::{Bench, PATIENCE};

fn configure(bench: &Bench, text: &str) {
    std::fs::write(bench.path().join("portolan.toml"), text).unwrap();
}

/// Items that no retry has stored, as reason and content.
fn waiting(bench: &Bench) -> Vec<(String, String)> {
    let list = bench.json(&["quarantine", "list", "--json"]);
    let items = list["items"].as_array().unwrap().iter().filter(|item| item["retried_in"].is_null());
    let text = |item: &Value, name: &str| item[name].as_str().unwrap().to_owned();
    items.map(|item| (text(item, "reason"), text(item, "content"))).collect()
}

fn retry(bench: &Bench, source: &str) -> Value {
    bench.json(&["quarantine", "retry", "--json"])["sources"][source].clone()
}

#[test]
fn rows_of_csv_files_are_read_again_by_the_corrected_delimiter() {
    let server = PureFtpd::start().unwrap();
    let text = |keys: &str| {
        let address = server.address();
        format!(
            "[[source]]\nname = \"files\"\nhost = \"{}\"\nport = {}\nprotocol = \"ftp\"\npath = \"/out/*\"\nuser = \"{}\"\n\
             password = {{ literal = \"{}\" }}\ntls = {{ allow_plaintext = \"test\" }}\n{keys}",
            address.ip(),
            address.port(),
            server.user,
            server.password
        )
    };
    server.write("out/a.csv", "id;name\r\n1;\"a,b\"\r\n2;c\r\n3;\"d\"\"e,f;g\"\r\n4;h;i,j\r\n").unwrap();
    server.write("out/b.ndjson", "{\"id\": \"9\"}\nno JSON\n").unwrap();
    server.write("out/c.csv", b"id;name\n5;\xff,x\n").unwrap();
    let bench = Bench::new(&text(""));
    bench.text(&["fetch", "--save"]);
    let row = |reason: &str, content: &str| (reason.to_owned(), content.to_owned());
    let all = [
        row("row_wrong_length", "1;\"a,b\""),
        row("row_wrong_length", "3;\"d\"\"e,f;g\""),
        row("row_wrong_length", "4;h;i,j"),
        row("row_not_json", "no JSON"),
        row("row_wrong_length", "5;\\xff,x"),
    ];
    assert_eq!(waiting(&bench), all);
    let before = retry(&bench, "files");
    assert_eq!((&before["retried_items"], &before["unfit_total"]), (&json!(0), &json!(5)), "{before}");

    configure(&bench, &text("delimiter = \";\"\n"));
    let outcome = retry(&bench, "files");
    assert_eq!(
        (&outcome["stored_rows"], &outcome["unfit_total"], &outcome["unable"]),
        (&json!(2), &json!(3), &json!(0))
    );
    let stored = bench.query("select id, name, _file from files where name is not null order by id");
    assert_eq!(
        stored,
        [
            json!({ "id": "1", "name": "a,b", "_file": "/out/a.csv" }),
            json!({ "id": "3", "name": "d\"e,f;g", "_file": "/out/a.csv" })
        ]
    );
    assert_eq!(waiting(&bench), all[2..]);
    let again = retry(&bench, "files");
    assert_eq!((&again["retried_items"], &again["unfit_total"]), (&json!(0), &json!(3)), "{again}");
    assert_eq!(bench.number("select count(*) from files where name is not null"), 2);
    // What is appended is read by the same settings, and what was read is not read again.
    server.append("out/a.csv", "6;k\r\n").unwrap();
    bench.text(&["fetch", "--save"]);
    assert_eq!(bench.number("select count(*) from files where name is not null"), 3);
    assert_eq!(bench.json(&["verify", "--json"])["sound"], true);
}

#[test]
fn messages_are_read_again_as_what_they_are() {
    let port = free_port().unwrap();
    let text = |keys: &str| {
        format!(
            "[[source]]\nname = \"devices\"\nhost = \"127.0.0.1\"\nport = {port}\nprotocol = \"tcp\"\nlisten = true\n\
             origin = true\nevery = \"100ms\"\ntls = {{ allow_plaintext = \"test\" }}\n{keys}"
        )
    };
    let bench = Bench::new(&text(""));
    let messages: [&[u8]; 6] = [
        b"{\"number\": \"1\"}",
        b"2,beta",
        b"3,\"open",
        b"4,\"ga,mma\"",
        b"plain \xe9",
        b"a literal \\xff in it,\\xfe",
    ];
    {
        let mut collector = bench.start(&["run"]);
        bench.wait_for_lake("devices");
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(&[messages.join(&b'\n'), b"\n".to_vec()].concat()).unwrap();
        drop(stream);
        bench.wait_until("all is in the quarantine", || waiting(&bench).len() == 5);
        collector.signal(Signal::TERM).unwrap();
        collector.wait(PATIENCE).unwrap();
    }
    assert!(waiting(&bench).iter().all(|(reason, _)| reason == "row_not_json"));

    configure(&bench, &text("format = \"csv\"\nfields = [\"number\", \"word\"]\n"));
    let outcome = retry(&bench, "devices");
    assert_eq!((&outcome["stored_rows"], &outcome["unfit_total"]), (&json!(3), &json!(2)), "{outcome}");
    let words = bench.query("select number, word from devices where word is not null order by number");
    assert_eq!(
        words,
        [
            json!({ "number": "2", "word": "beta" }),
            json!({ "number": "4", "word": "ga,mma" }),
            json!({ "number": "a literal \\xff in it", "word": "\\xfe" })
        ]
    );
    // Who sent them, and when, is known of them as of the others.
    assert_eq!(bench.number("select count(*) from devices where peer is null or received_at is null"), 0);

    configure(&bench, &text("format = \"binary\"\n"));
    let outcome = retry(&bench, "devices");
    assert_eq!((&outcome["stored_rows"], &outcome["unfit_total"]), (&json!(2), &json!(0)), "{outcome}");
    let values =
        bench.query("select encode(value, 'hex') as value from devices where value is not null order by value");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(values, [json!({ "value": hex(messages[2]) }), json!({ "value": hex(messages[4]) })]);
    assert_eq!(waiting(&bench), []);
    let again = bench.json(&["quarantine", "retry", "--json"]);
    assert_eq!(again["sources"], json!({}), "{again}");
    assert_eq!(bench.number("select count(*) from devices"), 6);
    assert_eq!(bench.json(&["verify", "--json"])["sound"], true);
}
