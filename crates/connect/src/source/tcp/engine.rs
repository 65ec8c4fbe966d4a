//! What runs between the rounds: the port that waits for senders, or the one connection to a sender, and the log.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portolan_model::clock::Clock;
use portolan_model::error::{Error, ErrorKind, Result};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::connection::{Senders, Shared, serve};
use super::options::Plan;
use crate::intake::Intake;
use crate::transport::tls::Tls;
use crate::transport::{Dialer, ObservedSocket, Stream};

/// Connections that the system may hold before they are accepted.
const BACKLOG: u32 = 1_024;
/// The pause after a connection could not be accepted (no file descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a port that somebody else has is tried again, and the pause before.
const BIND_ATTEMPTS: u32 = 20;
const BIND_PAUSE: Duration = Duration::from_millis(50);
/// A silent peer is asked after this time whether it is still there, so that one that has gone takes no place for ever.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// The longest that connections may take to end.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// Where messages come from.
#[derive(Clone)]
pub(super) enum Endpoint {
    /// This end connects.
    Dial {
        /// Opens connections.
        dialer: Dialer,
        /// For TLS.
        tls: Option<Tls>,
    },
    /// This end waits.
    Listen {
        /// The address of this machine.
        host: String,
        /// The port.
        port: u16,
        /// For TLS.
        tls: Option<TlsAcceptor>,
        /// The most connections at once.
        connections_max: u32,
        /// The most from one address.
        peer_connections_max: u32,
    },
}

impl Endpoint {
    /// Looks whether messages could come, and takes none.
    ///
    /// # Errors
    /// Why they could not.
    pub(super) async fn reach(&self, connect_timeout: Duration) -> Result<()> {
        match self {
            Self::Dial { dialer, tls } => dial(dialer.clone(), tls.as_ref(), connect_timeout).await.map(drop),
            Self::Listen { host, port, .. } => listen(host, *port).await.map(drop),
        }
    }
}

/// Where and how large the log is.
#[derive(Clone, Debug)]
pub(super) struct LogSpec {
    pub(super) folder: PathBuf,
    pub(super) bytes_max: u64,
}

/// What may be asked of a running engine.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Connections open now.
    pub(super) open: AtomicU32,
    /// Connections refused because there were too many.
    pub(super) refused: AtomicU64,
}

/// The log and the tasks that fill it.
pub(super) struct Engine {
    pub(super) intake: Intake,
    pub(super) counters: Arc<Counters>,
    shared: Arc<Shared>,
    /// Tells connections to take what is there and end.
    closing: watch::Sender<bool>,
    /// The one task that serves; it ends with this.
    task: JoinSet<()>,
}

impl Engine {
    /// Opens the log.
    ///
    /// # Errors
    /// `Storage` or `Conflict`, naming the folder.
    pub(super) fn open(log: &LogSpec, plan: &Plan, clock: &Arc<dyn Clock>) -> Result<Self> {
        let intake = Intake::open(&log.folder, log.bytes_max, Arc::clone(clock)).map_err(|error| {
            let kind = match error.kind() {
                std::io::ErrorKind::ResourceBusy => ErrorKind::Conflict,
                std::io::ErrorKind::StorageFull => ErrorKind::StorageFull,
                _ => ErrorKind::Storage,
            };
            Error::new(kind, "open intake log", format!("the intake log in {} cannot be used", log.folder.display()))
                .with_hint("look at the folder: ls -la, df -h")
                .with_cause(error)
        })?;
        let (closing, is_closing) = watch::channel(false);
        let shared = Arc::new(Shared {
            is_closing,
            plan: plan.clone(),
            appender: intake.appender(),
            clock: Arc::clone(clock),
            senders: Senders::new(intake.marks()),
        });
        Ok(Self { intake, counters: Arc::default(), shared, closing, task: JoinSet::new() })
    }

    /// What it says of itself.
    pub(super) fn facts(&self) -> Vec<(String, String)> {
        let open = self.counters.open.load(Ordering::Relaxed);
        let refused = self.counters.refused.load(Ordering::Relaxed);
        let bytes = self.intake.log().bytes();
        let mut facts =
            vec![("connections".to_owned(), open.to_string()), ("intake_bytes".to_owned(), bytes.to_string())];
        if refused > 0 {
            facts.push(("connections refused".to_owned(), refused.to_string()));
        }
        facts
    }

    /// Whether messages can come in.
    fn is_running(&mut self) -> bool {
        while self.task.try_join_next().is_some() {}
        !self.task.is_empty()
    }

    /// Connects, or opens the port, where that is not so already.
    ///
    /// # Errors
    /// Why it cannot be; the log can be read nevertheless.
    pub(super) async fn start(&mut self, endpoint: &Endpoint, connect_timeout: Duration) -> Result<()> {
        if self.is_running() {
            return Ok(());
        }
        let (shared, counters) = (Arc::clone(&self.shared), Arc::clone(&self.counters));
        match endpoint {
            Endpoint::Dial { dialer, tls } => {
                let (stream, peer) = dial(dialer.clone(), tls.as_ref(), connect_timeout).await?;
                self.task.spawn(async move {
                    counters.open.fetch_add(1, Ordering::Relaxed);
                    // However it ends, the next round connects again.
                    let _ = serve(stream, &peer, &shared).await;
                    counters.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
            Endpoint::Listen { host, port, tls, connections_max, peer_connections_max } => {
                let listener = listen(host, *port).await?;
                let limits = Limits { connections: *connections_max, of_peer: *peer_connections_max };
                let door = Door { tls: tls.clone(), limits, connect_timeout, shared, counters, peers: Arc::default() };
                self.task.spawn(door.accept(listener));
            }
        }
        Ok(())
    }

    /// Takes what senders have sent, ends every connection and the log; what had come whole is on disk then.
    pub(super) async fn close(mut self) {
        let _ = self.closing.send(true);
        let _ = tokio::time::timeout(CLOSE_PATIENCE, self.task.join_next()).await;
        self.task.shutdown().await;
        drop(self.shared);
        self.intake.close().await;
    }
}

async fn dial(mut dialer: Dialer, tls: Option<&Tls>, allowed: Duration) -> Result<(Stream, String)> {
    let deadline = tokio::time::Instant::now() + allowed;
    let socket = dialer.connect(deadline, allowed).await?;
    let peer = socket.peer_addr().map(|address| address.to_string()).unwrap_or_default();
    keep_alive(&socket);
    let socket = ObservedSocket::new(socket);
    let Some(tls) = tls else { return Ok((Stream::plain(socket), peer)) };
    match tokio::time::timeout_at(deadline, tls.handshake(socket)).await {
        Ok(stream) => Ok((Stream::tls(stream?), peer)),
        Err(_) => {
            let message = format!("no answer within {} ms in the TLS handshake", allowed.as_millis());
            Err(Error::new(ErrorKind::Timeout, "TLS handshake", message)
                .with_hint("does the port speak TLS? If not: tls = { allow_plaintext = \"reason\" }"))
        }
    }
}

async fn listen(host: &str, port: u16) -> Result<TcpListener> {
    let refused = |error: std::io::Error| {
        let message = format!("the port cannot be opened for senders on {host}:{port}");
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => format!("another program has it: ss -ltnp 'sport = :{port}'"),
            std::io::ErrorKind::PermissionDenied => "ports below 1024 need the right CAP_NET_BIND_SERVICE".to_owned(),
            _ => "is `host` an address of this machine? ip address".to_owned(),
        };
        Error::new(ErrorKind::Unreachable, "listen", message).with_hint(hint).with_cause(error)
    };
    let mut addresses = tokio::net::lookup_host((host, port)).await.map_err(refused)?;
    let address = addresses.next().ok_or_else(|| refused(std::io::Error::other("the name has no address")))?;
    for _ in 0..BIND_ATTEMPTS {
        match bind(address) {
            // Whoever had the port may be about to let go: the source of an earlier configuration, mostly.
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => tokio::time::sleep(BIND_PAUSE).await,
            outcome => return outcome.map_err(refused),
        }
    }
    bind(address).map_err(refused)
}

fn bind(address: std::net::SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn keep_alive(socket: &TcpStream) {
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4);
    // Without it a silent peer that has gone is found later.
    let _ = socket2::SockRef::from(socket).set_tcp_keepalive(&keepalive);
}

#[derive(Clone, Copy)]
struct Limits {
    connections: u32,
    of_peer: u32,
}

/// Accepts connections within the limits.
struct Door {
    tls: Option<TlsAcceptor>,
    limits: Limits,
    connect_timeout: Duration,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    peers: Arc<Mutex<HashMap<IpAddr, u32>>>,
}

impl Door {
    async fn accept(self, listener: TcpListener) {
        // Dropped with this task, which ends every connection.
        let mut connections = JoinSet::new();
        let mut is_closing = self.shared.is_closing.clone();
        loop {
            while connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = is_closing.wait_for(|is_closing| *is_closing) => break,
            };
            let Ok((socket, peer)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let Some(place) = Place::take(&self.counters, &self.peers, peer.ip(), self.limits) else {
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            keep_alive(&socket);
            let (shared, tls, patience) = (Arc::clone(&self.shared), self.tls.clone(), self.connect_timeout);
            connections.spawn(async move {
                let _place = place;
                let peer = peer.to_string();
                // A connection that fails concerns its sender alone; what had come whole is kept.
                let _ = match tls {
                    None => serve(socket, &peer, &shared).await,
                    Some(acceptor) => match tokio::time::timeout(patience, acceptor.accept(socket)).await {
                        Ok(Ok(stream)) => serve(stream, &peer, &shared).await,
                        Ok(Err(error)) => Err(error),
                        Err(elapsed) => Err(elapsed.into()),
                    },
                };
            });
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }
}

/// One connection's place among those allowed; dropped, it is free.
struct Place {
    counters: Arc<Counters>,
    peers: Arc<Mutex<HashMap<IpAddr, u32>>>,
    peer: IpAddr,
}

impl Place {
    fn take(
        counters: &Arc<Counters>,
        peers: &Arc<Mutex<HashMap<IpAddr, u32>>>,
        peer: IpAddr,
        limits: Limits,
    ) -> Option<Self> {
        let mut open = peers.lock().unwrap_or_else(PoisonError::into_inner);
        let of_peer = open.get(&peer).copied().unwrap_or(0);
        if of_peer >= limits.of_peer || counters.open.load(Ordering::Relaxed) >= limits.connections {
            return None;
        }
        open.insert(peer, of_peer + 1);
        counters.open.fetch_add(1, Ordering::Relaxed);
        Some(Self { counters: Arc::clone(counters), peers: Arc::clone(peers), peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.counters.open.fetch_sub(1, Ordering::Relaxed);
        let mut open = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.peer);
            }
        }
    }
}
