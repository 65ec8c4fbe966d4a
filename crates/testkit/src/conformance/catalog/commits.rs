//! Rounds that are committed, given up or rejected: what becomes visible, and what must not.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use portolan_model::Position;
use portolan_model::catalog::{TableSpec, WriteMode};
use portolan_model::round::{Receipt, ReceiptVerdict, RoundVerdict};
use portolan_model::source::QuarantineItem;

use super::{CatalogFixture, batch, expect, position, receipt, record, round, source, spec, stage, status};

pub(super) async fn commit_publishes_everything(fixture: &mut dyn CatalogFixture) -> Result<()> {
    let mut staging = fixture.catalog().begin().await?;
    let first = stage(&mut staging, spec("a")?, vec![1, 2]).await?;
    stage(&mut staging, spec("b")?, vec![3]).await?;
    ensure!(first.rows == 2 && first.duplicates == 0, "two rows were staged as {first:?}");
    let receipts = vec![receipt("a", Some(2))?, receipt("b", Some(3))?];
    let number = staging.round();
    let commit = staging.commit(record(RoundVerdict::Complete, receipts)?, &[]).await?;
    ensure!(commit.round == number, "round {number} was committed as {}", commit.round);
    expect(fixture, "a", [1, 2])?;
    expect(fixture, "b", [3])?;
    ensure!(position(fixture, "a").await? == Some(2), "position of `a`");
    ensure!(position(fixture, "b").await? == Some(3), "position of `b`");
    let rounds = fixture.rounds()?;
    ensure!(rounds == [(number.0, "complete".to_owned())], "records of rounds are {rounds:?}");
    Ok(())
}

pub(super) async fn nothing_is_seen_before_the_commit(fixture: &mut dyn CatalogFixture) -> Result<()> {
    let mut staging = fixture.catalog().begin().await?;
    stage(&mut staging, spec("a")?, (0..3_000).collect()).await?;
    expect(fixture, "a", [])?;
    ensure!(fixture.rounds()?.is_empty(), "a round that is staged has a record");
    staging.commit(record(RoundVerdict::Complete, vec![receipt("a", Some(1))?])?, &[]).await?;
    expect(fixture, "a", 0..3_000)
}

/// Another reader looks at both tables while rounds are committed that put the same values into both.
pub(super) async fn a_round_is_seen_whole_by_others(fixture: &mut dyn CatalogFixture) -> Result<()> {
    let fixture = &*fixture;
    let writer = async {
        for number in 0..60i64 {
            let rows = if number % 20 == 19 { 2_000 } else { 3 };
            let values: Vec<i64> = (0..rows).map(|row| number * 10_000 + row).collect();
            let mut staging = fixture.catalog().begin().await?;
            stage(&mut staging, spec("a")?, values.clone()).await?;
            stage(&mut staging, spec("b")?, values).await?;
            let receipts = vec![receipt("a", Some(number))?, receipt("b", Some(number))?];
            staging.commit(record(RoundVerdict::Complete, receipts)?, &[]).await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    let reader = async {
        for _ in 0..60 {
            let tables = fixture.values_of(&["a", "b"])?;
            let (a, b): (BTreeSet<_>, BTreeSet<_>) = (tables[0].iter().collect(), tables[1].iter().collect());
            ensure!(a == b, "a reader saw {} rows of `a` and {} of `b`", a.len(), b.len());
            tokio::task::yield_now().await;
        }
        Ok(())
    };
    let (written, read) = tokio::join!(writer, reader);
    written?;
    read
}

pub(super) async fn abort_leaves_nothing(fixture: &mut dyn CatalogFixture) -> Result<()> {
    round(fixture.catalog(), spec("a")?, vec![1], 1).await?;
    let mut staging = fixture.catalog().begin().await?;
    stage(&mut staging, spec("a")?, (10..3_000).collect()).await?;
    stage(&mut staging, spec("b")?, vec![11]).await?;
    staging.abort().await;
    let mut staging = fixture.catalog().begin().await?;
    stage(&mut staging, spec("a")?, vec![12]).await?;
    drop(staging);
    expect(fixture, "a", [1])?;
    expect(fixture, "b", [])?;
    ensure!(fixture.rounds()?.len() == 1, "a round that was given up has a record");
    ensure!(position(fixture, "a").await? == Some(1), "a round that was given up moved a position");
    round(fixture.catalog(), spec("a")?, vec![2], 2).await?;
    expect(fixture, "a", [1, 2])
}

pub(super) async fn a_dropped_table_leaves_nothing(fixture: &mut dyn CatalogFixture) -> Result<()> {
    let mut staging = fixture.catalog().begin().await?;
    let mut dropped = staging.table(spec("a")?)?;
    dropped.write(batch(0..2_000)?).await?;
    drop(dropped);
    stage(&mut staging, spec("b")?, vec![5]).await?;
    let mut failed = Receipt::new(source("a")?, ReceiptVerdict::Failed);
    failed.position_after = Some(Position::new(1, serde_json::json!(9)));
    let receipts = vec![failed, receipt("b", Some(5))?];
    staging.commit(record(RoundVerdict::Partial, receipts)?, &[]).await?;
    expect(fixture, "a", [])?;
    expect(fixture, "b", [5])?;
    ensure!(position(fixture, "a").await?.is_none(), "a source that failed has a position");
    Ok(())
}

pub(super) async fn a_rejected_round_stores_its_record_alone(fixture: &mut dyn CatalogFixture) -> Result<()> {
    round(fixture.catalog(), spec("a")?, vec![1], 1).await?;
    let mut staging = fixture.catalog().begin().await?;
    stage(&mut staging, spec("a")?, vec![2]).await?;
    let number = staging.round();
    staging.commit(record(RoundVerdict::Rejected, vec![receipt("a", Some(2))?])?, &[]).await?;
    expect(fixture, "a", [1])?;
    ensure!(position(fixture, "a").await? == Some(1), "a rejected round moved a position");
    let rounds = fixture.rounds()?;
    ensure!(rounds.contains(&(number.0, "rejected".to_owned())), "the record is missing among {rounds:?}");
    Ok(())
}

pub(super) async fn positions_move_with_their_rows_alone(fixture: &mut dyn CatalogFixture) -> Result<()> {
    round(fixture.catalog(), spec("a")?, vec![1], 1).await?;
    for (verdict, expected) in [
        (ReceiptVerdict::Failed, 1),
        (ReceiptVerdict::Skipped, 1),
        (ReceiptVerdict::Unchanged, 7),
        (ReceiptVerdict::Ok, 7),
    ] {
        let staging = fixture.catalog().begin().await?;
        let mut receipt = receipt("a", Some(7))?;
        receipt.verdict = verdict;
        staging.commit(record(RoundVerdict::Partial, vec![receipt])?, &[]).await?;
        let found = position(fixture, "a").await?;
        ensure!(found == Some(expected), "after {verdict:?} the position is {found:?}, not {expected}");
    }
    Ok(())
}

pub(super) async fn items_are_stored_once(fixture: &mut dyn CatalogFixture) -> Result<()> {
    let keyed = || Ok::<_, anyhow::Error>(TableSpec { key: vec!["n".to_owned()], ..spec("a")? });
    let (_, first) = round(fixture.catalog(), keyed()?, vec![1, 2, 2, 3], 1).await?;
    ensure!((first.rows, first.duplicates) == (3, 1), "within a round: {first:?}");
    let (_, second) = round(fixture.catalog(), keyed()?, vec![3, 4, 1], 2).await?;
    ensure!((second.rows, second.duplicates) == (1, 2), "between rounds: {second:?}");
    expect(fixture, "a", [1, 2, 3, 4])?;
    let mut staging = fixture.catalog().begin().await?;
    stage(&mut staging, keyed()?, vec![5]).await?;
    staging.abort().await;
    fixture.reopen().await?;
    let (_, third) = round(fixture.catalog(), keyed()?, vec![4, 5], 3).await?;
    ensure!((third.rows, third.duplicates) == (1, 1), "a key of a round given up was kept: {third:?}");
    expect(fixture, "a", [1, 2, 3, 4, 5])
}

pub(super) async fn replace_leaves_the_last_round_alone(fixture: &mut dyn CatalogFixture) -> Result<()> {
    let replace = || Ok::<_, anyhow::Error>(TableSpec { mode: WriteMode::Replace, ..spec("a")? });
    for (rows, start) in [(3i64, 0), (2_500, 10), (4, 20_000), (0, 0), (2, 30_000)] {
        round(fixture.catalog(), replace()?, (start..start + rows).collect(), 1).await?;
        expect(fixture, "a", start..start + rows).context(format!("{rows} rows"))?;
    }
    Ok(())
}

/// A round that replaces brings the whole table: what came before is no reason to leave a row out.
pub(super) async fn replace_heeds_no_key(fixture: &mut dyn CatalogFixture) -> Result<()> {
    let keyed = |mode| Ok::<_, anyhow::Error>(TableSpec { mode, key: vec!["n".to_owned()], ..spec("a")? });
    for rows in [vec![1, 2], vec![1, 2], vec![2, 3]] {
        let (_, staged) = round(fixture.catalog(), keyed(WriteMode::Replace)?, rows.clone(), 1).await?;
        ensure!((staged.rows, staged.duplicates) == (2, 0), "{rows:?} were staged as {staged:?}");
        expect(fixture, "a", rows)?;
    }
    let (_, staged) = round(fixture.catalog(), keyed(WriteMode::Append)?, vec![3, 4, 4], 2).await?;
    ensure!((staged.rows, staged.duplicates) == (2, 1), "a key that was replaced was remembered: {staged:?}");
    expect(fixture, "a", [2, 3, 3, 4])
}

pub(super) async fn rounds_rise(fixture: &mut dyn CatalogFixture) -> Result<()> {
    let mut last = (0, i64::MIN);
    for number in 0..5 {
        let (commit, _) = round(fixture.catalog(), spec("a")?, vec![number], number).await?;
        ensure!(commit.round.0 > last.0 && commit.snapshot > last.1, "{commit:?} after {last:?}");
        last = (commit.round.0, commit.snapshot);
        if number == 2 {
            fixture.reopen().await?;
        }
    }
    Ok(())
}

pub(super) async fn states_are_kept(fixture: &mut dyn CatalogFixture) -> Result<()> {
    fixture.catalog().record_states(&[status("a", 1)?, status("b", 2)?]).await?;
    let mut staging = fixture.catalog().begin().await?;
    stage(&mut staging, spec("a")?, vec![1]).await?;
    staging.commit(record(RoundVerdict::Complete, vec![receipt("a", None)?])?, &[status("a", 5)?]).await?;
    fixture.reopen().await?;
    let found = fixture.catalog().statuses().await?;
    ensure!(found.get(&source("a")?) == Some(&status("a", 5)?), "the state of `a` is {:?}", found.get(&source("a")?));
    ensure!(found.get(&source("b")?) == Some(&status("b", 2)?), "the state of `b` is {:?}", found.get(&source("b")?));
    Ok(())
}

pub(super) async fn a_restart_keeps_everything(fixture: &mut dyn CatalogFixture) -> Result<()> {
    round(fixture.catalog(), spec("a")?, vec![1], 1).await?;
    round(fixture.catalog(), spec("a")?, (10..2_000).collect(), 2).await?;
    fixture.reopen().await?;
    ensure!(position(fixture, "a").await? == Some(2), "the position was lost");
    round(fixture.catalog(), spec("a")?, vec![2], 3).await?;
    expect(fixture, "a", [1, 2].into_iter().chain(10..2_000))
}

pub(super) async fn many_rows_are_stored(fixture: &mut dyn CatalogFixture) -> Result<()> {
    let mut staging = fixture.catalog().begin().await?;
    let mut table = staging.table(spec("a")?)?;
    for start in (0..200_000).step_by(10_000) {
        table.write(batch(start..start + 10_000)?).await?;
    }
    let staged = table.finish().await?;
    ensure!(staged.rows == 200_000, "{staged:?}");
    staging.commit(record(RoundVerdict::Complete, vec![receipt("a", Some(1))?])?, &[]).await?;
    expect(fixture, "a", 0..200_000)
}

pub(super) async fn quarantine_comes_with_the_round(fixture: &mut dyn CatalogFixture) -> Result<()> {
    let item = |row: i64| QuarantineItem {
        reason: "zero_date",
        column: Some("shipped".to_owned()),
        row: serde_json::json!({ "id": row }),
        content: "0000-00-00".to_owned(),
        detail: "the date is zero".to_owned(),
    };
    for (verdict, expected) in [(RoundVerdict::Complete, 2), (RoundVerdict::Rejected, 2), (RoundVerdict::Partial, 4)] {
        let mut staging = fixture.catalog().begin().await?;
        let mut table = staging.table(spec("a")?)?;
        table.write(batch([1])?).await?;
        table.quarantine(item(1)).await?;
        table.quarantine(item(2)).await?;
        let staged = table.finish().await?;
        ensure!(staged.quarantined == 2, "{staged:?}");
        staging.commit(record(verdict, vec![receipt("a", Some(1))?])?, &[]).await?;
        let found = fixture.quarantine()?.len();
        ensure!(found == expected, "after a round that is {verdict:?} the quarantine holds {found}, not {expected}");
    }
    Ok(())
}

pub(super) async fn digests_tell_rows_apart(fixture: &mut dyn CatalogFixture) -> Result<()> {
    let mut digests = Vec::new();
    for values in [vec![1, 2], vec![1, 2], vec![2, 1], vec![1], vec![]] {
        let (_, staged) = round(fixture.catalog(), spec("a")?, values, 1).await?;
        ensure!(staged.rows_sha256.len() == 64, "{:?} is not a SHA-256", staged.rows_sha256);
        digests.push(staged.rows_sha256);
    }
    ensure!(digests[0] == digests[1], "equal rows have different digests");
    let mut staging = fixture.catalog().begin().await?;
    let mut table = staging.table(spec("a")?)?;
    for value in [1, 2] {
        table.write(batch([value])?).await?;
    }
    ensure!(table.finish().await?.rows_sha256 == digests[0], "rows in two batches have a digest of their own");
    staging.abort().await;
    let distinct: BTreeSet<&String> = digests.iter().collect();
    ensure!(distinct.len() == 4, "different rows have equal digests: {digests:?}");
    Ok(())
}
