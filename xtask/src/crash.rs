//! `cargo xtask crash`: builds what the campaigns need and runs them (they live in the test kit, feature `campaigns`).

use anyhow::Result;

use crate::run::{cargo, run};
use crate::tools;

/// Runs the campaigns; `arguments` are theirs.
pub(crate) fn run_all(arguments: &[String]) -> Result<()> {
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    let wants_help = has("--help") || has("-h");
    if !wants_help {
        tools::install()?;
        let only_failpoints = has("failpoints")
            && !["collector", "servers", "mixture", "full-disk", "replay"].iter().any(|mode| has(mode));
        if !has("--binary") && !only_failpoints {
            run(cargo().args(["build", "--release", "--package", "portolan"]))?;
        }
        if has("failpoints") && !has("--failpoint-binary") {
            run(cargo().args(["build", "--package", "portolan", "--features", "failpoints"]))?;
        }
    }
    let campaign =
        ["run", "--quiet", "--package", "portolan-testkit", "--features", "campaigns", "--bin", "portolan-crash", "--"];
    run(cargo().args(campaign).args(arguments))
}
