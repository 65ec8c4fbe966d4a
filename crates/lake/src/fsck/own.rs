//! Portolan's own tables: rounds, positions, states, item keys, flushes, names of columns.

use portolan_model::{Position, Result, SourceName};

use super::{Check, OPERATION, RESTORE, Severity};
use crate::error::sqlite;
use crate::reader::read_statuses;
use crate::spec::has_table;

impl Check<'_> {
    pub(super) fn own(&mut self) -> Result<()> {
        (self.progress)("positions and keys");
        let last_round = self.rounds()?;
        self.positions(last_round)?;
        if let Err(error) = read_statuses(&self.connection) {
            self.error("status_unreadable", "portolan_source_status", error.chain());
        }
        self.keys()?;
        self.flushes()?;
        let sql = "SELECT DISTINCT p.table_id, p.column_id FROM portolan_column p WHERE NOT EXISTS (SELECT 1 FROM ducklake_column c \
                   WHERE c.table_id = p.table_id AND c.column_id = p.column_id) LIMIT 100";
        for [table, column] in self.integers::<2>(sql)? {
            let place = format!("portolan_column {}.{}", table.unwrap_or_default(), column.unwrap_or_default());
            self.error("column_missing", place, "it names a column that is not there");
        }
        Ok(())
    }

    /// Each round's snapshot is there, or has expired.
    fn rounds(&mut self) -> Result<Option<i64>> {
        let sql = "SELECT r.round, r.snapshot_id FROM portolan_round r WHERE r.snapshot_id > \
                   (SELECT max(snapshot_id) FROM ducklake_snapshot) OR (r.snapshot_id >= \
                   (SELECT min(snapshot_id) FROM ducklake_snapshot) AND NOT EXISTS \
                   (SELECT 1 FROM ducklake_snapshot s WHERE s.snapshot_id = r.snapshot_id)) LIMIT 100";
        for [round, snapshot] in self.integers::<2>(sql)? {
            let place = format!("portolan_round {}", round.unwrap_or_default());
            self.error(
                "round_without_snapshot",
                place,
                format!("snapshot {} is not there", snapshot.unwrap_or_default()),
            );
        }
        self.integer("SELECT max(round) FROM portolan_round")
    }

    fn positions(&mut self, last_round: Option<i64>) -> Result<()> {
        let rows = {
            let sql = "SELECT source, position, round FROM portolan_position";
            let mut statement = self.connection.prepare(sql).map_err(|error| sqlite(OPERATION, error))?;
            let rows = statement
                .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?)));
            rows.and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>).map_err(|error| sqlite(OPERATION, error))?
        };
        for (source, position, round) in rows {
            let problem = SourceName::new(&source).err().or_else(|| Position::from_text(&position).err());
            let place = format!("portolan_position of `{source}`");
            if let Some(problem) = problem {
                let next = "the source cannot go on: restore the lake from a copy, or give the source a new name, under \
                            which it is read from its start";
                self.report.add(Severity::Error, "position_unreadable", place.clone(), problem, next);
            }
            if Some(round) > last_round {
                self.error("position_round", place, format!("it is of round {round}; the last one is {last_round:?}"));
            }
        }
        Ok(())
    }

    fn keys(&mut self) -> Result<()> {
        let sql = "SELECT count(*), sum(typeof(digest) <> 'blob' OR length(digest) <> 16), \
                   count(*) - count(DISTINCT source || char(0) || sequence) FROM portolan_item_key";
        let [count, wrong, twice] = self.integers::<3>(sql)?.first().copied().unwrap_or_default();
        let place = "portolan_item_key";
        if wrong.unwrap_or(0) > 0 {
            let message = format!("{} of {} keys are not 16 bytes", wrong.unwrap_or(0), count.unwrap_or(0));
            self.error("key_unreadable", place, message);
        }
        if twice.unwrap_or(0) > 0 {
            self.error("key_sequence", place, format!("{} keys have a number that another has", twice.unwrap_or(0)));
        }
        Ok(())
    }

    /// Flushes that are waiting for their second step.
    fn flushes(&mut self) -> Result<()> {
        let sql = "SELECT f.data_file_id, EXISTS(SELECT 1 FROM ducklake_data_file d WHERE d.data_file_id = f.data_file_id) \
                   FROM portolan_flush f";
        for [file, known] in self.integers::<2>(sql)? {
            if known == Some(0) {
                let place = format!("portolan_flush {}", file.unwrap_or_default());
                let message = "its file is not in the catalog: another program has rewritten it between the two steps";
                self.report.add(Severity::Warning, "flush_without_file", place, message, RESTORE);
            }
        }
        let names = {
            let mut statement = self
                .connection
                .prepare("SELECT DISTINCT inlined_table FROM portolan_flush")
                .map_err(|error| sqlite(OPERATION, error))?;
            let rows = statement.query_map([], |row| row.get::<_, String>(0));
            rows.and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>).map_err(|error| sqlite(OPERATION, error))?
        };
        for name in names {
            if !has_table(&self.connection, &name)? {
                let message = "a flush that is not settled names it, and it is not there";
                self.report.add(Severity::Warning, "inlined_table_missing", name, message, RESTORE);
            }
        }
        Ok(())
    }
}
