//! What is found wrong with options before any connection is made.

use portolan_connect::Registry;
use portolan_connect::source::ftp::Ftp;
use portolan_model::catalog::WriteMode;
use portolan_model::config::read;
use portolan_model::source::Connector;

use crate::support::{spec, text};

#[test]
fn every_mistake_is_found_with_its_place() {
    let good = "path = \"/out/*.csv\"\n";
    for (keys, words) in [
        ("path = \"out/*.csv\"".to_owned(), "begin with `/`"),
        ("path = \"/out/\"".into(), "names a folder"),
        ("path = \"/../x.csv\"".into(), "\"..\""),
        ("path = \"/a\\r\\nDELE x.csv\"".into(), "control character"),
        ("path = \"/out/x.xml\"".into(), "how the files are written"),
        (format!("{good}user = \"x\""), "no `password`"),
        (format!("{good}user = \"a\\nb\"\npassword = {{ env = \"P\" }}"), "none that can be sent"),
        (format!("{good}password = \"hunter2\""), "does not stand in the configuration"),
        (format!("{good}mode = \"replace\"\nread = \"new\""), "newest rows"),
        (format!("{good}format = \"xml\""), "xml"),
        (format!("{good}format = \"csv\"\nrows = \"$.a\""), "no effect"),
        (format!("{good}format = \"json\"\ndelimiter = \";\""), "CSV alone"),
        (format!("{good}format = \"raw\"\ngrowing = true"), "CSV and NDJSON alone"),
        (format!("{good}format = \"raw\"\nfile_column = \"content\""), "already"),
        (format!("{good}delimiter = \"é\""), "separate fields"),
        (format!("{good}rows = \"$[\""), "rows"),
        (format!("{good}max_files = 0"), "max_files"),
        (format!("{good}max_body = \"2GiB\""), "max_body"),
        (format!("{good}columns = {{ a = \"number\" }}"), "unknown type"),
        (format!("{good}implicit = true"), "without TLS"),
        (format!("{good}max_file = \"1025GiB\""), "max_file"),
        (format!("{good}format = \"parquet\"\ndelimiter = \";\""), "CSV alone"),
        (format!("{good}format = \"parquet\"\nrows = \"$.a\""), "no effect"),
        (format!("{good}format = \"parquet\"\ngrowing = true"), "CSV and NDJSON alone"),
        (format!("{good}format = \"parquet\"\ncolumns = {{ a = \"bigint\" }}"), "the files give"),
    ] {
        let text = text("h", 21, &keys);
        let found = read(&text, &Registry).err().unwrap_or_default();
        let hit = found.iter().find(|problem| problem.message.contains(words));
        let hit = hit.unwrap_or_else(|| panic!("{keys}: no problem says {words:?}: {found:#?}"));
        let span = hit.span.clone().unwrap_or_else(|| panic!("{keys}: no place"));
        assert!(span.end <= text.len() && !span.is_empty(), "{keys}");
        assert!(!hit.message.contains("hunter2"), "{keys}: {hit:?}");
    }
}

#[test]
fn what_is_read_whole_replaces() {
    for (keys, expected) in [
        ("path = \"/*.csv\"", WriteMode::Append),
        ("path = \"/*.csv\"\nread = \"all\"", WriteMode::Replace),
        ("path = \"/*.csv\"\nmode = \"replace\"", WriteMode::Replace),
    ] {
        let spec = spec("h", 21, keys);
        assert_eq!(spec.mode.unwrap_or(Ftp.default_mode(&spec)), expected, "{keys}");
    }
}

#[test]
fn the_example_is_valid() {
    let text = include_str!("../../../../examples/ftp.toml");
    let configuration = read(text, &Registry).unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert!(configuration.sources.iter().all(|source| source.protocol == "ftp"));
}
