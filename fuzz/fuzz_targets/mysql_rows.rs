//! Any column definitions and any row packets of a MySQL server: batches or errors, every packet accounted for.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portolan_connect::source::mysql::{Column, RowDecoder, TimeAs};

/// Columns of one result at most, here.
const COLUMNS: usize = 24;

fuzz_target!(|input: (u8, Vec<(u8, u16, u32, u16, u8, String)>, Vec<u8>, Vec<Vec<u8>>)| {
    let (kind, columns, definition, packets) = input;
    let _ = Column::parse(&definition, kind & 1 != 0);
    let extended = ["json", "uuid", "inet6", "point"];
    let columns: Vec<Column> = columns
        .into_iter()
        .take(COLUMNS)
        .enumerate()
        .map(|(index, (column_type, character_set, length, flags, decimals, name))| Column {
            name: format!("c{index}{name}"),
            column_type,
            character_set: if kind & 2 != 0 { 63 } else { character_set },
            length,
            flags,
            decimals,
            extended_type: (kind & 4 != 0).then(|| extended[index % extended.len()].into()),
        })
        .collect();
    let time_as = if kind & 8 != 0 { TimeAs::Microseconds } else { TimeAs::Time };
    let cursor = (kind & 16 != 0 && !columns.is_empty()).then_some(0);
    let mut decoder = RowDecoder::new(&columns, time_as, cursor);
    let mut accepted = 0;
    for packet in &packets {
        match decoder.push(packet) {
            Ok(()) => accepted += 1,
            // A malformed packet ends the read.
            Err(_) => break,
        }
    }
    if let Ok((batch, problems)) = decoder.finish() {
        assert_eq!(batch.num_rows(), accepted);
        assert!(problems.iter().all(|problem| problem.row < accepted && problem.column < columns.len()));
    }
});
