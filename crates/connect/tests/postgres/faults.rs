//! Servers that die, hang, cut off or speak something else; reads that are given up.

use std::time::Duration;

use portolan_model::{Error, ErrorKind, Retry};
use portolan_testkit::proxy::{FaultProxy, Mode};
use portolan_testkit::servers::Postgres;
use tokio::io::AsyncWriteExt;

use crate::support::{Recorder, failure, fresh, open, open_at, read, server};

const MANY: &str = "query = \"select seq as id, repeat('x', 200) as v from generate_series(1, 400000) as seq\"";

fn connection_ids(marker: &str) -> Vec<String> {
    let sql = format!(
        "SELECT pid FROM pg_stat_activity WHERE usename = 'collector' AND state = 'active' AND query LIKE '%{marker}%'"
    );
    server().sql(&sql).unwrap().lines().map(str::to_owned).collect()
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never happened: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_in_the_middle_is_disconnected_and_read_again_after_its_restart() {
    let own = std::sync::Arc::new(std::sync::Mutex::new(Postgres::start().unwrap()));
    let port = own.lock().unwrap().port();
    let mut source = open_at(port, MANY);
    source.prepare().await.unwrap();
    let victim = own.clone();
    let mut recorder = Recorder {
        interference: Some(Box::new(move |count| {
            if count == 1 {
                victim.lock().unwrap().kill().unwrap();
            }
            None
        })),
        ..Recorder::default()
    };
    let error = source.read(None, &mut recorder).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Disconnected, Retry::Transient), "{error:?}");
    let error = failure(&mut source).await;
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    own.lock().unwrap().start_again().unwrap();
    let (recorder, _) = read(&mut source, None).await.unwrap();
    assert_eq!(recorder.rows(), 400_000);
    // Between two rounds nobody notices a restart.
    own.lock().unwrap().restart().unwrap();
    assert_eq!(read(&mut source, None).await.unwrap().0.rows(), 400_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_connection_is_opened_anew() {
    let marker = fresh("marker");
    let mut source = open(&format!(
        "query = \"select seq, '{marker}' as m, repeat('x', 300) as v from generate_series(1, 300000) as seq\""
    ));
    source.prepare().await.unwrap();
    let kill = marker.clone();
    let mut recorder = Recorder {
        interference: Some(Box::new(move |count| {
            if count == 1 {
                for id in connection_ids(&kill) {
                    server().sql(&format!("SELECT pg_terminate_backend({id})")).unwrap();
                }
            }
            None
        })),
        ..Recorder::default()
    };
    let error = source.read(None, &mut recorder).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Disconnected, Retry::Transient), "{error:?}");
    assert_eq!(read(&mut source, None).await.unwrap().0.rows(), 300_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_is_dropped_leaves_no_query_behind() {
    let marker = fresh("marker");
    let mut source =
        open(&format!("query = \"select '{marker}' as m, pg_sleep(60) as s from generate_series(1, 10)\""));
    source.prepare().await.unwrap();
    let mut recorder = Recorder::default();
    let given_up = tokio::time::timeout(Duration::from_millis(300), source.read(None, &mut recorder)).await;
    assert!(given_up.is_err());
    until("the dropped query ends", || connection_ids(&marker).is_empty()).await;

    // The same where the receiver fails in the middle, and the source is of use again.
    let mut source = open(MANY);
    source.prepare().await.unwrap();
    let full = |count| (count == 2).then(|| Error::new(ErrorKind::StorageFull, "store", "no space"));
    let mut recorder = Recorder { interference: Some(Box::new(full)), ..Recorder::default() };
    let error = source.read(None, &mut recorder).await.unwrap_err();
    assert_eq!((error.kind(), error.address()), (ErrorKind::StorageFull, None));
    assert_eq!(read(&mut source, None).await.unwrap().0.rows(), 400_000);
}

#[test]
fn a_program_that_stops_after_close_leaves_no_query_behind() {
    let marker = fresh("marker");
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    first.block_on(async {
        let mut source =
            open(&format!("query = \"select '{marker}' as m, pg_sleep(60) as s from generate_series(1, 10)\""));
        source.prepare().await.unwrap();
        let mut recorder = Recorder::default();
        let given_up = tokio::time::timeout(Duration::from_millis(500), source.read(None, &mut recorder)).await;
        assert!(given_up.is_err() && !connection_ids(&marker).is_empty());
        source.close().await;
    });
    drop(first);
    runtime().block_on(until("the query that was given up ends", || connection_ids(&marker).is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_times_out_and_its_query_is_ended() {
    let marker = fresh("marker");
    let mut source = open(&format!(
        "idle_timeout = \"300ms\"\nquery = \"select '{marker}' as m, pg_sleep(60) as s from generate_series(1, 10)\""
    ));
    let error = failure(&mut source).await;
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    until("the query that timed out ends", || connection_ids(&marker).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_misbehaves_is_told_apart() {
    let proxy = FaultProxy::start(server().port()).unwrap();
    let mut source = open_at(proxy.port(), &format!("connect_timeout = \"500ms\"\nidle_timeout = \"500ms\"\n{MANY}"));
    for (mode, kind) in [
        (Mode::Refuse, ErrorKind::Unreachable),
        (Mode::Hang, ErrorKind::Timeout),
        (Mode::Garbage, ErrorKind::Protocol),
        (Mode::CloseAfter(10), ErrorKind::Disconnected),
        (Mode::CloseAfter(30_000), ErrorKind::Disconnected),
        (Mode::ResetAfter(30_000), ErrorKind::Disconnected),
    ] {
        proxy.set(mode);
        let error = failure(&mut source).await;
        assert_eq!(error.kind(), kind, "{mode:?}: {error:?}");
        assert!(error.address().is_some_and(|address| address.ends_with(&proxy.port().to_string())));
        proxy.set(Mode::Pass);
        until("the port listens again", || std::net::TcpStream::connect(("127.0.0.1", proxy.port())).is_ok()).await;
        assert_eq!(read(&mut source, None).await.unwrap().0.rows(), 400_000, "after {mode:?}");
    }
}

#[tokio::test]
async fn another_protocol_is_named() {
    for (said, part) in [("SSH-2.0-OpenSSH_9.2\r\n", "SSH"), ("HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP")] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            socket.write_all(said.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_secs(5)).await;
        });
        let error = failure(&mut open_at(port, MANY)).await;
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
        assert!(error.message().contains(part), "{error:?}");
    }
}
