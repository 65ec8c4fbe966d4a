//! What `verify` reads in a second, beside `sha256sum` of the same files, in turns.
//!
//! `verify_speed FOLDER MEBIBYTES [TURNS] [ROWS]` makes a lake of about so many mebibytes of Parquet in FOLDER, if there is none,
//! in rounds of ROWS rows (200,000), and prints a table: wall and CPU time of each side, GB/s of each, for each core. The files
//! are in the page cache: what is measured is what the processor does.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use portolan_bench::{Stretch, percentile};
use portolan_lake::{Lake, LakeReader, VerifyScope};
use portolan_model::catalog::{Catalog, TableSpec, WriteMode};
use portolan_model::clock::{Clock, SystemClock};
use portolan_model::config::LakeSpec;
use portolan_model::round::{Receipt, ReceiptVerdict, RoundRecord, RoundVerdict};
use portolan_model::{RoundName, SourceName};

/// Rows of a batch.
const BATCH_ROWS: i64 = 8_192;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (folder, mebibytes, rest) = match words.as_slice() {
        [folder, mebibytes, rest @ ..] if rest.len() <= 2 => (PathBuf::from(folder), mebibytes.parse::<u64>()?, rest),
        _ => bail!("usage: verify_speed FOLDER MEBIBYTES [TURNS] [ROWS]"),
    };
    let turns: usize = rest.first().map_or(Ok(7), |text| text.parse())?;
    let rows: i64 = rest.get(1).map_or(Ok(200_000), |text| text.parse())?;
    if !folder.join("catalog.sqlite").exists() {
        tokio::runtime::Runtime::new()?.block_on(fill(&folder, mebibytes << 20, rows))?;
    }
    measure(&folder, turns)
}

/// One table of numbers and texts, in rounds of `rows` rows, until its files have `bytes`.
async fn fill(folder: &Path, bytes: u64, rows: i64) -> Result<()> {
    let clock = Arc::new(SystemClock::new());
    let spec = LakeSpec { path: folder.to_owned(), ..LakeSpec::default() };
    let lake = Lake::open(&spec, clock.clone())?;
    let named = |problem| anyhow!("{problem}");
    let source = SourceName::new("readings").map_err(named)?;
    let name = RoundName::new("all").map_err(named)?;
    let mut round = 0;
    while files(folder)?.iter().map(|(_, size)| size).sum::<u64>() < bytes {
        let start = clock.moment();
        let mut staging = lake.begin().await?;
        let mut table = staging.table(TableSpec {
            source: source.clone(),
            mode: WriteMode::Append,
            key: Vec::new(),
            key_memory: 0,
            time: start.wall,
            event_time: None,
            watermark: None,
        })?;
        let mut begun = 0;
        while begun < rows {
            let count = BATCH_ROWS.min(rows - begun);
            table.write(batch(round * rows + begun, count)?).await?;
            begun += count;
        }
        let mut receipt = Receipt::new(source.clone(), ReceiptVerdict::Ok);
        receipt.rows = table.finish().await?.rows;
        let record = RoundRecord {
            name: name.clone(),
            verdict: RoundVerdict::Complete,
            started_at: start.wall,
            duration_us: clock.moment().since_us(&start),
            release_spread_us: None,
            skew_bound_us: None,
            consistency: Default::default(),
            checks: Vec::new(),
            receipts: vec![receipt],
        };
        staging.commit(record, &[]).await?;
        round += 1;
    }
    lake.close().await?;
    Ok(())
}

fn batch(start: i64, count: i64) -> Result<RecordBatch> {
    let mixed = |row: i64| (row as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
    let rows = start..start + count;
    let texts = rows.clone().map(|row| Some(format!("{:016x}{:08x}", mixed(row), mixed(row + 7) as u32)));
    let columns: [(&str, ArrayRef); 3] = [
        ("sequence", Arc::new(Int64Array::from_iter_values(rows.clone()))),
        ("value", Arc::new(Int64Array::from_iter_values(rows.map(|row| (mixed(row) >> 20) as i64)))),
        ("text", Arc::new(texts.collect::<StringArray>())),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

/// The Parquet files of a lake with their sizes.
fn files(folder: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.join("data")];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => folders.push(entry.path()),
                false => found.push((entry.path(), entry.metadata()?.len())),
            }
        }
    }
    Ok(found)
}

/// What one side took, turn by turn.
#[derive(Default)]
struct Side {
    wall_s: Vec<f64>,
    cpu_s: Vec<f64>,
}

fn measure(folder: &Path, turns: usize) -> Result<()> {
    let files = files(folder)?;
    let bytes = files.iter().map(|(_, size)| size).sum::<u64>() as f64;
    let reader = LakeReader::open(folder)?;
    let verify = |full: bool| -> Result<(f64, f64)> {
        let stretch = Stretch::begin();
        let report = reader.verify(&VerifyScope { full, ..VerifyScope::default() }, &mut |_| {})?;
        let (wall_us, cpu_us) = stretch.end_us();
        ensure!(report.is_sound(), "the lake is damaged: {:?} {:?}", report.mismatches, report.damaged_files);
        Ok((wall_us / 1e6, cpu_us / 1e6))
    };
    let mut sides =
        [("`sha256sum`", Side::default()), ("`verify`", Side::default()), ("`verify --full`", Side::default())];
    for turn in 0..=turns {
        let taken = [sum(&files)?, verify(false)?, verify(true)?];
        // The first turn brings the files into the page cache.
        if turn > 0 {
            for ((_, side), (wall_s, cpu_s)) in sides.iter_mut().zip(taken) {
                side.wall_s.push(wall_s);
                side.cpu_s.push(cpu_s);
            }
        }
    }
    println!("{} files, {:.0} MB, {turns} turns, medians\n", files.len(), bytes / 1e6);
    println!("| | wall s | CPU s | GB/s | GB/s of each core |\n|---|---|---|---|---|");
    for (name, side) in &mut sides {
        let (wall_s, cpu_s) = (percentile(&mut side.wall_s, 0.5), percentile(&mut side.cpu_s, 0.5));
        println!("| {name} | {wall_s:.3} | {cpu_s:.3} | {:.2} | {:.2} |", bytes / wall_s / 1e9, bytes / cpu_s / 1e9);
    }
    Ok(())
}

/// Runs `sha256sum` over the files; wall and CPU time in seconds, the latter as its shell's `times` has it.
fn sum(files: &[(PathBuf, u64)]) -> Result<(f64, f64)> {
    let begun = Instant::now();
    let mut command = Command::new("bash");
    command.args(["-c", "TIMEFORMAT='%U %S'; time sha256sum \"$@\" > /dev/null", "sum"]);
    command.args(files.iter().map(|(path, _)| path));
    let output = command.output().context("start bash")?;
    ensure!(output.status.success(), "sha256sum: {}", String::from_utf8_lossy(&output.stderr));
    let wall_s = begun.elapsed().as_secs_f64();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let times: Vec<f64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    Ok((wall_s, times.iter().sum()))
}
