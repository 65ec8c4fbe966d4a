//! What is withheld, and on what ground a round is committed.

use crate::*;

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
