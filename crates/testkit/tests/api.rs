//! The sample API, seen by an independent client (curl).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;
use std::time::Duration;

use portolan_testkit::api::{Api, Fault, PASSWORD, TOKEN, USER};
use portolan_testkit::process::run;
use serde_json::{Value, json};

fn fetch(api: &Api, arguments: &[&str], target: &str) -> anyhow::Result<String> {
    let url = format!("http://127.0.0.1:{}{target}", api.port());
    run(Command::new("curl").args(["--silent", "--show-error", "--max-time", "20"]).args(arguments).arg(url))
}

fn with_items(count: u64) -> Api {
    let api = Api::start().unwrap();
    api.append("items", (1..=count).map(|id| json!({ "id": id, "name": format!("n,\"{id}") })));
    api
}

fn ids(page: &Value) -> Vec<u64> {
    page.as_array().unwrap().iter().map(|item| item["id"].as_u64().unwrap()).collect()
}

#[test]
fn every_style_of_paging_yields_every_item_once() {
    let api = with_items(25);
    let json = |target: &str| serde_json::from_str::<Value>(&fetch(&api, &[], target).unwrap()).unwrap();
    let all: Vec<u64> = (1..=25).collect();
    assert_eq!(ids(&json("/plain/items")), all);
    assert_eq!(ids(&json("/enveloped/items")["data"]["items"]), all);
    assert_eq!(ids(&json("/plain/items?since=20")), [21, 22, 23, 24, 25]);
    let pages = (0..4).flat_map(|page| ids(&json(&format!("/offset/items?limit=10&offset={}", page * 10))));
    assert_eq!(pages.collect::<Vec<_>>(), all);
    let pages = (1..=4).flat_map(|page| ids(&json(&format!("/page/items?per_page=10&page={page}"))["items"]));
    assert_eq!(pages.collect::<Vec<_>>(), all);
    let (mut cursor, mut found) = (String::new(), Vec::new());
    loop {
        let page = json(&format!("/cursor/items?limit=10&cursor={}", cursor.replace('+', "%2B")));
        found.extend(ids(&page["items"]));
        let Some(next) = page["meta"]["next_cursor"].as_str() else { break };
        cursor = next.into();
    }
    assert_eq!(found, all);
    let (mut target, mut found) = ("/link/items?limit=10".to_owned(), Vec::new());
    loop {
        let answer = fetch(&api, &["--include"], &target).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        found.extend(ids(&serde_json::from_str(body).unwrap()));
        let Some(next) = head.split('<').find(|part| part.contains("rel=\"next\"")) else { break };
        let next = next.split('>').next().unwrap();
        target = next.trim_start_matches(&format!("http://127.0.0.1:{}", api.port())).to_owned();
    }
    assert_eq!(found, all);
}

#[test]
fn formats_codings_tags_and_authorization() {
    let api = with_items(2);
    assert_eq!(fetch(&api, &[], "/csv/items").unwrap(), "id,name\r\n1,\"n,\"\"1\"\r\n2,\"n,\"\"2\"\r\n");
    assert_eq!(fetch(&api, &[], "/ndjson/items").unwrap().lines().count(), 2);
    let plain = fetch(&api, &[], "/plain/items").unwrap();
    assert_eq!(fetch(&api, &["--compressed"], "/gzip/plain/items").unwrap(), plain);
    let head = fetch(&api, &["--include"], "/plain/items").unwrap();
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
    let condition = format!("If-None-Match: {tag}");
    let status = ["--write-out", "%{http_code}", "--output", "/dev/null"];
    let with = |more: &[&str], target: &str| fetch(&api, &[&status, more].concat(), target).unwrap();
    assert_eq!(with(&["--header", &condition], "/plain/items"), "304");
    api.append("items", [json!({ "id": 3 })]);
    assert_eq!(with(&["--header", &condition], "/plain/items"), "200");
    assert_eq!(with(&[], "/basic/plain/items"), "401");
    assert_eq!(with(&["--user", &format!("{USER}:{PASSWORD}")], "/basic/plain/items"), "200");
    assert_eq!(with(&["--header", &format!("Authorization: Bearer {TOKEN}")], "/bearer/plain/items"), "200");
    assert_eq!(with(&["--header", &format!("X-Api-Key: {TOKEN}")], "/header/plain/items"), "200");
    assert_eq!(with(&[], "/forbidden/plain/items"), "403");
    assert_eq!(with(&["--location"], "/redirect/plain/items"), "200");
    assert_eq!(fetch(&api, &["--json", "[{\"id\":4}]"], "/append/items").unwrap(), "{\"items\":4}");
    let big: Value = serde_json::from_str(&fetch(&api, &[], "/big/1000000").unwrap()).unwrap();
    assert!(big.as_array().unwrap().len() > 9_000);
}

#[test]
fn faults_come_as_planned_and_heal() {
    let mut api = with_items(3);
    let status = |api: &Api| {
        fetch(api, &["--write-out", "%{http_code}%header{retry-after}", "--output", "/dev/null"], "/plain/items")
    };
    api.fail("/plain", Some(1), Fault::Status(429, Some(7)));
    assert_eq!(status(&api).unwrap(), "4297");
    assert_eq!(status(&api).unwrap(), "200");
    let faults = [Fault::Truncated(5), Fault::WrongLength(3), Fault::Garbage];
    for fault in faults {
        api.fail("/plain", Some(1), fault.clone());
        assert!(status(&api).is_err(), "{fault:?}");
    }
    api.fail("/plain", None, Fault::Hang);
    assert!(fetch(&api, &["--max-time", "0.3"], "/plain/items").is_err());
    api.heal();
    api.fail("/plain", Some(1), Fault::Slow(10_000));
    api.fail("/plain", Some(1), Fault::Delay(Duration::from_millis(20)));
    assert_eq!(status(&api).unwrap(), "200");
    assert_eq!(status(&api).unwrap(), "200");
    api.kill();
    assert!(status(&api).is_err());
    api.start_again().unwrap();
    assert_eq!(status(&api).unwrap(), "200");
    assert!(fetch(&api, &["--location"], "/redirect-loop").is_err());
}
