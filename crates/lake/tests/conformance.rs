//! The lake keeps the Catalog contract; and each check of the suite fails on a catalog that breaks what it checks.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod broken;
mod common;

use anyhow::Result;
use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use async_trait::async_trait;
use broken::{Broken, Fault};
use common::*;
use portolan_lake::{At, LakeReader, Snapshot};
use portolan_model::catalog::Catalog;
use portolan_testkit::conformance::catalog::{CHECKS, CatalogFixture, CheckKind, run};

struct LakeFixture {
    folder: tempfile::TempDir,
    catalog: Option<Broken>,
    fault: Option<Fault>,
}

impl LakeFixture {
    async fn new(fault: Option<Fault>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lake = open(folder.path(), settings()).await;
        Self { folder, catalog: Some(Broken::new(lake, fault)), fault }
    }

    fn head(&self) -> Result<Snapshot> {
        Ok(LakeReader::open(self.folder.path())?.snapshot(At::Head)?)
    }
}

fn values(snapshot: &Snapshot, source: &str) -> Result<Vec<i64>> {
    let Some(table) = snapshot.table("main", source)? else { return Ok(Vec::new()) };
    let mut values = Vec::new();
    for batch in rows(snapshot, &table) {
        if let Some(column) = batch.column_by_name("n") {
            values.extend(column.as_primitive::<Int64Type>().iter().flatten());
        }
    }
    Ok(values)
}

#[async_trait]
impl CatalogFixture for LakeFixture {
    fn catalog(&self) -> &dyn Catalog {
        self.catalog.as_ref().unwrap()
    }

    fn values(&self, source: &str) -> Result<Vec<i64>> {
        values(&self.head()?, source)
    }

    fn values_of(&self, sources: &[&str]) -> Result<Vec<Vec<i64>>> {
        let head = self.head()?;
        sources.iter().map(|source| values(&head, source)).collect()
    }

    fn rounds(&self) -> Result<Vec<(i64, String)>> {
        let head = self.head()?;
        let table = head.table("portolan", "rounds")?.unwrap();
        let mut found = Vec::new();
        for batch in rows(&head, &table) {
            let (numbers, verdicts) =
                (batch.column_by_name("round").unwrap(), batch.column_by_name("verdict").unwrap());
            for row in 0..batch.num_rows() {
                let number = numbers.as_primitive::<Int64Type>().value(row);
                found.push((number, verdicts.as_string::<i32>().value(row).to_owned()));
            }
        }
        Ok(found)
    }

    fn quarantined(&self) -> Result<usize> {
        let head = self.head()?;
        let table = head.table("portolan", "quarantine")?.unwrap();
        Ok(rows(&head, &table).iter().map(|batch| batch.column(0).len()).sum())
    }

    async fn reopen(&mut self) -> Result<()> {
        drop(self.catalog.take());
        let lake = open(self.folder.path(), settings()).await;
        self.catalog = Some(Broken::new(lake, self.fault));
        Ok(())
    }
}

#[tokio::test]
async fn the_lake_conforms() {
    for check in CHECKS {
        run(*check, &mut LakeFixture::new(None).await).await.unwrap();
    }
}

#[tokio::test]
async fn every_check_finds_its_fault() {
    for check in CHECKS {
        let fault = match check {
            CheckKind::CommitPublishesEverything => Fault::LosesATable,
            CheckKind::NothingIsSeenBeforeTheCommit => Fault::CommitsEarly,
            CheckKind::ARoundIsSeenWholeByOthers => Fault::CommitsEarly,
            CheckKind::AbortLeavesNothing => Fault::CommitsEarly,
            CheckKind::ADroppedTableLeavesNothing => Fault::KeepsDroppedTables,
            CheckKind::ARejectedRoundStoresItsRecordAlone => Fault::IgnoresRejection,
            CheckKind::PositionsMoveWithTheirRowsAlone => Fault::TrustsEveryReceipt,
            CheckKind::ItemsAreStoredOnce => Fault::ForgetsKeys,
            CheckKind::ReplaceLeavesTheLastRoundAlone => Fault::Appends,
            CheckKind::ReplaceHeedsNoKey => Fault::ReplacesByKey,
            CheckKind::RoundsRise => Fault::NumbersAllTheSame,
            CheckKind::StatesAreKept => Fault::ForgetsStates,
            CheckKind::ARestartKeepsEverything => Fault::LosesATable,
            CheckKind::ManyRowsAreStored => Fault::LosesBatches,
            CheckKind::QuarantineComesWithTheRound => Fault::IgnoresRejection,
            CheckKind::DigestsTellRowsApart => Fault::SameDigest,
        };
        let outcome = run(*check, &mut LakeFixture::new(Some(fault)).await).await;
        assert!(outcome.is_err(), "{check:?} did not find {fault:?}");
    }
}
