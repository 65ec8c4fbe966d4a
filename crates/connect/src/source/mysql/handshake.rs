//! From a connected socket to a login: greeting, TLS, authentication.
//!
//! Promise: nothing but the request for TLS leaves before TLS stands; a peer of another protocol is named.

use std::sync::Arc;
use std::time::Duration;

use portolan_model::{Error, ErrorKind, Result};

use super::error::{Endpoint, Subject};
use super::wire::login;
use super::wire::message::{CONNECTION_CHARACTER_SET, Greeting, ServerError, capability, challenge};
use super::wire::packets::{PacketStream, malformed};
use super::wire::reader::{Malformed, Reader, put_bytes};
use crate::transport::{Observed, ObservedSocket, Stream, sniff};

/// Rounds of a login: more is a server that plays with us.
const LOGIN_STEPS_MAX: usize = 8;
const GREETING_BYTES_MAX: usize = 1 << 16;
/// What is asked of the server, as far as it knows it.
const WANTED: u32 = capability::MYSQL
    | capability::LONG_FLAG
    | capability::PROTOCOL_41
    | capability::TRANSACTIONS
    | capability::SECURE_CONNECTION
    | capability::PLUGIN_AUTHENTICATION
    | capability::CONNECT_ATTRIBUTES
    | capability::AUTHENTICATION_DATA_LENGTH_ENCODED
    | capability::DEPRECATE_EOF;

/// What a login has settled.
pub(super) struct Session {
    pub(super) packets: PacketStream<Stream>,
    /// What passes over its socket.
    pub(super) observed: Arc<Observed>,
    /// Without [`capability::DEPRECATE_EOF`] among them, column definitions end with a packet of their own.
    pub(super) capabilities: u32,
    pub(super) extended_metadata: bool,
    /// The server's number of this connection, for KILL.
    pub(super) thread_id: u32,
    /// The server's version.
    pub(super) server: String,
    /// Negotiated TLS version and cipher suite.
    pub(super) tls: Option<String>,
}

/// Logs in; `greeted` tells, after a timeout, how far it came.
pub(super) async fn log_in(socket: ObservedSocket, endpoint: &Endpoint, greeted: &mut bool) -> Result<Session> {
    let mut packets = PacketStream::new(socket, None, endpoint.connect_timeout);
    let greeting = receive_greeting(&mut packets, endpoint).await?;
    *greeted = true;
    let mut capabilities = WANTED & greeting.capabilities | capability::CONNECT_WITH_DATABASE;
    if capabilities & capability::PROTOCOL_41 == 0 {
        return Err(Error::new(ErrorKind::Protocol, "log in", "the server is older than MySQL 4.1"));
    }
    let mariadb_capabilities = greeting.mariadb_capabilities & capability::MARIADB_EXTENDED_METADATA;
    let mut tls_name = None;
    let (stream, sequence) = if let Some(tls) = &endpoint.tls {
        if greeting.capabilities & capability::TLS == 0 {
            return Err(Error::new(ErrorKind::Tls, "start TLS", "the server does not offer TLS")
                .with_hint("set ssl_cert and ssl_key on the server, or write tls = { allow_plaintext = \"REASON\" }"));
        }
        capabilities |= capability::TLS;
        packets.send(&response_head(capabilities, mariadb_capabilities)).await?;
        let (socket, sequence) = packets.into_stream()?;
        let stream = tls.handshake(socket).await?;
        tls_name = Some(negotiated(stream.get_ref().1));
        (Stream::tls(stream), sequence)
    } else {
        let (socket, sequence) = packets.into_stream()?;
        (Stream::plain(socket), sequence)
    };
    let observed = stream.observed();
    let mut packets = PacketStream::new(stream, endpoint.tls.clone(), endpoint.idle_timeout).resumed(sequence);
    authenticate(&mut packets, endpoint, &greeting, capabilities, mariadb_capabilities).await?;
    Ok(Session {
        packets,
        observed,
        capabilities,
        extended_metadata: mariadb_capabilities != 0,
        thread_id: greeting.thread_id,
        server: greeting.display_version().to_owned(),
        tls: tls_name,
    })
}

/// What the request for TLS and the login begin with.
fn response_head(capabilities: u32, mariadb_capabilities: u32) -> Vec<u8> {
    let mut head = capabilities.to_le_bytes().to_vec();
    head.extend_from_slice(&(1u32 << 30).to_le_bytes()); // the longest packet we send or take
    head.push(CONNECTION_CHARACTER_SET);
    head.extend_from_slice(&[0; 19]);
    head.extend_from_slice(&mariadb_capabilities.to_le_bytes());
    head
}

/// The login itself, with the answer to the challenge of the greeting.
fn login_response(head: Vec<u8>, capabilities: u32, subject: &Subject, plugin: &str, answer: &[u8]) -> Vec<u8> {
    let mut response = head;
    response.extend_from_slice(subject.user.as_bytes());
    response.push(0);
    if capabilities & capability::AUTHENTICATION_DATA_LENGTH_ENCODED != 0 {
        put_bytes(&mut response, answer);
    } else {
        response.push(answer.len() as u8);
        response.extend_from_slice(answer);
    }
    response.extend_from_slice(subject.database.as_bytes());
    response.push(0);
    if capabilities & capability::PLUGIN_AUTHENTICATION != 0 {
        response.extend_from_slice(plugin.as_bytes());
        response.push(0);
    }
    if capabilities & capability::CONNECT_ATTRIBUTES != 0 {
        let mut attributes = Vec::new();
        for text in ["program_name", "portolan", "_client_version", env!("CARGO_PKG_VERSION")] {
            put_bytes(&mut attributes, text.as_bytes());
        }
        put_bytes(&mut response, &attributes);
    }
    response
}

async fn authenticate(
    packets: &mut PacketStream<Stream>,
    endpoint: &Endpoint,
    greeting: &Greeting,
    capabilities: u32,
    mariadb_capabilities: u32,
) -> Result<()> {
    let is_encrypted = endpoint.tls.is_some();
    let password = endpoint.password.as_ref().map_or(&b""[..], |password| password.expose().as_bytes());
    let mut plugin = if greeting.plugin.is_empty() { login::NATIVE.to_owned() } else { greeting.plugin.clone() };
    let mut nonce = greeting.nonce.clone();
    // Any answer will do for a method we do not speak: the server then names the account's own.
    let answer = login::answer(&plugin, &nonce, password, is_encrypted).unwrap_or_default();
    let head = response_head(capabilities, mariadb_capabilities);
    packets.send(&login_response(head, capabilities, &endpoint.subject, &plugin, &answer)).await?;
    for _ in 0..LOGIN_STEPS_MAX {
        let located = packets.receive().await?;
        let packet = packets.bytes(&located);
        match packet.first() {
            Some(0x00) => return Ok(()),
            Some(0xFF) => return Err(refusal(&endpoint.subject, "log in", packet)),
            Some(0xFE) => {
                let mut reader = Reader::new(&packet[1..]);
                plugin = String::from_utf8_lossy(reader.until_nul()).into_owned();
                nonce = challenge(reader.rest()).to_vec();
                let answer = login::answer(&plugin, &nonce, password, is_encrypted)?;
                packets.send(&answer).await?;
            }
            Some(0x01) if plugin == login::CACHING_SHA2 => match packet.get(1..) {
                // 3: the server knew the hash. 4: it wants the password itself.
                Some([3]) => {}
                Some([4]) if is_encrypted => packets.send(&login::readable(password)).await?,
                Some([4]) => packets.send(&[2]).await?,
                Some(key) => {
                    let answer = login::encrypted(key, &nonce, password)?;
                    packets.send(&answer).await?;
                }
                None => {}
            },
            _ => return Err(malformed(Malformed("a login step that is not known"))),
        }
    }
    Err(Error::new(ErrorKind::Protocol, "log in", "the login does not come to an end"))
}

fn negotiated(session: &rustls::ClientConnection) -> String {
    let version = session.protocol_version().and_then(|version| version.as_str()).unwrap_or("TLS of unknown version");
    match session.negotiated_cipher_suite() {
        Some(suite) => format!("{version} {:?}", suite.suite()),
        None => version.to_owned(),
    }
}

/// The cross-crate form of an error packet.
pub(super) fn refusal(subject: &Subject, operation: &'static str, packet: &[u8]) -> Error {
    match ServerError::parse(packet) {
        Ok(error) => subject.map(operation, &error),
        Err(cause) => malformed(cause),
    }
}

/// The server has not answered in time; `greeted` if it has said something before.
pub(super) fn no_answer(timeout: Duration, greeted: bool) -> Error {
    let seconds = timeout.as_secs_f64();
    let (what, hint) = if greeted {
        ("log in", "the server is slow or hangs: SHOW PROCESSLIST on the server")
    } else {
        (
            "receive greeting",
            "the port accepts connections and says nothing: is it a MySQL server? HTTP servers wait so",
        )
    };
    Error::new(ErrorKind::Timeout, what, format!("no answer within {seconds} s")).with_hint(hint)
}

async fn receive_greeting(packets: &mut PacketStream<ObservedSocket>, endpoint: &Endpoint) -> Result<Greeting> {
    // A peer of another protocol is told by its first bytes: they would be read as an absurd length and number.
    while packets.unread().len() < 5 {
        packets.fill().await.map_err(|error| match error.kind() {
            ErrorKind::Timeout => no_answer(endpoint.connect_timeout, false),
            _ => error,
        })?;
    }
    let said = packets.unread();
    let length = u32::from_le_bytes([said[0], said[1], said[2], 0]) as usize;
    if length > GREETING_BYTES_MAX || said[3] != 0 || !matches!(said[4], 10 | 0xFF) {
        let what = sniff::describe(said).map(|what| format!(" but {what}")).unwrap_or_default();
        let message = format!("\"{}\" is no MySQL greeting{what}", sniff::shown(said));
        return Err(Error::new(ErrorKind::Protocol, "receive greeting", message)
            .with_hint("another service listens on this port: check `port` and `protocol`"));
    }
    let located = packets.receive().await?;
    let packet = packets.bytes(&located);
    if packet.first() == Some(&0xFF) {
        return Err(refusal(&endpoint.subject, "connect", packet));
    }
    Greeting::parse(packet).map_err(malformed)
}
