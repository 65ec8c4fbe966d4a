//! Watermarks and event times in the lake: committed with their round, never going back, read again by the next process.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use arrow::record_batch::RecordBatch;
use common::{duck, open, receipt, record, settings, source, spec};
use jiff::Timestamp;
use portolan_model::catalog::{Catalog, EventTimes, TableSpec};
use portolan_model::config::EventTimeSpec;
use portolan_model::round::RoundVerdict;

fn instant(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn batch(rows: &[(i64, Option<i64>)]) -> RecordBatch {
    let ids: ArrayRef = Arc::new(rows.iter().map(|(id, _)| *id).collect::<Int64Array>());
    let times: ArrayRef =
        Arc::new(rows.iter().map(|(_, time)| time.map(|time| instant(time).to_string())).collect::<StringArray>());
    RecordBatch::try_from_iter([("id", ids), ("at", times)]).unwrap()
}

fn timed(watermark: Option<i64>) -> TableSpec {
    let event_time = EventTimeSpec { column: "at".into(), unit: None, lateness: Duration::from_secs(2) };
    TableSpec {
        event_time: Some(event_time),
        watermark: watermark.map(instant),
        key: vec!["id".into()],
        ..spec("orders")
    }
}

#[tokio::test]
async fn late_rows_are_stored_and_counted_and_repeated_ones_are_not_late() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path(), settings()).await;
    for (watermark, rows, expected) in [
        (None, vec![(1, Some(100)), (2, Some(90)), (3, None)], (Some((90, 100)), 0, 1)),
        // Row 1 comes again, and the lake has it.
        (Some(98), vec![(1, Some(10)), (4, Some(97)), (5, Some(98)), (6, Some(120))], (Some((97, 120)), 1, 0)),
    ] {
        let mut staging = lake.begin().await.unwrap();
        let mut table = staging.table(timed(watermark)).unwrap();
        table.write(batch(&rows)).await.unwrap();
        let EventTimes { range, believed_max, late, untimed } = table.finish().await.unwrap().event_times;
        let (expected_range, expected_late, expected_untimed) = expected;
        assert_eq!(range, expected_range.map(|(min, max)| (instant(min), instant(max))));
        assert_eq!(believed_max, range.map(|(_, max)| max));
        assert_eq!((late, untimed), (expected_late, expected_untimed));
        let mut receipt = receipt("orders");
        (receipt.event_times, receipt.late, receipt.untimed) = (range, late, untimed);
        receipt.watermark = believed_max.map(|max| max - Duration::from_secs(2));
        staging.commit(record(vec![receipt]), &[]).await.unwrap();
    }
    assert_eq!(lake.watermarks().await.unwrap()[&source("orders")], instant(118));
    drop(lake);
    let found = duck(
        folder.path(),
        &[
            "select epoch(event_time_min)::int8 as low, epoch(event_time_max)::int8 as high, late, untimed, \
           epoch(watermark)::int8 as mark from portolan.receipts order by round",
            "select count(*) as n from orders",
        ],
    );
    assert_eq!(found[0][0], serde_json::json!({"low": 90, "high": 100, "late": 0, "untimed": 1, "mark": 98}));
    assert_eq!(found[0][1], serde_json::json!({"low": 97, "high": 120, "late": 1, "untimed": 0, "mark": 118}));
    assert_eq!(found[1][0]["n"], 6, "late rows are stored");
}

#[tokio::test]
async fn a_watermark_survives_a_restart_and_neither_goes_back_nor_moves_with_a_rejected_round() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path(), settings()).await;
    for (watermark, verdict) in
        [(100, RoundVerdict::Complete), (50, RoundVerdict::Complete), (200, RoundVerdict::Rejected)]
    {
        let mut receipt = receipt("orders");
        receipt.watermark = Some(instant(watermark));
        let mut record = record(vec![receipt]);
        record.verdict = verdict;
        lake.begin().await.unwrap().commit(record, &[]).await.unwrap();
    }
    drop(lake);
    let lake = open(folder.path(), settings()).await;
    let watermarks = lake.watermarks().await.unwrap();
    assert_eq!(watermarks.into_iter().collect::<Vec<_>>(), [(source("orders"), instant(100))]);
}
