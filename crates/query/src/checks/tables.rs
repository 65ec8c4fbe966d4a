//! The tables that the checks of one round can name.
//!
//! A source's name alone is what the round has of it: the rows that it has staged, or, where the server proved that nothing
//! has changed, those of the table that each round replaces. `before.NAME` is what the lake held before the round,
//! `after.NAME` what it will hold: both, or, where each round replaces the table, the staged rows alone.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use portolan_lake::{At, LakeReader, Snapshot, StagedTableRows, TableView};
use portolan_model::catalog::WriteMode;
use portolan_model::check::{CheckedRows, StagedRows};
use portolan_model::config::CheckKind;
use portolan_model::{Error, ErrorKind, Result, SourceName};

use super::question::{AFTER, BEFORE, KEPT, Mention, Part, Question};
use crate::engine::Engine;
use crate::lake::{LakeTable, ROW_NUMBER, Stored};
use crate::names::MAIN;
use crate::uuid;

/// What checks can name.
pub(super) struct Tables {
    rows: BTreeMap<SourceName, u64>,
    snapshot: Option<i64>,
    known: BTreeMap<Mention, Entry>,
}

/// One table.
enum Entry {
    /// It is attached.
    Table {
        columns: SchemaRef,
        /// Whether its rows, or some, are those of the lake.
        is_of_lake: bool,
    },
    /// There is nothing to ask of, for people.
    Nothing {
        /// Why.
        why: String,
        /// Whether it is because of what the lake does not hold.
        is_of_lake: bool,
    },
}

impl Tables {
    /// Attaches what `mentions` name.
    ///
    /// # Errors
    /// What the lake says where it cannot be read.
    pub(super) fn attach<'m>(
        engine: &Engine,
        folder: &Path,
        sources: &BTreeMap<SourceName, CheckedRows>,
        mentions: impl Iterator<Item = &'m Mention>,
    ) -> Result<Self> {
        let mentions: BTreeSet<&Mention> = mentions.collect();
        let state_of = |mention: &Mention| sources.iter().find(|(name, _)| name.as_str() == mention.source);
        let needs_lake = |mention: &&&Mention| {
            let state = state_of(mention).map(|(_, rows)| rows);
            match mention.part {
                Part::Round => matches!(state, Some(CheckedRows::Unchanged { .. })),
                Part::Before => true,
                Part::Kept => matches!(state, Some(CheckedRows::Staged { mode: WriteMode::Append, .. })),
                Part::After => !matches!(state, Some(CheckedRows::Staged { mode: WriteMode::Replace, .. })),
            }
        };
        let mut lake = None;
        if mentions.iter().any(|mention| needs_lake(&mention)) {
            let snapshot = Arc::new(LakeReader::open(folder)?.snapshot(At::Head)?);
            let tables = snapshot.tables()?.into_iter().filter(|table| table.schema == MAIN);
            let tables = tables.map(|table| (table.name.clone(), table)).collect();
            lake = Some(Lake { snapshot, tables });
        }
        let mut known = BTreeMap::new();
        for mention in mentions {
            let state = state_of(mention).map(|(_, rows)| rows);
            let (entry, table) = entry(mention, state, lake.as_ref())?;
            if let Some(table) = table {
                let schema = match mention.part {
                    Part::Round => MAIN,
                    Part::Before => BEFORE,
                    Part::After => AFTER,
                    Part::Kept => KEPT,
                };
                engine.attach_table(schema, &mention.source, table);
            }
            known.insert(mention.clone(), entry);
        }
        let rows = sources.iter().filter_map(|(name, rows)| match rows {
            CheckedRows::Staged { rows, .. } => Some((name.clone(), rows.rows())),
            _ => None,
        });
        Ok(Self { rows: rows.collect(), snapshot: lake.map(|lake| lake.snapshot.id()), known })
    }

    /// The state of the lake that is read, where it is.
    pub(super) fn snapshot_id(&self) -> Option<i64> {
        self.snapshot
    }

    /// How many rows are staged of a source.
    pub(super) fn staged_rows(&self, source: &SourceName) -> u64 {
        self.rows.get(source).copied().unwrap_or(0)
    }

    /// Why there is nothing to ask, if so, for people.
    pub(super) fn obstacle(&self, question: &Question) -> Option<String> {
        question.mentions.iter().find_map(|mention| match self.known.get(mention) {
            Some(Entry::Nothing { why, .. }) => Some(why.clone()),
            _ => None,
        })
    }

    /// The sources whose tables of the lake the question reads, or would if they were there: its answer holds as long as
    /// these are as they are.
    pub(super) fn looked_up(&self, question: &Question) -> Vec<SourceName> {
        let is_of_lake = |mention: &&Mention| {
            let entry = self.known.get(mention);
            matches!(entry, Some(Entry::Table { is_of_lake: true, .. } | Entry::Nothing { is_of_lake: true, .. }))
        };
        question
            .mentions
            .iter()
            .filter(is_of_lake)
            .filter_map(|mention| SourceName::new(&mention.source).ok())
            .collect()
    }

    /// What is wrong with the columns that the question names, for people.
    pub(super) fn column_problem(&self, kind: &CheckKind, question: &Question) -> Option<String> {
        for mention in &question.mentions {
            let Some(Entry::Table { columns, .. }) = self.known.get(mention) else { continue };
            let numbers = columns.fields().iter().filter(|field| field.name() == ROW_NUMBER).count();
            if mention.part == Part::Round && numbers > 1 {
                let message =
                    format!("source `{}` has a column `{ROW_NUMBER}` of its own: rename it there", mention.source);
                return Some(message);
            }
        }
        for (mention, wanted) in &question.columns {
            let Some(Entry::Table { columns, .. }) = self.known.get(mention) else { continue };
            for column in wanted {
                if columns.field_with_name(column).is_err() {
                    let known = columns.fields().iter().map(|field| field.name().as_str());
                    let known: Vec<&str> =
                        known.filter(|name| !matches!(*name, ROW_NUMBER | "_round" | "_time")).take(50).collect();
                    let source = &mention.source;
                    return Some(format!("source `{source}` has no column `{column}`; it has {}", known.join(", ")));
                }
            }
            if let Some(problem) = Question::type_problem(kind, columns) {
                return Some(problem);
            }
        }
        None
    }
}

/// A state of the lake.
struct Lake {
    snapshot: Arc<Snapshot>,
    tables: BTreeMap<String, TableView>,
}

impl Lake {
    fn stored(&self, view: TableView) -> Stored {
        Stored { snapshot: Arc::clone(&self.snapshot), view: Arc::new(view) }
    }
}

/// What a mention names.
fn entry(mention: &Mention, state: Option<&CheckedRows>, lake: Option<&Lake>) -> Result<(Entry, Option<LakeTable>)> {
    let source = &mention.source;
    let view = lake.and_then(|lake| Some((lake, lake.tables.get(source)?.clone())));
    let nothing = |why: String| Ok((Entry::Nothing { why, is_of_lake: false }, None));
    let nothing_stored = || {
        let why = format!("the lake has no rows of `{source}` yet");
        Ok((Entry::Nothing { why, is_of_lake: true }, None))
    };
    let table = |table: LakeTable, is_of_lake: bool| {
        let columns = table.columns();
        Ok((Entry::Table { columns, is_of_lake }, Some(table)))
    };
    match (mention.part, state) {
        (Part::Round, None) => nothing(format!("source `{source}` is not read by this round")),
        (Part::Round, Some(CheckedRows::Missing)) => nothing(format!("source `{source}` is missing from the round")),
        (Part::Round, Some(CheckedRows::Staged { rows, .. })) => {
            if rows.rows() == 0 && !of_lake(rows)?.has_columns() {
                return nothing(format!("no rows of `{source}` have come yet"));
            }
            table(LakeTable::of(rows.schema(), None, Some(rows.clone())).numbered(), false)
        }
        (Part::Round, Some(CheckedRows::Unchanged { mode })) => match view {
            Some((lake, view)) if *mode == WriteMode::Replace => {
                table(LakeTable::of(view.arrow.clone(), Some(lake.stored(view)), None).numbered(), true)
            }
            Some((_, view)) => table(LakeTable::of(view.arrow, None, None).numbered(), false),
            None => nothing(format!("no rows of `{source}` have come yet")),
        },
        (Part::After, Some(CheckedRows::Staged { rows, mode })) => {
            let own = of_lake(rows)?;
            if rows.rows() == 0 && !own.has_columns() {
                return nothing(format!("no rows of `{source}` have come yet"));
            }
            let is_appended = *mode == WriteMode::Append;
            let stored = view.filter(|_| is_appended).map(|(lake, view)| lake.stored(own.widened(view)));
            table(LakeTable::of(rows.schema(), stored, Some(rows.clone())), is_appended)
        }
        (Part::Kept, Some(CheckedRows::Staged { rows, mode })) => {
            let is_appended = *mode == WriteMode::Append;
            let stored = match view.filter(|_| is_appended) {
                Some((lake, view)) => Some(lake.stored(of_lake(rows)?.widened(view))),
                None => None,
            };
            table(LakeTable::of(rows.schema(), stored, None), is_appended)
        }
        // What is compared with it has been stored already, or is nothing.
        (Part::Kept, _) => match view {
            Some((_, view)) => table(LakeTable::of(view.arrow, None, None), false),
            None => nothing_stored(),
        },
        (Part::Before, Some(CheckedRows::Staged { rows, .. })) if view.is_none() && of_lake(rows)?.has_columns() => {
            table(LakeTable::of(uuid::schema(&rows.schema()), None, None), true)
        }
        (Part::After, Some(CheckedRows::Missing)) => nothing(format!("source `{source}` is missing from the round")),
        // With the columns that it will have: what is new in it is NULL.
        (Part::Before, Some(CheckedRows::Staged { rows, .. })) if let Some((lake, view)) = &view => {
            let stored = lake.stored(of_lake(rows)?.widened(view.clone()));
            table(LakeTable::of(rows.schema(), Some(stored), None), true)
        }
        (Part::Before | Part::After, _) => match view {
            Some((lake, view)) => table(LakeTable::of(view.arrow.clone(), Some(lake.stored(view)), None), true),
            None => nothing_stored(),
        },
    }
}

/// Staged rows as the lake has them.
fn of_lake(rows: &Arc<dyn StagedRows>) -> Result<&StagedTableRows> {
    let rows: &dyn Any = &**rows;
    rows.downcast_ref()
        .ok_or_else(|| Error::new(ErrorKind::Internal, "check round", "the rows are not staged in a lake"))
}
