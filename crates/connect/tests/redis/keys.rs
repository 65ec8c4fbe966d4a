//! Keys of every type, small and large, changing and vanishing while they are read.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use portolan_model::ErrorKind;
use portolan_testkit::servers::{Redis, RedisSession};
use serde_json::{Value, json};

use crate::harness::{Recorder, failure, fresh, open, open_at, problems, read, server};
use crate::support::{HELLO, scripted, send};

/// Keys of this test alone.
fn prefix() -> String {
    format!("{}:", fresh("k"))
}

fn fill(session: &mut RedisSession, commands: impl Iterator<Item = Vec<String>>) {
    let commands: Vec<Vec<String>> = commands.collect();
    for commands in commands.chunks(5_000) {
        let commands: Vec<Vec<&[u8]>> =
            commands.iter().map(|words| words.iter().map(|word| word.as_bytes()).collect()).collect();
        session.run_all(&commands).unwrap();
    }
}

async fn rows(options: &str) -> Recorder {
    let mut source = open(options);
    let (recorder, end) = read(&mut source, None).await.unwrap();
    assert_eq!((end.position, end.more, end.unchanged), (None, false, false));
    assert!(!recorder.payload.is_empty());
    recorder
}

#[tokio::test]
async fn a_hash_is_a_record() {
    let p = prefix();
    send(
        &server(),
        &[
            &format!("HSET {p}1 name Ann age 41 key x ttl_ms 7 key_2 y"),
            &format!("HSET {p}2 name \"B ob\" city Ulm age 007"),
            &format!("PEXPIRE {p}2 100000000"),
            &format!("SET {p}3 left-out"),
        ],
    );
    let recorder = rows(&format!("keys = \"{p}*\"\ntype = \"hash\"")).await;
    let mut found = recorder.sorted();
    let ttl = found.iter_mut().find_map(|row| row.as_object_mut().unwrap().remove("ttl_ms")).unwrap();
    assert!((99_000_000..=100_000_000).contains(&ttl.as_i64().unwrap()), "{ttl}");
    let first =
        json!({ "key": format!("{p}1"), "name": "Ann", "age": "41", "key_2": "x", "ttl_ms_2": "7", "key_2_2": "y" });
    let second = json!({ "key": format!("{p}2"), "name": "B ob", "city": "Ulm", "age": "007" });
    found.sort_by_key(Value::to_string);
    assert_eq!(found, [second, first]);

    let text = format!("keys = \"{p}*\"\ntype = \"hash\"\ncolumns = {{ age = \"utinyint\", name = \"bigint\" }}");
    let recorder = rows(&text).await;
    let mut ages = recorder.texts("age");
    ages.sort();
    assert_eq!(ages, ["41", "7"]);
    let mut reasons = recorder.reasons();
    reasons.sort();
    assert_eq!(reasons, [("value_not_exact", "Ann"), ("value_not_exact", "B ob")]);
    assert!(recorder.quarantined.iter().any(|item| item.row == json!({ "key": format!("{p}1") })));

    // Written canonically is inferred; `007` is no number.
    let recorder = rows(&format!("keys = \"{p}1\"\ntype = \"hash\"\ninfer = true")).await;
    assert_eq!(recorder.json()[0]["age"], json!(41));
    assert_eq!(recorder.json()[0]["ttl_ms_2"], json!(7));
    assert_eq!(rows(&format!("keys = \"{p}2\"\ntype = \"hash\"\ninfer = true")).await.json()[0]["age"], json!("007"));

    let recorder = rows(&format!("keys = \"{p}2\"\ntype = \"hash\"\nfields_as = \"rows\"")).await;
    let pairs: BTreeSet<(String, String)> = recorder.texts("field").into_iter().zip(recorder.texts("value")).collect();
    let expected = [("age", "007"), ("city", "Ulm"), ("name", "B ob")];
    assert_eq!(pairs, expected.map(|(field, value)| (field.to_owned(), value.to_owned())).into());
}

#[tokio::test]
async fn every_type_has_its_rows() {
    let p = prefix();
    send(
        &server(),
        &[
            &format!("SET {p}string hello EX 1000"),
            &format!("RPUSH {p}list a b a"),
            &format!("SADD {p}set x y"),
            &format!("ZADD {p}zset 1.5 one -inf least 1e300 most"),
            &format!("HSET {p}hash value v index i type t"),
            &format!("XADD {p}stream * a 1"),
        ],
    );
    let recorder = rows(&format!("keys = \"{p}*\"")).await;
    let key = |name: &str| format!("{p}{name}");
    let mut found: Vec<Value> = recorder.json();
    for row in &mut found {
        if row["type"] == "string" {
            let ttl = row.as_object_mut().unwrap().remove("ttl_ms").unwrap().as_i64().unwrap();
            assert!((900_000..=1_000_000).contains(&ttl));
        }
    }
    found.sort_by_key(Value::to_string);
    let mut expected = vec![
        json!({ "key": key("hash"), "type": "hash", "value_2": "v", "index_2": "i", "type_2": "t" }),
        json!({ "key": key("list"), "type": "list", "index": 0, "value": "a" }),
        json!({ "key": key("list"), "type": "list", "index": 1, "value": "b" }),
        json!({ "key": key("list"), "type": "list", "index": 2, "value": "a" }),
        json!({ "key": key("set"), "type": "set", "value": "x" }),
        json!({ "key": key("set"), "type": "set", "value": "y" }),
        json!({ "key": key("string"), "type": "string", "value": "hello" }),
        json!({ "key": key("zset"), "type": "zset", "value": "most", "score": 1e300 }),
        json!({ "key": key("zset"), "type": "zset", "value": "one", "score": 1.5 }),
    ];
    // JSON has no infinity, and shows it as nothing.
    expected.push(json!({ "key": key("zset"), "type": "zset", "value": "least", "score": null }));
    expected.sort_by_key(Value::to_string);
    assert_eq!(found, expected);
    assert_eq!(recorder.reasons(), [("type_not_read", "stream")]);
    for (kind, count) in [("string", 1), ("list", 3), ("set", 2), ("zset", 3), ("hash", 1)] {
        let recorder = rows(&format!("keys = \"{p}*\"\ntype = \"{kind}\"")).await;
        assert_eq!((recorder.rows(), recorder.quarantined.len()), (count, 0), "{kind}");
        // A field of this name keeps it where the key's type needs no column.
        assert_eq!(recorder.batches[0].column_by_name("type").is_some(), kind == "hash");
    }
    assert_eq!(rows(&format!("keys = \"{p}nothing*\"")).await.rows(), 0);
}

#[tokio::test]
async fn json_values_become_columns() {
    let p = prefix();
    let server = server();
    let mut session = server.session().unwrap();
    for (key, value) in [
        ("1", &br#"{"id":1,"tags":["a"],"key":"own"}"#[..]),
        ("2", br#"{"id":2.5,"on":true}"#),
        ("3", b"17"),
        ("4", b"{broken"),
        ("5", b"\xff"),
    ] {
        session.run(&[b"SET", format!("{p}{key}").as_bytes(), value]).unwrap();
    }
    let recorder = rows(&format!("keys = \"{p}*\"\ntype = \"string\"\nformat = \"json\"")).await;
    let key = |name: &str| format!("{p}{name}");
    assert_eq!(
        recorder.sorted(),
        [
            json!({ "key": key("1"), "id": 1.0, "tags": ["a"], "key_2": "own" }),
            json!({ "key": key("2"), "id": 2.5, "on": true }),
            json!({ "key": key("3"), "value": 17 }),
        ]
    );
    let mut reasons = recorder.reasons();
    reasons.sort();
    assert_eq!(reasons, [("value_not_json", "\\xff"), ("value_not_json", "{broken")]);
}

#[tokio::test]
async fn bytes_that_are_no_text_are_kept() {
    let p = prefix();
    let server = server();
    let mut session = server.session().unwrap();
    session.run(&[b"SET", format!("{p}1").as_bytes(), b"\x00\xff\xfe"]).unwrap();
    session.run(&[b"SET", format!("{p}2").as_bytes(), "é\0".as_bytes()]).unwrap();
    // Two values that are one text only together.
    session.run(&[b"SET", format!("{p}3").as_bytes(), b"\xc3"]).unwrap();
    session.run(&[b"SET", format!("{p}4").as_bytes(), b"\xa9"]).unwrap();
    session.run(&[b"SET", &[p.as_bytes(), b"\xf0"].concat(), b"odd key"]).unwrap();
    let recorder = rows(&format!("keys = \"{p}*\"\ntype = \"string\"")).await;
    let mut found: Vec<(String, String, String, String)> = recorder
        .json()
        .iter()
        .map(|row| {
            let text = |name: &str| row[name].as_str().unwrap_or_default().replace(&p, "");
            (text("key"), text("value"), text("value__blob"), text("key__blob"))
        })
        .collect();
    found.sort();
    let row = |key: &str, value: &str, blob: &str| (key.to_owned(), value.to_owned(), blob.to_owned(), String::new());
    let hex: String = [p.as_bytes(), b"\xf0"].concat().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut expected = vec![row("1", "", "00fffe"), row("2", "é\0", ""), row("3", "", "c3"), row("4", "", "a9")];
    expected.push((String::new(), "odd key".into(), String::new(), hex));
    expected.sort();
    assert_eq!(found, expected);
    assert!(recorder.quarantined.is_empty());
}

#[tokio::test]
async fn large_collections_come_in_pages_and_each_element_once() {
    const ELEMENTS: usize = 5_000;
    let p = prefix();
    let server = server();
    let mut session = server.session().unwrap();
    fill(
        &mut session,
        (0..ELEMENTS).flat_map(|n| {
            let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
            let n = format!("{n:05}");
            [
                words(&["RPUSH", &format!("{p}list"), &n]),
                words(&["SADD", &format!("{p}set"), &format!("m{n}")]),
                words(&["ZADD", &format!("{p}zset"), &n, &n]),
                words(&["HSET", &format!("{p}hash"), &n, &n]),
            ]
        }),
    );
    fill(&mut session, (0..900).map(|n| vec!["HSET".into(), format!("{p}record"), format!("f{n}"), n.to_string()]));
    let expected: Vec<String> = (0..ELEMENTS).map(|n| format!("{n:05}")).collect();
    for (kind, column) in [("list", "value"), ("set", "value"), ("zset", "value"), ("hash", "field")] {
        let options = format!("keys = \"{p}{kind}\"\nfields_as = \"rows\"\ncount = 100");
        let recorder = rows(&options).await;
        let mut found = recorder.texts(column);
        if kind != "list" {
            found.sort();
        }
        let found: Vec<&str> = found.iter().map(|value| value.trim_start_matches('m')).collect();
        assert_eq!(found, expected, "{kind}");
        // A page has about `count` elements: no single answer held the whole.
        let largest = recorder.payload.split(|byte| *byte == b'*').map(<[u8]>::len).max().unwrap();
        assert!(largest < 64 << 10, "{kind}: {largest}");
    }
    let recorder = rows(&format!("keys = \"{p}list\"\ncount = 1000")).await;
    let indexes: Vec<String> = (0..ELEMENTS).map(|n| n.to_string()).collect();
    assert_eq!(recorder.texts("index"), indexes);
    // A hash of several pages is still one record; one that is too wide for a row is shown.
    let recorder = rows(&format!("keys = \"{p}record\"\ncount = 10")).await;
    assert_eq!((recorder.rows(), recorder.json()[0].as_object().unwrap().len()), (1, 900 + 2));
    let recorder = rows(&format!("keys = \"{p}hash\"\ncount = 10")).await;
    assert_eq!((recorder.rows(), recorder.quarantined[0].reason), (0, "hash_too_wide"));
    let recorder = rows(&format!("keys = \"{p}hash\"\ncount = 10000")).await;
    assert_eq!((recorder.rows(), recorder.quarantined[0].reason), (0, "hash_too_wide"));
}

/// Pages as a server gives them whose table shrinks between two: the second begins with what the first one had.
#[tokio::test]
async fn what_a_scan_gives_twice_comes_once() {
    let keys = [
        HELLO,
        b"*2\r\n$1\r\n5\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n",
        // The next page was asked for together with the keys of the first.
        b"*2\r\n$1\r\n0\r\n*2\r\n$1\r\nb\r\n$1\r\nc\r\n:-1\r\n$1\r\nA\r\n:-1\r\n$1\r\nB\r\n",
        b":-1\r\n$1\r\nC\r\n",
    ];
    let port = scripted(keys.map(<[u8]>::to_vec).to_vec()).await;
    let mut source = open_at(port, "keys = \"*\"\ntype = \"string\"\nidle_timeout = \"2s\"");
    assert_eq!(read(&mut source, None).await.unwrap().0.texts("value"), ["A", "B", "C"]);

    let page = |cursor: &str, first: &str, second: &str| {
        format!("*2\r\n$1\r\n{cursor}\r\n*2\r\n$1\r\n{first}\r\n$1\r\n{second}\r\n").into_bytes()
    };
    let members = vec![
        HELLO.to_vec(),
        b"*2\r\n$1\r\n0\r\n*1\r\n$1\r\nk\r\n".to_vec(),
        // More than a page: it is read again from its beginning, alone.
        [b":-1\r\n".to_vec(), page("7", "x", "y")].concat(),
        b":-1\r\n".to_vec(),
        page("7", "x", "y"),
        page("9", "y", "z"),
        page("0", "x", "w"),
    ];
    let mut source = open_at(scripted(members).await, "keys = \"*\"\ntype = \"set\"\nidle_timeout = \"2s\"");
    assert_eq!(read(&mut source, None).await.unwrap().0.texts("value"), ["x", "y", "z", "w"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_stay_are_given_while_the_table_shrinks() {
    const KEPT: usize = 20_000;
    const PASSING: usize = 400_000;
    let own = Redis::start().unwrap();
    let mut session = own.session().unwrap();
    fill(&mut session, (0..KEPT).map(|n| vec!["SET".into(), format!("kept:{n}"), "v".into()]));
    fill(&mut session, (0..PASSING).map(|n| vec!["SET".into(), format!("passing:{n}"), "v".into()]));
    let session = Arc::new(Mutex::new(session));
    let mut source = open_at(own.port(), "keys = \"*\"\ntype = \"string\"\ncount = 100");
    source.prepare().await.unwrap();
    let mut recorder = Recorder {
        interference: Some(Box::new(move |count| {
            if count == 3 {
                let mut session = session.lock().unwrap();
                fill(&mut session, (0..PASSING).map(|n| vec!["DEL".into(), format!("passing:{n}")]));
            }
            None
        })),
        ..Recorder::default()
    };
    source.read(None, &mut recorder).await.unwrap();
    let keys = recorder.texts("key");
    let distinct: BTreeSet<&String> = keys.iter().collect();
    assert_eq!(keys.len(), distinct.len(), "keys came twice");
    assert_eq!(distinct.iter().filter(|key| key.starts_with("kept:")).count(), KEPT);
    assert!(keys.len() < KEPT + PASSING, "the table did not shrink meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_vanish_or_change_are_left_out() {
    const KEYS: usize = 40_000;
    let own = Redis::start().unwrap();
    let mut session = own.session().unwrap();
    fill(&mut session, (0..KEYS).map(|n| vec!["HSET".into(), format!("h:{n}"), "a".into(), n.to_string()]));
    let session = Arc::new(Mutex::new(session));
    let mut source = open_at(own.port(), "keys = \"h:*\"");
    source.prepare().await.unwrap();
    let mut recorder = Recorder {
        interference: Some(Box::new(move |count| {
            if count == 1 {
                let mut session = session.lock().unwrap();
                fill(&mut session, (0..KEYS).step_by(3).map(|n| vec!["DEL".into(), format!("h:{n}")]));
                fill(&mut session, (1..KEYS).step_by(3).map(|n| vec!["SET".into(), format!("h:{n}"), "other".into()]));
            }
            None
        })),
        ..Recorder::default()
    };
    source.read(None, &mut recorder).await.unwrap();
    assert!(recorder.quarantined.is_empty());
    let keys: BTreeSet<String> = recorder.texts("key").into_iter().collect();
    assert_eq!(keys.len(), recorder.rows(), "keys came twice");
    for n in (2..KEYS).step_by(3) {
        assert!(keys.contains(&format!("h:{n}")), "h:{n} was there all the time");
    }
}

#[tokio::test]
async fn another_database_and_an_oversized_value() {
    let p = prefix();
    let server = server();
    let mut session = server.session().unwrap();
    session.run(&[b"SET", format!("{p}big").as_bytes(), &[b'x'; 5_000]]).unwrap();
    let error = failure(&mut open(&format!("keys = \"{p}*\"\nmax_value = \"4KiB\""))).await;
    assert_eq!(error.kind(), ErrorKind::Limit, "{error:?}");
    assert!(error.message().contains(&format!("{p}big")) && error.hint().unwrap().contains("max_value"), "{error:?}");
    assert_eq!(rows(&format!("keys = \"{p}*\"\nmax_value = \"5000B\"")).await.rows(), 1);
    session.run(&[b"SELECT", b"3"]).unwrap();
    session.run(&[b"SET", format!("{p}other").as_bytes(), b"v"]).unwrap();
    assert_eq!(rows(&format!("keys = \"{p}*\"\ndatabase = 3")).await.texts("key"), [format!("{p}other")]);
    let error = failure(&mut open(&format!("keys = \"{p}*\"\ndatabase = 99"))).await;
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    assert!(error.hint().unwrap().contains("database"), "{error:?}");
}

#[test]
fn options_are_checked_without_a_server() {
    for (options, part) in [
        ("", "neither `keys` nor `stream`"),
        ("keys = \"a\"\nstream = \"b\"", "exclude each other"),
        ("keys = \"\"", "empty"),
        ("keys = \"a\"\ngroup = \"g\"", "for `stream`"),
        ("keys = \"a\"\nid_column = \"e\"", "for `stream`"),
        ("stream = \"a\"\ntype = \"hash\"", "for `keys`"),
        ("stream = \"a\"\nconsumer = \"c\"", "needs `group`"),
        ("stream = \"a\"\ncreate_group = true", "needs `group`"),
        ("stream = \"a\"\nmode = \"replace\"", "replace"),
        ("keys = \"a\"\nformat = \"json\"", "needs the `type`"),
        ("keys = \"a\"\ntype = \"hash\"\nformat = \"json\"", "needs the `type`"),
        ("keys = \"a\"\ntype = \"list\"\nfields_as = \"rows\"", "for hashes"),
        ("keys = \"a\"\ncount = 0", "`count`"),
        ("keys = \"a\"\nmax_value = \"1GiB\"", "`max_value`"),
        ("keys = \"a\"\ncolumns = { x = \"blurb\" }", "unknown type"),
        ("keys = \"a\"\nuser = \"u\"", "without `password`"),
        ("keys = \"a\"\ntype = \"stream\"", "stream"),
    ] {
        let problems = problems(options);
        assert!(problems.iter().any(|problem| problem.message.contains(part)), "{options}: {problems:?}");
    }
    assert!(problems("keys = \"a:*\"\ntype = \"zset\"\nformat = \"json\"\ninfer = true").is_empty());
}

#[test]
fn the_example_is_accepted() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let example = std::fs::read_to_string(root.join("examples/redis.toml")).unwrap();
    let configuration = portolan_model::config::read(&example, &portolan_connect::Registry).unwrap();
    assert_eq!(configuration.sources.len(), 5);
}
