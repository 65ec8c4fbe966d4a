//! Any bytes of a Redis server, in pieces of any size: replies or errors, the same whatever the pieces, every entry
//! accounted for.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portolan_connect::format::{ColumnType, Item};
use portolan_connect::source::redis::{GroupInfo, Layout, Parser, StreamInfo, Table, push_entries, survey};

/// Replies of one input as text; `None` if it is refused.
fn replies(bytes: &[u8], piece: usize, passes_large: bool) -> Option<Vec<String>> {
    let mut parser = Parser::new(if passes_large { 16 } else { 1 << 16 }, 1 << 20);
    parser.pass_large(passes_large);
    let mut replies = Vec::new();
    for piece in bytes.chunks(piece.max(1)) {
        let mut rest = piece;
        while !rest.is_empty() {
            let space = parser.space();
            let count = space.len().min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            parser.filled(count);
            rest = &rest[count..];
        }
        while parser.advance().ok()? {
            replies.push(format!("{:?}", parser.reply().collect::<Vec<_>>()));
            parser.consume();
        }
    }
    Some(replies)
}

fuzz_target!(|input: (u8, u16, Vec<u8>)| {
    let (kind, piece, bytes) = input;
    for passes_large in [false, true] {
        assert_eq!(replies(&bytes, bytes.len(), passes_large), replies(&bytes, usize::from(piece), passes_large));
    }

    let layout = Layout {
        identity: if kind & 1 != 0 { "id".into() } else { "a".into() },
        has_ttl: kind & 2 != 0,
        has_type: false,
        is_json: kind & 4 != 0,
        columns: [("b".to_owned(), ColumnType::Double), ("c".to_owned(), ColumnType::Timestamp)].into(),
        infer: kind & 8 != 0,
        reserved: vec!["ttl_ms"],
    };
    let mut table = Table::new(layout);
    let mut parser = Parser::new(1 << 16, 1 << 20);
    for piece in bytes.chunks(1 << 16) {
        parser.space()[..piece.len()].copy_from_slice(piece);
        parser.filled(piece.len());
        while let Ok(true) = parser.advance() {
            let _ = StreamInfo::read(parser.reply());
            let _ = GroupInfo::find(parser.reply(), b"g");
            let seen = survey(parser.reply(), &mut |_| {});
            let before = table.rows();
            match push_entries(parser.reply(), &mut table) {
                Ok(()) => assert!(table.rows() - before <= seen.map_or(0, |seen| seen.count as usize)),
                // A malformed reply ends the read.
                Err(_) => return,
            }
            parser.consume();
        }
    }
    let rows = table.rows();
    if let Ok(items) = table.take() {
        let given: usize = items
            .iter()
            .map(|item| match item {
                Item::Batch(batch) => batch.num_rows(),
                // Of a row whose value is no JSON, the whole.
                Item::Quarantine(item) => usize::from(item.reason == "value_not_json"),
            })
            .sum();
        assert_eq!(given, rows);
    }
});
