//! A consumer of a group: what is pending comes first, what is acknowledged never again.

use portolan_connect::Registry;
use portolan_model::config::ConnectorSet;
use portolan_model::source::Source;
use portolan_model::{ErrorKind, Position};
use portolan_testkit::servers::{Redis, Reply};
use serde_json::json;

use crate::harness::{Recorder, failure, fresh, open, read, server, spec};
use crate::support::send;

fn add(server: &Redis, stream: &str, ids: std::ops::RangeInclusive<u64>) {
    let mut session = server.session().unwrap();
    for id in ids {
        session
            .run(&[b"XADD", stream.as_bytes(), format!("{id}-0").as_bytes(), b"n", id.to_string().as_bytes()])
            .unwrap();
    }
}

fn pending(server: &Redis, stream: &str) -> i64 {
    match server.command(&format!("XPENDING {stream} g")).unwrap() {
        Reply::List(parts) => match parts[0] {
            Reply::Integer(count) => count,
            _ => panic!("{parts:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn numbered(range: std::ops::RangeInclusive<u64>) -> Vec<String> {
    range.map(|id| format!("{id}-0")).collect()
}

async fn ids(source: &mut Box<dyn Source>, from: Option<&Position>) -> (Vec<String>, Option<Position>, Recorder) {
    let (recorder, end) = read(source, from).await.unwrap();
    (recorder.texts("id"), end.position, recorder)
}

#[tokio::test]
async fn what_was_read_and_not_acknowledged_comes_again_after_a_crash() {
    let name = fresh("g");
    let server = server();
    let options = format!("stream = \"{name}\"\ngroup = \"g\"\ncreate_group = true\ncount = 4");
    let mut source = open(&options);
    let (found, position, _) = ids(&mut source, None).await;
    assert_eq!((found.len(), position), (0, None), "the group and its stream were made");
    add(&server, &name, 1..=10);
    let (found, first, _) = ids(&mut source, None).await;
    assert_eq!(found, numbered(1..=10));
    assert_eq!(pending(&server, &name), 10);
    // The process ends before the commit; what is new comes behind what is pending.
    drop(source);
    add(&server, &name, 11..=12);
    let mut source = open(&options);
    let (found, second, _) = ids(&mut source, None).await;
    assert_eq!(found, numbered(1..=12));
    // The position of the read before acknowledges nothing of this one.
    source.acknowledge(first.as_ref().unwrap()).await.unwrap();
    assert_eq!(pending(&server, &name), 12);
    source.acknowledge(second.as_ref().unwrap()).await.unwrap();
    assert_eq!(pending(&server, &name), 0);
    source.acknowledge(second.as_ref().unwrap()).await.unwrap();
    let (found, third, _) = ids(&mut source, second.as_ref()).await;
    assert_eq!((found.len(), &third), (0, &second));
    // Committed and not acknowledged: it comes again, and the lake knows it by its id.
    add(&server, &name, 13..=13);
    let (_, committed, _) = ids(&mut source, second.as_ref()).await;
    drop(source);
    let mut source = open(&options);
    let (found, again, _) = ids(&mut source, committed.as_ref()).await;
    assert_eq!(found, numbered(13..=13));
    source.acknowledge(again.as_ref().unwrap()).await.unwrap();
    assert_eq!(pending(&server, &name), 0);
    let spec = spec(1, &options);
    assert_eq!(Registry.get("redis").unwrap().item_key(&spec), ["id"]);
}

#[tokio::test]
async fn two_consumers_share_and_a_claimed_entry_is_not_lost() {
    let name = fresh("g");
    let server = server();
    send(&server, &[&format!("XGROUP CREATE {name} g 0 MKSTREAM")]);
    add(&server, &name, 1..=4);
    let of = |consumer: &str| open(&format!("stream = \"{name}\"\ngroup = \"g\"\nconsumer = \"{consumer}\""));
    let (mut left, mut right) = (of("left"), of("right"));
    let (found, _, _) = ids(&mut left, None).await;
    assert_eq!(found, numbered(1..=4));
    add(&server, &name, 5..=6);
    let (found, position, _) = ids(&mut right, None).await;
    assert_eq!(found, numbered(5..=6));
    right.acknowledge(position.as_ref().unwrap()).await.unwrap();
    // Entries below what the consumer has had: given to it by an administrator after the other one died.
    send(&server, &[&format!("XCLAIM {name} g right 0 1-0 2-0")]);
    let (found, claimed, _) = ids(&mut right, position.as_ref()).await;
    assert_eq!(found, numbered(1..=2));
    assert_ne!(claimed, position);
    right.acknowledge(claimed.as_ref().unwrap()).await.unwrap();
    assert_eq!(pending(&server, &name), 2);
}

#[tokio::test]
async fn a_read_that_is_enough_ends_between_pages_and_goes_on() {
    let name = fresh("g");
    let server = server();
    send(&server, &[&format!("XGROUP CREATE {name} g 0 MKSTREAM")]);
    add(&server, &name, 1..=50);
    let mut source = open(&format!("stream = \"{name}\"\ngroup = \"g\"\ncount = 10"));
    let (mut found, mut position, mut reads) = (Vec::new(), None, 0);
    loop {
        let mut recorder = Recorder { has_enough: true, ..Recorder::default() };
        let end = source.read(position.as_ref(), &mut recorder).await.unwrap();
        assert!(!end.more || end.position != position);
        source.acknowledge(end.position.as_ref().unwrap()).await.unwrap();
        found.extend(recorder.texts("id"));
        (position, reads) = (end.position, reads + 1);
        if !end.more {
            break;
        }
    }
    assert_eq!((found, pending(&server, &name)), (numbered(1..=50), 0));
    assert!(reads > 3, "{reads}");
}

#[tokio::test]
async fn a_gap_is_shown_before_the_group_goes_on() {
    let name = fresh("g");
    let server = server();
    send(&server, &[&format!("XGROUP CREATE {name} g 0 MKSTREAM")]);
    add(&server, &name, 1..=5);
    let options = format!("stream = \"{name}\"\ngroup = \"g\"");
    let mut source = open(&options);
    let (_, position, _) = ids(&mut source, None).await;
    source.acknowledge(position.as_ref().unwrap()).await.unwrap();
    add(&server, &name, 6..=20);
    send(&server, &[&format!("XTRIM {name} MAXLEN 3")]);
    // Shown in a read of its own, so that it is committed before the server forgets it.
    for _ in 0..2 {
        let (recorder, end) = read(&mut open(&options), position.as_ref()).await.unwrap();
        assert!(end.more && end.position != position);
        assert_eq!((recorder.rows(), recorder.reasons()), (0, vec![("stream_trimmed", "12 entries")]));
        assert_eq!(recorder.quarantined[0].row, json!({ "stream": name, "after": "5-0", "before": "18-0" }));
    }
    let (_, shown, _) = ids(&mut source, position.as_ref()).await;
    let (found, position, recorder) = ids(&mut source, shown.as_ref()).await;
    assert_eq!((found, recorder.quarantined.len()), (numbered(18..=20), 0));
    source.acknowledge(position.as_ref().unwrap()).await.unwrap();
    let (found, mut position, recorder) = ids(&mut source, position.as_ref()).await;
    assert_eq!((found.len(), recorder.quarantined.len()), (0, 0));
    // The server's own count of what the group has read is wrong from then on; what is shown is not.
    add(&server, &name, 21..=25);
    send(&server, &[&format!("XTRIM {name} MAXLEN 5")]);
    let (found, after, recorder) = ids(&mut source, position.as_ref()).await;
    assert_eq!((found, recorder.quarantined.len()), (numbered(21..=25), 0));
    source.acknowledge(after.as_ref().unwrap()).await.unwrap();
    // All of it gone: shown once, though there is nothing the group could go on to.
    add(&server, &name, 26..=29);
    send(&server, &[&format!("XTRIM {name} MAXLEN 0")]);
    position = after;
    let mut shown = Vec::new();
    for step in 0..4 {
        let (recorder, end) = read(&mut source, position.as_ref()).await.unwrap();
        shown.extend(recorder.quarantined.iter().map(|item| item.content.clone()));
        assert_eq!(end.more, step == 0);
        position = end.position;
        if step == 1 {
            add(&server, &name, 30..=30);
        }
    }
    assert_eq!(shown, ["4 entries"]);
}

#[tokio::test]
async fn a_stream_that_is_cut_off_all_the_time_is_read_all_the_same() {
    let name = fresh("g");
    let server = server();
    send(&server, &[&format!("XGROUP CREATE {name} g 0 MKSTREAM")]);
    let mut source = open(&format!("stream = \"{name}\"\ngroup = \"g\""));
    add(&server, &name, 1..=1);
    let (mut rows, mut gone, mut position) = (0, 0, None);
    for step in 0..6 {
        // Before each read six more come, of which three are left.
        add(&server, &name, step * 6 + 2..=step * 6 + 7);
        send(&server, &[&format!("XTRIM {name} MAXLEN 3")]);
        let (recorder, end) = read(&mut source, position.as_ref()).await.unwrap();
        rows += recorder.rows();
        let counts = recorder.quarantined.iter().map(|item| item.content.trim_end_matches(" entries").to_owned());
        gone += counts.map(|count| count.parse::<u64>().unwrap()).sum::<u64>();
        if let Some(position) = &end.position {
            source.acknowledge(position).await.unwrap();
        }
        position = end.position;
    }
    // Of 37, four were gone before the first read and three are to be read next.
    assert_eq!((rows as u64 + gone, rows), (30, 9), "each is read or shown, and every second read gives rows");
}

#[tokio::test]
async fn a_stream_that_was_made_anew_is_told_of_a_group_too() {
    let name = fresh("g");
    let server = server();
    let options = format!("stream = \"{name}\"\ngroup = \"g\"\ncreate_group = true");
    let mut source = open(&options);
    ids(&mut source, None).await;
    add(&server, &name, 1..=50);
    let (_, position, _) = ids(&mut source, None).await;
    source.acknowledge(position.as_ref().unwrap()).await.unwrap();
    // Another one under the name, of which the first thirty are gone before anybody has read them.
    send(&server, &[&format!("DEL {name}")]);
    add(&server, &name, 1..=40);
    send(&server, &[&format!("XTRIM {name} MAXLEN 10")]);
    let mut source = open(&options);
    let (found, shown, recorder) = ids(&mut source, position.as_ref()).await;
    assert_eq!((found.len(), recorder.reasons().len()), (0, 2), "{:?}", recorder.reasons());
    assert_eq!(recorder.quarantined[0].reason, "stream_recreated");
    assert_eq!(recorder.reasons()[1], ("stream_trimmed", "30 entries"));
    let (found, position, recorder) = ids(&mut source, shown.as_ref()).await;
    assert_eq!((found, recorder.quarantined.len()), (numbered(31..=40), 0));
    source.acknowledge(position.as_ref().unwrap()).await.unwrap();
    // Nothing of it is left, and nothing new has come: told once.
    send(&server, &[&format!("DEL {name}")]);
    let mut source = open(&options);
    let (_, position, recorder) = ids(&mut source, position.as_ref()).await;
    assert_eq!(recorder.quarantined.iter().map(|item| item.reason).collect::<Vec<_>>(), ["stream_recreated"]);
    for _ in 0..2 {
        let (found, _, recorder) = ids(&mut source, position.as_ref()).await;
        assert_eq!((found.len(), recorder.quarantined.len()), (0, 0));
    }
}

/// A read takes no more than the lake remembers: all of it may come again after a crash between commit and
/// acknowledgement.
#[tokio::test]
async fn a_read_takes_no_more_than_the_lake_remembers() {
    let name = fresh("g");
    let server = server();
    send(&server, &[&format!("XGROUP CREATE {name} g 0 MKSTREAM")]);
    add(&server, &name, 1..=25);
    let mut source = open(&format!("stream = \"{name}\"\ngroup = \"g\"\nkey_memory = 10"));
    let (mut position, mut sizes) = (None, Vec::new());
    for more in [true, true, false] {
        let (recorder, end) = read(&mut source, position.as_ref()).await.unwrap();
        assert_eq!(end.more, more);
        source.acknowledge(end.position.as_ref().unwrap()).await.unwrap();
        sizes.push(recorder.rows());
        position = end.position;
    }
    assert_eq!(sizes, [10, 10, 5]);
}

#[tokio::test]
async fn a_pending_entry_that_is_gone_is_shown() {
    let name = fresh("g");
    let server = server();
    send(&server, &[&format!("XGROUP CREATE {name} g 0 MKSTREAM")]);
    add(&server, &name, 1..=3);
    let options = format!("stream = \"{name}\"\ngroup = \"g\"");
    ids(&mut open(&options), None).await;
    send(&server, &[&format!("XDEL {name} 2-0")]);
    let mut source = open(&options);
    let (found, position, recorder) = ids(&mut source, None).await;
    assert_eq!(found, ["1-0", "3-0"]);
    assert_eq!(recorder.reasons(), [("stream_trimmed", "2-0")]);
    source.acknowledge(position.as_ref().unwrap()).await.unwrap();
    assert_eq!(pending(&server, &name), 0);
}

#[tokio::test]
async fn a_group_that_is_missing_is_said() {
    let name = fresh("g");
    let server = server();
    let options = format!("stream = \"{name}\"\ngroup = \"g\"");
    for commands in [vec![], vec![format!("XADD {name} * a 1")], vec![format!("XGROUP CREATE {name} other 0")]] {
        commands.iter().for_each(|command| send(&server, &[command]));
        let error = failure(&mut open(&options)).await;
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
        assert!(error.hint().unwrap().contains("XGROUP CREATE"), "{error:?}");
    }
    let mut source = open(&options);
    assert!(source.prepare().await.is_ok(), "no group is made unless asked for");
    assert_eq!(server.command(&format!("EXISTS {name}")).unwrap(), Reply::Integer(1));
}
