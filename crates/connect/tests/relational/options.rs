//! What a source may be configured to read, and what is refused, before the network is touched where that can be told.

use portolan_connect::Registry;
use portolan_model::catalog::WriteMode;
use portolan_model::{ErrorKind, config};

use super::{Dialect, Inexact};
use crate::engine::Engine;
use crate::harness::{Protocol, failure, fresh, open, problems, read, server, spec};

#[tokio::test]
async fn what_cannot_be_read_exactly_is_refused() {
    let table = fresh("refused");
    let Inexact { setup, options, queries } = Engine::inexact(&table);
    server().sql(&setup).unwrap();
    let every_engine = [
        ("cursor = \"n\"", ErrorKind::Data, "NULL"),
        ("cursor = \"absent\"", ErrorKind::NotFound, "absent"),
        ("cursor = \"p\"", ErrorKind::Configuration, "share"),
        ("cursor = \"p\"\nkey = [\"ID\"]", ErrorKind::NotFound, "`key`"),
    ];
    for (options, kind, part) in options.into_iter().chain(every_engine) {
        let error = failure(&mut open(&format!("table = \"{table}\"\n{options}"))).await;
        assert_eq!(error.kind(), kind, "{options}: {error:?}");
        assert!(error.message().contains(part), "{options}: {error:?}");
        assert_eq!(error.source_name().map(|name| name.as_str()), Some("s"));
    }
    let every_engine = [
        (format!("select a.id, b.id from {table} a join {table} b using (n)"), ErrorKind::Configuration),
        ("select".to_owned(), ErrorKind::Configuration),
    ];
    for (query, kind) in queries.into_iter().chain(every_engine) {
        let error = failure(&mut open(&format!("query = \"{query}\""))).await;
        assert_eq!(error.kind(), kind, "{query}: {error:?}");
    }
    assert_eq!(server().sql(&format!("SELECT COUNT(*) FROM {table}")).unwrap().trim(), "2");
    // A position of another cursor is no place to continue from.
    let mut source = open(&format!("table = \"{table}\"\ncursor = \"id\""));
    let (_, end) = read(&mut source, None).await.unwrap();
    let mut other = open(&format!("table = \"{table}\"\ncursor = \"d\""));
    let error = read(&mut other, end.position.as_ref()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Configuration);
}

#[test]
fn options_are_checked_before_the_network_is_touched() {
    for (options, part) in [
        ("", "neither `table` nor `query`"),
        ("table = \"t\"\nquery = \"select 1\"", "exclude each other"),
        ("table = \"\"", "`table` is empty"),
        ("table = \"t\"\nlate_window = 5", "`late_window` needs `cursor`"),
        ("table = \"t\"\ncursor = \"id\"\nlate_window = 5", "needs `key`"),
        ("table = \"t\"\ncursor = \"id\"\nlate_window = 0\nkey = [\"id\"]", "`late_window` is 0"),
        ("table = \"t\"\ncursor = \"id\"\nlate_window = -1\nkey = [\"id\"]", "not negative"),
        ("table = \"t\"\ncursor = \"id\"\nlate_window = \"soon\"\nkey = [\"id\"]", "not a duration"),
        ("table = \"t\"\nmax_rows = 5", "`max_rows` needs `cursor`"),
        ("table = \"t\"\nbatch_rows = 0", "`batch_rows` is 0"),
        Engine::OWN_MISTAKE,
        ("table = \"t\"\ncursor = \"id\"\nmode = \"replace\"", "only what is new"),
        ("table = \"t\"\ntabel = \"t\"", "tabel"),
        ("table = \"t\"\npassword = \"hunter2\"", "secret"),
    ] {
        let found = problems(options);
        assert!(found.iter().any(|problem| problem.message.contains(part)), "{options}: {found:?}");
        assert!(found.iter().all(|problem| !problem.message.contains("hunter2")));
        assert!(found.iter().all(|problem| problem.span.is_some()), "{options}: {found:?}");
    }
    assert_eq!(problems("table = \"t\"\ncursor = \"id\"\nlate_window = \"10min\"\nkey = [\"id\"]"), []);
}

#[tokio::test]
async fn json_is_no_cursor() {
    let table = fresh("json");
    let json = Engine::JSON;
    server().sql(&format!("CREATE TABLE {table} (id bigint primary key, j {json} not null)")).unwrap();
    let error = failure(&mut open(&format!("table = \"{table}\"\ncursor = \"j\"\nkey = [\"id\"]"))).await;
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
    assert!(error.message().contains("is JSON"), "{error:?}");
}

#[test]
fn options_that_do_nothing_are_refused() {
    let found = problems("table = \"t\"\ncolumns = { id = \"text\" }");
    assert!(found.iter().any(|problem| problem.message.contains("`columns`")), "{found:?}");
    let found = problems("table = \"t\"\ncursor = \"id\"\nkey = [\"id\"]\nkey_memory = 0");
    assert!(found.iter().any(|problem| problem.message.contains("`key_memory` is 0")), "{found:?}");
}

#[test]
fn a_table_that_is_read_whole_replaces() {
    let check = |options: &str| {
        let port = Engine::CONNECTOR.default_port().unwrap();
        Engine::CONNECTOR.default_mode(&spec(port, options))
    };
    assert_eq!(check("table = \"t\"\nkey = [\"id\"]"), WriteMode::Replace);
    assert_eq!(check("table = \"t\"\nkey = [\"id\"]\nmode = \"append\""), WriteMode::Replace);
    assert_eq!(check("table = \"t\"\nkey = [\"id\"]\ncursor = \"id\""), WriteMode::Append);
}

#[test]
fn every_option_is_documented_and_the_example_is_right() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let protocol = Engine::CONNECTOR.protocol();
    let page = std::fs::read_to_string(root.join(format!("docs/connectors/{protocol}.md"))).unwrap();
    let schema = Engine::CONNECTOR.option_schema();
    let options = schema.get("properties").and_then(serde_json::Value::as_object).unwrap();
    assert_eq!(options.len(), Engine::OPTIONS);
    for option in options.keys() {
        assert!(
            page.contains(&format!("| `{option}` |")),
            "`{option}` is not in the table of docs/connectors/{protocol}.md"
        );
    }
    let example = std::fs::read_to_string(root.join(format!("examples/{protocol}.toml"))).unwrap();
    assert_eq!(config::read(&example, &Registry).unwrap().sources.len(), 3);
}
