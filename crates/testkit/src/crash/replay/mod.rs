//! Recorded I/O, cut off at each operation: what a power cut leaves, as far as the rules of POSIX allow it.
//!
//! The binary runs under `strace`, which notes every call that changes a file of the lake, with its data. Then the
//! lake is rebuilt as it may stand after each call, in three variants: everything written is there; only what was
//! synced is there; and a random part of what was not synced is there. Each must open to whole rounds, and must hold
//! every round that had been reported as committed.

mod check;
mod disk;
mod trace;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::audit;
use super::collector::Collector;
use super::random::Random;
use super::world::World;
use super::{Options, Report};
use crate::process::{Process, Signal, program};

use check::{Checker, Expectation};
use disk::{Disk, Variant};
use trace::Operation;

/// How far a replay goes.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// How long the collector is recorded.
    pub record_for: Duration,
    /// The most operations that are cut at, evenly spread; all where `None`.
    pub cuts_max: Option<usize>,
    /// Cuts that are opened by DuckDB besides, and continued by the binary until nothing is missing.
    pub continued: usize,
}

/// Files of a rebuilt lake, relative to its folder.
type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Records, replays and checks.
pub fn every(options: &Options, extent: Extent) -> Result<Report> {
    let mut world = World::start(None)?;
    world.start_writers(options.seed);
    let record = world.folder().join("strace.txt");
    record_run(options, &world, &record, extent.record_for)?;
    world.stop_writers()?;
    let operations = trace::read(&record, world.lake())?;
    let marks = operations.iter().filter(|operation| matches!(operation, Operation::Committed(_))).count();
    ensure!(marks > 0, "the record shows no committed round among {} operations", operations.len());
    println!("recorded {} operations, {marks} committed rounds", operations.len());

    let place = scratch()?;
    let mut checker = Checker::new(place.path())?;
    let mut random = Random::new(options.seed);
    let mut disk = Disk::default();
    let stride = extent.cuts_max.map_or(1, |most| operations.len().div_ceil(most.max(1)));
    let continued_stride = operations.len().checked_div(extent.continued + 1).unwrap_or(0).max(1);
    let (mut cuts, mut continued, mut committed) = (0u64, 0usize, None);
    let mut most_rows = 0;
    let mut problems = Problems::default();
    for (index, operation) in operations.iter().enumerate() {
        if let Operation::Committed(round) = operation {
            committed = committed.max(Some(*round));
        }
        disk.apply(index, operation);
        if index % stride == 0 || index + 1 == operations.len() {
            for variant in Variant::ALL {
                let files = disk.cut(variant, &mut random);
                match checker.check(&files, Expectation { committed }) {
                    Ok(found) => most_rows = most_rows.max(found.rows),
                    Err(error) => problems.add(&describe(index, &operations, variant), &error)?,
                }
                cuts += 1;
            }
        }
        if extent.continued > 0 && index % continued_stride == continued_stride - 1 && continued < extent.continued {
            let variant = Variant::ALL[continued % Variant::ALL.len()];
            let files = disk.cut(variant, &mut random);
            if let Err(error) = continue_from(options, &world, &files, committed.is_some()) {
                problems.add(&format!("continued: {}", describe(index, &operations, variant)), &error)?;
            }
            continued += 1;
        }
    }
    problems.none()?;
    Ok(Report {
        blows: cuts,
        blow_name: "cuts of the recorded I/O",
        rows: most_rows,
        rounds: marks as u64,
        notes: vec![
            format!("{} operations; after each: all kept, only synced kept, a random part kept", operations.len()),
            format!("{continued} cuts opened by DuckDB and continued by the binary until nothing was missing"),
        ],
    })
}

/// What was found wrong, each kind once: one mistake shows at many cuts.
#[derive(Default)]
struct Problems {
    kinds: BTreeSet<String>,
    shown: Vec<String>,
}

impl Problems {
    /// # Errors
    /// There are enough of them.
    fn add(&mut self, place: &str, error: &anyhow::Error) -> Result<()> {
        /// How many kinds are looked for.
        const KINDS_MAX: usize = 8;
        let text = format!("{error:#}");
        let kind: String = text.chars().filter(|c| c.is_alphabetic() && !c.is_ascii_hexdigit()).take(60).collect();
        if self.kinds.insert(kind) {
            println!("{place}: {text}");
            self.shown.push(format!("{place}: {text}"));
        }
        if self.shown.len() >= KINDS_MAX { self.none() } else { Ok(()) }
    }

    fn none(&self) -> Result<()> {
        ensure!(self.shown.is_empty(), "{} kinds of problems:\n{}", self.shown.len(), self.shown.join("\n"));
        Ok(())
    }
}

fn describe(index: usize, operations: &[Operation], variant: Variant) -> String {
    format!("cut after operation {index} of {} ({:?}), {variant:?}", operations.len(), operations[index])
}

/// A folder for rebuilt lakes, in memory where there is one.
fn scratch() -> Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("portolan-replay-");
    let memory = Path::new("/dev/shm");
    Ok(if memory.is_dir() { builder.tempdir_in(memory)? } else { builder.tempdir()? })
}

fn record_run(options: &Options, world: &World, record: &Path, duration: Duration) -> Result<()> {
    let strace = program("strace", "strace")?;
    let binary = std::path::absolute(&options.binary)?;
    ensure!(binary.is_file(), "{} is not there: build it with `cargo build --release`", binary.display());
    let log = world.folder().join("collector.log");
    let mut process = Process::spawn(&strace, &log, Signal::KILL, |command: &mut Command| {
        command
            .args(["--follow-forks", "-qq", "--decode-fds=path", "--strings-in-hex=all", "--string-limit=16777216"])
            .arg(format!("--trace={}", trace::CALLS))
            .arg("--output")
            .arg(record)
            .arg(&binary)
            .arg("--config")
            .arg(world.configuration())
            .args(["--log-format", "json", "run", "--for"])
            .arg(format!("{}ms", duration.as_millis()))
            .env("PORTOLAN_LOG", "info,portolan=debug");
    })?;
    let status = process.wait(duration * 6 + Duration::from_secs(60))?;
    let status = status.with_context(|| format!("the recorded run does not end:\n{}", process.log_tail()))?;
    ensure!(status.success(), "the recorded run ended with {status}:\n{}", process.log_tail());
    Ok(())
}

/// Lets the binary go on from a cut, as after a power cut, and compares everything in the end.
fn continue_from(options: &Options, world: &World, files: &Files, has_rounds: bool) -> Result<()> {
    let place = scratch()?;
    let lake = place.path().join("lake");
    write_files(&lake, files)?;
    if has_rounds {
        check::point_to(&lake)?;
        audit::compare_prefix(&lake).context("seen by DuckDB")?;
    }
    world.forget_acknowledged()?;
    let configuration = world.configuration_for(&lake)?;
    let mut collector =
        Collector::start_with(&options.binary, &configuration, &place.path().join("collector.log"), &[])?;
    audit::drain(world, &lake, &mut collector)?;
    std::thread::sleep(Duration::from_millis(500));
    collector.stop()?;
    audit::compare_all(world, &lake)?;
    audit::prove(&options.binary, &lake)?;
    Ok(())
}

fn write_files(folder: &Path, files: &Files) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    for (path, content) in files {
        let target = folder.join(path);
        std::fs::create_dir_all(target.parent().context("a file without a folder")?)?;
        std::fs::write(target, content)?;
    }
    Ok(())
}
