//! Checks by the binary: what `fetch`, `run`, `check`, `query` and `rounds` make of them.

#![cfg(feature = "sql")]
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use portolan_testkit::api::Api;
use portolan_testkit::process::Signal;
use serde_json::{Value, json};
use support::{Bench, PATIENCE};

/// Two collections of one API: orders are added to, each once; customers are replaced, where they have changed.
fn configuration(api: &Api, checks: &str) -> String {
    let source = |name: &str, more: &str| {
        format!(
            "[[source]]\nname = \"{name}\"\nport = {}\nprotocol = \"http\"\npath = \"/plain/{name}\"\n{more}\n\
             tls = {{ allow_plaintext = \"test on loopback\" }}\n",
            api.port()
        )
    };
    format!(
        "[server]\nhost = \"127.0.0.1\"\n{}{}[[round]]\nname = \"both\"\nsources = [\"orders\", \"customers\"]\n\
         every = \"50ms\"\n{checks}",
        source("orders", "key = [\"id\"]\netag = false"),
        source("customers", "mode = \"replace\"")
    )
}

fn world(checks: &str) -> (Api, Bench) {
    let api = Api::start().unwrap();
    api.append("orders", [json!({"id": 1, "customer": 7, "amount": 5}), json!({"id": 2, "customer": 8, "amount": -1})]);
    api.append("customers", [json!({"id": 7}), json!({"id": 8})]);
    let bench = Bench::new(&configuration(&api, checks));
    (api, bench)
}

const AMOUNTS: &str = "[[check]]\nname = \"no debts\"\nsource = \"orders\"\nrange = { column = \"amount\", min = 0 }\n";

fn shown(bench: &Bench, round: i64) -> Value {
    bench.json(&["rounds", "show", &round.to_string(), "--json"])
}

#[test]
fn a_warning_is_shown_and_all_rows_are_stored() {
    let (_api, bench) = world(AMOUNTS);
    let output = bench.run(&["fetch", "--save"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("warn: check `no debts` does not hold: 1 of 2 rows fail: row 1 (amount = -1)"), "{told}");
    assert_eq!(bench.number("select count(*) as n from orders"), 2);
    let checks = bench.query("select name, kind, outcome, on_failure, failing_rows, snapshot_id from portolan.checks");
    let expected = json!({"name": "no debts", "kind": "range", "outcome": "failed", "on_failure": "warn", "failing_rows": 1, "snapshot_id": null});
    assert_eq!(checks, [expected]);
    let list = bench.text(&["rounds"]);
    assert!(list.contains("0/1, 1 failed"), "{list}");
    let text = bench.text(&["rounds", "show", "1"]);
    assert!(text.contains("check no debts: failed → warn (1 of 2 rows fail"), "{text}");
    assert!(bench.text(&["rounds", "show", "1", "--svg", "-"]).contains("check no debts: failed"));
    assert_eq!(shown(&bench, 1)["checks"][0]["outcome"], "failed");
    // Without `--save` nobody is asked.
    assert_eq!(bench.run(&["fetch"]).status.code(), Some(0));
}

#[test]
fn what_fails_goes_to_the_quarantine_whole() {
    let checks = format!("{AMOUNTS}on_failure = \"quarantine\"\n");
    let (api, bench) = world(&checks);
    bench.text(&["fetch", "--save"]);
    assert_eq!(bench.query("select id from orders"), [json!({"id": 1})]);
    let kept = bench.query("select source, reason, content, detail from portolan.quarantine");
    assert_eq!(kept[0]["content"], r#"{"amount":-1,"customer":8,"id":2}"#);
    assert_eq!(kept[0]["detail"], "check `no debts` not kept");
    assert_eq!((kept.len(), &kept[0]["source"], &kept[0]["reason"]), (1, &json!("orders"), &json!("check")));
    let receipt = bench.query("select rows, quarantined from portolan.receipts where source = 'orders'");
    assert_eq!(receipt, [json!({"rows": 1, "quarantined": 1})]);
    bench.text(&["verify"]);
    // A retry does not lead round the check.
    let retried = bench.json(&["quarantine", "retry", "--json"]);
    assert!(retried.to_string().contains("a check has withheld it"), "{retried}");
    assert_eq!(bench.number("select count(*) as n from orders"), 1);
    // Its key is not remembered: what comes corrected is stored.
    api.append("orders", [json!({"id": 3, "customer": 7, "amount": 9})]);
    bench.text(&["fetch", "--save"]);
    assert_eq!(bench.number("select count(*) as n from orders"), 2);
    bench.text(&["lake", "fsck"]);
}

#[test]
fn what_was_withheld_from_a_replaced_table_comes_back_though_the_server_has_not_changed() {
    let check = "[[check]]\nname = \"small\"\nsource = \"customers\"\nrange = { column = \"id\", max = 7 }\n\
                 on_failure = \"quarantine\"\n";
    let (_api, bench) = world(check);
    for _ in 0..2 {
        bench.text(&["fetch", "--save"]);
        assert_eq!(bench.query("select id from customers"), [json!({"id": 7})]);
    }
    let file = bench.path().join("portolan.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("max = 7", "max = 8")).unwrap();
    bench.text(&["fetch", "--save"]);
    assert_eq!(bench.number("select count(*) as n from customers"), 2);
    // Nothing withheld, nothing new: the server may say so again.
    bench.text(&["fetch", "--save"]);
    let last = "select verdict from portolan.receipts where source = 'customers' order by round desc limit 1";
    assert_eq!(bench.query(last), [json!({"verdict": "unchanged"})]);
}

#[test]
fn a_rejected_round_is_told_and_read_again() {
    let checks = "[[check]]\nname = \"three\"\nround = \"both\"\non_failure = \"reject\"\n\
                  sql = \"select count(*) >= 3 from orders\"\n";
    let (api, bench) = world(checks);
    let output = bench.run(&["fetch", "--save"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(9), "{told}");
    assert!(
        told.contains("reject: check `three` does not hold") && told.contains("rejected: no rows are stored"),
        "{told}"
    );
    let rounds = bench.query("select verdict, reason from portolan.rounds");
    assert_eq!(rounds, [json!({"verdict": "rejected", "reason": "check `three` does not hold: the answer is false"})]);
    assert_eq!(bench.query("select source, position_after from portolan.receipts where rows > 0"), [] as [Value; 0]);
    api.append("orders", [json!({"id": 3, "customer": 7, "amount": 9})]);
    assert_eq!(bench.run(&["fetch", "--save"]).status.code(), Some(0));
    assert_eq!(bench.number("select count(*) as n from orders"), 3);
}

#[test]
fn ports_are_compared_also_where_one_has_not_changed() {
    let checks = "[[check]]\nname = \"customers known\"\nsource = \"orders\"\non_failure = \"quarantine\"\n\
                  foreign_key = { columns = [\"customer\"], references = { source = \"customers\", columns = [\"id\"] } }\nin = \"round\"\n\
                  [[check]]\nname = \"once\"\nsource = \"orders\"\nunique = [\"id\"]\nin = \"lake\"\n";
    let (api, bench) = world(checks);
    let mut collector = bench.start(&["run"]);
    bench.wait_for_lake("orders");
    bench.wait_until("customers prove that they are unchanged", || {
        bench.number("select count(*) as n from portolan.receipts where source = 'customers' and verdict = 'unchanged'")
            > 2
    });
    api.append("orders", [json!({"id": 3, "customer": 99, "amount": 1})]);
    bench.wait_until("the order of nobody is withheld", || {
        bench.number("select count(*) as n from portolan.quarantine where content like '%99%'") > 0
    });
    api.append("customers", [json!({"id": 99})]);
    bench.wait_until("its customer has come", || bench.number("select count(*) as n from orders") == 3);
    // A check is changed while it runs.
    let file = bench.path().join("portolan.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("customers known", "customers are known")).unwrap();
    bench.wait_until("the changed check is asked", || {
        bench.number("select count(*) as n from portolan.checks where name = 'customers are known'") > 0
    });
    // One that is wrong changes nothing.
    std::fs::write(&file, format!("{text}[[check]]\nname = \"bad\"\nsource = \"orders\"\nsql = \"selec\"\n")).unwrap();
    bench.wait_until("the wrong check is told", || bench.log().contains("check `bad`"));
    collector.stop(Signal::TERM, PATIENCE).unwrap();
    std::fs::write(&file, text).unwrap();
    assert!(bench.log().contains("customers known") && bench.log().contains("rows fail"), "{}", bench.log());
    assert_eq!(bench.number("select count(*) as n from portolan.checks where outcome = 'error'"), 0);
    assert_eq!(
        bench.number("select count(*) as n from portolan.checks where name = 'once' and snapshot_id is null"),
        0
    );
    bench.text(&["verify"]);
}

#[test]
fn the_configuration_is_planned_where_the_lake_has_the_tables() {
    let checks = "[[check]]\nname = \"planned\"\nsource = \"orders\"\nsql = \"select count(*) = 0 from orders where amuont < 0\"\n";
    let (_api, bench) = world(checks);
    let text = bench.text(&["check"]);
    assert!(text.contains("1 check, nothing wrong"), "nothing is known of the columns yet: {text}");
    bench.text(&["fetch", "--save"]);
    let output = bench.run(&["check"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2));
    assert!(told.contains("portolan.toml:") && told.contains("amuont") && told.contains("amount"), "{told}");
    let result = bench.query("select outcome, detail from portolan.checks");
    assert_eq!(result[0]["outcome"], "error");
}

/// Every kind of check, over tables that are there, as the guide has them.
#[test]
fn what_can_hold_is_planned_without_a_finding() {
    let of_orders = [
        "sql = \"select count(*) >= (select count(*) from before.orders) from after.orders\"",
        "rows = \"select _row from orders where amount < 0\"",
        "unique = [\"id\"]",
        "unique = [\"id\"]\nin = \"lake\"",
        "not_null = [\"id\", \"customer\"]",
        "range = { column = \"amount\", min = 0, max = 10 }",
        "range = { column = \"day\", min = \"2026-01-01\" }",
        "row_count = { equals = \"customers\" }",
        "sum = { column = \"amount\", equals = { source = \"customers\", column = \"total\" } }",
        "foreign_key = { columns = [\"customer\"], references = { source = \"customers\", columns = [\"id\"] } }",
        "freshness = { column = \"day\", max_age = \"1h\" }",
    ];
    let checks = of_orders
        .iter()
        .enumerate()
        .map(|(number, kind)| format!("[[check]]\nname = \"number {number}\"\nsource = \"orders\"\n{kind}\n"));
    let api = Api::start().unwrap();
    api.append("orders", [json!({"id": 1, "customer": 7, "amount": 5, "day": "2026-02-03"})]);
    api.append("customers", [json!({"id": 7, "total": 5})]);
    let typed = "etag = false\ncolumns = { day = \"date\" }";
    let bench = Bench::new(&configuration(&api, &checks.collect::<String>()).replace("etag = false", typed));
    bench.text(&["fetch", "--save"]);
    assert_eq!(bench.number("select count(*) as n from portolan.checks where outcome = 'error'"), 0);
    let text = bench.text(&["check"]);
    assert!(text.contains("11 checks, nothing wrong"), "{text}");
}

#[test]
fn what_is_no_answer_is_planned_too() {
    let check = |name: &str, more: &str| format!("[[check]]\nname = \"{name}\"\nsource = \"orders\"\n{more}\n");
    let wrong = [
        check("misspelt", "unique = [\"idd\"]"),
        check("no truth", "sql = \"select 1 from orders\""),
        check("no rows", "rows = \"select id from orders\""),
        check("no instant", "freshness = { column = \"amount\", max_age = \"1h\" }"),
        check("no bound", "range = { column = \"amount\", min = \"10\" }"),
    ];
    let (_api, bench) = world(&format!("{}{AMOUNTS}", wrong.concat()));
    bench.text(&["fetch", "--save"]);
    let output = bench.run(&["check"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2));
    for part in [
        "check `misspelt`",
        "check `no truth`",
        "check `no rows`",
        "check `no instant`",
        "timestamptz",
        "check `no bound`",
        "once it is stored",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains("check `no debts`"), "{told}");
    let details = bench.query("select detail from portolan.checks where name = 'no instant'");
    assert!(details[0]["detail"].as_str().unwrap().contains("timestamptz"), "{details:?}");
}
