//! `cargo xtask double-collect`: whether what `double_collect` says is proven is, and how often it is, as a table.

use anyhow::Result;

use crate::run::{cargo, numbers, run};
use crate::tools;

/// Runs `--rounds N` (100,000) rounds over worlds drawn from `--seed N` (1).
///
/// # Errors
/// A round that says it is proven is not; it is named, with its world.
pub(crate) fn run_all(arguments: &[String]) -> Result<()> {
    let (mut rounds, mut seed) = (100_000, 1);
    numbers(arguments, &mut [("--rounds", &mut rounds), ("--seed", &mut seed)])?;
    tools::install()?;
    let test = ["test", "--release", "--package", "portolan", "--no-default-features", "--test", "double_collect"];
    run(cargo()
        .args(test)
        .args(["no_proven_round", "--", "--nocapture"])
        .env("PORTOLAN_DOUBLE_COLLECT_ROUNDS", rounds.to_string())
        .env("PORTOLAN_DOUBLE_COLLECT_SEED", seed.to_string()))
}
