//! `cargo xtask corruption`: a lake corrupted at random, one way at a time; `verify` must find each and name its place.

use anyhow::Result;

use crate::run::{cargo, numbers, run};

/// Does `--count N` corruptions (1,000) from `--seed N` (1), then verifies `--lakes N` sound lakes (40) under maintenance.
///
/// # Errors
/// A corruption was not found or not named, or a sound lake raised an alarm; the seed is named.
pub(crate) fn run_all(arguments: &[String]) -> Result<()> {
    let (mut count, mut seed, mut lakes) = (1_000, 1, 40);
    numbers(arguments, &mut [("--count", &mut count), ("--seed", &mut seed), ("--lakes", &mut lakes)])?;
    let test = ["test", "--release", "--package", "portolan-lake", "--test", "corruption", "--", "--nocapture"];
    run(cargo()
        .args(test)
        .env("PORTOLAN_CORRUPTION_COUNT", count.to_string())
        .env("PORTOLAN_CORRUPTION_SEED", seed.to_string())
        .env("PORTOLAN_CORRUPTION_LAKES", lakes.to_string()))
}
