//! One connection, logged in: its session, its statements, and their end.
//!
//! Promise: every answer is bounded; a session is the same whatever the server's defaults are.
//!
//! **Where a read's transaction begins.** [`Connection::release_copy`] sends Describe, Bind, Execute and Sync in one piece.
//! Outside of a transaction block the server opens one of its own at the Describe, which takes the locks that keep the
//! columns as they are told, and takes the snapshot of the data at the Execute; the Sync ends it. Within a block that
//! [`Connection::query`] has begun (`BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`), the same bytes read that block's
//! snapshot, and the block has to be ended after the read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use portolan_model::source::{Output, Phase};
use portolan_model::{Error, ErrorKind, Result, Retry};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::error::Endpoint;
use super::handshake::{self, Session};
use super::wire::answer::{self, Column, tag};
use super::wire::messages::{Located, malformed};
use super::wire::reader::Malformed;
use super::wire::request::Request;
use crate::relational::{EndGuard, Endings};
use crate::transport::HoldKind;

/// Answers to our own small questions have at most so many bytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Makes the session the same whatever the server's defaults are: instants in UTC, texts that say everything, nothing
/// written; and rows of what has not changed in the same order each time, which a scan that joins another's and workers that
/// scan beside each other do not keep.
const SESSION: &str = "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY; SET client_encoding = 'UTF8'; SET TimeZone = 'UTC'; \
     SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET extra_float_digits = 1; SET bytea_output = 'hex'; \
     SET xmloption = 'content'; SET synchronize_seqscans = off; SET max_parallel_workers_per_gather = 0";
/// A server that works for a while looks whether its client still lives: known from version 14 on, and not everywhere.
const LIVENESS: &str = "SET client_connection_check_interval = '10s'";
/// The prepared statement whose columns are those of what is read.
const WHOLE: &str = "portolan_whole";
/// The prepared COPY.
const COPY: &str = "portolan_copy";

/// What the next message of a COPY is.
pub(super) enum Step<'a> {
    /// A row, or what stands before and behind the rows.
    Data(&'a [u8]),
    /// More bytes are needed: [`Connection::fill`].
    Pending,
    End,
}

/// An open connection, logged in.
pub(super) struct Connection {
    /// What the login has settled.
    pub(super) session: Session,
    endpoint: Arc<Endpoint>,
    /// The description of what is read, as the server has sent it.
    description: Vec<u8>,
    /// The COPY that is prepared.
    copy: Option<String>,
    /// The server has ended the latest statement with an error of its own.
    is_refused: AtomicBool,
}

impl Connection {
    /// Connects, logs in and makes the session.
    pub(super) async fn open(endpoint: &Arc<Endpoint>) -> Result<Self> {
        let (socket, deadline) = endpoint.connect().await?;
        let mut answered = false;
        let session = async {
            let session = handshake::log_in(socket, endpoint, &mut answered).await?;
            let mut connection = Self {
                session,
                endpoint: endpoint.clone(),
                description: Vec::new(),
                copy: None,
                is_refused: AtomicBool::new(false),
            };
            connection.query(SESSION).await?;
            match connection.query(LIVENESS).await {
                Err(error) if !connection.is_refused() => return Err(error),
                _ => connection.is_refused.store(false, Ordering::Relaxed),
            }
            Ok(connection)
        };
        match tokio::time::timeout_at(deadline, session).await {
            Ok(result) => result,
            Err(_) => Err(handshake::no_answer(endpoint.connect_timeout, answered)),
        }
    }

    /// Whether the server still answers, and what is read still has the same columns.
    pub(super) async fn is_as_before(&mut self) -> bool {
        let patience = self.endpoint.connect_timeout;
        let answer = async {
            self.send(Request::default().describe(WHOLE).sync()).await?;
            self.check_description().await?;
            self.until_ready().await
        };
        matches!(tokio::time::timeout(patience, answer).await, Ok(Ok(())))
    }

    /// Runs small statements; the rows as text.
    pub(super) async fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.send(Request::default().query(sql)).await?;
        self.query_answer().await
    }

    /// Reads the rows of small statements that have been sent.
    pub(super) async fn query_answer(&mut self) -> Result<Vec<Vec<Option<String>>>> {
        let (mut rows, mut bytes, mut refusal) = (Vec::new(), 0, None);
        loop {
            let located = match self.message().await {
                Ok(located) => located,
                // After its last words it closes.
                Err(error) => return Err(refusal.unwrap_or(error)),
            };
            let message = self.session.messages.bytes(&located);
            match located.tag {
                tag::DATA_ROW => {
                    bytes += message.len();
                    rows.push(answer::row(message).map_err(malformed)?);
                    if bytes > ANSWER_BYTES_MAX {
                        return Err(Error::new(ErrorKind::Limit, "read answer", "an answer is too long"));
                    }
                }
                tag::ERROR => refusal = Some(self.refusal("run statement", message)),
                tag::READY => return refusal.map_or(Ok(rows), Err),
                tag::ROW_DESCRIPTION | tag::COMMAND_COMPLETE | tag::EMPTY_QUERY => {}
                _ => return Err(malformed(Malformed("a message that does not belong to a query"))),
            }
        }
    }

    /// Has the server prepare `sql`, what is read as a whole; tells its columns.
    pub(super) async fn describe(&mut self, sql: &str) -> Result<Vec<Column>> {
        self.send(Request::default().parse(WHOLE, sql).describe(WHOLE).sync()).await?;
        let (mut columns, mut has_parameters) = (None, false);
        loop {
            let located = self.expect("prepare query").await?;
            let message = self.session.messages.bytes(&located);
            match located.tag {
                tag::PARAMETER_DESCRIPTION => has_parameters = message.iter().any(|byte| *byte != 0),
                tag::ROW_DESCRIPTION => {
                    self.description = message.to_vec();
                    columns = Some(answer::columns(&self.description).map_err(malformed)?);
                }
                tag::READY => break,
                tag::PARSE_COMPLETE | tag::CLOSE_COMPLETE | tag::NO_DATA => {}
                _ => return Err(malformed(Malformed("a message that does not belong to a description"))),
            }
        }
        let refused = |message: &str, hint: &str| {
            Err(Error::new(ErrorKind::Configuration, "prepare query", message.to_owned()).with_hint(hint.to_owned()))
        };
        match columns {
            _ if has_parameters => refused("`query` holds a `$1` that nothing fills", "write the value itself"),
            Some(columns) if !columns.is_empty() => Ok(columns),
            Some(_) => refused("what is read has no columns", "name some in `query`"),
            None => refused("the query yields no rows at all", "`query` must be a SELECT"),
        }
    }

    /// Has the server prepare the COPY, if it is not yet.
    pub(super) async fn prepare_copy(&mut self, sql: &str) -> Result<()> {
        if self.copy.as_deref() == Some(sql) {
            return Ok(());
        }
        self.send(Request::default().parse(COPY, sql).sync()).await?;
        self.until_ready().await?;
        self.copy = Some(sql.to_owned());
        Ok(())
    }

    /// Starts the COPY that was prepared.
    pub(super) async fn start_copy(&mut self) -> Result<()> {
        self.send(Request::default().describe(WHOLE).execute(COPY).sync()).await
    }

    /// Starts the COPY that was prepared, with which a read begins.
    pub(super) async fn release_copy(&mut self, output: &mut dyn Output) -> Result<()> {
        // Several messages, of which the server acts on each: none of them leaves before the release.
        let request = Request::default().describe(WHOLE).execute(COPY).sync();
        self.release(request, HoldKind::Whole, output).await
    }

    /// Sends a small statement with which a read begins; [`Self::query_answer`] reads what comes.
    pub(super) async fn release_query(&mut self, sql: &str, output: &mut dyn Output) -> Result<()> {
        self.release(Request::default().query(sql), HoldKind::LastByte, output).await
    }

    /// Sends a request with which a read begins: with the reads of the other ports of its round, where these begin together.
    /// The instant is noted before anything leaves, so that the server cannot have acted earlier than the receipt says.
    async fn release(&mut self, request: Request, kind: HoldKind, output: &mut dyn Output) -> Result<()> {
        if !output.is_held() {
            output.mark(Phase::Released);
            return self.send(request).await;
        }
        let hold_point = Arc::clone(self.session.observed.hold_point());
        hold_point.hold();
        self.send(request).await?;
        let held = hold_point.seal(kind).map_err(|error| self.session.messages.broken("send request", error))?;
        let mut released = output.released(held);
        loop {
            let said = tokio::select! {
                // First: a quick server's answer may be there as soon.
                biased;
                () = &mut released => return Ok(()),
                said = self.session.messages.fill() => said,
            };
            match said {
                // It is silent because it was not asked.
                Err(error) if error.kind() == ErrorKind::Timeout => {}
                // It takes leave before it was asked, perhaps with a word; or it tells of a changed setting.
                said => {
                    said?;
                    while let Some(located) = self.session.messages.locate()? {
                        if !is_aside(located.tag) {
                            return Err(self.unasked(&located));
                        }
                    }
                }
            }
        }
    }

    /// Reads the head of the answer to a COPY: its columns are those that were described.
    pub(super) async fn begin_copy(&mut self) -> Result<()> {
        self.check_description().await?;
        loop {
            let located = self.expect("read rows").await?;
            match located.tag {
                tag::BIND_COMPLETE => {}
                tag::COPY_OUT => return Ok(()),
                _ => return Err(malformed(Malformed("a message that does not belong to a COPY"))),
            }
        }
    }

    /// What has been received of the rows.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Step<'_>> {
        loop {
            let Some(located) = self.session.messages.locate()? else { return Ok(Step::Pending) };
            match located.tag {
                tag::COPY_DATA => return Ok(Step::Data(self.session.messages.bytes(&located))),
                tag::READY => return Ok(Step::End),
                tag::ERROR => return Err(self.refusal("read rows", self.session.messages.bytes(&located))),
                tag::COPY_DONE | tag::COMMAND_COMPLETE => {}
                other if is_aside(other) => {}
                _ => return Err(malformed(Malformed("a message that does not belong to a COPY"))),
            }
        }
    }

    /// Waits for more bytes.
    pub(super) async fn fill(&mut self) -> Result<()> {
        self.session.messages.fill().await
    }

    /// Bytes received since the last call.
    pub(super) fn take_received_bytes(&mut self) -> u64 {
        self.session.messages.take_received_bytes()
    }

    /// Whether the server has ended a statement with an error of its own: nothing runs there any more.
    pub(super) fn is_refused(&self) -> bool {
        self.is_refused.load(Ordering::Relaxed)
    }

    /// Says goodbye.
    pub(super) async fn close(mut self) {
        if self.send(Request::default().terminate()).await.is_ok() {
            self.session.messages.shutdown().await;
        }
    }

    /// Ends what this connection does when it is dropped: a read that is dropped leaves no query behind on the server.
    pub(super) fn guard(&self, endings: &Endings) -> EndGuard {
        let (endpoint, session) = (self.endpoint.clone(), &self.session);
        // Whoever knows the session's secret may end what it does. A failure means that the server or the statement is
        // gone already.
        let request = Request::cancel(session.process, &session.secret);
        EndGuard::new(endings, async move {
            let _ = tokio::time::timeout(endpoint.connect_timeout, cancel(&endpoint, &request)).await;
        })
    }

    async fn send(&mut self, request: Request) -> Result<()> {
        self.session.messages.send(request.bytes()).await
    }

    /// Reads the description of what is read, which must be the one that is known.
    async fn check_description(&mut self) -> Result<()> {
        loop {
            let located = self.expect("read rows").await?;
            match located.tag {
                tag::PARAMETER_DESCRIPTION => {}
                tag::ROW_DESCRIPTION if self.session.messages.bytes(&located) == self.description => return Ok(()),
                tag::ROW_DESCRIPTION => {
                    let message = "what is read has other columns than when it was prepared";
                    return Err(Error::new(ErrorKind::Data, "read rows", message)
                        .with_retry(Retry::Transient)
                        .with_hint("it is read with its new columns next time"));
                }
                _ => return Err(malformed(Malformed("a message that does not belong to a description"))),
            }
        }
    }

    async fn until_ready(&mut self) -> Result<()> {
        loop {
            let located = self.expect("prepare query").await?;
            match located.tag {
                tag::READY => return Ok(()),
                tag::PARSE_COMPLETE | tag::CLOSE_COMPLETE => {}
                _ => return Err(malformed(Malformed("a message that does not belong to a preparation"))),
            }
        }
    }

    /// The next message that is not said aside.
    async fn message(&mut self) -> Result<Located> {
        loop {
            let located = self.session.messages.receive().await?;
            if !is_aside(located.tag) {
                return Ok(located);
            }
        }
    }

    /// The next message, unless it is an error. After an error the server is silent until the end of the request, which is
    /// read, too, so that the connection can be asked again.
    async fn expect(&mut self, operation: &'static str) -> Result<Located> {
        let located = self.message().await?;
        if located.tag != tag::ERROR {
            return Ok(located);
        }
        let refusal = self.refusal(operation, self.session.messages.bytes(&located));
        // Or it closes after its last words.
        while self.message().await.is_ok_and(|located| located.tag != tag::READY) {}
        Err(refusal)
    }

    fn refusal(&self, operation: &'static str, message: &[u8]) -> Error {
        self.is_refused.store(true, Ordering::Relaxed);
        handshake::refusal(&self.endpoint.subject, operation, message)
    }

    fn unasked(&self, located: &Located) -> Error {
        match located.tag {
            tag::ERROR => self.refusal("read rows", self.session.messages.bytes(located)),
            _ => malformed(Malformed("it answers before it was asked")),
        }
    }
}

/// What a server may say at any time.
fn is_aside(tag: u8) -> bool {
    matches!(tag, tag::NOTICE | tag::NOTIFICATION | tag::PARAMETER_STATUS)
}

async fn cancel(endpoint: &Endpoint, request: &[u8]) -> Result<()> {
    let (socket, _) = endpoint.connect().await?;
    let (mut stream, _) = handshake::secure(socket, endpoint).await?;
    let sent = async {
        stream.write_all(request).await?;
        stream.flush().await?;
        // The server closes when it has done so.
        stream.read_u8().await
    };
    let _ = sent.await;
    Ok(())
}
