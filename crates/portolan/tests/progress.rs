//! The bars of long work: on a terminal while it goes on, and nowhere else.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use std::process::{Command, Stdio};

use portolan_testkit::api::Api;
use portolan_testkit::process::program;
use serde_json::json;
use support::Bench;

/// Runs a command on a terminal of its own; everything that the terminal was sent.
fn on_terminal(bench: &Bench, words: &[&str], redirection: &str) -> String {
    let prepared = bench.command(words);
    let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_str().unwrap());
    let words: Vec<String> = std::iter::once(prepared.get_program()).chain(prepared.get_args()).map(quoted).collect();
    // A terminal without a width shows nothing.
    let line = format!("stty cols 100 rows 30; {} {redirection}", words.join(" "));
    let mut command = Command::new(program("script", "bsdutils").unwrap());
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).current_dir(bench.path());
    command.env("TERM", "xterm").env_remove("PORTOLAN_CONFIG").stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{line}: {text}");
    text
}

#[test]
fn long_work_shows_a_bar_on_a_terminal_and_nothing_elsewhere() {
    let api = Api::start().unwrap();
    let bench = Bench::new(&format!(
        "[[source]]\nname = \"items\"\nhost = \"127.0.0.1\"\nport = {}\nprotocol = \"http\"\npath = \"/ndjson/items\"\n\
         cursor = {{ parameter = \"since\", column = \"id\" }}\ncolumns = {{ price = \"int32\" }}\n\
         tls = {{ allow_plaintext = \"test\" }}\n",
        api.port()
    ));
    let mut next = 0;
    let mut more = || {
        api.append("items", (next..next + 5).map(|id| json!({ "id": id, "price": 1.5 })));
        next += 5;
    };
    for (words, bar) in [
        (&["fetch"][..], "items: 0 rows"),
        (&["fetch", "--save"], "items: 0 rows"),
        (&["query", "select count(*) from items"], "query"),
        (&["verify"], "items"),
        (&["lake", "stats"], "reading the catalog"),
        (&["lake", "fsck"], "snapshots and tables"),
        (&["lake", "merge"], "merging"),
        (&["quarantine", "list"], "reading the quarantine"),
        (&["quarantine", "retry"], "reading the quarantine"),
    ] {
        more();
        let shown = on_terminal(&bench, words, "> output.txt");
        assert!(shown.contains(bar), "{words:?} showed no bar: {shown:?}");
        // The last that it does is to clear the line.
        let behind = shown.rsplit("\u{1b}[2K").next().unwrap();
        assert!(!behind.contains(bar), "{words:?} left its bar: {shown:?}");
        let written = std::fs::read_to_string(bench.path().join("output.txt")).unwrap();
        assert!(!written.contains('\u{1b}') && !written.is_empty(), "{words:?}: {written:?}");
        more();
        let piped = bench.run(words);
        let errors = String::from_utf8_lossy(&piped.stderr);
        assert!(piped.status.success(), "{words:?}: {errors}");
        assert!(
            !errors.contains('\u{1b}') && !errors.contains("0 rows") && !errors.contains("reading"),
            "{words:?}: {errors:?}"
        );
    }
    // Rows on the same terminal take the bar's place.
    let shown = on_terminal(&bench, &["query", "select id from items order by id limit 3", "--format", "ndjson"], "");
    let rows = shown.rsplit("\u{1b}[2K").next().unwrap();
    assert!(rows.contains("{\"id\":0}") && !rows.contains("query"), "{shown:?}");
}
