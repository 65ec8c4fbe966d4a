//! Checks of what comes: every row, once, in its type, from where the position says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use portolan_model::position::Position;
use portolan_model::source::{Phase, Source};
use tokio::sync::Semaphore;

use super::harness::Outcome;
use super::{Harness, Recorder, STORED_BYTES_MAX, Shape};

/// Items of a burst.
const BURST_ITEMS: i64 = 100_000;
/// Items that a slow consumer is offered, and the bytes of each: far more than sockets buffer.
const FLOOD_ITEMS: i64 = 32_768;
const FLOOD_PADDING: usize = 1_600;
/// The same for a source that stores what it is sent.
const PUSHED_ITEMS: i64 = 40_000;
const PUSHED_PADDING: usize = 8_000;
/// Bytes that such a source may hold in memory while it can store no more.
const PUSHED_MEMORY_MAX: u64 = 32 << 20;
/// Bytes that may be under way while the consumer stands still: a receive window grows to 32 MiB on Linux, a send
/// buffer to 4 MiB.
const FLOOD_BYTES_MAX: u64 = 38 << 20;

pub(super) async fn rows_come_once_with_their_types(harness: &mut Harness<'_>) -> Result<()> {
    harness.fixture.write(1..51, 0)?;
    let mut source = harness.open()?;
    let reading = harness.read_all(source.as_mut(), None, 50).await?;
    harness.expect_items(&reading.output.rows, 1..51)?;
    for (column, expected) in harness.fixture.columns() {
        let found = reading.output.column_type(column);
        ensure!(found.as_ref() == Some(&expected), "column `{column}` is {found:?}, not {expected:?}");
    }
    let quarantined = &reading.output.quarantined;
    ensure!(quarantined.is_empty(), "good items went to quarantine: {quarantined:?}");
    Ok(())
}

pub(super) async fn an_empty_collection_is_read(harness: &mut Harness<'_>) -> Result<()> {
    let mut source = harness.open()?;
    let reading = harness.read_all(source.as_mut(), None, 0).await?;
    harness.expect_items(&reading.output.rows, [])?;
    harness.fixture.write(1..4, 0)?;
    let reading = harness.read_all(source.as_mut(), reading.position.as_ref(), 3).await?;
    harness.expect_items(&reading.output.rows, 1..4)
}

pub(super) async fn read_prepares_by_itself(harness: &mut Harness<'_>) -> Result<()> {
    harness.fixture.write(1..4, 0)?;
    let mut source = harness.open()?;
    let mut output = Recorder::default();
    let end = tokio::time::timeout(harness.patience, source.read(None, &mut output))
        .await?
        .context("read without prepare failed")?;
    let mut rows = output.rows;
    if harness.capabilities().push && rows.len() < 3 {
        // The others are on their way.
        let rest = harness.read_all(source.as_mut(), end.position.as_ref(), 3 - rows.len()).await?;
        rows.extend(rest.output.rows);
    }
    harness.expect_items(&rows, 1..4)
}

pub(super) async fn resume_yields_exactly_the_new_rows(harness: &mut Harness<'_>) -> Result<()> {
    harness.fixture.write(1..51, 0)?;
    let mut source = harness.open()?;
    let first = harness.read_all(source.as_mut(), None, 50).await?;
    harness.expect_items(&first.output.rows, 1..51)?;
    let position = first.position.context("the source can resume and gave no position")?;
    harness.fixture.write(51..81, 0)?;
    let second = harness.read_all(source.as_mut(), Some(&position), 30).await?;
    harness.expect_items(&second.output.rows, 51..81)?;
    let position = second.position.context("the second read gave no position")?;
    let third = harness.read_all(source.as_mut(), Some(&position), 0).await?;
    harness.expect_items(&third.output.rows, [])?;
    harness.fixture.write(81..82, 0)?;
    let fourth = harness.read_all(source.as_mut(), third.position.as_ref().or(Some(&position)), 1).await?;
    harness.expect_items(&fourth.output.rows, 81..82)
}

/// The position is all that a source knows of the past: a read that was not committed is read again, and another
/// process continues where this one stood.
pub(super) async fn resume_depends_on_the_position_alone(harness: &mut Harness<'_>) -> Result<()> {
    harness.fixture.write(1..11, 0)?;
    let mut source = harness.open()?;
    let position = harness.read_all(source.as_mut(), None, 10).await?.position.context("no position")?;
    let position = Position::from_text(&position.to_text()).map_err(anyhow::Error::msg)?;
    harness.fixture.write(11..21, 0)?;
    for attempt in ["first", "second"] {
        let reading = harness.read_all(source.as_mut(), Some(&position), 10).await?;
        harness.expect_items(&reading.output.rows, 11..21).context(format!("{attempt} read from one position"))?;
    }
    let whole = harness.read_all(source.as_mut(), None, 20).await?;
    harness.expect_items(&whole.output.rows, 1..21).context("read from the start, later")?;
    // Two at once may want the same port.
    source.close().await;
    let mut another = harness.open()?;
    let reading = harness.read_all(another.as_mut(), Some(&position), 10).await?;
    harness.expect_items(&reading.output.rows, 11..21).context("read by another process")
}

pub(super) async fn a_growing_collection_is_read_once(harness: &mut Harness<'_>) -> Result<()> {
    let mut source = harness.open()?;
    let mut position = None;
    let mut rows = Vec::new();
    for step in 0..20 {
        let first = 1 + step * 7;
        harness.fixture.write(first..first + 7, 0)?;
        let reading = harness.read_all(source.as_mut(), position.as_ref(), 7).await?;
        rows.extend(reading.output.rows);
        position = reading.position.or(position);
        commit(harness, source.as_mut(), position.as_ref()).await?;
    }
    harness.expect_items(&rows, 1..141)
}

/// Tells the server what is committed, where it wants to know.
async fn commit(harness: &Harness<'_>, source: &mut dyn Source, position: Option<&Position>) -> Result<()> {
    if let Some(position) = position.filter(|_| harness.capabilities().acknowledge) {
        source.acknowledge(position).await.context("the acknowledgement failed")?;
    }
    Ok(())
}

/// Where the server keeps what was read, it comes again until it is acknowledged, to another process too, and never
/// after.
pub(super) async fn what_is_acknowledged_does_not_come_again(harness: &mut Harness<'_>) -> Result<()> {
    harness.fixture.write(1..11, 0)?;
    let mut source = harness.open()?;
    harness.read_all(source.as_mut(), None, 10).await?;
    // The process ends before its rows are committed.
    let mut source = harness.open()?;
    let first = harness.read_all(source.as_mut(), None, 10).await?;
    harness.expect_items(&first.output.rows, 1..11).context("read again without an acknowledgement")?;
    let position = first.position.context("the source acknowledges and gave no position")?;
    source.acknowledge(&position).await.context("the acknowledgement failed")?;
    let second = harness.read_all(source.as_mut(), Some(&position), 0).await?;
    harness.expect_items(&second.output.rows, []).context("read after the acknowledgement")?;
    harness.fixture.write(11..21, 0)?;
    let third = harness.read_all(source.as_mut(), Some(&position), 10).await?;
    harness.expect_items(&third.output.rows, 11..21)?;
    // Of an earlier read: what has been read since is not meant.
    source.acknowledge(&position).await.context("an old acknowledgement failed")?;
    let mut another = harness.open()?;
    let fourth = harness.read_all(another.as_mut(), Some(&position), 10).await?;
    harness.expect_items(&fourth.output.rows, 11..21).context("read by another process, with an old acknowledgement")
}

/// Asked to end, a read ends at the next place from which it can continue, and has moved on; nothing is lost or comes
/// twice for it.
pub(super) async fn a_read_ends_where_it_is_asked_to(harness: &mut Harness<'_>) -> Result<()> {
    harness.fixture.write(1..BURST_ITEMS + 1, 0)?;
    let mut source = harness.open()?;
    if harness.capabilities().push {
        // All of it has arrived, and nothing of it is committed.
        harness.read_all(source.as_mut(), None, BURST_ITEMS as usize).await?;
    }
    let mut position: Option<Position> = None;
    let mut rows = Vec::new();
    // Asked at once, then late enough for some parts to be of several pages or batches.
    for enough_rows in [0, 1, BURST_ITEMS as usize / 3, 0] {
        let mut output = Recorder::with_enough(enough_rows);
        let end = match harness.read_once(source.as_mut(), position.as_ref(), &mut output).await? {
            Outcome::Ended(end) => end,
            Outcome::Failed(error) => bail!("the read failed: {error:?}"),
        };
        let came = output.rows.len();
        ensure!(end.more, "asked to end after {enough_rows} rows it went on to the last: {came} came");
        ensure!(came > 0 && came >= enough_rows, "it ended after {came} rows, asked to after {enough_rows}");
        ensure!(end.position.is_some() && end.position != position, "it ended where it had begun");
        position = end.position;
        commit(harness, source.as_mut(), position.as_ref()).await?;
        rows.append(&mut output.rows);
    }
    let rest = BURST_ITEMS as usize - rows.len();
    rows.append(&mut harness.read_all(source.as_mut(), position.as_ref(), rest).await?.output.rows);
    harness.expect_items(&rows, 1..BURST_ITEMS + 1)
}

pub(super) async fn a_burst_comes_whole(harness: &mut Harness<'_>) -> Result<()> {
    harness.fixture.write(1..BURST_ITEMS + 1, 0)?;
    let mut source = harness.open()?;
    let reading = harness.read_all(source.as_mut(), None, BURST_ITEMS as usize).await?;
    harness.expect_items(&reading.output.rows, 1..BURST_ITEMS + 1)
}

pub(super) async fn phases_come_in_order(harness: &mut Harness<'_>) -> Result<()> {
    harness.fixture.write(1..11, 0)?;
    let mut source = harness.open()?;
    for round in 1..=2 {
        let mut output = Recorder::default();
        if let Outcome::Failed(error) = harness.read_once(source.as_mut(), None, &mut output).await? {
            bail!("the read failed: {error:?}");
        }
        let mut seen = Vec::new();
        for phase in &output.phases {
            if !seen.contains(phase) {
                seen.push(*phase);
            }
        }
        let expected = [Phase::Released, Phase::FirstByte, Phase::LastByte];
        ensure!(seen == expected, "read {round} marked {:?}, not {expected:?}", output.phases);
    }
    Ok(())
}

pub(super) async fn bytes_are_counted(harness: &mut Harness<'_>) -> Result<()> {
    harness.fixture.write(1..101, 100)?;
    let mut source = harness.open()?;
    let output = harness.read_all(source.as_mut(), None, 100).await?.output;
    let (shown, counted) = (output.payload_bytes, output.counted_bytes);
    if harness.capabilities().payload {
        ensure!(shown >= 10_000, "the connector shows raw bytes, and showed {shown} for 100 items of 100 bytes");
        ensure!(counted == 0, "{counted} bytes were counted besides those shown");
    } else {
        ensure!(shown == 0, "the connector shows no raw bytes, and showed {shown}");
        ensure!(counted >= 10_000, "{counted} bytes were counted for 100 items of 100 bytes");
    }
    Ok(())
}

/// While the output takes nothing, the socket must fill up and the server wait: nothing collects in memory.
pub(super) async fn a_slow_consumer_slows_the_server(harness: &mut Harness<'_>) -> Result<()> {
    harness.fixture.write(1..FLOOD_ITEMS + 1, FLOOD_PADDING)?;
    let mut source = harness.open()?;
    let gate = Arc::new(Semaphore::new(0));
    let mut output = Recorder::gated(gate.clone());
    let before = harness.proxy.counts().bytes_from_server;
    let watch = async {
        let mut last = u64::MAX;
        // Still for a while: nothing more comes by itself.
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let now = harness.proxy.counts().bytes_from_server - before;
            if now > 0 && now == last {
                break;
            }
            last = now;
        }
        gate.add_permits(Semaphore::MAX_PERMITS);
        last
    };
    let read = harness.read_once(source.as_mut(), None, &mut output);
    let (outcome, stalled_at) = tokio::join!(read, tokio::time::timeout(harness.patience, watch));
    let stalled_at = stalled_at.context("the server's bytes never stood still")?;
    let whole = FLOOD_ITEMS as u64 * FLOOD_PADDING as u64;
    ensure!(
        stalled_at < FLOOD_BYTES_MAX,
        "{stalled_at} of about {whole} bytes were taken from the server while the output took no row"
    );
    let mut rows = std::mem::take(&mut output.rows);
    match outcome? {
        Outcome::Failed(error) => bail!("the read failed once the output went on: {error:?}"),
        Outcome::Ended(end) if end.more => {
            let rest = FLOOD_ITEMS as usize - rows.len();
            rows.extend(harness.read_all(source.as_mut(), end.position.as_ref(), rest).await?.output.rows);
        }
        Outcome::Ended(_) => {}
    }
    harness.expect_items(&rows, 1..FLOOD_ITEMS + 1)
}

/// Where nothing is read, a source that is sent to stores up to its limit; then the socket must fill up and the senders
/// wait. Once it is read they go on, and nothing is missing.
pub(super) async fn a_slow_consumer_slows_the_senders(harness: &mut Harness<'_>) -> Result<()> {
    let mut source = harness.open_as(harness.fixture.spec(harness.proxy.port(), Shape::SmallStore))?;
    source.prepare().await.context("prepare failed")?;
    harness.fixture.write(1..PUSHED_ITEMS + 1, PUSHED_PADDING)?;
    let sent = || {
        let counts = harness.proxy.counts();
        if harness.capabilities().listens { counts.bytes_from_client } else { counts.bytes_from_server }
    };
    let still = async {
        let mut last = (0, 0);
        // Still for a while, after something has come.
        while last.0 == 0 || last.1 < 4 {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let now = sent();
            last = if now == last.0 { (now, last.1 + 1) } else { (now, 0) };
        }
        last.0
    };
    let stalled_at = tokio::time::timeout(harness.patience, still).await.context("the senders never stood still")?;
    let whole = PUSHED_ITEMS as u64 * PUSHED_PADDING as u64;
    ensure!(
        stalled_at < STORED_BYTES_MAX + PUSHED_MEMORY_MAX + FLOOD_BYTES_MAX,
        "{stalled_at} of about {whole} bytes were taken from the senders while nothing was read"
    );
    ensure!(source.complaint().is_some(), "the source does not say that its senders wait");
    // Read, and not committed: it comes again, though nothing new can come.
    if let Outcome::Failed(error) = harness.read_once(source.as_mut(), None, &mut Recorder::default()).await? {
        bail!("the read failed while the senders had to wait: {error:?}");
    }
    let (mut position, mut rows, start) = (None, Vec::new(), Instant::now());
    while rows.len() < PUSHED_ITEMS as usize && start.elapsed() < harness.patience {
        let mut output = Recorder::default();
        match harness.read_once(source.as_mut(), position.as_ref(), &mut output).await? {
            Outcome::Failed(error) => bail!("the read failed: {error:?}"),
            Outcome::Ended(end) => position = end.position.or(position),
        }
        commit(harness, source.as_mut(), position.as_ref()).await?;
        rows.append(&mut output.rows);
    }
    if let Some(complaint) = source.complaint() {
        bail!("the source still complains: {complaint:?}");
    }
    harness.expect_items(&rows, 1..PUSHED_ITEMS + 1)
}
