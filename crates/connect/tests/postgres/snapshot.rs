//! Snapshots that are exported and taken over, and what has none. Rounds with snapshots, under transfers, are tested with the
//! coordinator.

use async_trait::async_trait;
use portolan_model::source::{Meeting, Phase};
use portolan_model::{ErrorKind, Retry};

use crate::harness::{fresh, open, server};
use crate::relational::snapshot::{Met, Others, snapshot};

/// A leader who says a word, where there is one.
struct Leader(Option<String>);

impl Met<Leader> {
    fn alone() -> Self {
        Self::with(Leader(None))
    }

    fn led(word: &str) -> Self {
        Self::with(Leader(Some(word.to_owned())))
    }
}

#[async_trait]
impl Others for Leader {
    async fn meet(&mut self, word: String) -> Meeting {
        match &self.0 {
            None => Meeting { words: vec![Some(word)], own: 0 },
            Some(leader) => Meeting { words: vec![Some(leader.clone()), Some(word)], own: 1 },
        }
    }
    async fn ended(&mut self) {
        panic!("on a primary nobody waits for the others");
    }
}

fn table() -> String {
    let name = fresh("snapshot");
    server().sql(&format!("CREATE TABLE {name} (id BIGINT PRIMARY KEY); INSERT INTO {name} VALUES (1), (2)")).unwrap();
    name
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_alone_has_a_snapshot_and_lets_it_go_after_the_read() {
    let name = table();
    let mut source = open(&format!("table = \"{name}\""));
    let mut seen = Vec::new();
    for rows in [2, 3] {
        let mut output = Met::alone();
        seen.push(snapshot(&mut source, &mut output).await.unwrap().snapshot.unwrap());
        assert_eq!(output.recorder.rows(), rows);
        // Rows are read from what stood when the snapshot was opened: they are no further answer.
        assert_eq!(output.recorder.phases, [Phase::Released, Phase::FirstByte, Phase::LastByte]);
        let open = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'collector' AND query LIKE '%{name}%' \
             AND (state = 'idle in transaction' OR backend_xmin IS NOT NULL)"
        );
        assert_eq!(server().sql(&open).unwrap().trim(), "0");
        if rows == 2 {
            server().sql(&format!("INSERT INTO {name} VALUES (3)")).unwrap();
        }
    }
    assert_ne!(seen[0], seen[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_snapshot_of_the_first_one_is_read_whatever_was_committed_since() {
    let name = table();
    let mut source = open(&format!("table = \"{name}\""));
    let mut leader = server().session().unwrap();
    leader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ;").unwrap();
    let id = leader.execute("SELECT pg_export_snapshot();").unwrap().remove(0);
    server().sql(&format!("INSERT INTO {name} VALUES (3)")).unwrap();
    let started = server().sql("SELECT extract(epoch FROM pg_postmaster_start_time())").unwrap();
    let (name, started) = (format!("{id} 1:1:"), started.trim());
    let word = format!("{name}\n{started}");
    let mut output = Met::led(&word);
    let end = snapshot(&mut source, &mut output).await.unwrap();
    assert_eq!((end.snapshot.as_deref(), output.recorder.rows()), (Some(name.as_str()), 2));
    // A snapshot of another server is not taken for one of the same name.
    let error = snapshot(&mut source, &mut Met::led(&format!("{name}\n1.000001"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
    assert!(error.message().contains("several servers") && error.hint().unwrap().contains("`host`"), "{error:?}");
    leader.execute("COMMIT;").unwrap();
    // The one who gave it has ended: it is not read, and the next round goes well.
    let error = snapshot(&mut source, &mut Met::led(&word)).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Server, Retry::Transient), "{error:?}");
    let mut output = Met::alone();
    snapshot(&mut source, &mut output).await.unwrap();
    assert_eq!(output.recorder.rows(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_table_is_refused() {
    let name = fresh("foreign");
    server()
        .sql(&format!(
            "CREATE EXTENSION IF NOT EXISTS file_fdw; CREATE SERVER {name}_server FOREIGN DATA WRAPPER file_fdw; \
             CREATE FOREIGN TABLE {name} (line TEXT) SERVER {name}_server OPTIONS (filename '/etc/hostname'); \
             CREATE VIEW {name}_view AS SELECT f.line, 1 AS one FROM {name} f"
        ))
        .unwrap();
    for options in [format!("table = \"{name}\""), format!("query = \"SELECT count(*) AS n FROM {name}_view\"")] {
        let error = snapshot(&mut open(&options), &mut Met::alone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
        assert!(error.message().contains("foreign scan"), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_becomes_a_foreign_one_is_refused_from_then_on() {
    let name = fresh("foreign");
    server()
        .sql(&format!(
            "CREATE EXTENSION IF NOT EXISTS file_fdw; CREATE SERVER {name}_server FOREIGN DATA WRAPPER file_fdw; \
             CREATE TABLE {name} (line TEXT) PARTITION BY LIST (line); \
             CREATE TABLE {name}_a PARTITION OF {name} FOR VALUES IN ('a'); \
             CREATE VIEW {name}_view AS SELECT 'a'::text AS line"
        ))
        .unwrap();
    let mut sources = [format!("table = \"{name}\""), format!("table = \"{name}_view\"")].map(|options| open(&options));
    for source in &mut sources {
        assert!(snapshot(source, &mut Met::alone()).await.unwrap().snapshot.is_some());
    }
    server()
        .sql(&format!(
            "CREATE FOREIGN TABLE {name}_b PARTITION OF {name} FOR VALUES IN ('b') SERVER {name}_server \
             OPTIONS (filename '/etc/hostname'); \
             CREATE OR REPLACE VIEW {name}_view AS SELECT b.line FROM {name}_b b"
        ))
        .unwrap();
    for source in &mut sources {
        let error = snapshot(source, &mut Met::alone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
    }
}

/// Nobody else reads; between snapshot and rows somebody runs these statements.
struct Changing(Option<String>);

#[async_trait]
impl Others for Changing {
    async fn meet(&mut self, word: String) -> Meeting {
        if let Some(statements) = self.0.take() {
            server().sql(&statements).unwrap();
        }
        Meeting { words: vec![Some(word)], own: 0 }
    }
}

/// A table of three rows in two partitions, another that could be one, a view and a stored view.
fn tables() -> String {
    let name = fresh("layout");
    server()
        .sql(&format!(
            "CREATE TABLE {name} (id BIGINT NOT NULL, part INT NOT NULL) PARTITION BY LIST (part); \
             CREATE TABLE {name}_1 PARTITION OF {name} FOR VALUES IN (1); \
             CREATE TABLE {name}_2 PARTITION OF {name} FOR VALUES IN (2); \
             INSERT INTO {name} VALUES (1, 1), (2, 1), (3, 2); \
             CREATE TABLE {name}_3 (id BIGINT NOT NULL, part INT NOT NULL); INSERT INTO {name}_3 VALUES (4, 3); \
             CREATE VIEW {name}_view AS SELECT * FROM {name}; \
             CREATE MATERIALIZED VIEW {name}_stored AS SELECT * FROM {name}; \
             GRANT SELECT ON ALL TABLES IN SCHEMA public TO collector"
        ))
        .unwrap();
    name
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_not_the_one_of_the_snapshot_any_more_fails_the_read() {
    for (of, statements, seen) in [
        ("", "TRUNCATE {}; INSERT INTO {} VALUES (9, 1)", 0),
        ("_1", "BEGIN; TRUNCATE {}_1; COPY {}_1 FROM PROGRAM 'printf \"7\\t1\\n\"' WITH (FREEZE); COMMIT", 1),
        ("_1", "ALTER TABLE {}_1 RENAME TO {}_old; ALTER TABLE {}_2 RENAME TO {}_1", 0),
        ("", "ALTER TABLE {} DETACH PARTITION {}_2", 2),
        ("", "ALTER TABLE {} ATTACH PARTITION {}_3 FOR VALUES IN (3)", 4),
        ("_view", "CREATE OR REPLACE VIEW {}_view AS SELECT * FROM {}_2", 1),
        ("_view", "TRUNCATE {}_2", 2),
        ("_2", "ALTER TABLE {}_2 ENABLE ROW LEVEL SECURITY", 0),
        ("_stored", "INSERT INTO {} VALUES (5, 2); REFRESH MATERIALIZED VIEW {}_stored", 4),
    ] {
        let name = tables();
        let mut source = open(&format!("table = \"{name}{of}\""));
        let mut output = Met::with(Changing(Some(statements.replace("{}", &name))));
        let error = snapshot(&mut source, &mut output).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Data, Retry::Transient), "{statements}: {error:?}");
        // The server gives other rows than those of the snapshot, without an error.
        assert_eq!(output.recorder.rows(), seen, "{statements}");
        snapshot(&mut source, &mut Met::with(Changing(None))).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_rows_alone_does_not_disturb_the_snapshot() {
    let name = tables();
    for (of, statements) in [
        ("", "DELETE FROM {}; INSERT INTO {} VALUES (1, 1), (8, 1), (9, 2)"),
        ("", "ANALYZE {}; ANALYZE {}_1"),
        ("_1", "CREATE INDEX ON {}_1 (id)"),
        ("_stored", "CREATE UNIQUE INDEX ON {}_stored (id)"),
        ("_stored", "REFRESH MATERIALIZED VIEW CONCURRENTLY {}_stored"),
    ] {
        let mut source = open(&format!("table = \"{name}{of}\""));
        let mut output = Met::with(Changing(Some(statements.replace("{}", &name))));
        let end = snapshot(&mut source, &mut output).await;
        assert!(end.is_ok_and(|end| end.snapshot.is_some()), "{statements}");
        assert_eq!(output.recorder.rows(), if of == "_1" { 2 } else { 3 }, "{statements}");
    }
    server().sql(&format!("VACUUM {name}_1")).unwrap();
}
