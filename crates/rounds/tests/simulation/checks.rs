//! What must hold, whatever fails: looked at when a round is committed, and when all has become calm.

use std::collections::BTreeMap;
use std::time::Duration;

use portolan_model::SourceName;
use portolan_model::catalog::WriteMode;
use portolan_model::check::CheckResult;
use portolan_model::config::{Consistency, OnCheckFailure, OnFailure, SkewMeasure};
use portolan_model::round::{ConsistencyReached, Receipt, ReceiptVerdict, RoundRecord, RoundVerdict};
use portolan_model::state::State;

use crate::catalog::{STEP_MS, Staged};
use crate::plan::{DEADLINE, Kind, RoundPlan};
use crate::source::{name, number};
use crate::world::{VALUE_BASE, World};

/// The name of a round of the plan.
pub(crate) fn round_name(index: usize) -> String {
    format!("r{index}")
}

fn is_read(receipt: &Receipt) -> bool {
    matches!(receipt.verdict, ReceiptVerdict::Ok | ReceiptVerdict::Unchanged)
}

/// A round is about to be published.
pub(crate) fn commit(world: &World, record: &RoundRecord, staged: &BTreeMap<SourceName, Staged>) {
    let index: usize = record.name.as_str()[1..].parse().unwrap();
    let plan = &world.plan.rounds[index];
    let mut names: Vec<SourceName> = record.receipts.iter().map(|receipt| receipt.source.clone()).collect();
    names.sort();
    if names != plan.servers.iter().map(|server| name(*server)).collect::<Vec<_>>() {
        world.violated(format!("{}: receipts of {names:?}, sources are {:?}", record.name, plan.servers));
    }
    for (server, receipt) in plan
        .servers
        .iter()
        .filter_map(|server| Some((*server, record.receipts.iter().find(|receipt| receipt.source == name(*server))?)))
    {
        if let Err(what) = receipt_holds(world, record, server, receipt, staged.get(&receipt.source)) {
            world.violated(format!("{} {}: {what}: {receipt:?}", record.name, receipt.source));
        }
    }
    for what in [verdict_holds(world, record, plan), time_holds(record), promise_holds(world, record, plan)] {
        if let Err(what) = what {
            world.violated(format!("{}: {what}: {record:?}", record.name));
        }
    }
}

/// Rows and positions: what is published is what lies between the positions, all of it and once.
fn receipt_holds(
    world: &World,
    record: &RoundRecord,
    server: usize,
    receipt: &Receipt,
    staged: Option<&Staged>,
) -> Result<(), String> {
    let committed = world.store.lock().unwrap().positions.get(&receipt.source).cloned();
    let is_skipped = receipt.verdict == ReceiptVerdict::Skipped;
    if receipt.position_before != committed && !is_skipped {
        return Err(format!("begins at another position than the committed {committed:?}"));
    }
    if record.verdict == RoundVerdict::Rejected || !is_read(receipt) {
        let moved = receipt.position_after != receipt.position_before;
        let moved = moved || receipt.watermark.is_some();
        return if moved || receipt.rows > 0 { Err("keeps something of nothing".into()) } else { Ok(()) };
    }
    let known = world.store.lock().unwrap().watermarks.get(&receipt.source).copied();
    let released = receipt.released_us.map(|us| record.started_at + jiff::SignedDuration::from_micros(us));
    if receipt.watermark < known || receipt.watermark.is_some_and(|to| Some(to) != known && Some(to) > released) {
        return Err(format!("its watermark was {known:?}, and it was released at {released:?}"));
    }
    let kind = world.plan.servers[server].kind;
    let (before, after) = (number(receipt.position_before.as_ref()), number(receipt.position_after.as_ref()));
    let Some(after) = after else { return Err("has no position".into()) };
    let Some(staged) = staged else {
        let is_same = receipt.verdict == ReceiptVerdict::Unchanged && before == Some(after);
        return if is_same { Ok(()) } else { Err("has no rows".into()) };
    };
    let expected: Vec<i64> = match kind {
        Kind::Value => vec![VALUE_BASE * (server as i64 + 1) + after; 2],
        Kind::Log | Kind::Queue => (before.unwrap_or(0) + 1..=after).collect(),
    };
    let withheld = staged.withheld.len() as u64;
    let counts = (staged.rows.len() as u64, staged.quarantined + withheld, staged.duplicates);
    if staged.whole() != expected {
        Err(format!("publishes {:?} for {expected:?}", staged.rows))
    } else if counts != (receipt.rows, receipt.quarantined, receipt.duplicates) {
        Err(format!("publishes {counts:?} rows, quarantined, duplicates"))
    } else if (staged.mode == WriteMode::Replace) != (kind == Kind::Value) {
        Err("is written in the wrong mode".into())
    } else {
        Ok(())
    }
}

/// The verdict follows from the receipts and the promise, and from nothing else.
fn verdict_holds(world: &World, record: &RoundRecord, plan: &RoundPlan) -> Result<(), String> {
    let missing =
        |server: &&usize| record.receipts.iter().any(|receipt| receipt.source == name(**server) && !is_read(receipt));
    let is_refused = plan.consistency.on_failure == OnFailure::Reject
        && !record.consistency.reached.keeps(record.consistency.promised);
    let is_checked = checks_hold(world, record, plan)?;
    let lost: Vec<&usize> = plan.servers.iter().filter(missing).collect();
    let expected = if is_refused || !is_checked || lost.iter().any(|server| world.plan.servers[**server].required) {
        RoundVerdict::Rejected
    } else if lost.is_empty() {
        RoundVerdict::Complete
    } else {
        RoundVerdict::Partial
    };
    if record.verdict == expected { Ok(()) } else { Err(format!("should be {expected:?}")) }
}

/// A round has the answers of its checks, as of now, unless its reads have rejected it. Returns whether they let it pass.
fn checks_hold(world: &World, record: &RoundRecord, plan: &RoundPlan) -> Result<bool, String> {
    let asked = usize::from(plan.is_checked);
    if record.verdict != RoundVerdict::Rejected && record.checks.len() != asked {
        return Err("is published without the answers of its checks".into());
    }
    let head = world.store.lock().unwrap().rounds;
    if record.checks.iter().any(|check| check.snapshot.is_some_and(|snapshot| snapshot != head)) {
        return Err(format!("was checked on other ground than {head}"));
    }
    let rejects = |check: &CheckResult| check.outcome.is_failure() && check.on_failure == OnCheckFailure::Reject;
    Ok(!record.checks.iter().any(rejects))
}

/// A round ends with its deadline, what the catalog takes aside.
fn time_holds(record: &RoundRecord) -> Result<(), String> {
    let attempts = u64::from(record.consistency.attempts.max(1));
    let allowed = DEADLINE + Duration::from_millis(2 * STEP_MS * (attempts + 1));
    let duration = Duration::from_micros(record.duration_us as u64);
    if duration <= allowed { Ok(()) } else { Err(format!("took {duration:?} of {allowed:?}")) }
}

/// What a round says of its reads' common moment is true of the servers.
fn promise_holds(world: &World, record: &RoundRecord, plan: &RoundPlan) -> Result<(), String> {
    let spec = &plan.consistency;
    let (promised, reached) = (record.consistency.promised, record.consistency.reached);
    if promised != spec.mode {
        return Err("promises something else than the configuration".into());
    }
    if record.consistency.attempts > spec.attempts_max {
        return Err("was read more often than allowed".into());
    }
    let start = Duration::from_micros(record.started_at.as_microsecond() as u64);
    let known = world.known.lock().unwrap();
    let mut acts = Vec::new();
    let mut shown: BTreeMap<u16, (Duration, &str)> = BTreeMap::new();
    for receipt in record.receipts.iter().filter(|receipt| is_read(receipt)) {
        let log = receipt.payload_sha256.as_ref().and_then(|digest| known.reads.get(digest));
        let Some(log) = log.filter(|log| name(log.server) == receipt.source) else {
            return Err(format!("the read of {} is not known", receipt.source));
        };
        let instant = |us: Option<i64>| us.map(|us| start + Duration::from_micros(us as u64));
        let (Some(released), Some(acted)) = (instant(receipt.released_us), instant(receipt.acted_us)) else {
            return Err(format!("{} was read at no time", receipt.source));
        };
        if let Some(act) = log.acts.iter().find(|act| **act < released || **act > acted) {
            return Err(format!("{} acted at {act:?}, released {released:?}, acted {acted:?}", receipt.source));
        }
        acts.extend(log.acts.iter().copied());
        if let (ConsistencyReached::Snapshot, Some(database)) = (reached, world.plan.servers[log.server].database) {
            let (Some(at), Some(name)) = (log.snapshot, receipt.snapshot.as_deref()) else {
                return Err(format!("{} was read without a snapshot", receipt.source));
            };
            if *shown.entry(database).or_insert((at, name)) != (at, name) {
                return Err(format!("{} shows another state than those of its database", receipt.source));
            }
        }
    }
    if reached == ConsistencyReached::Snapshot && shown.is_empty() {
        return Err("says a snapshot, and has none".into());
    }
    drop(known);
    let read: Vec<&Receipt> = record.receipts.iter().filter(|receipt| is_read(receipt)).collect();
    if promised != Consistency::None {
        let last_ready = read.iter().filter_map(|receipt| receipt.prepared_us).max();
        let first_release = read.iter().filter_map(|receipt| receipt.released_us).min();
        if last_ready > first_release {
            return Err("released one before another was ready".into());
        }
        // Whoever is left behind has had the time agreed, in the one attempt that can be told from the receipts.
        let is_left = |receipt: &Receipt| receipt.error.as_ref().is_some_and(|error| error.contains("not ready"));
        let agreed = (spec.ready_within.min(DEADLINE / 2) - Duration::from_millis(STEP_MS)).as_micros() as i64;
        if record.consistency.attempts == 1
            && record.receipts.iter().any(is_left)
            && first_release.is_some_and(|first| first < agreed)
        {
            return Err("left somebody behind too early".into());
        }
    }
    if let (Some(first), Some(last), Some(bound)) = (acts.iter().min(), acts.iter().max(), record.skew_bound_us) {
        let spread = (*last - *first).as_micros() as i64;
        if spread > bound {
            return Err(format!("servers acted {spread} us apart, over the bound"));
        }
    }
    let has_read =
        record.receipts.iter().any(|receipt| matches!(receipt.verdict, ReceiptVerdict::Ok | ReceiptVerdict::Unchanged));
    match reached {
        ConsistencyReached::Released | ConsistencyReached::Proven | ConsistencyReached::Snapshot if !has_read => {
            return Err("keeps its promise without a read".into());
        }
        ConsistencyReached::Released | ConsistencyReached::Proven | ConsistencyReached::Snapshot => {
            let measured = match spec.skew_measure {
                SkewMeasure::Bound => record.skew_bound_us,
                SkewMeasure::Release => record.release_spread_us,
            };
            let allowed = spec.skew_max.map_or(i64::MAX, |allowed| allowed.as_micros() as i64);
            // What was published is what is measured, unless the round has no read left.
            if measured.is_some_and(|measured| measured > allowed) {
                return Err(format!("{measured:?} us over max_skew"));
            }
        }
        ConsistencyReached::None if promised != Consistency::None && has_read => {
            return Err("says nothing of its promise".into());
        }
        _ => {}
    }
    if reached == ConsistencyReached::Proven && record.verdict != RoundVerdict::Rejected {
        let held = read.iter().map(|receipt| {
            let server: usize = receipt.source.as_str()[1..].parse().unwrap();
            let (from, until) = world.value_held(server, number(receipt.position_after.as_ref()).unwrap_or(0));
            match world.plan.servers[server].kind {
                Kind::Value => (from, until),
                // Items stay: what was read of a log holds ever after.
                Kind::Log | Kind::Queue => (Duration::ZERO, Duration::MAX),
            }
        });
        let (from, until) = held.fold((Duration::ZERO, Duration::MAX), |all, one| (all.0.max(one.0), all.1.min(one.1)));
        if from >= until {
            return Err("is proven, and its values never held together".into());
        }
    }
    Ok(())
}

/// A round is published.
pub(crate) fn published(world: &World, record: &RoundRecord) {
    let mut known = world.known.lock().unwrap();
    let counts = &mut known.counts;
    counts.rounds += 1;
    counts.rejected += u64::from(record.verdict == RoundVerdict::Rejected);
    counts.partial += u64::from(record.verdict == RoundVerdict::Partial);
    counts.released += u64::from(record.consistency.reached == ConsistencyReached::Released);
    counts.proven += u64::from(record.consistency.reached == ConsistencyReached::Proven);
    counts.snapshots += u64::from(record.consistency.reached == ConsistencyReached::Snapshot);
    counts.no_snapshots += u64::from(record.consistency.reached == ConsistencyReached::NoSnapshot);
    counts.refused += record.checks.iter().filter(|check| check.on_failure == OnCheckFailure::Reject).count() as u64;
    counts.unproven += u64::from(record.consistency.reached == ConsistencyReached::Unproven);
}

/// Nothing has failed for long: everything the servers have is there, once, and everybody is well.
pub(crate) fn calm(world: &World) {
    let end = world.clock.now();
    for (server, plan) in world.plan.servers.iter().enumerate() {
        let content = world.content(server, end);
        let store = world.store.lock().unwrap();
        let mut rows = store.rows.get(&name(server)).cloned().unwrap_or_default();
        let withheld = store.withheld.get(&name(server)).cloned().unwrap_or_default();
        let position = number(store.positions.get(&name(server)));
        let status = store.statuses.get(&name(server)).cloned();
        drop(store);
        let expected: Vec<i64> = match plan.kind {
            Kind::Value => vec![VALUE_BASE * (server as i64 + 1) + content; 2],
            Kind::Log | Kind::Queue => (1..=content).collect(),
        };
        rows.extend(&withheld);
        rows.sort_unstable();
        if rows != expected || position != Some(content) {
            let what = format!("s{server} {:?} has {} rows at {position:?}", plan.kind, rows.len());
            world.violated(format!("{what}, for {content}"));
        }
        let acknowledged = world.known.lock().unwrap().acknowledged.get(&server).copied().unwrap_or(0);
        if plan.kind == Kind::Queue && acknowledged != content {
            world.violated(format!("s{server} was acknowledged to {acknowledged} of {content}"));
        }
        match status {
            Some(status) if status.state == State::Healthy => {
                let total = i64::try_from(status.rows_total).unwrap();
                if plan.kind != Kind::Value && total != content - withheld.len() as i64 {
                    world.violated(format!("s{server} counts {total} rows of {content}"));
                }
            }
            status => world.violated(format!("s{server} is not healthy: {status:?}")),
        }
    }
    for (index, round) in world.plan.rounds.iter().enumerate() {
        let store = world.store.lock().unwrap();
        let last = store.last.get(&round_name(index)).cloned();
        drop(store);
        let can_be_compared = round.servers.iter().all(|server| world.plan.servers[*server].kind != Kind::Queue);
        let is_kept = |record: &RoundRecord| {
            let consistency = &record.consistency;
            consistency.reached.keeps(consistency.promised)
                || (consistency.promised == Consistency::DoubleCollect && !can_be_compared)
        };
        if !last.as_ref().is_some_and(|last| last.verdict == RoundVerdict::Complete && is_kept(last)) {
            world.violated(format!("the last round of r{index} is not complete: {last:?}"));
        }
    }
}
