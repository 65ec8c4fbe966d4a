//! Tests: any bytes are taken for columns and rows. `fuzz/` drives the same decoder for longer.

use proptest::prelude::*;

use super::columns::TimeAs;
use super::decode::RowDecoder;
use super::wire::Column;
use super::wire::reader::{Malformed, Reader, put_bytes};

/// The most columns made of one input.
const COLUMNS_MAX: u8 = 8;

/// Decodes `bytes` as column definitions and rows, as if a server had sent them; returns the number of rows.
///
/// The first byte chooses the number of columns (low three bits) and how times are stored (high bit); then come, each
/// with its length in front, the definitions (MariaDB's extended form) and the rows.
fn decode_untrusted(bytes: &[u8]) -> Result<usize, Malformed> {
    let mut reader = Reader::new(bytes);
    let head = reader.u8()?;
    let time_as = if head & 0x80 == 0 { TimeAs::Time } else { TimeAs::Microseconds };
    let columns = (0..=head % COLUMNS_MAX)
        .map(|_| Column::parse(reader.bytes()?, true))
        .collect::<Result<Vec<Column>, Malformed>>()?;
    let mut decoder = RowDecoder::new(&columns, time_as, Some(0));
    while !reader.is_empty() {
        decoder.push(reader.bytes()?)?;
    }
    let rows = decoder.rows();
    let (batch, problems) = decoder.finish().map_err(|_| Malformed("rows that form no batch"))?;
    if batch.num_rows() != rows || problems.iter().any(|problem| problem.row >= rows) {
        return Err(Malformed("a batch of another length"));
    }
    Ok(rows)
}

fn definition() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![0u8..18, 242u8..=255];
    let extended = prop::sample::select(vec![&b""[..], b"\x01\x04json", b"\x00\x04uuid", b"\x00\x05inet6"]);
    (kind, any::<u16>(), prop_oneof![0u32..100, any::<u32>()], any::<u16>(), any::<u8>(), extended).prop_map(
        |(kind, character_set, length, flags, decimals, extended)| {
            let mut packet = b"\x03def\0\0\0\x01c\0".to_vec();
            put_bytes(&mut packet, extended);
            packet.push(12);
            packet.extend_from_slice(&character_set.to_le_bytes());
            packet.extend_from_slice(&length.to_le_bytes());
            packet.push(kind);
            packet.extend_from_slice(&flags.to_le_bytes());
            packet.extend_from_slice(&[decimals, 0, 0]);
            packet
        },
    )
}

fn row() -> impl Strategy<Value = Vec<u8>> {
    // Small numbers are lengths and digits of dates more often than others.
    let byte = prop_oneof![3 => 0u8..13, 1 => any::<u8>(), 1 => b'0'..=b'9'];
    prop::collection::vec(byte, 0..60).prop_map(|bytes| [&[0], bytes.as_slice()].concat())
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode_untrusted(&bytes);
    }

    #[test]
    fn no_rows_panic(
        spans: bool,
        definitions in prop::collection::vec(definition(), 1..=8),
        rows in prop::collection::vec(row(), 0..5),
    ) {
        let mut bytes = vec![(definitions.len() as u8 - 1) | u8::from(spans) << 7];
        definitions.iter().chain(&rows).for_each(|packet| put_bytes(&mut bytes, packet));
        let decoded = decode_untrusted(&bytes);
        prop_assert!(decoded != Err(Malformed("a batch of another length")), "{bytes:?}");
        prop_assert!(decoded != Err(Malformed("rows that form no batch")), "{bytes:?}");
        // Definitions alone are always well-formed here.
        prop_assert!(!rows.is_empty() || decoded == Ok(0));
    }
}
