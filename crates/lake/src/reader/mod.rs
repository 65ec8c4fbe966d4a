//! Reading a lake, beside the collector or without one. Readers take no lock.
//!
//! Promise: everything read through one [`Snapshot`] belongs to the same committed state, whatever is committed or
//! maintained meanwhile: the snapshot holds a read transaction on the catalog for as long as it lives.

mod file;
mod inlined;
mod status;
mod table;

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use portolan_model::{Error, ErrorKind, Result};
use rusqlite::{Connection, OptionalExtension};

pub use file::FileRows;
pub(crate) use file::{ROW_ID_NAME, SNAPSHOT_ID_NAME, adapt, deleted_positions, open_file};
pub(crate) use inlined::{InlinedFilter, InlinedTable, columns_of, inlined_tables, quoted, read_inlined};
pub(crate) use status::{read_positions, read_statuses, read_watermarks};
pub use table::{ColumnStatistics, DataFile, DeleteFile, TableView};
pub(crate) use table::{Unreadable, columns_ever, load_columns, load_tables, look_at_columns, stored_files, tables_at};

use crate::error::{corrupt, sqlite};
use crate::spec::{Layout, open_reader};
use crate::text::calendar::{Unit, read_timestamp};

/// Which committed state to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The latest.
    Head,
    /// The one that a round's commit made.
    Round(i64),
    /// The latest at or before an instant.
    Time(Timestamp),
    /// A DuckLake snapshot by its number.
    Snapshot(i64),
}

/// A lake opened for reading.
#[derive(Clone, Debug)]
pub struct LakeReader {
    layout: Layout,
}

impl LakeReader {
    /// Opens the lake in `folder`. Reads nothing that changes: each [`snapshot`](Self::snapshot) looks anew.
    ///
    /// # Errors
    /// `NotFound` if there is no lake, `Corrupt` if it is of a newer format.
    pub fn open(folder: &Path) -> Result<Self> {
        if !folder.join("catalog.sqlite").is_file() {
            return Err(Error::new(ErrorKind::NotFound, "open lake", format!("{} is not a lake", folder.display()))
                .with_hint("it has no catalog.sqlite: check the path, or collect into it first with `portolan run`"));
        }
        let layout = Layout::new(folder)?;
        open_reader(&layout)?;
        Ok(Self { layout })
    }

    /// The lake's folder, absolute.
    pub fn folder(&self) -> &Path {
        &self.layout.folder
    }

    /// Opens a committed state.
    ///
    /// # Errors
    /// `NotFound` if the round, time or snapshot is unknown or has expired.
    pub fn snapshot(&self, at: At) -> Result<Snapshot> {
        let connection = self.connection()?;
        connection.execute_batch("BEGIN").map_err(|error| sqlite("open snapshot", error))?;
        Snapshot::open(connection, self.layout.clone(), at)
    }

    pub(crate) fn connection(&self) -> Result<Connection> {
        open_reader(&self.layout)
    }
}

/// One committed state of the lake.
#[derive(Debug)]
pub struct Snapshot {
    connection: Mutex<Connection>,
    layout: Layout,
    id: i64,
    time: Timestamp,
}

impl Snapshot {
    fn open(connection: Connection, layout: Layout, at: At) -> Result<Self> {
        let operation = "open snapshot";
        let error = |error| sqlite(operation, error);
        let select = "SELECT snapshot_id, snapshot_time FROM ducklake_snapshot";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?));
        let found = match at {
            At::Head => {
                connection.query_row(&format!("{select} ORDER BY snapshot_id DESC LIMIT 1"), [], read).optional()
            }
            At::Snapshot(id) => {
                connection.query_row(&format!("{select} WHERE snapshot_id = ?1"), [id], read).optional()
            }
            At::Round(round) => {
                // Its own snapshot, or, where that has expired, the first one kept that shows no later round.
                let condition = "WHERE snapshot_id = (SELECT min(s.snapshot_id) FROM ducklake_snapshot s, portolan_round r \
                                 WHERE r.round = ?1 AND s.snapshot_id >= r.snapshot_id AND NOT EXISTS (SELECT 1 \
                                 FROM portolan_round o WHERE o.snapshot_id > r.snapshot_id AND o.snapshot_id <= s.snapshot_id))";
                connection.query_row(&format!("{select} {condition}"), [round], read).optional()
            }
            At::Time(time) => {
                let text = snapshot_time_text(time);
                // Times are text of varying length: compared as instants, newest first.
                let mut statement =
                    connection.prepare(&format!("{select} ORDER BY snapshot_id DESC")).map_err(error)?;
                let mut rows = statement.query([]).map_err(error)?;
                let limit = parse_time(&text)?;
                let mut found = None;
                while let Some(row) = rows.next().map_err(error)? {
                    let (id, text) = read(row).map_err(error)?;
                    if parse_time(&text)? <= limit {
                        found = Some((id, text));
                        break;
                    }
                }
                Ok(found)
            }
        }
        .map_err(error)?;
        let Some((id, text)) = found else { return Err(unknown(&connection, at)) };
        let time = parse_time(&text)?;
        Ok(Self { connection: Mutex::new(connection), layout, id, time })
    }

    /// DuckLake's number of the snapshot.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// When it was committed.
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// Every table that exists in it, with what is needed to read it. A table to which another program gave what this
    /// build does not read is among them; reading its rows is the error.
    pub fn tables(&self) -> Result<Vec<TableView>> {
        self.with(|connection| load_tables(connection, &self.layout, self.id))
    }

    /// One table of it.
    pub fn table(&self, schema: &str, name: &str) -> Result<Option<TableView>> {
        Ok(self.tables()?.into_iter().find(|table| table.schema == schema && table.name == name))
    }

    /// The rows of `table` that are kept inside the catalog, in row order. `projection` names columns by their place
    /// in [`TableView::columns`]; `None` is all.
    pub fn inlined(
        &self,
        table: &TableView,
        projection: Option<&[usize]>,
    ) -> Result<Vec<arrow::record_batch::RecordBatch>> {
        let columns = table.projected(projection)?;
        self.with(|connection| {
            let filter = InlinedFilter::VisibleAt(self.id);
            let mut batches = Vec::new();
            for source in inlined_tables(connection, table.id)? {
                read_inlined(connection, table.id, &source, &columns, filter, |rows| {
                    batches.push(rows.batch);
                    Ok(true)
                })?;
            }
            Ok(batches)
        })
    }

    /// Reads one data file of `table` as it is seen in this snapshot: columns of the table's present types found by
    /// field id (older files lack some, or have narrower types), deleted rows left out, rows of later snapshots left
    /// out. Needs no connection: the iterator may move to another thread.
    pub fn read_file(&self, table: &TableView, file: &DataFile, projection: Option<&[usize]>) -> Result<FileRows> {
        open_file(file, &table.projected(projection)?, self.id)
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn with<T>(&self, action: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        action(&self.connection.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// DuckLake's form of an instant in `snapshot_time`.
pub(crate) fn snapshot_time_text(time: Timestamp) -> String {
    let mut text = String::new();
    crate::text::calendar::write_timestamp(time.as_microsecond(), Unit::Micro, true, &mut text);
    text
}

pub(crate) fn parse_time(text: &str) -> Result<Timestamp> {
    read_timestamp(text, Unit::Micro)
        .and_then(|us| Timestamp::from_microsecond(us).ok())
        .ok_or_else(|| corrupt("open snapshot", format!("{text:?} is not a snapshot time")))
}

fn unknown(connection: &Connection, at: At) -> Error {
    let oldest: Option<(i64, String)> = connection
        .query_row(
            "SELECT snapshot_id, snapshot_time FROM ducklake_snapshot WHERE snapshot_id > 0 ORDER BY snapshot_id LIMIT 1",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()
        .unwrap_or(None);
    // The latest can always be read: the head shows it.
    let sql = "SELECT coalesce((SELECT min(round) FROM portolan_round JOIN ducklake_snapshot USING (snapshot_id)), \
               (SELECT max(round) FROM portolan_round))";
    let oldest_round = connection.query_row(sql, [], |row| row.get::<_, Option<i64>>(0)).unwrap_or(None);
    let latest_round = connection
        .query_row("SELECT max(round) FROM portolan_round", [], |row| row.get::<_, Option<i64>>(0))
        .unwrap_or(None);
    let (what, hint) = match at {
        At::Head => ("the lake has no snapshot".to_owned(), None),
        At::Snapshot(id) => (
            format!("snapshot {id} is unknown or has expired"),
            oldest.map(|(oldest, _)| format!("the oldest snapshot kept is {oldest}")),
        ),
        At::Round(round) => (
            format!("round {round} is unknown or its snapshot has expired"),
            oldest_round.map(|oldest| {
                let latest = latest_round.map(|latest| format!(", the latest is {latest}")).unwrap_or_default();
                format!("the oldest round whose state can be read is {oldest}{latest}")
            }),
        ),
        At::Time(time) => (
            format!("no snapshot is as old as {time}"),
            oldest.map(|(_, time)| format!("the oldest state kept is of {time}; see `keep_snapshots` under [lake]")),
        ),
    };
    let error = Error::new(ErrorKind::NotFound, "open snapshot", what);
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}
