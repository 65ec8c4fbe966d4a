//! The checks of a round, evaluated over what it has staged and what the lake holds.
//!
//! Promises:
//! - every check is asked of the same staged rows and of one state of the lake, whatever another check withholds;
//! - what could not be evaluated is an [`Error`](CheckOutcome::Error), never passed; what there was nothing to ask of is not
//!   evaluated;
//! - bounded in time, each by itself and all together, and in memory; the work is done beside the threads that read ports.

mod answer;
mod plan;
mod question;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use portolan_model::catalog::QUARANTINED_MAX;
use portolan_model::check::{
    CheckInput, CheckOutcome, CheckResult, Checked, CheckedRows, Checker, Ground, WithheldRow,
};
use portolan_model::clock::Clock;
use portolan_model::config::{CheckKind, CheckSpec, OnCheckFailure};
use portolan_model::{Error, ErrorKind, Result, SourceName};

use self::answer::Found;
use self::question::{Part, Question};
use self::tables::Tables;
use crate::engine::{Engine, EngineOptions};

pub use self::plan::problems;

/// Memory that the checks of one round may hold, in bytes; beyond it they spill to the disk or fail.
const MEMORY_LIMIT_BYTES: usize = 256 << 20;
/// Characters of a result's detail.
const DETAIL_CHARACTERS_MAX: usize = 1_000;

/// Evaluates checks beside a lake.
#[derive(Clone)]
pub struct LakeChecker {
    folder: PathBuf,
    clock: Arc<dyn Clock>,
}

impl LakeChecker {
    /// For rounds that are committed to the lake in `folder`.
    pub fn new(folder: impl Into<PathBuf>, clock: Arc<dyn Clock>) -> Self {
        Self { folder: folder.into(), clock }
    }
}

#[async_trait]
impl Checker for LakeChecker {
    async fn check(&self, input: CheckInput<'_>) -> Result<Checked> {
        let round = Round {
            folder: self.folder.clone(),
            checks: input.checks.to_vec(),
            sources: input.sources,
            started_at: input.started_at,
            end: self.clock.monotonic().saturating_add(input.deadline),
            clock: Arc::clone(&self.clock),
            timeout: input.timeout,
        };
        // On a thread of its own: a query computes, and must not hold up those who wait for ports.
        let handle = tokio::runtime::Handle::current();
        let work = tokio::task::spawn_blocking(move || handle.block_on(round.check()));
        work.await.map_err(|cause| {
            Error::new(ErrorKind::Internal, "check round", "the work was interrupted").with_cause(cause)
        })?
    }
}

/// One round being checked.
struct Round {
    folder: PathBuf,
    checks: Vec<CheckSpec>,
    sources: BTreeMap<SourceName, CheckedRows>,
    started_at: Timestamp,
    /// When all of them have to be answered.
    end: Duration,
    clock: Arc<dyn Clock>,
    timeout: Duration,
}

impl Round {
    async fn check(self) -> Result<Checked> {
        let questions: Vec<Result<Question>> = self.checks.iter().map(|check| Question::of(&check.kind)).collect();
        let options =
            EngineOptions { memory_limit_bytes: MEMORY_LIMIT_BYTES, partitions: 1, ..EngineOptions::default() };
        let engine = Engine::new(options)?;
        let mentions = questions.iter().flatten().flat_map(|question| &question.mentions);
        let tables = Tables::attach(&engine, &self.folder, &self.sources, mentions)?;
        let mut checked = Checked::default();
        let mut read: BTreeSet<SourceName> = BTreeSet::new();
        let mut failing: BTreeMap<SourceName, BTreeMap<u64, Vec<usize>>> = BTreeMap::new();
        for (place, (check, question)) in self.checks.iter().zip(&questions).enumerate() {
            let begun = self.clock.monotonic();
            let found = match question {
                Ok(question) => match tables.obstacle(question) {
                    Some(obstacle) => Found::of(CheckOutcome::NotEvaluated, obstacle),
                    None => self.evaluate(&engine, &tables, check, question).await,
                },
                Err(error) => {
                    let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
                    Found::of(CheckOutcome::Error, format!("{}{hint}", error.chain()))
                }
            };
            let mut snapshot = None;
            if let Ok(question) = question {
                let of_lake = tables.looked_up(question);
                snapshot = tables.snapshot_id().filter(|_| !of_lake.is_empty());
                read.extend(of_lake);
            }
            if check.on_failure == OnCheckFailure::Quarantine && found.outcome.is_failure() {
                for (source, rows) in self.withheld(check, question.as_ref().ok(), &found) {
                    let of_source = failing.entry(source).or_default();
                    // One more than can be withheld says as much as all of them.
                    for row in rows.take(QUARANTINED_MAX + 1) {
                        of_source.entry(row).or_default().push(place);
                    }
                }
            }
            checked.results.push(CheckResult {
                name: check.name.clone(),
                kind: check.kind.as_str(),
                outcome: found.outcome,
                on_failure: check.on_failure,
                failing_rows: found.failing_rows,
                detail: found.detail.map(short),
                duration_us: i64::try_from(self.clock.monotonic().saturating_sub(begun).as_micros())
                    .unwrap_or(i64::MAX),
                snapshot,
            });
        }
        checked.ground = tables
            .snapshot_id()
            .filter(|_| !read.is_empty())
            .map(|snapshot| Ground { snapshot, tables: read.into_iter().collect() });
        checked.withheld = failing.into_iter().map(|(source, rows)| (source, self.named(rows))).collect();
        Ok(checked)
    }

    async fn evaluate(&self, engine: &Engine, tables: &Tables, check: &CheckSpec, question: &Question) -> Found {
        if let Some(problem) = tables.column_problem(&check.kind, question) {
            return Found::of(CheckOutcome::Error, problem);
        }
        let left = self.end.saturating_sub(self.clock.monotonic());
        let allowed = check.timeout.unwrap_or(self.timeout).min(left);
        let staged = match &check.kind {
            CheckKind::Sql(_) => 0,
            kind => kind.source().map_or(0, |source| tables.staged_rows(source)),
        };
        let evaluation = async {
            let stream = engine.sql(&question.sql).await?;
            answer::read(stream, &question.answer, staged, self.started_at).await
        };
        match tokio::time::timeout(allowed, evaluation).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                let hint = error.hint().map_or_else(String::new, |hint| format!(" ({hint})"));
                Found::of(CheckOutcome::Error, error.chain() + &hint)
            }
            Err(_) => Found::of(CheckOutcome::Error, format!("no answer within {} ms", allowed.as_millis())),
        }
    }

    /// The rows that a check withholds which does not hold: those that fail it, or all where it does not say which.
    fn withheld<'f>(
        &'f self,
        check: &'f CheckSpec,
        question: Option<&'f Question>,
        found: &'f Found,
    ) -> Vec<(SourceName, Box<dyn Iterator<Item = u64> + 'f>)> {
        let rows_of = |source: &SourceName| match self.sources.get(source) {
            Some(CheckedRows::Staged { rows, .. }) => rows.rows(),
            _ => 0,
        };
        if let (Some(source), Some(_)) = (check.kind.source(), found.failing_rows) {
            return vec![(source.clone(), Box::new(found.rows.iter().copied()))];
        }
        let named = question.into_iter().flat_map(|question| &question.mentions);
        let named: BTreeSet<&str> =
            named.filter(|mention| mention.part != Part::Before).map(|mention| mention.source.as_str()).collect();
        // What cannot even be read names nobody: all of the round.
        let is_concerned = |source: &&SourceName| match &check.kind {
            CheckKind::Sql(_) => question.is_none() || named.contains(source.as_str()),
            CheckKind::RowCount { .. } | CheckKind::Sum { .. } => named.contains(source.as_str()),
            of_rows => of_rows.source() == Some(*source),
        };
        let sources = self.sources.keys().filter(is_concerned).filter(|source| rows_of(source) > 0);
        sources.map(|source| (source.clone(), Box::new(0..rows_of(source)) as _)).collect()
    }

    /// Rows with the names of the checks that they fail.
    fn named(&self, rows: BTreeMap<u64, Vec<usize>>) -> Vec<WithheldRow> {
        let mut known: BTreeMap<Vec<usize>, Arc<str>> = BTreeMap::new();
        let withheld = rows.into_iter().map(|(row, places)| {
            let detail = known.entry(places).or_insert_with_key(|places| {
                let names: Vec<String> = places.iter().map(|place| format!("`{}`", self.checks[*place].name)).collect();
                let checks = if names.len() > 1 { "checks" } else { "check" };
                format!("{checks} {} not kept", names.join(", ")).into()
            });
            WithheldRow { row, detail: detail.clone() }
        });
        withheld.collect()
    }
}

fn short(detail: String) -> String {
    match detail.char_indices().nth(DETAIL_CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &detail[..end]),
        None => detail,
    }
}
