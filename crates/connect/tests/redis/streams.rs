//! A stream without a group: positions, pages, and entries that are gone before they were read.

use portolan_model::{ErrorKind, Position};
use portolan_testkit::servers::Redis;
use serde_json::json;

use crate::harness::{Recorder, failure, fresh, open, open_at, read, server};
use crate::support::send;

fn add(server: &Redis, stream: &str, ids: std::ops::RangeInclusive<u64>) {
    let mut session = server.session().unwrap();
    for id in ids {
        session
            .run(&[b"XADD", stream.as_bytes(), format!("{id}-0").as_bytes(), b"n", id.to_string().as_bytes()])
            .unwrap();
    }
}

/// The ids of one read, and where it ended.
async fn ids(options: &str, from: Option<&Position>) -> (Vec<String>, Option<Position>, Recorder) {
    let (recorder, end) = read(&mut open(options), from).await.unwrap();
    assert!(!end.more);
    (recorder.texts("id"), end.position, recorder)
}

fn numbered(range: std::ops::RangeInclusive<u64>) -> Vec<String> {
    range.map(|id| format!("{id}-0")).collect()
}

#[tokio::test]
async fn entries_are_rows_and_come_once() {
    let name = fresh("s");
    let server = server();
    let options = format!("stream = \"{name}\"\ncount = 3\ncolumns = {{ n = \"bigint\" }}");
    let (found, position, _) = ids(&options, None).await;
    assert_eq!((found.len(), position), (0, None), "a stream that is not there yet is empty");
    add(&server, &name, 1..=10);
    let (found, position, recorder) = ids(&options, None).await;
    assert_eq!(found, numbered(1..=10));
    assert_eq!(recorder.json()[4], json!({ "id": "5-0", "n": 5 }));
    let (found, position, recorder) = ids(&options, position.as_ref()).await;
    assert!(found.is_empty() && recorder.quarantined.is_empty());
    add(&server, &name, 11..=12);
    let (found, _, recorder) = ids(&options, position.as_ref()).await;
    assert_eq!((found, recorder.quarantined.len()), (numbered(11..=12), 0));
    assert_eq!(problem_of(&format!("stream = \"{name}x\""), position.as_ref()).await, ErrorKind::Configuration);
    assert_eq!(problem_of(&format!("{options}\ndatabase = 2"), position.as_ref()).await, ErrorKind::Configuration);
    let odd = Position::new(1, json!({ "stream": name, "database": 0, "id": "x" }));
    assert_eq!(problem_of(&options, Some(&odd)).await, ErrorKind::Configuration);
}

async fn problem_of(options: &str, from: Option<&Position>) -> ErrorKind {
    let Err(error) = read(&mut open(options), from).await else { panic!("the position was taken") };
    assert!(error.hint().is_some());
    error.kind()
}

#[tokio::test]
async fn a_field_that_comes_twice_and_one_named_as_the_id() {
    let name = fresh("s");
    send(&server(), &[&format!("XADD {name} 1-1 a 1 b 2 a 3 id own"), &format!("XADD {name} 1-2 c 4")]);
    let (_, _, recorder) = ids(&format!("stream = \"{name}\""), None).await;
    assert_eq!(
        recorder.json(),
        [json!({ "id": "1-1", "a": "3", "b": "2", "id_2": "own" }), json!({ "id": "1-2", "c": "4" })]
    );
    assert_eq!(recorder.reasons(), [("duplicate_member", "1")]);
    assert_eq!(recorder.quarantined[0].row, json!({ "id": "1-1" }));
    let (recorder, _) = read(&mut open(&format!("stream = \"{name}\"\nid_column = \"entry\"")), None).await.unwrap();
    assert_eq!(recorder.json()[0], json!({ "entry": "1-1", "a": "3", "b": "2", "id": "own" }));
}

#[tokio::test]
async fn a_read_ends_between_pages_when_it_is_enough() {
    let name = fresh("s");
    add(&server(), &name, 1..=100);
    let mut source = open(&format!("stream = \"{name}\"\ncount = 10"));
    let (mut found, mut position, mut reads) = (Vec::new(), None, 0);
    loop {
        let mut recorder = Recorder { has_enough: true, ..Recorder::default() };
        source.prepare().await.unwrap();
        let end = source.read(position.as_ref(), &mut recorder).await.unwrap();
        found.extend(recorder.texts("id"));
        assert!(recorder.quarantined.is_empty());
        (position, reads) = (end.position, reads + 1);
        if !end.more {
            break;
        }
    }
    assert_eq!(found, numbered(1..=100));
    assert!(reads > 5, "{reads}");
}

#[tokio::test]
async fn what_was_trimmed_before_it_was_read_is_shown() {
    let name = fresh("s");
    let server = server();
    let options = format!("stream = \"{name}\"");
    add(&server, &name, 1..=10);
    send(&server, &[&format!("XTRIM {name} MAXLEN 8")]);
    // What went before the first read is not this source's loss.
    let (found, position, recorder) = ids(&options, None).await;
    assert_eq!((found, recorder.quarantined.len()), (numbered(3..=10), 0));
    // Trimmed after it was read: nothing is lost.
    send(&server, &[&format!("XTRIM {name} MAXLEN 0")]);
    let (found, position, recorder) = ids(&options, position.as_ref()).await;
    assert_eq!((found.len(), recorder.quarantined.len()), (0, 0));
    add(&server, &name, 11..=30);
    send(&server, &[&format!("XTRIM {name} MAXLEN 5")]);
    let (found, position, recorder) = ids(&options, position.as_ref()).await;
    assert_eq!(found, numbered(26..=30));
    assert_eq!(recorder.reasons(), [("stream_trimmed", "15 entries")]);
    assert_eq!(recorder.quarantined[0].row, json!({ "stream": name, "after": "10-0", "before": "26-0" }));
    // Shown once.
    let (_, position, recorder) = ids(&options, position.as_ref()).await;
    assert!(recorder.quarantined.is_empty());
    // Deleted between others, and all of them.
    add(&server, &name, 31..=40);
    send(&server, &[&format!("XDEL {name} 33-0 34-0")]);
    let (found, position, recorder) = ids(&options, position.as_ref()).await;
    assert_eq!((found.len(), recorder.reasons()), (8, vec![("stream_trimmed", "2 entries")]));
    add(&server, &name, 41..=43);
    send(&server, &[&format!("XTRIM {name} MAXLEN 0")]);
    let (found, position, recorder) = ids(&options, position.as_ref()).await;
    assert_eq!((found.len(), recorder.reasons()), (0, vec![("stream_trimmed", "3 entries")]));
    let (_, _, recorder) = ids(&options, position.as_ref()).await;
    assert!(recorder.quarantined.is_empty());
}

#[tokio::test]
async fn a_stream_made_anew_is_told_and_read_from_its_beginning() {
    let name = fresh("s");
    let server = server();
    let options = format!("stream = \"{name}\"");
    add(&server, &name, 100..=110);
    let (_, position, _) = ids(&options, None).await;
    // Deleted and not made again: nothing to read, the position stays.
    send(&server, &[&format!("DEL {name}")]);
    let (found, kept, recorder) = ids(&options, position.as_ref()).await;
    assert_eq!((found.len(), recorder.quarantined.len(), &kept), (0, 0, &position));
    // Lower ids; then higher ids, which only the server's count tells.
    add(&server, &name, 1..=5);
    let (found, lower, recorder) = ids(&options, position.as_ref()).await;
    assert_eq!(found, numbered(1..=5));
    assert_eq!(recorder.quarantined[0].reason, "stream_recreated");
    let (_, _, recorder) = ids(&options, lower.as_ref()).await;
    assert!(recorder.quarantined.is_empty());
    send(&server, &[&format!("DEL {name}")]);
    add(&server, &name, 200..=220);
    let (found, higher, recorder) = ids(&options, position.as_ref()).await;
    assert_eq!(found, numbered(200..=220));
    assert_eq!(recorder.quarantined[0].reason, "stream_recreated");
    let (_, _, recorder) = ids(&options, higher.as_ref()).await;
    assert!(recorder.quarantined.is_empty());
    // Ids on both sides of the position: said, though the lower ones are passed over.
    send(&server, &[&format!("DEL {name}")]);
    add(&server, &name, 105..=112);
    let (found, _, recorder) = ids(&options, position.as_ref()).await;
    assert_eq!(recorder.quarantined[0].reason, "stream_recreated", "{found:?}");
}

/// Entries of 100 KiB behind thousands of small ones: the page that is too large is asked for again in smaller ones.
#[tokio::test]
async fn large_entries_behind_small_ones_come_in_smaller_pages() {
    let name = fresh("s");
    let own = Redis::start().unwrap();
    // Pages of 8, 64, 512, 1,000 and 1,000; the next one of 1,000 is of large entries alone.
    add(&own, &name, 1..=2_584);
    let mut session = own.session().unwrap();
    let value = vec![b'x'; 100_000];
    for id in 2_585..=3_584_u64 {
        session.run(&[b"XADD", name.as_bytes(), format!("{id}-0").as_bytes(), b"v", &value]).unwrap();
    }
    // Replies of 64 MiB and eight values are allowed; a page of 1,000 large entries has 95 MiB.
    let mut source = open_at(own.port(), &format!("stream = \"{name}\"\nmax_value = \"100KiB\""));
    let (mut found, mut position, mut reads) = (Vec::new(), None, 0);
    loop {
        let (recorder, end) = read(&mut source, position.as_ref()).await.unwrap();
        found.extend(recorder.texts("id"));
        (position, reads) = (end.position, reads + 1);
        if !end.more {
            break;
        }
    }
    assert_eq!(found, numbered(1..=3_584));
    assert_eq!(reads, 2, "the page that was too large ended a read");
}

#[tokio::test]
async fn what_stands_before_an_entry_that_is_too_large_is_read() {
    let name = fresh("s");
    let server = server();
    for id in 1..=20 {
        send(&server, &[&format!("XADD {name} {id}-0 v x")]);
    }
    let value = vec![b'x'; 5_000];
    server.session().unwrap().run(&[b"XADD", name.as_bytes(), b"21-0", b"v", &value]).unwrap();
    send(&server, &[&format!("XGROUP CREATE {name} g 0")]);
    for group in ["", "group = \"g\""] {
        // The answer to XINFO holds the last entry, too.
        let mut source = open(&format!("stream = \"{name}\"\nmax_value = \"1KiB\"\n{group}"));
        let (mut found, mut position, mut error) = (Vec::new(), None, None);
        for _ in 0..10 {
            match read(&mut source, position.as_ref()).await {
                Ok((recorder, end)) => {
                    found.extend(recorder.texts("id"));
                    if let Some(position) = &end.position {
                        source.acknowledge(position).await.unwrap();
                    }
                    position = end.position;
                    assert!(end.more, "there is another one");
                }
                Err(refused) if found.len() == 20 => {
                    error = Some(refused);
                    break;
                }
                // Smaller pages are next.
                Err(refused) => assert_eq!(refused.kind(), ErrorKind::Limit, "{refused:?}"),
            }
        }
        assert_eq!(found, numbered(1..=20), "{group}");
        assert_eq!(error.unwrap().kind(), ErrorKind::Limit, "{group}");
    }
}

#[tokio::test]
async fn an_entry_with_too_many_fields_holds_up_no_other() {
    let name = fresh("s");
    let server = server();
    let fields: String = (0..1_001).map(|number| format!(" f{number} v")).collect();
    send(
        &server,
        &[&format!("XADD {name} 1-0 a b"), &format!("XADD {name} 2-0{fields}"), &format!("XADD {name} 3-0 a c")],
    );
    let (recorder, _) = read(&mut open(&format!("stream = \"{name}\"")), None).await.unwrap();
    assert_eq!(recorder.texts("id"), ["1-0", "3-0"]);
    assert_eq!(recorder.quarantined.len(), 1);
    let item = &recorder.quarantined[0];
    assert_eq!((item.reason, &item.row), ("entry_too_wide", &json!({ "id": "2-0" })));
    assert!(item.content.starts_with("f0=v\nf1=v\n"), "{}", item.content);
}

#[tokio::test]
async fn another_type_is_said() {
    let name = fresh("s");
    send(&server(), &[&format!("SET {name} x")]);
    let error = failure(&mut open(&format!("stream = \"{name}\""))).await;
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
    assert!(error.hint().unwrap().contains("TYPE"), "{error:?}");
}
