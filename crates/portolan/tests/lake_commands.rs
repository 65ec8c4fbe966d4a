//! `verify`, `lake …` and `quarantine …` as a user runs them, over lakes that the program itself has made.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use std::path::PathBuf;

use portolan_lake::{Lake, LakeReader, QuarantineFilter};
use portolan_model::SourceName;
use portolan_model::catalog::{Catalog, TableSpec, WriteMode};
use portolan_model::clock::SystemClock;
use portolan_model::config::LakeSpec;
use portolan_model::round::{Receipt, ReceiptVerdict, RoundRecord, RoundVerdict};
use portolan_model::source::QuarantineItem;
use portolan_testkit::api::Api;
use serde_json::{Value, json};
use support::Bench;

fn configuration(port: u16, options: &str) -> String {
    format!(
        "[server]\nhost = \"127.0.0.1\"\n[lake]\ninline_rows = 5\n[[source]]\nname = \"items\"\nport = {port}\nprotocol = \"http\"\n\
         path = \"/ndjson/items\"\nevery = \"100ms\"\ncursor = {{ parameter = \"since\", column = \"id\" }}\n{options}\
         tls = {{ allow_plaintext = \"test\" }}\n"
    )
}

/// A lake with `rounds` rounds of three rows and one of ten, which is a file.
fn collected(rounds: i64, options: &str) -> (Bench, Api) {
    let api = Api::start().unwrap();
    let bench = Bench::new(&configuration(api.port(), options));
    for round in 0..rounds {
        api.append("items", (0..3).map(|i| json!({ "id": round * 100 + i, "name": format!("n{i}"), "price": 1.5 })));
        bench.text(&["fetch", "--save"]);
    }
    api.append("items", (0..10).map(|i| json!({ "id": rounds * 100 + i, "name": "many", "price": 2 })));
    bench.text(&["fetch", "--save"]);
    (bench, api)
}

/// Ends with `code`; standard output and standard error.
fn ends_with(bench: &Bench, words: &[&str], code: i32) -> (String, String) {
    let output = bench.run(words);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{words:?}:\n{out}\n{err}");
    (out, err)
}

fn parquet_files(bench: &Bench) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(bench.lake().join("data/main/items")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_lake_is_proved_maintained_and_checked_by_hand() {
    let (bench, _api) = collected(4, "");
    let report = bench.json(&["verify", "--json"]);
    assert_eq!(
        (&report["sound"], &report["rounds"], &report["rows"]),
        (&json!(true), &json!(5), &json!(22)),
        "{report}"
    );
    let (text, errors) = ends_with(&bench, &["verify"], 0);
    assert!(text.contains("payload digests: not re-computable, payloads are not kept (5 receipts have one)"), "{text}");
    assert!(text.contains("nothing is damaged"), "{text}");
    assert_eq!(errors, "", "no bar where no terminal is");
    assert_eq!(bench.json(&["verify", "--round", "2", "--json"])["rows"], 3);
    assert_eq!(bench.json(&["verify", "--since", "4", "--table", "items", "--json"])["rows"], 13);
    let (_, errors) = ends_with(&bench, &["verify", "--round", "99"], 5);
    assert!(errors.contains("the lake has no round 99") && errors.contains("rounds 1 to 5"), "{errors}");
    let (_, errors) = ends_with(&bench, &["verify", "--since", "99"], 5);
    assert!(errors.contains("its last is round 5") && errors.contains("next:"), "{errors}");
    let (_, errors) = ends_with(&bench, &["verify", "--since", "noon"], 2);
    assert!(errors.contains("neither"), "{errors}");
    let (_, errors) = ends_with(&bench, &["verify", "--table", "item"], 5);
    assert!(errors.contains("items"), "{errors}");

    let table = |stats: &Value| {
        stats["tables"].as_array().unwrap().iter().find(|table| table["table"] == "items").unwrap().clone()
    };
    let stats = bench.json(&["lake", "stats", "--json"]);
    let items = table(&stats);
    assert_eq!((&items["rows"], &items["files"], &items["inlined_rows"]), (&json!(22), &json!(1), &json!(12)));
    assert_eq!((&stats["oldest_round"], &stats["newest_round"]), (&json!(1), &json!(5)));
    assert!(bench.text(&["lake", "stats"]).contains("portolan.receipts"));

    let flushed = bench.json(&["lake", "flush", "--table", "items", "--json"]);
    assert_eq!((&flushed["flushed_rows"], &flushed["settled_rows"]), (&json!(12), &json!(12)));
    assert_eq!(table(&bench.json(&["lake", "stats", "--json"]))["inlined_rows"], 0);
    let (_, errors) = ends_with(&bench, &["lake", "merge", "--table", "nosuch"], 5);
    assert!(errors.contains("main.items"), "{errors}");
    assert!(bench.text(&["lake", "merge"]).starts_with("nothing to do"));
    let expired = bench.json(&["lake", "expire", "--keep", "0s", "--json"]);
    assert!(expired["expired_snapshots"].as_i64().unwrap() > 4, "{expired}");
    assert_eq!(bench.json(&["lake", "stats", "--json"])["snapshots"], 1);
    assert_eq!(bench.json(&["verify", "--json"])["rows"], 22);
    let report = bench.json(&["lake", "fsck", "--json"]);
    assert_eq!((&report["sound"], &report["findings"]), (&json!(true), &json!([])), "{report}");
    assert!(bench.text(&["lake", "fsck"]).contains("nothing found"));
    assert_eq!(bench.number("select count(*) from items"), 22);

    // Damage, and what is said of it.
    let victim = parquet_files(&bench).into_iter().next().unwrap();
    let name = victim.file_name().unwrap().to_str().unwrap().to_owned();
    std::fs::remove_file(&victim).unwrap();
    let (text, _) = ends_with(&bench, &["verify"], 8);
    assert!(
        text.contains("DAMAGED") && text.contains(&name) && text.contains("next: restore each DAMAGED file"),
        "{text}"
    );
    assert!(text.contains("next: portolan lake fsck") && text.contains("DAMAGE: 1 damaged file\n"), "{text}");
    let (text, _) = ends_with(&bench, &["lake", "fsck"], 8);
    assert!(text.contains("error file_missing") && text.contains(&name) && text.contains("next:"), "{text}");
    let (text, _) = ends_with(&bench, &["verify", "--json"], 8);
    let report: Value = serde_json::from_str(&text).unwrap();
    // The rounds whose rows it held are named with the file, and are no findings of their own.
    let file = &report["damaged_files"][0];
    assert!(file["path"].as_str().unwrap().contains(&name), "{report}");
    assert!(file["rounds"].as_u64().unwrap() > 0 && file["first_round"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(report["mismatches"], json!([]), "{report}");
}

#[test]
fn a_head_is_printed_and_taken_back() {
    let (bench, _api) = collected(4, "");
    let head = bench.text(&["verify", "--head"]);
    assert!(head.starts_with("portolan-head-1 5 ") && head.lines().count() == 1, "{head}");
    let file = bench.lake().with_file_name("lake.head");
    std::fs::write(&file, &head).unwrap();
    let at_file = format!("@{}", file.display());
    let (text, _) = ends_with(&bench, &["verify", "--head", &at_file], 0);
    assert!(
        text.contains("heads kept outside: 1 is in the chain; the digests of the files are those that it knows"),
        "{text}"
    );
    assert!(text.contains(&format!("head: {}", head.trim())), "{text}");
    let report = bench.json(&["verify", "--json", "--head", head.trim(), "--head", &at_file]);
    assert_eq!((&report["chain"]["rounds"], &report["chain"]["heads"]), (&json!(5), &json!(2)), "{report}");
    assert_eq!(report["chain"]["head"], head.trim());
    for since in [at_file.as_str(), head.trim()] {
        assert_eq!(bench.json(&["verify", "--json", "--since", since])["rows"], 0);
    }
    assert_eq!(bench.json(&["verify", "--json", "--full"])["rows"], 22);

    let digest = head.split_whitespace().nth(4).unwrap();
    let other = head.trim().replace(digest, &"0".repeat(64));
    let (text, _) = ends_with(&bench, &["verify", "--head", &other], 8);
    assert!(text.contains("MISMATCH round 5") && text.contains("this is another lake"), "{text}");
    let (_, errors) = ends_with(&bench, &["verify", "--head", "portolan-head-2 1"], 2);
    assert!(errors.contains("six words") && errors.contains("next:"), "{errors}");
    let (_, errors) = ends_with(&bench, &["verify", "--head", "@nowhere.head"], 2);
    assert!(errors.contains("nowhere.head"), "{errors}");
    ends_with(&bench, &["verify", "--head", &at_file, "--table", "items"], 2);
    // What a file or a variable gives that is not there is no head, and nothing is proved by it.
    for words in [&["verify", "--head", ""][..], &["verify", "--head", " \n", "--full"], &["verify", "--since", "@"]] {
        ends_with(&bench, words, 2);
    }
    let (_, errors) = ends_with(&bench, &["verify", "--head", ""], 2);
    assert!(errors.contains("a head is empty") && errors.contains("next:"), "{errors}");
    // To print it and to verify are two things.
    let (text, told) = ends_with(&bench, &["verify", "--head"], 0);
    assert!(text == head && told.contains("nothing was verified"), "{text} {told}");
    for other in [
        &["--full"][..],
        &["--json"],
        &["--since", "1"],
        &["--round", "1"],
        &["--table", "items"],
        &["--head", &at_file],
    ] {
        let (_, errors) = ends_with(&bench, &[&["verify", "--head"], other].concat(), 2);
        assert!(errors.contains("prints the head of the chain, and verifies nothing"), "{other:?}: {errors}");
    }
}

#[test]
fn while_a_collector_runs_one_looks_and_does_not_touch() {
    let api = Api::start().unwrap();
    let bench = Bench::new(&configuration(api.port(), ""));
    api.append("items", (0..3).map(|id| json!({ "id": id })));
    let collector = bench.start(&["run"]);
    bench.wait_for_lake("items");
    bench.wait_until("rows are stored", || bench.json(&["verify", "--json"])["rows"] == 3);
    for words in [&["lake", "flush"][..], &["lake", "merge"], &["lake", "expire"], &["quarantine", "retry"]] {
        let (_, errors) = ends_with(&bench, words, 5);
        let next = format!("stop that one first: kill {}", collector.id());
        assert!(errors.contains(&format!("process {}", collector.id())) && errors.contains(&next), "{errors}");
    }
    for round in 1..8 {
        api.append("items", (0..20).map(|i| json!({ "id": round * 100 + i })));
        assert_eq!(bench.json(&["verify", "--json"])["sound"], true);
        assert_eq!(bench.json(&["lake", "fsck", "--json"])["sound"], true);
        bench.text(&["lake", "stats"]);
    }
}

#[test]
fn a_lake_that_is_not_there_is_not_made() {
    let bench = Bench::new(&configuration(1, ""));
    for words in [
        &["verify"][..],
        &["lake", "stats"],
        &["lake", "flush"],
        &["lake", "expire", "--keep", "1d"],
        &["lake", "fsck"],
        &["quarantine", "list"],
        &["quarantine", "retry"],
    ] {
        let (_, errors) = ends_with(&bench, words, 5);
        assert!(errors.contains("is not a lake") && errors.contains("next:"), "{words:?}: {errors}");
    }
    assert!(!bench.lake().exists());
}

/// Puts whole rows into the quarantine, as a source does that cannot read them.
fn quarantine(bench: &Bench, contents: &[&str]) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let spec = LakeSpec { path: bench.lake(), ..LakeSpec::default() };
        let lake = Lake::open(&spec, std::sync::Arc::new(SystemClock::new())).unwrap();
        let source = SourceName::new("items").unwrap();
        let mut staging = lake.begin().await.unwrap();
        let now = jiff::Timestamp::now();
        let spec = TableSpec {
            source: source.clone(),
            mode: WriteMode::Append,
            key: Vec::new(),
            key_memory: 10,
            time: now,
            event_time: None,
            watermark: None,
        };
        let mut table = staging.table(spec).unwrap();
        for (row, content) in contents.iter().enumerate() {
            let item = QuarantineItem {
                reason: "row_not_json",
                column: None,
                row: json!(row + 1),
                content: (*content).to_owned(),
                detail: "line is not JSON".to_owned(),
            };
            table.quarantine(item).await.unwrap();
        }
        table.finish().await.unwrap();
        let record = RoundRecord {
            name: portolan_model::RoundName::new("items").unwrap(),
            verdict: RoundVerdict::Complete,
            started_at: now,
            duration_us: 1,
            release_spread_us: None,
            skew_bound_us: None,
            consistency: Default::default(),
            receipts: vec![Receipt::new(source, ReceiptVerdict::Ok)],
            checks: Vec::new(),
        };
        staging.commit(record, &[]).await.unwrap();
        lake.close().await.unwrap();
    });
}

#[test]
fn what_did_not_fit_is_listed_shown_and_tried_again_once() {
    let (bench, _api) = collected(1, "columns = { price = \"int32\" }\n");
    let list = bench.json(&["quarantine", "list", "--json"]);
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.len(), 3, "{list}");
    assert_eq!((&items[0]["reason"], &items[0]["column"]), (&json!("value_not_exact"), &json!("price")));
    assert_eq!(items[0]["content"], "1.5");
    let id = items[0]["id"].to_string();
    let text = bench.text(&["quarantine", "show", &id]);
    assert!(text.contains("1.5") && text.contains("next: its row is stored, with NULL in `price`"), "{text}");
    let (_, errors) = ends_with(&bench, &["quarantine", "show", "999"], 5);
    assert!(errors.contains("quarantine list"), "{errors}");

    quarantine(
        &bench,
        &["{\"id\": 7001, \"name\": \"late\", \"price\": 4}", "{\"id\": 7002, \"price\": 0.5}", "no JSON at all"],
    );
    let rows = bench.json(&["quarantine", "list", "--reason", "row_not_json", "--json"]);
    assert_eq!(rows["items"].as_array().unwrap().len(), 3);
    assert!(bench.text(&["quarantine", "list", "--since", "3"]).contains("3 items"));
    assert!(bench.text(&["quarantine", "list", "--source", "other"]).contains("0 items"));
    assert!(bench.text(&["quarantine", "list", "--rows", "1"]).contains("6 items, 5 of them not shown"));

    let (text, _) = ends_with(&bench, &["quarantine", "retry"], 0);
    assert!(text.contains("2 items retried: 2 rows stored"), "{text}");
    assert!(text.contains("1 values of them went to the quarantine anew"), "{text}");
    assert!(
        text.contains("still does not fit: line 1 is not JSON") && text.contains("3 single values are left"),
        "{text}"
    );
    assert_eq!(bench.number("select count(*) from items where id > 7000"), 2);
    assert_eq!(bench.number("select price from items where id = 7001"), 4);
    assert_eq!(bench.status("items")["rows_total"], 15);
    let again = bench.json(&["quarantine", "retry", "--json"]);
    assert_eq!(again["sources"]["items"]["retried_items"], 0, "{again}");
    assert_eq!(bench.number("select count(*) from items where id > 7000"), 2, "rows were stored twice");
    // The round of the retry is one like any other.
    let report = bench.json(&["verify", "--json"]);
    assert_eq!((&report["sound"], &report["rows"]), (&json!(true), &json!(15)), "{report}");
    let retried = bench.json(&["quarantine", "list", "--reason", "row_not_json", "--json"]);
    let marked = retried["items"].as_array().unwrap().iter().filter(|item| item["retried_in"].is_i64()).count();
    assert_eq!(marked, 2, "{retried}");
    assert_eq!(bench.number("select count(*) from portolan.rounds where name = 'retry'"), 1);
}

#[test]
fn no_two_commits_retry_one_item() {
    let (bench, _api) = collected(1, "columns = { price = \"int32\" }\n");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let spec = LakeSpec { path: bench.lake(), ..LakeSpec::default() };
        let lake = Lake::open(&spec, std::sync::Arc::new(SystemClock::new())).unwrap();
        let mut ids = Vec::new();
        let reader = LakeReader::open(&bench.lake()).unwrap();
        let all = QuarantineFilter::default();
        reader
            .quarantine(&all, &mut |item| {
                Ok({
                    ids.push(item.id);
                    true
                })
            })
            .unwrap();
        let record = || RoundRecord {
            name: portolan_model::RoundName::new("retry").unwrap(),
            verdict: RoundVerdict::Complete,
            started_at: jiff::Timestamp::now(),
            duration_us: 1,
            release_spread_us: None,
            skew_bound_us: None,
            consistency: Default::default(),
            receipts: Vec::new(),
            checks: Vec::new(),
        };
        lake.begin_retry(ids[..2].to_vec()).commit(record(), &[]).await.unwrap();
        let before = reader.last_round().unwrap();
        let error = lake.begin_retry(ids[1..].to_vec()).commit(record(), &[]).await.unwrap_err();
        assert_eq!(error.kind(), portolan_model::ErrorKind::Conflict);
        assert_eq!(reader.last_round().unwrap(), before, "something of the second was stored");
        let mut marked = 0;
        reader
            .quarantine(&all, &mut |item| {
                Ok({
                    marked += usize::from(item.retried_in.is_some());
                    true
                })
            })
            .unwrap();
        assert_eq!((ids.len(), marked), (3, 2));
    });
}

#[test]
fn every_command_has_help_with_examples_and_a_page() {
    let bench = Bench::new("");
    for words in [
        "verify",
        "lake",
        "lake stats",
        "lake flush",
        "lake merge",
        "lake expire",
        "lake fsck",
        "quarantine",
        "quarantine list",
        "quarantine show",
        "quarantine retry",
    ] {
        let mut arguments: Vec<&str> = words.split(' ').collect();
        arguments.push("--help");
        let help = bench.text(&arguments);
        assert!(help.contains("Example"), "{words}: {help}");
        assert!(help.contains(&format!("portolan {words}")), "{words}: {help}");
    }
    bench.text(&["man", "pages"]);
    for page in ["portolan-verify", "portolan-lake-fsck", "portolan-quarantine-retry"] {
        assert!(bench.path().join("pages").join(page).with_extension("1").is_file(), "{page}");
    }
}

#[test]
fn rounds_are_listed_and_drawn() {
    let (bench, _api) = collected(3, "");
    let numbers = |words: &[&str]| -> Vec<i64> {
        let document = bench.json(words);
        document["rounds"].as_array().unwrap().iter().map(|round| round["round"].as_i64().unwrap()).collect()
    };
    assert_eq!(numbers(&["rounds", "--json"]), [4, 3, 2, 1]);
    assert_eq!(numbers(&["rounds", "--limit", "2", "--json"]), [4, 3]);
    assert_eq!(numbers(&["rounds", "--since", "3", "--json"]), [4, 3]);
    assert_eq!(numbers(&["rounds", "--since", "2000-01-01T00:00:00Z", "--json"]), [4, 3, 2, 1]);
    assert_eq!(numbers(&["rounds", "--since", "2999-01-01T00:00:00Z", "--json"]), [0_i64; 0]);
    assert_eq!(numbers(&["rounds", "--name", "nosuch", "--json"]), [0_i64; 0]);
    assert!(bench.text(&["rounds"]).contains("items"));

    let round = bench.json(&["rounds", "show", "4", "--json"]);
    assert_eq!((&round["rows"], &round["receipts"][0]["source"]), (&json!(10), &json!("items")), "{round}");
    bench.text(&["lake", "flush"]);
    bench.text(&["lake", "expire", "--keep", "0s"]);
    assert_eq!(bench.json(&["rounds", "show", "4", "--json"]), round, "flushed and expired, it says the same");
    assert_eq!(numbers(&["rounds", "--json"]), [4, 3, 2, 1]);
    assert!(bench.text(&["rounds", "show", "4"]).contains("skew bound"));
    bench.text(&["rounds", "show", "4", "--svg", "round.svg"]);
    let drawn = std::fs::read_to_string(bench.path().join("round.svg")).unwrap();
    assert_eq!(bench.text(&["rounds", "show", "4", "--svg", "-"]), drawn);
    let (_, errors) = ends_with(&bench, &["rounds", "show", "99"], 5);
    assert!(errors.contains("no round 99") && errors.contains("1 to 4"), "{errors}");
}
