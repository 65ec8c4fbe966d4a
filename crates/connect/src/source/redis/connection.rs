//! One connection, logged in: commands out in one write, replies in as they come.
//!
//! Promise: every wait ends, every reply is bounded, a server of another kind is named, no secret is shown.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use portolan_model::source::{Output, Phase, QuarantineItem, Secret};
use portolan_model::{Error, ErrorKind, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::command::write_command;
use super::error::{CLUSTER, Subject, refused};
use super::reply::{Reply, Value};
use super::resp::Parser;
use crate::transport::tls::Tls;
use crate::transport::{Dialer, HoldKind, ObservedSocket, Stream, sniff};

/// What a reply may have beside the values that are as large as allowed.
const REPLY_BYTES_EXTRA: usize = 64 << 20;
/// Values as large as allowed that one reply may have.
const REPLY_VALUES: usize = 8;
/// The most bytes of one value while logging in: nothing large is answered then.
const LOGIN_VALUE_BYTES_MAX: usize = 64 << 10;

/// Where to connect, and as whom.
pub(super) struct Endpoint {
    pub(super) dialer: Dialer,
    pub(super) tls: Option<Tls>,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) database: u32,
    pub(super) subject: Subject,
    pub(super) value_bytes_max: usize,
    pub(super) connect_timeout: Duration,
    pub(super) idle_timeout: Duration,
    /// Whether keys are searched, which one node of a cluster cannot answer.
    pub(super) needs_all_keys: bool,
}

/// What the server says of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Server {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) mode: String,
    pub(super) role: String,
    pub(super) tls: Option<String>,
}

/// An open connection, logged in.
pub(super) struct Connection {
    stream: Stream,
    tls: Option<Tls>,
    parser: Parser,
    out: Vec<u8>,
    /// How many are in `out`.
    commands: usize,
    idle_timeout: Duration,
    subject: Subject,
    has_spoken: bool,
    pub(super) server: Server,
}

impl Connection {
    /// Connects and logs in.
    pub(super) async fn open(endpoint: &mut Endpoint) -> Result<Self> {
        let allowed = endpoint.connect_timeout;
        let deadline = tokio::time::Instant::now() + allowed;
        let is_encrypted = endpoint.tls.is_some();
        let socket = ObservedSocket::new(endpoint.dialer.connect(deadline, allowed).await?);
        let opened = async {
            let mut name = None;
            let stream = match &endpoint.tls {
                None => Stream::plain(socket),
                Some(tls) => {
                    let stream = tls.handshake(socket).await?;
                    name = Some(negotiated(stream.get_ref().1));
                    Stream::tls(stream)
                }
            };
            let mut connection = Self {
                stream,
                tls: endpoint.tls.clone(),
                parser: Parser::new(LOGIN_VALUE_BYTES_MAX, LOGIN_VALUE_BYTES_MAX * 4),
                out: Vec::new(),
                commands: 0,
                idle_timeout: allowed,
                subject: endpoint.subject.clone(),
                has_spoken: false,
                server: Server { tls: name, ..Server::default() },
            };
            connection.log_in(endpoint).await?;
            Ok(connection)
        };
        let mut connection = match tokio::time::timeout_at(deadline, opened).await {
            Ok(result) => result?,
            Err(_) => return Err(no_answer(allowed, is_encrypted)),
        };
        let value_bytes_max = endpoint.value_bytes_max;
        let reply_bytes_max = value_bytes_max.saturating_mul(REPLY_VALUES).saturating_add(REPLY_BYTES_EXTRA);
        connection.parser.set_limits(value_bytes_max, reply_bytes_max);
        connection.idle_timeout = endpoint.idle_timeout;
        Ok(connection)
    }

    async fn log_in(&mut self, endpoint: &Endpoint) -> Result<()> {
        let password = endpoint.password.as_ref().map(|password| password.expose().as_bytes());
        let user = endpoint.user.as_deref().unwrap_or("default").as_bytes();
        let mut hello: Vec<&[u8]> = vec![b"HELLO", b"3"];
        if password.is_some() || endpoint.user.is_some() {
            hello.extend([b"AUTH", user, password.unwrap_or_default()]);
        }
        hello.extend([&b"SETNAME"[..], b"portolan"]);
        self.command(&hello);
        self.exchange(&mut Silent).await?;
        let refusal = match self.parser.reply().peek() {
            Some(Value::Error(text)) => Some(text.to_vec()),
            _ => None,
        };
        match refusal {
            None => self.server.read(self.parser.reply()),
            // Older than Redis 6, or a proxy in front of it that speaks RESP2 alone.
            Some(text) if text.starts_with(b"NOPROTO") || text.to_ascii_lowercase().starts_with(b"err unknown") => {
                self.parser.consume();
                if let Some(password) = password {
                    match &endpoint.user {
                        Some(user) => self.command(&[b"AUTH", user.as_bytes(), password]),
                        None => self.command(&[b"AUTH", password]),
                    }
                    self.exchange(&mut Silent).await?;
                    self.check("log in", "AUTH")?;
                }
            }
            Some(text) => return Err(self.subject.map("log in", "HELLO", &text)),
        }
        self.parser.consume();
        if self.server.mode == "sentinel" {
            return Err(Error::new(ErrorKind::Configuration, "log in", "this port is a sentinel's, which has no keys")
                .with_hint("ask it for the primary: redis-cli -p PORT SENTINEL masters"));
        }
        if self.server.mode == "cluster" && endpoint.needs_all_keys {
            return Err(
                Error::new(ErrorKind::Configuration, "log in", "the server is a node of a cluster").with_hint(CLUSTER)
            );
        }
        if endpoint.database != 0 {
            self.command(&[b"SELECT", endpoint.database.to_string().as_bytes()]);
            self.exchange(&mut Silent).await?;
            self.check("select database", "SELECT")?;
            self.parser.consume();
        }
        Ok(())
    }

    /// Whether the server still answers. `HELLO` is what every user may say.
    pub(super) async fn is_alive(&mut self, patience: Duration) -> bool {
        self.command(&[b"HELLO"]);
        let answered = tokio::time::timeout(patience, self.exchange(&mut Silent)).await;
        self.parser.consume();
        matches!(answered, Ok(Ok(()))) && self.parser.unread().is_empty()
    }

    /// Adds a command to those that the next [`Self::flush`] sends.
    pub(super) fn command(&mut self, parts: &[&[u8]]) {
        write_command(parts, &mut self.out);
        self.commands += 1;
    }

    /// Sends the commands in one write.
    pub(super) async fn flush(&mut self) -> Result<()> {
        let sent = async {
            self.stream.write_all(&self.out).await?;
            self.stream.flush().await
        };
        let result = match tokio::time::timeout(self.idle_timeout, sent).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.broken("send commands", error)),
            Err(_) => Err(self.silent("send commands")),
        };
        self.out.clear();
        self.commands = 0;
        result
    }

    /// The first flush of a read: with those of the other ports of its round, where these begin together. The instant is
    /// noted before anything leaves, so that the server cannot have acted earlier than the receipt says.
    pub(super) async fn release(&mut self, output: &mut dyn Output) -> Result<()> {
        if !output.is_held() {
            output.mark(Phase::Released);
            return self.flush().await;
        }
        let hold_point = Arc::clone(self.stream.observed().hold_point());
        hold_point.hold();
        // Of several commands the first would be answered at once.
        let kind = if self.commands > 1 { HoldKind::Whole } else { HoldKind::LastByte };
        self.flush().await?;
        let held = hold_point.seal(kind).map_err(|error| self.broken("send commands", error))?;
        let read = tokio::select! {
            () = output.released(held) => return Ok(()),
            read = self.stream.read(self.parser.space()) => read,
        };
        // The server ends the connection, or says something before it was asked.
        match read {
            Ok(0) => Err(closed()),
            Ok(_) => Err(Error::new(ErrorKind::Protocol, "read reply", "the server speaks out of turn")),
            Err(error) => Err(self.broken("read reply", error)),
        }
    }

    /// Waits for the next reply, which [`Self::reply`] then shows until [`Self::consume`].
    pub(super) async fn receive(&mut self, output: &mut dyn Output) -> Result<()> {
        let mut is_first = true;
        while !self.parser.advance().map_err(|fault| self.refused(&fault))? {
            let read = self.stream.read(self.parser.space());
            let count = match tokio::time::timeout(self.idle_timeout, read).await {
                Ok(Ok(0)) => return Err(closed()),
                Ok(Ok(count)) => count,
                Ok(Err(error)) => return Err(self.broken("read reply", error)),
                Err(_) => return Err(self.silent("read reply")),
            };
            if std::mem::take(&mut is_first) {
                output.mark(Phase::FirstByte);
            }
            output.mark(Phase::LastByte);
            output.payload(self.parser.filled(count));
        }
        self.has_spoken = true;
        Ok(())
    }

    /// Whether values that are too large are passed over in the replies that come, instead of being refused.
    pub(super) fn pass_large(&mut self, passes_large: bool) {
        self.parser.pass_large(passes_large);
    }

    /// The reply that [`Self::receive`] has waited for.
    pub(super) fn reply(&self) -> Reply<'_> {
        self.parser.reply()
    }

    /// Bytes of that reply.
    pub(super) fn reply_bytes(&self) -> usize {
        self.parser.reply_bytes()
    }

    /// Goes on to the next reply.
    pub(super) fn consume(&mut self) {
        self.parser.consume();
    }

    /// Sends what waits and takes one reply.
    pub(super) async fn exchange(&mut self, output: &mut dyn Output) -> Result<()> {
        self.flush().await?;
        self.receive(output).await
    }

    /// The error, if the reply is one.
    pub(super) fn check(&self, operation: &'static str, command: &str) -> Result<()> {
        match self.parser.reply().peek() {
            Some(Value::Error(text)) => Err(self.subject.map(operation, command, text)),
            _ => Ok(()),
        }
    }

    /// Gives the connection up.
    pub(super) async fn close(mut self) {
        let _ = tokio::time::timeout(Duration::from_secs(1), self.stream.shutdown()).await;
    }

    fn refused(&self, fault: &super::resp::Fault) -> Error {
        let said = self.parser.unread();
        if self.has_spoken || said.is_empty() || !matches!(fault, super::resp::Fault::Malformed(_)) {
            return refused(fault);
        }
        let what = sniff::describe(said).map(|what| format!(" but {what}")).unwrap_or_default();
        let message = format!("\"{}\" is no Redis reply{what}", sniff::shown(said));
        let hint = match said {
            [0x15, 0x03, ..] => "the port speaks TLS: remove `allow_plaintext`",
            _ => "another service listens on this port: check `port` and `protocol`",
        };
        Error::new(ErrorKind::Protocol, "log in", message).with_hint(hint)
    }

    fn broken(&self, operation: &'static str, error: io::Error) -> Error {
        match &self.tls {
            Some(tls) if error.kind() == io::ErrorKind::InvalidData => tls.explain(error, &[]),
            _ => Error::new(ErrorKind::Disconnected, operation, "the connection broke")
                .with_hint("look at the server's log")
                .with_cause(error),
        }
    }

    fn silent(&self, operation: &'static str) -> Error {
        let seconds = self.idle_timeout.as_secs_f64();
        Error::new(ErrorKind::Timeout, operation, format!("the server stayed silent for {seconds} s"))
            .with_hint("a slow command or script may hold it up: redis-cli SLOWLOG GET; else raise `idle_timeout`")
    }
}

impl Server {
    /// What `HELLO` answers: names and values.
    fn read(&mut self, mut reply: Reply<'_>) {
        let Ok(count) = reply.array() else { return };
        for _ in 0..count / 2 {
            let name = reply.text().unwrap_or_default();
            let place = match name {
                b"server" => &mut self.name,
                b"version" => &mut self.version,
                b"mode" => &mut self.mode,
                b"role" => &mut self.role,
                _ => {
                    reply.pass();
                    continue;
                }
            };
            if let Some(Value::Text(text)) = reply.peek() {
                *place = String::from_utf8_lossy(text).chars().take(64).collect();
            }
            reply.pass();
        }
    }
}

fn negotiated(session: &rustls::ClientConnection) -> String {
    let version = session.protocol_version().and_then(|version| version.as_str()).unwrap_or("TLS of unknown version");
    match session.negotiated_cipher_suite() {
        Some(suite) => format!("{version} {:?}", suite.suite()),
        None => version.to_owned(),
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Disconnected, "read reply", "the server closed the connection")
        .with_hint("look at the server's log; its limits: redis-cli CONFIG GET '*limit*'")
}

fn no_answer(allowed: Duration, is_encrypted: bool) -> Error {
    let message = format!("no answer within {} s", allowed.as_secs_f64());
    let hint = if is_encrypted {
        // A server without TLS takes a handshake for the beginning of a command, and waits for its end.
        "if the port speaks plain text, say so with its reason: tls = { allow_plaintext = \"…\" }; is it a Redis server?"
    } else {
        "the port accepts connections and says nothing: is it a Redis server? If it wants TLS, remove `allow_plaintext`"
    };
    Error::new(ErrorKind::Timeout, "log in", message).with_hint(hint)
}

/// Takes nothing: what is said outside a read is no payload of it.
pub(super) struct Silent;

#[async_trait::async_trait]
impl Output for Silent {
    fn mark(&mut self, _phase: Phase) {}

    fn payload(&mut self, _bytes: &[u8]) {}

    fn count_bytes(&mut self, _bytes: u64) {}

    async fn batch(&mut self, _batch: arrow::record_batch::RecordBatch) -> Result<()> {
        Ok(())
    }

    async fn quarantine(&mut self, _item: QuarantineItem) -> Result<()> {
        Ok(())
    }
}
