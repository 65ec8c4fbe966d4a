//! `cargo xtask simulation`: the coordinator of rounds against models that fail, seed after seed.

use anyhow::{Context, Result, bail};

use crate::run::{cargo, run};

/// Runs the seeds asked for: `--seeds N` of them (100,000) from `--first N` (1), or `--seed N` alone.
///
/// # Errors
/// A seed broke a promise; it is named, with what it broke.
pub(crate) fn run_all(arguments: &[String]) -> Result<()> {
    let (mut first, mut seeds) = (1, 100_000);
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let mut number = || -> Result<u64> {
            let text = words.next().with_context(|| format!("{word} needs a number"))?;
            text.parse().with_context(|| format!("{word} needs a number, not {text:?}"))
        };
        match word.as_str() {
            "--first" => first = number()?,
            "--seeds" => seeds = number()?,
            "--seed" => (first, seeds) = (number()?, 1),
            unknown => bail!("unknown argument `{unknown}`; there are --seeds N, --first N and --seed N"),
        }
    }
    let test = ["test", "--release", "--package", "portolan-rounds", "--test", "simulation", "nothing_that_fails"];
    run(cargo()
        .args(test)
        .args(["--", "--nocapture"])
        .env("PORTOLAN_SIMULATION_FIRST", first.to_string())
        .env("PORTOLAN_SIMULATION_SEEDS", seeds.to_string()))
}
