//! A reader that asks the catalog several times for one query finds each row once, however a flush falls between its
//! questions: the catalog itself is asked here, as DuckDB asks it, at each step of a flush.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use common::*;
use portolan_lake::LakeSettings;

/// The answers that one instant of the catalog gives about `state`: by snapshot.
struct Instant {
    head: i64,
    /// Files: begin, end, last snapshot inside, rows.
    files: Vec<(i64, Option<i64>, Option<i64>, u64)>,
    /// Rows inside the catalog: begin, end.
    inlined: Vec<(i64, Option<i64>)>,
}

impl Instant {
    fn take(folder: &Path) -> Self {
        let connection = rusqlite::Connection::open(folder.join("catalog.sqlite")).unwrap();
        let head = connection.query_row("select max(snapshot_id) from ducklake_snapshot", [], |r| r.get(0)).unwrap();
        let table = "(select table_id from ducklake_table where table_name = 'numbers')";
        let sql = format!(
            "select begin_snapshot, end_snapshot, partial_max, record_count from ducklake_data_file where table_id = {table}"
        );
        let files = connection
            .prepare(&sql)
            .unwrap()
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
            .unwrap()
            .collect::<rusqlite::Result<_>>()
            .unwrap();
        let sql = format!("select table_name from ducklake_inlined_data_tables where table_id = {table}");
        let name: String = connection.query_row(&sql, [], |row| row.get(0)).unwrap();
        let inlined = connection
            .prepare(&format!("select begin_snapshot, end_snapshot from {name}"))
            .unwrap()
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
            .collect::<rusqlite::Result<_>>()
            .unwrap();
        Self { head, files, inlined }
    }

    /// Rows in files that a reader at `snapshot` sees; every file here holds rows of snapshots before the flush only.
    fn in_files(&self, snapshot: i64) -> u64 {
        let sees = |begin: i64, end: Option<i64>| begin <= snapshot && end.is_none_or(|end| end > snapshot);
        let visible = self.files.iter().filter(|(begin, end, ..)| sees(*begin, *end));
        visible
            .map(|(_, _, last, rows)| {
                assert!(last.is_none_or(|last| last <= snapshot), "a file holds rows that {snapshot} must not see");
                *rows
            })
            .sum()
    }

    fn inside(&self, snapshot: i64) -> u64 {
        let sees = |(begin, end): &&(i64, Option<i64>)| *begin <= snapshot && end.is_none_or(|end| end > snapshot);
        self.inlined.iter().filter(sees).count() as u64
    }
}

#[tokio::test]
async fn each_row_is_found_once_between_the_steps() {
    let folder = tempfile::tempdir().unwrap();
    // No waiting between the steps: this test takes the place of the readers that the pause is for.
    let grace = Duration::ZERO;
    let settings = LakeSettings { flush_rows: 1, flush_after: Duration::ZERO, grace, ..settings() };
    let lake = open(folder.path(), settings).await;
    for start in [0, 10] {
        let column: ArrayRef = Arc::new((start..start + 10).collect::<Int64Array>());
        round(&lake, spec("numbers"), &[RecordBatch::try_from_iter([("id", column)]).unwrap()]).await.unwrap();
    }
    let before = Instant::take(folder.path());
    let report = lake.maintain().await.unwrap();
    assert!(report.flushed_rows >= 20 && report.settled_rows == 0, "{report}");
    let flushed = Instant::take(folder.path());
    let report = lake.maintain().await.unwrap();
    assert!(report.settled_rows >= 20, "{report}");
    let settled = Instant::take(folder.path());

    assert_eq!((before.in_files(before.head), before.inside(before.head)), (0, 20));
    assert_eq!((settled.in_files(before.head), settled.inside(before.head)), (20, 0));
    assert!(settled.inlined.is_empty());
    // The snapshot a reader is at, and the instants at which it may ask for files and for rows inside.
    for (head, instants) in [(before.head, [&before, &flushed]), (flushed.head, [&flushed, &settled])] {
        for files in instants {
            for inlined in instants {
                assert_eq!(files.in_files(head) + inlined.inside(head), 20, "at snapshot {head}");
            }
        }
    }
}
