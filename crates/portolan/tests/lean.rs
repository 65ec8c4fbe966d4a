//! The build without SQL says that it has none, and collects all the same.

#![cfg(not(feature = "sql"))]
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::process::Command;

#[test]
fn what_needs_sql_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for words in [&["query", "select 1"][..], &["fetch", "--sql", "select 1"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_portolan")).current_dir(&folder).args(words).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(7), "{words:?}: {message}");
        assert!(message.contains("SQL"), "{message}");
    }
}

#[test]
fn a_configuration_with_checks_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let configuration = "[server]\nhost = \"127.0.0.1\"\n[[source]]\nname = \"a\"\nport = 1\nprotocol = \"http\"\n\
                         [[check]]\nname = \"c\"\nsource = \"a\"\nnot_null = [\"id\"]\n";
    std::fs::write(folder.path().join("portolan.toml"), configuration).unwrap();
    for words in [&["run"][..], &["fetch"], &["fetch", "--save"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_portolan")).current_dir(&folder).args(words).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(7), "{words:?}: {message}");
        assert!(message.contains("[[check]]") && message.contains("SQL"), "{message}");
    }
    assert!(!folder.path().join("lake").exists());
}

#[test]
fn the_other_commands_are_there() {
    let output = Command::new(env!("CARGO_BIN_EXE_portolan")).arg("--help").output().unwrap();
    let help = String::from_utf8_lossy(&output.stdout);
    assert!(
        ["check", "fetch", "run", "rounds", "status", "verify", "lake", "quarantine", "demo"]
            .iter()
            .all(|command| help.contains(command)),
        "{help}"
    );
}
