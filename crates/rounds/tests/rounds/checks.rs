//! What follows from checks: rejected, withheld, marked; checked again where the ground moves.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use portolan_model::check::{
    CheckInput, CheckOutcome, CheckResult, Checked, CheckedRows, Checker, Ground, WithheldRow,
};
use portolan_model::config::{CheckKind, CheckSpec, OnCheckFailure, Place};
use portolan_model::round::RoundVerdict;
use portolan_model::{Error, ErrorKind, Result, SourceName};
use portolan_rounds::coordinator::RoundRunner;

use crate::support::{Step, World};

/// Gives prepared answers, the last one for ever; notes what it is asked.
#[derive(Default)]
struct Scripted {
    answers: Mutex<Vec<Result<Checked>>>,
    asked: Mutex<Vec<String>>,
}

#[async_trait]
impl Checker for Scripted {
    async fn check(&self, input: CheckInput<'_>) -> Result<Checked> {
        let sources = input.sources.iter().map(|(name, rows)| match rows {
            CheckedRows::Staged { .. } => format!("{name} staged"),
            CheckedRows::Unchanged { .. } => format!("{name} unchanged"),
            CheckedRows::Missing => format!("{name} missing"),
        });
        self.asked.lock().unwrap().push(sources.collect::<Vec<_>>().join(", "));
        assert_eq!(input.timeout, Duration::from_secs(5), "a quarter of the deadline");
        let mut answers = self.answers.lock().unwrap();
        if answers.len() > 1 { answers.remove(0) } else { answers[0].clone_answer() }
    }
}

trait Again {
    fn clone_answer(&self) -> Self;
}

impl Again for Result<Checked> {
    fn clone_answer(&self) -> Self {
        match self {
            Ok(checked) => Ok(checked.clone()),
            Err(error) => Err(Error::new(error.kind(), "check", "again")),
        }
    }
}

fn answer(outcome: CheckOutcome, on_failure: OnCheckFailure, withheld: u64) -> Checked {
    let result = CheckResult {
        name: "it holds".into(),
        kind: "sql",
        outcome,
        on_failure,
        failing_rows: None,
        detail: Some("7 is not 8".into()),
        duration_us: 1,
        snapshot: Some(1),
    };
    let rows: Vec<WithheldRow> = (0..withheld).map(|row| WithheldRow { row, detail: "why".into() }).collect();
    let a = SourceName::new("a").unwrap();
    Checked {
        results: vec![result],
        ground: Some(Ground { snapshot: 0, tables: vec![a.clone()] }),
        withheld: (withheld > 0).then_some((a, rows)).into_iter().collect(),
    }
}

fn runner(world: &World, answers: Vec<Result<Checked>>, steps: Vec<Step>) -> (RoundRunner, Arc<Scripted>) {
    let checker = Arc::new(Scripted { answers: Mutex::new(answers), ..Scripted::default() });
    *world.checker.lock().unwrap() = Some(checker.clone());
    *world.checks.lock().unwrap() = vec![CheckSpec {
        name: "it holds".into(),
        kind: CheckKind::Sql("select true".into()),
        on_failure: OnCheckFailure::Warn,
        timeout: None,
        place: Place::default(),
    }];
    (world.runner(&[("a", true, steps), ("b", false, vec![Step::Fail(ErrorKind::Data)])]), checker)
}

use CheckOutcome::{Failed, Passed};
use OnCheckFailure::{Quarantine, Reject, Warn};

#[tokio::test(start_paused = true)]
async fn a_round_that_a_check_rejects_stores_its_record_alone() {
    let world = World::new();
    for outcome in [Failed, CheckOutcome::Error] {
        let rejected = answer(outcome, Reject, 0);
        let answers = vec![Ok(rejected), Ok(answer(Passed, Reject, 0))];
        let (mut runner, checker) = runner(&world, answers, vec![Step::Rows(8), Step::Rows(8)]);
        let before = (world.catalog.rows("a"), world.catalog.position("a"));
        let end = runner.round_with(Some(1 << 20)).await;
        assert_eq!(end.failures.len(), 1, "that the other one failed is told");
        assert_eq!(end.memory.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a"]);
        let record = world.catalog.rounds().last().unwrap().record.clone();
        assert_eq!(record.verdict, RoundVerdict::Rejected);
        assert_eq!(record.checks[0].outcome, outcome);
        assert!(record.consistency.reason.unwrap().contains("`it holds`"));
        assert_eq!((record.receipts[0].rows, record.receipts[0].position_after.clone()), (0, None));
        assert_eq!((world.catalog.rows("a"), world.catalog.position("a")), before);
        assert_eq!(checker.asked.lock().unwrap()[..], ["a staged, b missing"]);
        assert_eq!(world.catalog.status("a").unwrap().failures, 0, "the source is well");
        if outcome == CheckOutcome::Error {
            // Read again from the same position, and kept.
            runner.round().await;
            assert_eq!(world.reads_from("a"), [None, None]);
            assert_eq!((world.catalog.rows("a"), world.catalog.position("a")), (8, Some(8)));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_withheld_is_counted_and_the_position_moves() {
    let world = World::new();
    let (mut runner, _) = runner(&world, vec![Ok(answer(Failed, Quarantine, 3))], vec![Step::Rows(8)]);
    runner.round().await;
    let record = world.catalog.rounds()[0].record.clone();
    assert_eq!((record.receipts[0].rows, record.receipts[0].quarantined), (5, 3));
    assert_eq!((world.catalog.rows("a"), world.catalog.position("a")), (5, Some(8)));
    assert_eq!(world.catalog.status("a").unwrap().rows_total, 5);
}

#[tokio::test(start_paused = true)]
async fn what_the_quarantine_does_not_take_is_rejected() {
    let world = World::new();
    let (mut runner, _) = runner(&world, vec![Ok(answer(Failed, Quarantine, 101))], vec![Step::Rows(200)]);
    runner.round().await;
    let record = world.catalog.rounds()[0].record.clone();
    assert_eq!(record.verdict, RoundVerdict::Rejected);
    assert!(record.consistency.reason.unwrap().contains("too many"));
    assert_eq!((world.catalog.rows("a"), world.catalog.position("a")), (0, None));
}

#[tokio::test(start_paused = true)]
async fn a_warning_is_stored_with_the_rows() {
    let world = World::new();
    let (mut runner, _) = runner(&world, vec![Ok(answer(Failed, Warn, 0))], vec![Step::Rows(8)]);
    runner.round().await;
    let record = world.catalog.rounds()[0].record.clone();
    assert_eq!((record.verdict, record.checks[0].outcome), (RoundVerdict::Partial, Failed));
    assert_eq!((world.catalog.rows("a"), record.consistency.reason), (8, None));
}

#[tokio::test(start_paused = true)]
async fn a_round_is_checked_again_when_its_ground_has_moved() {
    let world = World::new();
    let answers = vec![Ok(answer(Failed, Quarantine, 3)), Ok(answer(Failed, Reject, 0)), Ok(answer(Passed, Warn, 0))];
    let (mut runner, checker) = runner(&world, answers, vec![Step::Rows(8)]);
    world.catalog.moves.store(2, Ordering::SeqCst);
    runner.round().await;
    // What was withheld or rejected on the ground that has moved is of no account.
    assert_eq!(checker.asked.lock().unwrap().len(), 3);
    let record = world.catalog.rounds()[0].record.clone();
    assert_eq!(
        (record.verdict, record.receipts[0].rows, record.receipts[0].quarantined),
        (RoundVerdict::Partial, 8, 0)
    );
    assert_eq!((world.catalog.rows("a"), world.catalog.position("a")), (8, Some(8)));
}

#[tokio::test(start_paused = true)]
async fn a_ground_that_never_stands_is_given_up() {
    let world = World::new();
    let (mut runner, checker) = runner(&world, vec![Ok(answer(Passed, Warn, 0))], vec![Step::Rows(8), Step::Rows(8)]);
    world.catalog.moves.store(4, Ordering::SeqCst);
    let end = runner.round_with(None).await;
    assert_eq!(end.error.unwrap().kind(), ErrorKind::Conflict);
    assert_eq!(checker.asked.lock().unwrap().len(), 4);
    assert!(world.catalog.rounds().is_empty() && world.catalog.position("a").is_none());
    // The next round reads it again.
    runner.round().await;
    assert_eq!((world.catalog.rows("a"), world.reads_from("a")), (8, vec![None, None]));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_stored_that_could_not_be_checked() {
    let world = World::new();
    let broken = Err(Error::new(ErrorKind::Storage, "read lake", "no such file"));
    let (mut with, _) = runner(&world, vec![broken], vec![Step::Rows(8)]);
    assert_eq!(with.round_with(None).await.error.unwrap().kind(), ErrorKind::Storage);
    *world.checker.lock().unwrap() = None;
    let mut without = world.runner(&[("a", true, vec![Step::Rows(8)])]);
    assert_eq!(without.round_with(None).await.error.unwrap().kind(), ErrorKind::Internal);
    assert!(world.catalog.rounds().is_empty() && world.catalog.position("a").is_none());
}
