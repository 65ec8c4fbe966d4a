//! Tests: any bytes are taken for replies and entries. `fuzz/` drives the same code for longer.

use proptest::prelude::*;

use super::command::write_command;
use super::entry::{GroupInfo, StreamInfo, push_entries, survey};
use super::resp::{Fault, Parser};
use super::rows::{Layout, Table};
use crate::format::Item;

fn layout(infer: bool) -> Layout {
    Layout {
        identity: "id".into(),
        has_ttl: false,
        has_type: false,
        is_json: false,
        columns: [("a".to_owned(), crate::format::ColumnType::Double)].into(),
        infer,
        reserved: Vec::new(),
    }
}

/// The rows of every reply that is a list of entries.
fn decode(bytes: &[u8], infer: bool) -> Result<usize, Fault> {
    let mut parser = Parser::new(1 << 16, 1 << 18);
    let mut table = Table::new(layout(infer));
    for piece in bytes.chunks(1 << 16) {
        let space = parser.space();
        space[..piece.len()].copy_from_slice(piece);
        parser.filled(piece.len());
        while parser.advance()? {
            let _ = StreamInfo::read(parser.reply());
            let _ = GroupInfo::find(parser.reply(), b"g");
            if let Ok(seen) = survey(parser.reply(), &mut |_| {}) {
                let before = table.rows();
                if push_entries(parser.reply(), &mut table).is_ok() {
                    assert!(table.rows() - before <= seen.count as usize);
                } else {
                    // A malformed reply ends the read: nothing of the table is used.
                    table = Table::new(layout(infer));
                }
            }
            parser.consume();
        }
    }
    let expected = table.rows();
    let items = table.take().map_err(|_| Fault::Malformed("rows that form no batch"))?;
    let rows = items.iter().map(|item| if let Item::Batch(batch) = item { batch.num_rows() } else { 0 }).sum::<usize>();
    assert_eq!(rows, expected);
    Ok(rows)
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), infer: bool) {
        let _ = decode(&bytes, infer);
    }

    #[test]
    fn near_replies_do_not_panic(
        tokens in prop::collection::vec(prop::sample::select(vec![
            "*1\r\n", "*2\r\n", "*4\r\n", "%1\r\n", "$3\r\n1-1\r\n", "$3\r\n1-2\r\n", "$1\r\na\r\n", "+x\r\n", ":7\r\n",
            "$-1\r\n", "_\r\n", "$4\r\nname\r\n", "$1\r\ng\r\n", "$6\r\nlength\r\n", "$1\r\n\u{1}\r\n", "-ERR\r\n", ",nan\r\n",
        ]), 0..40),
        infer: bool,
    ) {
        let _ = decode(tokens.concat().as_bytes(), infer);
    }

    #[test]
    fn entries_survive(
        entries in prop::collection::vec(prop::collection::vec(("[abc]", prop::collection::vec(any::<u8>(), 0..6)), 0..4), 0..8),
        infer: bool,
    ) {
        // Written as a server writes them: an array is a command's form, too.
        let mut bytes = format!("*{}\r\n", entries.len()).into_bytes();
        for (number, fields) in entries.iter().enumerate() {
            bytes.extend_from_slice(format!("*2\r\n+{number}-1\r\n").as_bytes());
            let parts: Vec<&[u8]> =
                fields.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_slice()]).collect();
            write_command(&parts, &mut bytes);
        }
        prop_assert_eq!(decode(&bytes, infer), Ok(entries.len()));
    }
}
