//! `portolan diff`: what changed between two rounds.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Builder, RecordBatch, StringBuilder, UInt64Builder};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use portolan_lake::{ColumnChange, DiffItem, DiffScope, Existence, Identity, LakeReader, TableDiff};
use portolan_model::{Error, ErrorKind};

use crate::exit::{Exit, Stop, tell};
use crate::output::{self, Options, Rows, Target};

/// Arguments of `portolan diff`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without TABLE: a line for each port. With TABLE: its items, a line for each column that changed; rows that
rounds have added, updated or removed count, whoever did it.

Examples:
  portolan diff 120 140
  portolan diff 120 140 customers
  portolan diff 120 140 orders --key id --limit 1000 --format csv
  portolan diff 2026-11-22T10:00:00Z 140 --exit-code > /dev/null || echo something changed"
)]
pub(crate) struct Arguments {
    /// The round, or the instant (RFC 3339), that differences start from.
    #[arg(value_name = "ROUND_A")]
    from: String,
    /// The round or the instant that they lead to; may be the earlier one.
    #[arg(value_name = "ROUND_B")]
    to: String,
    /// Show the items of this table.
    #[arg(value_name = "TABLE")]
    table: Option<String>,
    /// Columns that tell items apart, instead of the key that the lake knows: all rows are read, and of several rows of one
    /// item the latest counts.
    #[arg(long, value_name = "COLUMN", value_delimiter = ',', requires = "table")]
    key: Vec<String>,
    /// Items of TABLE that are shown.
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    limit: u32,
    /// End with 1 if something differs.
    #[arg(long)]
    exit_code: bool,
    /// How lines are written: table, json, ndjson, csv, arrow or parquet.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: String,
    /// Write to a file instead of standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Folder of the lake, instead of the configuration's.
    #[arg(long, value_name = "FOLDER")]
    lake: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(config: &Path, arguments: Arguments) -> Result<Exit, Stop> {
    let format = output::format(&arguments.format)?;
    let (from, to) = (super::state("ROUND_A", &arguments.from)?, super::state("ROUND_B", &arguments.to)?);
    let target = arguments.output.map_or(Target::Stdout, Target::File);
    output::accept(format, &target, 1)?;
    let limit = if arguments.table.is_some() { arguments.limit as usize } else { 0 };
    let key = (!arguments.key.is_empty()).then_some(arguments.key);
    let scope = DiffScope { from, to, table: arguments.table, key, limit };
    let reader = LakeReader::open(&super::lake_path(arguments.lake.as_deref(), config)?)?;
    let diff = reader.diff(&scope)?;
    let batch = match &scope.table {
        None => summary(&diff.tables)?,
        Some(_) => items(&diff.tables)?,
    };
    let result = Rows { name: String::new(), schema: batch.schema(), batches: vec![batch] };
    output::deliver_rows(format, &target, &Options { rows_max: None, ..Options::default() }, &[result])?;
    for table in diff.tables.iter().filter(|_| scope.table.is_some()) {
        let shown = table.items.len() as u64;
        if shown < table.items_total {
            tell(format_args!("{shown} of {} items shown: raise --limit\n", table.items_total));
        }
        if !table.columns.is_empty() {
            tell(format_args!("columns: {}\n", columns(table)));
        }
    }
    let is_same = diff.tables.iter().all(TableDiff::is_same);
    // As `diff` and `git diff --exit-code` do.
    Ok(if arguments.exit_code && !is_same { Exit::Failure } else { Exit::Success })
}

/// A name as it is written to name the table.
fn full_name(table: &TableDiff) -> String {
    if table.schema == "main" { table.name.clone() } else { format!("{}.{}", table.schema, table.name) }
}

/// What happened to the columns, in one line.
fn columns(table: &TableDiff) -> String {
    let one = |change: &ColumnChange| match change {
        ColumnChange::Added { name, kind } => format!("+{name} {kind}"),
        ColumnChange::Removed { name, kind } => format!("-{name} {kind}"),
        ColumnChange::Renamed { from, to } => format!("{from} → {to}"),
        ColumnChange::Retyped { name, from, to } => format!("{name} {from} → {to}"),
    };
    match table.existence {
        Existence::Added => "table added".to_owned(),
        Existence::Removed => "table removed".to_owned(),
        Existence::Both => table.columns.iter().map(one).collect::<Vec<_>>().join(", "),
    }
}

/// A line for each table.
fn summary(tables: &[TableDiff]) -> Result<RecordBatch, Stop> {
    let texts = |text: &dyn Fn(&TableDiff) -> String| -> ArrayRef {
        Arc::new(tables.iter().map(|table| Some(text(table))).collect::<arrow::array::StringArray>())
    };
    let counts = |count: fn(&TableDiff) -> u64| -> ArrayRef {
        Arc::new(tables.iter().map(count).collect::<arrow::array::UInt64Array>())
    };
    let by = |table: &TableDiff| match &table.identity {
        Identity::RowId => "row".to_owned(),
        Identity::Key(key) => key.join(", "),
        Identity::WholeRow => "all columns".to_owned(),
    };
    batch(vec![
        ("table", texts(&full_name)),
        ("added", counts(|table| table.added)),
        ("removed", counts(|table| table.removed)),
        ("changed", counts(|table| table.changed)),
        ("unchanged", counts(|table| table.unchanged)),
        ("compared_by", texts(&by)),
        ("columns", texts(&columns)),
    ])
}

/// A line for each item that was added or removed, and for each column of one that changed.
fn items(tables: &[TableDiff]) -> Result<RecordBatch, Stop> {
    let mut lines = Lines::default();
    for table in tables {
        for item in &table.items {
            let (Some(row), name) = (item.after.as_ref().or(item.before.as_ref()), name_of(table, item)?) else {
                continue;
            };
            let (Some(before), Some(after)) = (&item.before, &item.after) else {
                let text = [&item.before, &item.after].map(|side| side.as_ref().map(object).transpose());
                let [before, after] = text;
                lines.push(item, name.as_deref(), None, before?.as_deref(), after?.as_deref());
                continue;
            };
            for (place, field) in row.schema().fields().iter().enumerate().filter(|(_, field)| is_own(field)) {
                let (one, other) = (cell(before, place)?, cell(after, place)?);
                if one != other {
                    lines.push(item, name.as_deref(), Some(field.name()), Some(&one), Some(&other));
                }
            }
        }
    }
    lines.finish()
}

/// Whether a column is the source's, not the lake's.
fn is_own(field: &Field) -> bool {
    field.name() != "_round" && field.name() != "_time"
}

/// What tells an item apart, as JSON.
fn name_of(table: &TableDiff, item: &DiffItem) -> Result<Option<String>, Stop> {
    match (&table.identity, item.after.as_ref().or(item.before.as_ref())) {
        (Identity::Key(key), Some(row)) => {
            let places: Vec<usize> = key.iter().filter_map(|name| row.schema().index_of(name).ok()).collect();
            let row = row.project(&places).map_err(wrong)?;
            Ok(Some(object(&row)?))
        }
        (Identity::RowId, _) => Ok(Some(format!("{{\"row_id\":{}}}", item.row_id))),
        _ => Ok(None),
    }
}

fn cell(row: &RecordBatch, place: usize) -> portolan_model::Result<String> {
    output::json_text(row.column(place).as_ref(), row.schema_ref().field(place), 0)
}

/// A row's own columns as a JSON object.
fn object(row: &RecordBatch) -> portolan_model::Result<String> {
    let mut text = String::from("{");
    for (place, field) in row.schema_ref().fields().iter().enumerate().filter(|(_, field)| is_own(field)) {
        if text.len() > 1 {
            text.push(',');
        }
        text.push_str(&serde_json::Value::from(field.name().as_str()).to_string());
        text.push(':');
        text.push_str(&cell(row, place)?);
    }
    text.push('}');
    Ok(text)
}

#[derive(Default)]
struct Lines {
    change: StringBuilder,
    item: StringBuilder,
    round: Int64Builder,
    column: StringBuilder,
    before: StringBuilder,
    after: StringBuilder,
    rows: UInt64Builder,
}

impl Lines {
    fn push(
        &mut self,
        item: &DiffItem,
        name: Option<&str>,
        column: Option<&str>,
        before: Option<&str>,
        after: Option<&str>,
    ) {
        self.change.append_value(item.change.as_str());
        self.item.append_option(name);
        let row = item.after.as_ref().or(item.before.as_ref());
        let rounds = row.and_then(|row| row.column_by_name("_round")?.as_primitive_opt::<Int64Type>().cloned());
        self.round.append_option(rounds.filter(|rounds| rounds.is_valid(0)).map(|rounds| rounds.value(0)));
        self.column.append_option(column);
        self.before.append_option(before);
        self.after.append_option(after);
        self.rows.append_value(item.count);
    }

    fn finish(mut self) -> Result<RecordBatch, Stop> {
        batch(vec![
            ("change", Arc::new(self.change.finish())),
            ("item", Arc::new(self.item.finish())),
            ("round", Arc::new(self.round.finish())),
            ("column", Arc::new(self.column.finish())),
            ("before", Arc::new(self.before.finish())),
            ("after", Arc::new(self.after.finish())),
            ("rows", Arc::new(self.rows.finish())),
        ])
    }
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch, Stop> {
    let field = |(name, array): &(&str, ArrayRef)| {
        let field = Field::new(*name, array.data_type().clone(), true);
        let is_json = *array.data_type() == DataType::Utf8 && ["item", "before", "after"].contains(name);
        let metadata = is_json.then(|| ("ARROW:extension:name".to_owned(), "arrow.json".to_owned()));
        field.with_metadata(metadata.into_iter().collect())
    };
    let schema: SchemaRef = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
    RecordBatch::try_new(schema, columns.into_iter().map(|(_, array)| array).collect()).map_err(wrong)
}

fn wrong(error: arrow::error::ArrowError) -> Stop {
    Error::new(ErrorKind::Internal, "show differences", "the lines do not fit").with_cause(error).into()
}
