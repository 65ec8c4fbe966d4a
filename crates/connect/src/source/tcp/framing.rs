//! Where one message ends and the next begins, as a state machine without I/O.
//!
//! Promise: memory stays bounded by the largest message whatever comes; what cannot be a message is given back as
//! rejected, with its beginning, and the stream goes on behind it where the framing allows.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;
use memchr::memmem::Finder;

/// The first bytes of a rejected message that are kept.
const KEPT_BYTES: usize = 64 << 10;

/// How messages are told apart.
#[derive(Clone, Debug)]
pub enum Framing {
    /// Each ends with a line feed; a carriage return before it belongs to it.
    Lines,
    /// Each ends with these bytes, at least one.
    Delimiter(Bytes),
    /// Each begins with its length.
    Length(Length),
}

/// A length in front of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length {
    /// Bytes of the length: 1, 2, 4 or 8.
    pub bytes: u8,
    /// Whether the lowest byte comes first.
    pub is_little_endian: bool,
}

/// What the bytes hold next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A message, without its framing.
    Message(Bytes),
    /// What cannot be taken as a message.
    Rejected(Rejected),
    /// What follows cannot be told apart any more: the connection is of no use.
    Lost(Rejected),
}

/// The longest number in front of a message, with the space behind it.
pub const NUMBER_BYTES: usize = 21;

impl Length {
    /// What it says at the beginning of some bytes.
    fn of(self, bytes: &[u8]) -> Option<u64> {
        let head = bytes.get(..usize::from(self.bytes))?;
        let fold = |number: u64, byte: &u8| (number << 8) | u64::from(*byte);
        Some(if self.is_little_endian { head.iter().rev().fold(0, fold) } else { head.iter().fold(0, fold) })
    }
}

/// What cannot be taken as a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Stable short reason.
    pub reason: &'static str,
    /// Its first bytes.
    pub content: Bytes,
    /// Its size in bytes, as far as known.
    pub bytes: u64,
}

/// Takes messages off the front of what has arrived.
#[derive(Clone, Debug)]
pub struct Framer {
    framing: Framing,
    message_max: usize,
    /// Bytes at the front of the buffer that hold no end of a message.
    searched: usize,
    /// The message that is too large and still goes on.
    skipping: Option<Rejected>,
}

impl Framer {
    /// A framer for messages of at most `message_max` bytes.
    pub fn new(framing: Framing, message_max: usize) -> Self {
        Self { framing, message_max, searched: 0, skipping: None }
    }

    /// All whole lines at once, line ends included, where the framing is lines and none of them can be too long: what a
    /// busy connection brings is then taken in one piece.
    pub fn lines(&mut self, buffer: &mut BytesMut) -> Option<Bytes> {
        if !matches!(self.framing, Framing::Lines) || self.skipping.is_some() {
            return None;
        }
        let last = memchr::memrchr(b'\n', &buffer[self.searched..])? + self.searched;
        if last > self.message_max {
            return None;
        }
        self.searched = 0;
        Some(buffer.split_to(last + 1).freeze())
    }

    /// The next message, or `None` until more has arrived.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Option<Frame> {
        match &self.framing {
            Framing::Length(length) => {
                let length = *length;
                self.next_counted(length, buffer)
            }
            Framing::Lines => self.next_ended(&Bytes::from_static(b"\n"), buffer),
            Framing::Delimiter(end) => {
                let end = end.clone();
                self.next_ended(&end, buffer)
            }
        }
    }

    /// What is left when the connection has ended: a message whose end never came.
    pub fn rest(&mut self, buffer: &mut BytesMut) -> Option<Rejected> {
        let rest = buffer.split().freeze();
        self.searched = 0;
        if let Some(mut skipped) = self.skipping.take() {
            skipped.bytes += rest.len() as u64;
            return Some(skipped);
        }
        if let Framing::Length(length) = &self.framing
            && let Some(size) = length.of(&rest)
            && size > self.message_max as u64
        {
            return Some(rejected("message_too_large", &rest, size));
        }
        (!rest.is_empty()).then(|| rejected("message_cut", &rest, rest.len() as u64))
    }

    fn next_counted(&mut self, length: Length, buffer: &mut BytesMut) -> Option<Frame> {
        let width = usize::from(length.bytes);
        let size = length.of(buffer)?;
        let Some(size) = usize::try_from(size).ok().filter(|size| *size <= self.message_max) else {
            // Its first bytes hold its number, where it has one.
            if buffer.len() < width + NUMBER_BYTES {
                return None;
            }
            // A length that cannot be: nobody knows where the next message begins.
            let content = buffer.split().freeze();
            return Some(Frame::Lost(rejected("message_too_large", &content, size)));
        };
        if buffer.len() < width + size {
            return None;
        }
        buffer.advance(width);
        Some(Frame::Message(buffer.split_to(size).freeze()))
    }

    fn next_ended(&mut self, end: &Bytes, buffer: &mut BytesMut) -> Option<Frame> {
        let found = match end.as_ref() {
            [byte] => memchr(*byte, &buffer[self.searched..]),
            bytes => Finder::new(bytes).find(&buffer[self.searched..]),
        };
        let Some(at) = found.map(|at| at + self.searched) else {
            // The end may have begun in the last bytes.
            let kept = (end.len() - 1).min(buffer.len());
            if let Some(skipped) = &mut self.skipping {
                let gone = buffer.len() - kept;
                skipped.bytes += gone as u64;
                buffer.advance(gone);
                self.searched = 0;
            } else if buffer.len() > self.message_max + kept {
                let gone = buffer.split_to(buffer.len() - kept).freeze();
                self.skipping = Some(rejected("message_too_large", &gone, gone.len() as u64));
                self.searched = 0;
            } else {
                self.searched = buffer.len() - kept;
            }
            return None;
        };
        self.searched = 0;
        let message = buffer.split_to(at).freeze();
        buffer.advance(end.len());
        if let Some(mut skipped) = self.skipping.take() {
            skipped.bytes += message.len() as u64;
            return Some(Frame::Rejected(skipped));
        }
        if message.len() > self.message_max {
            return Some(Frame::Rejected(rejected("message_too_large", &message, message.len() as u64)));
        }
        Some(Frame::Message(message))
    }
}

fn rejected(reason: &'static str, content: &Bytes, bytes: u64) -> Rejected {
    // A copy, so that a large message does not stay in memory for its beginning.
    Rejected { reason, content: Bytes::copy_from_slice(&content[..content.len().min(KEPT_BYTES)]), bytes }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives `bytes` to a framer in pieces of these sizes and collects what comes.
    fn frames(framing: Framing, message_max: usize, bytes: &[u8], sizes: &[usize]) -> (Vec<Frame>, Option<Rejected>) {
        let mut framer = Framer::new(framing, message_max);
        let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
        let mut rest = bytes;
        let mut sizes = sizes.iter().cycle();
        while !rest.is_empty() {
            let size = sizes.next().copied().unwrap_or(1).clamp(1, rest.len());
            buffer.extend_from_slice(&rest[..size]);
            rest = &rest[size..];
            while let Some(frame) = framer.next(&mut buffer) {
                found.push(frame);
            }
        }
        let rest = framer.rest(&mut buffer);
        (found, rest)
    }

    fn message(text: &'static str) -> Frame {
        Frame::Message(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn messages_are_told_apart_however_they_arrive() {
        let little = Length { bytes: 2, is_little_endian: true };
        let big = Length { bytes: 4, is_little_endian: false };
        let cases: [(Framing, &[u8]); 4] = [
            (Framing::Lines, b"a\n\nccc\n"),
            (Framing::Delimiter(Bytes::from_static(b"\r\n\0")), b"a\r\n\0\r\n\0ccc\r\n\0"),
            (Framing::Length(little), b"\x01\0a\0\0\x03\0ccc"),
            (Framing::Length(big), b"\0\0\0\x01a\0\0\0\0\0\0\0\x03ccc"),
        ];
        for (framing, bytes) in cases {
            for size in 1..=bytes.len() {
                let (found, rest) = frames(framing.clone(), 3, bytes, &[size]);
                assert_eq!(found, [message("a"), message(""), message("ccc")], "{framing:?} in pieces of {size}");
                assert_eq!(rest, None);
            }
        }
    }

    #[test]
    fn what_is_too_large_is_rejected_once_and_the_next_message_comes() {
        for size in 1..20 {
            let (found, rest) = frames(Framing::Lines, 4, b"ab\n123456789\ncd\nend", &[size]);
            let [first, Frame::Rejected(large), last] = found.as_slice() else { panic!("{found:?}") };
            assert_eq!((first, last), (&message("ab"), &message("cd")));
            assert_eq!((large.reason, large.bytes), ("message_too_large", 9));
            assert!(b"123456789".starts_with(&large.content) && large.content.len() >= 4);
            assert_eq!(rest.map(|rest| (rest.reason, rest.content)), Some(("message_cut", Bytes::from_static(b"end"))));
        }
        let (found, _) = frames(Framing::Length(Length { bytes: 8, is_little_endian: false }), 4, &[0xff; 30], &[7]);
        assert!(matches!(found.as_slice(), [Frame::Lost(lost), ..] if lost.bytes == u64::MAX), "{found:?}");
    }

    #[test]
    fn whole_lines_are_taken_in_one_piece_unless_one_may_be_too_long() {
        let mut framer = Framer::new(Framing::Lines, 8);
        let mut buffer = BytesMut::from(&b"a\nb\ncc"[..]);
        assert_eq!(framer.lines(&mut buffer), Some(Bytes::from_static(b"a\nb\n")));
        assert_eq!(framer.lines(&mut buffer), None);
        buffer.extend_from_slice(b"\n123456789\n");
        assert_eq!(framer.lines(&mut buffer), None);
        assert_eq!(framer.next(&mut buffer), Some(message("cc")));
        assert!(matches!(framer.next(&mut buffer), Some(Frame::Rejected(_))));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_kept_without_bound(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..400),
            sizes in proptest::collection::vec(1usize..50, 1..10),
            kind in 0u8..4,
        ) {
            let framing = match kind {
                0 => Framing::Lines,
                1 => Framing::Delimiter(Bytes::from_static(b"\n\n")),
                2 => Framing::Length(Length { bytes: 1, is_little_endian: false }),
                _ => Framing::Length(Length { bytes: 2, is_little_endian: true }),
            };
            let whole = frames(framing.clone(), 20, &bytes, &[bytes.len().max(1)]);
            let parts = frames(framing.clone(), 20, &bytes, &sizes);
            let messages = |frames: &[Frame]| -> Vec<Frame> {
                frames.iter().filter(|frame| matches!(frame, Frame::Message(_))).cloned().collect()
            };
            if kind < 2 {
                prop_assert_eq!(messages(&whole.0), messages(&parts.0));
                let framed = if kind == 0 { 1 } else { 2 };
                let counted: u64 = parts.0.iter().map(|frame| framed + match frame {
                    Frame::Message(message) => message.len() as u64,
                    Frame::Rejected(rejected) | Frame::Lost(rejected) => rejected.bytes,
                }).sum();
                prop_assert_eq!(counted + parts.1.map_or(0, |rest| rest.bytes), bytes.len() as u64);
            }
        }
    }
}
