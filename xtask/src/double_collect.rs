//! `cargo xtask double-collect`: whether what `double_collect` says is proven is, and how often it is, as a table.

use anyhow::{Context, Result, bail};

use crate::run::{cargo, run};
use crate::tools;

/// Runs `--rounds N` (100,000) rounds over worlds drawn from `--seed N` (1).
///
/// # Errors
/// A round that says it is proven is not; it is named, with its world.
pub(crate) fn run_all(arguments: &[String]) -> Result<()> {
    let (mut rounds, mut seed) = (100_000, 1);
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let mut number = || -> Result<u64> {
            let text = words.next().with_context(|| format!("{word} needs a number"))?;
            text.parse().with_context(|| format!("{word} needs a number, not {text:?}"))
        };
        match word.as_str() {
            "--rounds" => rounds = number()?,
            "--seed" => seed = number()?,
            unknown => bail!("unknown argument `{unknown}`; there are --rounds N and --seed N"),
        }
    }
    tools::install()?;
    let test = ["test", "--release", "--package", "portolan", "--no-default-features", "--test", "double_collect"];
    run(cargo()
        .args(test)
        .args(["no_proven_round", "--", "--nocapture"])
        .env("PORTOLAN_DOUBLE_COLLECT_ROUNDS", rounds.to_string())
        .env("PORTOLAN_DOUBLE_COLLECT_SEED", seed.to_string()))
}
