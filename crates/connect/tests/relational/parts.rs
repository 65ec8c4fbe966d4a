//! Reads that end before their end: they go on where they stopped, leave nothing out, and always advance.

use std::collections::BTreeSet;

use portolan_model::Position;
use portolan_model::source::Phase;

use super::Dialect;
use super::cursor::value;
use crate::engine::Engine;
use crate::harness::{Recorder, fresh, open, read, server};

#[tokio::test]
async fn max_rows_cuts_between_cursor_values_and_always_advances() {
    let table = fresh("cut");
    server()
        .sql(&format!(
            "CREATE TABLE {table} (id bigint primary key, g int not null); \
             INSERT INTO {table} SELECT seq, floor(seq / 4) FROM {}",
            Engine::series(1, 40)
        ))
        .unwrap();
    for (options, cursor_reads) in [("cursor = \"id\"", false), ("cursor = \"g\"\nkey = [\"id\"]", true)] {
        let mut source = open(&format!("table = \"{table}\"\nmax_rows = 3\n{options}"));
        let (mut position, mut seen, mut rounds) = (None, BTreeSet::new(), 0);
        loop {
            let (recorder, end) = read(&mut source, position.as_ref()).await.unwrap();
            assert!(recorder.rows() <= if cursor_reads { 8 } else { 3 });
            seen.extend(recorder.integers("id"));
            position = end.position;
            rounds += 1;
            assert!(rounds < 50, "no progress at {position:?}");
            if !end.more {
                break;
            }
        }
        // The last cut may fall on the last rows without knowing it.
        let (recorder, _) = read(&mut source, position.as_ref()).await.unwrap();
        seen.extend(recorder.integers("id"));
        assert_eq!(seen.len(), 40, "{options}");
    }
    // A window wider than a round still advances.
    let mut source =
        open(&format!("table = \"{table}\"\nmax_rows = 3\ncursor = \"id\"\nlate_window = 30\nkey = [\"id\"]"));
    let mut position = None;
    for _ in 0..20 {
        position = read(&mut source, position.as_ref()).await.unwrap().1.position;
    }
    assert_eq!(value(&position), "40");
}

#[tokio::test]
async fn a_read_that_is_asked_to_end_has_moved_on_or_goes_to_its_end() {
    let table = fresh("parts");
    server()
        .sql(&format!(
            "{mode} CREATE TABLE {table} (id bigint primary key, g int not null, t varchar(9) not null, \
             z {} not null); \
             INSERT INTO {table} SELECT seq, floor(seq / 10), concat('t', floor(seq / 10)), '{}' FROM {}",
            Engine::DATE_TIME,
            Engine::EARLIEST,
            Engine::series(1, 40),
            mode = Engine::MODE
        ))
        .unwrap();
    // Options, and the most rows of a read: more than ten rows share a value, a batch has three.
    for (options, rows_max) in [
        ("cursor = \"id\"", 3),
        ("cursor = \"g\"\nkey = [\"id\"]", 15),
        ("cursor = \"t\"\nkey = [\"id\"]", 40),
        ("cursor = \"id\"\nlate_window = 20\nkey = [\"id\"]", 24),
        ("cursor = \"id\"\nmax_rows = 5", 5),
        // Nothing is before the earliest date: the window begins where the position is.
        ("cursor = \"z\"\nlate_window = \"1h\"\nkey = [\"id\"]", 40),
    ] {
        let mut source = open(&format!("table = \"{table}\"\nbatch_rows = 3\n{options}"));
        let (mut position, mut seen) = (None::<Position>, Vec::new());
        let mut reads = 0;
        loop {
            let mut recorder = Recorder { has_enough: true, ..Recorder::default() };
            source.prepare().await.unwrap();
            let end = source.read(position.as_ref(), &mut recorder).await.unwrap();
            assert!(recorder.rows() <= rows_max, "{options}: {} rows at {position:?}", recorder.rows());
            assert!(recorder.phases.contains(&Phase::LastByte), "{options}: {:?}", recorder.phases);
            assert!(!end.more || end.position != position, "{options}: no progress at {position:?}");
            seen.extend(recorder.integers("id"));
            position = end.position;
            reads += 1;
            if !end.more {
                break;
            }
        }
        // What the bound of `max_rows` cut off last is found by the next read.
        let (recorder, _) = read(&mut source, position.as_ref()).await.unwrap();
        seen.extend(recorder.integers("id"));
        if !options.contains("key") {
            assert_eq!(seen.len(), 40, "{options}: rows came twice");
        }
        let seen: BTreeSet<i64> = seen.into_iter().collect();
        assert_eq!(seen.len(), 40, "{options}");
        assert!((2..50).contains(&reads), "{options}: {reads} reads");
    }
}
