//! Incremental reads: what is new, all of it, from an exact position.

use portolan_model::source::Phase;
use portolan_model::{ErrorKind, Position};

use super::Dialect;
use crate::engine::Engine;
use crate::harness::{failure, fresh, open, read, server};

/// The cursor value of a position.
pub(super) fn value(position: &Option<Position>) -> String {
    position.as_ref().unwrap().value["value"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_unique_cursor_yields_each_row_once() {
    let table = fresh("unique");
    server().sql(&format!("CREATE TABLE {table} (id {} primary key, v int)", Engine::TWENTY_DIGITS)).unwrap();
    let mut source = open(&format!("table = \"{table}\"\ncursor = \"{}\"", Engine::CURSOR_OF_ID));
    assert!(source.capabilities().resume);
    let (recorder, end) = read(&mut source, None).await.unwrap();
    assert_eq!((recorder.rows(), &end.position), (0, &None));

    server().sql(&format!("INSERT INTO {table} VALUES (1, 1), (18446744073709551614, 2)")).unwrap();
    let (recorder, end) = read(&mut source, None).await.unwrap();
    assert_eq!((recorder.rows(), value(&end.position).as_str()), (2, "18446744073709551614"));
    assert_eq!(recorder.phases, [Phase::Released, Phase::FirstByte, Phase::LastByte]);
    assert!(recorder.bytes > 20);

    let (recorder, same) = read(&mut source, end.position.as_ref()).await.unwrap();
    assert_eq!((recorder.rows(), &same.position), (0, &end.position));
    server().sql(&format!("INSERT INTO {table} VALUES (18446744073709551615, 3)")).unwrap();
    let stored = Position::from_text(&end.position.unwrap().to_text()).unwrap();
    let (recorder, end) = read(&mut source, Some(&stored)).await.unwrap();
    assert_eq!((recorder.rows(), value(&end.position).as_str()), (1, "18446744073709551615"));
    source.close().await;
}

#[tokio::test]
async fn every_kind_of_cursor_continues_where_it_stopped() {
    for (sql_type, values) in Engine::CURSORS {
        let table = fresh("kinds");
        let insert =
            |value: &str, number: i64| format!("{} INSERT INTO {table} VALUES ({value}, {number})", Engine::MODE);
        let create = format!("{} CREATE TABLE {table} (k {sql_type} not null unique, n bigint)", Engine::MODE);
        server().sql(&format!("{create}; {}", insert(values[0], 0))).unwrap();
        let mut source = open(&format!("table = \"{table}\"\ncursor = \"k\"\n{}", Engine::CURSORS_OPTION));
        let mut position = None;
        for number in 0..3 {
            let (recorder, end) = read(&mut source, position.as_ref()).await.unwrap();
            assert_eq!(recorder.integers("n"), [number], "{sql_type} {position:?}");
            position = end.position;
            if let Some(next) = values.get(number as usize + 1) {
                server().sql(&insert(next, number + 1)).unwrap();
            }
        }
        let (recorder, end) = read(&mut source, position.as_ref()).await.unwrap();
        assert_eq!((recorder.rows(), end.position), (0, position), "{sql_type}");
    }
}

#[tokio::test]
async fn rows_that_share_a_cursor_value_are_read_again() {
    let table = fresh("shared");
    server()
        .sql(&format!(
            "CREATE TABLE {table} (id bigint primary key, at {} not null); CREATE INDEX {table}_at ON {table} (at); \
             INSERT INTO {table} VALUES (1, '2024-01-01'), (2, '2024-01-02')",
            Engine::DATE_TIME
        ))
        .unwrap();
    let error = failure(&mut open(&format!("table = \"{table}\"\ncursor = \"at\""))).await;
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.hint().unwrap().contains("key ="), "{error:?}");

    let mut source = open(&format!("table = \"{table}\"\ncursor = \"at\"\nkey = [\"id\"]"));
    let (_, end) = read(&mut source, None).await.unwrap();
    server().sql(&format!("INSERT INTO {table} VALUES (3, '2024-01-02')")).unwrap();
    let (recorder, _) = read(&mut source, end.position.as_ref()).await.unwrap();
    let mut ids = recorder.integers("id");
    ids.sort_unstable();
    assert_eq!(ids, [2, 3]);
}

#[tokio::test]
async fn a_late_window_reads_again_and_never_turns_back() {
    let table = fresh("late");
    server()
        .sql(&format!("CREATE TABLE {table} (id bigint primary key); INSERT INTO {table} VALUES (80), (95), (100)"))
        .unwrap();
    let mut source = open(&format!("table = \"{table}\"\ncursor = \"id\"\nlate_window = 10\nkey = [\"id\"]"));
    let (_, end) = read(&mut source, None).await.unwrap();
    server().sql(&format!("INSERT INTO {table} VALUES (89), (90), (91); DELETE FROM {table} WHERE id = 100")).unwrap();
    let (recorder, after) = read(&mut source, end.position.as_ref()).await.unwrap();
    let start: &[i64] = if Engine::READS_START_OF_WINDOW { &[90] } else { &[] };
    assert_eq!(recorder.integers("id"), [start, &[91, 95]].concat());
    assert_eq!(after.position, end.position);

    let table = fresh("late");
    server()
        .sql(&format!(
            "CREATE TABLE {table} (id bigint primary key, at {} not null); {} \
             INSERT INTO {table} VALUES (1, '2024-01-01 00:00:00'), (2, '2024-01-01 02:00:00')",
            Engine::INSTANT,
            Engine::MODE
        ))
        .unwrap();
    let options = format!("table = \"{table}\"\ncursor = \"at\"\nlate_window = \"1h\"\nkey = [\"id\"]");
    let mut source = open(&options);
    let (_, end) = read(&mut source, None).await.unwrap();
    let late = "(3, '2024-01-01 01:00:00'), (4, '2024-01-01 01:00:00.000001')";
    server().sql(&format!("{} INSERT INTO {table} VALUES {late}", Engine::MODE)).unwrap();
    let (recorder, _) = read(&mut source, end.position.as_ref()).await.unwrap();
    // Rows may share the value where the window begins: it is read with them.
    assert_eq!(recorder.integers("id"), [3, 4, 2]);

    let error = failure(&mut open(&options.replace("\"1h\"", "5"))).await;
    assert_eq!(error.kind(), ErrorKind::Configuration);

    for (sql_type, values, window, rows) in Engine::WIDE_WINDOWS {
        let table = fresh("late");
        server()
            .sql(&format!("CREATE TABLE {table} (id {sql_type} primary key); INSERT INTO {table} VALUES {values}"))
            .unwrap();
        let options = format!("table = \"{table}\"\ncursor = \"id\"\nlate_window = {window}\nkey = [\"id\"]");
        let mut source = open(&options);
        let (_, end) = read(&mut source, None).await.unwrap();
        let rows_again = read(&mut source, end.position.as_ref()).await.unwrap().0.rows();
        assert_eq!(rows_again, *rows, "{sql_type}");
    }
}

#[tokio::test]
async fn a_query_is_read_whole_or_by_its_cursor() {
    let table = fresh("query");
    server()
        .sql(&format!(
            "CREATE TABLE {table} (id bigint primary key, v int); INSERT INTO {table} VALUES (1, 10), (2, 20)"
        ))
        .unwrap();
    let query = format!("query = '''select id, v * 2 as twice from {table} where v > 0 -- both\n ;; '''");
    let (recorder, end) = read(&mut open(&query), None).await.unwrap();
    assert_eq!((recorder.rows(), end.position), (2, None));
    let error = failure(&mut open(&format!("{query}\ncursor = \"id\""))).await;
    assert_eq!(error.kind(), ErrorKind::Configuration, "a query shows no index: {error:?}");
    let mut source = open(&format!("{query}\ncursor = \"id\"\nkey = [\"id\"]"));
    let (_, end) = read(&mut source, None).await.unwrap();
    server().sql(&format!("INSERT INTO {table} VALUES (3, 30)")).unwrap();
    let (recorder, _) = read(&mut source, end.position.as_ref()).await.unwrap();
    assert_eq!(recorder.integers("id"), [3]);
}

#[tokio::test]
async fn a_position_of_another_table_or_query_is_refused() {
    let (one, two) = (fresh("one"), fresh("two"));
    for table in [&one, &two] {
        server().sql(&format!("CREATE TABLE {table} (id bigint primary key); INSERT INTO {table} VALUES (7)")).unwrap();
    }
    let table = |name: &str| format!("table = \"{name}\"\ncursor = \"id\"");
    let query = |text: &str| format!("query = \"{text}\"\ncursor = \"id\"\nkey = [\"id\"]");
    let (select, other) = (format!("select id from {one}"), format!("select id from {one} where id > 0"));
    for (before, after, name) in [(table(&one), table(&two), two.as_str()), (query(&select), query(&other), "query")] {
        let (_, end) = read(&mut open(&before), None).await.unwrap();
        assert!(read(&mut open(&before), end.position.as_ref()).await.is_ok());
        let error = read(&mut open(&after), end.position.as_ref()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
        assert!(error.message().contains(name) && error.hint().is_some(), "{error:?}");
    }
    // The same words on other lines are the same query.
    let (_, end) = read(&mut open(&query(&select)), None).await.unwrap();
    assert!(read(&mut open(&query(&select.replace(' ', "  "))), end.position.as_ref()).await.is_ok());
}
