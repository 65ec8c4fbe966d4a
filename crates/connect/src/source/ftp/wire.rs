//! Commands out, replies in, over any stream: plain before TLS stands, the final one after.
//!
//! Promise: every wait ends; nothing that is sent holds a line end of its own; a peer of another protocol is named.

use std::time::Duration;

use portolan_model::{Error, ErrorKind, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::reply::{Malformed, Reply, ReplyParser};
use crate::transport::sniff;

/// Bytes read at once.
const READ_BYTES: usize = 4 << 10;

/// One end of a control connection.
#[derive(Debug)]
pub(super) struct Wire<S> {
    stream: S,
    parser: ReplyParser,
    /// The longest silence.
    pub(super) patience: Duration,
    first: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S, patience: Duration) -> Self {
        Self { stream, parser: ReplyParser::default(), patience, first: Vec::new() }
    }

    /// The stream, to begin TLS on it.
    ///
    /// # Errors
    /// `Protocol`, if the server has said more than it was asked: after TLS it would pass for protected.
    pub(super) fn into_stream(self) -> Result<S> {
        if self.parser.is_empty() {
            return Ok(self.stream);
        }
        let message = "the server sent more than its answer before TLS began";
        Err(Error::new(ErrorKind::Protocol, "start TLS", message)
            .with_hint("somebody may sit between: look at the way to the server"))
    }

    pub(super) fn stream(&self) -> &S {
        &self.stream
    }

    /// Sends a command.
    ///
    /// # Errors
    /// `Configuration` if it holds a line end, which would make it two; `Disconnected`, `Timeout`.
    pub(super) async fn send(&mut self, command: &str) -> Result<()> {
        if command.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            return Err(Error::new(
                ErrorKind::Configuration,
                "send command",
                "a name, user or password holds a line end",
            )
            .with_hint("write `path`, `user` and `password` without control characters"));
        }
        let line = [command.as_bytes(), b"\r\n"].concat();
        let written = async {
            self.stream.write_all(&line).await?;
            self.stream.flush().await
        };
        match tokio::time::timeout(self.patience, written).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(broken(error)),
            Err(_) => Err(silent(self.patience)),
        }
    }

    /// The next reply.
    ///
    /// # Errors
    /// `Disconnected`, `Timeout`; `Protocol` if it is none.
    pub(super) async fn reply(&mut self) -> Result<Reply> {
        let mut buffer = [0; READ_BYTES];
        loop {
            match self.parser.next_reply() {
                Ok(Some(reply)) => return Ok(reply),
                Ok(None) => {}
                Err(malformed) => return Err(self.malformed(malformed)),
            }
            let count = match tokio::time::timeout(self.patience, self.stream.read(&mut buffer)).await {
                Ok(Ok(0)) => return Err(closed()),
                Ok(Ok(count)) => count,
                Ok(Err(error)) => return Err(broken(error)),
                Err(_) => return Err(silent(self.patience)),
            };
            if self.first.is_empty() {
                self.first = buffer[..count.min(64)].to_vec();
            }
            self.parser.push(&buffer[..count]);
        }
    }

    /// Sends a command and takes its reply.
    pub(super) async fn command(&mut self, command: &str) -> Result<Reply> {
        self.send(command).await?;
        self.reply().await
    }

    fn malformed(&self, malformed: Malformed) -> Error {
        let error = |message: String| Error::new(ErrorKind::Protocol, "read reply", message);
        match malformed {
            Malformed::Length => error("the server's reply is too long".into())
                .with_hint("is the port right? nc HOST PORT shows what answers"),
            Malformed::Code => {
                let what = sniff::describe(&self.first).filter(|_| !self.first.starts_with(b"220"));
                let what = what.map(|what| format!(": this looks like {what}")).unwrap_or_default();
                error(format!("what came is not FTP{what} ({:?})", sniff::shown(&self.first)))
                    .with_hint("is the port right? A port that begins with TLS needs implicit = true; nc HOST PORT shows what answers")
            }
        }
    }
}

pub(super) fn closed() -> Error {
    Error::new(ErrorKind::Disconnected, "read reply", "the server closed the connection")
        .with_hint("look at the server's log; is the port right?")
}

pub(super) fn broken(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Disconnected, "talk to server", "the connection broke")
        .with_hint("look at the server's log and at the network between")
        .with_cause(error)
}

pub(super) fn silent(patience: Duration) -> Error {
    Error::new(ErrorKind::Timeout, "read reply", format!("the server said nothing for {patience:?}")).with_hint(
        "does the port speak FTP? A port that begins with TLS needs implicit = true; nc HOST PORT shows what answers",
    )
}
