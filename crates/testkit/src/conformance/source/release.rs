//! Checks of what a source does in a round that is released.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use portolan_model::source::ReleaseKind;

use super::recorder::Hold;
use super::{Harness, Recorder};

/// How long a held read is looked at.
const LOOK: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_millis(2);

/// What is written while a read is held back is part of it: its server has not acted.
pub(super) async fn a_held_read_sees_what_comes_before_its_release(harness: &mut Harness<'_>) -> Result<()> {
    harness.fixture.write(1..4, 0)?;
    let mut source = harness.open()?;
    source.prepare().await.context("prepare failed")?;
    let hold = Arc::new(Hold::default());
    let mut output = Recorder::held(Arc::clone(&hold));
    let end = {
        let read = source.read(None, &mut output);
        tokio::pin!(read);
        tokio::select! {
            ended = &mut read => bail!("the read did not wait for its release: {ended:?}"),
            ready = ready(&hold, harness.patience) => {
                let is_held = harness.capabilities().release == ReleaseKind::Held;
                ensure!(ready? == is_held, "it says {:?}", harness.capabilities().release);
            }
        }
        tokio::select! {
            ended = &mut read => bail!("the read ended before its release: {ended:?}"),
            () = tokio::time::sleep(LOOK) => {}
        }
        harness.fixture.write(4..6, 0)?;
        hold.open.notify_one();
        let ended = tokio::time::timeout(harness.patience, read).await;
        ended.context("the read did not go on")?.context("the released read failed")?
    };
    let mut rows = std::mem::take(&mut output.rows);
    if harness.capabilities().push && rows.len() < 5 {
        // The others were on their way.
        let rest = harness.read_all(source.as_mut(), end.position.as_ref(), 5 - rows.len()).await?;
        rows.extend(rest.output.rows);
    }
    harness.expect_items(&rows, 1..6)
}

/// A round that gives up before its release leaves nothing half done.
pub(super) async fn a_held_read_that_is_dropped_is_forgotten(harness: &mut Harness<'_>) -> Result<()> {
    harness.fixture.write(1..11, 0)?;
    let mut source = harness.open()?;
    for _ in 0..2 {
        source.prepare().await.context("prepare failed")?;
        let hold = Arc::new(Hold::default());
        let mut output = Recorder::held(Arc::clone(&hold));
        tokio::select! {
            ended = source.read(None, &mut output) => bail!("the read did not wait for its release: {ended:?}"),
            ready = ready(&hold, harness.patience) => { ready?; }
        }
        ensure!(output.rows.is_empty(), "rows came before the release");
    }
    let reading = harness.read_all(source.as_mut(), None, 10).await?;
    harness.expect_items(&reading.output.rows, 1..11)
}

async fn ready(hold: &Hold, patience: Duration) -> Result<bool> {
    let start = Instant::now();
    loop {
        let ready = *hold.ready.lock().unwrap_or_else(PoisonError::into_inner);
        match ready {
            Some(has_held) => return Ok(has_held),
            None => ensure!(start.elapsed() < patience, "the read is not ready for its release"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
