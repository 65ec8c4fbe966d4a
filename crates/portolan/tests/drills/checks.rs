//! A source fails its check, in rounds that promise something over servers that give what they have away.

use portolan_testkit::api::Api;
use portolan_testkit::process::{Signal, free_port};
use portolan_testkit::servers::Redis;
use serde_json::json;

use crate::support::{Bench, PATIENCE};
use crate::{add_events, api, configuration, events, http, pending, receipts, rounds};

/// Both ports show the same state.
const AGREE: &str = "[[check]]\nname = \"both agree\"\nround = \"all\"\n\
                     sql = 'select l.state = r.state from \"left\" l, \"right\" r'\n";
/// Odd numbers fail.
pub(crate) const EVEN: &str = "[[check]]\nname = \"even\"\nsource = \"events\"\non_failure = \"quarantine\"\n\
                    rows = 'select _row from events where cast(number as bigint) % 2 = 1'\n";

pub(crate) fn sources(api: &Api, right: u16, redis: &Redis) -> [(&'static str, String); 3] {
    [
        ("left", http("left", api.port(), "")),
        ("events", events(redis.port(), "")),
        ("right", http("right", right, "required = false")),
    ]
}

fn outcomes(bench: &Bench, what: &str) -> i64 {
    bench.number(&format!("select count(*) as n from portolan.checks where {what}"))
}

/// All that the server gave is where it belongs, and `again` rows are in the quarantine a second time.
pub(crate) fn is_each_once(bench: &Bench, all: i64, withheld: i64, again: i64) {
    let count = |table: &str, column: &str| {
        let rows = bench.query(&format!("select count(distinct {column}) as different, count(*) as n from {table}"));
        (rows[0]["different"].as_i64().unwrap(), rows[0]["n"].as_i64().unwrap())
    };
    assert_eq!(count("events", "number"), (all - withheld, all - withheld), "each entry that holds, once");
    let kept = count("portolan.quarantine where reason = 'check'", "content");
    assert_eq!(kept, (withheld, withheld + again), "each entry that does not");
}

#[test]
fn a_check_that_rejects_holds_every_source_up_and_loses_nothing() {
    let (api, redis) = (api(), Redis::start().unwrap());
    let round = format!("consistency = \"released\"\n{AGREE}on_failure = \"reject\"\n");
    let bench = Bench::new(&configuration(&sources(&api, api.port(), &redis), &round));
    add_events(&redis, 0..5);
    let mut collector = bench.start(&["run"]);
    bench.wait_for_lake("events");
    bench.wait_until("a round is complete", || rounds(&bench, "verdict = 'complete'") > 0);
    bench.wait_until("its entries are stored", || bench.number("select count(*) as n from events") == 5);
    api.replace("left", [json!({"id": 1, "state": 1})]);
    bench.wait_until("rounds are rejected", || rounds(&bench, "verdict = 'rejected'") > 0);
    add_events(&redis, 5..10);
    let before = rounds(&bench, "verdict = 'rejected'");
    bench.wait_until("and the next ones", || rounds(&bench, "verdict = 'rejected'") > before + 2);
    // The server has given its entries away; that they are stored it is not told.
    assert_eq!((bench.number("select count(*) as n from events"), pending(&redis)), (5, 5));
    assert_eq!(bench.number("select state as n from \"left\""), 0, "readers see the last state that agreed");
    assert_eq!(collector.stop(Signal::TERM, PATIENCE).unwrap().code(), Some(0), "{}", bench.log());
    let reason = "verdict = 'rejected' and reason <> 'check `both agree` does not hold: the answer is false'";
    assert_eq!(rounds(&bench, reason), 0);
    assert_eq!(outcomes(&bench, "outcome = 'failed'"), rounds(&bench, "verdict = 'rejected'"));
    assert_eq!(
        receipts(
            &bench,
            "round in (select round from portolan.rounds where verdict = 'rejected') and rows_sha256 is not null"
        ),
        0
    );
    // Also the next start knows nothing of them.
    let mut collector = bench.start(&["run"]);
    let before = rounds(&bench, "verdict = 'rejected'");
    bench.wait_until("rounds are rejected again", || rounds(&bench, "verdict = 'rejected'") > before);
    api.replace("right", [json!({"id": 1, "state": 1})]);
    bench.wait_until("the ports agree", || bench.number("select state as n from \"left\"") == 1);
    bench.wait_until("all is acknowledged", || pending(&redis) == 0);
    is_each_once(&bench, 10, 0, 0);
    collector.stop(Signal::TERM, PATIENCE).unwrap();
    assert_eq!(bench.json(&["verify", "--json"])["sound"], true);
}

#[test]
fn what_a_check_withholds_is_acknowledged_and_kept() {
    let (api, redis) = (api(), Redis::start().unwrap());
    let round = format!("consistency = \"released\"\n{EVEN}{AGREE}on_failure = \"warn\"\n");
    let bench = Bench::new(&configuration(&sources(&api, api.port(), &redis), &round));
    api.replace("left", [json!({"id": 1, "state": 1})]);
    add_events(&redis, 0..10);
    let mut collector = bench.start(&["run"]);
    bench.wait_for_lake("events");
    bench.wait_until("there is a table", || bench.run(&["query", "select * from events"]).status.success());
    bench.wait_until("the even ones are stored", || bench.number("select count(*) as n from events") == 5);
    bench.wait_until("all is acknowledged", || pending(&redis) == 0);
    collector.stop(Signal::TERM, PATIENCE).unwrap();
    is_each_once(&bench, 10, 5, 0);
    // The other check was asked, too, and stopped nobody.
    assert_eq!(bench.number("select state as n from \"left\""), 1);
    assert!(outcomes(&bench, "name = 'both agree' and outcome = 'failed' and on_failure = 'warn'") > 0);
    assert_eq!(rounds(&bench, "verdict <> 'complete' or reached <> 'released'"), 0);
    assert_eq!(bench.json(&["verify", "--json"])["sound"], true);
}

#[test]
fn what_a_missing_source_would_have_shown_is_not_guessed() {
    let (api, redis) = (api(), Redis::start().unwrap());
    let round = format!("deadline = \"2s\"\n{AGREE}on_failure = \"reject\"\n");
    let bench = Bench::new(&configuration(&sources(&api, free_port().unwrap(), &redis), &round));
    add_events(&redis, 0..5);
    let mut collector = bench.start(&["run"]);
    bench.wait_for_lake("events");
    bench.wait_until("the others have tables", || bench.run(&["query", "select * from events"]).status.success());
    bench.wait_until("and rows", || bench.number("select count(*) as n from events") == 5);
    collector.stop(Signal::TERM, PATIENCE).unwrap();
    assert!(rounds(&bench, "verdict = 'partial'") > 0);
    assert_eq!(outcomes(&bench, "outcome <> 'not_evaluated'"), 0);
    let details = bench.query("select distinct detail from portolan.checks");
    assert!(details.iter().all(|row| row["detail"].as_str().unwrap().contains("right")), "{details:?}");
}
