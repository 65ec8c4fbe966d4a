//! Bytes to and from a database: a receive buffer, deadlines, and what is said of a connection that breaks.
//!
//! Promise: memory is bounded by the longest message that its caller asks room for.

use std::io;
use std::ops::Range;
use std::time::Duration;

use portolan_model::{Error, ErrorKind, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::transport::tls::Tls;

/// How much is received at once.
pub(crate) const BUFFER_BYTES: usize = 128 << 10;

/// What to do about a connection, in the words of its engine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hints {
    /// It has ended.
    pub(crate) closed: &'static str,
    /// It is open, and nothing comes.
    pub(crate) silent: &'static str,
}

/// A byte stream with what has been received of it and is not read yet.
pub(crate) struct Buffered<S> {
    stream: S,
    /// Explains errors that TLS shows only after the handshake, such as a refused client certificate.
    tls: Option<Tls>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    received_bytes: u64,
    idle_timeout: Duration,
    hints: Hints,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Buffered<S> {
    pub(crate) fn new(stream: S, tls: Option<Tls>, idle_timeout: Duration, hints: Hints) -> Self {
        let buffer = vec![0; BUFFER_BYTES];
        Self { stream, tls, buffer, start: 0, end: 0, received_bytes: 0, idle_timeout, hints }
    }

    /// The byte stream alone: what has been received and not read is lost.
    pub(crate) fn into_stream(self) -> S {
        self.stream
    }

    /// Bytes received since the last call.
    pub(crate) fn take_received_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.received_bytes)
    }

    /// The bytes that have come and are not read yet.
    #[inline]
    pub(crate) fn unread(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Reads a message of `length` bytes that is there: where its payload lies, which begins after `head` bytes. Valid
    /// until the next [`Self::fill`].
    #[inline]
    pub(crate) fn read(&mut self, head: usize, length: usize) -> Range<usize> {
        let payload = self.start + head..self.start + length;
        self.start = payload.end;
        payload
    }

    /// The bytes of a payload that [`Self::read`] has given.
    #[inline]
    pub(crate) fn bytes(&self, payload: &Range<usize>) -> &[u8] {
        self.buffer.get(payload.clone()).unwrap_or_default()
    }

    /// How long the server may stay silent from now on.
    pub(crate) fn set_idle_timeout(&mut self, idle_timeout: Duration) {
        self.idle_timeout = idle_timeout;
    }

    /// Sends whole messages.
    pub(crate) async fn send(&mut self, messages: &[u8]) -> Result<()> {
        let sent = async {
            self.stream.write_all(messages).await?;
            self.stream.flush().await
        };
        match tokio::time::timeout(self.idle_timeout, sent).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.broken("send request", error)),
            Err(_) => Err(self.silent("send request")),
        }
    }

    /// Waits for more bytes of a message of `needed` bytes. Cancel-safe.
    pub(crate) async fn fill(&mut self, needed: usize) -> Result<()> {
        self.make_room(needed);
        let read = self.stream.read(&mut self.buffer[self.end..]);
        match tokio::time::timeout(self.idle_timeout, read).await {
            Ok(Ok(0)) => Err(Error::new(ErrorKind::Disconnected, "read answer", "the server closed the connection")
                .with_hint(self.hints.closed)),
            Ok(Ok(length)) => {
                self.end += length;
                self.received_bytes += length as u64;
                Ok(())
            }
            Ok(Err(error)) => Err(self.broken("read answer", error)),
            Err(_) => Err(self.silent("read answer")),
        }
    }

    /// Says that no more requests come.
    pub(crate) async fn shutdown(&mut self) {
        let _ = tokio::time::timeout(Duration::from_secs(1), self.stream.shutdown()).await;
    }

    fn make_room(&mut self, needed: usize) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buffer.len() > 8 * BUFFER_BYTES {
                self.buffer = vec![0; BUFFER_BYTES];
            }
        }
        if self.start + needed > self.buffer.len() || self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if needed > self.buffer.len() {
                self.buffer.resize(needed, 0);
            }
        }
    }

    pub(crate) fn broken(&self, operation: &'static str, error: io::Error) -> Error {
        match &self.tls {
            Some(tls) if error.kind() == io::ErrorKind::InvalidData => tls.explain(error, &[]),
            _ => Error::new(ErrorKind::Disconnected, operation, "the connection broke")
                .with_hint(self.hints.closed)
                .with_cause(error),
        }
    }

    fn silent(&self, operation: &'static str) -> Error {
        let seconds = self.idle_timeout.as_secs_f64();
        Error::new(ErrorKind::Timeout, operation, format!("the server stayed silent for {seconds} s"))
            .with_hint(self.hints.silent)
    }
}
