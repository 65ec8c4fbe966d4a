//! Checks of what happens when something fails: the error says so, and nothing is lost.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::FutureExt;
use portolan_model::error::{ErrorKind, Retry};
use tokio::sync::Semaphore;

use super::harness::Outcome;
use super::{Harness, Recorder, Shape};
use crate::proxy::Mode;

/// The silence after which the sources of these checks give up.
const SHORT_TIMEOUT: Duration = Duration::from_millis(700);
/// Where answers are cut: within the first bytes, in heads, in bodies.
const CUTS: [u64; 8] = [1, 5, 17, 60, 150, 400, 2_000, 9_000];
/// Items of a read that is dropped: far more than three batches, and not so many that they come in several reads.
const DROPPED_ITEMS: i64 = 50_000;
/// Items of a read whose server is killed, and the bytes of each: more than sockets buffer.
const KILLED_ITEMS: i64 = 32_768;
const KILLED_PADDING: usize = 1_600;

pub(super) async fn a_dropped_read_yields_the_same_rows_again(harness: &mut Harness<'_>) -> Result<()> {
    harness.fixture.write(1..DROPPED_ITEMS + 1, 0)?;
    let mut source = harness.open()?;
    if harness.capabilities().push {
        // All of it has arrived, and nothing of it is committed.
        harness.read_all(source.as_mut(), None, DROPPED_ITEMS as usize).await?;
    }
    for permits in [0, 1, 2] {
        let mut output = Recorder::gated(Arc::new(Semaphore::new(permits)));
        source.prepare().await.context("prepare failed")?;
        // The output takes `permits` batches and then nothing: the read is dropped in the middle.
        let read = source.read(None, &mut output);
        if let Ok(end) = tokio::time::timeout(Duration::from_millis(300), read).await {
            bail!("the read ended though {permits} batches were taken and no more: {end:?}");
        }
        let reading = harness.read_healed(source.as_mut(), None, DROPPED_ITEMS as usize).await?;
        harness
            .expect_items(&reading.output.rows, 1..DROPPED_ITEMS + 1)
            .context(format!("dropped after {permits} batches"))?;
    }
    Ok(())
}

/// An answer that ends early must never be taken for a whole one.
pub(super) async fn a_cut_answer_is_an_error(harness: &mut Harness<'_>) -> Result<()> {
    harness.fixture.write(1..501, 40)?;
    let mut source = harness.open()?;
    let whole = {
        let before = harness.proxy.counts().bytes_from_server;
        harness.read_all(source.as_mut(), None, 500).await?;
        harness.proxy.counts().bytes_from_server - before
    };
    for cut in CUTS.into_iter().chain([whole / 2, whole * 3 / 4, whole - 1]) {
        for mode in [Mode::CloseAfter(cut), Mode::ResetAfter(cut)] {
            source.close().await;
            harness.proxy.set(mode);
            let mut output = Recorder::default();
            let outcome = harness.read_once(source.as_mut(), None, &mut output).await?;
            harness.proxy.set(Mode::Pass);
            match outcome {
                Outcome::Failed(error) => {
                    ensure!(error.kind() != ErrorKind::Internal, "{mode:?} is blamed on the program: {error:?}");
                }
                // The connection may outlast the answer by some bytes that do not matter.
                Outcome::Ended(_) => harness
                    .expect_items(&output.rows, 1..501)
                    .context(format!("{mode:?} of {whole} bytes, and the read says it is whole"))?,
            }
        }
    }
    let reading = harness.read_healed(source.as_mut(), None, 500).await?;
    harness.expect_items(&reading.output.rows, 1..501)
}

pub(super) async fn a_dead_port_is_named_and_heals(harness: &mut Harness<'_>) -> Result<()> {
    harness.fixture.write(1..11, 0)?;
    harness.proxy.set(Mode::Refuse);
    let mut source = harness.open()?;
    let outcome = harness.read_once(source.as_mut(), None, &mut Recorder::default()).await?;
    let error = outcome.failure("nobody listens")?;
    ensure!(error.kind() == ErrorKind::Unreachable, "a refused connection is {}, not unreachable", error.kind());
    harness.expect_complete(&error)?;
    harness.proxy.set(Mode::Pass);
    let reading = harness.read_healed(source.as_mut(), None, 10).await?;
    harness.expect_items(&reading.output.rows, 1..11)
}

pub(super) async fn a_hanging_port_times_out_and_heals(harness: &mut Harness<'_>) -> Result<()> {
    harness.fixture.write(1..11, 0)?;
    let mut spec = harness.fixture.spec(harness.proxy.port(), harness.shape());
    spec.connect_timeout = SHORT_TIMEOUT;
    spec.idle_timeout = SHORT_TIMEOUT;
    let mut source = harness.open_as(spec)?;
    for situation in ["before the connection", "on a kept connection"] {
        harness.proxy.set(Mode::Hang);
        let outcome = harness.read_once(source.as_mut(), None, &mut Recorder::default()).await.context(situation)?;
        let error = outcome.failure("nothing answers")?;
        ensure!(error.kind() == ErrorKind::Timeout, "{situation}: a hanging port is {error:?}, not a timeout");
        harness.expect_complete(&error)?;
        harness.proxy.set(Mode::Pass);
        let reading = harness.read_healed(source.as_mut(), None, 10).await.context(situation)?;
        harness.expect_items(&reading.output.rows, 1..11)?;
    }
    Ok(())
}

pub(super) async fn hostile_bytes_are_an_error(harness: &mut Harness<'_>) -> Result<()> {
    harness.fixture.write(1..11, 0)?;
    harness.proxy.set(Mode::Garbage);
    let mut source = harness.open()?;
    let mut output = Recorder::default();
    let read = AssertUnwindSafe(harness.read_once(source.as_mut(), None, &mut output)).catch_unwind().await;
    let Ok(outcome) = read else { bail!("the source panicked on bytes that are not its protocol") };
    let error = outcome?.failure("what came is noise")?;
    ensure!(error.kind() != ErrorKind::Internal, "noise is blamed on the program: {error:?}");
    harness.expect_complete(&error)?;
    let rows = output.rows.len();
    ensure!(rows == 0, "{rows} rows were made out of noise");
    harness.proxy.set(Mode::Pass);
    let mut source = harness.open()?;
    let reading = harness.read_healed(source.as_mut(), None, 10).await?;
    harness.expect_items(&reading.output.rows, 1..11)
}

pub(super) async fn a_server_restart_is_survived(harness: &mut Harness<'_>) -> Result<()> {
    harness.fixture.write(1..11, 0)?;
    let mut source = harness.open()?;
    let first = harness.read_all(source.as_mut(), None, 10).await?;
    harness.fixture.restart()?;
    harness.fixture.write(11..21, 0)?;
    let from = first.position.filter(|_| harness.capabilities().resume);
    let reading = harness.read_healed(source.as_mut(), from.as_ref(), if from.is_some() { 10 } else { 20 }).await?;
    let first_expected = if from.is_some() { 11 } else { 1 };
    harness.expect_items(&reading.output.rows, first_expected..21)
}

/// What a read yielded whose server died within it is not committed: from where the read began everything comes, once.
pub(super) async fn a_server_killed_within_a_read_is_survived(harness: &mut Harness<'_>) -> Result<()> {
    let capabilities = harness.capabilities();
    harness.fixture.write(1..11, 0)?;
    let mut source = harness.open()?;
    let position = harness.read_all(source.as_mut(), None, 10).await?.position;
    let from = position.filter(|_| capabilities.resume || capabilities.acknowledge);
    if let Some(position) = from.as_ref().filter(|_| capabilities.acknowledge) {
        source.acknowledge(position).await.context("the acknowledgement failed")?;
    }
    let last = 10 + KILLED_ITEMS;
    harness.fixture.write(11..last + 1, KILLED_PADDING)?;
    if capabilities.push {
        // All of it has arrived, and nothing of it is committed.
        harness.read_all(source.as_mut(), from.as_ref(), KILLED_ITEMS as usize).await?;
    }
    source.prepare().await.context("prepare failed")?;
    let gate = Arc::new(Semaphore::new(1));
    let mut output = Recorder::gated(Arc::clone(&gate));
    let mut read = source.read(from.as_ref(), &mut output);
    let first_batch = async {
        while gate.available_permits() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        end = &mut read => bail!("the read ended though one batch was taken and no more: {end:?}"),
        waited = tokio::time::timeout(harness.patience, first_batch) => waited.context("no batch came")?,
    }
    harness.fixture.kill()?;
    gate.add_permits(Semaphore::MAX_PERMITS / 2);
    let end = tokio::time::timeout(harness.patience, read).await;
    harness.fixture.start_again()?;
    match end.context("the read of a dead server did not end")? {
        Err(error) => {
            ensure!(error.retry() == Retry::Transient, "a server that died is no transient failure: {error:?}");
            harness.expect_complete(&error)?;
        }
        // What was sent is here; a read of it cannot fail for its sender.
        Ok(_) if capabilities.push => {}
        Ok(end) => bail!("the read succeeded though its server died within it: {end:?}"),
    }
    let first = if from.is_some() { 11 } else { 1 };
    let count = usize::try_from(last + 1 - first)?;
    let reading = harness.read_healed(source.as_mut(), from.as_ref(), count).await?;
    harness.expect_items(&reading.output.rows, first..last + 1)?;
    // The beginning of the message within which a sender died.
    let quarantined = &reading.output.quarantined;
    ensure!(quarantined.len() <= usize::from(capabilities.push), "items went to quarantine: {quarantined:?}");
    Ok(())
}

pub(super) async fn a_network_cut_is_survived(harness: &mut Harness<'_>) -> Result<()> {
    harness.fixture.write(1..11, 0)?;
    let mut source = harness.open()?;
    let mut position = None;
    for step in 1..4 {
        let count = if position.is_some() { 10 } else { step as usize * 10 };
        let reading = harness.read_healed(source.as_mut(), position.as_ref(), count).await?;
        let first = if position.is_some() { step * 10 - 9 } else { 1 };
        harness.expect_items(&reading.output.rows, first..step * 10 + 1)?;
        position = reading.position.filter(|_| harness.capabilities().resume);
        harness.proxy.cut();
        harness.fixture.write(step * 10 + 1..step * 10 + 11, 0)?;
    }
    Ok(())
}

pub(super) async fn an_oversized_item_is_a_limit(harness: &mut Harness<'_>) -> Result<()> {
    let limit = harness.fixture.item_bytes_max().context("the fixture bounds no items")?;
    harness.fixture.write(1..4, 0)?;
    harness.fixture.write(4..5, limit * 2)?;
    let spec = harness.fixture.spec(harness.proxy.port(), Shape::SmallItems);
    let mut source = harness.open_as(spec)?;
    let mut outcome = harness.read_once(source.as_mut(), None, &mut Recorder::default()).await?;
    // What stands before it may come first; the error is then that of the next read.
    if let super::harness::Outcome::Ended(end) = &outcome
        && end.more
    {
        let position = end.position.clone();
        outcome = harness.read_once(source.as_mut(), position.as_ref(), &mut Recorder::default()).await?;
    }
    let error = outcome.failure("an item is larger than the limit")?;
    ensure!(error.kind() == ErrorKind::Limit, "an item above the limit is {error:?}, not a limit");
    harness.expect_complete(&error)
}

/// Wherever a connection is cut, its sender goes on where it was told that all before is safe.
pub(super) async fn a_cut_connection_loses_nothing(harness: &mut Harness<'_>) -> Result<()> {
    let mut source = harness.open()?;
    source.prepare().await.context("prepare failed")?;
    let (mut position, mut next) = (None, 1);
    for cut in CUTS.into_iter().chain([30_000, 200_000]) {
        for mode in [Mode::CloseAfter(cut), Mode::ResetAfter(cut), Mode::CutAfterSent(cut)] {
            harness.proxy.set(mode);
            harness.proxy.cut();
            harness.fixture.write(next..next + 500, 40)?;
            tokio::time::sleep(Duration::from_millis(20)).await;
            harness.proxy.set(Mode::Pass);
            let reading =
                harness.read_healed(source.as_mut(), position.as_ref(), 500).await.context(format!("{mode:?}"))?;
            harness.expect_items(&reading.output.rows, next..next + 500).context(format!("{mode:?}"))?;
            position = reading.position;
            next += 500;
        }
    }
    Ok(())
}

/// Where items come by themselves, one that is too large concerns nobody but itself.
pub(super) async fn an_oversized_item_goes_to_the_quarantine(harness: &mut Harness<'_>) -> Result<()> {
    let limit = harness.fixture.item_bytes_max().context("the fixture bounds no items")?;
    harness.fixture.write(1..4, 0)?;
    harness.fixture.write(4..5, limit * 2)?;
    harness.fixture.write(5..7, 0)?;
    let mut source = harness.open_as(harness.fixture.spec(harness.proxy.port(), Shape::SmallItems))?;
    let reading = harness.read_all(source.as_mut(), None, 5).await?;
    harness.expect_items(&reading.output.rows, [1, 2, 3, 5, 6])?;
    let quarantined = &reading.output.quarantined;
    ensure!(quarantined.len() == 1, "{} items are in the quarantine, not one", quarantined.len());
    ensure!(!quarantined[0].content.is_empty(), "nothing of the item was kept: {quarantined:?}");
    Ok(())
}
