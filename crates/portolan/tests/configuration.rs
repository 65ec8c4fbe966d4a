//! Malformed configurations: each message is a snapshot, so that a change of words is seen in review. Well-formed
//! ones: every example is read, and agrees with the JSON Schema's keys.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use std::path::Path;
use std::process::Command;

fn portolan() -> Command {
    let mut command = Command::new(support::binary());
    command.env("NO_COLOR", "1").env_remove("PORTOLAN_CONFIG");
    command
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    files
}

#[test]
fn malformed_configurations_are_explained() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/malformed");
    let files = files(&folder);
    assert!(files.len() >= 30, "{} files", files.len());
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let output = portolan().current_dir(&folder).args(["--config", name, "check"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{name}: {}", String::from_utf8_lossy(&output.stdout));
        assert!(output.stdout.is_empty(), "{name}");
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(!message.contains("hunter2"), "{name}: {message}");
        insta::assert_snapshot!(name.trim_end_matches(".toml"), message);
    }
}

#[test]
fn what_is_wrong_is_told_to_programs_too() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/malformed");
    let output =
        portolan().current_dir(&folder).args(["--config", "several_at_once.toml", "check", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = found.as_array().unwrap();
    assert!(found.len() >= 4, "{found:?}");
    for diagnostic in found {
        assert_eq!(diagnostic["file"], "several_at_once.toml");
        assert!(diagnostic["line"].as_u64() > Some(0), "{diagnostic}");
        assert!(diagnostic["column"].as_u64() > Some(0), "{diagnostic}");
    }
}

#[test]
fn every_example_is_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let schema: serde_json::Value =
        serde_json::from_slice(&portolan().arg("schema").output().unwrap().stdout).expect("the schema is JSON");
    let files = files(&folder);
    assert!(files.len() >= 2);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let found = portolan_model::config::read(&text, &portolan_connect::Registry);
        assert!(found.is_ok(), "{}: {:?}", file.display(), found.err());
        let document: toml_edit::DocumentMut = text.parse().unwrap();
        for (key, _) in document.iter() {
            assert!(schema["properties"].get(key).is_some(), "{}: `{key}` is not in the schema", file.display());
        }
    }
}

#[test]
fn a_missing_file_says_what_to_do() {
    let output = portolan().args(["--config", "absent.toml", "check"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("absent.toml") && message.contains("--config"), "{message}");
}
