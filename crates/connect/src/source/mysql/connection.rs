//! One connection: handshake, login, session, statements.
//!
//! Promise: a connection that is given back after an error is never used again; no secret reaches an error.

use std::sync::Arc;
use std::time::Duration;

use portolan_model::source::Secret;
use portolan_model::{Error, ErrorKind, Result};

use super::cursor::Parameter;
use super::error::Subject;
use super::wire::login;
use super::wire::message::{
    CONNECTION_CHARACTER_SET, Column, Greeting, Prepared, ServerError, capability, column_type,
};
use super::wire::packets::{Located, PacketStream, malformed};
use super::wire::reader::{Malformed, Reader, put_bytes};

use crate::transport::tls::Tls;
use crate::transport::{Dialer, ObservedSocket, Stream, sniff};

/// Answers to our own small questions have at most so many rows.
const ROWS_MAX: usize = 100_000;
/// Rounds of a login: more is a server that plays with us.
const LOGIN_STEPS_MAX: usize = 8;
const GREETING_BYTES_MAX: usize = 1 << 16;

/// Makes the session the same whatever the server's defaults are: text in UTF-8, instants in UTC, zero dates shown,
/// no silent limit of rows, patience while the lake is slow, nothing written.
const SESSION: [&str; 2] = [
    "SET NAMES utf8mb4, time_zone = '+00:00', sql_mode = '', sql_select_limit = 18446744073709551615, \
     net_write_timeout = 600, autocommit = 1",
    "SET SESSION TRANSACTION READ ONLY",
];

mod command {
    pub(super) const QUIT: u8 = 0x01;
    pub(super) const QUERY: u8 = 0x03;
    pub(super) const PING: u8 = 0x0E;
    pub(super) const STATEMENT_PREPARE: u8 = 0x16;
    pub(super) const STATEMENT_EXECUTE: u8 = 0x17;
}

/// Where to connect, and as whom.
pub(super) struct Endpoint {
    pub(super) dialer: Dialer,
    pub(super) tls: Option<Tls>,
    pub(super) password: Option<Secret>,
    pub(super) subject: Subject,
    pub(super) connect_timeout: Duration,
    pub(super) idle_timeout: Duration,
}

/// A statement that the server has prepared.
#[derive(Clone, Debug)]
pub(super) struct PreparedStatement {
    id: u32,
    parameters: u16,
    /// The columns of its result, as known when it was prepared.
    pub(super) columns: Vec<Column>,
}

/// What the next packet of a result is.
pub(super) enum Step<'a> {
    Row(&'a [u8]),
    /// More bytes are needed: [`Connection::fill`].
    Pending,
    End,
}

/// An open connection, logged in.
pub(super) struct Connection {
    packets: PacketStream<Stream>,
    endpoint: Arc<Endpoint>,
    capabilities: u32,
    extended_metadata: bool,
    /// The server's number of this connection, for KILL.
    pub(super) thread_id: u32,
    /// The server's version.
    pub(super) server: String,
    /// Negotiated TLS version and cipher suite.
    pub(super) tls: Option<String>,
}

impl Connection {
    /// Connects, logs in and makes the session.
    pub(super) async fn open(endpoint: &Arc<Endpoint>) -> Result<Self> {
        let allowed = endpoint.connect_timeout;
        let deadline = tokio::time::Instant::now() + allowed;
        let socket = ObservedSocket::new(endpoint.dialer.clone().connect(deadline, allowed).await?);
        let mut greeted = false;
        match tokio::time::timeout_at(deadline, Self::log_in(socket, endpoint, &mut greeted)).await {
            Ok(result) => result,
            Err(_) => Err(no_greeting(allowed, greeted)),
        }
    }

    async fn log_in(socket: ObservedSocket, endpoint: &Arc<Endpoint>, greeted: &mut bool) -> Result<Self> {
        let mut packets = PacketStream::new(socket, endpoint.connect_timeout);
        let greeting = receive_greeting(&mut packets, endpoint).await?;
        *greeted = true;
        let mut capabilities = (capability::LONG_FLAG
            | capability::PROTOCOL_41
            | capability::TRANSACTIONS
            | capability::SECURE_CONNECTION
            | capability::PLUGIN_AUTHENTICATION
            | capability::CONNECT_ATTRIBUTES
            | capability::AUTHENTICATION_DATA_LENGTH_ENCODED
            | capability::DEPRECATE_EOF)
            & greeting.capabilities
            | capability::CONNECT_WITH_DATABASE;
        if capabilities & capability::PROTOCOL_41 == 0 {
            return Err(Error::new(ErrorKind::Protocol, "log in", "the server is older than MySQL 4.1"));
        }
        let mariadb_capabilities = greeting.mariadb_capabilities & capability::MARIADB_EXTENDED_METADATA;
        capabilities |= greeting.capabilities & capability::MYSQL;
        let mut head = |tls: u32| {
            capabilities |= tls;
            let mut head = capabilities.to_le_bytes().to_vec();
            head.extend_from_slice(&(1u32 << 30).to_le_bytes()); // longest packet we send or take
            head.push(CONNECTION_CHARACTER_SET);
            head.extend_from_slice(&[0; 19]);
            head.extend_from_slice(&mariadb_capabilities.to_le_bytes());
            head
        };
        let mut tls_name = None;
        let (stream, sequence) = if let Some(tls) = &endpoint.tls {
            if greeting.capabilities & capability::TLS == 0 {
                return Err(Error::new(ErrorKind::Tls, "start TLS", "the server does not offer TLS").with_hint(
                    "set ssl_cert and ssl_key on the server, or write tls = { allow_plaintext = \"REASON\" }",
                ));
            }
            packets.send(&head(capability::TLS)).await?;
            let (socket, sequence) = packets.into_stream()?;
            let stream = tls.handshake(socket).await?;
            tls_name = Some(negotiated(stream.get_ref().1));
            (Stream::tls(stream), sequence)
        } else {
            let (socket, sequence) = packets.into_stream()?;
            (Stream::plain(socket), sequence)
        };
        let mut packets = PacketStream::new(stream, endpoint.idle_timeout).resumed(sequence, endpoint.tls.clone());
        let is_encrypted = endpoint.tls.is_some();
        let password = endpoint.password.as_ref().map_or(&b""[..], |password| password.expose().as_bytes());
        let plugin = if greeting.plugin.is_empty() { login::NATIVE } else { &greeting.plugin };
        // Any answer will do for a method we do not know: the server then names the account's own.
        let answer = login::answer(plugin, &greeting.nonce, password, is_encrypted).unwrap_or_default();
        let mut response = head(0);
        response.extend_from_slice(endpoint.subject.user.as_bytes());
        response.push(0);
        if capabilities & capability::AUTHENTICATION_DATA_LENGTH_ENCODED != 0 {
            put_bytes(&mut response, &answer);
        } else {
            response.push(answer.len() as u8);
            response.extend_from_slice(&answer);
        }
        response.extend_from_slice(endpoint.subject.database.as_bytes());
        response.push(0);
        if capabilities & capability::PLUGIN_AUTHENTICATION != 0 {
            response.extend_from_slice(plugin.as_bytes());
            response.push(0);
        }
        if capabilities & capability::CONNECT_ATTRIBUTES != 0 {
            let mut attributes = Vec::new();
            for (name, value) in [("program_name", "portolan"), ("_client_version", env!("CARGO_PKG_VERSION"))] {
                put_bytes(&mut attributes, name.as_bytes());
                put_bytes(&mut attributes, value.as_bytes());
            }
            put_bytes(&mut response, &attributes);
        }
        packets.send(&response).await?;
        authenticate(&mut packets, endpoint, plugin.to_owned(), greeting.nonce.clone(), password).await?;
        let mut connection = Self {
            packets,
            endpoint: endpoint.clone(),
            capabilities,
            extended_metadata: mariadb_capabilities != 0,
            thread_id: greeting.thread_id,
            server: greeting.display_version().to_owned(),
            tls: tls_name,
        };
        for statement in SESSION {
            connection.query(statement).await?;
        }
        Ok(connection)
    }

    /// Whether the server still answers.
    pub(super) async fn ping(&mut self) -> Result<()> {
        self.send(command::PING, &[]).await?;
        self.packet().await.map(drop)
    }

    /// Runs a small statement; its rows as text.
    pub(super) async fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.send(command::QUERY, sql.as_bytes()).await?;
        let located = self.packet().await?;
        let header = self.packets.bytes(&located);
        if header.first() == Some(&0) {
            return Ok(Vec::new());
        }
        let columns = column_count(header)?;
        self.definitions(columns).await?;
        let mut rows = Vec::new();
        loop {
            let located = self.packets.receive().await?;
            match self.step(&located, "read answer")? {
                Step::Row(packet) => {
                    let mut reader = Reader::new(packet);
                    let row = (0..columns)
                        .map(|_| {
                            let value = reader.bytes_or_null()?;
                            Ok(value.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
                        })
                        .collect::<Result<_, _>>();
                    rows.push(row.map_err(malformed)?);
                    if rows.len() > ROWS_MAX {
                        return Err(Error::new(ErrorKind::Limit, "read answer", "an answer has too many rows"));
                    }
                }
                _ => return Ok(rows),
            }
        }
    }

    /// Has the server prepare `sql`, which takes `parameters` values.
    pub(super) async fn prepare(&mut self, sql: &str, parameters: usize) -> Result<PreparedStatement> {
        self.send(command::STATEMENT_PREPARE, sql.as_bytes()).await?;
        let located = self.packet().await?;
        let prepared = Prepared::parse(self.packets.bytes(&located)).map_err(malformed)?;
        if prepared.parameters > 0 {
            self.definitions(prepared.parameters).await?;
        }
        let columns = if prepared.columns > 0 { self.definitions(prepared.columns).await? } else { Vec::new() };
        if usize::from(prepared.parameters) != parameters {
            return Err(Error::new(
                ErrorKind::Configuration,
                "prepare query",
                "`query` holds a `?` that nothing fills",
            )
            .with_hint("write the value itself"));
        }
        Ok(PreparedStatement { id: prepared.id, parameters: prepared.parameters, columns })
    }

    /// The request that executes a statement, ready to be sent.
    pub(super) fn execution(statement: &PreparedStatement, parameters: &[Parameter]) -> Vec<u8> {
        let mut request = vec![command::STATEMENT_EXECUTE];
        request.extend_from_slice(&statement.id.to_le_bytes());
        request.extend_from_slice(&[0, 1, 0, 0, 0]); // no server-side cursor; one iteration
        if statement.parameters > 0 {
            request.extend(std::iter::repeat_n(0, parameters.len().div_ceil(8)));
            request.push(1);
            parameters.iter().for_each(|parameter| request.extend_from_slice(&parameter.wire_type()));
            parameters.iter().for_each(|parameter| parameter.put(&mut request));
        }
        request
    }

    /// Sends a request made by [`Self::execution`].
    pub(super) async fn send_execution(&mut self, request: &[u8]) -> Result<()> {
        self.packets.reset_sequence();
        self.packets.send(request).await
    }

    /// Reads the head of the answer to an execution: the columns of the rows that follow.
    pub(super) async fn answer_columns(&mut self) -> Result<Vec<Column>> {
        let located = self.packet().await?;
        let header = self.packets.bytes(&located);
        if header.first() == Some(&0) {
            return Err(Error::new(ErrorKind::Configuration, "read rows", "the query yields no rows at all")
                .with_hint("`query` must be a SELECT"));
        }
        let count = column_count(header)?;
        self.definitions(count).await
    }

    /// What has been received of the rows.
    pub(super) fn next_row(&mut self) -> Result<Step<'_>> {
        match self.packets.locate()? {
            Some(located) => self.step(&located, "read rows"),
            None => Ok(Step::Pending),
        }
    }

    /// Waits for more bytes.
    pub(super) async fn fill(&mut self) -> Result<()> {
        self.packets.fill().await
    }

    /// Bytes received since the last call.
    pub(super) fn take_received_bytes(&mut self) -> u64 {
        self.packets.take_received_bytes()
    }

    /// Says goodbye.
    pub(super) async fn close(mut self) {
        if self.send(command::QUIT, &[]).await.is_ok() {
            self.packets.shutdown().await;
        }
    }

    fn step(&self, located: &Located, operation: &'static str) -> Result<Step<'_>> {
        let packet = self.packets.bytes(located);
        match packet.first() {
            Some(0xFF) => Err(self.refusal(operation, packet)),
            // A row of text may begin with the same byte, but only if it is longer than a frame.
            Some(0xFE) if packet.len() < 0xFF_FFFF => Ok(Step::End),
            _ => Ok(Step::Row(packet)),
        }
    }

    async fn send(&mut self, code: u8, body: &[u8]) -> Result<()> {
        self.packets.reset_sequence();
        self.packets.send(&[&[code], body].concat()).await
    }

    /// The next packet, unless it is an error.
    async fn packet(&mut self) -> Result<Located> {
        let located = self.packets.receive().await?;
        let packet = self.packets.bytes(&located);
        if packet.first() == Some(&0xFF) { Err(self.refusal("run statement", packet)) } else { Ok(located) }
    }

    fn refusal(&self, operation: &'static str, packet: &[u8]) -> Error {
        refusal(&self.endpoint.subject, operation, packet)
    }

    async fn definitions(&mut self, count: u16) -> Result<Vec<Column>> {
        let mut columns = Vec::new();
        for _ in 0..count {
            let located = self.packet().await?;
            columns.push(Column::parse(self.packets.bytes(&located), self.extended_metadata).map_err(malformed)?);
        }
        if self.capabilities & capability::DEPRECATE_EOF == 0 {
            self.packet().await?;
        }
        Ok(columns)
    }
}

impl Parameter {
    fn wire_type(&self) -> [u8; 2] {
        match self {
            Self::Integer(value) if *value > i128::from(i64::MAX) => [column_type::LONGLONG, 0x80],
            Self::Integer(_) => [column_type::LONGLONG, 0],
            Self::Double(_) => [column_type::DOUBLE, 0],
            Self::Text(_) => [column_type::VAR_STRING, 0],
            Self::Bytes(_) => [column_type::BLOB, 0],
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            // The low eight bytes: the sign travels in the type.
            Self::Integer(value) => out.extend_from_slice(&(*value as u64).to_le_bytes()),
            Self::Double(value) => out.extend_from_slice(&value.to_le_bytes()),
            Self::Text(text) => put_bytes(out, text.as_bytes()),
            Self::Bytes(bytes) => put_bytes(out, bytes),
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

fn column_count(header: &[u8]) -> Result<u16> {
    let count = Reader::new(header).length().map_err(malformed)?;
    u16::try_from(count).ok().filter(|count| *count > 0).ok_or_else(|| malformed(Malformed("a number of columns")))
}

fn refusal(subject: &Subject, operation: &'static str, packet: &[u8]) -> Error {
    match ServerError::parse(packet) {
        Ok(error) => subject.map(operation, &error),
        Err(cause) => malformed(cause),
    }
}

fn no_greeting(timeout: Duration, greeted: bool) -> Error {
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
            ErrorKind::Timeout => no_greeting(endpoint.connect_timeout, false),
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

async fn authenticate(
    packets: &mut PacketStream<Stream>,
    endpoint: &Endpoint,
    mut plugin: String,
    mut nonce: Vec<u8>,
    password: &[u8],
) -> Result<()> {
    let is_encrypted = endpoint.tls.is_some();
    for _ in 0..LOGIN_STEPS_MAX {
        let located = packets.receive().await?;
        let packet = packets.bytes(&located);
        match packet.first() {
            Some(0x00) => return Ok(()),
            Some(0xFF) => return Err(refusal(&endpoint.subject, "log in", packet)),
            Some(0xFE) => {
                let mut reader = Reader::new(&packet[1..]);
                plugin = String::from_utf8_lossy(reader.until_nul()).into_owned();
                nonce = reader.rest().strip_suffix(&[0]).unwrap_or(reader.rest()).to_vec();
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

/// Ends a statement that nobody waits for any more: a read that is dropped leaves no query behind on the server.
pub(super) struct KillGuard {
    endpoint: Arc<Endpoint>,
    thread_id: u32,
    is_armed: bool,
}

impl KillGuard {
    pub(super) fn new(connection: &Connection) -> Self {
        Self { endpoint: connection.endpoint.clone(), thread_id: connection.thread_id, is_armed: true }
    }

    /// The statement has ended by itself.
    pub(super) fn disarm(&mut self) {
        self.is_armed = false;
    }
}

impl Drop for KillGuard {
    fn drop(&mut self) {
        if !self.is_armed {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (endpoint, thread_id) = (self.endpoint.clone(), self.thread_id);
            runtime.spawn(async move {
                // One's own connections may be killed without a privilege. A failure means that the server or the
                // statement is gone already.
                if let Ok(mut connection) = Connection::open(&endpoint).await {
                    let _ = connection.query(&format!("KILL CONNECTION {thread_id}")).await;
                    connection.close().await;
                }
            });
        }
    }
}
