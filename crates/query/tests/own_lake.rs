//! The same answers as DuckDB, over a lake that our own collector wrote and maintained: every type, every table, every
//! snapshot.

#![allow(clippy::unwrap_used, reason = "a test that fails stops")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use portolan_lake::{At, LakeReader, LakeSettings, Snapshot};
use portolan_model::round::RoundVerdict;
use portolan_query::{Engine, EngineOptions};
use portolan_testkit::duckdb::Session;
use serde_json::Value;
use support::canonical;
use support::collector::{Collector, TestClock};
use support::questions::{self, Question, ROWS_MANY};
use support::story::yields;
use support::values::Draw;
use support::{plain_rows, sorted};

/// Rounds of the story.
const ROUNDS: usize = 16;
/// Snapshots that DuckDB is asked about in one session.
const SNAPSHOTS_TOGETHER: usize = 8;

/// A lake, what its snapshots showed when they were new, and what came of the comparison.
struct World {
    folder: tempfile::TempDir,
    shown: BTreeMap<(i64, String), String>,
    compared: usize,
    /// Questions that have been answered with rows.
    answered: BTreeSet<String>,
    /// Questions that were answered differently, each told of once.
    wrong: BTreeMap<String, String>,
}

fn engine(snapshot: Snapshot) -> Engine {
    let engine = Engine::new(EngineOptions { partitions: 2, ..EngineOptions::default() }).unwrap();
    engine.attach_lake(Arc::new(snapshot)).unwrap();
    engine
}

async fn ask(engine: &Engine, query: &str) -> Vec<RecordBatch> {
    let result = engine.sql(query).await.unwrap_or_else(|error| panic!("{query}: {error:?}"));
    result.collect().await.unwrap_or_else(|error| panic!("{query}: {error:?}"))
}

fn ask_duckdb(folder: &Path, snapshot: Option<i64>, statements: &[String]) -> Vec<Vec<Value>> {
    let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
    let session = Session { folder, snapshot, write: false };
    session.run(&statements).unwrap_or_else(|error| {
        let wrong = statements.iter().find_map(|one| Some((one, session.run(&[one]).err()?)));
        panic!("{error:#}\n{wrong:#?}")
    })
}

/// The rows as lines in an order of their own.
fn lines(rows: Vec<Value>) -> Vec<String> {
    let mut lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    lines.sort();
    lines
}

impl World {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            shown: BTreeMap::new(),
            compared: 0,
            answered: BTreeSet::new(),
            wrong: BTreeMap::new(),
        }
    }

    fn reader(&self) -> LakeReader {
        LakeReader::open(self.folder.path()).unwrap()
    }

    /// Keeps what the newest snapshot shows of every table.
    async fn remember(&mut self) {
        let snapshot = self.reader().snapshot(At::Head).unwrap();
        let (id, tables) = (snapshot.id(), snapshot.tables().unwrap());
        let engine = engine(snapshot);
        for table in tables.iter().filter(|table| table.rows() < ROWS_MANY) {
            let name = questions::name(table);
            let rows = canonical::ours(&ask(&engine, &format!("select * from {name}")).await);
            self.shown.insert((id, name), lines(rows).join("\n"));
        }
    }

    /// Compares both engines at every snapshot that there is; how many there are.
    async fn compare(&mut self, phase: &str) -> usize {
        let listed = ["select snapshot_id as id from lake.snapshots() order by 1".to_owned()];
        let listed = ask_duckdb(self.folder.path(), None, &listed).remove(0);
        let ids: Vec<i64> = listed.iter().map(|row| row["id"].as_i64().unwrap()).collect();
        let reader = self.reader();
        let head = reader.snapshot(At::Head).unwrap().id();
        let own: Vec<i64> = (0..=head).filter(|id| reader.snapshot(At::Snapshot(*id)).is_ok()).collect();
        assert_eq!(own, ids, "{phase}: the snapshots that exist");
        for ids in ids.chunks(SNAPSHOTS_TOGETHER) {
            let mut asked = Vec::new();
            for id in ids {
                let tables = reader.snapshot(At::Snapshot(*id)).unwrap().tables().unwrap();
                let wanted = tables.iter().filter(|table| *id == head || table.rows() < ROWS_MANY);
                let questions =
                    questions::contents(wanted, Some(*id)).into_iter().chain(questions::about(&tables, *id));
                asked.extend(questions.map(|question| (*id, question)));
            }
            self.put(phase, None, asked).await;
        }
        // Another way to the same snapshots: DuckDB attaches one.
        for id in [ids[ids.len() / 3], ids[ids.len() * 2 / 3]] {
            let tables = reader.snapshot(At::Snapshot(id)).unwrap().tables().unwrap();
            let wanted = tables.iter().filter(|table| table.rows() < ROWS_MANY);
            let asked = questions::contents(wanted, None).into_iter().map(|question| (id, question)).collect();
            self.put(&format!("{phase}, attached"), Some(id), asked).await;
        }
        let wrong: Vec<&str> = self.wrong.values().map(String::as_str).collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        ids.len()
    }

    /// Puts questions to both engines at the same time.
    async fn put(&mut self, phase: &str, attached: Option<i64>, asked: Vec<(i64, Question)>) {
        let statements: Vec<String> = asked.iter().map(|(_, question)| question.theirs.clone()).collect();
        let folder = self.folder.path().to_owned();
        let theirs = tokio::task::spawn_blocking(move || ask_duckdb(&folder, attached, &statements));
        let reader = self.reader();
        let mut engines = BTreeMap::new();
        let mut ours = Vec::new();
        for (id, question) in &asked {
            let engine = engines.entry(*id).or_insert_with(|| engine(reader.snapshot(At::Snapshot(*id)).unwrap()));
            ours.push(ask(engine, &question.ours).await);
        }
        let theirs = theirs.await.unwrap();
        for (((id, question), ours), theirs) in asked.iter().zip(ours).zip(theirs) {
            self.check(&format!("{phase}, snapshot {id}"), *id, question, &ours, theirs);
        }
    }

    fn check(&mut self, place: &str, id: i64, question: &Question, ours: &[RecordBatch], theirs: Vec<Value>) {
        let what = &question.what;
        let (ours, theirs) = match &question.kinds {
            Some(kinds) => {
                let ours = lines(canonical::ours(ours));
                let shown = what.strip_prefix("all of ").and_then(|name| self.shown.get(&(id, name.to_owned())));
                if shown.is_some_and(|shown| *shown != ours.join("\n")) {
                    self.wrong.insert(format!("old {what}"), format!("{place}: {what} is not what it was"));
                }
                let theirs = theirs.into_iter().map(|mut row| {
                    let values = kinds.iter().enumerate();
                    values.map(|(place, kind)| canonical::theirs(row[format!("c{place}")].take(), kind)).collect()
                });
                (ours, lines(theirs.collect()))
            }
            None => (lines(sorted(plain_rows(ours))), lines(sorted(theirs))),
        };
        self.compared += 1;
        if !theirs.is_empty() {
            self.answered.insert(what.clone());
        }
        if ours != theirs {
            let alone = |from: &[String], other: &[String]| -> String {
                let lines = from.iter().filter(|line| other.binary_search(line).is_err()).take(3);
                lines.map(|line| format!("  {line}\n")).collect()
            };
            let (our_rows, their_rows) = (ours.len(), theirs.len());
            let (our_lines, their_lines) = (alone(&ours, &theirs), alone(&theirs, &ours));
            self.wrong.entry(what.clone()).or_insert_with(|| {
                format!(
                    "{place}: {what}\n{our_rows} rows of ours, {their_rows} of DuckDB's; ours alone:\n{our_lines}\
                     DuckDB's alone:\n{their_lines}"
                )
            });
        }
    }
}

fn settings(keep_snapshots: Duration) -> LakeSettings {
    LakeSettings {
        inline_rows: 12,
        flush_rows: 30,
        flush_after: Duration::from_secs(600),
        keep_snapshots,
        grace: Duration::ZERO,
        ..LakeSettings::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_every_table_every_snapshot() {
    let clock = TestClock::new();
    let mut world = World::new();
    let for_good = Duration::from_secs(1_000_000);
    let collector = Collector::open(world.folder.path(), settings(for_good), &clock);
    let mut draw = Draw(20_261_122);
    let (mut flushed, mut merged) = (0, 0);
    for round in 0..ROUNDS {
        let verdict = match round % 7 {
            3 => RoundVerdict::Rejected,
            5 => RoundVerdict::Partial,
            _ => RoundVerdict::Complete,
        };
        collector.round(yields(round, &mut draw), verdict).await;
        world.remember().await;
        if round == 5 {
            world.compare("before maintenance").await;
        }
        if round >= 5 && round % 3 == 0 {
            let report = collector.maintain().await;
            (flushed, merged) = (flushed + report.flushed_rows, merged + report.merged_files);
            world.remember().await;
        }
    }
    clock.pass(Duration::from_secs(900));
    let report = collector.maintain().await;
    (flushed, merged) = (flushed + report.flushed_rows, merged + report.merged_files);
    assert!(flushed > 50 && merged > 10, "{flushed} rows flushed, {merged} files merged");
    let all = world.compare("after maintenance").await;
    assert!(all > ROUNDS, "{all} snapshots");
    collector.close().await;

    // The snapshots of the first half expire; what the others show stays.
    let half = Duration::from_secs(900 + 60 * ROUNDS as u64 / 2);
    let collector = Collector::open(world.folder.path(), settings(half), &clock);
    let report = collector.maintain().await;
    let left = world.compare("after expiry").await;
    assert_eq!(left as u64 + report.expired_snapshots, all as u64, "{report}");
    assert!(left > ROUNDS / 3 && report.expired_snapshots > 5, "{report}");
    collector.close().await;

    // A comparison of nothing with nothing shows nothing.
    let unanswered: Vec<&&str> = questions::QUERIES.iter().filter(|query| !world.answered.contains(**query)).collect();
    assert!(unanswered.is_empty(), "never answered with rows: {unanswered:#?}");
    println!(
        "{} answers compared at {all} snapshots, {left} after expiry; {flushed} rows flushed, {merged} files merged",
        world.compared
    );
}
