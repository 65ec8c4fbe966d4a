//! What `status` shows: the state of each source, and whether a collector is at work.

use jiff::Timestamp;
use portolan_model::catalog::SourceStatus;
use portolan_model::state::State;
use portolan_model::{Position, Result, RoundId, SourceName};
use rusqlite::{Connection, Row};
use std::collections::BTreeMap;

use super::LakeReader;
use crate::error::{corrupt, sqlite};

const OPERATION: &str = "read status";

impl LakeReader {
    /// The stored state of every source, by name.
    pub fn statuses(&self) -> Result<Vec<SourceStatus>> {
        read_statuses(&self.connection()?)
    }

    /// The committed position of every source that has one.
    pub fn positions(&self) -> Result<BTreeMap<SourceName, Position>> {
        read_positions(&self.connection()?)
    }

    /// The process that collects into the lake now, if one does.
    pub fn collector(&self) -> Result<Option<u32>> {
        crate::lock::holder(&self.layout.lock())
    }

    /// The last committed round, with the snapshot it made.
    pub fn last_round(&self) -> Result<Option<(RoundId, i64)>> {
        let connection = self.connection()?;
        let sql = "SELECT round, snapshot_id FROM portolan_round ORDER BY round DESC LIMIT 1";
        let mut statement = connection.prepare(sql).map_err(|error| sqlite(OPERATION, error))?;
        let mut rows = statement.query([]).map_err(|error| sqlite(OPERATION, error))?;
        let row = rows.next().map_err(|error| sqlite(OPERATION, error))?;
        let read = |row: &Row<'_>| Ok((RoundId(row.get(0)?), row.get(1)?));
        row.map(read).transpose().map_err(|error| sqlite(OPERATION, error))
    }
}

pub(crate) fn read_statuses(connection: &Connection) -> Result<Vec<SourceStatus>> {
    let sql = "SELECT source, address, state, since, cause_kind, cause, hint, last_round, last_success, rows_total, \
               errors_total, failures FROM portolan_source_status ORDER BY source";
    let mut statement = connection.prepare(sql).map_err(|error| sqlite(OPERATION, error))?;
    let mut rows = statement.query([]).map_err(|error| sqlite(OPERATION, error))?;
    let mut statuses = Vec::new();
    while let Some(row) = rows.next().map_err(|error| sqlite(OPERATION, error))? {
        statuses.push(status(row)?);
    }
    Ok(statuses)
}

pub(crate) fn read_positions(connection: &Connection) -> Result<BTreeMap<SourceName, Position>> {
    let sql = "SELECT source, position FROM portolan_position";
    let mut statement = connection.prepare(sql).map_err(|error| sqlite(OPERATION, error))?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)));
    let rows: Vec<_> = rows.and_then(Iterator::collect).map_err(|error| sqlite(OPERATION, error))?;
    rows.into_iter()
        .map(|(source, position)| {
            let wrong = |problem: String| corrupt("read positions", format!("source `{source}`: {problem}"));
            Ok((SourceName::new(&source).map_err(wrong)?, Position::from_text(&position).map_err(wrong)?))
        })
        .collect()
}

pub(crate) fn read_watermarks(connection: &Connection) -> Result<BTreeMap<SourceName, Timestamp>> {
    let sql = "SELECT source, watermark_us FROM portolan_watermark";
    let mut statement = connection.prepare(sql).map_err(|error| sqlite(OPERATION, error))?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)));
    let rows: Vec<_> = rows.and_then(Iterator::collect).map_err(|error| sqlite(OPERATION, error))?;
    rows.into_iter()
        .map(|(source, us)| {
            let wrong = |problem: String| corrupt("read watermarks", format!("source `{source}`: {problem}"));
            let watermark = Timestamp::from_microsecond(us).map_err(|error| wrong(error.to_string()))?;
            Ok((SourceName::new(&source).map_err(wrong)?, watermark))
        })
        .collect()
}

fn status(row: &Row<'_>) -> Result<SourceStatus> {
    let error = |error| sqlite(OPERATION, error);
    let source: String = row.get(0).map_err(error)?;
    let wrong = |what: &str| corrupt(OPERATION, format!("source `{source}` has an unreadable {what}"));
    let time = |text: String| text.parse::<Timestamp>().map_err(|_| wrong("time"));
    let state: String = row.get(2).map_err(error)?;
    let last_success: Option<String> = row.get(8).map_err(error)?;
    Ok(SourceStatus {
        source: SourceName::new(&source).map_err(|_| wrong("name"))?,
        address: row.get(1).map_err(error)?,
        state: State::from_name(&state).ok_or_else(|| wrong("state"))?,
        since: time(row.get(3).map_err(error)?)?,
        cause_kind: row.get(4).map_err(error)?,
        cause: row.get(5).map_err(error)?,
        hint: row.get(6).map_err(error)?,
        last_round: row.get::<_, Option<i64>>(7).map_err(error)?.map(RoundId),
        last_success: last_success.map(time).transpose()?,
        rows_total: row.get(9).map_err(error)?,
        errors_total: row.get(10).map_err(error)?,
        failures: row.get(11).map_err(error)?,
    })
}
