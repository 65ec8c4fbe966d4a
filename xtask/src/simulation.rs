//! `cargo xtask simulation`: the coordinator of rounds against models that fail, seed after seed.

use anyhow::Result;

use crate::run::{cargo, numbers, run};

/// Runs the seeds asked for: `--seeds N` of them (100,000) from `--first N` (1), or `--seed N` alone.
///
/// # Errors
/// A seed broke a promise; it is named, with what it broke.
pub(crate) fn run_all(arguments: &[String]) -> Result<()> {
    let (mut first, mut seeds, mut alone) = (1, 100_000, 0);
    numbers(arguments, &mut [("--first", &mut first), ("--seeds", &mut seeds), ("--seed", &mut alone)])?;
    if arguments.iter().any(|word| word == "--seed") {
        (first, seeds) = (alone, 1);
    }
    let test = ["test", "--release", "--package", "portolan-rounds", "--test", "simulation", "nothing_that_fails"];
    run(cargo()
        .args(test)
        .args(["--", "--nocapture"])
        .env("PORTOLAN_SIMULATION_FIRST", first.to_string())
        .env("PORTOLAN_SIMULATION_SEEDS", seeds.to_string()))
}
