//! A full disk refuses rounds, says so, leaves nothing visible, and is forgotten as soon as there is room.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use common::*;
use portolan_lake::{At, LakeSettings};
use portolan_model::ErrorKind;
use portolan_model::catalog::Catalog;

/// A small file system in memory, unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: &Path, size: &str) -> Self {
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(folder).status();
        assert!(status.unwrap().success(), "mounting a tmpfs needs root: run the tests in a container that has it");
        Self(folder.to_path_buf())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn batch(rows: i64, seed: i64) -> RecordBatch {
    let id: ArrayRef = Arc::new((0..rows).collect::<Int64Array>());
    // Text that does not compress: the digits of a multiplicative sequence.
    let mut state = seed as u64 | 1;
    let mut word = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{state:016x}")
    };
    let text: ArrayRef =
        Arc::new((0..rows).map(|_| Some((0..8).map(|_| word()).collect::<String>())).collect::<StringArray>());
    RecordBatch::try_from_iter_with_nullable([("id", id, true), ("text", text, true)]).unwrap()
}

async fn fills_and_recovers(inline_rows: u32, rows: i64) {
    let folder = tempfile::tempdir().unwrap();
    let _disk = SmallDisk::mount(folder.path(), "4m");
    let lake_folder = folder.path().join("lake");
    let lake = open(&lake_folder, LakeSettings { inline_rows, ..settings() }).await;
    let ballast = folder.path().join("ballast");
    std::fs::write(&ballast, vec![1u8; 1 << 20]).unwrap();
    let mut stored = 0;
    let error = loop {
        match round(&lake, spec("t"), &[batch(rows, stored)]).await {
            Ok(_) => stored += rows,
            Err(error) => break error,
        }
        assert!(stored < 1_000_000, "a disk of 4 MiB took {stored} rows");
    };
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error:?}");
    assert!(error.hint().is_some());
    let count = |folder: &Path| {
        let head = at(folder, At::Head);
        head.table("main", "t").unwrap().map_or(0, |table| rows_of(&head, &table))
    };
    assert_eq!(count(&lake_folder), stored);
    assert_eq!(round(&lake, spec("t"), &[batch(rows, 1)]).await.unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(count(&lake_folder), stored);
    std::fs::remove_file(&ballast).unwrap();
    round(&lake, spec("t"), &[batch(rows, 2)]).await.unwrap();
    assert_eq!(count(&lake_folder), stored + rows);
}

/// The file is written, the disk is full only when the catalog is: no room is lost to a file that nothing names.
#[tokio::test]
async fn at_the_commit_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let _disk = SmallDisk::mount(folder.path(), "16m");
    let lake_folder = folder.path().join("lake");
    let lake = open(&lake_folder, LakeSettings { inline_rows: 1, ..settings() }).await;
    round(&lake, spec("t"), &[batch(10, 1)]).await.unwrap();
    let data = lake_folder.join("data/main/t");
    let files = || std::fs::read_dir(&data).unwrap().count();
    let mut staging = lake.begin().await.unwrap();
    let mut table = staging.table(spec("t")).unwrap();
    table.write(batch(100, 2)).await.unwrap();
    table.finish().await.unwrap();
    assert_eq!(files(), 2);
    // Every page that is left.
    let ballast = std::fs::File::create(folder.path().join("ballast")).unwrap();
    let mut length = 0;
    let mut fill = |step: usize| {
        while std::os::unix::fs::FileExt::write_all_at(&ballast, &vec![1u8; step], length).is_ok() {
            length += step as u64;
        }
    };
    fill(1 << 16);
    fill(1 << 12);
    let error = staging.commit(record(Vec::new()), &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error:?}");
    assert_eq!(files(), 1, "the file of the round that failed is left");
    ballast.set_len(0).unwrap();
    round(&lake, spec("t"), &[batch(10, 3)]).await.unwrap();
    assert_eq!(files(), 2);
}

fn rows_of(snapshot: &portolan_lake::Snapshot, table: &portolan_lake::TableView) -> i64 {
    rows(snapshot, table).iter().map(|batch| batch.num_rows() as i64).sum()
}

#[tokio::test]
async fn while_a_file_is_written() {
    fills_and_recovers(0, 4_000).await;
}

#[tokio::test]
async fn inside_the_transaction() {
    fills_and_recovers(1_000, 900).await;
}
