//! Any messages of a binary COPY for columns of any built-in types: batches or errors, every message accounted for.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portolan_connect::source::postgres::{Column, RowDecoder};

/// Columns of one result at most, here.
const COLUMNS: usize = 24;

fuzz_target!(|input: (u8, Vec<(u32, i32)>, Vec<Vec<u8>>)| {
    let (kind, columns, messages) = input;
    let columns: Vec<Column> = columns
        .into_iter()
        .take(COLUMNS)
        .enumerate()
        .map(|(index, (type_id, modifier))| Column {
            name: format!("c{index}"),
            table: 0,
            attribute: 0,
            // Built-in types have small numbers.
            type_id: type_id % 4_096,
            modifier,
        })
        .collect();
    let mut decoder = RowDecoder::of_built_in(&columns, (kind & 1 != 0 && !columns.is_empty()).then_some(0));
    if kind & 2 == 0 && decoder.push(b"PGCOPY\n\xFF\r\n\0\0\0\0\0\0\0\0\0").is_err() {
        return;
    }
    let mut accepted = 0;
    for message in &messages {
        let before = decoder.rows();
        match decoder.push(message) {
            Ok(()) => accepted += decoder.rows() - before,
            // A malformed message ends the read.
            Err(_) => break,
        }
    }
    if let Ok((batch, problems)) = decoder.finish() {
        assert_eq!(batch.num_rows(), accepted);
        assert!(problems.iter().all(|problem| problem.row < accepted && problem.column < columns.len()));
    }
});
