//! Queries over rows in memory: what is accepted, refused, suggested, and exact.

#![allow(clippy::unwrap_used, reason = "a test that fails stops")]

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Decimal128Array, Float32Array, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray,
    UInt64Array,
};
use arrow::record_batch::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use portolan_model::ErrorKind;
use portolan_query::{Engine, EngineOptions};

fn engine() -> Engine {
    let orders = RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef),
        ("customerId", Arc::new(UInt64Array::from(vec![Some(7), Some(u64::MAX), None])) as ArrayRef),
        (
            "amount",
            Arc::new(
                Decimal128Array::from(vec![Some(150), Some(-1), Some(99_999_999_999)])
                    .with_precision_and_scale(20, 2)
                    .unwrap(),
            ) as ArrayRef,
        ),
        ("_time", Arc::new(TimestampMicrosecondArray::from(vec![0, 1, 1_000_000]).with_timezone("UTC")) as ArrayRef),
    ])
    .unwrap();
    let customers = RecordBatch::try_from_iter([
        ("id", Arc::new(UInt64Array::from(vec![7, u64::MAX])) as ArrayRef),
        ("name", Arc::new(StringArray::from(vec!["Ada", "Grace"])) as ArrayRef),
    ])
    .unwrap();
    let engine = Engine::new(EngineOptions { partitions: 2, ..EngineOptions::default() }).unwrap();
    engine.attach_rows("orders", orders.schema(), vec![orders]).unwrap();
    engine.attach_rows("customers", customers.schema(), vec![customers]).unwrap();
    engine
}

async fn table(engine: &Engine, text: &str) -> String {
    let stream = engine.sql(text).await.unwrap_or_else(|error| panic!("{text}: {error:?}"));
    let schema = stream.schema.clone();
    let mut batches = stream.collect().await.unwrap_or_else(|error| panic!("{text}: {error:?}"));
    if batches.is_empty() {
        batches.push(RecordBatch::new_empty(schema));
    }
    pretty_format_batches(&batches).unwrap().to_string()
}

async fn failure(text: &str) -> portolan_model::Error {
    match engine().sql(text).await {
        Err(error) => error,
        Ok(stream) => stream.collect().await.expect_err(text),
    }
}

#[tokio::test]
async fn joins_rows_of_two_sources_exactly() {
    let text = "select o.id, c.name, o.amount, o.amount * 0.1 as tenth, o._time from orders o \
                left join customers c on o.customerId = c.id order by o.id";
    insta::assert_snapshot!(table(&engine(), text).await);
}

#[tokio::test]
async fn names_without_quotes_are_the_same_whatever_their_case() {
    let engine = engine();
    for text in [
        "select customerId from orders order by id limit 1",
        "SELECT CUSTOMERID FROM Orders ORDER BY ID LIMIT 1",
        "select O.customerid from main.orders o order by o.ID limit 1",
        "select \"customerId\" from lake.main.orders order by id limit 1",
        "with Mine as (select CustomerID, id from orders) select customerid from MINE order by Id limit 1",
    ] {
        let shown = table(&engine, text).await;
        assert!(shown.contains("| customerId |") && shown.contains("| 7 "), "{text}\n{shown}");
    }
    assert!(table(&engine, "select id as OrderNumber from orders order by ordernumber").await.contains("OrderNumber"));
}

#[tokio::test]
async fn only_reads() {
    for text in [
        "create table t (id int)",
        "insert into orders values (1)",
        "delete from orders",
        "update orders set id = 1",
        "drop table orders",
        "copy orders to 'x.parquet'",
        "create external table t stored as parquet location '/etc'",
        "set datafusion.execution.batch_size = 1",
        "explain insert into orders values (1)",
        "select * into t from orders",
        "with x as (insert into orders values (1) returning id) select * from x",
        "truncate table orders",
        "create view v as select 1",
        "begin",
        "attach 'x' as y",
    ] {
        let error = failure(text).await;
        assert!(matches!(error.kind(), ErrorKind::Permission | ErrorKind::Configuration), "{text}: {error:?}");
    }
    assert_eq!(failure("drop table orders").await.kind(), ErrorKind::Permission);
    let engine = engine();
    for text in ["explain select 1", "show tables", "describe orders", "values (1, 'a')", "show columns from orders"] {
        table(&engine, text).await;
    }
}

#[tokio::test]
async fn errors_name_the_place_and_the_nearest_name() {
    let mut shown = String::new();
    for text in [
        "selec 1",
        "select 1 from",
        "select\n  amonut from orders",
        "select o.nmae from orders o",
        "select id from ordrs",
        "select id from portolan.rounds",
        "select nosuch(1)",
        "select id, count(*) from orders",
        "select 1; select 2",
        "",
        "select 'open",
        "select 1/0",
        "select cast('x' as bigint)",
        "select id from orders o join customers c on true where id = 1",
    ] {
        let error = failure(text).await;
        shown.push_str(&format!("{text}\n  {error:?}\n"));
    }
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn a_deep_expression_is_a_result_or_an_error_never_a_crash() {
    let engine = engine();
    for (links, accepted) in [(400, true), (5_000, false)] {
        for link in [" and ", " or ", " + "] {
            let one = if link == " + " { "id" } else { "id > 0" };
            let chain = vec![one; links].join(link);
            let end = if link == " + " { " > 0" } else { "" };
            let result = match engine.sql(&format!("select count(*) from orders where {chain}{end}")).await {
                Ok(stream) => stream.collect().await.map(|_| ()),
                Err(error) => Err(error),
            };
            assert_eq!(
                result.err().map(|error| error.kind()),
                (!accepted).then_some(ErrorKind::Limit),
                "{links} {link}"
            );
        }
    }
    let chains = [
        "= true",
        "<> true",
        "is null",
        "is not true",
        "like 'a'",
        "collate \"C\"",
        "between true and true",
        "in (true)",
        "// 1",
        "~~ 'a'",
        "!~~ 'a'",
        "~~* 'a'",
        "!~~* 'a'",
        "xor true",
        "#> 'a'",
        "@@ 'a'",
        "@> 'a'",
        "^ 1",
        "is distinct from 1",
    ];
    for link in chains {
        let chain = format!("select true {}", vec![link; 60_000].join(" "));
        assert!(engine.sql(&chain).await.is_err(), "{link}");
    }
    let subscripts = format!("select [[1]]{}", "[1]".repeat(60_000));
    assert!(engine.sql(&subscripts).await.is_err());
    let unions = vec!["select 1"; 5_000].join(" union all ");
    assert_eq!(engine.sql(&unions).await.err().map(|error| error.kind()), Some(ErrorKind::Limit));
    let nested = format!("select {}1{}", "(".repeat(5_000), ")".repeat(5_000));
    assert!(engine.sql(&nested).await.is_err());
    let list = format!("select count(*) from orders where id in ({})", vec!["1"; 20_000].join(","));
    assert!(engine.sql(&list).await.is_ok());
    let long = format!("select '{}'", "x".repeat(2 * 1024 * 1024));
    assert_eq!(engine.sql(&long).await.err().map(|error| error.kind()), Some(ErrorKind::Limit));
}

#[tokio::test]
async fn sums_of_integers_do_not_wrap() {
    let engine = engine();
    let rows = RecordBatch::try_from_iter([
        ("n", Arc::new(Int64Array::from(vec![i64::MAX, i64::MAX, 3])) as ArrayRef),
        ("u", Arc::new(UInt64Array::from(vec![u64::MAX, u64::MAX, 1])) as ArrayRef),
    ])
    .unwrap();
    engine.attach_rows("wide", rows.schema(), vec![rows]).unwrap();
    let text = "select sum(n) as n, sum(u) as u, sum(distinct u) as d, sum(1) as o, sum(null) as z from wide";
    let windows =
        "select n, sum(u) over (order by n, u rows between 1 preceding and current row) as w from wide order by n, w";
    let empty = "select sum(n) as n, sum(n) filter (where n < 0) as f from wide where n < 0";
    let shown = [table(&engine, text).await, table(&engine, windows).await, table(&engine, empty).await].join("\n");
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn floats_beside_decimals_stay_floats() {
    let engine = engine();
    let floats =
        Float64Array::from(vec![Some(1e300), Some(1e-20), Some(-0.0), Some(0.0), Some(f64::NAN), Some(0.1), None]);
    let small =
        Float32Array::from(vec![Some(0.1), Some(1e-20), Some(-0.0), Some(0.0), Some(f32::INFINITY), None, None]);
    let rows =
        RecordBatch::try_from_iter([("x", Arc::new(floats) as ArrayRef), ("f", Arc::new(small) as ArrayRef)]).unwrap();
    engine.attach_rows("measured", rows.schema(), vec![rows]).unwrap();
    let mut shown = Vec::new();
    for text in [
        "select x from measured where x > 2.5 order by x",
        "select x from measured where x = 0.0 or x = 0.1 order by x",
        "select x from measured where x between 0.00000000000000000001 and 0.1 order by x",
        "select f from measured where f in (0.1, 0.2) or f > 1e3",
        "select coalesce(x, 0.5) as c, greatest(x, 0.5) as g, case when x > 0 then x else 0.5 end as w, nullif(f, 0.1) as n \
         from measured where x is null or x < 1 order by x",
        "select case x when 0.1 then 'tenth' when 1e300 then 'large' end as c, count(*) as n from measured group by 1 order by 1",
        "select count(distinct x) as x, count(distinct f) as f, min(x) as low from measured",
        "select -1e300 as m, 1.5e0 as e, 2E3 as k, e'it\\'s\\n' as t",
    ] {
        shown.push(format!("{text}\n{}", table(&engine, text).await));
    }
    insta::assert_snapshot!(shown.join("\n\n"));
}

#[tokio::test]
async fn json_is_reached_by_path_with_its_digits() {
    let engine = engine();
    let json = r#"{"a": {"b": [1, 12345678901234567890.10]}, "s": "x\"y", "n": null}"#;
    let rows = RecordBatch::try_from_iter([
        ("j", Arc::new(StringArray::from(vec![Some(json), Some("not json"), None])) as ArrayRef),
        ("id", Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef),
    ])
    .unwrap();
    engine.attach_rows("documents", rows.schema(), vec![rows]).unwrap();
    let text = "select id, j->'a' as a, j->>'$.a.b[1]' as number, j->'s' as s, j->>'s' as t, j->>'n' as n, j->'n' as m, \
                j->'a'->'b'->>0 as first, json_extract_string(j, '$.a.b[-1]') as last from documents order by id";
    insta::assert_snapshot!(table(&engine, text).await);
    let error = engine.sql("select j->>'$.a[x]' from documents").await.unwrap().collect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data, "{error:?}");
}

/// What `docs/query.md` says of the dialect.
#[tokio::test]
async fn documented_differences_are_as_documented() {
    let engine = engine();
    let mut shown = String::new();
    for text in [
        "select 7 / 2 as a, 7 / 2.0 as b, 7 % 4 as c",
        "select cast(9223372036854775807 as bigint) + cast(1 as bigint) as wraps",
        "select cast(cast(9223372036854775807 as bigint) as decimal(38,0)) + 1 as exact",
        "select cast(-0.0 as double) = cast(0.0 as double) as same",
        "select try_cast('x' as bigint) as none",
        "select avg(amount) as mean, arrow_typeof(avg(amount)) as kind from orders",
        "select arrow_typeof(now()) as kind, arrow_typeof(timestamp '0001-01-01') as old, arrow_typeof(0.1) as literal",
        "select timestamp '0001-01-01 00:00:00.000001' as old, timestamptz '2026-01-02 03:04:05+02:00' as zoned",
        "select arrow_typeof(x) as kind, count(*) as n from (select 1e0 as x union all select 0.5) group by 1",
        "select [1, 2, 3][1] as first, array_length([1, 2]) as count",
        "select unnest([1, 2]) as item",
        "from orders limit 1",
        "select * exclude (amount), amount as a from orders order by id limit 1",
        "select id from orders qualify row_number() over (order by id desc) = 1",
        "select id, sum(amount) as s from orders group by rollup (id) order by id",
        "select encode(cast('ab' as blob), 'hex') as hex, cast('7' as ubigint) as u, cast(1 as hugeint) as h",
        "select date_trunc('hour', timestamp '2026-01-02 03:04:05') as hour, extract(year from date '2026-01-02') as y",
        "select table_schema, table_name from information_schema.tables where table_schema = 'main' order by 2",
    ] {
        shown.push_str(&format!("{text}\n{}\n", table(&engine, text).await));
    }
    insta::assert_snapshot!(shown);
    for text in ["pivot orders on id using sum(amount)", "select * from 'file.csv'", "select * from read_csv('x')"] {
        assert!(engine.sql(text).await.is_err(), "{text}");
    }
}

#[tokio::test]
async fn memory_is_bounded() {
    let options =
        EngineOptions { memory_limit_bytes: 200_000, partitions: 1, spill_limit_bytes: 0, ..EngineOptions::default() };
    let engine = Engine::new(options).unwrap();
    let rows =
        RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from_iter_values(0..200_000)) as ArrayRef)]).unwrap();
    engine.attach_rows("numbers", rows.schema(), vec![rows]).unwrap();
    let error = engine.sql("select n, count(*) from numbers group by n").await.unwrap().collect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit, "{error:?}");
    assert!(error.hint().is_some());
}
