//! What both engines are asked of a lake of our own.

use portolan_lake::TableView;
use portolan_lake::types::{Column, Kind};

use super::canonical;

/// What is asked of both engines at every snapshot that has the tables.
pub(crate) const QUERIES: [&str; 46] = [
    "select id from {scalars} where int8 = -128",
    "select id from {scalars} where int64 > 9007199254740992",
    "select id from {scalars} where uint64 = 18446744073709551615",
    "select id from {scalars} where uint64 > 9223372036854775807",
    "select id from {scalars} where float64 > 1e299",
    "select id from {scalars} where float32x > 1000",
    "select id from {scalars} where float64x = 0.0",
    "select id from {scalars} where float64x >= 2.5",
    "select id from {scalars} where float64x < 0.0",
    "select id from {scalars} where decimal9 = 123.45",
    "select id from {scalars} where decimal38 > 1e20",
    "select id from {scalars} where decimal18 < 0",
    "select id from {scalars} where decimal65 = '-0.000000000000000000000000000001'",
    "select id from {scalars} where date32 = date '2020-01-02'",
    "select id from {scalars} where date32 < date '0001-01-02'",
    "select id from {scalars} where date32 > date '9999-12-30'",
    "select id from {scalars} where time64us > time '12:00:00'",
    "select id from {scalars} where ts_us < timestamp '1970-01-01 00:00:00'",
    "select id from {scalars} where ts_us = timestamp '2020-01-02 03:04:05.000006'",
    "select id from {scalars} where ts_us > timestamp '9999-12-31 23:59:59'",
    "select id from {scalars} where ts_ms <= timestamp '1969-12-31 23:59:59.999'",
    "select id from {scalars} where tz_us >= timestamptz '2020-01-02 03:04:05.000006+00:00'",
    "select id from {scalars} where tz_us < timestamptz '0001-01-01 00:00:00+00:00'",
    "select id from {scalars} where ts_ns < timestamp '1970-01-01 00:00:00'",
    "select id from {scalars} where utf8 = ''",
    "select id from {scalars} where utf8 = 'it''s'",
    "select id from {scalars} where utf8 > 'y' and utf8 < 'é'",
    "select id from {scalars} where utf8 = e'a\\nb' or utf8 like '%\"%'",
    "select id from {scalars} where uuid = '5b5b5b5b-5b5b-5b5b-5b5b-5b5b5b5b5b5b'",
    "select id from {scalars} where uuid > '80000000-0000-0000-0000-000000000000'",
    "select id from {scalars} where boolean is null or not boolean",
    "select id from {scalars} where id between 210 and 730 and _round > 3",
    "select boolean, int8, count(*) as n, sum(int16) as s, sum(uint64) as u, cast(max(decimal38) as varchar) as m from {scalars} group by boolean, int8",
    "select cast(date_trunc('day', _time) as timestamp) as day, count(*) as n, sum(decimal9) as s from {scalars} group by 1",
    "select r.round, r.source, r.rows, count(s.id) as n from {receipts} r left join {scalars} s on s._round = r.round \
     where r.source = 'scalars' group by r.round, r.source, r.rows",
    "select x.round, x.snapshot_id, x.sources, count(*) as n from {rounds} x join {receipts} r on r.round = x.round \
     group by x.round, x.snapshot_id, x.sources",
    "select q.source, q.reason, q.round, count(*) as n from {quarantine} q group by q.source, q.reason, q.round",
    "select k.key, s.value from {keyed} k join {state} s on s.key = k.key",
    "select key, count(*) as n from {keyed} group by key",
    "select id, row_number() over (order by id desc) as place from {scalars} where id > 20",
    "select count(*) as n, sum(id) as s, min(_round) as low from {nested}",
    "select int8, boolean, count(*) as n, sum(id) as s, count(date32) as dates, max(utf8) as high from {many} group by int8, boolean",
    "select id, utf8 from {many} where id between 108190 and 108195 or id = 110000",
    "select count(*) as n, min(id) as low from {many} where float64x > 0.5 and utf8 like '%e%'",
    "select m.int8, count(*) as n from {many} m join {scalars} s on s.int8 = m.int8 and s.date32 = m.date32 group by m.int8",
    "select id, list_int32[1] as first, struct['part int8''s'] as part from {nested} where id % 3 = 0",
];

/// Columns of `scalars` on which it is joined with itself, and compared with its own bounds.
const JOINED: [&str; 14] = [
    "int8",
    "uint64",
    "float32",
    "float64x",
    "decimal38",
    "decimal18",
    "date32",
    "time64us",
    "ts_us",
    "tz_us",
    "ts_ns",
    "utf8",
    "uuid",
    "json",
];

/// One question, in the words of each engine.
pub(crate) struct Question {
    /// What is asked, for people.
    pub(crate) what: String,
    pub(crate) ours: String,
    pub(crate) theirs: String,
    /// The types of the columns where their values are compared as texts, else nothing: as plain values.
    pub(crate) kinds: Option<Vec<Kind>>,
}

/// Rows of a table above which its content is compared at the newest snapshot alone.
pub(crate) const ROWS_MANY: u64 = 5_000;

/// The name of a table, with that of its schema.
pub(crate) fn name(table: &TableView) -> String {
    format!("{}.{}", quoted(&table.schema), quoted(&table.name))
}

/// Every column of every row of `tables`, and the columns themselves; DuckDB is asked for `version`, or for what it has
/// attached.
pub(crate) fn contents<'a>(tables: impl IntoIterator<Item = &'a TableView>, version: Option<i64>) -> Vec<Question> {
    let at = version.map(|version| format!(" at (version => {version})")).unwrap_or_default();
    tables.into_iter().flat_map(|table| content(&name(table), &table.columns, &at)).collect()
}

/// What is asked at the snapshot `version`, which has `tables`, beside their contents: a third of the bounds and queries.
pub(crate) fn about(tables: &[TableView], version: i64) -> Vec<Question> {
    let asked = tables.iter().enumerate().filter(|(place, _)| is_due(*place, version));
    let asked = asked.flat_map(|(_, table)| bounds(&name(table), &table.columns, version));
    asked.chain(queries(tables, version)).collect()
}

/// A third of the questions is asked at each snapshot, another one at the next.
fn is_due(place: usize, version: i64) -> bool {
    (place as i64 + version) % 3 == 0
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

fn content(table: &str, columns: &[Column], at: &str) -> [Question; 2] {
    let values = columns.iter().enumerate();
    let values =
        values.map(|(place, column)| format!("{} as c{place}", canonical::sql(&quoted(&column.name), &column.kind)));
    let types =
        columns.iter().map(|column| format!("({}, {})", text(&column.name), text(&canonical::type_name(&column.kind))));
    [
        Question {
            what: format!("all of {table}"),
            ours: format!("select * from {table}"),
            theirs: format!("select {} from {table}{at}", values.collect::<Vec<_>>().join(", ")),
            kinds: Some(columns.iter().map(|column| column.kind.clone()).collect()),
        },
        Question {
            what: format!("columns of {table}"),
            ours: format!("select * from (values {}) as v(name, type)", types.collect::<Vec<_>>().join(", ")),
            theirs: format!(
                "select column_name as name, replace(column_type, '\"', '') as type from (describe from {table}{at})"
            ),
            kinds: None,
        },
    ]
}

/// Least, greatest, how many and how many different values of each column that is not nested, some columns a question.
fn bounds(table: &str, columns: &[Column], version: i64) -> Vec<Question> {
    let flat: Vec<&Column> = columns.iter().filter(|column| !column.kind.is_nested()).collect();
    flat.chunks(16)
        .map(|columns| {
            let (mut ours, mut theirs, mut kinds) = (Vec::new(), Vec::new(), Vec::new());
            for column in columns {
                let name = quoted(&column.name);
                for (value, kind) in [
                    (format!("min({name})"), column.kind.clone()),
                    (format!("max({name})"), column.kind.clone()),
                    (format!("count({name})"), Kind::Int64),
                    (format!("count(distinct {name})"), Kind::Int64),
                ] {
                    let place = kinds.len();
                    ours.push(format!("{value} as c{place}"));
                    theirs.push(format!("{} as c{place}", canonical::sql(&value, &kind)));
                    kinds.push(kind);
                }
            }
            Question {
                what: format!("bounds of {} and following in {table}", columns[0].name),
                ours: format!("select {} from {table}", ours.join(", ")),
                theirs: format!("select {} from {table} at (version => {version})", theirs.join(", ")),
                kinds: Some(kinds),
            }
        })
        .collect()
}

/// The questions of [`QUERIES`] and [`JOINED`] for which `tables` has what they ask for.
fn queries(tables: &[TableView], version: i64) -> Vec<Question> {
    let joins = JOINED.iter().flat_map(|column| {
        [
            format!(
                "select a.id, b.id as other from {{scalars}} a join {{scalars}} b on a.{column} = b.{column} \
                 where a.id < 12 and b.id < 60"
            ),
            format!(
                "select id from {{scalars}} where {column} < (select max({column}) from {{scalars}} where id < 30)"
            ),
            format!("select {column} is null as missing, count(*) as n from {{scalars}} group by {column}"),
        ]
    });
    let all = QUERIES.iter().map(|text| (*text).to_owned()).chain(joins).enumerate();
    let all = all.filter(|(place, _)| is_due(*place, version));
    let mut questions = Vec::new();
    for (_, what) in all {
        let (mut ours, mut theirs) = (what.clone(), what.clone());
        for table in tables {
            let (place, name) = (format!("{{{}}}", table.name), name(table));
            ours = ours.replace(&place, &name);
            theirs = theirs.replace(&place, &format!("(from {name} at (version => {version}))"));
        }
        if !ours.contains('{') {
            questions.push(Question { what, ours, theirs, kinds: None });
        }
    }
    questions
}
