//! A source: prepares statements, reads rows into batches, makes the position.

use std::sync::Arc;
use std::time::Duration;

use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use portolan_model::name::SourceName;
use portolan_model::source::{Capabilities, Output, Phase, Probe, ReadEnd, Source};
use portolan_model::{Error, ErrorKind, Position, Result, Retry};

use super::columns::TimeAs;
use super::connection::{Connection, PreparedStatement, Step};
use super::cursor::{CursorKind, Parameter};
use super::decode::RowDecoder;
use super::error::Endpoint;
use super::snapshot;
use super::statement::{Relation, Statement};
use super::wire::Column;
use super::wire::message::column_flag;
use super::wire::packets::malformed;
use crate::relational::{
    CAPABILITIES, Cursor, Endings, From, Kind as _, LateWindow, Next, Plan, Problem, Progress, Rows, check_key,
    check_names, digest_of, no_column, null_cursor,
};

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
    pub(super) endings: Endings,
}

/// A connection with what has been prepared on it.
pub(super) struct Ready {
    connection: Connection,
    columns: Vec<Column>,
    cursor: Option<Cursor<CursorKind>>,
    statements: Vec<(Statement, PreparedStatement)>,
    /// The connection that takes the lock of snapshots, kept between rounds.
    spare: Option<Connection>,
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
    /// Every row is beyond the position.
    fn is_beyond(&self) -> bool {
        matches!(self.statement, Statement::Rows { from: From::After, .. }) && !self.turns_back
    }
}

/// The rows of an answer.
struct AnswerRows<'a> {
    connection: &'a mut Connection,
    decoder: RowDecoder,
    /// The cursor, and its column.
    cursor: Option<(&'a Cursor<CursorKind>, &'a Column)>,
}

impl Rows for AnswerRows<'_> {
    fn advance(&mut self) -> Result<Next> {
        match self.connection.next_row()? {
            Step::Row(packet) => self.decoder.push(packet).map(|()| Next::Row).map_err(malformed),
            Step::Pending => Ok(Next::Pending),
            Step::End => Ok(Next::End),
        }
    }

    async fn fill(&mut self) -> Result<()> {
        self.connection.fill().await
    }

    fn take_received_bytes(&mut self) -> u64 {
        self.connection.take_received_bytes()
    }

    fn size(&self) -> (usize, usize) {
        (self.decoder.rows(), self.decoder.bytes())
    }

    fn cursor_text(&self) -> Result<Option<String>> {
        let Some((cursor, column)) = self.cursor else { return Ok(None) };
        let raw = self.decoder.cursor_value().ok_or_else(|| null_cursor(&cursor.name))?;
        cursor.kind.text_of(column, raw).map(Some).map_err(malformed)
    }

    fn finish(&mut self) -> std::result::Result<(RecordBatch, Vec<Problem>), ArrowError> {
        self.decoder.finish()
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
                let digest = digest_of(query);
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
    async fn cursor_facts(&self, ready: &mut Ready, name: &str) -> Result<Cursor<CursorKind>> {
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
        cursor.check(&self.settings.key)?;
        Ok(cursor)
    }

    /// Where a read that continues begins.
    fn from(&self, cursor: &Cursor<CursorKind>) -> From {
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
        cursor: &Cursor<CursorKind>,
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
        let decoder = RowDecoder::new(&columns, self.settings.time_as, cursor.map(|(_, index)| index));
        let plan = Plan {
            of: self.of(),
            cursor: ready.cursor.as_ref(),
            from,
            before: range.before.as_deref(),
            is_beyond: range.is_beyond(),
            batch_rows: self.settings.batch_rows,
            identity: &self.identity(&columns),
        };
        let cursor = cursor.map(|(cursor, index)| (cursor, &columns[index]));
        let mut rows = AnswerRows { connection: &mut ready.connection, decoder, cursor };
        let Progress { position, is_cut } = plan.read(&mut rows, output, own).await?;
        if !is_cut && output.is_snapshot() {
            ready.connection.query("COMMIT").await.map_err(own)?;
        }
        let end = ReadEnd { position, more: is_cut || range.more, snapshot, ..ReadEnd::default() };
        Ok(Reading { end, is_cut })
    }

    /// Opens the snapshot that all sources of this server read in their round; `None` where they could not agree on one.
    async fn open_snapshot(&self, ready: &mut Ready, output: &mut dyn Output) -> Result<Option<String>> {
        let Settings { relation, snapshot_lock, snapshot_lock_wait, .. } = &self.settings;
        // Each time anew: a table may have been given another engine, the server another role.
        let mut footing = snapshot::footing(&mut ready.connection, relation, *snapshot_lock).await?;
        footing.spare = ready.spare.take();
        let opened =
            snapshot::open(&mut ready.connection, &mut footing, *snapshot_lock_wait, &self.endings, output).await;
        ready.spare = footing.spare;
        opened
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
        Capabilities { resume: self.settings.cursor.is_some(), ..CAPABILITIES }
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
        let mut guard = ready.connection.guard(&self.endings);
        let result = self.read_rows(&mut ready, from, output).await;
        guard.settle(&result, |reading| reading.is_cut, ready.connection.is_refused());
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
        self.endings.finish(self.endpoint.connect_timeout).await;
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
fn find_cursor<'a>(cursor: &'a Cursor<CursorKind>, columns: &[Column]) -> Result<(&'a Cursor<CursorKind>, usize)> {
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
