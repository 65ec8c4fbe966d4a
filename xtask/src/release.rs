//! `cargo xtask release-test`: the tests of the command line against the binary that users get, not the one that cargo
//! builds for tests. `cargo xtask crash` does the same for the campaigns.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::run::{capture, cargo, run};
use crate::tools;

/// Tells the tests which binary to run; read in `crates/portolan/tests/support/mod.rs`.
const BINARY_VARIABLE: &str = "PORTOLAN_BINARY";

const HELP: &str = "cargo xtask release-test [ARGUMENT…]

Installs what the tests need, builds the full binary (`cargo build --release -p portolan`), and runs the tests that
collect from real and from failing servers with it: `cargo test -p portolan --test real_servers --test faults`.
Arguments go to `cargo test`: the beginning of a test's name, or what comes after `--`.

To test any other full build, set PORTOLAN_BINARY to its path, absolute or from the workspace's root, and run
`cargo test -p portolan`. A build without SQL (`--no-default-features`) is refused: the tests compare lakes by query.
";

/// Builds the released binary and runs the tests of the command line with it; `arguments` go to the runner.
///
/// # Errors
/// The build or a test failed.
pub(crate) fn run_all(arguments: &[String]) -> Result<()> {
    if arguments
        .iter()
        .take_while(|argument| *argument != "--")
        .any(|argument| argument == "--help" || argument == "-h")
    {
        print!("{HELP}");
        return Ok(());
    }
    tools::install()?;
    run(cargo().args(["build", "--release", "--package", "portolan"]))?;
    let binary = released_binary()?;
    println!("xtask: testing {}", binary.display());
    let tests = ["test", "--package", "portolan", "--test", "real_servers", "--test", "faults"];
    run(cargo().args(tests).args(arguments).env(BINARY_VARIABLE, &binary))
}

/// Where cargo puts it: `CARGO_TARGET_DIR` and its configuration may move the target folder.
fn released_binary() -> Result<PathBuf> {
    let metadata = capture(cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let target = metadata["target_directory"].as_str().context("cargo metadata names no target folder")?;
    let binary = PathBuf::from(target).join("release").join("portolan");
    ensure!(binary.is_file(), "the build left no {}", binary.display());
    Ok(binary)
}
