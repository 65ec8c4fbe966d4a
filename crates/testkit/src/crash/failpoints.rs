//! Death at each named point of a commit or a maintenance job, in a build that has them (feature `failpoints`).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::audit::compare_prefix;
use super::collector::Collector;
use super::world::World;
use super::{Options, Report, kill};
use crate::process::run;

/// How long a point may take to be reached: maintenance looks for work every few seconds.
const REACH_PATIENCE: Duration = Duration::from_secs(45);
/// Each point is met at these passes: the first, and one in the middle of the work.
const PASSES: [u32; 2] = [1, 4];

/// The points that a binary has.
pub fn names(options: &Options) -> Result<Vec<String>> {
    let text = run(Command::new(&options.binary).arg("failpoints"))
        .context("a binary built with `--features failpoints` is needed")?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// Leaves `count` files in the lake that the catalog does not name, as a death between a file and its commit does: by
/// chance the deaths before may have left none.
fn plant_orphans(lake: &Path, count: u32) -> Result<()> {
    let file = find_file(&lake.join("data"))?.context("the lake has no Parquet file to copy")?;
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    for number in 0..count {
        std::fs::copy(&file, file.with_file_name(format!("{stem}-orphan-{number}.parquet")))?;
    }
    Ok(())
}

fn find_file(folder: &Path) -> Result<Option<PathBuf>> {
    if !folder.is_dir() {
        return Ok(None);
    }
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if let Some(found) = find_file(&path)? {
                return Ok(Some(found));
            }
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Dies at every point, or at those whose name holds `only`, and compares the lake after each death.
pub fn every(options: &Options, only: Option<&str>) -> Result<Report> {
    let mut world = World::start(None)?;
    world.start_writers(options.seed);
    let mut deaths = 0;
    let mut unreached = Vec::new();
    let mut names = names(options)?;
    ensure!(!names.is_empty(), "the binary names no failpoint");
    // Those of a commit first: they come with every round.
    names.sort_by_key(|name| !name.starts_with("commit::"));
    for name in names.iter().filter(|name| only.is_none_or(|only| name.contains(only))) {
        for pass in PASSES {
            let action = if pass == 1 { "return".to_owned() } else { format!("{}*off->return", pass - 1) };
            let armed = format!("{name}={action}");
            if name.starts_with("orphans::") {
                if find_file(&world.lake().join("data"))?.is_none() {
                    // Only these points were asked for: a flush makes the first file.
                    let armed = [("FAILPOINTS", "flush::after_commit=return")];
                    Collector::start(&options.binary, &world, &armed)?.process().wait(REACH_PATIENCE)?;
                }
                plant_orphans(world.lake(), pass)?;
            }
            let mut collector = Collector::start(&options.binary, &world, &[("FAILPOINTS", &armed)])?;
            match collector.process().wait(REACH_PATIENCE)? {
                Some(status) if status.success() => bail!("{armed}: the collector ended with success"),
                Some(_) => deaths += 1,
                None => {
                    collector.kill()?;
                    // Every round passes these: points that do nothing must not be waited for one by one.
                    ensure!(
                        !name.starts_with("commit::"),
                        "{armed} does nothing: is the binary's failpoint set-up read?"
                    );
                    unreached.push(armed.clone());
                }
            }
            let audited = compare_prefix(world.lake()).with_context(|| format!("after death at {armed}"))?;
            println!("{armed}: {} rows, {} rounds as written", audited.rows, audited.rounds);
        }
    }
    let mut report = kill::finish(&mut world, options, deaths, "deaths at named points")?;
    // A point that is never reached proves nothing: only the later passes of rare jobs may be missed.
    let never: Vec<&String> =
        unreached.iter().filter(|armed| armed.ends_with("=return") && !armed.contains("->")).collect();
    ensure!(never.is_empty(), "points that were never reached: {never:?}");
    if !unreached.is_empty() {
        report.notes.push(format!("not passed often enough within {REACH_PATIENCE:?}: {}", unreached.join(", ")));
    }
    Ok(report)
}
