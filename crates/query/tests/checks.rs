//! Checks over staged rows and over a lake: what each kind means, what is withheld, and on what ground a round is committed.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use jiff::Timestamp;
use portolan_lake::{At, Lake, LakeReader, LakeSettings, VerifyScope};
use portolan_model::catalog::{Catalog, Grounded, Staging, TableSpec, WriteMode};
use portolan_model::check::{CheckInput, CheckOutcome, Checked, CheckedRows, Checker, WithheldRow};
use portolan_model::config::{
    Bound, CheckKind, CheckSpec, ColumnOf, ColumnsOf, DurationText, EventTimeSpec, EventTimeUnit, ForeignKeyTable,
    FreshnessTable, OnCheckFailure, Place, RangeTable, RowCountTable, SumTable, Within,
};
use portolan_model::round::{Receipt, ReceiptVerdict, RoundRecord, RoundVerdict};
use portolan_model::{ErrorKind, RoundName, SourceName};
use portolan_query::{Engine, EngineOptions, LakeChecker};

use CheckOutcome::{Error, Failed, NotEvaluated, Passed};
use support::collector::TestClock;

fn source(name: &str) -> SourceName {
    SourceName::new(name).unwrap()
}

fn integers(values: &[Option<i64>]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn batch(columns: &[(&str, ArrayRef)]) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.iter().map(|(name, array)| (*name, array.clone(), true))).unwrap()
}

/// Rows of `orders`: an id, the customer, an amount.
fn orders(rows: &[(Option<i64>, Option<i64>, f64)]) -> RecordBatch {
    let amounts: ArrayRef = Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.2)));
    let ids = integers(&rows.iter().map(|row| row.0).collect::<Vec<_>>());
    let customers = integers(&rows.iter().map(|row| row.1).collect::<Vec<_>>());
    batch(&[("id", ids), ("customer", customers), ("amount", amounts)])
}

fn customers(ids: &[i64]) -> RecordBatch {
    batch(&[("id", integers(&ids.iter().map(|id| Some(*id)).collect::<Vec<_>>()))])
}

struct Bed {
    _folder: tempfile::TempDir,
    lake: Lake,
    checker: LakeChecker,
    start: Timestamp,
}

impl Bed {
    fn new() -> Self {
        Self::with(LakeSettings::default())
    }

    fn with(settings: LakeSettings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lake = Lake::open_with(folder.path(), settings, TestClock::new()).unwrap();
        let checker = LakeChecker::new(lake.folder());
        Self { _folder: folder, lake, checker, start: Timestamp::now() }
    }

    async fn stage(&self, tables: Vec<(&str, WriteMode, Vec<RecordBatch>)>) -> Box<dyn Staging> {
        let tables = tables.into_iter().map(|(name, mode, batches)| (name, mode, Vec::new(), batches)).collect();
        self.stage_keyed(tables).await
    }

    /// Tables whose key is their event time, too.
    async fn stage_keyed(&self, tables: Vec<(&str, WriteMode, Vec<String>, Vec<RecordBatch>)>) -> Box<dyn Staging> {
        let tables = tables.into_iter().map(|(name, mode, key, batches)| {
            let time = key.first().cloned();
            (name, mode, key, time, batches)
        });
        self.stage_all(tables.collect()).await
    }

    async fn stage_timed(&self, name: &str, column: &str, batches: Vec<RecordBatch>) -> Box<dyn Staging> {
        self.stage_all(vec![(name, APPEND, Vec::new(), Some(column.to_owned()), batches)]).await
    }

    async fn stage_all(
        &self,
        tables: Vec<(&str, WriteMode, Vec<String>, Option<String>, Vec<RecordBatch>)>,
    ) -> Box<dyn Staging> {
        let mut staging = self.lake.begin().await.unwrap();
        for (name, mode, key, time, batches) in tables {
            let timed = |column| EventTimeSpec { column, unit: Some(EventTimeUnit::Second), lateness: Duration::ZERO };
            let spec = TableSpec {
                source: source(name),
                mode,
                event_time: time.map(timed),
                watermark: Some(Timestamp::from_second(20).unwrap()),
                key,
                key_memory: 1_000_000,
                time: self.start,
            };
            let mut table = staging.table(spec).unwrap();
            for batch in batches {
                table.write(batch).await.unwrap();
            }
            table.finish().await.unwrap();
        }
        staging
    }

    async fn ask(&self, staging: &mut dyn Staging, checks: &[CheckSpec]) -> Checked {
        self.ask_beside(staging, checks, &[]).await
    }

    async fn ask_beside(
        &self,
        staging: &mut dyn Staging,
        checks: &[CheckSpec],
        others: &[(&str, CheckedRows)],
    ) -> Checked {
        let staged = staging.staged().into_iter().map(|(name, mode, rows)| (name, CheckedRows::Staged { rows, mode }));
        let mut sources: BTreeMap<SourceName, CheckedRows> = staged.collect();
        sources.extend(others.iter().map(|(name, rows)| (source(name), rows.clone())));
        let (deadline, timeout) = (Duration::from_secs(120), Duration::from_secs(60));
        self.checker
            .check(CheckInput { checks, sources, started_at: Timestamp::now(), deadline, timeout })
            .await
            .unwrap()
    }

    async fn commit(&self, staging: Box<dyn Staging>, checked: &Checked) -> Grounded {
        let receipts = staging.staged().into_iter().map(|(name, _, rows)| {
            let mut receipt = Receipt::new(name, ReceiptVerdict::Ok);
            receipt.rows = rows.rows();
            receipt
        });
        let record = RoundRecord {
            name: RoundName::new("r").unwrap(),
            verdict: RoundVerdict::Complete,
            started_at: self.start,
            duration_us: 1,
            release_spread_us: None,
            skew_bound_us: None,
            consistency: Default::default(),
            receipts: receipts.collect(),
            checks: checked.results.clone(),
        };
        staging.commit_on(checked.ground.clone(), record, &[]).await.unwrap()
    }

    async fn store(&self, tables: Vec<(&str, WriteMode, Vec<RecordBatch>)>) {
        let staging = self.stage(tables).await;
        assert!(matches!(self.commit(staging, &Checked::default()).await, Grounded::Committed(_)));
    }

    async fn query(&self, sql: &str) -> Vec<RecordBatch> {
        let engine = Engine::new(EngineOptions::default()).unwrap();
        let snapshot = LakeReader::open(&self.lake.folder()).unwrap().snapshot(At::Head).unwrap();
        engine.attach_lake(Arc::new(snapshot)).unwrap();
        engine.sql(sql).await.unwrap().collect().await.unwrap()
    }

    async fn number(&self, sql: &str) -> i64 {
        self.query(sql).await[0].column(0).as_primitive::<Int64Type>().value(0)
    }

    fn is_verified(&self) {
        let reader = LakeReader::open(&self.lake.folder()).unwrap();
        let report = reader.verify(&VerifyScope::default(), &mut |_| {}).unwrap();
        assert!(report.mismatches.is_empty(), "{:?}", report.mismatches);
    }
}

fn check(kind: CheckKind) -> CheckSpec {
    CheckSpec {
        name: "it holds".into(),
        kind,
        on_failure: OnCheckFailure::Quarantine,
        timeout: None,
        place: Place::default(),
    }
}

fn sql(text: &str) -> CheckSpec {
    check(CheckKind::Sql(text.into()))
}

fn rows_of(name: &str, text: &str) -> CheckSpec {
    check(CheckKind::Rows { source: source(name), sql: text.into() })
}

fn unique(within: Within) -> CheckSpec {
    check(CheckKind::Unique { source: source("orders"), columns: vec!["id".into()], within })
}

fn range(column: &str, min: Option<Bound>, max: Option<Bound>) -> CheckSpec {
    check(CheckKind::Range { source: source("orders"), range: RangeTable { column: column.into(), min, max } })
}

fn foreign_key(within: Within) -> CheckSpec {
    let references = ColumnsOf { source: "customers".into(), columns: vec!["id".into()] };
    let key = ForeignKeyTable { columns: vec!["customer".into()], references };
    check(CheckKind::ForeignKey { source: source("orders"), key, within })
}

fn fresh(column: &str, within: Within) -> CheckSpec {
    let freshness = FreshnessTable { column: column.into(), max_age: DurationText(Duration::from_secs(600)) };
    check(CheckKind::Freshness { source: source("ticks"), freshness, within })
}

fn count(min: Option<u64>, max: Option<u64>, equals: Option<&str>, tolerance: Option<u64>) -> CheckSpec {
    let count = RowCountTable { min, max, equals: equals.map(str::to_owned), tolerance };
    check(CheckKind::RowCount { source: source("orders"), count })
}

fn sum(column: &str, tolerance: Option<f64>) -> CheckSpec {
    let equals = ColumnOf { source: "ledger".into(), column: column.into() };
    check(CheckKind::Sum { source: source("orders"), sum: SumTable { column: "amount".into(), equals, tolerance } })
}

/// Each check's outcome and how many rows fail it.
fn outcomes(checked: &Checked) -> Vec<(CheckOutcome, Option<u64>)> {
    checked.results.iter().map(|result| (result.outcome, result.failing_rows)).collect()
}

fn numbers(checked: &Checked, name: &str) -> Vec<u64> {
    checked.withheld.get(&source(name)).map_or_else(Vec::new, |rows| rows.iter().map(|row| row.row).collect())
}

const APPEND: WriteMode = WriteMode::Append;
const REPLACE: WriteMode = WriteMode::Replace;

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_means_what_it_says() {
    let bed = Bed::new();
    let rows = [
        (Some(1), Some(7), 5.0),
        (Some(2), Some(8), -1.0),
        (Some(2), None, f64::NAN),
        (None, Some(9), 10.0),
        (None, Some(7), 0.5),
    ];
    let ledger = batch(&[("total", Arc::new(Float64Array::from(vec![4.0, 10.25])) as ArrayRef)]);
    let clean = orders(&[(Some(1), Some(7), 4.0), (Some(2), Some(8), 10.5)]);
    let mut staging = bed
        .stage(vec![
            ("orders", APPEND, vec![orders(&rows)]),
            ("customers", REPLACE, vec![customers(&[7, 8])]),
            ("ledger", APPEND, vec![ledger.clone()]),
        ])
        .await;
    let float = |value| Some(Bound::Float(value));
    let checks = [
        sql("select count(*) = 5 from orders"),
        sql("select count(*) = 6 from Orders"),
        sql("select max(id) > 5 from orders where id > 100"),
        rows_of("orders", "select _row, amount from orders where amount < 0"),
        unique(Within::Round),
        check(CheckKind::NotNull { source: source("orders"), columns: vec!["id".into(), "customer".into()] }),
        range("amount", float(0.0), None),
        range("amount", float(0.0), float(5.0)),
        foreign_key(Within::Round),
        count(Some(5), Some(5), None, None),
        count(None, None, Some("customers"), Some(2)),
        count(None, None, Some("customers"), Some(3)),
    ];
    let checked = bed.ask(&mut *staging, &checks).await;
    let expected = [
        (Passed, None),
        (Failed, None),
        (Failed, None),
        (Failed, Some(1)),
        // Rows without an id are told from each other by nothing, and none of two that are alike is the right one.
        (Failed, Some(2)),
        (Failed, Some(3)),
        (Failed, Some(1)),
        (Failed, Some(3)),
        (Failed, Some(1)),
        (Passed, None),
        (Failed, None),
        (Passed, None),
    ];
    assert_eq!(outcomes(&checked), expected, "{:#?}", checked.results);
    assert_eq!(checked.results[2].detail.as_deref(), Some("the answer is NULL"));
    assert_eq!(checked.results[3].detail.as_deref(), Some("1 of 5 rows fail: row 1 (amount = -1.0)"));
    assert_eq!(checked.results[10].detail.as_deref(), Some("5 rows, and `customers` has 2"));
    assert_eq!(checked.ground, None, "nothing of the lake was read");
    staging.abort().await;

    let mut staging = bed.stage(vec![("orders", APPEND, vec![clean]), ("ledger", APPEND, vec![ledger])]).await;
    let checks = [sum("total", None), sum("total", Some(0.25)), sum("total", Some(0.2)), unique(Within::Round)];
    let checked = bed.ask(&mut *staging, &checks).await;
    assert_eq!(outcomes(&checked), [(Failed, None), (Passed, None), (Failed, None), (Passed, Some(0))]);
    assert_eq!(checked.results[0].detail.as_deref(), Some("the sums are 14.5 and 14.25"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bounds_of_text_are_about_dates_and_texts() {
    let bed = Bed::new();
    let at: ArrayRef =
        Arc::new(TimestampMicrosecondArray::from(vec![1_000_000, 2_000_000_000_000_000]).with_timezone("UTC"));
    let rows = batch(&[("at", at), ("code", texts(&["b", "x'y"])), ("n", integers(&[Some(1), Some(2)]))]);
    let mut staging = bed.stage(vec![("orders", APPEND, vec![rows])]).await;
    let text = |text: &str| Some(Bound::Text(text.to_owned()));
    let checks = [
        range("at", text("1970-01-01T00:00:00Z"), text("2030-01-01T00:00:00Z")),
        range("code", text("a"), text("x'y")),
        range("n", text("1"), None),
        range("code", Some(Bound::Integer(1)), None),
        range("absent", Some(Bound::Integer(1)), None),
    ];
    let checked = bed.ask(&mut *staging, &checks).await;
    let expected = [(Failed, Some(1)), (Passed, Some(0)), (Error, None), (Error, None), (Error, None)];
    assert_eq!(outcomes(&checked), expected, "{:#?}", checked.results);
    let detail = checked.results[4].detail.clone().unwrap();
    assert_eq!(detail, "source `orders` has no column `absent`; it has at, code, n");
    // A check that cannot say which rows fail withholds all of them.
    assert_eq!(numbers(&checked, "orders"), [0, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn freshness_is_of_the_newest_value_at_the_start() {
    let bed = Bed::new();
    let now_us = Timestamp::now().as_microsecond();
    let ticks = |age_s: i64| {
        let at: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![Some(now_us - age_s * 1_000_000), None]));
        vec![("ticks", APPEND, vec![batch(&[("at", at), ("n", integers(&[Some(1), Some(2)]))])])]
    };
    let mut staging = bed.stage(ticks(30)).await;
    let checks = [fresh("at", Within::Round), fresh("at", Within::Lake), fresh("n", Within::Round)];
    assert_eq!(outcomes(&bed.ask(&mut *staging, &checks).await), [(Passed, None), (Passed, None), (Error, None)]);
    bed.commit(staging, &Checked::default()).await;
    // Old rows come late: the lake knows a newer value.
    let mut staging = bed.stage(ticks(3_600)).await;
    let checked = bed.ask(&mut *staging, &checks[..2]).await;
    assert_eq!(outcomes(&checked), [(Failed, None), (Passed, None)], "{:#?}", checked.results);
    staging.abort().await;
    // No row at all is no fresh one.
    let mut staging = bed.stage(vec![("ticks", APPEND, Vec::new())]).await;
    let checked = bed.ask(&mut *staging, &checks[..2]).await;
    assert_eq!(outcomes(&checked), [(Failed, None), (Passed, None)], "{:#?}", checked.results);
    assert_eq!(checked.results[0].detail.as_deref(), Some("there is no value at all"));
}

#[tokio::test(flavor = "multi_thread")]
async fn before_and_after_are_the_lake_on_both_sides_of_the_commit() {
    let bed = Bed::new();
    bed.store(vec![
        ("orders", APPEND, vec![batch(&[("id", Arc::new(Int32Array::from(vec![1, 2])) as ArrayRef)])]),
        ("customers", REPLACE, vec![customers(&[1, 2, 3])]),
        ("ledger", REPLACE, vec![customers(&[5])]),
    ])
    .await;
    // The column becomes wider, and another one comes: what is stored is read as it will be.
    let wide = orders(&[(Some(5_000_000_000), Some(4), 1.0)]);
    let mut staging =
        bed.stage(vec![("orders", APPEND, vec![wide]), ("customers", REPLACE, vec![customers(&[4])])]).await;
    let holds = [
        "select count(*) = 1 and min(id) = 5000000000 and min(_row) = 0 from orders",
        "select count(*) = 2 and max(id) = 2 from before.orders",
        "select count(*) = 3 and sum(id) = 5000000003 and count(customer) = 1 and count(amount) = 1 from after.orders",
        "select count(*) = 1 and max(id) = 4 from after.customers",
        "select count(*) = 3 from before.customers",
        // A source of another round, and one whose server proved that it is unchanged.
        "select count(*) = 1 and max(id) = 5 from after.ledger",
        "select count(*) = 1 and max(id) = 5 and count(_row) = 0 from ledger",
        "select (select count(*) from main.orders) + 1 = (select count(*) from before.orders) ",
    ];
    let others = [("ledger", CheckedRows::Unchanged { mode: REPLACE }), ("gone", CheckedRows::Missing)];
    let checked = bed.ask_beside(&mut *staging, &holds.map(sql), &others).await;
    for (text, result) in holds.iter().zip(&checked.results) {
        assert_eq!(result.outcome, Passed, "{text}: {result:?}");
    }
    let ground = checked.ground.unwrap();
    assert_eq!(ground.tables, [source("customers"), source("ledger"), source("orders")]);
    assert_eq!(checked.results[0].snapshot, None);
    assert_eq!(checked.results[1].snapshot, Some(ground.snapshot));
    // A table that is replaced owes nothing to what it held.
    assert_eq!(checked.results[3].snapshot, None);

    let silent =
        [sql("select count(*) = 0 from gone"), sql("select count(*) = 0 from before.never"), foreign_key(Within::Lake)];
    let checked = bed.ask_beside(&mut *staging, &silent, &others).await;
    assert_eq!(outcomes(&checked), [(NotEvaluated, None), (NotEvaluated, None), (Passed, Some(0))]);
    assert_eq!(checked.results[0].detail.as_deref(), Some("source `gone` is missing from the round"));

    // What a round replaces does not count against it, nor does what is the lake's already against itself.
    let of = |name: &str| {
        check(CheckKind::Unique { source: source(name), columns: vec!["id".into()], within: Within::Lake })
    };
    let mut again = bed.stage(vec![("customers", REPLACE, vec![customers(&[1, 2])])]).await;
    let checked = bed.ask_beside(&mut *again, &[of("customers"), of("ledger")], &others).await;
    assert_eq!(outcomes(&checked), [(Passed, Some(0)), (Passed, Some(0))], "{:#?}", checked.results);
    again.abort().await;

    let wrong = [
        sql("select count(*) from orders"),
        sql("select true from orders, customers, before.customers"),
        sql("select nothing from orders"),
        sql("selec true"),
        sql("select count(*) = 0 from portolan.rounds"),
        sql("delete from orders"),
        rows_of("orders", "select id from orders"),
        rows_of("orders", "select cast(77 as bigint) as _row from orders"),
    ];
    let checked = bed.ask(&mut *staging, &wrong).await;
    for result in &checked.results {
        assert_eq!(result.outcome, Error, "{result:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_without_end_or_bound_is_ended() {
    let bed = Bed::new();
    let many: Vec<_> = (0..1_000).map(|id| (Some(id), Some(id), 1.0)).collect();
    let mut staging = bed.stage(vec![("orders", APPEND, vec![orders(&many)])]).await;
    let endless = "select sum(a.id * b.id * c.id) > 0 from orders a, orders b, orders c";
    let endless = CheckSpec { timeout: Some(Duration::from_millis(200)), ..sql(endless) };
    let boundless = sql("select sum(a.id * b.id * c.id * d.id) > 0 from orders a, orders b, orders c, orders d");
    let checked = bed.ask(&mut *staging, &[endless, boundless, sql("select count(*) = 1000 from orders")]).await;
    assert_eq!(outcomes(&checked), [(Error, None), (Error, None), (Passed, None)]);
    assert_eq!(checked.results[0].detail.as_deref(), Some("no answer within 200 ms"));
    let detail = checked.results[1].detail.clone().unwrap();
    assert!(detail.contains("more memory than it may use"), "{detail}");
}

/// Rows that fail go to the quarantine whole; the others are stored, and are what their receipts say. The key is the event time,
/// too, in seconds.
async fn withholding(settings: LakeSettings, total: i64) {
    let bed = Bed::with(settings);
    let rows: Vec<_> = (0..total).map(|id| (Some(id % (total - 2)), Some(id), (id - 10) as f64)).collect();
    let keyed = || vec![("orders", APPEND, vec!["customer".to_owned()], vec![orders(&rows[..1]), orders(&rows[1..])])];
    let mut staging = bed.stage_keyed(keyed()).await;
    let negative =
        CheckSpec { name: "no debts".into(), ..rows_of("orders", "select _row from orders where amount < 0") };
    let checked = bed.ask(&mut *staging, &[negative, unique(Within::Lake)]).await;
    assert_eq!(outcomes(&checked), [(Failed, Some(10)), (Failed, Some(4))]);
    let withheld = checked.withheld[&source("orders")].clone();
    assert_eq!(withheld.len(), 12);
    assert_eq!(&*withheld[0].detail, "checks `no debts`, `it holds` not kept");
    assert_eq!(&*withheld[11].detail, "check `it holds` not kept");
    let staged = staging.withhold(&source("orders"), withheld).await.unwrap();
    assert_eq!((staged.rows, staged.quarantined), (total as u64 - 12, 12));
    // What is withheld moves no watermark, and is not late.
    let second = |second| Timestamp::from_second(second).unwrap();
    assert_eq!(staged.event_times.range, Some((second(10), second(total - 3))));
    assert_eq!((staged.event_times.believed_max, staged.event_times.late), (Some(second(total - 3)), 10));
    assert!(matches!(bed.commit(staging, &checked).await, Grounded::Committed(_)));
    assert_eq!(bed.number("select count(*) from orders where amount >= 0 and customer < 1000000000").await, total - 12);
    assert_eq!(bed.number("select count(*) from orders").await, total - 12);
    let kept = bed
        .query(
            "select content, detail, row_key from portolan.quarantine where reason = 'check' order by round, row_key",
        )
        .await;
    assert_eq!(kept.iter().map(RecordBatch::num_rows).sum::<usize>(), 12);
    let first = kept[0].column(0).as_string::<i32>().value(0);
    assert_eq!(first, r#"{"id":0,"customer":0,"amount":-10.0}"#, "the row as it came");
    let stored = bed
        .query("select name, kind, outcome, on_failure, failing_rows, detail from portolan.checks order by name")
        .await;
    assert_eq!(stored[0].num_rows(), 2);
    assert_eq!(stored[0].column(4).as_primitive::<Int64Type>().values(), &[4, 10]);
    bed.is_verified();
    // The keys of what was withheld are not remembered: corrected, it may come again.
    let staging = bed.stage_keyed(keyed()).await;
    let again = staging.staged()[0].2.rows();
    assert_eq!(again, 12);
    staging.abort().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_inside_the_catalog_are_withheld() {
    withholding(LakeSettings::default(), 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_large_round_are_withheld_from_its_files() {
    withholding(LakeSettings::default(), 300_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_quarantine_cannot_keep_whole_is_not_withheld() {
    let bed = Bed::new();
    let long = "x".repeat(70_000);
    let rows = batch(&[("id", integers(&[Some(1), Some(2)])), ("text", texts(&["short", &long]))]);
    let mut staging = bed.stage(vec![("orders", APPEND, vec![rows])]).await;
    let row = |row| WithheldRow { row, detail: "check `x` not kept".into() };
    let error = staging.withhold(&source("orders"), vec![row(1)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
    // The table is as it was.
    let staged = staging.withhold(&source("orders"), vec![row(0)]).await.unwrap();
    assert_eq!(staged.rows, 1);
    bed.commit(staging, &Checked::default()).await;
    assert_eq!(bed.number("select id from orders").await, 2);
    bed.is_verified();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_round_is_stored_on_ground_that_has_moved() {
    let bed = Bed::with(LakeSettings { flush_rows: 1, ..LakeSettings::default() });
    bed.store(vec![("orders", APPEND, vec![orders(&[(Some(1), None, 0.0)])])]).await;
    let new = || vec![("orders", APPEND, vec![orders(&[(Some(2), None, 0.0), (Some(3), None, 0.0)])])];
    let checks = [unique(Within::Lake)];
    let (mut one, mut other) = (bed.stage(new()).await, bed.stage(new()).await);
    // Both are right as they see the lake; together they are not.
    let (of_one, of_other) = (bed.ask(&mut *one, &checks).await, bed.ask(&mut *other, &checks).await);
    assert_eq!((outcomes(&of_one), outcomes(&of_other)), (vec![(Passed, Some(0))], vec![(Passed, Some(0))]));
    assert!(matches!(bed.commit(one, &of_one).await, Grounded::Committed(_)));
    let Grounded::Moved(again) = bed.commit(other, &of_other).await else { panic!("stored on stale ground") };
    other = again;
    let of_other = bed.ask(&mut *other, &checks).await;
    assert_eq!(outcomes(&of_other), [(Failed, Some(2))]);
    // Withheld, and moved again: it is as it was staged.
    other.withhold(&source("orders"), of_other.withheld[&source("orders")].clone()).await.unwrap();
    bed.store(vec![("orders", APPEND, vec![orders(&[(Some(9), None, 0.0)])])]).await;
    let Grounded::Moved(mut other) = bed.commit(other, &of_other).await else { panic!("stored on stale ground") };
    assert_eq!(other.staged()[0].2.rows(), 2);
    let of_other = bed.ask(&mut *other, &checks).await;
    other.withhold(&source("orders"), of_other.withheld[&source("orders")].clone()).await.unwrap();
    // Other tables and maintenance change nothing of what was read.
    bed.store(vec![("customers", REPLACE, vec![customers(&[1])])]).await;
    assert!(bed.lake.maintain().await.unwrap().flushed_rows > 0);
    assert!(matches!(bed.commit(other, &of_other).await, Grounded::Committed(_)));
    assert_eq!(bed.number("select count(*) from orders").await, 4);
    assert_eq!(bed.number("select count(*) from portolan.quarantine").await, 2);
    bed.is_verified();
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_rounds_never_store_the_same_id_twice() {
    let bed = Arc::new(Bed::new());
    bed.store(vec![("orders", APPEND, vec![orders(&[(Some(-1), Some(9), 0.0)])])]).await;
    let mut racers = Vec::new();
    for racer in 0..4_i64 {
        let bed = bed.clone();
        racers.push(tokio::spawn(async move {
            let mut moved = 0;
            for step in 0..15_i64 {
                // Two of the four always bring the same id.
                let id = step * 2 + racer % 2;
                let mut staging =
                    bed.stage(vec![("orders", APPEND, vec![orders(&[(Some(id), Some(racer), 0.0)])])]).await;
                loop {
                    let checked = bed.ask(&mut *staging, &[unique(Within::Lake)]).await;
                    for (name, rows) in &checked.withheld {
                        staging.withhold(name, rows.clone()).await.unwrap();
                    }
                    match bed.commit(staging, &checked).await {
                        Grounded::Committed(_) => break,
                        Grounded::Moved(again) => staging = again,
                    }
                    moved += 1;
                }
            }
            moved
        }));
    }
    let mut moved = 0;
    for racer in racers {
        moved += racer.await.unwrap();
    }
    assert!(moved > 0, "nobody ever raced");
    assert_eq!(bed.number("select count(*) from orders").await, 31);
    assert_eq!(bed.number("select count(distinct id) from orders").await, 31);
    assert_eq!(bed.number("select count(*) from portolan.quarantine").await, 30);
    let first = bed.query("select count(*) from portolan.checks where snapshot_id is null").await;
    assert_eq!(first[0].column(0).as_primitive::<Int64Type>().value(0), 0);
    assert!(first[0].column(0).is_valid(0));
    bed.is_verified();
}

/// Of one key the first row of a round counts. Were it withheld, the others, left out as its duplicates, would be nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_whose_key_came_again_is_not_withheld_alone() {
    let bed = Bed::new();
    let rows = orders(&[(Some(1), Some(7), -5.0), (Some(1), Some(7), 10.0), (Some(2), Some(8), -1.0)]);
    let mut staging = bed.stage_keyed(vec![("orders", APPEND, vec!["customer".into()], vec![rows])]).await;
    let negative = rows_of("orders", "select _row from orders where amount < 0");
    let checked = bed.ask(&mut *staging, &[negative]).await;
    let withheld = checked.withheld[&source("orders")].clone();
    assert_eq!(withheld.len(), 2);
    let error = staging.withhold(&source("orders"), withheld.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
    assert!(error.chain().contains("row 0 fails, and other rows of its key"), "{}", error.chain());
    assert_eq!(staging.withhold(&source("orders"), withheld[1..].to_vec()).await.unwrap().rows, 1);
}

/// The lake has columns `_time` and `At` of its own and of another: the event time is still the source's.
#[tokio::test(flavor = "multi_thread")]
async fn event_times_are_read_from_the_sources_column_whatever_it_is_called_in_the_table() {
    let bed = Bed::new();
    for column in ["_time", "at"] {
        let name = if column == "_time" { "influx" } else { "cased" };
        let seconds = |values: &[i64]| integers(&values.iter().map(|value| Some(*value)).collect::<Vec<_>>());
        let first =
            batch(&[("At", seconds(&[5, 5, 5])), (column, seconds(&[100, 200, 300])), ("n", seconds(&[0, 1, 2]))]);
        // What does not fit its column stands in another one.
        let later = batch(&[(column, texts(&["1970-01-01T00:06:40Z"])), ("n", seconds(&[3]))]);
        let mut staging = bed.stage_timed(name, column, vec![first, later]).await;
        let checked = bed.ask(&mut *staging, &[rows_of(name, &format!("select _row from {name} where n = 2"))]).await;
        let staged = staging.withhold(&source(name), checked.withheld[&source(name)].clone()).await.unwrap();
        let second = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(staged.event_times.range, Some((second(100), second(400))), "{column}");
        assert_eq!((staged.event_times.late, staged.event_times.untimed), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_missing_source_leaves_in_the_lake_is_no_answer() {
    let bed = Bed::new();
    bed.store(vec![("customers", REPLACE, vec![customers(&[1])])]).await;
    let new = || vec![("orders", APPEND, vec![orders(&[(Some(1), Some(2), 0.0)])])];
    let mut staging = bed.stage(new()).await;
    let after = sql("select count(*) = 1 from after.customers, orders");
    let missing = [("customers", CheckedRows::Missing)];
    let checked = bed.ask_beside(&mut *staging, &[foreign_key(Within::Lake), after.clone()], &missing).await;
    assert_eq!(outcomes(&checked), [(NotEvaluated, None), (NotEvaluated, None)]);
    assert!(checked.withheld.is_empty());
    // A source of another round is there as it is.
    let checked = bed.ask(&mut *staging, &[after]).await;
    assert_eq!(outcomes(&checked), [(Passed, None)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lake_before_has_the_columns_of_the_round() {
    let bed = Bed::new();
    bed.store(vec![("orders", APPEND, vec![customers(&[1, 2])])]).await;
    let mut staging = bed.stage(vec![("orders", APPEND, vec![orders(&[(Some(3), None, 4.0)])])]).await;
    let checks = [sql("select count(*) = 2 and max(amount) is null from before.orders")];
    assert_eq!(outcomes(&bed.ask(&mut *staging, &checks).await), [(Passed, None)]);
}

/// "The lake has nothing to compare with yet" holds as long as that is so.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_comes_to_be_moves_the_ground_of_who_missed_it() {
    let bed = Bed::new();
    let mut staging = bed.stage(vec![("orders", APPEND, vec![orders(&[(Some(1), Some(2), 0.0)])])]).await;
    let known = [sql("select count(*) = 0 from orders where customer not in (select id from before.customers)")];
    let checked = bed.ask(&mut *staging, &known).await;
    assert_eq!(outcomes(&checked), [(NotEvaluated, None)]);
    bed.store(vec![("customers", REPLACE, vec![customers(&[1])])]).await;
    let Grounded::Moved(mut staging) = bed.commit(staging, &checked).await else { panic!("stored unasked") };
    assert_eq!(outcomes(&bed.ask(&mut *staging, &known).await), [(Failed, None)]);
}
