//! The lake keeps the Catalog contract; and each check of the suite fails on a catalog that breaks what it checks.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod broken;
mod common;

use anyhow::Result;
use arrow::array::AsArray;
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

    fn quarantine(&self) -> Result<Vec<(String, String)>> {
        let head = self.head()?;
        let table = head.table("portolan", "quarantine")?.unwrap();
        let mut found = Vec::new();
        for batch in rows(&head, &table) {
            let [reasons, contents] = ["reason", "content"].map(|name| batch.column_by_name(name).unwrap());
            let texts = reasons.as_string::<i32>().iter().zip(contents.as_string::<i32>().iter());
            found.extend(texts.map(|(reason, content)| (reason.unwrap().to_owned(), content.unwrap().to_owned())));
        }
        Ok(found)
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

/// The faults that a check must find.
fn faults(check: CheckKind) -> &'static [Fault] {
    match check {
        CheckKind::CommitPublishesEverything => &[Fault::LosesATable],
        CheckKind::NothingIsSeenBeforeTheCommit => &[Fault::CommitsEarly],
        CheckKind::ARoundIsSeenWholeByOthers => &[Fault::CommitsEarly],
        CheckKind::AbortLeavesNothing => &[Fault::CommitsEarly],
        CheckKind::ADroppedTableLeavesNothing => &[Fault::KeepsDroppedTables],
        CheckKind::ARejectedRoundStoresItsRecordAlone => &[Fault::IgnoresRejection],
        CheckKind::PositionsMoveWithTheirRowsAlone => &[Fault::TrustsEveryReceipt],
        CheckKind::ItemsAreStoredOnce => &[Fault::ForgetsKeys],
        CheckKind::ReplaceLeavesTheLastRoundAlone => &[Fault::Appends],
        CheckKind::ReplaceHeedsNoKey => &[Fault::ReplacesByKey],
        CheckKind::RoundsRise => &[Fault::NumbersAllTheSame],
        CheckKind::StatesAreKept => &[Fault::ForgetsStates],
        CheckKind::ARestartKeepsEverything => &[Fault::LosesATable],
        CheckKind::ManyRowsAreStored => &[Fault::LosesBatches],
        CheckKind::QuarantineComesWithTheRound => &[Fault::IgnoresRejection],
        CheckKind::DigestsTellRowsApart => &[Fault::SameDigest],
        CheckKind::StagedRowsAreReadBack => &[Fault::ReadsOneBatch, Fault::Appends],
        CheckKind::WithheldRowsGoToTheQuarantine => &[Fault::WithholdsTooFew],
        CheckKind::AWithheldKeyMayComeAgain => &[Fault::ForgetsKeys],
        CheckKind::ARowWithDuplicatesIsNotWithheld => &[Fault::ForgetsKeys, Fault::ClaimsToWithhold],
        CheckKind::WhatTheQuarantineDoesNotTakeStays => &[Fault::ClaimsToWithhold],
        CheckKind::ARejectedRoundWithholdsNothing => &[Fault::IgnoresRejection],
        CheckKind::AGroundThatStandsIsCommittedOn => &[Fault::MovesByAnyChange],
        CheckKind::NothingIsPublishedOnAGroundThatHasMoved => &[Fault::IgnoresGround, Fault::ForgetsToRestore],
        CheckKind::ATableThatComesToBeMovesTheGround => &[Fault::IgnoresGround],
        CheckKind::OfRoundsOnOneGroundOneIsCommitted => &[Fault::IgnoresGround],
    }
}

#[tokio::test]
async fn every_check_finds_its_faults() {
    for check in CHECKS {
        for fault in faults(*check) {
            let outcome = run(*check, &mut LakeFixture::new(Some(*fault)).await).await;
            assert!(outcome.is_err(), "{check:?} did not find {fault:?}");
        }
    }
}
