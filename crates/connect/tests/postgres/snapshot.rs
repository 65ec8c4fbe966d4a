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
        let open =
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND query LIKE '%snapshot%'";
        assert_eq!(server().sql(open).unwrap().trim(), "0");
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
