//! The program under test, as a user runs it.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use portolan_testkit::process::{Process, Signal};
use serde_json::Value;

/// Names another binary to test than the one that cargo has just built: a path, absolute or from the workspace's root.
pub(crate) const BINARY_VARIABLE: &str = "PORTOLAN_BINARY";
/// The exit code of a build that lacks what is asked for (`docs/exit-codes.md`).
const UNSUPPORTED: i32 = 7;

/// The program under test. It must be a full build: the lean one refuses the SQL with which lakes are compared.
pub(crate) fn binary() -> PathBuf {
    let Some(path) = std::env::var_os(BINARY_VARIABLE) else { return built_binary() };
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let path = workspace.join(path);
    assert!(path.is_file(), "{BINARY_VARIABLE} names {}, and there is no such file", path.display());
    path.canonicalize().unwrap()
}

/// The program that cargo has built with the features of the tests, which no other binary may have.
pub(crate) fn built_binary() -> PathBuf {
    env!("CARGO_BIN_EXE_portolan").into()
}

/// The longest anything is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with a configuration, and the program to run in it.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new(configuration: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("portolan.toml"), configuration).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn lake(&self) -> PathBuf {
        self.folder.path().join("lake")
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.current_dir(self.folder.path()).args(arguments).env("NO_COLOR", "1").env_remove("PORTOLAN_CONFIG");
        command.env("PORTOLAN_TEST_PASSWORD", portolan_testkit::servers::COLLECTOR_PASSWORD);
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().unwrap();
        assert_ne!(
            output.status.code(),
            Some(UNSUPPORTED),
            "{BINARY_VARIABLE} must name a full build (`cargo build --release -p portolan`, default features): {}",
            String::from_utf8_lossy(&output.stderr)
        );
        output
    }

    /// Runs a command that must succeed; its standard output.
    pub(crate) fn text(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?} ended with {}: {errors}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.text(arguments)).unwrap()
    }

    /// Rows of a query over the lake.
    pub(crate) fn query(&self, sql: &str) -> Vec<Value> {
        let rows = self.json(&["query", sql, "--format", "json"]);
        rows.as_array().unwrap().clone()
    }

    /// One number out of a query over the lake.
    pub(crate) fn number(&self, sql: &str) -> i64 {
        let rows = self.query(sql);
        rows[0].as_object().unwrap().values().next().unwrap().as_i64().unwrap()
    }

    /// The source's entry of `status --json`.
    pub(crate) fn status(&self, source: &str) -> Value {
        let document = self.json(&["status", "--json"]);
        let sources = document["sources"].as_array().unwrap();
        sources.iter().find(|entry| entry["source"] == source).cloned().unwrap_or(Value::Null)
    }

    /// A collector in the background; ended when dropped.
    pub(crate) fn start(&self, arguments: &[&str]) -> Process {
        let prepared = self.command(arguments);
        let program = PathBuf::from(prepared.get_program());
        Process::spawn(&program, &self.path().join("run.log"), Signal::TERM, |command| {
            command.args(prepared.get_args()).current_dir(self.path());
            for (name, value) in prepared.get_envs() {
                match value {
                    Some(value) => command.env(name, value),
                    None => command.env_remove(name),
                };
            }
        })
        .unwrap()
    }

    /// Waits until the collector has made its lake and stored the state of `source`.
    pub(crate) fn wait_for_lake(&self, source: &str) {
        self.wait_until("the lake is there", || {
            let output = self.run(&["status", "--json"]);
            output.status.success() && String::from_utf8_lossy(&output.stdout).contains(&format!("\"{source}\""))
        });
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("run.log")).unwrap_or_default()
    }

    /// Waits until `condition` holds.
    pub(crate) fn wait_until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let started = Instant::now();
        while !condition() {
            assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
