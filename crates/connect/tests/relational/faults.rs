//! Servers that die, hang, cut off or speak something else; reads that are given up.

use std::time::Duration;

use portolan_model::{Error, ErrorKind, Retry};
use portolan_testkit::proxy::Mode;

use super::Dialect;
use crate::engine::{Engine, Server};
use crate::harness::faults::{check_death, check_modes, check_other_protocols, until};
use crate::harness::{Recorder, failure, fresh, open, read, server};

const MANY: usize = 400_000;

/// More rows than are on the way at once.
fn many() -> String {
    format!("query = \"select seq as id, repeat('x', 200) as v from {}\"", Engine::series(1, MANY as i64))
}

/// A query that stays silent.
fn sleeping(marker: &str) -> String {
    format!("query = \"select '{marker}' as m, {}(60) as s from {}\"", Engine::SLEEP, Engine::series(1, 10))
}

/// The sessions whose statements hold `marker`.
fn sessions(marker: &str) -> Vec<String> {
    server().sql(&Engine::running(marker)).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_in_the_middle_is_disconnected_and_read_again_after_its_restart() {
    check_death(Server::start().unwrap(), &many(), MANY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_connection_is_opened_anew() {
    let marker = fresh("marker");
    let series = Engine::series(1, 300_000);
    let query = format!("select seq, '{marker}' as m, repeat('x', 300) as v from {series}");
    let mut source = open(&format!("query = \"{query}\""));
    source.prepare().await.unwrap();
    let kill = marker.clone();
    let mut recorder = Recorder::with_interference(move |count| {
        if count == 1 {
            for session in sessions(&kill) {
                server().sql(&Engine::ending(&session)).unwrap();
            }
        }
        None
    });
    let error = source.read(None, &mut recorder).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Disconnected, Retry::Transient), "{error:?}");
    assert_eq!(read(&mut source, None).await.unwrap().0.rows(), 300_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_is_dropped_leaves_no_query_behind() {
    let marker = fresh("marker");
    let mut source = open(&sleeping(&marker));
    source.prepare().await.unwrap();
    let mut recorder = Recorder::default();
    let given_up = tokio::time::timeout(Duration::from_millis(300), source.read(None, &mut recorder)).await;
    assert!(given_up.is_err());
    until("the dropped query ends", || sessions(&marker).is_empty()).await;

    // The same where the receiver fails in the middle, and the source is of use again.
    let mut source = open(&many());
    source.prepare().await.unwrap();
    let full = |count| (count == 2).then(|| Error::new(ErrorKind::StorageFull, "store", "no space"));
    let mut recorder = Recorder::with_interference(full);
    let error = source.read(None, &mut recorder).await.unwrap_err();
    assert_eq!((error.kind(), error.address()), (ErrorKind::StorageFull, None));
    assert_eq!(read(&mut source, None).await.unwrap().0.rows(), MANY);
}

#[test]
fn a_program_that_stops_after_close_leaves_no_query_behind() {
    let marker = fresh("marker");
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    first.block_on(async {
        let mut source = open(&sleeping(&marker));
        source.prepare().await.unwrap();
        let mut recorder = Recorder::default();
        let given_up = tokio::time::timeout(Duration::from_millis(500), source.read(None, &mut recorder)).await;
        assert!(given_up.is_err() && !sessions(&marker).is_empty());
        source.close().await;
    });
    drop(first);
    runtime().block_on(until("the query that was given up ends", || sessions(&marker).is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_times_out_and_its_query_is_ended() {
    let marker = fresh("marker");
    let mut source = open(&format!("idle_timeout = \"300ms\"\n{}", sleeping(&marker)));
    let error = failure(&mut source).await;
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    until("the query that timed out ends", || sessions(&marker).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_misbehaves_is_told_apart() {
    let modes = [
        (Mode::Refuse, ErrorKind::Unreachable),
        (Mode::Hang, ErrorKind::Timeout),
        (Mode::Garbage, ErrorKind::Protocol),
        (Mode::CloseAfter(10), ErrorKind::Disconnected),
        (Mode::CloseAfter(30_000), ErrorKind::Disconnected),
        (Mode::ResetAfter(30_000), ErrorKind::Disconnected),
    ];
    check_modes(server().port(), &many(), MANY, &modes).await;
}

#[tokio::test]
async fn another_protocol_is_named() {
    check_other_protocols(&many()).await;
}
