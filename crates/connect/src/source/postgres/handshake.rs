//! From a connected socket to a session: TLS, login.
//!
//! Promise: nothing but the request for TLS leaves before TLS stands; a password leaves in the clear only within TLS; a
//! peer of another protocol is named.

use std::sync::Arc;
use std::time::Duration;

use portolan_model::{Error, ErrorKind, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::error::{Endpoint, Subject};
use super::wire::answer::{ServerError, tag};
use super::wire::messages::{MessageStream, malformed};
use super::wire::reader::{Malformed, Reader};
use super::wire::request::Request;
use super::wire::scram::{self, Scram};
use crate::transport::{Observed, ObservedSocket, Stream, sniff};

/// Messages of a login, with what the server tells of itself: more is a server that plays with us.
const LOGIN_MESSAGES_MAX: usize = 256;
/// The longest first message of a server.
const FIRST_BYTES_MAX: usize = 1 << 16;

/// How a server asks for a login.
mod method {
    pub(super) const OK: i32 = 0;
    pub(super) const CLEAR_TEXT: i32 = 3;
    pub(super) const MD5: i32 = 5;
    pub(super) const SASL: i32 = 10;
    pub(super) const SASL_CONTINUE: i32 = 11;
    pub(super) const SASL_FINAL: i32 = 12;
}

/// What a login has settled.
pub(super) struct Session {
    pub(super) messages: MessageStream<Stream>,
    /// What passes over its socket.
    pub(super) observed: Arc<Observed>,
    /// The number and the secret of this session, to end what it does.
    pub(super) process: i32,
    pub(super) secret: Vec<u8>,
    /// The server's version, such as `15.4 (Debian 15.4-1)`.
    pub(super) server: String,
    /// How the account was proven.
    pub(super) login: &'static str,
    /// Negotiated TLS version and cipher suite.
    pub(super) tls: Option<String>,
}

/// A stream to the server, with TLS where it is configured, and the hash of the server's certificate.
pub(super) async fn secure(mut socket: ObservedSocket, endpoint: &Endpoint) -> Result<(Stream, Option<Vec<u8>>)> {
    let Some(tls) = &endpoint.tls else { return Ok((Stream::plain(socket), None)) };
    let mut answer = [0; 1];
    let asked = async {
        socket.write_all(&Request::tls()).await?;
        socket.flush().await?;
        // This byte alone: what stands behind it is TLS's.
        socket.read_exact(&mut answer).await
    };
    asked.await.map_err(|error| {
        Error::new(ErrorKind::Disconnected, "start TLS", "the server closed the connection").with_cause(error)
    })?;
    match answer[0] {
        b'S' => {
            let stream = tls.handshake(socket).await?;
            let certificates = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let hash = certificates.and_then(|certificate| scram::certificate_hash(certificate));
            Ok((Stream::tls(stream), hash))
        }
        b'N' => Err(Error::new(ErrorKind::Tls, "start TLS", "the server does not offer TLS")
            .with_hint("set ssl = on on the server (SHOW ssl), or write tls = { allow_plaintext = \"REASON\" }")),
        b'E' => Err(Error::new(ErrorKind::Busy, "start TLS", "the server refuses the connection before TLS")
            .with_hint("look at the server's log")),
        _ => {
            let mut said = answer.to_vec();
            // What came with the first byte is enough to tell it.
            let _ = tokio::time::timeout(Duration::from_millis(200), socket.read_buf(&mut said)).await;
            Err(other_protocol(&said))
        }
    }
}

/// Logs in; `answered` tells, after a timeout, how far it came.
pub(super) async fn log_in(socket: ObservedSocket, endpoint: &Endpoint, answered: &mut bool) -> Result<Session> {
    let (stream, certificate_hash) = secure(socket, endpoint).await?;
    *answered = endpoint.tls.is_some();
    let (observed, tls) = (stream.observed(), stream.tls_description());
    let mut messages = MessageStream::new(stream, endpoint.tls.clone(), endpoint.connect_timeout);
    let subject = &endpoint.subject;
    let parameters = [
        ("user", subject.user.as_str()),
        ("database", &subject.database),
        ("application_name", "portolan"),
        ("client_encoding", "UTF8"),
    ];
    messages.send(&Request::startup(&parameters)).await?;
    check_first(&mut messages).await?;
    *answered = true;
    let mut session = Session {
        messages,
        observed,
        process: 0,
        secret: Vec::new(),
        server: String::new(),
        login: "none needed",
        tls,
    };
    let mut login = Login { endpoint, certificate_hash, scram: None, is_proven: true, is_accepted: false };
    for _ in 0..LOGIN_MESSAGES_MAX {
        let located = session.messages.receive().await?;
        let message = session.messages.bytes(&located);
        let mut reader = Reader::new(message);
        match located.tag {
            tag::AUTHENTICATION => {
                if let Some((answer, name)) = login.step(&mut reader)? {
                    session.login = name;
                    session.messages.send(Request::default().password(&answer).bytes()).await?;
                }
            }
            tag::PARAMETER_STATUS => {
                if reader.text().map_err(malformed)? == "server_version" {
                    session.server = reader.text().map_err(malformed)?;
                }
            }
            tag::BACKEND_KEY => {
                session.process = reader.i32().map_err(malformed)?;
                session.secret = reader.rest().to_vec();
            }
            tag::NOTICE | tag::NEGOTIATE_VERSION => {}
            tag::ERROR => return Err(refusal(subject, "log in", message)),
            tag::READY if !login.is_accepted => {
                return Err(malformed(Malformed("it is ready without having let us in")));
            }
            tag::READY => {
                session.messages.set_idle_timeout(endpoint.idle_timeout);
                return Ok(session);
            }
            _ => return Err(malformed(Malformed("a login step that is not known"))),
        }
    }
    Err(Error::new(ErrorKind::Protocol, "log in", "the login does not come to an end"))
}

struct Login<'a> {
    endpoint: &'a Endpoint,
    certificate_hash: Option<Vec<u8>>,
    scram: Option<Scram>,
    /// The server has shown that it knows the password, where the method lets it.
    is_proven: bool,
    /// The server has let us in.
    is_accepted: bool,
}

impl Login<'_> {
    /// The answer to what the server asks, and the method's name.
    fn step(&mut self, reader: &mut Reader<'_>) -> Result<Option<(Vec<u8>, &'static str)>> {
        let refused = |message: &str, hint: &str| {
            Err(Error::new(ErrorKind::Authentication, "log in", message.to_owned()).with_hint(hint.to_owned()))
        };
        let out_of_turn = || Err(malformed(Malformed("a login step out of turn")));
        match reader.i32().map_err(malformed)? {
            _ if self.is_accepted => out_of_turn(),
            method::OK if self.is_proven => {
                self.is_accepted = true;
                Ok(None)
            }
            method::OK => {
                refused("the server has not shown that it knows the password", "is this the server you mean?")
            }
            method::CLEAR_TEXT if self.endpoint.tls.is_some() => {
                let mut answer = self.password()?.as_bytes().to_vec();
                answer.push(0);
                Ok(Some((answer, "password within TLS")))
            }
            method::CLEAR_TEXT => refused(
                "the server asks for the password in the clear",
                "use TLS (remove `allow_plaintext`), or `scram-sha-256` in pg_hba.conf",
            ),
            method::MD5 => refused(
                "the server asks for an MD5 login, which is broken and not spoken here",
                "on the server: SET password_encryption = 'scram-sha-256'; ALTER ROLE … PASSWORD '…' sets the password anew; then \
                 `scram-sha-256` in pg_hba.conf",
            ),
            method::SASL if self.scram.is_some() => out_of_turn(),
            method::SASL => {
                let mut offered = Vec::new();
                while reader.rest().first().is_some_and(|byte| *byte != 0) {
                    offered.push(reader.text().map_err(malformed)?);
                }
                let offers = |name: &str| offered.iter().any(|mechanism| mechanism == name);
                let hash = self.certificate_hash.as_deref().filter(|_| offers(scram::BOUND));
                if hash.is_none() && !offers(scram::PLAIN) {
                    let message = format!("the server offers only the login methods {}", offered.join(", "));
                    return refused(&message, "`scram-sha-256` in pg_hba.conf");
                }
                let scram = Scram::new(self.password()?, hash)
                    .map_err(|problem| Error::new(ErrorKind::Internal, "log in", problem))?;
                let (first, name) = (scram.first(), scram.mechanism());
                (self.scram, self.is_proven) = (Some(scram), false);
                Ok(Some((first, name)))
            }
            method::SASL_CONTINUE => {
                let Some(scram) = &mut self.scram else { return out_of_turn() };
                let answer = scram.answer(reader.rest());
                let answer = answer.map_err(|problem| malformed(Malformed(problem)))?;
                Ok(Some((answer, scram.mechanism())))
            }
            method::SASL_FINAL => {
                self.is_proven = self.scram.as_ref().is_some_and(|scram| scram.is_proven(reader.rest()));
                if self.is_proven {
                    Ok(None)
                } else {
                    refused("the server does not know the password", "is this the server you mean?")
                }
            }
            other => refused(
                &format!("the server asks for login method {other}, which is not spoken here"),
                "`scram-sha-256` or `cert` in pg_hba.conf",
            ),
        }
    }

    fn password(&self) -> Result<&str> {
        match &self.endpoint.password {
            Some(password) => Ok(password.expose()),
            None => Err(Error::new(
                ErrorKind::Authentication,
                "log in",
                "the server asks for a password and none is configured",
            )
            .with_hint("write password = { env = \"…\" }")),
        }
    }
}

/// A peer of another protocol is told by its first bytes: they would be read as an absurd length.
async fn check_first(messages: &mut MessageStream<Stream>) -> Result<()> {
    while messages.unread().len() < 5 {
        messages.fill().await?;
    }
    let said = messages.unread();
    let length = u32::from_be_bytes([said[1], said[2], said[3], said[4]]) as usize;
    let is_known = matches!(said[0], tag::AUTHENTICATION | tag::ERROR | tag::NOTICE | tag::NEGOTIATE_VERSION);
    if is_known && (4..=FIRST_BYTES_MAX).contains(&length) { Ok(()) } else { Err(other_protocol(said)) }
}

fn other_protocol(said: &[u8]) -> Error {
    let what = sniff::describe(said).map(|what| format!(" but {what}")).unwrap_or_default();
    let message = format!("\"{}\" is no answer of PostgreSQL{what}", sniff::shown(said));
    Error::new(ErrorKind::Protocol, "log in", message)
        .with_hint("another service listens on this port: check `port` and `protocol`")
}

/// The cross-crate form of an error message.
pub(super) fn refusal(subject: &Subject, operation: &'static str, message: &[u8]) -> Error {
    match ServerError::parse(message) {
        Ok(error) => subject.map(operation, &error),
        Err(cause) => malformed(cause),
    }
}

/// The server has not answered in time; `answered` if it has said something before.
pub(super) fn no_answer(timeout: Duration, answered: bool) -> Error {
    let seconds = timeout.as_secs_f64();
    let (what, hint) = if answered {
        ("log in", "the server is slow or hangs: SELECT * FROM pg_stat_activity on the server")
    } else {
        ("log in", "the port accepts connections and says nothing: is it a PostgreSQL server? HTTP servers wait so")
    };
    Error::new(ErrorKind::Timeout, what, format!("no answer within {seconds} s")).with_hint(hint)
}
