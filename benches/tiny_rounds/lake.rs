//! Rounds through the lake's public contract, with receipts, positions and states as the coordinator commits them.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, anyhow};
use portolan_bench::Stretch;
use portolan_lake::Lake;
use portolan_model::catalog::{Catalog, SourceStatus, TableSpec, WriteMode};
use portolan_model::clock::{Clock, SystemClock};
use portolan_model::config::LakeSpec;
use portolan_model::round::{Receipt, ReceiptVerdict, RoundRecord, RoundVerdict};
use portolan_model::state::State;
use portolan_model::{Position, RoundName, SourceName};

use crate::rows::{TABLES, batch};
use crate::{Measured, WARM_ROUNDS};

/// Commits `rounds` rounds of `count` rows in each of three tables; `as_files` keeps none inside the catalog.
pub(crate) async fn measure(folder: &Path, rounds: u64, count: u64, as_files: bool) -> Result<Measured> {
    let defaults = LakeSpec::default();
    let inline_rows = if as_files { 0 } else { defaults.inline_rows };
    let spec = LakeSpec { path: folder.to_owned(), inline_rows, ..defaults };
    let clock = Arc::new(SystemClock::new());
    let lake = Lake::open(&spec, clock.clone())?;
    let sources = sources()?;
    for round in 0..WARM_ROUNDS {
        commit(&lake, &*clock, &sources, round, count).await?;
    }
    let mut rounds_us = Vec::new();
    let stretch = Stretch::begin();
    for round in WARM_ROUNDS..WARM_ROUNDS + rounds {
        let start = Instant::now();
        commit(&lake, &*clock, &sources, round, count).await?;
        rounds_us.push(start.elapsed().as_secs_f64() * 1e6);
    }
    let (wall_us, cpu_us) = stretch.end_us();
    lake.close().await?;
    Ok(Measured { rounds_us, wall_us, cpu_us })
}

/// The sources whose rows the tables hold.
pub(crate) fn sources() -> Result<Vec<SourceName>> {
    TABLES.iter().map(|name| SourceName::new(name).map_err(|problem| anyhow!("{problem}"))).collect()
}

/// One durable round.
pub(crate) async fn commit(
    catalog: &dyn Catalog,
    clock: &dyn Clock,
    sources: &[SourceName],
    round: u64,
    count: u64,
) -> Result<()> {
    let start = clock.moment();
    let mut staging = catalog.begin().await?;
    let mut receipts = Vec::new();
    let mut states = Vec::new();
    for source in sources {
        let mut table = staging.table(TableSpec {
            source: source.clone(),
            mode: WriteMode::Append,
            key: Vec::new(),
            key_memory: 0,
            time: start.wall,
            event_time: None,
            watermark: None,
        })?;
        table.write(batch(round, count)?).await?;
        let staged = table.finish().await?;
        receipts.push(receipt(source, round, staged.rows, staged.rows_sha256));
        states.push(SourceStatus {
            source: source.clone(),
            address: "bench 127.0.0.1:1".into(),
            state: State::Healthy,
            since: start.wall,
            cause_kind: None,
            cause: None,
            hint: None,
            last_round: Some(staging.round()),
            last_success: Some(start.wall),
            rows_total: round * count,
            errors_total: 0,
            failures: 0,
        });
    }
    let mut record = RoundRecord {
        name: RoundName::new("tiny").map_err(|problem| anyhow!("{problem}"))?,
        verdict: RoundVerdict::Complete,
        started_at: start.wall,
        duration_us: clock.moment().since_us(&start),
        release_spread_us: None,
        skew_bound_us: None,
        consistency: Default::default(),
        receipts,
        checks: Vec::new(),
    };
    record.measure();
    staging.commit(record, &states).await?;
    Ok(())
}

fn receipt(source: &SourceName, round: u64, rows: u64, rows_sha256: String) -> Receipt {
    let position = |round: u64| Some(Position::new(1, round.into()));
    let mut receipt = Receipt::new(source.clone(), ReceiptVerdict::Ok);
    receipt.prepared_us = Some(5);
    receipt.released_us = Some(10);
    receipt.first_byte_us = Some(100);
    receipt.last_byte_us = Some(110);
    receipt.bytes = 640;
    receipt.rows = rows;
    receipt.payload_sha256 = Some(rows_sha256.clone());
    receipt.rows_sha256 = Some(rows_sha256);
    receipt.position_before = position(round);
    receipt.position_after = position(round + 1);
    receipt
}
