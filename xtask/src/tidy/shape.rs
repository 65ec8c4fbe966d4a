//! The shape of source files: a header that states purpose and promise, a length that can be read at one go, no unsafe
//! code but in the modules named here.

use super::{Problem, Tree};

/// Lines above which a file is warned about, and above which it fails.
const LINES_WARN: usize = 500;
const LINES_MAX: usize = 600;
/// Files that were too long when the rule came, with the lines they had: they may shrink, never grow. Empty since the
/// first day.
const RATCHET: [(&str, usize); 0] = [];

/// The modules that hold unsafe code. Each was reviewed and states why it is sound; the root of its crate denies such code
/// everywhere else.
const UNSAFE: [&str; 1] = ["crates/connect/src/transport/batch.rs"];

pub(crate) fn check(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for file in tree.rust() {
        if !file.text.starts_with("//!") {
            problems.push(Problem::new(
                &file.path,
                "does not start with `//!`: say in a line or two what the module is for and what it promises",
            ));
        }
        let lines = file.text.lines().count();
        let limit = RATCHET.iter().find(|(path, _)| *path == file.path).map_or(LINES_MAX, |(_, lines)| *lines);
        if lines > limit {
            problems.push(Problem::new(
                &file.path,
                format!("has {lines} lines, more than {limit}: split it by what changes together, so that it can be read at one go"),
            ));
        } else if lines > LINES_WARN {
            problems.push(Problem::warning(&file.path, format!("has {lines} lines; it fails at {LINES_MAX}")));
        }
        let is_root = file.path.ends_with("src/lib.rs") || file.path.ends_with("src/main.rs");
        let folder = file.path.strip_suffix("lib.rs").or_else(|| file.path.strip_suffix("main.rs")).unwrap_or_default();
        let has_unsafe = is_root && UNSAFE.iter().any(|path| path.starts_with(folder));
        let promise = if has_unsafe { "#![deny(unsafe_code)]" } else { "#![forbid(unsafe_code)]" };
        if is_root && !file.text.contains(promise) {
            problems
                .push(Problem::new(&file.path, format!("lacks `{promise}`: the promise is part of each crate's root")));
        }
        // Written apart, so that this file does not allow it.
        let is_allowed = ["allow", "expect"].iter().any(|word| file.text.contains(&format!("{word}(unsafe_code")));
        if is_allowed && !UNSAFE.contains(&file.path.as_str()) {
            problems.push(Problem::new(
                &file.path,
                "allows unsafe code: only modules named in xtask/src/tidy/shape.rs may",
            ));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_lengths_and_the_unsafe_promise() {
        let long = format!("//! x\n{}", "// y\n".repeat(600));
        let longish = format!("//! x\n{}", "// y\n".repeat(550));
        let tree = Tree::of(&[
            ("crates/a/src/lib.rs", "//! x\n#![forbid(unsafe_code)]\n"),
            ("crates/b/src/lib.rs", "//! x\n"),
            ("crates/b/src/c.rs", "fn f() {}\n"),
            ("crates/b/src/d.rs", &long),
            ("crates/b/src/e.rs", &longish),
            ("crates/b/src/f.rs", concat!("//! x\n#![allow", "(unsafe_code)]\n")),
            ("crates/connect/src/lib.rs", "//! x\n#![deny(unsafe_code)]\n"),
            (UNSAFE[0], concat!("//! x\n#![allow", "(unsafe_code)]\n")),
        ]);
        let problems = check(&tree);
        let places: Vec<_> = problems.iter().map(|problem| (problem.place.as_str(), problem.fails)).collect();
        assert_eq!(
            places,
            [
                ("crates/b/src/lib.rs", true),
                ("crates/b/src/c.rs", true),
                ("crates/b/src/d.rs", true),
                ("crates/b/src/e.rs", false),
                ("crates/b/src/f.rs", true)
            ]
        );
    }
}
