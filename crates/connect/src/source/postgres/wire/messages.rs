//! Messages over a byte stream: framing and deadlines. Memory is bounded by the longest message allowed.

use std::io;
use std::ops::Range;
use std::time::Duration;

use portolan_model::{Error, ErrorKind, Result};
use tokio::io::{AsyncRead, AsyncWrite};

use super::reader::Malformed;
use crate::relational::{Buffered, Hints};
use crate::transport::tls::Tls;

/// The longest row accepted, in bytes: a limit of ours that keeps a row from taking the machine's memory.
const MESSAGE_BYTES_MAX: usize = 128 << 20;
/// A tag and a length.
const HEAD_BYTES: usize = 5;
const HINTS: Hints = Hints {
    closed: "look at the server's log; limits that end connections: idle_session_timeout, tcp_user_timeout",
    silent: "a lock or a slow query may hold it up: SELECT * FROM pg_stat_activity; else raise `idle_timeout`",
};

/// Where a whole message lies; valid until the stream is touched again.
#[derive(Clone, Debug)]
pub(crate) struct Located {
    pub(crate) tag: u8,
    payload: Range<usize>,
}

/// Messages over a byte stream.
pub(crate) struct MessageStream<S> {
    stream: Buffered<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> MessageStream<S> {
    pub(crate) fn new(stream: S, tls: Option<Tls>, idle_timeout: Duration) -> Self {
        Self { stream: Buffered::new(stream, tls, idle_timeout, HINTS) }
    }

    /// Bytes received since the last call.
    pub(crate) fn take_received_bytes(&mut self) -> u64 {
        self.stream.take_received_bytes()
    }

    /// The bytes that have come and are not read yet: what a peer of another protocol said.
    pub(crate) fn unread(&self) -> &[u8] {
        self.stream.unread()
    }

    /// How long the server may stay silent from now on.
    pub(crate) fn set_idle_timeout(&mut self, idle_timeout: Duration) {
        self.stream.set_idle_timeout(idle_timeout);
    }

    /// Sends whole messages.
    pub(crate) async fn send(&mut self, request: &[u8]) -> Result<()> {
        self.stream.send(request).await
    }

    /// The next message, if the whole of it has been received.
    #[inline]
    pub(crate) fn locate(&mut self) -> Result<Option<Located>> {
        let unread = self.stream.unread();
        let Some([tag, a, b, c, d]) = unread.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let length = length_of([*a, *b, *c, *d])?;
        if unread.len() < 1 + length {
            return Ok(None);
        }
        let tag = *tag;
        Ok(Some(Located { tag, payload: self.stream.read(HEAD_BYTES, 1 + length) }))
    }

    /// The bytes of a message that [`Self::locate`] found.
    #[inline]
    pub(crate) fn bytes(&self, located: &Located) -> &[u8] {
        self.stream.bytes(&located.payload)
    }

    /// Waits for more bytes. Cancel-safe.
    pub(crate) async fn fill(&mut self) -> Result<()> {
        let needed = match self.stream.unread().first_chunk::<HEAD_BYTES>() {
            Some([_, a, b, c, d]) => 1 + length_of([*a, *b, *c, *d])?,
            None => HEAD_BYTES,
        };
        self.stream.fill(needed).await
    }

    /// The next message, waited for.
    pub(crate) async fn receive(&mut self) -> Result<Located> {
        loop {
            if let Some(located) = self.locate()? {
                return Ok(located);
            }
            self.fill().await?;
        }
    }

    /// Says that no more requests come.
    pub(crate) async fn shutdown(&mut self) {
        self.stream.shutdown().await;
    }

    pub(crate) fn broken(&self, operation: &'static str, error: io::Error) -> Error {
        self.stream.broken(operation, error)
    }
}

/// The length that a message claims, which counts its own four bytes.
#[inline]
fn length_of(bytes: [u8; 4]) -> Result<usize> {
    match u32::from_be_bytes(bytes) as usize {
        length @ 4..=MESSAGE_BYTES_MAX => Ok(length),
        length if length < 4 => Err(malformed(Malformed("it is shorter than its length"))),
        _ => {
            let message = format!("a row is longer than {} MiB", MESSAGE_BYTES_MAX >> 20);
            Err(Error::new(ErrorKind::Limit, "read answer", message)
                .with_hint("leave the long column out with `query`"))
        }
    }
}

/// The cross-crate form of a message that does not follow the protocol.
pub(crate) fn malformed(cause: Malformed) -> Error {
    cause.into_error("PostgreSQL", "message")
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::relational::BUFFER_BYTES;

    fn over(bytes: &[u8]) -> MessageStream<tokio::io::DuplexStream> {
        let (mut near, far) = tokio::io::duplex(1 << 20);
        let bytes = bytes.to_vec();
        tokio::spawn(async move { near.write_all(&bytes).await });
        MessageStream::new(far, None, Duration::from_secs(5))
    }

    #[tokio::test]
    async fn frames_become_messages() {
        let long = vec![7; 3 * BUFFER_BYTES];
        let mut bytes = b"Z\0\0\0\x05Id".to_vec();
        bytes.extend_from_slice(&(long.len() as u32 + 4).to_be_bytes());
        bytes.extend_from_slice(&long);
        bytes.extend_from_slice(b"c\0\0\0\x04");
        let mut messages = over(&bytes);
        let located = messages.receive().await.unwrap();
        assert_eq!((located.tag, messages.bytes(&located)), (b'Z', &b"I"[..]));
        let located = messages.receive().await.unwrap();
        assert_eq!((located.tag, messages.bytes(&located)), (b'd', &long[..]));
        let located = messages.receive().await.unwrap();
        assert_eq!((located.tag, messages.bytes(&located)), (b'c', &b""[..]));
        assert_eq!(messages.take_received_bytes(), bytes.len() as u64);
        assert_eq!(messages.receive().await.unwrap_err().kind(), ErrorKind::Disconnected);
    }

    #[tokio::test]
    async fn absurd_lengths_are_refused() {
        assert_eq!(over(b"Z\0\0\0\x03").receive().await.unwrap_err().kind(), ErrorKind::Protocol);
        assert_eq!(over(b"d\x7f\0\0\0").receive().await.unwrap_err().kind(), ErrorKind::Limit);
    }
}
