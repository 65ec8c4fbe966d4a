//! One control connection, logged in, and the data connections it opens.
//!
//! Promise: data connections lead to the server that the control connection leads to, whatever address it names; with
//! TLS nothing but the request for it leaves unprotected, and every data connection is protected, with the same settings
//! and sessions as the control connection.

use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use portolan_model::source::Secret;
use portolan_model::{Error, ErrorKind, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::error::refusal;
use super::reply::{Features, Reply, extended_passive_port, modify_time, passive_address};
use super::wire::{Wire, broken, silent};
use crate::transport::tls::Tls;
use crate::transport::{Dialer, ObservedSocket, Stream};

/// How long a server that has closed a data connection, or refused its TLS, may take to say why.
const REASON_PATIENCE: Duration = Duration::from_secs(5);
/// The most replies to a data connection that we close.
const REPLIES_TO_CLOSE_MAX: usize = 3;
/// How long the server may take to say what has become of a transfer whose data connection we close.
const REPORT_PATIENCE: Duration = Duration::from_secs(3);
/// How long a polite close may take.
const CLOSE_PATIENCE: Duration = Duration::from_millis(200);

/// Where to connect, and as whom.
pub(super) struct Endpoint {
    pub(super) dialer: Dialer,
    pub(super) tls: Option<Tls>,
    pub(super) is_implicit: bool,
    pub(super) user: String,
    pub(super) password: Option<Secret>,
    pub(super) connect_timeout: Duration,
    pub(super) idle_timeout: Duration,
}

/// A logged-in connection.
pub(super) struct Control {
    wire: Wire<Stream>,
    /// What the server can do beyond RFC 959.
    pub(super) features: Features,
    /// What it calls itself in its greeting.
    pub(super) server: String,
    /// Negotiated TLS version and cipher suite.
    pub(super) tls: Option<String>,
    data_tls: Option<Tls>,
    peer: IpAddr,
    has_extended_passive: bool,
    connect_timeout: Duration,
    /// What the server says next is not known to be an answer to what it is asked next.
    is_lost: bool,
}

/// A data connection under way.
pub(super) struct Transfer {
    stream: Stream,
    patience: Duration,
    subject: String,
    /// The stream ended without TLS saying so: only what is known by its length is whole.
    pub(super) is_unclean: bool,
}

impl Control {
    /// Connects and logs in.
    ///
    /// # Errors
    /// What the port, TLS or the server refuses.
    pub(super) async fn open(endpoint: &mut Endpoint) -> Result<Self> {
        let allowed = endpoint.connect_timeout;
        let deadline = Instant::now() + allowed;
        let socket = endpoint.dialer.connect(deadline, allowed).await?;
        let peer = socket.peer_addr().map_err(broken)?.ip();
        let greeted = timeout_at(deadline, greet(ObservedSocket::new(socket), endpoint)).await;
        let (wire, greeting) = greeted.map_err(|_| silent(allowed))??;
        log_in(wire, &greeting, peer, endpoint).await
    }

    /// Whether the server still answers.
    pub(super) async fn is_alive(&mut self) -> bool {
        !self.is_lost
            && matches!(timeout(self.connect_timeout, self.wire.command("NOOP")).await, Ok(Ok(reply)) if reply.is_done())
    }

    /// Says goodbye.
    pub(super) async fn close(mut self) {
        let _ = timeout(CLOSE_PATIENCE, self.wire.command("QUIT")).await;
    }

    /// Goes into a folder.
    pub(super) async fn change_folder(&mut self, folder: &str) -> Result<()> {
        let reply = self.wire.command(&format!("CWD {folder}")).await?;
        if reply.is_done() { Ok(()) } else { Err(refusal("list folder", folder, &reply)) }
    }

    /// A file's size; `None` if it is no file, or the server does not tell.
    pub(super) async fn size(&mut self, path: &str) -> Result<Option<u64>> {
        let reply = self.wire.command(&format!("SIZE {path}")).await?;
        self.fact("ask for the size", path, &reply).map(|text| text.and_then(|text| text.parse().ok()))
    }

    /// A file's time of change; `None` if the server does not tell.
    pub(super) async fn modify(&mut self, path: &str) -> Result<Option<String>> {
        let reply = self.wire.command(&format!("MDTM {path}")).await?;
        self.fact("ask for the time of change", path, &reply).map(|text| text.and_then(modify_time))
    }

    fn fact<'r>(&self, operation: &'static str, path: &str, reply: &'r Reply) -> Result<Option<&'r str>> {
        match reply.code {
            213 => Ok(Some(reply.last())),
            // No such file, not a plain file, not known here.
            500..=504 | 550 | 553 => Ok(None),
            _ => Err(refusal(operation, path, reply)),
        }
    }

    /// Opens a data connection, has the server prepare `offset` and sends `command`; `released` is called when it has gone
    /// out. `subject` is what it is about, for messages.
    pub(super) async fn transfer(
        &mut self,
        operation: &'static str,
        command: &str,
        subject: &str,
        offset: u64,
        released: impl FnOnce(),
    ) -> Result<Transfer> {
        let port = self.passive_port().await?;
        let deadline = Instant::now() + self.connect_timeout;
        let socket = Dialer::new(&self.peer.to_string(), port).connect(deadline, self.connect_timeout).await;
        let socket = ObservedSocket::new(socket.map_err(|error| {
            Error::new(error.kind(), "open data connection", error.message())
                .with_hint(format!("open the server's passive ports in the firewall between; it named port {port}"))
        })?);
        if offset > 0 {
            let reply = self.wire.command(&format!("REST {offset}")).await?;
            if reply.code != 350 {
                return Err(refusal(operation, subject, &reply));
            }
        }
        self.wire.send(command).await?;
        released();
        let stream = match self.data_tls.clone() {
            None => {
                self.begin(operation, subject).await?;
                Stream::plain(socket)
            }
            // Some servers shake hands before they reply, some after.
            Some(tls) => {
                let mut handshake = pin!(timeout_at(deadline, tls.handshake(socket)));
                let shaken = {
                    let mut begun = pin!(self.begin(operation, subject));
                    tokio::select! {
                        // Where the server says why there is no data, that is it.
                        begun = &mut begun => begun.map(|()| None)?,
                        shaken = &mut handshake => {
                            begun.await?;
                            Some(shaken)
                        }
                    }
                };
                let shaken = match shaken {
                    Some(shaken) => shaken,
                    None => handshake.await,
                };
                match shaken {
                    Ok(Ok(stream)) => Stream::tls(stream),
                    Ok(Err(error)) => return Err(self.reason(operation, subject, error).await),
                    Err(_) => return Err(silent(self.connect_timeout)),
                }
            }
        };
        Ok(Transfer { stream, patience: self.wire.patience, subject: subject.to_owned(), is_unclean: false })
    }

    /// Takes the reply that says that data comes.
    async fn begin(&mut self, operation: &'static str, subject: &str) -> Result<()> {
        let reply = self.wire.reply().await?;
        if reply.is_preliminary() { Ok(()) } else { Err(refusal(operation, subject, &reply)) }
    }

    /// The server's own words for a data connection that failed, if it has any.
    async fn reason(&mut self, operation: &'static str, subject: &str, error: Error) -> Error {
        match timeout(REASON_PATIENCE, self.wire.reply()).await {
            Ok(Ok(reply)) if !reply.is_done() && !reply.is_preliminary() => {
                refusal(operation, subject, &reply).with_cause(error)
            }
            _ => error,
        }
    }

    /// Ends a transfer that has been read to its end: the server must say that it was all.
    pub(super) async fn finish(&mut self, operation: &'static str, transfer: Transfer) -> Result<Reply> {
        let Transfer { stream, subject, .. } = transfer;
        close(stream).await;
        let reply = self.wire.reply().await?;
        if reply.is_preliminary() {
            // pure-ftpd ends what was cut so; it never says that it was all.
            let message = format!("{subject}: the server does not say that it sent everything: {}", reply.text());
            return Err(Error::new(ErrorKind::Disconnected, operation, message)
                .with_hint("look at the server's log and at the network between"));
        }
        if reply.is_done() { Ok(reply) } else { Err(refusal(operation, &subject, &reply)) }
    }

    /// Ends a transfer of which no more is wanted: the data connection is closed, which the server reports with 426 or,
    /// where it had sent everything, with 226.
    pub(super) async fn give_up(&mut self, transfer: Transfer) -> Result<()> {
        let Transfer { stream, subject, .. } = transfer;
        close(stream).await;
        // Where the replies are not understood, this connection is of no use any more.
        self.is_lost = true;
        // Some say nothing (pure-ftpd over TLS, now and then): what it says to the next command tells.
        let first = timeout(REPORT_PATIENCE, self.wire.reply()).await;
        self.wire.send("NOOP").await?;
        let mut reply = first.ok().transpose()?;
        // Some say both; what answers the next command is known by its code.
        for _ in 0..REPLIES_TO_CLOSE_MAX {
            if reply.as_ref().is_some_and(|reply| reply.code == 421) {
                break;
            }
            let next = timeout(REPORT_PATIENCE, self.wire.reply()).await.map_err(|_| silent(REPORT_PATIENCE))??;
            if next.code == 200 {
                self.is_lost = false;
                return Ok(());
            }
            reply = Some(next);
        }
        let reply = reply.ok_or_else(|| silent(REPORT_PATIENCE))?;
        Err(refusal("end transfer", &subject, &reply))
    }

    /// Has the server listen for a data connection; the port.
    async fn passive_port(&mut self) -> Result<u16> {
        let refused =
            |reply: &Reply| refusal("open data connection", "", reply).with_hint("the server must allow passive mode");
        let unreadable = |reply: &Reply| {
            Error::new(
                ErrorKind::Protocol,
                "open data connection",
                format!("no port in {} {:?}", reply.code, reply.text()),
            )
            .with_hint("the answer to EPSV or PASV is not as in RFC 2428 or RFC 959: look at the server")
        };
        if self.has_extended_passive {
            let reply = self.wire.command("EPSV").await?;
            match reply.code {
                229 => return extended_passive_port(&reply.text()).ok_or_else(|| unreadable(&reply)),
                // Not known, or not for this kind of address.
                500..=504 | 522 => self.has_extended_passive = false,
                _ => return Err(refused(&reply)),
            }
        }
        let reply = self.wire.command("PASV").await?;
        if reply.code != 227 {
            return Err(refused(&reply));
        }
        // The address is not followed: it may be another's (a bounce), or one that only the server's side can reach.
        passive_address(&reply.text()).map(|(_, port)| port).ok_or_else(|| unreadable(&reply))
    }
}

impl Transfer {
    /// The next bytes; 0 at the end.
    ///
    /// # Errors
    /// `Disconnected`, `Timeout`.
    pub(super) async fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        match timeout(self.patience, self.stream.read(buffer)).await {
            Ok(Ok(count)) => Ok(count),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                self.is_unclean = true;
                Ok(0)
            }
            Ok(Err(error)) => Err(Error::new(
                ErrorKind::Disconnected,
                "read data",
                format!("{}: the data connection broke", self.subject),
            )
            .with_hint("look at the server's log and at the network between")
            .with_cause(error)),
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                "read data",
                format!("{}: no data for {:?}", self.subject, self.patience),
            )
            .with_hint("raise idle_timeout if the server is slow; look at its log")),
        }
    }
}

/// Closes our side; what the server has not taken back does not matter.
async fn close(mut stream: Stream) {
    let _ = timeout(CLOSE_PATIENCE, stream.shutdown()).await;
}

/// Waits for the greeting and has TLS stand, if it shall.
async fn greet(socket: ObservedSocket, endpoint: &Endpoint) -> Result<(Wire<Stream>, Reply)> {
    let patience = endpoint.connect_timeout;
    match &endpoint.tls {
        None => greeted(Wire::new(Stream::plain(socket), patience)).await,
        Some(tls) if endpoint.is_implicit => {
            greeted(Wire::new(Stream::tls(tls.handshake(socket).await?), patience)).await
        }
        Some(tls) => {
            let (mut wire, greeting) = greeted(Wire::new(socket, patience)).await?;
            let reply = wire.command("AUTH TLS").await?;
            if reply.code != 234 {
                let message = format!("the server refuses AUTH TLS: {} {}", reply.code, reply.text());
                return Err(Error::new(ErrorKind::Tls, "start TLS", message).with_hint(
                    "enable TLS on the server, or write tls = { allow_plaintext = \"REASON\" }; a port that begins with \
                     TLS needs implicit = true",
                ));
            }
            let stream = tls.handshake(wire.into_stream()?).await?;
            Ok((Wire::new(Stream::tls(stream), patience), greeting))
        }
    }
}

/// Logs in and settles how data comes.
async fn log_in(mut wire: Wire<Stream>, greeting: &Reply, peer: IpAddr, endpoint: &Endpoint) -> Result<Control> {
    // Servers are slow to refuse a login, on purpose: that must not pass for silence.
    wire.patience = endpoint.idle_timeout;
    let tls = wire.stream().tls_description();
    authenticate(&mut wire, endpoint).await?;
    if endpoint.tls.is_some() {
        for command in ["PBSZ 0", "PROT P"] {
            let reply = wire.command(command).await?;
            if !reply.is_done() {
                return Err(refusal("protect data connections", command, &reply));
            }
        }
    }
    let reply = wire.command("FEAT").await?;
    let features = if reply.code == 211 { Features::of(&reply) } else { Features::default() };
    if features.utf8 {
        // Refused by servers that are always in UTF-8.
        wire.command("OPTS UTF8 ON").await?;
    }
    let reply = wire.command("TYPE I").await?;
    if !reply.is_done() {
        return Err(refusal("set binary type", "TYPE I", &reply));
    }
    let server = greeting.lines.first().map_or("", |line| line.trim_matches(|c: char| c == '-' || c == ' ')).to_owned();
    Ok(Control {
        wire,
        features,
        server,
        tls,
        data_tls: endpoint.tls.clone(),
        peer,
        has_extended_passive: true,
        connect_timeout: endpoint.connect_timeout,
        is_lost: false,
    })
}

/// Waits for the greeting.
async fn greeted<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    mut wire: Wire<S>,
) -> Result<(Wire<S>, Reply)> {
    loop {
        let reply = wire.reply().await?;
        match reply.code {
            // It will be ready in some minutes (RFC 959, section 5.4).
            120 => {}
            220 => return Ok((wire, reply)),
            _ => return Err(refusal("read greeting", "", &reply)),
        }
    }
}

async fn authenticate(wire: &mut Wire<Stream>, endpoint: &Endpoint) -> Result<()> {
    let mut reply = wire.command(&format!("USER {}", endpoint.user)).await?;
    let password = endpoint.password.as_ref().map(Secret::expose);
    if reply.code == 331 {
        // RFC 1635: anonymous users give an address, by custom.
        let password = password.unwrap_or("portolan@");
        reply = wire.command(&format!("PASS {password}")).await?;
    }
    if reply.is_done() {
        return Ok(());
    }
    if let Some(password) = password.filter(|password| !password.is_empty()) {
        // No server should repeat it.
        reply.lines.iter_mut().for_each(|line| *line = line.replace(password, "…"));
    }
    Err(refusal("log in", &format!("user `{}`", endpoint.user), &reply))
}
