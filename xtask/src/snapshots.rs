//! `cargo xtask snapshots`: rounds over a bank's accounts in several tables, while money moves between them.

use anyhow::{Context, Result, bail};

use crate::run::{cargo, run};
use crate::tools;

/// Runs `--rounds N` (10,000) rounds each way, on both servers or on `--server` alone.
///
/// # Errors
/// A round with one snapshot had a wrong total, or the control without a snapshot had none.
pub(crate) fn run_all(arguments: &[String]) -> Result<()> {
    let (mut rounds, mut server) = (10_000_u64, None);
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        match (word.as_str(), value.as_str()) {
            ("--rounds", number) => {
                rounds = number.parse().with_context(|| format!("{word} needs a number, not {number:?}"))?;
            }
            ("--server", "mariadb" | "postgres") => server = Some(value),
            _ => bail!("unknown argument `{word} {value}`; there are --rounds N and --server mariadb|postgres"),
        }
    }
    tools::install()?;
    let mut command = cargo();
    command
        .args(["test", "--release", "--package", "portolan", "--no-default-features", "--test", "transfers"])
        .args(["--", "--nocapture", "--test-threads=1"])
        .env("PORTOLAN_SNAPSHOT_ROUNDS", rounds.to_string());
    if let Some(server) = server {
        command.env("PORTOLAN_SNAPSHOT_SERVER", server);
    }
    run(&mut command)
}
