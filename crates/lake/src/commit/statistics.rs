//! What the catalog says of a table as a whole: how many rows, and the range of each column.

use portolan_model::Result;
use rusqlite::{Connection, params};

use super::OPERATION;
use crate::error::sqlite;
use crate::stage::StagedRows;
use crate::state::TableState;
use crate::statistics::{Statistics, leaves};
use crate::types::{Column, Kind};

/// Adds what a round brought to what is known of a table's values.
pub(super) fn store_statistics(connection: &Connection, entry: &mut TableState, table: &StagedRows) -> Result<()> {
    let id = entry.shape.id;
    for (place, stored) in table.columns.iter().enumerate() {
        let mut added = Statistics::default();
        let parts = table.files.iter().map(|(file, _)| &file.statistics).chain([&table.statistics]);
        for part in parts {
            match part.get(place) {
                Some(part) => added.merge(part),
                // A file from before the column was added: nulls.
                None if !part.is_empty() => added.nulls += 1,
                None => {}
            }
        }
        let is_sealed = crate::system::SEALED_COLUMNS.contains(&stored.column.name.as_str());
        if is_sealed && table.target.schema == crate::system::SCHEMA && table.target.name == crate::system::ROUNDS {
            // Its value came after the statistics of the staged rows.
            added = Statistics { values: 1, unbounded: true, ..Statistics::default() };
        }
        for leaf in leaves(&stored.column) {
            let old = entry.statistics.get(&leaf.id).cloned();
            let mut new = old.clone().unwrap_or_default();
            if stored.column.kind.is_nested() {
                new.merge(&Statistics { nulls: 1, unbounded: true, ..Statistics::default() });
            } else {
                new.merge(&added);
            }
            // Only what is stored counts: how many nulls there are is not.
            new.values = 1;
            new.nulls = new.nulls.min(1);
            if old.as_ref() != Some(&new) {
                write_column_statistics(connection, id, leaf, old.as_ref(), &new)?;
                entry.statistics.insert(leaf.id, new);
            }
        }
    }
    write_table_statistics(connection, entry)
}

/// Writes the counts of a table.
pub(crate) fn write_table_statistics(connection: &Connection, entry: &mut TableState) -> Result<()> {
    let values = params![entry.shape.id, entry.record_count, entry.next_row_id, entry.file_size_bytes];
    let sql = match entry.counted {
        true => {
            "UPDATE ducklake_table_stats SET record_count = ?2, next_row_id = ?3, file_size_bytes = ?4 \
                 WHERE table_id = ?1"
        }
        false => "INSERT INTO ducklake_table_stats VALUES (?1, ?2, ?3, ?4)",
    };
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.execute(values))
        .map_err(|error| sqlite(OPERATION, error))?;
    entry.counted = true;
    Ok(())
}

/// Writes what is known of a column's values.
pub(super) fn write_column_statistics(
    connection: &Connection,
    table: i64,
    column: &Column,
    old: Option<&Statistics>,
    new: &Statistics,
) -> Result<()> {
    let (min, max) = new.texts(&column.kind);
    let nan: Option<bool> = match column.kind {
        Kind::Float32 | Kind::Float64 => new.nan_flag(&column.kind),
        _ => None,
    };
    let values = params![table, column.id, new.nulls > 0, nan, min, max];
    let sql = match old {
        Some(_) => {
            "UPDATE ducklake_table_column_stats SET contains_null = ?3, contains_nan = ?4, min_value = ?5, \
             max_value = ?6 WHERE table_id = ?1 AND column_id = ?2"
        }
        None => "INSERT INTO ducklake_table_column_stats VALUES (?1, ?2, ?3, ?4, ?5, ?6, NULL)",
    };
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.execute(values))
        .map_err(|error| sqlite(OPERATION, error))?;
    Ok(())
}
