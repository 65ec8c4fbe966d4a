//! Failure drills on rounds that promise something: what happens when is in `docs/rounds.md`, and here it happens, to the
//! binary, over ports of real servers.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[cfg(feature = "sql")]
mod checks;
#[cfg(feature = "failpoints")]
mod deaths;
mod held;
mod released;
#[path = "../support/mod.rs"]
mod support;

use portolan_testkit::api::Api;
use portolan_testkit::servers::{Redis, Reply};
use serde_json::json;
use support::Bench;

/// The rows of `left` and `right`.
fn api() -> Api {
    let api = Api::start().unwrap();
    for name in ["left", "right"] {
        api.append(name, [json!({"id": 1, "state": 0})]);
    }
    api
}

/// An HTTP source that is read whole.
fn http(name: &str, port: u16, more: &str) -> String {
    format!(
        "[[source]]\nname = \"{name}\"\nport = {port}\nprotocol = \"http\"\npath = \"/plain/{name}\"\nmode = \"replace\"\n\
         etag = false\ntls = {{ allow_plaintext = \"test on loopback\" }}\n{more}\n"
    )
}

/// A Redis stream `events`, taken as a group.
fn events(port: u16, more: &str) -> String {
    format!(
        "[[source]]\nname = \"events\"\nport = {port}\nprotocol = \"redis\"\nstream = \"events\"\ngroup = \"portolan\"\n\
         create_group = true\ntls = {{ allow_plaintext = \"test on loopback\" }}\n{more}\n"
    )
}

/// One round of sources.
fn configuration(sources: &[(&str, String)], round: &str) -> String {
    let names: Vec<String> = sources.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    let all: String = sources.iter().map(|(_, text)| text.as_str()).collect();
    format!(
        "[server]\nhost = \"127.0.0.1\"\n{all}[[round]]\nname = \"all\"\nsources = [{}]\nevery = \"100ms\"\n{round}\n",
        names.join(", ")
    )
}

fn add_events(redis: &Redis, numbers: std::ops::Range<u32>) {
    for number in numbers {
        redis.command(&format!("XADD events * number {number}")).unwrap();
    }
}

/// Entries that the server has given to us and not been told are stored.
fn pending(redis: &Redis) -> i64 {
    match redis.command("XPENDING events portolan").unwrap() {
        Reply::List(parts) => match parts.first() {
            Some(Reply::Integer(pending)) => *pending,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn rounds(bench: &Bench, what: &str) -> i64 {
    bench.number(&format!("select count(*) as n from portolan.rounds where {what}"))
}

fn receipts(bench: &Bench, what: &str) -> i64 {
    bench.number(&format!("select count(*) as n from portolan.receipts where {what}"))
}
