//! Who may import whom: everyone the contracts, `query` the lake, the binary all, siblings never; and the crates that
//! fence a heavy dependency are the only ones to have it.

use anyhow::{Context, Result};
use serde_json::Value;

use super::Problem;
use crate::run::{capture, cargo};

/// A crate of the workspace → the crates of the workspace that it may depend on.
const ALLOWED: [(&str, &[&str]); 9] = [
    ("portolan-model", &[]),
    ("portolan-connect", &["portolan-model"]),
    ("portolan-rounds", &["portolan-model"]),
    ("portolan-lake", &["portolan-model"]),
    ("portolan-query", &["portolan-model", "portolan-lake"]),
    ("portolan-testkit", &["portolan-model"]),
    ("portolan", &["portolan-model", "portolan-connect", "portolan-rounds", "portolan-lake", "portolan-query"]),
    ("portolan-bench", &["portolan-model", "portolan-connect", "portolan-rounds", "portolan-lake", "portolan-query"]),
    ("xtask", &[]),
];

/// A library → the crates that may have it.
const FENCED: [(&str, &[&str]); 5] = [
    ("datafusion", &["portolan-query"]),
    ("rusqlite", &["portolan-lake", "portolan-testkit", "portolan-bench"]),
    ("mysql_async", &["portolan-connect"]),
    ("hyper", &["portolan-connect"]),
    ("clap", &["portolan"]),
];

/// A crate and what its manifest asks for.
#[derive(Debug)]
pub(crate) struct Manifest {
    name: String,
    /// Name, and whether it is for tests alone.
    dependencies: Vec<(String, bool)>,
}

/// The manifests of the workspace.
pub(crate) fn manifests() -> Result<Vec<Manifest>> {
    let text = capture(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&text)?;
    let packages = metadata["packages"].as_array().context("no packages in cargo's metadata")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let manifest = |package: &Value| Manifest {
        name: text(&package["name"]),
        dependencies: package["dependencies"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|dependency| (text(&dependency["name"]), dependency["kind"] == "dev"))
            .collect(),
    };
    Ok(packages.iter().map(manifest).collect())
}

pub(crate) fn check(manifests: &[Manifest]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for manifest in manifests {
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == manifest.name) else {
            problems.push(Problem::new(
                &manifest.name,
                "a crate that the import rules do not know: a crate must earn itself by fencing a heavy dependency, \
                 a privilege or an independently edited leaf; then add it to xtask/src/tidy/imports.rs",
            ));
            continue;
        };
        for (dependency, is_dev) in &manifest.dependencies {
            let is_ours = ALLOWED.iter().any(|(name, _)| name == dependency);
            let for_tests = *is_dev && (dependency == "portolan-testkit" || allowed.contains(&dependency.as_str()));
            if is_ours && !for_tests && !allowed.contains(&dependency.as_str()) {
                problems.push(Problem::new(
                    &manifest.name,
                    format!(
                        "imports `{dependency}`: siblings never import each other, testkit is for tests alone; put \
                         what both need into a contract of portolan-model and join them in crates/portolan"
                    ),
                ));
            }
            let fence = FENCED.iter().find(|(library, _)| library == dependency);
            if let Some((library, owners)) = fence
                && !is_dev
                && !owners.contains(&manifest.name.as_str())
            {
                problems.push(Problem::new(
                    &manifest.name,
                    format!(
                        "depends on `{library}`, which is fenced in {}: go through that crate, so that its weight \
                         and its types stay in one place",
                        owners.join(", ")
                    ),
                ));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_one(name: &str, dependency: &str, is_dev: bool) -> usize {
        check(&[Manifest { name: name.into(), dependencies: vec![(dependency.into(), is_dev)] }]).len()
    }

    #[test]
    fn siblings_and_fences() {
        assert_eq!(check_one("portolan-connect", "portolan-model", false), 0);
        assert_eq!(check_one("portolan-connect", "portolan-lake", false), 1);
        assert_eq!(check_one("portolan-connect", "portolan-lake", true), 1);
        assert_eq!(check_one("portolan-connect", "portolan-testkit", true), 0);
        assert_eq!(check_one("portolan-connect", "portolan-testkit", false), 1);
        assert_eq!(check_one("portolan-lake", "datafusion", false), 1);
        assert_eq!(check_one("portolan-query", "datafusion", false), 0);
        assert_eq!(check_one("portolan-surprise", "serde", false), 1);
    }
}
