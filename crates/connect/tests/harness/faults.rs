//! Checks of what a source says of servers that die, misbehave or speak something else: the same for every protocol.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use portolan_model::{ErrorKind, Retry};
use portolan_testkit::proxy::{FaultProxy, Mode};
use tokio::io::AsyncWriteExt;

use super::{Recorder, failure, open_at, read};
use crate::engine::Server;

/// How long is waited for what should come soon: less than the 10 s after which a PostgreSQL server sees by itself that a
/// client is gone, which would pass for the end of a statement that nobody has asked for.
const PATIENCE: Duration = Duration::from_secs(8);

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, holds).await.is_ok(), "never happened: {what}");
}

/// Kills `own` in the middle of a read of its `rows` rows, starts it again, and then restarts it between two reads.
pub(crate) async fn check_death(own: Server, options: &str, rows: usize) {
    let own = Arc::new(Mutex::new(own));
    let port = own.lock().unwrap().port();
    let mut source = open_at(port, options);
    source.prepare().await.unwrap();
    let victim = own.clone();
    let mut recorder = Recorder::with_interference(move |count| {
        if count == 1 {
            victim.lock().unwrap().kill().unwrap();
        }
        None
    });
    let error = source.read(None, &mut recorder).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Disconnected, Retry::Transient), "{error:?}");
    assert_eq!(failure(&mut source).await.kind(), ErrorKind::Unreachable);
    own.lock().unwrap().start_again().unwrap();
    assert_eq!(read(&mut source, None).await.unwrap().0.rows(), rows);
    // Between two rounds nobody notices a restart.
    own.lock().unwrap().restart().unwrap();
    assert_eq!(read(&mut source, None).await.unwrap().0.rows(), rows);
}

/// Reads `rows` rows of the server at `port` through a proxy, in each of `modes` first, which has its own kind of
/// error.
pub(crate) async fn check_modes(port: u16, options: &str, rows: usize, modes: &[(Mode, ErrorKind)]) {
    let proxy = FaultProxy::start(port).unwrap();
    let timeouts = "connect_timeout = \"500ms\"\nidle_timeout = \"500ms\"";
    let mut source = open_at(proxy.port(), &format!("{timeouts}\n{options}"));
    for (mode, kind) in modes {
        proxy.set(*mode);
        let error = failure(&mut source).await;
        assert_eq!(error.kind(), *kind, "{mode:?}: {error:?}");
        assert!(error.address().is_some_and(|address| address.ends_with(&proxy.port().to_string())));
        proxy.set(Mode::Pass);
        until("the port listens again", || std::net::TcpStream::connect(("127.0.0.1", proxy.port())).is_ok()).await;
        assert_eq!(read(&mut source, None).await.unwrap().0.rows(), rows, "after {mode:?}");
    }
}

/// A port that speaks another protocol is called by that protocol's name.
pub(crate) async fn check_other_protocols(options: &str) {
    for (said, part) in [("SSH-2.0-OpenSSH_9.2\r\n", "SSH"), ("HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP")] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            socket.write_all(said.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_secs(5)).await;
        });
        let error = failure(&mut open_at(port, options)).await;
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
        assert!(error.message().contains(part), "{error:?}");
    }
}
