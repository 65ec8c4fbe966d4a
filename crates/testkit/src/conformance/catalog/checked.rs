//! What checks need of a catalog: staged rows that can be read, rows that are withheld whole, and commits on a ground that
//! stands.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use portolan_model::ErrorKind;
use portolan_model::catalog::{Grounded, StagedTable, Staging, TableSpec, WriteMode};
use portolan_model::check::{Ground, StagedRows, WITHHELD, WithheldRow};
use portolan_model::round::RoundVerdict;
use portolan_model::source::QuarantineItem;

use super::{CatalogFixture, batch, expect, position, receipt, record, round, source, spec, stage, status};

/// Rows that catalogs keep in different ways: a few, and many.
const SIZES: [i64; 2] = [10, 3_000];
/// Where values begin that are looked for in the quarantine.
const START: i64 = 1_000_000;

fn keyed() -> Result<TableSpec> {
    Ok(TableSpec { key: vec!["n".to_owned()], ..spec("a")? })
}

fn rows(numbers: &[u64]) -> Vec<WithheldRow> {
    numbers.iter().map(|row| WithheldRow { row: *row, detail: "check `it holds` not kept".into() }).collect()
}

/// The values of `n` that a round has staged for a source, in order.
fn staged_values(staging: &dyn Staging, name: &str) -> Result<Vec<i64>> {
    let (_, _, rows) = staging
        .staged()
        .into_iter()
        .find(|(source, ..)| source.as_str() == name)
        .with_context(|| format!("`{name}` is not among the staged tables"))?;
    let values = read(&*rows)?;
    ensure!(rows.rows() == values.len() as u64, "{} rows are said to be staged, not {}", rows.rows(), values.len());
    Ok(values)
}

fn read(rows: &dyn StagedRows) -> Result<Vec<i64>> {
    let place = rows.schema().index_of("n")?;
    let mut values = Vec::new();
    rows.read(Some(&[place]), &mut |batch| {
        values.extend(batch.column(0).as_primitive::<Int64Type>().values());
        Ok(true)
    })?;
    Ok(values)
}

async fn stage_with_item(staging: &mut Box<dyn Staging>, values: Vec<i64>) -> Result<StagedTable> {
    let mut table = staging.table(spec("a")?)?;
    table.write(batch(values)?).await?;
    let (content, detail) = ("0000-00-00".to_owned(), "the date is zero".to_owned());
    table.quarantine(QuarantineItem { reason: "zero_date", column: None, row: 1.into(), content, detail }).await?;
    Ok(table.finish().await?)
}

/// The contents of what is in the quarantine because a check withheld it, in order.
fn withheld(fixture: &dyn CatalogFixture) -> Result<Vec<String>> {
    let mut found = fixture.quarantine()?;
    found.retain(|(reason, _)| reason == WITHHELD);
    found.sort();
    Ok(found.into_iter().map(|(_, content)| content).collect())
}

fn expect_withheld(fixture: &dyn CatalogFixture, values: &[i64]) -> Result<()> {
    let found = withheld(fixture)?;
    let are_there = values.iter().zip(&found).all(|(value, content)| content.contains(&value.to_string()));
    ensure!(found.len() == values.len() && are_there, "withheld rows are {found:?}, not those of {values:?}");
    Ok(())
}

async fn commit_on(staging: Box<dyn Staging>, snapshot: i64, tables: &[&str], moved_to: i64) -> Result<Grounded> {
    let tables = tables.iter().map(|name| source(name)).collect::<Result<_>>()?;
    let record = record(RoundVerdict::Complete, vec![receipt("a", Some(moved_to))?])?;
    Ok(staging.commit_on(Some(Ground { snapshot, tables }), record, &[status("a", 7)?]).await?)
}

pub(super) async fn staged_rows_are_read_back(fixture: &mut dyn CatalogFixture) -> Result<()> {
    for (number, count) in SIZES.into_iter().enumerate() {
        let start = START * (number as i64 + 1);
        let mut staging = fixture.catalog().begin().await?;
        ensure!(staging.staged().is_empty(), "tables are staged that nobody has written");
        let mut table = staging.table(keyed()?)?;
        // What is left out, of this round and of the one before, is not staged.
        let values: Vec<i64> = (start..start + count).collect();
        let (one, other) = values.split_at(count as usize / 2);
        table.write(batch([START].into_iter().chain(one.iter().copied()))?).await?;
        table.write(batch(other.iter().copied().chain([start + count - 1]))?).await?;
        let staged = table.finish().await?;
        ensure!((staged.rows, staged.duplicates) == (count as u64, 2), "{count} rows: {staged:?}");
        stage(&mut staging, TableSpec { mode: WriteMode::Replace, ..spec("b")? }, vec![5]).await?;
        let mut open = staging.table(spec("c")?)?;
        open.write(batch([6])?).await?;
        let tables = staging.staged().into_iter().map(|(name, mode, _)| format!("{name} {}", mode.as_str()));
        let tables: BTreeSet<String> = tables.collect();
        let expected = ["a append", "b replace"].map(str::to_owned);
        ensure!(tables == BTreeSet::from(expected), "{tables:?} are staged");
        ensure!(staged_values(&*staging, "a")? == values, "rows of `a` are read back as others, or in another order");
        ensure!(staged_values(&*staging, "b")? == [5], "rows of `b` are read back as others");
        for (_, _, rows) in staging.staged() {
            let (mut pieces, mut is_schema) = (0, true);
            rows.read(None, &mut |batch| {
                pieces += 1;
                is_schema = batch.schema().fields() == rows.schema().fields();
                Ok(false)
            })?;
            ensure!(pieces == 1, "{pieces} pieces were handed out after a no");
            ensure!(is_schema, "rows do not have the columns that they are said to have");
        }
        drop(open);
        let receipts = vec![receipt("a", Some(1))?, receipt("b", Some(1))?];
        staging.commit(record(RoundVerdict::Complete, receipts)?, &[]).await?;
    }
    expect(fixture, "a", (START..START + SIZES[0]).chain(START * 2..START * 2 + SIZES[1]))
}

pub(super) async fn withheld_rows_go_to_the_quarantine(fixture: &mut dyn CatalogFixture) -> Result<()> {
    let (mut kept, mut taken) = (Vec::new(), Vec::new());
    for (number, count) in SIZES.into_iter().enumerate() {
        let start = START + number as i64 * 1_000_000;
        let numbers = [2, 5, count as u64 - 1];
        let is_kept = |value: &i64| !numbers.contains(&((value - start) as u64));
        let left: Vec<i64> = (start..start + count).filter(is_kept).collect();
        let mut others = fixture.catalog().begin().await?;
        let expected = stage(&mut others, spec("a")?, left.clone()).await?;
        others.abort().await;
        let mut staging = fixture.catalog().begin().await?;
        stage_with_item(&mut staging, (start..start + count).collect()).await?;
        let staged = staging.withhold(&source("a")?, rows(&numbers)).await?;
        ensure!((staged.rows, staged.quarantined) == (count as u64 - 3, 4), "3 of {count} withheld: {staged:?}");
        ensure!(staged.rows_sha256 == expected.rows_sha256, "what is left has not the digest of its rows");
        ensure!(staged_values(&*staging, "a")? == left, "what is withheld is still staged");
        expect(fixture, "a", kept.iter().copied())?;
        expect_withheld(fixture, &taken)?;
        staging.commit(record(RoundVerdict::Partial, vec![receipt("a", Some(1))?])?, &[]).await?;
        kept.extend(left);
        taken.extend(numbers.map(|number| start + number as i64));
        expect(fixture, "a", kept.iter().copied())?;
        expect_withheld(fixture, &taken)?;
    }
    let all = fixture.quarantine()?.len();
    ensure!(
        all == taken.len() + SIZES.len(),
        "the quarantine holds {all} rows: those of the source itself are missing"
    );
    Ok(())
}

pub(super) async fn a_withheld_key_may_come_again(fixture: &mut dyn CatalogFixture) -> Result<()> {
    let mut staging = fixture.catalog().begin().await?;
    stage(&mut staging, keyed()?, vec![1, 2, 3]).await?;
    staging.withhold(&source("a")?, rows(&[1])).await?;
    staging.commit(record(RoundVerdict::Partial, vec![receipt("a", Some(1))?])?, &[]).await?;
    expect(fixture, "a", [1, 3])?;
    let (_, again) = round(fixture.catalog(), keyed()?, vec![1, 2, 3], 2).await?;
    ensure!((again.rows, again.duplicates) == (1, 2), "of three, one of them withheld before: {again:?}");
    expect(fixture, "a", [1, 2, 3])
}

/// Of one key the first row of a round counts. Were it withheld, the others would be nowhere.
pub(super) async fn a_row_with_duplicates_is_not_withheld(fixture: &mut dyn CatalogFixture) -> Result<()> {
    let mut staging = fixture.catalog().begin().await?;
    stage(&mut staging, keyed()?, vec![1, 2, 2]).await?;
    expect_limit(&mut *staging, 1).await?;
    ensure!(staged_values(&*staging, "a")? == [1, 2], "the table is not as it was after the error");
    staging.withhold(&source("a")?, rows(&[0])).await?;
    staging.commit(record(RoundVerdict::Partial, vec![receipt("a", Some(1))?])?, &[]).await?;
    expect(fixture, "a", [2])
}

async fn expect_limit(staging: &mut dyn Staging, row: u64) -> Result<()> {
    match staging.withhold(&source("a")?, rows(&[row])).await {
        Err(error) if error.kind() == ErrorKind::Limit => Ok(()),
        Err(error) => bail!("refused with {:?}: {error}", error.kind()),
        Ok(staged) => bail!("withheld, which loses rows: {staged:?}"),
    }
}

/// Whole, or not at all.
pub(super) async fn what_it_does_not_take_stays(fixture: &mut dyn CatalogFixture) -> Result<()> {
    let text = "x".repeat(1 << 20);
    let columns: [(&str, ArrayRef); 2] =
        [("n", Arc::new(Int64Array::from(vec![1, 2]))), ("text", Arc::new(StringArray::from(vec!["short", &text])))];
    let mut staging = fixture.catalog().begin().await?;
    let mut table = staging.table(spec("a")?)?;
    table.write(RecordBatch::try_from_iter(columns)?).await?;
    table.finish().await?;
    let left = match staging.withhold(&source("a")?, rows(&[1])).await {
        Ok(_) => 1,
        Err(error) if error.kind() == ErrorKind::Limit => {
            ensure!(staged_values(&*staging, "a")? == [1, 2], "the table is not as it was after the error");
            staging.withhold(&source("a")?, rows(&[0])).await?;
            2
        }
        Err(error) => bail!("refused with {:?}: {error}", error.kind()),
    };
    staging.commit(record(RoundVerdict::Partial, vec![receipt("a", Some(1))?])?, &[]).await?;
    expect(fixture, "a", [left])?;
    let found = withheld(fixture)?;
    let is_whole = found.iter().any(|content| content.contains(if left == 1 { &text } else { "short" }));
    ensure!(found.len() == 1 && is_whole, "the row that was withheld is not in the quarantine as it came");
    Ok(())
}

pub(super) async fn a_rejected_round_withholds_nothing(fixture: &mut dyn CatalogFixture) -> Result<()> {
    let mut staging = fixture.catalog().begin().await?;
    stage(&mut staging, keyed()?, vec![1, 2, 3]).await?;
    staging.withhold(&source("a")?, rows(&[1])).await?;
    staging.commit(record(RoundVerdict::Rejected, vec![receipt("a", Some(1))?])?, &[]).await?;
    expect(fixture, "a", [])?;
    expect_withheld(fixture, &[])?;
    let (_, again) = round(fixture.catalog(), keyed()?, vec![1, 2, 3], 2).await?;
    ensure!(again.rows == 3, "keys of a rejected round are remembered: {again:?}");
    Ok(())
}

pub(super) async fn a_ground_that_stands(fixture: &mut dyn CatalogFixture) -> Result<()> {
    let (ground, _) = round(fixture.catalog(), spec("b")?, vec![1], 1).await?;
    let mut staging = fixture.catalog().begin().await?;
    stage(&mut staging, spec("a")?, vec![2]).await?;
    // Other tables, what is not published, and states change nothing of what was read.
    round(fixture.catalog(), spec("c")?, (0..3_000).collect(), 1).await?;
    let mut rejected = fixture.catalog().begin().await?;
    stage(&mut rejected, spec("b")?, vec![3]).await?;
    rejected.commit(record(RoundVerdict::Rejected, vec![receipt("b", Some(9))?])?, &[]).await?;
    let mut aborted = fixture.catalog().begin().await?;
    stage(&mut aborted, spec("b")?, vec![4]).await?;
    aborted.abort().await;
    fixture.catalog().record_states(&[status("b", 1)?]).await?;
    let Grounded::Committed(_) = commit_on(staging, ground.snapshot, &["b", "missing"], 5).await? else {
        bail!("a ground has moved that stands");
    };
    expect(fixture, "a", [2])?;
    ensure!(position(fixture, "a").await? == Some(5), "the position did not move");
    ensure!(fixture.catalog().statuses().await?.contains_key(&source("a")?), "the state was not stored");
    Ok(())
}

pub(super) async fn a_ground_that_has_moved(fixture: &mut dyn CatalogFixture) -> Result<()> {
    let (mut ground, _) = round(fixture.catalog(), spec("b")?, vec![1], 1).await?;
    let modes = [WriteMode::Append, WriteMode::Replace];
    let mut kept = Vec::new();
    for (number, (count, mode)) in SIZES.into_iter().zip(modes).enumerate() {
        let context = || format!("{count} rows, the ground {}", mode.as_str());
        let (start, before) = (START * (number as i64 + 1), fixture.rounds()?.len());
        let mut staging = fixture.catalog().begin().await?;
        let (own, id) = (stage_with_item(&mut staging, (start..start + count).collect()).await?, staging.round());
        staging.withhold(&source("a")?, rows(&[0, 1])).await?;
        let (next, _) = round(fixture.catalog(), TableSpec { mode, ..spec("b")? }, vec![number as i64], 1).await?;
        let Grounded::Moved(mut again) = commit_on(staging, ground.snapshot, &["c", "b"], 5).await? else {
            bail!("{}: published on a ground that has moved", context());
        };
        expect(fixture, "a", kept.iter().copied()).with_context(context)?;
        ensure!(fixture.rounds()?.len() == before + 1, "{}: the round has a record", context());
        ensure!(fixture.quarantine()?.len() == number * 2, "{}: rows are in the quarantine", context());
        ensure!(number > 0 || position(fixture, "a").await?.is_none(), "{}: the position moved", context());
        let has_state = fixture.catalog().statuses().await?.contains_key(&source("a")?);
        ensure!(number > 0 || !has_state, "{}: the state was stored", context());
        // As it was staged: what is withheld now is all that is.
        ensure!(again.round() == id, "{}: it has another number", context());
        let whole: Vec<i64> = (start..start + count).collect();
        ensure!(staged_values(&*again, "a")? == whole, "{}: it is not handed back as it was staged", context());
        let staged = again.withhold(&source("a")?, rows(&[2])).await?;
        ensure!((staged.rows, staged.quarantined) == (own.rows - 1, 2), "{}: {staged:?}", context());
        let Grounded::Committed(_) = commit_on(again, next.snapshot, &["c", "b"], 5).await? else {
            bail!("{}: a ground has moved that stands", context());
        };
        kept.extend(whole.into_iter().filter(|value| *value != start + 2));
        expect(fixture, "a", kept.iter().copied()).with_context(context)?;
        ensure!(fixture.quarantine()?.len() == (number + 1) * 2, "{}: the quarantine", context());
        ensure!(position(fixture, "a").await? == Some(5), "{}: the position did not move", context());
        ground = next;
    }
    expect_withheld(fixture, &[START + 2, START * 2 + 2])
}

/// "There is no such table yet" holds as long as that is so; what is not known any more holds no longer.
pub(super) async fn a_table_that_comes_to_be(fixture: &mut dyn CatalogFixture) -> Result<()> {
    let (ground, _) = round(fixture.catalog(), spec("c")?, vec![1], 1).await?;
    let mut staging = fixture.catalog().begin().await?;
    stage(&mut staging, spec("a")?, vec![2]).await?;
    let (later, _) = round(fixture.catalog(), spec("b")?, vec![1], 1).await?;
    let Grounded::Moved(staging) = commit_on(staging, ground.snapshot, &["b"], 5).await? else {
        bail!("a table came to be, and the ground stands");
    };
    let Grounded::Moved(staging) = commit_on(staging, later.snapshot + 1_000, &["b"], 5).await? else {
        bail!("a snapshot stands that is not known");
    };
    staging.abort().await;
    expect(fixture, "a", [])
}

pub(super) async fn of_rounds_on_one_ground(fixture: &mut dyn CatalogFixture) -> Result<()> {
    let (mut ground, _) = round(fixture.catalog(), spec("a")?, vec![0], 0).await?;
    for number in 1..=8 {
        let (mut one, mut other) = (fixture.catalog().begin().await?, fixture.catalog().begin().await?);
        for staging in [&mut one, &mut other] {
            stage(staging, spec("a")?, vec![number]).await?;
        }
        let on = |staging| commit_on(staging, ground.snapshot, &["a"], number);
        let (one, other) = tokio::join!(on(one), on(other));
        ground = match (one?, other?) {
            (Grounded::Committed(commit), Grounded::Moved(moved))
            | (Grounded::Moved(moved), Grounded::Committed(commit)) => {
                moved.abort().await;
                commit
            }
            (Grounded::Committed(_), Grounded::Committed(_)) => bail!("both were published on one ground"),
            (Grounded::Moved(_), Grounded::Moved(_)) => bail!("neither was published"),
        };
    }
    expect(fixture, "a", 0..=8)
}
