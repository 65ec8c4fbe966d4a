//! One connection, logged in: its session, its statements, and their end.
//!
//! Promise: every answer is bounded; a session is the same whatever the server's defaults are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use portolan_model::source::{Output, Phase};
use portolan_model::{Error, ErrorKind, Result};

use super::cursor::Parameter;
use super::error::Endpoint;
use super::handshake::{self, Session};
use super::identity;
use super::wire::message::{Column, Prepared, capability, column_type};
use super::wire::packets::{Located, malformed};
use super::wire::reader::{Malformed, Reader, put_bytes};
use crate::relational::{EndGuard, Endings};
use crate::transport::HoldKind;

/// Answers to our own small questions have at most so many bytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// The most columns that MySQL and MariaDB know of one table.
const COLUMNS_MAX: u16 = 4_096;
/// A longer column definition is no server's.
const DEFINITION_BYTES_MAX: usize = 16 << 10;
/// Makes the session the same whatever the server's defaults are: text in UTF-8, instants in UTC, zero dates shown,
/// no silent limit of rows, patience while the lake is slow, nothing written.
const SESSION: [&str; 2] = [
    "SET NAMES utf8mb4, time_zone = '+00:00', sql_mode = '', sql_select_limit = 18446744073709551615, \
     net_write_timeout = 600, autocommit = 1",
    // A snapshot is one of this level alone.
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
];

mod command {
    pub(super) const QUIT: u8 = 0x01;
    pub(super) const QUERY: u8 = 0x03;
    pub(super) const PING: u8 = 0x0E;
    pub(super) const STATEMENT_PREPARE: u8 = 0x16;
    pub(super) const STATEMENT_EXECUTE: u8 = 0x17;
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
    /// What the login has settled.
    pub(super) session: Session,
    pub(super) endpoint: Arc<Endpoint>,
    /// Which server this is ([`identity`]).
    pub(super) identity: String,
    /// The server has ended the latest statement with an error of its own.
    is_refused: AtomicBool,
}

impl Connection {
    /// Connects, logs in and makes the session.
    pub(super) async fn open(endpoint: &Arc<Endpoint>) -> Result<Self> {
        let (socket, deadline) = endpoint.connect().await?;
        let mut greeted = false;
        let session = async {
            let session = handshake::log_in(socket, endpoint, &mut greeted).await?;
            let mut connection = Self {
                session,
                endpoint: endpoint.clone(),
                identity: String::new(),
                is_refused: AtomicBool::new(false),
            };
            for statement in SESSION {
                connection.query(statement).await?;
            }
            connection.identity = identity::ask(&mut connection).await?;
            Ok(connection)
        };
        match tokio::time::timeout_at(deadline, session).await {
            Ok(result) => result,
            Err(_) => Err(handshake::no_answer(endpoint.connect_timeout, greeted)),
        }
    }

    /// Whether the server still answers.
    pub(super) async fn is_alive(&mut self) -> bool {
        let patience = self.endpoint.connect_timeout;
        let answer = async {
            self.send(command::PING, &[]).await?;
            self.packet().await
        };
        matches!(tokio::time::timeout(patience, answer).await, Ok(Ok(_)))
    }

    /// Runs a small statement; its rows as text.
    pub(super) async fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.send(command::QUERY, sql.as_bytes()).await?;
        self.query_answer().await
    }

    /// Reads the answer to a request made by [`Self::command`]: its rows as text.
    pub(super) async fn query_answer(&mut self) -> Result<Vec<Vec<Option<String>>>> {
        self.session.packets.next_answer();
        let located = self.packet().await?;
        let header = self.session.packets.bytes(&located);
        if header.first() == Some(&0) {
            return Ok(Vec::new());
        }
        let columns = column_count(header)?;
        self.definitions(columns).await?;
        let (mut rows, mut bytes) = (Vec::new(), 0);
        loop {
            let located = self.session.packets.receive().await?;
            match self.step(&located, "read answer")? {
                Step::Row(packet) => {
                    bytes += packet.len();
                    let mut reader = Reader::new(packet);
                    let row = (0..columns)
                        .map(|_| {
                            let value = reader.bytes_or_null()?;
                            Ok(value.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
                        })
                        .collect::<Result<_, _>>();
                    rows.push(row.map_err(malformed)?);
                    if bytes > ANSWER_BYTES_MAX {
                        return Err(Error::new(ErrorKind::Limit, "read answer", "an answer is too long"));
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
        let prepared = Prepared::parse(self.session.packets.bytes(&located)).map_err(malformed)?;
        if prepared.columns > COLUMNS_MAX {
            return Err(malformed(Malformed("an absurd number of columns")));
        }
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

    /// The request that runs a small statement, ready to be sent; [`Self::query_answer`] reads what comes.
    pub(super) fn command(sql: &str) -> Vec<u8> {
        [&[command::QUERY], sql.as_bytes()].concat()
    }

    /// Sends a request made by [`Self::execution`] or [`Self::command`].
    pub(super) async fn send_request(&mut self, request: &[u8]) -> Result<()> {
        self.session.packets.reset_sequence();
        self.session.packets.send(request).await
    }

    /// Sends requests in a row, of which the server answers one after the other.
    pub(super) async fn send_requests(&mut self, requests: &[Vec<u8>]) -> Result<()> {
        for request in requests {
            self.send_request(request).await?;
        }
        Ok(())
    }

    /// Sends requests made by [`Self::execution`] or [`Self::command`] with which a read begins: with those of the other ports of its round, where
    /// these begin together. The instant is noted before anything leaves, so that the server cannot have acted earlier
    /// than the receipt says.
    pub(super) async fn release(&mut self, requests: &[Vec<u8>], output: &mut dyn Output) -> Result<()> {
        if !output.is_held() {
            output.mark(Phase::Released);
            return self.send_requests(requests).await;
        }
        let hold_point = Arc::clone(self.session.observed.hold_point());
        hold_point.hold();
        self.send_requests(requests).await?;
        // Of several the server would act on the first.
        let kind = if requests.len() == 1 { HoldKind::LastByte } else { HoldKind::Whole };
        let held = hold_point.seal(kind).map_err(|error| self.session.packets.broken("send request", error))?;
        let mut released = output.released(held);
        loop {
            let said = tokio::select! {
                // First: a quick server's answer may be there as soon.
                biased;
                () = &mut released => return Ok(()),
                said = self.session.packets.fill() => said,
            };
            match said {
                // It is silent because it was not asked.
                Err(error) if error.kind() == ErrorKind::Timeout => {}
                // It takes leave before it was asked, perhaps with a word.
                said => {
                    said?;
                    self.packet().await?;
                    return Err(malformed(Malformed("it answers before it was asked")));
                }
            }
        }
    }

    /// Reads the head of the answer to an execution: the columns of the rows that follow.
    pub(super) async fn answer_columns(&mut self) -> Result<Vec<Column>> {
        let located = self.packet().await?;
        let header = self.session.packets.bytes(&located);
        if header.first() == Some(&0) {
            return Err(Error::new(ErrorKind::Configuration, "read rows", "the query yields no rows at all")
                .with_hint("`query` must be a SELECT"));
        }
        let count = column_count(header)?;
        self.definitions(count).await
    }

    /// Whether the server has ended a statement with an error of its own: nothing runs there any more.
    pub(super) fn is_refused(&self) -> bool {
        self.is_refused.load(Ordering::Relaxed)
    }

    /// What has been received of the rows.
    pub(super) fn next_row(&mut self) -> Result<Step<'_>> {
        match self.session.packets.locate()? {
            Some(located) => self.step(&located, "read rows"),
            None => Ok(Step::Pending),
        }
    }

    /// Waits for more bytes.
    pub(super) async fn fill(&mut self) -> Result<()> {
        self.session.packets.fill().await
    }

    /// Bytes received since the last call.
    pub(super) fn take_received_bytes(&mut self) -> u64 {
        self.session.packets.take_received_bytes()
    }

    /// Says goodbye.
    pub(super) async fn close(mut self) {
        if self.send(command::QUIT, &[]).await.is_ok() {
            self.session.packets.shutdown().await;
        }
    }

    /// Ends what this connection does when it is dropped: a read that is dropped leaves no query behind on the server.
    pub(super) fn guard(&self, endings: &Endings) -> EndGuard {
        let (endpoint, identity, thread_id) = (self.endpoint.clone(), self.identity.clone(), self.session.thread_id);
        EndGuard::new(endings, async move {
            // One's own connections may be killed without a privilege. A failure means that the server or the statement
            // is gone already.
            if let Ok(mut connection) = Connection::open(&endpoint).await {
                // On another server that number is somebody else's.
                if connection.identity == identity {
                    let _ = connection.query(&format!("KILL CONNECTION {thread_id}")).await;
                }
                connection.close().await;
            }
        })
    }

    fn step(&self, located: &Located, operation: &'static str) -> Result<Step<'_>> {
        let packet = self.session.packets.bytes(located);
        match packet.first() {
            Some(0xFF) => Err(self.refusal(operation, packet)),
            // A row of text may begin with the same byte, but only if it is longer than a frame.
            Some(0xFE) if packet.len() < 0xFF_FFFF => Ok(Step::End),
            _ => Ok(Step::Row(packet)),
        }
    }

    async fn send(&mut self, code: u8, body: &[u8]) -> Result<()> {
        self.session.packets.reset_sequence();
        self.session.packets.send(&[&[code], body].concat()).await
    }

    /// The next packet, unless it is an error.
    async fn packet(&mut self) -> Result<Located> {
        let located = self.session.packets.receive().await?;
        let packet = self.session.packets.bytes(&located);
        if packet.first() == Some(&0xFF) { Err(self.refusal("run statement", packet)) } else { Ok(located) }
    }

    fn refusal(&self, operation: &'static str, packet: &[u8]) -> Error {
        self.is_refused.store(true, Ordering::Relaxed);
        handshake::refusal(&self.endpoint.subject, operation, packet)
    }

    async fn definitions(&mut self, count: u16) -> Result<Vec<Column>> {
        let mut columns = Vec::new();
        for _ in 0..count {
            let located = self.packet().await?;
            let packet = self.session.packets.bytes(&located);
            if packet.len() > DEFINITION_BYTES_MAX {
                return Err(malformed(Malformed("a column definition is too long")));
            }
            columns.push(Column::parse(packet, self.session.extended_metadata).map_err(malformed)?);
        }
        if self.session.capabilities & capability::DEPRECATE_EOF == 0 {
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

fn column_count(header: &[u8]) -> Result<u16> {
    let count = Reader::new(header).length().map_err(malformed)?;
    let known = u16::try_from(count).ok().filter(|count| (1..=COLUMNS_MAX).contains(count));
    known.ok_or_else(|| malformed(Malformed("an absurd number of columns")))
}
