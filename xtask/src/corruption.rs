//! `cargo xtask corruption`: a lake corrupted at random, one way at a time; `verify` must find each and name its place.

use anyhow::{Context, Result, bail};

use crate::run::{cargo, run};

/// Does `--count N` corruptions (1,000) from `--seed N` (1), then verifies `--lakes N` sound lakes (40) under maintenance.
///
/// # Errors
/// A corruption was not found or not named, or a sound lake raised an alarm; the seed is named.
pub(crate) fn run_all(arguments: &[String]) -> Result<()> {
    let (mut count, mut seed, mut lakes) = (1_000, 1, 40);
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let mut number = || -> Result<u64> {
            let text = words.next().with_context(|| format!("{word} needs a number"))?;
            text.parse().with_context(|| format!("{word} needs a number, not {text:?}"))
        };
        match word.as_str() {
            "--count" => count = number()?,
            "--seed" => seed = number()?,
            "--lakes" => lakes = number()?,
            unknown => bail!("unknown argument `{unknown}`; there are --count N, --seed N and --lakes N"),
        }
    }
    let test = ["test", "--release", "--package", "portolan-lake", "--test", "corruption", "--", "--nocapture"];
    run(cargo()
        .args(test)
        .env("PORTOLAN_CORRUPTION_COUNT", count.to_string())
        .env("PORTOLAN_CORRUPTION_SEED", seed.to_string())
        .env("PORTOLAN_CORRUPTION_LAKES", lakes.to_string()))
}
