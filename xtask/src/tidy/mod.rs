//! `cargo xtask tidy`: the rules of the house that no other tool checks. Each message says what to do instead and why.
//! It is a test too, so that nobody has to remember it.

mod calls;
mod documents;
mod imports;
mod shape;
mod tree;

use anyhow::{Result, bail};

pub(crate) use tree::Tree;

/// What a rule found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The file, relative to the workspace, with the line where known: `path:line`.
    place: String,
    /// What is wrong, what to do instead, and why.
    message: String,
    /// Whether it fails the run.
    fails: bool,
}

impl Problem {
    fn new(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: place.into(), message: message.into(), fails: true }
    }

    fn warning(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { fails: false, ..Self::new(place, message) }
    }
}

/// Checks the workspace and prints what it finds.
///
/// # Errors
/// A rule is broken.
pub(crate) fn run() -> Result<()> {
    let problems = check()?;
    for problem in &problems {
        println!("{}{}: {}", if problem.fails { "" } else { "warning: " }, problem.place, problem.message);
    }
    match problems.iter().filter(|problem| problem.fails).count() {
        0 => Ok(()),
        count => bail!("tidy found {count} problems"),
    }
}

fn check() -> Result<Vec<Problem>> {
    let tree = Tree::read(&crate::run::workspace())?;
    let mut problems = imports::check(&imports::manifests()?);
    problems.extend(shape::check(&tree));
    problems.extend(calls::check(&tree));
    problems.extend(documents::check(&tree));
    Ok(problems)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_workspace_is_tidy() {
        let problems = super::check().unwrap();
        let failing: Vec<String> = problems
            .iter()
            .filter(|problem| problem.fails)
            .map(|problem| format!("{}: {}", problem.place, problem.message))
            .collect();
        assert!(failing.is_empty(), "{}", failing.join("\n"));
    }
}
