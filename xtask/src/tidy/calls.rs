//! Calls that are banned in the product, each with its replacement and the reason. Tests, the test kit and this
//! program are free.

use super::{Problem, Tree};

/// A banned call.
struct Ban {
    /// The text that gives it away.
    call: &'static str,
    /// Paths (by their start) where it is right.
    except: &'static [&'static str],
    /// What to do instead, and why.
    instead: &'static str,
}

const BANS: &[Ban] = &[
    Ban {
        call: ".unwrap()",
        except: &[],
        instead: "return an error that names entity and value: nothing panics on what comes from outside",
    },
    Ban {
        call: "println!(",
        except: &["crates/portolan/src/output/", "crates/portolan/src/output.rs"],
        instead: "write through the binary's output module: standard output is data and must survive a closed pipe",
    },
    Ban {
        call: "print!(",
        except: &["crates/portolan/src/output/", "crates/portolan/src/output.rs"],
        instead: "write through the binary's output module: standard output is data and must survive a closed pipe",
    },
    Ban {
        call: "SystemTime::now(",
        except: &["crates/model/src/clock.rs"],
        instead: "take a `Clock`: time is injected, so that a test or a simulation can own it",
    },
    Ban {
        call: "Instant::now(",
        except: &["crates/model/src/clock.rs", "crates/portolan/src/demo/"],
        instead: "take a `Clock`: time is injected, so that a test or a simulation can own it",
    },
    Ban {
        call: "Timestamp::now(",
        except: &["crates/model/src/clock.rs"],
        instead: "take a `Clock`: time is injected, so that a test or a simulation can own it",
    },
    Ban {
        call: "process::exit(",
        except: &[],
        instead: "return an `ExitCode` from main: exit skips every destructor, locks and temporary files stay behind",
    },
    Ban {
        call: "unbounded_channel(",
        except: &[],
        instead: "use a channel with a bound: back-pressure has to reach the socket",
    },
    Ban {
        call: "thread::sleep(",
        // The lake is opened before any task runs, and waits for its lock at most half a second.
        except: &["crates/portolan/src/demo/", "crates/lake/src/lock.rs"],
        instead: "await `tokio::time::sleep`: a sleeping thread stops every task on it",
    },
    Ban { call: "dbg!(", except: &[], instead: "remove it, or log with `tracing`" },
];

pub(crate) fn check(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for file in tree.rust().filter(|file| is_product(&file.path)) {
        let means_tokio = imports_tokio_instant(&file.text);
        for (index, line) in product_lines(&file.text) {
            for ban in BANS {
                let is_excepted = ban.except.iter().any(|start| file.path.starts_with(start));
                let is_pausable = means_tokio && ban.call == "Instant::now(";
                if holds_call(line, ban.call) && !is_excepted && !is_pausable {
                    let message = format!("`{}` is banned here: {}", ban.call.trim(), ban.instead);
                    problems.push(Problem::new(format!("{}:{}", file.path, index + 1), message));
                }
            }
        }
    }
    problems
}

/// Whether the call stands in the line as a word of its own: `println!(` is not in `eprintln!(`, and tokio's pausable
/// `Instant` is not the machine's.
fn holds_call(line: &str, call: &str) -> bool {
    line.match_indices(call).any(|(at, _)| {
        let before = &line[..at];
        let is_word =
            before.ends_with(|c: char| c.is_alphanumeric() || c == '_') && call.starts_with(char::is_alphabetic);
        !is_word && !before.ends_with("tokio::time::")
    })
}

/// Whether `Instant` in this file is tokio's, which a test can pause.
fn imports_tokio_instant(text: &str) -> bool {
    text.lines().any(|line| line.trim_start().starts_with("use tokio::time::") && line.contains("Instant"))
}

fn is_product(path: &str) -> bool {
    let is_free = ["crates/testkit/", "xtask/", "benches/", "fuzz/"].iter().any(|start| path.starts_with(start));
    let is_test =
        path.split('/').any(|part| matches!(part, "tests" | "benches" | "examples" | "tests.rs" | "fixtures"));
    !is_free && !is_test && path.starts_with("crates/")
}

/// The lines that are neither comments nor inside a module of tests, with their index. A module of tests is what
/// follows `#[cfg(test)]` up to the brace that closes it, at the same depth, as rustfmt lays it out.
fn product_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut closing: Option<String> = None;
    let mut is_test_next = false;
    text.lines().enumerate().filter(move |(_, line)| {
        let trimmed = line.trim_start();
        let indent = &line[..line.len() - trimmed.len()];
        if let Some(end) = &closing {
            if line.trim_end() == *end {
                closing = None;
            }
            return false;
        }
        if trimmed.starts_with("#[cfg(test)]") {
            is_test_next = true;
            return false;
        }
        if is_test_next {
            if trimmed.starts_with("#[") {
                return false;
            }
            is_test_next = false;
            if line.trim_end().ends_with('{') {
                closing = Some(format!("{indent}}}"));
            }
            return false;
        }
        !trimmed.starts_with("//")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ban_finds_its_call_outside_tests_only() {
        for ban in BANS {
            let call = ban.call;
            let text = format!(
                "//! x\n// {call}\nfn f() {{\n    (a {call};\n}}\n#[cfg(test)]\nmod tests {{\n    fn g() {{ (a {call}; }}\n}}\n"
            );
            for path in ["crates/lake/src/a.rs", "crates/portolan/src/cli/run.rs"] {
                let problems = check(&Tree::of(&[(path, &text)]));
                assert_eq!(problems.len(), 1, "{call} in {path}: {problems:?}");
                assert_eq!(problems[0].place, format!("{path}:4"));
            }
            for path in ["crates/lake/tests/a.rs", "crates/testkit/src/a.rs", "xtask/src/a.rs"] {
                assert_eq!(check(&Tree::of(&[(path, &text)])), [], "{call} in {path}");
            }
        }
    }
}
