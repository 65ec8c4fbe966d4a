//! `cargo xtask test`: everything that must hold, with what it needs installed first.

use anyhow::Result;

use crate::run::{cargo, is_installed, run};
use crate::tools;

/// Everything, in a build that can be stopped at named points.
const SCOPE: [&str; 3] = ["--workspace", "--features", "portolan/failpoints"];

/// Installs what is missing and runs every test; `arguments` go to the runner. The runner's closing line comes last.
pub(crate) fn run_all(arguments: &[String]) -> Result<()> {
    tools::install()?;
    if is_installed("cargo-nextest") {
        // nextest runs no documentation tests.
        run(cargo().args(["test", "--doc", "--quiet"]).args(SCOPE))?;
        run(cargo().args(["nextest", "run", "--no-fail-fast"]).args(SCOPE).args(arguments))
    } else {
        run(cargo().args(["test", "--no-fail-fast"]).args(SCOPE).args(arguments))
    }
}
