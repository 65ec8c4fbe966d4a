//! What every [`Catalog`] must do, whatever it stores into: rounds that are visible whole or not at all, positions that
//! move only with their rows, items that are stored once.
//!
//! The suite writes through the contract and looks through a [`CatalogFixture`], which reads what is committed by
//! another way. Each check has a twin in the tests of the lake: a catalog broken on purpose for which it must fail.

mod checked;
mod commits;

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrow::array::{ArrayRef, Int64Array};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use jiff::Timestamp;
use portolan_model::catalog::{Catalog, Commit, SourceStatus, StagedTable, Staging, TableSpec, WriteMode};
use portolan_model::round::{Receipt, ReceiptVerdict, RoundRecord, RoundVerdict};
use portolan_model::state::State;
use portolan_model::{Position, RoundName, SourceName};

/// A catalog to be tested, and a way to look at what it has committed that is not the catalog itself.
#[async_trait]
pub trait CatalogFixture: Send + Sync {
    /// The catalog.
    fn catalog(&self) -> &dyn Catalog;

    /// The column `n` of every committed row of a source's table, in any order; empty if there is no table.
    fn values(&self, source: &str) -> Result<Vec<i64>>;

    /// The tables' values in one consistent look.
    fn values_of(&self, sources: &[&str]) -> Result<Vec<Vec<i64>>>;

    /// Verdict of every committed round record, by round number.
    fn rounds(&self) -> Result<Vec<(i64, String)>>;

    /// Reason and content of every row of the quarantine, in any order.
    fn quarantine(&self) -> Result<Vec<(String, String)>>;

    /// Closes the catalog and opens it anew, as a restart does.
    async fn reopen(&mut self) -> Result<()>;
}

/// A check of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the check of that name, told in its function")]
pub enum CheckKind {
    CommitPublishesEverything,
    NothingIsSeenBeforeTheCommit,
    ARoundIsSeenWholeByOthers,
    AbortLeavesNothing,
    ADroppedTableLeavesNothing,
    ARejectedRoundStoresItsRecordAlone,
    PositionsMoveWithTheirRowsAlone,
    ItemsAreStoredOnce,
    ReplaceLeavesTheLastRoundAlone,
    ReplaceHeedsNoKey,
    RoundsRise,
    StatesAreKept,
    ARestartKeepsEverything,
    ManyRowsAreStored,
    QuarantineComesWithTheRound,
    DigestsTellRowsApart,
    StagedRowsAreReadBack,
    WithheldRowsGoToTheQuarantine,
    AWithheldKeyMayComeAgain,
    ARowWithDuplicatesIsNotWithheld,
    WhatTheQuarantineDoesNotTakeStays,
    ARejectedRoundWithholdsNothing,
    AGroundThatStandsIsCommittedOn,
    NothingIsPublishedOnAGroundThatHasMoved,
    ATableThatComesToBeMovesTheGround,
    OfRoundsOnOneGroundOneIsCommitted,
}

/// Every check.
pub const CHECKS: &[CheckKind] = &[
    CheckKind::CommitPublishesEverything,
    CheckKind::NothingIsSeenBeforeTheCommit,
    CheckKind::ARoundIsSeenWholeByOthers,
    CheckKind::AbortLeavesNothing,
    CheckKind::ADroppedTableLeavesNothing,
    CheckKind::ARejectedRoundStoresItsRecordAlone,
    CheckKind::PositionsMoveWithTheirRowsAlone,
    CheckKind::ItemsAreStoredOnce,
    CheckKind::ReplaceLeavesTheLastRoundAlone,
    CheckKind::ReplaceHeedsNoKey,
    CheckKind::RoundsRise,
    CheckKind::StatesAreKept,
    CheckKind::ARestartKeepsEverything,
    CheckKind::ManyRowsAreStored,
    CheckKind::QuarantineComesWithTheRound,
    CheckKind::DigestsTellRowsApart,
    CheckKind::StagedRowsAreReadBack,
    CheckKind::WithheldRowsGoToTheQuarantine,
    CheckKind::AWithheldKeyMayComeAgain,
    CheckKind::ARowWithDuplicatesIsNotWithheld,
    CheckKind::WhatTheQuarantineDoesNotTakeStays,
    CheckKind::ARejectedRoundWithholdsNothing,
    CheckKind::AGroundThatStandsIsCommittedOn,
    CheckKind::NothingIsPublishedOnAGroundThatHasMoved,
    CheckKind::ATableThatComesToBeMovesTheGround,
    CheckKind::OfRoundsOnOneGroundOneIsCommitted,
];

/// Runs one check over an empty catalog.
///
/// # Errors
/// What the catalog did that it must not do.
pub async fn run(check: CheckKind, fixture: &mut dyn CatalogFixture) -> Result<()> {
    let outcome = match check {
        CheckKind::CommitPublishesEverything => commits::commit_publishes_everything(fixture).await,
        CheckKind::NothingIsSeenBeforeTheCommit => commits::nothing_is_seen_before_the_commit(fixture).await,
        CheckKind::ARoundIsSeenWholeByOthers => commits::a_round_is_seen_whole_by_others(fixture).await,
        CheckKind::AbortLeavesNothing => commits::abort_leaves_nothing(fixture).await,
        CheckKind::ADroppedTableLeavesNothing => commits::a_dropped_table_leaves_nothing(fixture).await,
        CheckKind::ARejectedRoundStoresItsRecordAlone => {
            commits::a_rejected_round_stores_its_record_alone(fixture).await
        }
        CheckKind::PositionsMoveWithTheirRowsAlone => commits::positions_move_with_their_rows_alone(fixture).await,
        CheckKind::ItemsAreStoredOnce => commits::items_are_stored_once(fixture).await,
        CheckKind::ReplaceLeavesTheLastRoundAlone => commits::replace_leaves_the_last_round_alone(fixture).await,
        CheckKind::ReplaceHeedsNoKey => commits::replace_heeds_no_key(fixture).await,
        CheckKind::RoundsRise => commits::rounds_rise(fixture).await,
        CheckKind::StatesAreKept => commits::states_are_kept(fixture).await,
        CheckKind::ARestartKeepsEverything => commits::a_restart_keeps_everything(fixture).await,
        CheckKind::ManyRowsAreStored => commits::many_rows_are_stored(fixture).await,
        CheckKind::QuarantineComesWithTheRound => commits::quarantine_comes_with_the_round(fixture).await,
        CheckKind::DigestsTellRowsApart => commits::digests_tell_rows_apart(fixture).await,
        CheckKind::StagedRowsAreReadBack => checked::staged_rows_are_read_back(fixture).await,
        CheckKind::WithheldRowsGoToTheQuarantine => checked::withheld_rows_go_to_the_quarantine(fixture).await,
        CheckKind::AWithheldKeyMayComeAgain => checked::a_withheld_key_may_come_again(fixture).await,
        CheckKind::ARowWithDuplicatesIsNotWithheld => checked::a_row_with_duplicates_is_not_withheld(fixture).await,
        CheckKind::WhatTheQuarantineDoesNotTakeStays => checked::what_it_does_not_take_stays(fixture).await,
        CheckKind::ARejectedRoundWithholdsNothing => checked::a_rejected_round_withholds_nothing(fixture).await,
        CheckKind::AGroundThatStandsIsCommittedOn => checked::a_ground_that_stands(fixture).await,
        CheckKind::NothingIsPublishedOnAGroundThatHasMoved => checked::a_ground_that_has_moved(fixture).await,
        CheckKind::ATableThatComesToBeMovesTheGround => checked::a_table_that_comes_to_be(fixture).await,
        CheckKind::OfRoundsOnOneGroundOneIsCommitted => checked::of_rounds_on_one_ground(fixture).await,
    };
    outcome.with_context(|| format!("{check:?}"))
}

fn source(name: &str) -> Result<SourceName> {
    SourceName::new(name).map_err(anyhow::Error::msg)
}

fn spec(name: &str) -> Result<TableSpec> {
    let time = Timestamp::from_second(1_767_323_045)?;
    Ok(TableSpec {
        source: source(name)?,
        mode: WriteMode::Append,
        key: Vec::new(),
        key_memory: 1_000,
        time,
        event_time: None,
        watermark: None,
    })
}

fn batch(values: impl IntoIterator<Item = i64>) -> Result<RecordBatch> {
    let column: ArrayRef = Arc::new(values.into_iter().collect::<Int64Array>());
    Ok(RecordBatch::try_from_iter_with_nullable([("n", column, true)])?)
}

fn receipt(name: &str, position: Option<i64>) -> Result<Receipt> {
    let mut receipt = Receipt::new(source(name)?, ReceiptVerdict::Ok);
    receipt.position_after = position.map(|value| Position::new(1, serde_json::json!(value)));
    Ok(receipt)
}

fn record(verdict: RoundVerdict, receipts: Vec<Receipt>) -> Result<RoundRecord> {
    Ok(RoundRecord {
        name: RoundName::new("conformance").map_err(anyhow::Error::msg)?,
        verdict,
        started_at: Timestamp::from_second(1_767_323_045)?,
        duration_us: 1,
        release_spread_us: None,
        skew_bound_us: None,
        consistency: Default::default(),
        receipts,
        checks: Vec::new(),
    })
}

async fn stage(staging: &mut Box<dyn Staging>, spec: TableSpec, values: Vec<i64>) -> Result<StagedTable> {
    let mut table = staging.table(spec)?;
    table.write(batch(values)?).await?;
    Ok(table.finish().await?)
}

async fn round(
    catalog: &dyn Catalog,
    spec: TableSpec,
    values: Vec<i64>,
    position: i64,
) -> Result<(Commit, StagedTable)> {
    let mut staging = catalog.begin().await?;
    let name = spec.source.as_str().to_owned();
    let staged = stage(&mut staging, spec, values).await?;
    let record = record(RoundVerdict::Complete, vec![receipt(&name, Some(position))?])?;
    Ok((staging.commit(record, &[]).await?, staged))
}

fn expect(fixture: &dyn CatalogFixture, name: &str, expected: impl IntoIterator<Item = i64>) -> Result<()> {
    let mut found = fixture.values(name)?;
    found.sort_unstable();
    let expected: Vec<i64> = expected.into_iter().collect();
    ensure!(found == expected, "table `{name}` holds {found:?}, not {expected:?}");
    Ok(())
}

async fn position(fixture: &dyn CatalogFixture, name: &str) -> Result<Option<i64>> {
    let positions = fixture.catalog().positions().await?;
    Ok(positions.get(&source(name)?).and_then(|position| position.value.as_i64()))
}

fn status(name: &str, rows: u64) -> Result<SourceStatus> {
    Ok(SourceStatus {
        source: source(name)?,
        address: "127.0.0.1:3306".to_owned(),
        state: State::Degraded,
        since: Timestamp::from_second(1_767_323_045)?,
        cause_kind: Some("timeout".to_owned()),
        cause: Some("no answer within 5 s".to_owned()),
        hint: None,
        last_round: None,
        last_success: None,
        rows_total: rows,
        errors_total: 3,
        failures: 1,
    })
}
