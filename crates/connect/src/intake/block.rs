//! The format of a block, version 1. All numbers are little-endian.
//!
//! ```text
//! length    u32   bytes after the checksum
//! checksum  u32   CRC-32 (IEEE 802.3) over segment (u64), offset (u64) and all that follows
//! kind      u8    1 data, 2 rejected, 3 marks, 4 end
//! sender    u8    length of the sender's name
//! peer      u8    length of the peer's address
//! layout    u8    of data: 1 lines, 2 each message behind its length as u32, 0 not said; else 0
//! received  i64   microseconds since 1970
//! sequence  u64   the sender's number of the last message in it; 0 without one
//! sender, peer, payload
//! ```
//!
//! The checksum holds the block's place, so that a block of an earlier use of the same disk space is not taken for one.

use bytes::Bytes;

/// Bytes of length and checksum.
pub(super) const PREFIX_BYTES: usize = 8;
/// Bytes from the kind to the sequence.
const HEAD_BYTES: usize = 20;
/// The largest block: a claimed length beyond it is damage.
pub(super) const BLOCK_BYTES_MAX: usize = 64 << 20;

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Messages.
    Data,
    /// What could not be taken as a message; the payload is the reason, a line end, and what came.
    Rejected,
    /// The sequences of all senders when its segment began, one `sequence sender` a line.
    Marks,
    /// The segment ends here as it should.
    End,
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Rejected => 2,
            Self::Marks => 3,
            Self::End => 4,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Self::Data, Self::Rejected, Self::Marks, Self::End].into_iter().find(|kind| kind.number() == number)
    }
}

/// How the messages of a block are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// Not said: no messages, or a block of an early version.
    #[default]
    Unsaid,
    /// Each ends with a line feed and holds none.
    Lines,
    /// Each has its length in front, as four little-endian bytes.
    Counted,
}

impl Layout {
    fn number(self) -> u8 {
        match self {
            Self::Unsaid => 0,
            Self::Lines => 1,
            Self::Counted => 2,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Self::Unsaid, Self::Lines, Self::Counted].into_iter().find(|layout| layout.number() == number)
    }
}

/// One piece of what arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// What it holds.
    pub kind: Kind,
    /// How its messages are told apart, whatever the source's settings are when it is read.
    pub layout: Layout,
    /// Who sent it, by its own name; empty without one. At most 255 bytes.
    pub sender: Bytes,
    /// The address it came from; at most 255 bytes.
    pub peer: Bytes,
    /// When it arrived, in microseconds since 1970.
    pub received_us: i64,
    /// The sender's number of the last message in it; 0 without one.
    pub sequence: u64,
    /// The messages.
    pub payload: Bytes,
}

impl Block {
    /// A block without sender or peer.
    pub(super) fn bare(kind: Kind, received_us: i64, payload: Bytes) -> Self {
        Self {
            kind,
            layout: Layout::Unsaid,
            sender: Bytes::new(),
            peer: Bytes::new(),
            received_us,
            sequence: 0,
            payload,
        }
    }

    /// Bytes on disk.
    pub(super) fn stored_bytes(&self) -> usize {
        PREFIX_BYTES + HEAD_BYTES + name_length(&self.sender) + name_length(&self.peer) + self.payload.len()
    }

    /// Appends its form at `(segment, offset)` to `buffer`.
    pub(super) fn encode(&self, (segment, offset): (u64, u64), buffer: &mut Vec<u8>) {
        let (sender, peer) = (&self.sender[..name_length(&self.sender)], &self.peer[..name_length(&self.peer)]);
        let length = self.stored_bytes() - PREFIX_BYTES;
        buffer.reserve(length + PREFIX_BYTES);
        // A length beyond 32 bits cannot be: appending is bounded by `BLOCK_BYTES_MAX`.
        buffer.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        let checksum_at = buffer.len();
        buffer.extend_from_slice(&[0; 4]);
        let body_at = buffer.len();
        buffer.extend_from_slice(&[self.kind.number(), sender.len() as u8, peer.len() as u8, self.layout.number()]);
        buffer.extend_from_slice(&self.received_us.to_le_bytes());
        buffer.extend_from_slice(&self.sequence.to_le_bytes());
        buffer.extend_from_slice(sender);
        buffer.extend_from_slice(peer);
        buffer.extend_from_slice(&self.payload);
        let checksum = checksum((segment, offset), &buffer[body_at..]);
        buffer[checksum_at..body_at].copy_from_slice(&checksum.to_le_bytes());
    }
}

fn name_length(name: &Bytes) -> usize {
    name.len().min(usize::from(u8::MAX))
}

fn checksum((segment, offset): (u64, u64), body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&segment.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// What stands at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    /// A block of so many bytes.
    Block(Block, usize),
    /// The beginning of one: so many bytes are needed.
    Short(usize),
    /// No block.
    Damaged,
}

/// Reads the block at the beginning of `bytes`, which stand at `(segment, offset)`; `None` if there is no whole one.
/// Public for fuzzing.
pub fn decode_block(place: (u64, u64), bytes: &Bytes) -> Option<(Block, usize)> {
    match decode(place, bytes) {
        Decoded::Block(block, length) => Some((block, length)),
        Decoded::Short(_) | Decoded::Damaged => None,
    }
}

pub(super) fn decode(place: (u64, u64), bytes: &Bytes) -> Decoded {
    let number = |at: usize| bytes.get(at..at + 4).and_then(|part| part.try_into().ok()).map(u32::from_le_bytes);
    let (Some(length), Some(expected)) = (number(0), number(4)) else { return Decoded::Short(PREFIX_BYTES) };
    let length = length as usize;
    if !(HEAD_BYTES..=BLOCK_BYTES_MAX).contains(&length) {
        return Decoded::Damaged;
    }
    let end = PREFIX_BYTES + length;
    let Some(body) = bytes.get(PREFIX_BYTES..end) else { return Decoded::Short(end) };
    if checksum(place, body) != expected {
        return Decoded::Damaged;
    }
    let (kind, sender, peer) = (Kind::from_number(body[0]), usize::from(body[1]), usize::from(body[2]));
    let payload_at = HEAD_BYTES + sender + peer;
    let eight = |at: usize| body.get(at..at + 8).and_then(|part| part.try_into().ok());
    let (Some(kind), Some(received), Some(sequence)) = (kind, eight(4), eight(12)) else { return Decoded::Damaged };
    let (true, Some(layout)) = (payload_at <= body.len(), Layout::from_number(body[3])) else {
        return Decoded::Damaged;
    };
    let at = |from: usize, to: usize| bytes.slice(PREFIX_BYTES + from..PREFIX_BYTES + to);
    let block = Block {
        kind,
        layout,
        sender: at(HEAD_BYTES, HEAD_BYTES + sender),
        peer: at(HEAD_BYTES + sender, payload_at),
        received_us: i64::from_le_bytes(received),
        sequence: u64::from_le_bytes(sequence),
        payload: at(payload_at, body.len()),
    };
    Decoded::Block(block, end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(payload: &[u8]) -> Block {
        Block {
            sender: Bytes::from_static(b"pump-7"),
            peer: Bytes::from_static(b"127.0.0.1:5000"),
            sequence: 42,
            ..Block::bare(Kind::Data, 1_700_000_000_000_000, Bytes::copy_from_slice(payload))
        }
    }

    /// Stored logs are read by every later version: the bytes of version 1.
    #[test]
    fn the_first_format_is_read_for_ever() {
        let mut bytes = Vec::new();
        block(b"{}\n").encode((3, 32), &mut bytes);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, EXPECTED);
        let (read, length) = decode_block((3, 32), &Bytes::from(bytes)).unwrap();
        assert_eq!((read, length), (block(b"{}\n"), EXPECTED.len() / 2));
    }

    const EXPECTED: &str =
        "2b000000f5faae9c01060e0000401e18240a06002a0000000000000070756d702d373132372e302e302e313a353030307b7d0a";

    proptest! {
        #[test]
        fn a_block_is_read_as_it_was_written_at_its_place_alone(
            payload in proptest::collection::vec(any::<u8>(), 0..300),
            segment in 1u64..5,
            offset in 0u64..1_000,
            other in 0u64..1_000,
        ) {
            let mut bytes = Vec::new();
            block(&payload).encode((segment, offset), &mut bytes);
            prop_assert_eq!(bytes.len(), block(&payload).stored_bytes());
            let bytes = Bytes::from(bytes);
            prop_assert_eq!(decode_block((segment, offset), &bytes), Some((block(&payload), bytes.len())));
            if other != offset {
                prop_assert_eq!(decode_block((segment, other), &bytes), None);
            }
        }

        #[test]
        fn a_changed_or_missing_byte_is_no_block(at in 0usize..60, mask in 1u8..) {
            let mut bytes = Vec::new();
            block(b"twenty bytes payload").encode((1, 32), &mut bytes);
            let at = at % bytes.len();
            let mut changed = bytes.clone();
            changed[at] ^= mask;
            prop_assert_eq!(decode_block((1, 32), &Bytes::from(changed)), None);
            bytes.truncate(at);
            prop_assert_eq!(decode_block((1, 32), &Bytes::from(bytes)), None);
        }
    }
}
