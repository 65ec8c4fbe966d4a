//! A model of those who evaluate checks: it rejects and withholds by chance, and has read the lake as it was then.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use portolan_model::check::{
    CheckInput, CheckOutcome, CheckResult, Checked, CheckedRows, Checker, Ground, WithheldRow,
};
use portolan_model::config::{CheckKind, CheckSpec, OnCheckFailure, Place};
use portolan_model::{Error, ErrorKind, Result};

use crate::catalog::STEP_MS;
use crate::plan::{CALM_AFTER, Kind};
use crate::source::name;
use crate::world::World;

/// The check of a round.
pub(crate) fn spec() -> CheckSpec {
    CheckSpec {
        name: "by chance".into(),
        kind: CheckKind::Sql("select true".into()),
        on_failure: OnCheckFailure::Warn,
        timeout: None,
        place: Place::default(),
    }
}

/// Its own handle, so that the trait can be implemented.
pub(crate) struct ModelChecker(pub(crate) Arc<World>);

#[async_trait]
impl Checker for ModelChecker {
    async fn check(&self, input: CheckInput<'_>) -> Result<Checked> {
        let world = &self.0;
        let snapshot = world.store.lock().unwrap().rounds;
        world.pause(STEP_MS).await;
        if world.fails(world.plan.catalog_faults) {
            return Err(Error::new(ErrorKind::Storage, "check round", "the disk says no"));
        }
        let chance = if world.clock.now() < CALM_AFTER { world.below(8) } else { u64::MAX };
        let (outcome, on_failure) = match chance {
            0 => (CheckOutcome::Error, OnCheckFailure::Reject),
            1 => (CheckOutcome::Failed, OnCheckFailure::Quarantine),
            2 => (CheckOutcome::Failed, OnCheckFailure::Warn),
            _ => (CheckOutcome::Passed, OnCheckFailure::Warn),
        };
        let mut withheld = BTreeMap::new();
        if on_failure == OnCheckFailure::Quarantine {
            for (server, plan) in world.plan.servers.iter().enumerate() {
                // Of the others it is not known what comes again.
                let Some(CheckedRows::Staged { rows, .. }) = input.sources.get(&name(server)) else { continue };
                let fails = |_: &u64| world.below(3) == 0;
                let failing: Vec<u64> = (0..rows.rows()).filter(|_| plan.kind == Kind::Log).filter(fails).collect();
                world.known.lock().unwrap().counts.withheld += failing.len() as u64;
                if !failing.is_empty() {
                    let row = |row| WithheldRow { row, detail: "by chance".into() };
                    withheld.insert(name(server), failing.into_iter().map(row).collect());
                }
            }
        }
        let reads_lake = world.below(2) == 0;
        let result = CheckResult {
            name: "by chance".into(),
            kind: "sql",
            outcome,
            on_failure,
            failing_rows: None,
            detail: None,
            duration_us: 0,
            snapshot: reads_lake.then_some(snapshot),
        };
        let ground = reads_lake.then(|| Ground { snapshot, tables: Vec::new() });
        Ok(Checked { results: vec![result], ground, withheld })
    }
}
