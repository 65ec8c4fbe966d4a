//! What each kind of check means, and on which rows.

use crate::*;

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
