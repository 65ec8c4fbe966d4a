//! Documents agree with the code and with each other: every connector has a page and an example, both READMEs have the
//! same shape, links lead somewhere, and nothing names a machine that is not the reader's.

use super::{Problem, Tree};

/// The folder that has one module a connector.
const SOURCES: &str = "crates/connect/src/source/";
/// Texts that belong to somebody's machine. Written in two parts, so that this file does not hold them.
const MACHINE_PATHS: [(&str, &str); 4] = [("/ro", "ot/"), ("/wo", "rk/"), ("/home/", "runner"), ("BASE", "LINES")];
const READMES: [&str; 2] = ["README.md", "README.zh-CN.md"];

pub(crate) fn check(tree: &Tree) -> Vec<Problem> {
    let mut problems = connectors(tree);
    problems.extend(readmes(tree));
    problems.extend(machine_paths(tree));
    problems.extend(links(tree));
    problems
}

fn connectors(tree: &Tree) -> Vec<Problem> {
    let mut names: Vec<&str> = tree
        .rust()
        .filter_map(|file| file.path.strip_prefix(SOURCES))
        .filter_map(|rest| rest.split(['/', '.']).next())
        .filter(|name| *name != "mod")
        .collect();
    names.dedup();
    let mut problems = Vec::new();
    for name in &names {
        for place in [format!("docs/connectors/{name}.md"), format!("examples/{name}.toml")] {
            if tree.get(&place).is_none() {
                let message = format!("missing: the connector `{name}` needs a page and an example that runs");
                problems.push(Problem::new(place, message));
            }
        }
    }
    for file in &tree.files {
        let page = file.path.strip_prefix("docs/connectors/").and_then(|rest| rest.strip_suffix(".md"));
        if let Some(page) = page.filter(|page| *page != "README" && !names.contains(page)) {
            problems.push(Problem::new(&file.path, format!("describes `{page}`, and there is no such connector")));
        }
    }
    problems
}

fn readmes(tree: &Tree) -> Vec<Problem> {
    let shapes = READMES.map(|path| tree.get(path).map(|file| outline(&file.text)));
    match shapes {
        [Some(one), Some(other)] if one != other => vec![Problem::new(
            READMES[1],
            format!(
                "differs in shape from {}: {} headings and {} code blocks here, {} and {} there; both tell the same",
                READMES[0], other.0, other.1, one.0, one.1
            ),
        )],
        [Some(_), Some(_)] => Vec::new(),
        _ => vec![Problem::new(READMES[0], format!("{} and {} must both exist", READMES[0], READMES[1]))],
    }
}

/// Headings and code blocks of a Markdown text.
fn outline(text: &str) -> (usize, usize) {
    let (mut headings, mut fences) = (0, 0);
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fences += 1;
        } else if fences % 2 == 0 && line.starts_with('#') {
            headings += 1;
        }
    }
    (headings, fences / 2)
}

fn machine_paths(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for file in &tree.files {
        for (index, line) in file.text.lines().enumerate() {
            for (head, tail) in MACHINE_PATHS {
                if line.contains(&format!("{head}{tail}")) {
                    problems.push(Problem::new(
                        format!("{}:{}", file.path, index + 1),
                        format!("names `{head}{tail}`, which exists on one machine only: write what any reader has"),
                    ));
                }
            }
        }
    }
    problems
}

/// Relative links of Markdown files lead to a file or folder of the tree.
fn links(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for file in tree.files.iter().filter(|file| file.path.ends_with(".md")) {
        let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut is_code = false;
        for (index, line) in file.text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                is_code = !is_code;
            }
            if is_code {
                continue;
            }
            for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let target = target.split('#').next().unwrap_or_default();
                let is_elsewhere = target.contains("://") || target.starts_with("mailto:") || target.is_empty();
                if !is_elsewhere && !leads_somewhere(&resolve(folder, target)) {
                    let message = format!("links to `{target}`, which is not there");
                    problems.push(Problem::new(format!("{}:{}", file.path, index + 1), message));
                }
            }
        }
    }
    problems
}

fn resolve(folder: &str, target: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// Files that are not text count too: pictures, licences.
fn leads_somewhere(path: &str) -> bool {
    crate::run::workspace().join(path).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connectors_need_a_page_and_an_example() {
        let module = ("crates/connect/src/source/http/mod.rs", "//! x");
        let missing = connectors(&Tree::of(&[module, ("crates/connect/src/source/mod.rs", "//! x")]));
        assert_eq!(missing.len(), 2, "{missing:?}");
        let (page, example) = (("docs/connectors/http.md", ""), ("examples/http.toml", ""));
        assert_eq!(connectors(&Tree::of(&[module, page, example])), []);
        assert_eq!(connectors(&Tree::of(&[module, page, example, ("docs/connectors/smoke.md", "")])).len(), 1);
    }

    #[test]
    fn readmes_have_one_shape() {
        let one = "# a\n```sh\n# not a heading\n```\n## b\n";
        assert_eq!(outline(one), (2, 1));
        assert_eq!(readmes(&Tree::of(&[("README.md", one), ("README.zh-CN.md", one)])), []);
        assert_eq!(readmes(&Tree::of(&[("README.md", one), ("README.zh-CN.md", "# a\n")])).len(), 1);
        assert_eq!(readmes(&Tree::of(&[("README.md", one)])).len(), 1);
    }

    #[test]
    fn machine_paths_and_dead_links_are_found() {
        let path = format!("see {}{}x", MACHINE_PATHS[0].0, MACHINE_PATHS[0].1);
        assert_eq!(machine_paths(&Tree::of(&[("docs/a.md", &path)])).len(), 1);
        let text = "[a](../Cargo.toml) [b](nowhere.md) [c](https://example.org) [d](#here)\n```\n[e](gone.md)\n```\n";
        assert_eq!(links(&Tree::of(&[("docs/a.md", text)])).len(), 1);
    }
}
