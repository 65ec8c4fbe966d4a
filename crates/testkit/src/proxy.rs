//! A TCP proxy that fails on demand: what a port looks like when it is dead, hangs, is slow, sends garbage, closes in
//! the middle. The behaviour is switched while connections are open and applies to them too.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Bytes moved at once.
const BUFFER_BYTES: usize = 32 << 10;
/// Pieces a second in which slow bytes are sent.
const PIECES_PER_SECOND: u32 = 50;
/// How often a port is tried to be bound again: connections of before may still hold it for a moment.
const BIND_ATTEMPTS: u32 = 500;

/// How the port behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As the server behind it does.
    Pass,
    /// Nobody listens: connections are refused, open ones are reset.
    Refuse,
    /// Connections are accepted and nothing moves, in either direction, until the mode changes.
    Hang,
    /// The server's bytes come at this many a second.
    Slow(u32),
    /// Noise comes in place of the server's answer, and then the end.
    Garbage,
    /// Each connection ends after this many bytes from the server, counted from the switch.
    CloseAfter(u64),
    /// Each connection is reset after this many bytes from the server, counted from the switch.
    ResetAfter(u64),
    /// Each connection is cut after this many bytes from the client, counted from the switch: the server gets these.
    CutAfterSent(u64),
    /// The server's bytes come this much later.
    Latency(Duration),
}

/// A proxy in front of a loopback port. Dropped, it closes its port and connections.
#[derive(Debug)]
pub struct FaultProxy {
    port: u16,
    mode: watch::Sender<(u64, Mode)>,
    counters: Arc<Counters>,
    runtime: Option<Runtime>,
}

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    bytes_from_server: AtomicU64,
    bytes_from_client: AtomicU64,
}

/// What has passed since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Connections accepted.
    pub connections: u64,
    /// Bytes passed on to clients.
    pub bytes_from_server: u64,
    /// Bytes passed on to the server.
    pub bytes_from_client: u64,
}

impl FaultProxy {
    /// Opens a free port in front of `server_port`, passing everything.
    pub fn start(server_port: u16) -> Result<Self> {
        Self::start_before(SocketAddr::from(([127, 0, 0, 1], server_port)), 0..0)
    }

    /// Opens a free port of 127.0.0.1 in front of `server`, and the ports `same` in front of the same ports there: for
    /// servers that name further ports, such as those of FTP's data. `server` then has another loopback address, such as
    /// 127.0.0.2, so that these ports are free at 127.0.0.1.
    pub fn start_before(server: SocketAddr, same: Range<u16>) -> Result<Self> {
        // Bound without waiting for a runtime, because a test may run inside one of its own.
        let main = bind(0)?;
        let port = main.local_addr()?.port();
        let mut listeners = vec![(main, server)];
        for port in same {
            listeners.push((bind(port)?, SocketAddr::new(server.ip(), port)));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (mode, watched) = watch::channel((0, Mode::Pass));
        let counters = Arc::new(Counters::default());
        for (listener, server) in listeners {
            let listener = {
                let _inside = runtime.enter();
                TcpListener::from_std(listener)?
            };
            runtime.spawn(accept(listener, server, watched.clone(), counters.clone()));
        }
        Ok(Self { port, mode, counters, runtime: Some(runtime) })
    }

    /// The port to connect to, at 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Behaves so from now on, on open connections too.
    pub fn set(&self, mode: Mode) {
        let (_, before) = *self.mode.borrow();
        self.mode.send_modify(|(version, current)| {
            *version += 1;
            *current = mode;
        });
        if (mode == Mode::Refuse) != (before == Mode::Refuse) {
            self.await_listening(mode != Mode::Refuse);
        }
    }

    /// Returns once the port listens, or nobody does any more, so that a test that connects next meets the mode.
    fn await_listening(&self, is_wanted: bool) {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        for _ in 0..BIND_ATTEMPTS {
            if std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok() == is_wanted {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Resets every open connection once; new ones behave as the mode says.
    pub fn cut(&self) {
        let (_, before) = *self.mode.borrow();
        self.mode.send_modify(|(version, mode)| {
            *version += 1;
            *mode = Mode::ResetAfter(0);
        });
        std::thread::sleep(Duration::from_millis(50));
        self.set(before);
    }

    /// What has passed.
    pub fn counts(&self) -> Counts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            connections: load(&self.counters.connections),
            bytes_from_server: load(&self.counters.bytes_from_server),
            bytes_from_client: load(&self.counters.bytes_from_client),
        }
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A test may drop it inside a runtime of its own, where waiting is not allowed.
            runtime.shutdown_background();
        }
    }
}

type Watched = watch::Receiver<(u64, Mode)>;

async fn accept(listener: TcpListener, server: SocketAddr, mut watched: Watched, counters: Arc<Counters>) {
    let Ok(address) = listener.local_addr() else { return };
    let mut listener = Some(listener);
    // While refusing, a socket that is bound and does not listen keeps others from taking the port.
    let mut holder: Option<Socket> = None;
    loop {
        let refuse = watched.borrow_and_update().1 == Mode::Refuse;
        if refuse && listener.is_some() {
            listener = None;
            holder = hold(address).ok();
        }
        if !refuse && listener.is_none() {
            holder = None;
            listener = listen(address).await.ok();
        }
        let _ = &holder;
        let Some(open) = &listener else {
            if watched.changed().await.is_err() {
                return;
            }
            continue;
        };
        tokio::select! {
            accepted = open.accept() => {
                let Ok((client, _)) = accepted else { continue };
                counters.connections.fetch_add(1, Ordering::Relaxed);
                let connection = Connection { server, watched: watched.clone(), counters: counters.clone() };
                tokio::spawn(connection.run(client));
            }
            changed = watched.changed() => if changed.is_err() { return },
        }
    }
}

/// Binds a port of 127.0.0.1; any free one for 0. A proxy of before may hold a certain one for a moment.
fn bind(port: u16) -> Result<std::net::TcpListener> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut attempt = 1;
    let listener = loop {
        match std::net::TcpListener::bind(address) {
            Ok(listener) => break listener,
            Err(error) if attempt >= BIND_ATTEMPTS => {
                return Err(error).with_context(|| format!("listen at {address}"));
            }
            Err(_) => attempt += 1,
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn hold(address: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    let mut attempt = 1;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(error) if attempt >= BIND_ATTEMPTS => return Err(error).context("listen again"),
            Err(_) => attempt += 1,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// How a connection ends.
enum End {
    Politely,
    Reset,
}

struct Connection {
    server: SocketAddr,
    watched: Watched,
    counters: Arc<Counters>,
}

impl Connection {
    async fn run(mut self, client: TcpStream) {
        let _ = client.set_nodelay(true);
        let end = self.pass(&client).await.unwrap_or(End::Reset);
        if let End::Reset = end {
            // Closing with unsent data thrown away makes the kernel send RST.
            let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
        }
    }

    async fn pass(&mut self, client: &TcpStream) -> Result<End> {
        // A hanging port accepts and goes no further.
        self.watched.wait_for(|(_, mode)| *mode != Mode::Hang).await?;
        let mut server = TcpStream::connect(self.server).await?;
        server.set_nodelay(true)?;
        let (mut from_server, mut to_server) = server.split();
        let upward = self.upward(client, &mut to_server);
        let downward = self.downward(&mut from_server, client);
        tokio::pin!(upward, downward);
        tokio::select! {
            end = &mut downward => end,
            end = &mut upward => match end? {
                // The client has said all it has to say, and may still be listening.
                End::Politely => downward.await,
                End::Reset => Ok(End::Reset),
            },
        }
    }

    async fn upward(&self, client: &TcpStream, server: &mut tokio::net::tcp::WriteHalf<'_>) -> Result<End> {
        let mut watched = self.watched.clone();
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut counted_version = None;
        let mut passed = 0u64;
        loop {
            let (version, mode) = *watched.wait_for(|(_, mode)| *mode != Mode::Hang).await?;
            if counted_version != Some(version) {
                counted_version = Some(version);
                passed = 0;
            }
            let limit = match mode {
                Mode::Refuse => return Ok(End::Reset),
                Mode::CutAfterSent(most) if passed >= most => {
                    server.shutdown().await?;
                    return Ok(End::Reset);
                }
                Mode::CutAfterSent(most) => buffer.len().min((most - passed) as usize),
                _ => buffer.len(),
            };
            tokio::select! {
                ready = client.readable() => ready?,
                changed = watched.changed() => { changed?; continue }
            }
            let count = match client.try_read(&mut buffer[..limit]) {
                Ok(0) => {
                    server.shutdown().await?;
                    return Ok(End::Politely);
                }
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            };
            self.counters.bytes_from_client.fetch_add(count as u64, Ordering::Relaxed);
            server.write_all(&buffer[..count]).await?;
            passed += count as u64;
        }
    }

    async fn downward(&self, server: &mut tokio::net::tcp::ReadHalf<'_>, client: &TcpStream) -> Result<End> {
        let mut watched = self.watched.clone();
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut counted_version = None;
        let mut passed = 0u64;
        loop {
            let (version, mode) = *watched.wait_for(|(_, mode)| *mode != Mode::Hang).await?;
            if counted_version != Some(version) {
                counted_version = Some(version);
                passed = 0;
            }
            let mut limit = buffer.len();
            match mode {
                Mode::Refuse | Mode::ResetAfter(0) => return Ok(End::Reset),
                Mode::CloseAfter(0) => return Ok(End::Politely),
                Mode::ResetAfter(most) | Mode::CloseAfter(most) => limit = limit.min((most - passed) as usize),
                Mode::Slow(bytes_per_second) => limit = (bytes_per_second / PIECES_PER_SECOND).max(1) as usize,
                _ => {}
            }
            let count = tokio::select! {
                count = server.read(&mut buffer[..limit]) => count?,
                changed = watched.changed() => { changed?; continue }
            };
            if count == 0 {
                return Ok(End::Politely);
            }
            match mode {
                Mode::Garbage => {
                    let noise: Vec<u8> = (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
                    self.write(client, &noise).await?;
                    return Ok(End::Politely);
                }
                Mode::Slow(bytes_per_second) => {
                    let seconds = count as f64 / f64::from(bytes_per_second.max(1));
                    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
                }
                Mode::Latency(delay) => tokio::time::sleep(delay).await,
                _ => {}
            }
            // The mode may have changed while these bytes were on their way: a hanging port lets none through.
            watched.wait_for(|(_, mode)| *mode != Mode::Hang).await?;
            self.write(client, &buffer[..count]).await?;
            passed += count as u64;
            match mode {
                Mode::ResetAfter(most) if passed >= most => return Ok(End::Reset),
                Mode::CloseAfter(most) if passed >= most => return Ok(End::Politely),
                _ => {}
            }
        }
    }

    async fn write(&self, client: &TcpStream, mut bytes: &[u8]) -> Result<()> {
        // Before they go out: whoever has received them finds them counted.
        self.counters.bytes_from_server.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        while !bytes.is_empty() {
            client.writable().await?;
            match client.try_write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
