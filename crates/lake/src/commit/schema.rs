//! Tables and columns that a round adds.

use std::fmt::Write;
use std::sync::Arc;

use portolan_model::Result;
use rusqlite::{Connection, params};

use super::statistics::write_column_statistics;
use super::{Head, OPERATION};
use crate::cells::sqlite_type;
use crate::error::{internal, sqlite};
use crate::reader::quoted;
use crate::shape::{Shape, StoredColumn};
use crate::stage::StagedRows;
use crate::state::{State, TableState};
use crate::statistics::{Statistics, leaves};
use crate::types::Column;

/// Makes a table, and its schema if that is not there.
pub(super) fn create_table(
    connection: &Connection,
    state: &mut State,
    head: &mut Head,
    table: &StagedRows,
) -> Result<TableState> {
    let schema = table.target.schema;
    let error = |error| sqlite(OPERATION, error);
    let schema_id = match state.schemas.get(schema) {
        Some(id) => *id,
        None => {
            let id = head.next_catalog_id;
            head.next_catalog_id += 1;
            let sql = "INSERT INTO ducklake_schema VALUES (?1, ?2, ?3, NULL, ?4, ?5, 1)";
            let values = params![id, uuid::Uuid::now_v7().to_string(), head.snapshot, schema, format!("{schema}/")];
            connection.execute(sql, values).map_err(error)?;
            head.changes.push(format!("created_schema:{}", quoted(schema)));
            state.schemas.insert(schema.to_owned(), id);
            id
        }
    };
    let id = head.next_catalog_id;
    head.next_catalog_id += 1;
    let name = &table.target.name;
    let sql = "INSERT INTO ducklake_table VALUES (?1, ?2, ?3, NULL, ?4, ?5, ?6, 1)";
    let uuid = uuid::Uuid::now_v7().to_string();
    connection.execute(sql, params![id, uuid, head.snapshot, schema_id, name, format!("{name}/")]).map_err(error)?;
    head.changes.push(format!("created_table:{}.{}", quoted(schema), quoted(name)));
    let shape = Shape {
        id,
        schema_version: new_schema_version(connection, head, id)?,
        columns: table.columns.clone(),
        next_column_id: table.next_column_id,
        folder: state.data.join(schema).join(name),
    };
    for stored in &table.columns {
        insert_column(connection, head, id, stored)?;
    }
    Ok(TableState {
        shape: Arc::new(shape),
        record_count: 0,
        next_row_id: 0,
        file_size_bytes: 0,
        statistics: Default::default(),
        inlined: false,
        counted: false,
    })
}

fn new_schema_version(connection: &Connection, head: &mut Head, table: i64) -> Result<i64> {
    // One version a snapshot, however many tables change in it.
    let sql = "SELECT schema_version FROM ducklake_snapshot ORDER BY snapshot_id DESC LIMIT 1";
    let last: i64 = connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
        .map_err(|error| sqlite(OPERATION, error))?;
    head.schema_version = last + 1;
    connection
        .execute(
            "INSERT INTO ducklake_schema_versions VALUES (?1, ?2, ?3)",
            [head.snapshot, head.schema_version, table],
        )
        .map_err(|error| sqlite(OPERATION, error))?;
    Ok(head.schema_version)
}

fn insert_column(connection: &Connection, head: &Head, table: i64, stored: &StoredColumn) -> Result<()> {
    insert_part(connection, head, table, &stored.column, None)?;
    if stored.variant || stored.source != stored.column.name {
        let sql = "INSERT INTO portolan_column VALUES (?1, ?2, ?3, ?4)";
        connection
            .execute(sql, params![table, stored.column.id, stored.source, stored.variant])
            .map_err(|error| sqlite(OPERATION, error))?;
    }
    Ok(())
}

fn insert_part(connection: &Connection, head: &Head, table: i64, column: &Column, parent: Option<i64>) -> Result<()> {
    let default_type = if column.kind.is_nested() { "" } else { "literal" };
    let sql = "INSERT INTO ducklake_column VALUES (?1, ?2, NULL, ?3, ?1, ?4, ?5, NULL, 'NULL', 1, ?6, ?7, 'duckdb')";
    let values = params![column.id, head.snapshot, table, column.name, column.kind.to_string(), parent, default_type];
    connection.execute(sql, values).map_err(|error| sqlite(OPERATION, error))?;
    column.kind.children().into_iter().try_for_each(|part| insert_part(connection, head, table, part, Some(column.id)))
}

/// Adds and widens columns of a table.
pub(super) fn change_columns(
    connection: &Connection,
    state: &mut State,
    head: &mut Head,
    table: &StagedRows,
    name: &(String, String),
) -> Result<()> {
    let Some(entry) = state.tables.get_mut(name) else { return Err(internal(OPERATION, "a table is gone")) };
    let id = entry.shape.id;
    for stored in &table.columns {
        let old = entry.shape.columns.iter().find(|old| old.column.id == stored.column.id);
        match old {
            Some(old) if old.column == stored.column => {}
            Some(_) => {
                let sql = "UPDATE ducklake_column SET end_snapshot = ?1 WHERE table_id = ?2 AND column_id = ?3 \
                           AND end_snapshot IS NULL";
                connection
                    .execute(sql, [head.snapshot, id, stored.column.id])
                    .map_err(|error| sqlite(OPERATION, error))?;
                insert_part(connection, head, id, &stored.column, None)?;
                // DuckDB reads the one range of a table's column as the type that the column had at the snapshot it
                // attaches: a range of later, wider values would keep it from every earlier snapshot.
                if let Some(old) = entry.statistics.get(&stored.column.id).cloned() {
                    let new = Statistics { range: None, unbounded: true, ..old.clone() };
                    write_column_statistics(connection, id, &stored.column, Some(&old), &new)?;
                    entry.statistics.insert(stored.column.id, new);
                }
            }
            None => {
                insert_column(connection, head, id, stored)?;
                // Rows that are there already have no value in it.
                if entry.record_count > 0 {
                    for leaf in leaves(&stored.column) {
                        entry.statistics.insert(leaf.id, Statistics { nulls: 1, ..Statistics::default() });
                        write_column_statistics(connection, id, leaf, None, &entry.statistics[&leaf.id])?;
                    }
                }
            }
        }
    }
    head.changes.push(format!("altered_table:{id}"));
    entry.shape = Arc::new(Shape {
        id,
        schema_version: new_schema_version(connection, head, id)?,
        columns: table.columns.clone(),
        next_column_id: table.next_column_id,
        folder: entry.shape.folder.clone(),
    });
    entry.inlined = false;
    Ok(())
}

/// Makes the table of inlined rows for the present columns.
pub(super) fn create_inlined(connection: &Connection, entry: &mut TableState) -> Result<()> {
    let name = entry.inlined_name();
    let mut sql = format!(
        "CREATE TABLE IF NOT EXISTS {}(row_id BIGINT, begin_snapshot BIGINT, end_snapshot BIGINT",
        quoted(&name)
    );
    for stored in &entry.shape.columns {
        let _ = write!(sql, ", {} {}", quoted(&stored.column.name), sqlite_type(&stored.column.kind));
    }
    sql.push(')');
    connection.execute_batch(&sql).map_err(|error| sqlite(OPERATION, error))?;
    connection
        .execute(
            "INSERT INTO ducklake_inlined_data_tables VALUES (?1, ?2, ?3)",
            params![entry.shape.id, name, entry.shape.schema_version],
        )
        .map_err(|error| sqlite(OPERATION, error))?;
    entry.inlined = true;
    Ok(())
}
