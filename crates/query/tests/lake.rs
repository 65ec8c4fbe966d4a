//! The same answers as DuckDB, over a lake that DuckDB made, changed and merged: every type, every snapshot.

#![allow(clippy::unwrap_used, reason = "a test that fails stops")]

mod support;

use std::path::Path;
use std::sync::Arc;

use portolan_lake::{At, LakeReader};
use portolan_query::{Engine, EngineOptions};
use portolan_testkit::duckdb::Session;
use serde_json::Value;
use support::{plain_rows, sorted};

/// Every type that the lake stores, with ordinary, extreme and missing values.
const EVERY_TYPE: [&str; 5] = [
    "create table every_type (id bigint, a boolean, b tinyint, c smallint, d integer, e bigint, f utinyint, g usmallint, \
     h uinteger, i ubigint, j float, k double, l decimal(18,3), m decimal(38,10), n date, o time, p timestamp, \
     q timestamp_ms, r timestamp_ns, s timestamptz, t varchar, u json, v blob, w uuid, \"mixedCase\" integer)",
    "insert into every_type select n, true, -128, -32768, -2147483648, -9223372036854775808, 255, 65535, 4294967295, \
     18446744073709551615, 0.1, 1e300, 123456789012345.678, 1234567890123456789012345678.0123456789, '2026-01-02', \
     '03:04:05.000006', '2026-01-02 03:04:05.000006', '2026-01-02 03:04:05.006', '2026-01-02 03:04:05.000006', \
     '2026-01-02 03:04:05.000006+02:00', 'é — 漢字 ''\"', '{\"n\": 12345678901234567890.10}', '\\x00\\xFF'::blob, \
     '01234567-89ab-cdef-0123-456789abcdef', 7 from range(3) r(n)",
    "insert into every_type (id) values (3)",
    "insert into every_type select n, n % 2 = 0, n % 100, -n, n * 1000, n * 1000000007, n % 200, n, n, n * 9000000000000, \
     n / 8.0, -n / 3.0, n / 4.0, n * 1234567.89, date '1970-01-01' + n::integer, time '00:00:00' + to_seconds(n), \
     timestamp '1969-12-31 23:59:59.999999' + to_hours(n), timestamp '2020-01-01' + to_milliseconds(n), \
     timestamp '2020-01-01' + to_microseconds(n), timestamptz '2020-02-29 00:00:00+00' + to_days(n::integer), \
     'text ' || n, to_json({'n': n}), encode('b' || n), ('00000000-0000-0000-0000-' || lpad(n::varchar, 12, '0'))::uuid, n \
     from range(4, 3000) r(n)",
    "insert into every_type (id, k, j) values (5000, 'nan', 'inf'), (5001, '-inf', 'nan')",
];

/// What other engines do to a table after it was made.
const CHANGES: [&str; 14] = [
    "create table changing (id integer, amount float, gone varchar, name varchar)",
    "insert into changing select n, n / 2.0, 'gone', 'name ' || n from range(500) r(n)",
    "insert into changing values (500, 250, 'gone', 'inlined')",
    "alter table changing alter id type bigint",
    "alter table changing alter amount type double",
    "insert into changing select n + 5000000000, n / 3.0, null, 'wide ' || n from range(300) r(n)",
    "alter table changing add column added varchar",
    "alter table changing drop column gone",
    "alter table changing rename column name to label",
    "insert into changing select n + 7000000000, n / 3.0, 'label ' || n, 'added' from range(300) r(n)",
    "delete from changing where id % 7 = 0",
    "update changing set label = 'updated' where id % 11 = 0",
    "delete from changing where id = 500",
    "insert into changing values (8, 0.5, 'again', 'added')",
];

const NESTED: [&str; 4] = [
    "create table nested (id integer, l integer[], s struct(a bigint, b varchar), m map(varchar, double), x struct(y integer[])[])",
    "insert into nested select n, [n, null], {'a': n, 'b': 'b'}, map {'k': n}, [{'y': [n]}] from range(100) r(n)",
    "insert into nested values (100, [], null, map {}, []), (101, null, {'a': null, 'b': null}, null, null)",
    "delete from nested where id < 10",
];

/// Queries that both engines are asked at every snapshot that has the table.
const QUERIES: [(&str, &str); 39] = [
    ("every_type", "select * replace (cast(s as timestamp) as s) from every_type"),
    (
        "every_type",
        "select count(*) as n, count(a) as a, min(e) as e, max(i) as i, sum(l) as l, min(t) as t from every_type",
    ),
    ("every_type", "select id, mixedcase from every_type where MixedCase > 2990"),
    ("every_type", "select id from every_type where id between 100 and 110"),
    ("every_type", "select id from every_type where b = -128"),
    ("every_type", "select id from every_type where e < -1000000"),
    ("every_type", "select id from every_type where i > 18446744073709551614"),
    ("every_type", "select id from every_type where i = 18446744073709551615"),
    ("every_type", "select id from every_type where j > 300"),
    ("every_type", "select id from every_type where k < -900 and k > -1000"),
    ("every_type", "select id from every_type where l = 123456789012345.678"),
    ("every_type", "select id from every_type where m > 3700000000"),
    ("every_type", "select id from every_type where n = date '1970-04-11'"),
    ("every_type", "select id from every_type where n > date '1978-01-01'"),
    ("every_type", "select id from every_type where o > time '00:49:50'"),
    ("every_type", "select id from every_type where p < timestamp '1970-01-01 04:00:00'"),
    ("every_type", "select id from every_type where q >= timestamp '2020-01-01 00:00:02.990'"),
    ("every_type", "select id from every_type where s < timestamptz '2020-03-06 00:00:00+00:00'"),
    ("every_type", "select id from every_type where s = timestamptz '2026-01-02 01:04:05.000006+00:00'"),
    ("every_type", "select id from every_type where t = 'text 1234'"),
    ("every_type", "select id from every_type where t like 'text 29%'"),
    ("every_type", "select id from every_type where a is null"),
    ("every_type", "select id from every_type where w is not null and not a"),
    ("every_type", "select id, w from every_type where w = '01234567-89ab-cdef-0123-456789abcdef'"),
    ("every_type", "select id from every_type where w > '00000000-0000-0000-0000-000000002990' and id > 3"),
    ("every_type", "select id, u->>'n' as n from every_type where (u->>'n') = '2999' or id = 4"),
    ("every_type", "select id from every_type where id in (1, 17, 2999, 123456)"),
    ("every_type", "select a, count(*) as n, sum(l) as l, avg(d) as d from every_type where id < 3000 group by a"),
    ("every_type", "select x.id, y.t from every_type x join every_type y on x.id = y.mixedCase where x.id < 20"),
    ("every_type", "select id, row_number() over (order by id desc) as r from every_type where id < 50"),
    ("every_type", "with big as (select id, e from every_type where e > 0) select max(id) as id, min(e) as e from big"),
    ("every_type", "select date_trunc('day', p) as day, count(*) as n from every_type group by 1"),
    (
        "every_type",
        "select id, case when id > 10 then 'many' else 'few' end as c, coalesce(t, 'none') as t from every_type",
    ),
    ("changing", "select * from changing"),
    ("changing", "select count(*) as n, sum(id) as id, min(amount) as low, max(amount) as high from changing"),
    ("changing", "select id from changing where id > 5000000100 and amount > 40"),
    ("changing", "select id from changing where id = 7000000250 or id = 8 or id = 500"),
    ("nested", "select * from nested"),
    ("nested", "select id, l, s from nested where id >= 95"),
];

async fn ours(reader: &LakeReader, at: At, query: &str) -> Vec<Value> {
    let engine = Engine::new(EngineOptions { partitions: 2, ..EngineOptions::default() }).unwrap();
    engine.attach_lake(Arc::new(reader.snapshot(at).unwrap())).unwrap();
    let result = engine.sql(query).await.unwrap_or_else(|error| panic!("{at:?} {query}: {error:?}"));
    plain_rows(&result.collect().await.unwrap_or_else(|error| panic!("{at:?} {query}: {error:?}")))
}

fn theirs(folder: &Path, snapshot: Option<i64>, queries: &[&str]) -> Vec<Vec<Value>> {
    Session { folder, snapshot, write: false }.run(queries).unwrap()
}

/// A lake of DuckDB's, marked as one that Portolan reads.
fn make(folder: &Path, statements: &[&str]) -> LakeReader {
    Session { folder, snapshot: None, write: true }.run(statements).unwrap();
    let catalog = rusqlite::Connection::open(folder.join("catalog.sqlite")).unwrap();
    catalog
        .execute_batch(
            "create table portolan_meta (\"key\" text primary key, \"value\" text not null);
             insert into portolan_meta values ('format_version', '1')",
        )
        .unwrap();
    LakeReader::open(folder).unwrap()
}

async fn compare(folder: &Path, reader: &LakeReader) -> usize {
    let head = reader.snapshot(At::Head).unwrap().id();
    let (mut compared, mut wrong) = (0, String::new());
    for id in 1..=head {
        let snapshot = reader.snapshot(At::Snapshot(id)).unwrap();
        let tables: Vec<String> = snapshot.tables().unwrap().into_iter().map(|table| table.name).collect();
        let queries: Vec<&str> = QUERIES
            .iter()
            .filter(|(table, query)| {
                // The columns of that time are what `*` shows; the other queries name the last ones.
                tables.iter().any(|name| name == table) && (id == head || query.contains('*') || *table != "changing")
            })
            .map(|(_, query)| *query)
            .collect();
        let answers = theirs(folder, Some(id), &queries);
        for (query, theirs) in queries.iter().zip(answers) {
            let ours = sorted(ours(reader, At::Snapshot(id), query).await);
            let theirs = sorted(theirs);
            let other = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs);
            if ours != theirs {
                wrong.push_str(&format!(
                    "\nsnapshot {id}: {query}\n{} rows of ours, {} of DuckDB's; the first that differs: {other:#?}",
                    ours.len(),
                    theirs.len()
                ));
            }
            compared += 1;
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    compared
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_every_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let statements = EVERY_TYPE.iter().chain(&CHANGES).chain(&NESTED);
    // DuckDB 1.5.5 keeps one range of values a table: it fails to read the snapshot in which a column was narrower
    // than a value that came later, so that this test keeps to values that fit.
    let statements: Vec<String> = statements.map(|text| text.replace("000000000", "000")).collect();
    let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
    let reader = make(folder.path(), &statements);
    let compared = compare(folder.path(), &reader).await;
    assert!(compared > 300, "{compared} comparisons");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_snapshot_after_flush_and_merge() {
    let folder = tempfile::tempdir().unwrap();
    let mut statements: Vec<&str> = CHANGES.iter().chain(&NESTED).copied().collect();
    statements.push("call ducklake_flush_inlined_data('lake')");
    statements.push("call ducklake_merge_adjacent_files('lake')");
    statements.push("call ducklake_rewrite_data_files('lake', delete_threshold => 0)");
    let reader = make(folder.path(), &statements);
    compare(folder.path(), &reader).await;
}
