//! Checks of the contract's smaller print: opening, claims, acknowledging, probing, closing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Harness;
use crate::proxy::Mode;

pub(super) async fn open_touches_no_network(harness: &mut Harness<'_>) -> Result<()> {
    let problems = {
        let spec = harness.fixture.spec(harness.proxy.port(), harness.shape());
        harness.fixture.connector().check(&spec)
    };
    ensure!(problems.is_empty(), "the fixture's own configuration is refused: {problems:?}");
    drop(harness.open()?);
    harness.proxy.set(Mode::Hang);
    drop(harness.open()?);
    // The proxy takes connections up on a thread of its own.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let connections = harness.proxy.counts().connections;
    ensure!(connections == 0, "open made {connections} connections");
    Ok(())
}

pub(super) async fn capabilities_do_not_exceed_the_connectors(harness: &mut Harness<'_>) -> Result<()> {
    let connector = harness.fixture.connector().capabilities();
    let source = harness.open()?.capabilities();
    let chosen = harness.capabilities();
    let kinds = |c: portolan_model::source::Capabilities| (c.resume, c.acknowledge, c.reread);
    ensure!(kinds(source) == kinds(chosen), "the checks were chosen for {chosen:?}, the source can {source:?}");
    let claims = [
        ("resume", source.resume, connector.resume),
        ("acknowledge", source.acknowledge, connector.acknowledge),
        ("reread", source.reread, connector.reread),
        ("payload", source.payload, connector.payload),
        ("push", source.push, connector.push),
        ("listens", source.listens, connector.listens),
        ("tls", source.tls, connector.tls),
    ];
    for (name, source, connector) in claims {
        ensure!(!source || connector, "the source claims `{name}`, its connector does not");
    }
    Ok(())
}

pub(super) async fn acknowledge_can_be_repeated(harness: &mut Harness<'_>) -> Result<()> {
    harness.fixture.write(1..11, 0)?;
    let mut source = harness.open()?;
    let first = harness.read_all(source.as_mut(), None, 10).await?;
    let Some(position) = first.position else { return Ok(()) };
    for attempt in ["first", "second"] {
        let acknowledged = tokio::time::timeout(harness.patience, source.acknowledge(&position)).await?;
        acknowledged.with_context(|| format!("the {attempt} acknowledgement failed"))?;
    }
    if !harness.capabilities().resume {
        return Ok(());
    }
    harness.fixture.write(11..21, 0)?;
    let second = harness.read_all(source.as_mut(), Some(&position), 10).await?;
    harness.expect_items(&second.output.rows, 11..21)?;
    // The acknowledgement of before may be repeated after a crash, when the source has long read on.
    source.acknowledge(&position).await.context("an old acknowledgement failed")?;
    let third = harness.read_all(source.as_mut(), second.position.as_ref(), 0).await?;
    harness.expect_items(&third.output.rows, [])
}

pub(super) async fn probe_says_something(harness: &mut Harness<'_>) -> Result<()> {
    harness.fixture.write(1..4, 0)?;
    let mut source = harness.open()?;
    let probe = tokio::time::timeout(harness.patience, source.probe()).await?.context("the probe failed")?;
    ensure!(probe.server.is_some() || !probe.facts.is_empty(), "the probe says nothing: {probe:?}");
    let reading = harness.read_all(source.as_mut(), None, 3).await.context("after a probe")?;
    harness.expect_items(&reading.output.rows, 1..4)?;
    source.close().await;
    if harness.capabilities().listens {
        // Its port is its own.
        return Ok(());
    }
    harness.proxy.set(Mode::Refuse);
    let probed = tokio::time::timeout(harness.patience, source.probe()).await?;
    let error = probed.err().context("the probe of a dead port succeeded")?;
    harness.expect_complete(&error)
}

pub(super) async fn a_closed_source_prepares_again(harness: &mut Harness<'_>) -> Result<()> {
    harness.fixture.write(1..4, 0)?;
    let mut source = harness.open()?;
    harness.read_all(source.as_mut(), None, 3).await?;
    source.close().await;
    source.close().await;
    let reading = harness.read_all(source.as_mut(), None, 3).await.context("after close")?;
    harness.expect_items(&reading.output.rows, 1..4)
}
