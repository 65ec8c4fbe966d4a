//! Packets over a byte stream: framing, sequence numbers, deadlines. Memory is bounded by the longest packet allowed.

use std::io;
use std::ops::Range;
use std::time::Duration;

use portolan_model::{Error, ErrorKind, Result};
use tokio::io::{AsyncRead, AsyncWrite};

use super::reader::Malformed;
use crate::relational::{BUFFER_BYTES, Buffered, Hints};
use crate::transport::tls::Tls;

/// The longest row accepted, in bytes: a limit of ours that keeps a row from taking the machine's memory.
pub(crate) const PACKET_BYTES_MAX: usize = 128 << 20;
/// A packet of this length continues in the next one.
const FRAME_BYTES_MAX: usize = 0xFF_FFFF;
const HINTS: Hints = Hints {
    closed: "look at the server's error log; limits that end connections: max_allowed_packet, net_write_timeout, \
             wait_timeout",
    silent: "a lock or a slow query may hold it up: SHOW FULL PROCESSLIST; else raise `idle_timeout`",
};

/// Where a whole packet lies; valid until the stream is touched again.
#[derive(Clone, Debug)]
pub(crate) enum Located {
    Buffered(Range<usize>),
    Joined,
}

/// Packets over a byte stream.
pub(crate) struct PacketStream<S> {
    stream: Buffered<S>,
    /// A packet of several frames is put together here.
    joined: Vec<u8>,
    joining: bool,
    sequence: u8,
}

impl<S: AsyncRead + AsyncWrite + Unpin> PacketStream<S> {
    pub(crate) fn new(stream: S, tls: Option<Tls>, idle_timeout: Duration) -> Self {
        let stream = Buffered::new(stream, tls, idle_timeout, HINTS);
        Self { stream, joined: Vec::new(), joining: false, sequence: 0 }
    }

    /// Gives the byte stream out, to put TLS over it, with the next sequence number. Bytes that came before the
    /// handshake must not be taken for the server's: they are an error.
    pub(crate) fn into_stream(self) -> Result<(S, u8)> {
        if !self.stream.unread().is_empty() {
            return Err(Error::new(ErrorKind::Protocol, "log in", "the server speaks out of turn"));
        }
        Ok((self.stream.into_stream(), self.sequence))
    }

    /// Goes on where the plain stream stopped.
    pub(crate) fn resumed(mut self, sequence: u8) -> Self {
        self.sequence = sequence;
        self
    }

    /// Bytes received since the last call.
    pub(crate) fn take_received_bytes(&mut self) -> u64 {
        self.stream.take_received_bytes()
    }

    /// The bytes that have come and are not read yet: what a peer of another protocol said.
    pub(crate) fn unread(&self) -> &[u8] {
        self.stream.unread()
    }

    /// Starts a new exchange.
    pub(crate) fn reset_sequence(&mut self) {
        self.sequence = 0;
    }

    /// Expects the answer to the next of several requests that have been sent in a row.
    pub(crate) fn next_answer(&mut self) {
        self.sequence = 1;
    }

    /// Sends one packet, in as many frames as it needs.
    pub(crate) async fn send(&mut self, payload: &[u8]) -> Result<()> {
        let mut frames = Vec::with_capacity(payload.len() + 4);
        let mut rest = payload;
        loop {
            let (frame, after) = rest.split_at(rest.len().min(FRAME_BYTES_MAX));
            frames.extend_from_slice(&(frame.len() as u32).to_le_bytes()[..3]);
            frames.push(self.sequence);
            self.sequence = self.sequence.wrapping_add(1);
            frames.extend_from_slice(frame);
            rest = after;
            if frame.len() < FRAME_BYTES_MAX {
                break;
            }
        }
        self.stream.send(&frames).await
    }

    /// The next packet, if the whole of it has been received.
    pub(crate) fn locate(&mut self) -> Result<Option<Located>> {
        loop {
            let unread = self.stream.unread();
            let Some(header) = unread.first_chunk::<4>() else {
                return Ok(None);
            };
            let length = u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize;
            let sequence = header[3];
            if unread.len() < 4 + length {
                return Ok(None);
            }
            if sequence != self.sequence {
                return Err(malformed(Malformed("its sequence number is not the next one")));
            }
            self.sequence = sequence.wrapping_add(1);
            let payload = self.stream.read(4, 4 + length);
            if !self.joining && length < FRAME_BYTES_MAX {
                return Ok(Some(Located::Buffered(payload)));
            }
            if !self.joining {
                self.joining = true;
                self.joined.clear();
            }
            if self.joined.len() + length > PACKET_BYTES_MAX {
                return Err(Error::new(
                    ErrorKind::Limit,
                    "read answer",
                    format!("a row is longer than {} MiB", PACKET_BYTES_MAX >> 20),
                )
                .with_hint("leave the long column out with `query`"));
            }
            self.joined.extend_from_slice(self.stream.bytes(&payload));
            if length < FRAME_BYTES_MAX {
                self.joining = false;
                return Ok(Some(Located::Joined));
            }
        }
    }

    /// The bytes of a packet that [`Self::locate`] found.
    pub(crate) fn bytes(&self, located: &Located) -> &[u8] {
        match located {
            Located::Buffered(payload) => self.stream.bytes(payload),
            Located::Joined => &self.joined,
        }
    }

    /// Waits for more bytes. Cancel-safe.
    pub(crate) async fn fill(&mut self) -> Result<()> {
        if !self.joining && self.joined.capacity() > 8 * BUFFER_BYTES {
            self.joined = Vec::new();
        }
        let needed = match self.stream.unread().first_chunk::<4>() {
            Some([a, b, c, _]) => 4 + u32::from_le_bytes([*a, *b, *c, 0]) as usize,
            None => 4,
        };
        self.stream.fill(needed).await
    }

    /// The next packet, waited for.
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

/// The cross-crate form of a packet that does not follow the protocol.
pub(crate) fn malformed(cause: Malformed) -> Error {
    cause.into_error("MySQL", "packet")
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn over(bytes: &[u8]) -> PacketStream<tokio::io::DuplexStream> {
        let (mut near, far) = tokio::io::duplex(1 << 20);
        let bytes = bytes.to_vec();
        tokio::spawn(async move { near.write_all(&bytes).await });
        PacketStream::new(far, None, Duration::from_secs(5))
    }

    #[tokio::test]
    async fn frames_become_packets() {
        let mut bytes = b"\x02\0\0\0ab\x00\0\0\x01".to_vec();
        bytes.extend_from_slice(&[0xFF, 0xFF, 0xFF, 2]);
        bytes.extend(std::iter::repeat_n(7u8, FRAME_BYTES_MAX));
        bytes.extend_from_slice(&[1, 0, 0, 3, 9]);
        let mut packets = over(&bytes);
        let located = packets.receive().await.unwrap();
        assert_eq!(packets.bytes(&located), b"ab");
        let located = packets.receive().await.unwrap();
        assert_eq!(packets.bytes(&located), b"");
        let located = packets.receive().await.unwrap();
        assert_eq!(packets.bytes(&located).len(), FRAME_BYTES_MAX + 1);
        assert_eq!(packets.take_received_bytes(), bytes.len() as u64);
        assert_eq!(packets.receive().await.unwrap_err().kind(), ErrorKind::Disconnected);
    }

    #[tokio::test]
    async fn a_wrong_sequence_number_is_a_protocol_error() {
        assert_eq!(over(b"\x01\0\0\x05a").receive().await.unwrap_err().kind(), ErrorKind::Protocol);
    }
}
