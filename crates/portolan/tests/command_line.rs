//! What the command line refuses, it refuses before it reads or makes anything; and what it starts ends with it.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn portolan(folder: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(support::binary());
    command.current_dir(folder).env("NO_COLOR", "1").env_remove("PORTOLAN_CONFIG").env_remove("ABSENT_PASSWORD");
    command.args(words).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Two sources on a port that nothing listens on.
fn write_configuration(folder: &Path, password: &str) {
    let source = |name: &str| {
        format!(
            "[[source]]\nname = \"{name}\"\nport = 1\nprotocol = \"mysql\"\nuser = \"u\"\n{password}database = \"d\"\ntable = \"t\"\n\
             tls = {{ allow_plaintext = \"test\" }}\n"
        )
    };
    let text = format!("[server]\nhost = \"127.0.0.1\"\n{}{}", source("a"), source("b"));
    std::fs::write(folder.join("portolan.toml"), text).unwrap();
}

#[test]
fn a_format_that_cannot_hold_the_answer_is_refused_before_anything_is_read() {
    let folder = tempfile::tempdir().unwrap();
    write_configuration(folder.path(), "");
    let output = portolan(folder.path(), &["fetch", "--save", "--format", "csv"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("one source"), "{}", stderr(&output));
    assert!(!folder.path().join("lake").exists());
}

#[test]
fn a_missing_secret_ends_run_before_a_lake_is_made() {
    let folder = tempfile::tempdir().unwrap();
    write_configuration(folder.path(), "password = { env = \"ABSENT_PASSWORD\" }\n");
    for command in ["run", "fetch --save"] {
        let words: Vec<&str> = command.split(' ').collect();
        let output = portolan(folder.path(), &words);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains("ABSENT_PASSWORD"), "{}", stderr(&output));
        assert!(!folder.path().join("lake").exists(), "{command}");
    }
}

#[test]
fn all_sources_dead_is_the_same_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    write_configuration(folder.path(), "");
    for words in [&["fetch", "a", "--format", "csv"][..], &["fetch", "a"], &["fetch", "a", "--format", "table"]] {
        let output = portolan(folder.path(), words);
        assert_eq!(output.status.code(), Some(4), "{words:?}: {}", stderr(&output));
    }
}

#[test]
fn a_source_that_fails_says_what_to_do_next_whether_or_not_the_round_is_saved() {
    let folder = tempfile::tempdir().unwrap();
    write_configuration(folder.path(), "");
    for words in [&["fetch"][..], &["fetch", "--save"]] {
        let output = portolan(folder.path(), words);
        assert_eq!(output.status.code(), Some(4), "{words:?}: {}", stderr(&output));
        let told = stderr(&output);
        assert_eq!(told.matches("error: source `").count(), 2, "{words:?}: {told}");
        assert_eq!(told.matches("next: on the server, look who listens: ss -ltnp").count(), 2, "{words:?}: {told}");
    }
}

#[test]
fn a_fetch_that_leaves_rows_behind_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let api = portolan_testkit::api::Api::start().unwrap();
    api.append("items", (1..12).map(|id| serde_json::json!({ "id": id })));
    let text = format!(
        "[server]\nhost = \"127.0.0.1\"\n[[source]]\nname = \"a\"\nport = {}\nprotocol = \"http\"\n\
         path = \"/link/items?limit=5\"\npagination = {{ by = \"link\", max_pages = 2 }}\n\
         cursor = {{ parameter = \"since\", column = \"id\" }}\ntls = {{ allow_plaintext = \"test\" }}\n",
        api.port()
    );
    std::fs::write(folder.path().join("portolan.toml"), text).unwrap();
    for (words, has_more) in [(&["fetch"][..], true), (&["fetch", "--save"], true), (&["fetch", "--save"], false)] {
        let output = portolan(folder.path(), words);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", stderr(&output));
        assert_eq!(stderr(&output).contains("more rows than one round reads"), has_more, "{}", stderr(&output));
        let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(rows["a"].as_array().unwrap().len(), if has_more { 10 } else { 1 }, "{words:?}");
    }
}

#[test]
fn a_fetch_takes_its_whole_deadline_and_comes_whole_saved_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let api = portolan_testkit::api::Api::start().unwrap();
    api.append("items", (0..8).map(|id| serde_json::json!({ "id": id })));
    // Four seconds of pages: more than the half of the deadline after which `run` would end between two of them.
    api.set_delay(Duration::from_millis(500));
    let text = format!(
        "[server]\nhost = \"127.0.0.1\"\n[[source]]\nname = \"a\"\nport = {}\nprotocol = \"http\"\n\
         path = \"/link/items?limit=1\"\npagination = {{ by = \"link\" }}\n\
         cursor = {{ parameter = \"since\", column = \"id\" }}\ntls = {{ allow_plaintext = \"test\" }}\n",
        api.port()
    );
    std::fs::write(folder.path().join("portolan.toml"), text).unwrap();
    for words in [&["fetch", "--deadline", "7s"][..], &["fetch", "--save", "--deadline", "7s"]] {
        let output = portolan(folder.path(), words);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", stderr(&output));
        assert!(!stderr(&output).contains("more rows than one round reads"), "{}", stderr(&output));
        let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(rows["a"].as_array().unwrap().len(), 8, "{words:?}");
    }
}

#[test]
fn a_second_signal_ends_a_collector_that_waits_for_its_round() {
    let folder = tempfile::tempdir().unwrap();
    // Accepts, and never says a word.
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = silent.local_addr().unwrap().port();
    let text = format!(
        "[server]\nhost = \"127.0.0.1\"\n[[source]]\nname = \"a\"\nport = {port}\nprotocol = \"http\"\npath = \"/\"\n\
         idle_timeout = \"1h\"\ndeadline = \"1h\"\ntls = {{ allow_plaintext = \"test\" }}\n"
    );
    std::fs::write(folder.path().join("portolan.toml"), text).unwrap();
    let mut collector = Command::new(support::binary())
        .current_dir(folder.path())
        .arg("run")
        .env("NO_COLOR", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let interrupt = |collector: &std::process::Child| {
        assert!(Command::new("kill").args(["-INT", &collector.id().to_string()]).status().unwrap().success());
    };
    // Its request has come: the round runs.
    let _connection = silent.accept().unwrap();
    interrupt(&collector);
    let log = BufReader::new(collector.stderr.take().unwrap());
    let mut lines = log.lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("it ends at once")));
    interrupt(&collector);
    std::thread::sleep(Duration::from_millis(300));
    assert!(collector.try_wait().unwrap().is_none(), "one request that came twice ended it");
    // What comes within a second counts as the same request.
    let status = loop {
        interrupt(&collector);
        std::thread::sleep(Duration::from_millis(300));
        if let Some(status) = collector.try_wait().unwrap() {
            break status;
        }
    };
    let rest: Vec<String> = lines.collect();
    assert_eq!(status.code(), Some(130), "{rest:#?}");
}

#[test]
fn a_configuration_that_was_named_and_is_not_there_is_no_reason_to_read_another_lake() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("lake")).unwrap();
    let output = portolan(folder.path(), &["--config", "typo.toml", "status"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("typo.toml"), "{}", stderr(&output));
}

#[test]
fn nobody_at_standard_error_is_no_defect() {
    let folder = tempfile::tempdir().unwrap();
    for words in [&["--config", "absent.toml", "check"][..], &["query", "select nosuch"], &["fetch"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(support::binary());
        let status =
            command.current_dir(folder.path()).args(words).stdout(Stdio::null()).stderr(full).status().unwrap();
        assert!(matches!(status.code(), Some(2 | 5)), "{words:?}: {status}");
    }
}

/// The processes that `parent` has started.
fn children(parent: u32) -> Vec<u32> {
    let line = format!("PPid:\t{parent}\n");
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let of_parent = |process: &u32| {
        std::fs::read_to_string(format!("/proc/{process}/status")).is_ok_and(|status| status.contains(&line))
    };
    processes.filter(of_parent).collect()
}

/// The search path with vsftpd in it, which the tests have unpacked and not installed.
fn path_with_servers() -> std::ffi::OsString {
    let vsftpd = portolan_testkit::process::program("vsftpd", "vsftpd").unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(std::env::split_paths(&path).chain([vsftpd.parent().unwrap().to_owned()])).unwrap()
}

#[test]
fn the_demo_shows_five_kinds_of_ports() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(support::binary())
        .current_dir(folder.path())
        .args(["demo", "--seconds", "2"])
        .env("PATH", path_with_servers())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!text.contains("Left out"), "{text}\n{}", stderr(&output));
    let tables = ["customers", "metrics", "orders", "vibration", "alarms", "inspections"];
    let sql: Vec<String> = tables.iter().map(|table| format!("(select count(*) from {table}) as {table}")).collect();
    let sql = format!("select {}", sql.join(", "));
    let answer = portolan(&folder.path().join("portolan-demo"), &["query", "--format", "json", &sql]);
    assert!(answer.status.success(), "{}", stderr(&answer));
    let answer: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap();
    for table in tables {
        let rows = answer[0][table].as_u64().unwrap();
        assert!(rows > 0, "{table} is empty: {answer}");
    }
    // The last table of the tour: each source's rows, distinct numbers, first and last number are 1 to n.
    let numbered: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split(['│', '┆']).map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .filter(|cells: &Vec<&str>| cells.len() == 5 && tables.contains(&cells[0]) && cells[3] == "1")
        .collect();
    assert_eq!(numbered.len(), 4, "{text}");
    for cells in numbered {
        assert!(cells[1] == cells[2] && cells[1] == cells[4], "{cells:?}");
    }
}

#[test]
fn an_interrupted_demo_takes_its_servers_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = Command::new(support::binary())
        .current_dir(folder.path())
        .args(["demo", "--seconds", "120"])
        .env("PATH", path_with_servers())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It collects once the lake is there; the database runs by then.
    let patience = Duration::from_secs(60);
    let start = Instant::now();
    while !folder.path().join("portolan-demo/lake/catalog.sqlite").is_file() {
        assert!(start.elapsed() < patience, "the demo does not begin");
        assert!(demo.try_wait().unwrap().is_none(), "the demo ended early");
        std::thread::sleep(Duration::from_millis(50));
    }
    let servers = children(demo.id());
    assert_eq!(servers.len(), 3, "MariaDB, Redis and vsftpd of the demo's");
    assert!(Command::new("kill").args(["-INT", &demo.id().to_string()]).status().unwrap().success());
    let start = Instant::now();
    let status = loop {
        if let Some(status) = demo.try_wait().unwrap() {
            break status;
        }
        assert!(start.elapsed() < patience, "the demo does not end");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(status.success(), "{status}");
    for server in servers {
        assert!(!Path::new(&format!("/proc/{server}")).exists(), "process {server} goes on without its demo");
    }
}
