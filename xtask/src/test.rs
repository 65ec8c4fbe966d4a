//! `cargo xtask test`: everything that must hold, with what it needs installed first.

use anyhow::Result;

use crate::run::{cargo, is_installed, run};
use crate::tools;

/// Installs what is missing and runs every test; `arguments` go to the runner. The runner's closing line comes last.
pub(crate) fn run_all(arguments: &[String]) -> Result<()> {
    tools::install()?;
    if is_installed("cargo-nextest") {
        // nextest runs no documentation tests.
        run(cargo().args(["test", "--workspace", "--doc", "--quiet"]))?;
        run(cargo().args(["nextest", "run", "--workspace", "--no-fail-fast"]).args(arguments))
    } else {
        run(cargo().args(["test", "--workspace", "--no-fail-fast"]).args(arguments))
    }
}
