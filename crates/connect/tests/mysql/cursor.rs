//! Incremental reads: what is new, all of it, from an exact position.

use portolan_connect::Registry;
use portolan_connect::source::mysql::MySql;
use portolan_model::config;
use portolan_model::source::{Connector, Phase};
use portolan_model::{ErrorKind, Position, Retry};

use crate::support::{Recorder, failure, fresh, open, problems, read, server, spec};

fn value(position: &Option<Position>) -> String {
    position.as_ref().unwrap().value["value"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_unique_cursor_yields_each_row_once() {
    let table = fresh("unique");
    server().sql(&format!("CREATE TABLE {table} (id bigint unsigned primary key, v int)")).unwrap();
    let mut source = open(&format!("table = \"{table}\"\ncursor = \"ID\""));
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
    for (sql_type, values) in [
        ("tinyint", ["-128", "0", "127"]),
        ("int unsigned", ["0", "5", "4294967295"]),
        ("bigint", ["-9223372036854775808", "9007199254740993", "9007199254740994"]),
        ("year", ["1901", "2024", "2155"]),
        // Neighbours that are the same double.
        ("decimal(65,30)", ["-1", "0.100000000000000000000000000001", "0.100000000000000000000000000002"]),
        ("decimal(20,0) unsigned", ["18446744073709551615", "18446744073709551616", "18446744073709551617"]),
        ("double", ["-0.1", "0.1", "0.30000000000000004"]),
        ("float", ["-0.1", "0.1", "3.4e38"]),
        ("date", ["'0000-00-00'", "'2024-02-29'", "'9999-12-31'"]),
        ("datetime(6)", ["'0000-00-00 00:00:00'", "'2024-01-01 00:00:00.000001'", "'2024-01-01 00:00:00.000002'"]),
        ("timestamp(6)", ["'1970-01-01 00:00:01'", "'2024-01-01 00:00:00.000001'", "'2024-01-01 00:00:00.000002'"]),
        ("time(6)", ["'-838:59:59'", "'00:00:00.000001'", "'838:59:59'"]),
        ("varchar(40)", ["'a'", "'É'", "'z😀'"]),
        ("varchar(40) character set latin1 collate latin1_german2_ci", ["'a'", "'ä'", "'z'"]),
        ("varbinary(40)", ["''", "x'00'", "x'ff00'"]),
        (
            "uuid",
            [
                "'00000000-0000-0000-0000-000000000001'",
                "'123e4567-e89b-12d3-a456-426655440000'",
                "'ffffffff-e89b-12d3-a456-426655440000'",
            ],
        ),
    ] {
        let table = fresh("kinds");
        let create = format!(
            "SET NAMES utf8mb4; SET time_zone = '+00:00'; SET sql_mode = ''; CREATE TABLE {table} (k {sql_type} not null unique, n bigint);"
        );
        server().sql(&format!("{create} INSERT INTO {table} VALUES ({}, 0)", values[0])).unwrap();
        let mut source = open(&format!("table = \"{table}\"\ncursor = \"k\"\ntime_as = \"microseconds\""));
        let mut position = None;
        for number in 0..3 {
            let (recorder, end) = read(&mut source, position.as_ref()).await.unwrap();
            assert_eq!(recorder.integers("n"), [number], "{sql_type} {position:?}");
            position = end.position;
            if let Some(next) = values.get(number as usize + 1) {
                let mode = "SET NAMES utf8mb4; SET time_zone = '+00:00'; SET sql_mode = '';";
                server().sql(&format!("{mode} INSERT INTO {table} VALUES ({next}, {})", number + 1)).unwrap();
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
            "CREATE TABLE {table} (id bigint primary key, at datetime not null, key (at)); \
             INSERT INTO {table} VALUES (1, '2024-01-01'), (2, '2024-01-02')"
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
    assert_eq!(recorder.integers("id"), [91, 95]);
    assert_eq!(after.position, end.position);

    let table = fresh("late");
    server()
        .sql(&format!(
            "CREATE TABLE {table} (id bigint primary key, at timestamp(6) not null); SET time_zone = '+00:00'; \
             INSERT INTO {table} VALUES (1, '2024-01-01 00:00:00'), (2, '2024-01-01 02:00:00')"
        ))
        .unwrap();
    let options = format!("table = \"{table}\"\ncursor = \"at\"\nlate_window = \"1h\"\nkey = [\"id\"]");
    let mut source = open(&options);
    let (_, end) = read(&mut source, None).await.unwrap();
    let late = "(3, '2024-01-01 01:00:00'), (4, '2024-01-01 01:00:00.000001')";
    server().sql(&format!("SET time_zone = '+00:00'; INSERT INTO {table} VALUES {late}")).unwrap();
    let (recorder, _) = read(&mut source, end.position.as_ref()).await.unwrap();
    // Rows may share the value where the window begins: it is read with them.
    assert_eq!(recorder.integers("id"), [3, 4, 2]);

    let error = failure(&mut open(&options.replace("\"1h\"", "5"))).await;
    assert_eq!(error.kind(), ErrorKind::Configuration);

    // A window that reaches below the smallest unsigned number.
    let table = fresh("late");
    server()
        .sql(&format!("CREATE TABLE {table} (id bigint unsigned primary key); INSERT INTO {table} VALUES (0), (3)"))
        .unwrap();
    let mut source = open(&format!("table = \"{table}\"\ncursor = \"id\"\nlate_window = 10\nkey = [\"id\"]"));
    let (_, end) = read(&mut source, None).await.unwrap();
    assert_eq!(read(&mut source, end.position.as_ref()).await.unwrap().0.rows(), 2);
}

#[tokio::test]
async fn a_table_may_change_between_rounds() {
    let table = fresh("altered");
    server()
        .sql(&format!("CREATE TABLE {table} (id bigint primary key, v int); INSERT INTO {table} VALUES (1, 1)"))
        .unwrap();
    let mut source = open(&format!("table = \"{table}\"\ncursor = \"id\""));
    let (_, end) = read(&mut source, None).await.unwrap();
    server()
        .sql(&format!(
            "ALTER TABLE {table} ADD COLUMN w bigint FIRST, DROP COLUMN v; INSERT INTO {table} VALUES (7, 2)"
        ))
        .unwrap();
    let (recorder, end) = read(&mut source, end.position.as_ref()).await.unwrap();
    assert_eq!((recorder.integers("w"), recorder.integers("id")), (vec![7], vec![2]));
    server().sql(&format!("ALTER TABLE {table} MODIFY id varchar(20)")).unwrap();
    let error = read(&mut source, end.position.as_ref()).await.err().unwrap();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Data, Retry::Transient), "{error:?}");
    let error = read(&mut source, end.position.as_ref()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Configuration, "the position is of another kind: {error:?}");
    server().sql(&format!("DROP TABLE {table}")).unwrap();
    assert_eq!(failure(&mut source).await.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn max_rows_cuts_between_cursor_values_and_always_advances() {
    let table = fresh("cut");
    server()
        .sql(&format!(
            "CREATE TABLE {table} (id bigint primary key, g int not null); \
             INSERT INTO {table} SELECT seq, seq DIV 4 FROM seq_1_to_40"
        ))
        .unwrap();
    for (options, cursor_reads) in [("cursor = \"id\"", false), ("cursor = \"g\"\nkey = [\"id\"]", true)] {
        let mut source = open(&format!("table = \"{table}\"\nmax_rows = 3\n{options}"));
        let (mut position, mut seen, mut rounds) = (None, std::collections::BTreeSet::new(), 0);
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
            "CREATE TABLE {table} (id bigint primary key, g int not null, t varchar(9) not null, \
             z datetime not null default '0000-00-00'); SET sql_mode = ''; \
             INSERT INTO {table} SELECT seq, seq DIV 10, CONCAT('t', seq DIV 10), 0 FROM seq_1_to_40"
        ))
        .unwrap();
    // Options, and the most rows of a read: more than ten rows share a value, a batch has three.
    for (options, rows_max) in [
        ("cursor = \"id\"", 3),
        ("cursor = \"g\"\nkey = [\"id\"]", 15),
        ("cursor = \"t\"\nkey = [\"id\"]", 40),
        ("cursor = \"id\"\nlate_window = 20\nkey = [\"id\"]", 24),
        ("cursor = \"id\"\nmax_rows = 5", 5),
        // Nothing is before the zero date: the window begins where the position is.
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
        let seen: std::collections::BTreeSet<i64> = seen.into_iter().collect();
        assert_eq!(seen.len(), 40, "{options}");
        assert!((2..50).contains(&reads), "{options}: {reads} reads");
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
async fn what_cannot_be_read_exactly_is_refused() {
    let table = fresh("refused");
    server()
        .sql(&format!(
            "CREATE TABLE {table} (id bigint primary key, n bigint unique, e enum('b','a') not null unique, \
             d double not null unique, p varchar(20) not null, unique key prefix (p(3)), unique key pair (p, d)); \
             INSERT INTO {table} VALUES (1, 1, 'a', 1, 'x'), (2, null, 'b', 2, 'y')"
        ))
        .unwrap();
    for (options, kind, part) in [
        ("cursor = \"n\"", ErrorKind::Data, "NULL"),
        ("cursor = \"e\"", ErrorKind::Configuration, "ENUM"),
        ("cursor = \"absent\"", ErrorKind::NotFound, "absent"),
        ("cursor = \"p\"", ErrorKind::Configuration, "share"),
        ("cursor = \"p\"\nkey = [\"ID\"]", ErrorKind::NotFound, "`key`"),
    ] {
        let error = failure(&mut open(&format!("table = \"{table}\"\n{options}"))).await;
        assert_eq!(error.kind(), kind, "{options}: {error:?}");
        assert!(error.message().contains(part), "{options}: {error:?}");
        assert_eq!(error.source_name().map(|name| name.as_str()), Some("s"));
    }
    for (query, kind) in [
        (format!("select a.id, b.id from {table} a join {table} b using (n)"), ErrorKind::Configuration),
        (format!("select id from {table} where id = ?"), ErrorKind::Configuration),
        (format!("delete from {table}"), ErrorKind::Permission),
        ("select".to_owned(), ErrorKind::Configuration),
        ("set @a = 1".to_owned(), ErrorKind::Configuration),
    ] {
        let error = failure(&mut open(&format!("query = \"{query}\""))).await;
        assert_eq!(error.kind(), kind, "{query}: {error:?}");
    }
    assert_eq!(server().sql(&format!("SELECT COUNT(*) FROM {table}")).unwrap().trim(), "2");
    // A position of another cursor is no place to continue from.
    let mut source = open(&format!("table = \"{table}\"\ncursor = \"id\""));
    let (_, end) = read(&mut source, None).await.unwrap();
    let mut other = open(&format!("table = \"{table}\"\ncursor = \"d\""));
    let error = read(&mut other, end.position.as_ref()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Configuration);
}

#[test]
fn options_are_checked_before_the_network_is_touched() {
    for (options, part) in [
        ("", "neither `table` nor `query`"),
        ("table = \"t\"\nquery = \"select 1\"", "exclude each other"),
        ("table = \"\"", "`table` is empty"),
        ("table = \"t\"\nlate_window = 5", "`late_window` needs `cursor`"),
        ("table = \"t\"\ncursor = \"id\"\nlate_window = 5", "needs `key`"),
        ("table = \"t\"\ncursor = \"id\"\nlate_window = 0\nkey = [\"id\"]", "`late_window` is 0"),
        ("table = \"t\"\ncursor = \"id\"\nlate_window = -1\nkey = [\"id\"]", "not negative"),
        ("table = \"t\"\ncursor = \"id\"\nlate_window = \"soon\"\nkey = [\"id\"]", "not a duration"),
        ("table = \"t\"\nmax_rows = 5", "`max_rows` needs `cursor`"),
        ("table = \"t\"\nbatch_rows = 0", "`batch_rows` is 0"),
        ("table = \"t\"\ntime_as = \"text\"", "text"),
        ("table = \"t\"\ncursor = \"id\"\nmode = \"replace\"", "only what is new"),
        ("table = \"t\"\ntabel = \"t\"", "tabel"),
        ("table = \"t\"\npassword = \"hunter2\"", "secret"),
    ] {
        let found = problems(options);
        assert!(found.iter().any(|problem| problem.message.contains(part)), "{options}: {found:?}");
        assert!(found.iter().all(|problem| !problem.message.contains("hunter2")));
        assert!(found.iter().all(|problem| problem.span.is_some()), "{options}: {found:?}");
    }
    assert_eq!(problems("table = \"t\"\ncursor = \"id\"\nlate_window = \"10min\"\nkey = [\"id\"]"), []);
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

#[tokio::test]
async fn json_is_no_cursor() {
    let table = fresh("json");
    server().sql(&format!("CREATE TABLE {table} (id bigint primary key, j json not null)")).unwrap();
    let error = failure(&mut open(&format!("table = \"{table}\"\ncursor = \"j\"\nkey = [\"id\"]"))).await;
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
    assert!(error.message().contains("is JSON"), "{error:?}");
}

#[test]
fn options_that_do_nothing_are_refused() {
    let found = problems("table = \"t\"\ncolumns = { id = \"text\" }");
    assert!(found.iter().any(|problem| problem.message.contains("`columns`")), "{found:?}");
    let found = problems("table = \"t\"\ncursor = \"id\"\nkey = [\"id\"]\nkey_memory = 0");
    assert!(found.iter().any(|problem| problem.message.contains("`key_memory` is 0")), "{found:?}");
}

#[test]
fn a_table_that_is_read_whole_replaces() {
    use portolan_model::catalog::WriteMode;
    let check = |options: &str| {
        let spec = spec(3306, options);
        MySql.default_mode(&spec)
    };
    assert_eq!(check("table = \"t\"\nkey = [\"id\"]"), WriteMode::Replace);
    assert_eq!(check("table = \"t\"\nkey = [\"id\"]\nmode = \"append\""), WriteMode::Replace);
    assert_eq!(check("table = \"t\"\nkey = [\"id\"]\ncursor = \"id\""), WriteMode::Append);
}

#[test]
fn every_option_is_documented_and_the_example_is_right() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join("docs/connectors/mysql.md")).unwrap();
    let schema = MySql.option_schema();
    let options = schema.get("properties").and_then(serde_json::Value::as_object).unwrap();
    assert_eq!(options.len(), 12);
    for option in options.keys() {
        assert!(
            page.contains(&format!("| `{option}` |")),
            "`{option}` is not in the table of docs/connectors/mysql.md"
        );
    }
    let example = std::fs::read_to_string(root.join("examples/mysql.toml")).unwrap();
    assert_eq!(config::read(&example, &Registry).unwrap().sources.len(), 3);
}
