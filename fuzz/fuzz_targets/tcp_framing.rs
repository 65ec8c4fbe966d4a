//! Any bytes in any pieces: memory stays bounded by the largest message, what is told apart does not depend on the pieces,
//! and a block of the intake log is read as it was written or not at all.

#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use portolan_connect::intake::decode_block;
use portolan_connect::source::tcp::framing::{Frame, Framer, Framing, Length};

const MESSAGE_MAX: usize = 64;

fn messages(framing: &Framing, bytes: &[u8], piece: usize) -> (Vec<Bytes>, bool) {
    let mut framer = Framer::new(framing.clone(), MESSAGE_MAX);
    let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        buffer.extend_from_slice(piece);
        if let Some(lines) = framer.lines(&mut buffer) {
            assert!(lines.ends_with(b"\n"));
            found.extend(lines[..lines.len() - 1].split(|byte| *byte == b'\n').map(Bytes::copy_from_slice));
        }
        while let Some(frame) = framer.next(&mut buffer) {
            match frame {
                Frame::Message(message) => {
                    assert!(message.len() <= MESSAGE_MAX);
                    found.push(message);
                }
                Frame::Rejected(rejected) => assert!(rejected.content.len() as u64 <= rejected.bytes),
                Frame::Lost(_) => return (found, true),
            }
        }
        assert!(buffer.len() <= 2 * MESSAGE_MAX + piece.len(), "the buffer grows");
    }
    (found, false)
}

fuzz_target!(|input: (u8, u8, Vec<u8>)| {
    let (kind, piece, bytes) = input;
    let framing = match kind % 4 {
        0 => Framing::Lines,
        1 => Framing::Delimiter(Bytes::from_static(b"\r\n")),
        2 => Framing::Length(Length { bytes: 1 << (kind / 4 % 4), is_little_endian: false }),
        _ => Framing::Length(Length { bytes: 1 << (kind / 4 % 4), is_little_endian: true }),
    };
    let small = messages(&framing, &bytes, usize::from(piece).max(1));
    let large = messages(&framing, &bytes, 1 << 16);
    assert_eq!(small, large, "the pieces decide what is a message");
    let _ = decode_block((1, 32), &Bytes::from(bytes));
});
