//! A source: prepares statements, reads rows into batches, makes the position.

use std::sync::Arc;

use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use portolan_model::name::SourceName;
use portolan_model::source::{Capabilities, Output, Phase, Probe, ReadEnd, Source};
use portolan_model::{Error, ErrorKind, Position, Result, Retry};

use super::catalog;
use super::columns::{Facts, Selected};
use super::connection::{Connection, Step};
use super::cursor::{CursorKind, NoPlace};
use super::decode::RowDecoder;
use super::error::Endpoint;
use super::layout::Layout;
use super::snapshot::Snapshot;
use super::statement::{Range, Relation};
use super::wire::Column;
use super::wire::messages::malformed;
use super::wire::reader::Malformed;
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
    pub(super) key: Vec<String>,
}

/// A table or query behind a port.
pub(super) struct PostgresSource {
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
    columns: Vec<Selected>,
    /// The expressions that the columns are selected by, and those of their arrays' shapes.
    selection: Vec<String>,
    /// The columns that identify a row for people.
    identity: Vec<usize>,
    /// The cursor, and the place of its column.
    cursor: Option<(Cursor<CursorKind>, usize)>,
    /// What the catalog has said of the columns, where a field's name may change without the columns doing so.
    facts: Option<Facts>,
}

/// Where one read begins and ends.
struct Extent {
    copy: String,
    from: From,
    /// The cursor value of the position, where there is one.
    before: Option<String>,
    more: bool,
}

/// The rows of a COPY.
struct CopyRows<'a> {
    connection: &'a mut Connection,
    decoder: RowDecoder,
    /// The cursor, and its column.
    cursor: Option<(&'a Cursor<CursorKind>, &'a Selected)>,
}

impl Rows for CopyRows<'_> {
    fn advance(&mut self) -> Result<Next> {
        match self.connection.next()? {
            Step::Data(message) => self.decoder.push(message).map(|()| Next::Row).map_err(malformed),
            Step::Pending => Ok(Next::Pending),
            Step::End if self.decoder.has_ended() => Ok(Next::End),
            Step::End => Err(malformed(Malformed("a COPY without its end"))),
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
        let Some((cursor, selected)) = self.cursor else { return Ok(None) };
        let name = &cursor.name;
        let raw = self.decoder.cursor_value().ok_or_else(|| null_cursor(name))?;
        cursor.kind.text_of(&selected.kind, raw).map(Some).map_err(|problem| match problem {
            NoPlace::Malformed(problem) => malformed(problem),
            NoPlace::Endless => {
                let message = format!(
                    "a row has infinity, NaN or a year beyond 1 to 9999 in cursor `{name}`: nothing could follow it"
                );
                Error::new(ErrorKind::Data, "read rows", message)
                    .with_hint(format!("leave such rows out: query = \"SELECT … WHERE {name} < …\""))
            }
        })
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

impl Ready {
    /// Whether the fields of the columns are those that are known. Always where there are none.
    async fn has_same_fields(&mut self) -> Result<bool> {
        let Some(known) = &self.facts else { return Ok(true) };
        let columns: Vec<Column> = self.columns.iter().map(|selected| selected.column.clone()).collect();
        Ok(catalog::facts(&mut self.connection, &columns).await? == *known)
    }
}

impl PostgresSource {
    fn named(&self, error: Error) -> Error {
        error.with_source(&self.name).with_address(self.address.clone())
    }

    /// What a position belongs to, for people and for comparison. Of a query its digest: it may be long.
    fn of(&self) -> String {
        let database = &self.endpoint.subject.database;
        match &self.settings.relation {
            Relation::Table { schema, table } => format!("table \"{database}\".\"{schema}\".\"{table}\""),
            Relation::Query(query) => {
                let digest = digest_of(query);
                format!("a query of \"{database}\" with the digest {digest}")
            }
        }
    }

    async fn connect(&self) -> Result<Ready> {
        let mut connection = Connection::open(&self.endpoint).await?;
        let columns = match connection.describe(&self.settings.relation.whole()).await {
            Ok(columns) => columns,
            Err(error) => return Err(self.with_suggestion(&mut connection, error).await),
        };
        check_names(&columns)?;
        check_key(&self.settings.key, &columns)?;
        let facts = catalog::facts(&mut connection, &columns).await?;
        let identity = self.identity(&mut connection, &columns).await?;
        let columns = self.select(&facts, columns);
        let facts = Some(facts).filter(|_| columns.iter().any(|selected| selected.kind.has_fields()));
        let shapes = columns.iter().filter_map(Selected::shape);
        let selection = columns.iter().map(Selected::expression).chain(shapes).collect();
        let mut ready = Ready { connection, columns, selection, identity, cursor: None, facts };
        if let Some(name) = &self.settings.cursor {
            ready.cursor = Some(self.cursor_facts(&mut ready, name).await?);
        } else {
            let copy = self.settings.relation.copy(&ready.selection);
            ready.connection.prepare_copy(&copy).await?;
        }
        Ok(ready)
    }

    fn select(&self, facts: &Facts, columns: Vec<Column>) -> Vec<Selected> {
        columns.into_iter().map(|column| facts.select(column)).collect()
    }

    /// Adds the name of the table that may have been meant.
    async fn with_suggestion(&self, connection: &mut Connection, error: Error) -> Error {
        if error.kind() != ErrorKind::NotFound {
            return error;
        }
        match catalog::suggestion(connection, &self.settings.relation).await {
            Some(name) => {
                let hint = error.hint().unwrap_or_default().to_owned();
                error.with_hint(format!("did you mean {name}? {hint}"))
            }
            None => error,
        }
    }

    /// The columns that identify a row for people: the key, else the primary key, else the cursor.
    async fn identity(&self, connection: &mut Connection, columns: &[Column]) -> Result<Vec<usize>> {
        let named = |names: &[String]| -> Vec<usize> {
            let position = |name: &String| columns.iter().position(|column| column.name == *name);
            names.iter().map_while(position).collect()
        };
        if !self.settings.key.is_empty() {
            return Ok(named(&self.settings.key));
        }
        let primary = match &self.settings.relation {
            Relation::Table { .. } => catalog::primary_key(connection, columns).await?,
            Relation::Query(_) => Vec::new(),
        };
        Ok(if primary.is_empty() { named(self.settings.cursor.as_slice()) } else { named(&primary) })
    }

    /// What orders the rows, and whether two rows can share a value of it.
    async fn cursor_facts(&self, ready: &mut Ready, name: &str) -> Result<(Cursor<CursorKind>, usize)> {
        let Some(index) = ready.columns.iter().position(|selected| selected.column.name == name) else {
            return Err(no_column("cursor", name, &ready.columns));
        };
        let kind = CursorKind::of(&ready.columns[index])?;
        if let Some(window) = self.settings.late_window {
            kind.accept(window)?;
        }
        let mut cursor = Cursor {
            name: name.to_owned(),
            kind,
            is_unique: self.settings.key.len() == 1 && self.settings.key[0] == name,
            is_nullable: true,
        };
        if let Relation::Table { .. } = &self.settings.relation {
            let promise = catalog::promise(&mut ready.connection, &ready.columns[index].column).await?;
            cursor.is_unique |= promise.is_unique;
            cursor.is_nullable = promise.is_nullable;
        }
        cursor.check(&self.settings.key)?;
        Ok((cursor, index))
    }

    /// Where this read begins and ends.
    async fn extent(&self, ready: &mut Ready, from: Option<&Position>) -> Result<Extent> {
        let relation = &self.settings.relation;
        let Some((cursor, _)) = ready.cursor.clone() else {
            let copy = relation.copy(&ready.selection);
            return Ok(Extent { copy, from: From::Start, before: None, more: false });
        };
        let before = from.map(|position| cursor.kind.stored_value(&self.of(), &cursor.name, position)).transpose()?;
        if cursor.is_nullable {
            let rows = ready.connection.query(&relation.has_null(&cursor.name)).await?;
            if rows.first().and_then(|row| row.first()).is_some_and(|has_null| has_null.as_deref() == Some("t")) {
                return Err(null_cursor(&cursor.name));
            }
        }
        let mut range = Range { from: From::Start, lower: None, upper: None };
        if let Some(before) = &before {
            // A window may begin at the smallest value there is, which is read with it.
            let is_exact = cursor.is_unique && self.settings.late_window.is_none();
            range.from = if is_exact { From::After } else { From::With };
            range.lower = Some(cursor.kind.literal_before(before, self.settings.late_window)?);
        }
        let mut more = false;
        if let Some(rows_max) = self.settings.max_rows {
            // What lies beyond the position alone counts.
            let exact = before.as_deref().map(|before| cursor.kind.literal_of(before));
            let from = if exact.is_some() { From::After } else { From::Start };
            let beyond = Range { from, lower: exact, upper: None };
            let bounds = ready.connection.query(&relation.bound(&cursor.name, &beyond, rows_max)).await?;
            if let Some(Some(bound)) = bounds.first().and_then(|row| row.first()) {
                range.upper = Some(super::statement::literal(bound));
                more = bounds.len() > 1;
            }
        }
        let copy = relation.copy_range(&ready.selection, &cursor.name, &range);
        Ok(Extent { copy, from: range.from, before, more })
    }

    async fn read_rows(&self, ready: &mut Ready, from: Option<&Position>, output: &mut dyn Output) -> Result<Reading> {
        let own = |error: Error| self.named(error);
        let extent = self.extent(ready, from).await.map_err(own)?;
        ready.connection.prepare_copy(&extent.copy).await.map_err(own)?;
        ready.connection.take_received_bytes();
        let snapshot = if output.is_snapshot() {
            let snapshot = self.open_snapshot(ready, output).await.map_err(own)?;
            // What it shows was settled when it was opened.
            ready.connection.start_copy().await.map_err(own)?;
            Some(snapshot)
        } else {
            ready.connection.release_copy(output).await.map_err(own)?;
            ready.connection.fill().await.map_err(own)?;
            output.mark(Phase::FirstByte);
            None
        };
        ready.connection.begin_copy().await.map_err(own)?;
        let decoder = RowDecoder::new(&ready.columns, ready.cursor.as_ref().map(|(_, index)| *index));
        let cursor = ready.cursor.as_ref().map(|(cursor, index)| (cursor, &ready.columns[*index]));
        let plan = Plan {
            of: self.of(),
            cursor: cursor.map(|(cursor, _)| cursor),
            from,
            before: extent.before.as_deref(),
            is_beyond: extent.from == From::After,
            batch_rows: self.settings.batch_rows,
            identity: &ready.identity,
        };
        let mut rows = CopyRows { connection: &mut ready.connection, decoder, cursor };
        let Progress { position, is_cut } = plan.read(&mut rows, output, own).await?;
        if let Some(snapshot) = &snapshot {
            self.end_snapshot(ready, snapshot, is_cut, output).await.map_err(own)?;
        }
        let snapshot = snapshot.map(|(_, snapshot)| snapshot.name);
        let end = ReadEnd { position, more: is_cut || extent.more, snapshot, ..ReadEnd::default() };
        Ok(Reading { end, is_cut })
    }

    /// Opens the snapshot that all sources of this database read in their round; what it is read from is noted before.
    async fn open_snapshot(&self, ready: &mut Ready, output: &mut dyn Output) -> Result<(Layout, Snapshot)> {
        // Each time anew: a partition or a view may lead to a foreign table by now.
        let layout = Layout::of(&mut ready.connection, &self.settings.relation).await?;
        Ok((layout, Snapshot::open(&mut ready.connection, output).await?))
    }

    /// Ends the snapshot of a read that has its rows, if they are those of the snapshot.
    async fn end_snapshot(
        &self,
        ready: &mut Ready,
        (layout, snapshot): &(Layout, Snapshot),
        is_cut: bool,
        output: &mut dyn Output,
    ) -> Result<()> {
        let relation = &self.settings.relation;
        if !is_cut {
            snapshot.hold(&mut ready.connection, output).await?;
            ready.connection.query("COMMIT").await?;
            return layout.check(&mut ready.connection, relation).await;
        }
        // Its own connection is full of rows that nobody reads, and keeps its transaction until it is dropped.
        let mut other = Connection::open(&self.endpoint).await?;
        let ended = async {
            snapshot.hold(&mut other, output).await?;
            layout.check(&mut other, relation).await
        };
        let ended = ended.await;
        other.close().await;
        ended
    }

    /// The fields of what was read must still be called as they were: no lock has kept them, and no description tells them.
    async fn check_fields(&self, ready: &mut Ready, is_cut: bool) -> Result<()> {
        if ready.facts.is_none() {
            return Ok(());
        }
        if is_cut {
            // The connection is of no use any more.
            ready.connection = Connection::open(&self.endpoint).await?;
        }
        if ready.has_same_fields().await? {
            return Ok(());
        }
        let message = "what is read has fields of other names than when it was prepared";
        Err(Error::new(ErrorKind::Data, "read rows", message)
            .with_retry(Retry::Transient)
            .with_hint("it is read with its new fields next time"))
    }

    async fn facts(&self, ready: &mut Ready) -> Result<Vec<(String, String)>> {
        let mut facts = vec![("columns".to_owned(), ready.columns.len().to_string())];
        if let Some((cursor, _)) = &ready.cursor {
            facts.push(("cursor kind".into(), cursor.kind.name().to_owned()));
            facts.push(("cursor is unique".into(), cursor.is_unique.to_string()));
        }
        facts.push(("login".into(), ready.connection.session.login.to_owned()));
        let asked = "SELECT current_user, CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE 'primary' END, \
                     (SELECT CASE WHEN rolsuper THEN 'superuser' WHEN rolbypassrls THEN 'bypasses row security' \
                      ELSE 'ordinary' END FROM pg_catalog.pg_roles WHERE rolname = current_user), \
                     current_setting('TimeZone'), current_setting('server_encoding'), current_setting('search_path'), \
                     current_setting('statement_timeout'), current_setting('max_connections')";
        let names = [
            "account",
            "server is",
            "account is",
            "session time zone",
            "encoding of the database",
            "search path",
            "statement timeout",
            "connections at most",
        ];
        let rows = ready.connection.query(asked).await?;
        let values = rows.into_iter().flatten().map(Option::unwrap_or_default);
        facts.extend(names.into_iter().map(str::to_owned).zip(values));
        Ok(facts)
    }
}

#[async_trait]
impl Source for PostgresSource {
    fn capabilities(&self) -> Capabilities {
        Capabilities { resume: self.settings.cursor.is_some(), ..CAPABILITIES }
    }

    async fn prepare(&mut self) -> Result<()> {
        if let Some(mut ready) = self.ready.take()
            && ready.connection.is_as_before().await
            && ready.has_same_fields().await.unwrap_or(false)
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
        let mut result = self.read_rows(&mut ready, from, output).await;
        if let Ok(reading) = &result
            && let Err(error) = self.check_fields(&mut ready, reading.is_cut).await
        {
            result = Err(self.named(error));
        }
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
        let Some(mut ready) = self.ready.take() else {
            return Ok(Probe::default());
        };
        let facts = self.facts(&mut ready).await.map_err(|error| self.named(error))?;
        let session = &ready.connection.session;
        let probe = Probe { server: Some(format!("PostgreSQL {}", session.server)), tls: session.tls.clone(), facts };
        self.ready = Some(ready);
        Ok(probe)
    }

    async fn close(&mut self) {
        if let Some(ready) = self.ready.take() {
            ready.connection.close().await;
        }
        self.endings.finish(self.endpoint.connect_timeout).await;
    }
}
