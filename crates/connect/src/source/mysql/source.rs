//! A source: prepares statements, reads rows into batches, makes the position.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::digest;
use portolan_model::name::SourceName;
use portolan_model::source::{Capabilities, Output, Phase, Probe, ReadEnd, Source};
use portolan_model::{Error, ErrorKind, Position, Result, Retry};

use super::columns::TimeAs;
use super::connection::{Connection, Endpoint, KillGuard, Kills, PreparedStatement, Step};
use super::cursor::{CursorKind, Parameter};
use super::decode::RowDecoder;
use super::rows::{check_key, check_names, no_column, quarantined};
use super::snapshot;
use super::statement::{From, Relation, Statement};
use super::wire::Column;
use super::wire::message::column_flag;
use super::wire::packets::malformed;
use crate::relational::{LateWindow, row_identity};

/// A batch is handed on once it has so many bytes, however few its rows.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// What a source reads, and how.
pub(super) struct Settings {
    pub(super) relation: Relation,
    pub(super) cursor: Option<String>,
    pub(super) late_window: Option<LateWindow>,
    pub(super) batch_rows: usize,
    pub(super) max_rows: Option<u64>,
    pub(super) time_as: TimeAs,
    pub(super) key: Vec<String>,
    pub(super) snapshot_lock: bool,
    pub(super) snapshot_lock_wait: Duration,
}

/// A table or query behind a port.
pub(super) struct MySqlSource {
    pub(super) name: SourceName,
    pub(super) address: String,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) settings: Settings,
    pub(super) ready: Option<Ready>,
    pub(super) kills: Kills,
}

/// A connection with what has been prepared on it.
pub(super) struct Ready {
    connection: Connection,
    columns: Vec<Column>,
    cursor: Option<Cursor>,
    statements: Vec<(Statement, PreparedStatement)>,
    /// The connection that takes the lock of snapshots, kept between rounds.
    spare: Option<Connection>,
}

/// What is known of the cursor column.
#[derive(Clone, Debug)]
struct Cursor {
    name: String,
    kind: CursorKind,
    is_unique: bool,
    is_nullable: bool,
}

/// Where one read begins and ends.
struct Range {
    statement: Statement,
    parameters: Vec<Parameter>,
    /// The cursor value of the position, where there is one.
    before: Option<String>,
    /// A late window makes it begin before the position.
    turns_back: bool,
    more: bool,
}

impl Range {
    /// Whether a read that ends at `last` has come further than its position for sure: the next one then does too.
    fn is_beyond(&self, cursor: &Cursor, last: &str) -> bool {
        let Statement::Rows { from, .. } = self.statement else { return false };
        match &self.before {
            None => true,
            Some(before) => (from == From::After && !self.turns_back) || cursor.kind.is_later(last, before),
        }
    }
}

/// What a read came to.
struct Reading {
    end: ReadEnd,
    /// Rows that the server still sends were left: the connection is of no use any more.
    is_cut: bool,
}

impl MySqlSource {
    fn named(&self, error: Error) -> Error {
        error.with_source(&self.name).with_address(self.address.clone())
    }

    /// What a position belongs to, for people and for comparison. Of a query its digest: it may be long.
    fn of(&self) -> String {
        let database = &self.endpoint.subject.database;
        match &self.settings.relation {
            Relation::Table(table) => format!("table `{database}`.`{table}`"),
            Relation::Query(query) => {
                let words = query.split_whitespace().collect::<Vec<_>>().join(" ");
                let digest = digest::digest(&digest::SHA256, words.as_bytes());
                let digest: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
                format!("a query of `{database}` with the digest {digest}")
            }
        }
    }

    async fn connect(&self) -> Result<Ready> {
        let connection = Connection::open(&self.endpoint).await?;
        let mut ready = Ready { connection, columns: Vec::new(), cursor: None, statements: Vec::new(), spare: None };
        let whole = ready.connection.prepare(&self.settings.relation.whole(), 0).await?;
        check_names(&whole.columns)?;
        check_key(&self.settings.key, &whole.columns)?;
        ready.columns.clone_from(&whole.columns);
        let Some(name) = &self.settings.cursor else {
            ready.statements.push((Statement::Whole, whole));
            return Ok(ready);
        };
        let cursor = self.cursor_facts(&mut ready, name).await?;
        let from = self.from(&cursor);
        ready.cursor = Some(cursor);
        for from in [From::Start, from] {
            if self.settings.max_rows.is_some() {
                self.statement(&mut ready, Statement::Bound { from: after(from) }).await?;
            }
            let bounded = self.settings.max_rows.is_some();
            self.statement(&mut ready, Statement::Rows { from, bounded }).await?;
        }
        Ok(ready)
    }

    /// What orders the rows, and whether two rows can share a value of it.
    async fn cursor_facts(&self, ready: &mut Ready, name: &str) -> Result<Cursor> {
        let Some(column) = ready.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name)) else {
            return Err(no_column("cursor", name, &ready.columns));
        };
        let kind = CursorKind::of(column)?;
        if let Some(window) = self.settings.late_window {
            kind.accept(window)?;
        }
        let mut cursor = Cursor {
            name: column.name.clone(),
            kind,
            is_unique: self.settings.key.len() == 1 && self.settings.key[0].eq_ignore_ascii_case(name),
            is_nullable: !column.has(column_flag::NOT_NULL),
        };
        if let Relation::Table(table) = &self.settings.relation {
            cursor.is_unique |= is_unique(&mut ready.connection, table, name).await?;
        }
        if !cursor.is_unique && self.settings.key.is_empty() {
            return Err(Error::new(
                ErrorKind::Configuration,
                "prepare cursor",
                format!("several rows may share a value of cursor `{name}`, and no `key` tells them apart"),
            )
            .with_hint(format!(
                "write key = [\"id\", \"{name}\"] (columns that identify a row and its version), \
                 or use a column with a unique index of its own as cursor"
            )));
        }
        Ok(cursor)
    }

    /// Where a read that continues begins.
    fn from(&self, cursor: &Cursor) -> From {
        if cursor.is_unique { From::After } else { From::With }
    }

    /// The prepared form of `statement`, prepared now if it is not yet.
    async fn statement(&self, ready: &mut Ready, statement: Statement) -> Result<PreparedStatement> {
        if let Some((_, prepared)) = ready.statements.iter().find(|(known, _)| *known == statement) {
            return Ok(prepared.clone());
        }
        let prepared = match &ready.cursor {
            None => ready.connection.prepare(&self.settings.relation.whole(), 0).await?,
            Some(cursor) => {
                let rows_max = self.settings.max_rows.unwrap_or(u64::MAX);
                let relation = &self.settings.relation;
                let sql = relation.statement(statement, &cursor.name, cursor.kind, cursor.is_nullable, rows_max);
                ready.connection.prepare(&sql, statement.parameters()).await?
            }
        };
        ready.statements.push((statement, prepared.clone()));
        Ok(prepared)
    }

    /// Where this read begins and ends.
    async fn range(&self, ready: &mut Ready, from: Option<&Position>) -> Result<Range> {
        let Some(cursor) = ready.cursor.clone() else {
            let (statement, parameters) = (Statement::Whole, Vec::new());
            return Ok(Range { statement, parameters, before: None, turns_back: false, more: false });
        };
        let before = from.map(|position| cursor.kind.value_of(&self.of(), &cursor.name, position)).transpose()?;
        let mut parameters = Vec::new();
        if let Some(before) = &before {
            let lower = match self.settings.late_window {
                Some(window) => cursor.kind.before(before, window)?,
                None => before.clone(),
            };
            parameters.push(cursor.kind.parameter_of(&lower)?);
        }
        let from = if before.is_some() { self.from(&cursor) } else { From::Start };
        let (mut bounded, mut more) = (false, false);
        if self.settings.max_rows.is_some() {
            let exact = before.as_deref().map(|text| cursor.kind.parameter_of(text)).transpose()?;
            let bounds = self.bounds(ready, &cursor, after(from), exact).await?;
            if let Some(bound) = bounds.first() {
                parameters.push(cursor.kind.parameter_of(bound)?);
                (bounded, more) = (true, bounds.len() > 1);
            }
        }
        let turns_back = self.settings.late_window.is_some();
        Ok(Range { statement: Statement::Rows { from, bounded }, parameters, before, turns_back, more })
    }

    /// The cursor values that are `max_rows` and one more beyond the position, as far as there are so many rows.
    async fn bounds(
        &self,
        ready: &mut Ready,
        cursor: &Cursor,
        from: From,
        lower: Option<Parameter>,
    ) -> Result<Vec<String>> {
        let prepared = self.statement(ready, Statement::Bound { from }).await?;
        let lower: Vec<Parameter> = lower.into_iter().collect();
        ready.connection.send_request(&Connection::execution(&prepared, &lower)).await?;
        let columns = ready.connection.answer_columns().await?;
        let mut decoder = RowDecoder::new(&columns, TimeAs::Microseconds, Some(0));
        let mut bounds = Vec::new();
        loop {
            match ready.connection.next_row()? {
                Step::Row(packet) => {
                    decoder.push(packet).map_err(malformed)?;
                    if let (Some(raw), Some(column)) = (decoder.cursor_value(), columns.first()) {
                        bounds.push(cursor.kind.text_of(column, raw).map_err(malformed)?);
                    }
                }
                Step::Pending => ready.connection.fill().await?,
                Step::End => return Ok(bounds),
            }
        }
    }

    async fn read_rows(&self, ready: &mut Ready, from: Option<&Position>, output: &mut dyn Output) -> Result<Reading> {
        let own = |error: Error| self.named(error);
        let range = self.range(ready, from).await.map_err(own)?;
        let prepared = self.statement(ready, range.statement).await.map_err(own)?;
        let request = Connection::execution(&prepared, &range.parameters);
        ready.connection.take_received_bytes();
        let snapshot = if output.is_snapshot() {
            let snapshot = self.open_snapshot(ready, output).await.map_err(own)?;
            // What it shows was settled when it was opened.
            ready.connection.send_request(&request).await.map_err(own)?;
            snapshot
        } else {
            ready.connection.release(&[request], output).await.map_err(own)?;
            ready.connection.fill().await.map_err(own)?;
            output.mark(Phase::FirstByte);
            None
        };
        let columns = ready.connection.answer_columns().await.map_err(own)?;
        check_names(&columns).map_err(own)?;
        let cursor = ready.cursor.as_ref().map(|cursor| find_cursor(cursor, &columns)).transpose().map_err(own)?;
        let mut decoder = RowDecoder::new(&columns, self.settings.time_as, cursor.map(|(_, index)| index));
        let identity = self.identity(&columns);
        let mut rows_before = 0;
        let mut last = None;
        loop {
            match ready.connection.next_row().map_err(own)? {
                Step::Row(packet) => {
                    decoder.push(packet).map_err(|error| own(malformed(error)))?;
                    let is_full = decoder.rows() >= self.settings.batch_rows || decoder.bytes() >= BATCH_BYTES_MAX;
                    if !is_full {
                        continue;
                    }
                }
                Step::Pending => {
                    ready.connection.fill().await.map_err(own)?;
                    output.mark(Phase::LastByte);
                    continue;
                }
                Step::End => break,
            }
            if let Some((cursor, index)) = cursor {
                last = Some(cursor_text(cursor, &columns[index], &decoder).map_err(own)?);
            }
            output.count_bytes(ready.connection.take_received_bytes());
            rows_before += self.hand_on(&mut decoder, &columns, &identity, rows_before, output).await?;
            if let (Some((cursor, _)), Some(last)) = (cursor, &last)
                && output.is_enough()
                && range.is_beyond(cursor, last)
            {
                output.mark(Phase::LastByte);
                let position = Some(cursor.kind.position(&self.of(), &cursor.name, last));
                let end = ReadEnd { position, more: true, snapshot, ..ReadEnd::default() };
                return Ok(Reading { end, is_cut: true });
            }
        }
        output.mark(Phase::LastByte);
        output.count_bytes(ready.connection.take_received_bytes());
        if decoder.rows() > 0 {
            if let Some((cursor, index)) = cursor {
                last = Some(cursor_text(cursor, &columns[index], &decoder).map_err(own)?);
            }
            self.hand_on(&mut decoder, &columns, &identity, rows_before, output).await?;
        }
        let position = match (cursor, last) {
            (Some((cursor, _)), Some(last)) => {
                // Re-read rows may end before the position where the newest row was deleted meanwhile.
                let last = match &range.before {
                    Some(before) => cursor.kind.later(last, before),
                    None => last,
                };
                Some(cursor.kind.position(&self.of(), &cursor.name, &last))
            }
            (Some(_), None) => from.cloned(),
            (None, _) => None,
        };
        if output.is_snapshot() {
            ready.connection.query("COMMIT").await.map_err(own)?;
        }
        let end = ReadEnd { position, more: range.more, unchanged: false, validator: None, snapshot };
        Ok(Reading { end, is_cut: false })
    }

    /// Opens the snapshot that all sources of this server read in their round; `None` where they could not agree on one.
    async fn open_snapshot(&self, ready: &mut Ready, output: &mut dyn Output) -> Result<Option<String>> {
        let Settings { relation, snapshot_lock, snapshot_lock_wait, .. } = &self.settings;
        // Each time anew: a table may have been given another engine, the server another role.
        let mut footing = snapshot::footing(&mut ready.connection, relation, *snapshot_lock).await?;
        footing.spare = ready.spare.take();
        let opened =
            snapshot::open(&mut ready.connection, &mut footing, *snapshot_lock_wait, &self.kills, output).await;
        ready.spare = footing.spare;
        opened
    }

    /// Hands the rows collected so far on; returns their number.
    async fn hand_on(
        &self,
        decoder: &mut RowDecoder,
        columns: &[Column],
        identity: &[usize],
        rows_before: u64,
        output: &mut dyn Output,
    ) -> Result<u64> {
        let (batch, problems) = decoder.finish().map_err(|error| {
            self.named(Error::new(ErrorKind::Internal, "build batch", "rows do not form a batch").with_cause(error))
        })?;
        for problem in problems {
            let row = row_identity(&batch, identity, problem.row, rows_before);
            output.quarantine(quarantined(problem, columns, row)).await?;
        }
        let rows = batch.num_rows() as u64;
        output.batch(batch).await?;
        Ok(rows)
    }

    /// The columns that identify a row for people: the key, else the primary key, else the cursor.
    fn identity(&self, columns: &[Column]) -> Vec<usize> {
        let named = |names: &[String]| -> Vec<usize> {
            let position = |name: &String| columns.iter().position(|column| column.name.eq_ignore_ascii_case(name));
            names.iter().map_while(position).collect()
        };
        let key = named(&self.settings.key);
        if !key.is_empty() && key.len() == self.settings.key.len() {
            return key;
        }
        let primary = columns.iter().enumerate().filter(|(_, column)| column.has(column_flag::PRIMARY_KEY));
        let primary: Vec<usize> = primary.map(|(index, _)| index).collect();
        if primary.is_empty() { named(self.settings.cursor.as_slice()) } else { primary }
    }
}

#[async_trait]
impl Source for MySqlSource {
    fn capabilities(&self) -> Capabilities {
        Capabilities { resume: self.settings.cursor.is_some(), ..super::CAPABILITIES }
    }

    async fn prepare(&mut self) -> Result<()> {
        if let Some(mut ready) = self.ready.take()
            && ready.connection.is_alive().await
        {
            self.ready = Some(ready);
            return Ok(());
        }
        self.ready = Some(self.connect().await.map_err(|error| self.named(error))?);
        Ok(())
    }

    async fn read(&mut self, from: Option<&Position>, output: &mut dyn Output) -> Result<ReadEnd> {
        if self.ready.is_none() {
            self.prepare().await?;
        }
        // Taken out: after an error or a drop the connection is in an unknown state and never used again.
        let Some(mut ready) = self.ready.take() else {
            return Err(self.named(Error::new(ErrorKind::Internal, "read rows", "prepared without a connection")));
        };
        let mut guard = KillGuard::new(&ready.connection, &self.kills);
        let result = self.read_rows(&mut ready, from, output).await;
        match &result {
            Ok(reading) if !reading.is_cut => guard.disarm(),
            Ok(_) => {}
            // The server has ended it itself, and after a restart the number may be another connection's.
            Err(error) if error.kind() == ErrorKind::Disconnected || ready.connection.is_refused() => guard.disarm(),
            Err(_) => {}
        }
        let Reading { end, is_cut } = result?;
        if !is_cut {
            self.ready = Some(ready);
        }
        Ok(end)
    }

    async fn acknowledge(&mut self, _position: &Position) -> Result<()> {
        Ok(())
    }

    async fn probe(&mut self) -> Result<Probe> {
        self.prepare().await?;
        let Some(ready) = &mut self.ready else {
            return Ok(Probe::default());
        };
        let mut facts = vec![("columns".to_owned(), ready.columns.len().to_string())];
        if let Some(cursor) = &ready.cursor {
            facts.push(("cursor kind".into(), format!("{:?}", cursor.kind).to_lowercase()));
            facts.push(("cursor is unique".into(), cursor.is_unique.to_string()));
        }
        let connection = &mut ready.connection;
        let asked = connection.query("SELECT CURRENT_USER(), @@session.time_zone, @@character_set_results").await;
        let rows = asked.map_err(|error| error.with_source(&self.name).with_address(self.address.clone()))?;
        let names = ["account", "session time zone", "character set of results"];
        facts.extend(
            rows.into_iter().flatten().zip(names).map(|(value, name)| (name.into(), value.unwrap_or_default())),
        );
        Ok(Probe { server: Some(connection.session.server.clone()), tls: connection.session.tls.clone(), facts })
    }

    async fn close(&mut self) {
        if let Some(ready) = self.ready.take() {
            ready.connection.close().await;
        }
        self.kills.finish(self.endpoint.connect_timeout).await;
    }
}

/// For the bound of a read: what lies beyond the position alone counts.
fn after(from: From) -> From {
    if from == From::Start { From::Start } else { From::After }
}

/// Whether an index of its own lets no two rows share a value of `column`.
async fn is_unique(connection: &mut Connection, table: &str, column: &str) -> Result<bool> {
    let table: String = table.bytes().map(|byte| format!("{byte:02x}")).collect();
    let rows = connection
        .query(&format!(
            "SELECT INDEX_NAME, COLUMN_NAME, SUB_PART FROM information_schema.STATISTICS \
             WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = _utf8mb4 0x{table} AND NON_UNIQUE = 0"
        ))
        .await?;
    let is_whole = |row: &Vec<Option<String>>| {
        let name = row.get(1).and_then(Option::as_deref);
        let is_column = name.is_some_and(|name| name.eq_ignore_ascii_case(column));
        let index = row.first();
        is_column && row.get(2) == Some(&None) && rows.iter().filter(|other| other.first() == index).count() == 1
    };
    Ok(rows.iter().any(is_whole))
}

/// The cursor among the columns that really came: the table may have changed since it was prepared.
fn find_cursor<'a>(cursor: &'a Cursor, columns: &[Column]) -> Result<(&'a Cursor, usize)> {
    let index = columns.iter().position(|column| column.name == cursor.name);
    match index.map(|index| (index, CursorKind::of(&columns[index]))) {
        Some((index, Ok(kind))) if kind == cursor.kind => Ok((cursor, index)),
        _ => Err(Error::new(
            ErrorKind::Data,
            "read rows",
            format!("cursor `{}` changed its type meanwhile", cursor.name),
        )
        .with_retry(Retry::Transient)),
    }
}

fn cursor_text(cursor: &Cursor, column: &Column, decoder: &RowDecoder) -> Result<String> {
    match decoder.cursor_value() {
        Some(raw) => cursor.kind.text_of(column, raw).map_err(malformed),
        None => Err(null_cursor(&cursor.name)),
    }
}

fn null_cursor(name: &str) -> Error {
    Error::new(ErrorKind::Data, "read rows", format!("a row has NULL in cursor `{name}`: it could never be recognised"))
        .with_hint(format!("declare the column NOT NULL, or use query = \"SELECT … WHERE {name} IS NOT NULL\""))
}
