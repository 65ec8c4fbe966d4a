//! Which files a filter excludes, by the statistics that the catalog keeps of each file's columns.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, StringArray, UInt64Array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::error::Result as EngineResult;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::utils::conjunction;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use portolan_lake::types::Kind;
use portolan_lake::{ColumnStatistics, TableView};

/// The longest `in (…)` that statistics are asked about.
const LIST_MAX: usize = 100;

/// For each file of `view`, shown to the query as `table`, whether it may hold rows that `filters` let through.
pub(crate) fn files(
    state: &dyn Session,
    view: &TableView,
    table: &SchemaRef,
    filters: &[Expr],
) -> EngineResult<Vec<bool>> {
    let all = vec![true; view.files.len()];
    let Some(filter) = conjunction(filters.iter().cloned()) else { return Ok(all) };
    if view.files.is_empty() {
        return Ok(all);
    }
    let schema = DFSchema::try_from(table.as_ref().clone())?;
    // A filter that statistics say nothing about excludes nothing.
    let Ok(filter) = state.create_physical_expr(filter, &schema) else { return Ok(all) };
    let builder = PruningPredicateBuilder::new().with_file_schema(Arc::clone(table));
    let Ok(predicate) = builder.with_max_in_list_size(LIST_MAX).try_build(filter) else { return Ok(all) };
    Ok(predicate.prune(&FileStatistics(view)).unwrap_or(all))
}

struct FileStatistics<'a>(&'a TableView);

impl FileStatistics<'_> {
    /// The bounds of a column as one array, null where a file has none that can be relied on.
    fn bounds(&self, column: &Column, pick: fn(&ColumnStatistics) -> Option<&str>) -> Option<ArrayRef> {
        let found = self.0.columns.iter().find(|candidate| candidate.name == column.name)?;
        if !comparable(&found.kind) {
            return None;
        }
        let float = matches!(found.kind, Kind::Float32 | Kind::Float64);
        let texts: StringArray = self
            .0
            .files
            .iter()
            .map(|file| {
                let statistics = file.statistics.get(&found.id)?;
                // NaN is greater than everything and not part of the bounds.
                if float && statistics.contains_nan != Some(false) {
                    return None;
                }
                pick(statistics)
            })
            .collect();
        // What does not read as the column's type becomes null: unknown, so nothing is excluded by it.
        let options = CastOptions { safe: true, ..CastOptions::default() };
        cast_with_options(&texts, &found.kind.arrow(), &options).ok()
    }
}

/// Whether the catalog's text of a bound compares as the engine compares values of the type.
fn comparable(kind: &Kind) -> bool {
    !kind.is_nested()
        && !matches!(kind, Kind::Blob | Kind::Uuid | Kind::Json | Kind::Boolean)
        && kind.arrow() != DataType::Null
}

impl PruningStatistics for FileStatistics<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, |statistics| statistics.min.as_deref())
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, |statistics| statistics.max.as_deref())
    }

    fn num_containers(&self) -> usize {
        self.0.files.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let found = self.0.columns.iter().find(|candidate| candidate.name == column.name)?;
        let counts = self.0.files.iter().map(|file| file.statistics.get(&found.id)?.null_count);
        Some(Arc::new(counts.collect::<UInt64Array>()))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(self.0.files.iter().map(|file| Some(file.rows)).collect::<UInt64Array>()))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
