//! Incremental reads: what is new, all of it, from an exact position.

use portolan_connect::Registry;
use portolan_connect::source::postgres::Postgres;
use portolan_model::config;
use portolan_model::source::{Connector, Phase};
use portolan_model::{ErrorKind, Position};

use crate::support::{Recorder, failure, fresh, open, problems, read, server, spec};

fn value(position: &Option<Position>) -> String {
    position.as_ref().unwrap().value["value"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_unique_cursor_yields_each_row_once() {
    let table = fresh("unique");
    server().sql(&format!("CREATE TABLE {table} (id numeric(20) primary key, v int)")).unwrap();
    let mut source = open(&format!("table = \"{table}\"\ncursor = \"id\""));
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
        ("smallint", ["-32768", "0", "32767"]),
        ("int", ["-2147483648", "5", "2147483647"]),
        ("bigint", ["-9223372036854775808", "9007199254740993", "9007199254740994"]),
        ("oid", ["0", "5", "4294967295"]),
        // Neighbours that are the same double.
        ("numeric(38,30)", ["-1", "0.100000000000000000000000000001", "0.100000000000000000000000000002"]),
        ("numeric", ["-1e-60", "0", "1e60"]),
        (
            "numeric(50,10)",
            ["-1", "12345678901234567890123456789012345678.5", "12345678901234567890123456789012345679"],
        ),
        ("double precision", ["-0.1", "0.1", "0.30000000000000004"]),
        ("real", ["-0.1", "0.1", "3.4e38"]),
        ("date", ["'0001-01-01'", "'2024-02-29'", "'9999-12-31'"]),
        ("timestamp", ["'0001-01-01 00:00:00'", "'2024-01-01 00:00:00.000001'", "'2024-01-01 00:00:00.000002'"]),
        ("timestamptz", ["'1970-01-01 00:00:01+01'", "'2024-01-01 00:00:00.000001Z'", "'2024-01-01 00:00:00.000002Z'"]),
        ("time", ["'00:00:00'", "'00:00:00.000001'", "'23:59:59'"]),
        ("varchar(40)", ["'a'", "'É'", "'😀'"]),
        ("text collate \"C\"", ["'A''\\x'", "'a\"'", "'ä'"]),
        ("char(4)", ["'a'", "'b'", "'c'"]),
        ("bytea", ["''", "'\\x00'", "'\\xff00'"]),
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
        let create = format!("CREATE TABLE {table} (k {sql_type} not null unique, n bigint);");
        server().sql(&format!("{create} INSERT INTO {table} VALUES ({}, 0)", values[0])).unwrap();
        let mut source = open(&format!("table = \"{table}\"\ncursor = \"k\""));
        let mut position = None;
        for number in 0..3 {
            let (recorder, end) = read(&mut source, position.as_ref()).await.unwrap();
            assert_eq!(recorder.integers("n"), [number], "{sql_type} {position:?}");
            position = end.position;
            if let Some(next) = values.get(number as usize + 1) {
                server().sql(&format!("INSERT INTO {table} VALUES ({next}, {})", number + 1)).unwrap();
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
            "CREATE TABLE {table} (id bigint primary key, at timestamp not null); \
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
    // What lies exactly where the window begins is read with it.
    assert_eq!(recorder.integers("id"), [90, 91, 95]);
    assert_eq!(after.position, end.position);

    let table = fresh("late");
    server()
        .sql(&format!(
            "CREATE TABLE {table} (id bigint primary key, at timestamptz not null); \
             INSERT INTO {table} VALUES (1, '2024-01-01 00:00:00'), (2, '2024-01-01 02:00:00')"
        ))
        .unwrap();
    let options = format!("table = \"{table}\"\ncursor = \"at\"\nlate_window = \"1h\"\nkey = [\"id\"]");
    let mut source = open(&options);
    let (_, end) = read(&mut source, None).await.unwrap();
    let late = "(3, '2024-01-01 01:00:00'), (4, '2024-01-01 01:00:00.000001')";
    server().sql(&format!("INSERT INTO {table} VALUES {late}")).unwrap();
    let (recorder, _) = read(&mut source, end.position.as_ref()).await.unwrap();
    // Rows may share the value where the window begins: it is read with them.
    assert_eq!(recorder.integers("id"), [3, 4, 2]);

    let error = failure(&mut open(&options.replace("\"1h\"", "5"))).await;
    assert_eq!(error.kind(), ErrorKind::Configuration);

    // A window that reaches below the smallest number, and one of a number with many digits.
    for (sql_type, values) in [("smallint", "(-32768), (3)"), ("numeric", "(-5e40), (0.5)")] {
        let table = fresh("late");
        server()
            .sql(&format!("CREATE TABLE {table} (id {sql_type} primary key); INSERT INTO {table} VALUES {values}"))
            .unwrap();
        let window = if sql_type == "numeric" { "9223372036854775807" } else { "40000" };
        let options = format!("table = \"{table}\"\ncursor = \"id\"\nlate_window = {window}\nkey = [\"id\"]");
        let mut source = open(&options);
        let (_, end) = read(&mut source, None).await.unwrap();
        let rows = read(&mut source, end.position.as_ref()).await.unwrap().0.rows();
        assert_eq!(rows, if sql_type == "numeric" { 1 } else { 2 });
    }
}

#[tokio::test]
async fn max_rows_cuts_between_cursor_values_and_always_advances() {
    let table = fresh("cut");
    server()
        .sql(&format!(
            "CREATE TABLE {table} (id bigint primary key, g int not null); \
             INSERT INTO {table} SELECT seq, seq / 4 FROM generate_series(1, 40) AS seq"
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
             z timestamp not null default '0001-01-01'); \
             INSERT INTO {table} SELECT seq, seq / 10, 't' || seq / 10 FROM generate_series(1, 40) AS seq"
        ))
        .unwrap();
    // Options, and the most rows of a read: more than ten rows share a value, a batch has three.
    for (options, rows_max) in [
        ("cursor = \"id\"", 3),
        ("cursor = \"g\"\nkey = [\"id\"]", 15),
        ("cursor = \"t\"\nkey = [\"id\"]", 40),
        ("cursor = \"id\"\nlate_window = 20\nkey = [\"id\"]", 24),
        ("cursor = \"id\"\nmax_rows = 5", 5),
        // Nothing is before the first day: the window begins where the position is.
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
            "CREATE TYPE {table}_word AS ENUM ('b', 'a'); \
             CREATE TABLE {table} (id bigint primary key, n bigint unique, e {table}_word not null unique, \
             d double precision not null unique, p varchar(20) not null, x timestamp not null unique, \
             f double precision not null unique, unique (p, d)); \
             CREATE UNIQUE INDEX ON {table} (lower(p)); CREATE UNIQUE INDEX ON {table} (p) WHERE id > 0; \
             INSERT INTO {table} VALUES (1, 1, 'a', 1, 'x', 'infinity', 'NaN'), (2, null, 'b', 2, 'y', 'today', 1)"
        ))
        .unwrap();
    for (options, kind, part) in [
        ("cursor = \"n\"", ErrorKind::Data, "NULL"),
        ("cursor = \"e\"", ErrorKind::Configuration, "enum"),
        ("cursor = \"x\"", ErrorKind::Data, "infinity"),
        ("cursor = \"f\"", ErrorKind::Data, "NaN"),
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
        (format!("select id from {table} where id = $1"), ErrorKind::Configuration),
        (format!("delete from {table}"), ErrorKind::Configuration),
        (format!("delete from {table} returning id"), ErrorKind::Configuration),
        (format!("with gone as (delete from {table} returning id) select id from gone"), ErrorKind::Configuration),
        (format!("select 1 as one) to stdout; delete from {table}; copy (select 1 as one"), ErrorKind::Configuration),
        (format!("select setval(pg_get_serial_sequence('{table}_serial', 'id'), 7) as v"), ErrorKind::Permission),
        ("select".to_owned(), ErrorKind::Configuration),
        ("set a.b = 1".to_owned(), ErrorKind::Configuration),
        ("select 1/0 as v".to_owned(), ErrorKind::Server),
    ] {
        server().sql(&format!("CREATE TABLE IF NOT EXISTS {table}_serial (id serial)")).unwrap();
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
        ("query = \"select 1\"\nschema = \"s\"", "`schema` does nothing"),
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
    server().sql(&format!("CREATE TABLE {table} (id bigint primary key, j jsonb not null)")).unwrap();
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
        let spec = spec(5432, options);
        Postgres.default_mode(&spec)
    };
    assert_eq!(check("table = \"t\"\nkey = [\"id\"]"), WriteMode::Replace);
    assert_eq!(check("table = \"t\"\nkey = [\"id\"]\nmode = \"append\""), WriteMode::Replace);
    assert_eq!(check("table = \"t\"\nkey = [\"id\"]\ncursor = \"id\""), WriteMode::Append);
}

#[test]
fn every_option_is_documented_and_the_example_is_right() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join("docs/connectors/postgres.md")).unwrap();
    let schema = Postgres.option_schema();
    let options = schema.get("properties").and_then(serde_json::Value::as_object).unwrap();
    assert_eq!(options.len(), 10);
    for option in options.keys() {
        assert!(
            page.contains(&format!("| `{option}` |")),
            "`{option}` is not in the table of docs/connectors/postgres.md"
        );
    }
    let example = std::fs::read_to_string(root.join("examples/postgres.toml")).unwrap();
    assert_eq!(config::read(&example, &Registry).unwrap().sources.len(), 3);
}
