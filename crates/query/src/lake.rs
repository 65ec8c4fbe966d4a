//! One table of the lake: as one snapshot sees it, as a round has staged it, or both, as it will be once the round is
//! committed.
//!
//! Four kinds of rows meet in one scan: files whose rows are all seen go to DataFusion's own reader, which prunes row
//! groups and pages, with columns found by field id; files with deleted rows or with rows of later snapshots, and
//! columns that are nested or uuids, are read by the lake's reader, which honours all of that; rows that are kept inside the catalog come
//! from there; staged rows are read by the lake's reader, too. Files whose statistics exclude a filter are not opened.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, DataFusionError, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result as EngineResult;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::object_store::path::Path as ObjectPath;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::union::UnionExec;
use portolan_lake::{DataFile, Snapshot, TableView};
use portolan_model::check::StagedRows;

use crate::adapt::ByFieldId;
use crate::{prune, uuid};

/// Batches that may wait between a reader and the query.
const BATCHES_AHEAD: usize = 2;

/// The column in which checks find the number of a staged row.
pub(crate) const ROW_NUMBER: &str = "_row";

/// A table of the lake in a snapshot.
#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) view: Arc<TableView>,
}

/// Rows of one table, from wherever they are.
pub(crate) struct LakeTable {
    stored: Option<Stored>,
    staged: Option<Arc<dyn StagedRows>>,
    /// The columns as they are read.
    arrow: SchemaRef,
    /// The columns as a query sees them; where rows are numbered, with [`ROW_NUMBER`] behind.
    columns: SchemaRef,
}

impl LakeTable {
    /// The table `view` of `snapshot`.
    pub(crate) fn new(snapshot: Arc<Snapshot>, view: TableView) -> Self {
        let arrow = Arc::clone(&view.arrow);
        Self::of(arrow, Some(Stored { snapshot, view: Arc::new(view) }), None)
    }

    /// The table whose columns are `arrow`, in both where there are both, of what is stored and what is staged.
    pub(crate) fn of(arrow: SchemaRef, stored: Option<Stored>, staged: Option<Arc<dyn StagedRows>>) -> Self {
        Self { columns: uuid::schema(&arrow), arrow, stored, staged }
    }

    /// With the number of each row that is staged; NULL for what is stored.
    pub(crate) fn numbered(mut self) -> Self {
        let number = Arc::new(Field::new(ROW_NUMBER, DataType::Int64, true));
        let fields = self.columns.fields().iter().cloned().chain([number]);
        self.columns = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        self
    }

    /// The columns as a query sees them.
    pub(crate) fn columns(&self) -> SchemaRef {
        Arc::clone(&self.columns)
    }

    fn is_numbered(&self) -> bool {
        self.columns.fields().len() > self.arrow.fields().len()
    }

    /// The scan of files whose rows are all seen.
    fn whole_scan(
        &self,
        files: &[&DataFile],
        projection: Option<&Vec<usize>>,
        limit: Option<usize>,
        partitions: usize,
    ) -> EngineResult<Arc<dyn ExecutionPlan>> {
        let mut parts = Vec::with_capacity(files.len());
        for file in files {
            let path = ObjectPath::from_absolute_path(&file.path).map_err(|error| {
                DataFusionError::Execution(format!("{} is not a usable path: {error}", file.path.display()))
            })?;
            let mut part = PartitionedFile::new("", file.size_bytes);
            part.object_meta.location = path;
            // One read then brings the whole footer.
            let footer_bytes = usize::try_from(file.footer_size_bytes).unwrap_or(0).saturating_add(8);
            if file.footer_size_bytes > 0 {
                part = part.with_metadata_size_hint(footer_bytes);
            }
            parts.push(part);
        }
        let rows = files.iter().map(|file| file.rows as usize).sum();
        let bytes = files.iter().map(|file| file.size_bytes as usize).sum();
        let statistics = Statistics {
            num_rows: Precision::Exact(rows),
            total_byte_size: Precision::Inexact(bytes),
            column_statistics: vec![ColumnStatistics::new_unknown(); self.arrow.fields().len()],
        };
        let source = Arc::new(ParquetSource::new(Arc::clone(&self.arrow)));
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), source)
            .with_file_groups(balanced(parts, partitions))
            .with_statistics(statistics)
            .with_limit(limit)
            .with_expr_adapter(Some(Arc::new(ByFieldId)))
            .with_projection_indices(projection.cloned())?
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

impl Stored {
    /// Whether the snapshot sees every row of the file.
    fn whole(&self, file: &DataFile) -> bool {
        file.delete_files.is_empty()
            && file.deleted_positions.is_empty()
            && file.partial_max.is_none_or(|last| last <= self.snapshot.id())
    }
}

/// Spreads files over at most `partitions` groups of about the same size.
fn balanced(files: Vec<PartitionedFile>, partitions: usize) -> Vec<FileGroup> {
    let mut groups: Vec<(u64, Vec<PartitionedFile>)> = vec![(0, Vec::new()); partitions.clamp(1, files.len().max(1))];
    for file in files {
        if let Some((bytes, group)) = groups.iter_mut().min_by_key(|(bytes, _)| *bytes) {
            *bytes += file.object_meta.size.max(1);
            group.push(file);
        }
    }
    groups.into_iter().map(|(_, group)| FileGroup::new(group)).collect()
}

impl fmt::Debug for LakeTable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.stored {
            Some(Stored { snapshot, view }) => {
                write!(formatter, "LakeTable({}.{} at {})", view.schema, view.name, snapshot.id())
            }
            None => formatter.write_str("LakeTable(staged)"),
        }
    }
}

#[async_trait]
impl TableProvider for LakeTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.columns)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> EngineResult<Vec<TableProviderFilterPushDown>> {
        // Files and row groups are left out by them; rows are still filtered above the scan.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    fn statistics(&self) -> Option<Statistics> {
        let stored = self.stored.as_ref();
        let exact = stored.is_none_or(|stored| stored.view.files.iter().all(|file| stored.whole(file)));
        let rows = stored.map_or(0, |stored| stored.view.rows()) + self.staged.as_ref().map_or(0, |rows| rows.rows());
        let rows = usize::try_from(rows).unwrap_or(usize::MAX);
        let mut statistics = Statistics::new_unknown(&self.columns);
        statistics.num_rows = if exact { Precision::Exact(rows) } else { Precision::Inexact(rows) };
        Some(statistics)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> EngineResult<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(places) => Arc::new(self.columns.project(places)?),
            None => Arc::clone(&self.columns),
        };
        let places: Vec<usize> = match projection {
            Some(places) => places.clone(),
            None => (0..self.columns.fields().len()).collect(),
        };
        let partitions = state.config().target_partitions();
        let mut inputs = Vec::new();
        let mut streams: Vec<Arc<dyn PartitionStream>> = Vec::new();
        let part = |rows| {
            let width = self.arrow.fields().len();
            Arc::new(LakeRows { places: places.clone(), width, schema: Arc::clone(&schema), rows })
        };
        if let Some(stored) = &self.stored {
            let view = &stored.view;
            let keep = prune::files(state, view, &self.columns, filters)?;
            let files = view.files.iter().zip(keep).filter(|(_, keep)| *keep).map(|(file, _)| file);
            let special = |place: &usize| {
                let field = self.arrow.fields().get(*place);
                field.is_none_or(|field| field.data_type().is_nested() || uuid::is_bytes(field))
            };
            let special = places.iter().any(special) || self.is_numbered();
            let (whole, other): (Vec<_>, Vec<_>) = files.partition(|file| !special && stored.whole(file));
            if !whole.is_empty() {
                inputs.push(self.whole_scan(&whole, projection, limit, partitions)?);
            }
            let mut shares: Vec<Vec<DataFile>> = vec![Vec::new(); partitions.clamp(1, other.len().max(1))];
            let share_count = shares.len();
            for (place, file) in other.into_iter().enumerate() {
                shares[place % share_count].push(file.clone());
            }
            for share in shares.into_iter().filter(|share| !share.is_empty()) {
                streams.push(part(Rows::Files(stored.clone(), share)));
            }
            if view.inlined_rows > 0 {
                streams.push(part(Rows::Inlined(stored.clone())));
            }
        }
        if let Some(staged) = self.staged.as_ref().filter(|staged| staged.rows() > 0) {
            streams.push(part(Rows::Staged(Arc::clone(staged))));
        }
        if !streams.is_empty() {
            let exec = StreamingTableExec::try_new(Arc::clone(&schema), streams, None, None, false, limit)?;
            inputs.push(Arc::new(exec));
        }
        match inputs.len() {
            0 => Ok(Arc::new(EmptyExec::new(schema))),
            1 => Ok(inputs.remove(0)),
            _ => UnionExec::try_new(inputs),
        }
    }
}

/// Which rows a [`LakeRows`] yields.
#[derive(Clone)]
enum Rows {
    /// Those inside the catalog.
    Inlined(Stored),
    /// Those of files, one after the other.
    Files(Stored, Vec<DataFile>),
    /// Those that a round has staged.
    Staged(Arc<dyn StagedRows>),
}

/// Rows that the lake's own reader reads, in one partition.
struct LakeRows {
    /// Where the columns stand in the table.
    places: Vec<usize>,
    /// How many columns the table has; the place after them is a row's number.
    width: usize,
    schema: SchemaRef,
    rows: Rows,
}

impl fmt::Debug for LakeRows {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rows {
            Rows::Inlined(Stored { view, .. }) => {
                write!(formatter, "{} rows of {} in the catalog", view.inlined_rows, view.name)
            }
            Rows::Files(Stored { view, .. }, files) => write!(formatter, "{} files of {}", files.len(), view.name),
            Rows::Staged(rows) => write!(formatter, "{} staged rows", rows.rows()),
        }
    }
}

impl PartitionStream for LakeRows {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut builder = RecordBatchReceiverStreamBuilder::new(Arc::clone(&self.schema), BATCHES_AHEAD);
        let sender = builder.tx();
        let schema = Arc::clone(&self.schema);
        let (places, width, rows) = (self.places.clone(), self.width, self.rows.clone());
        builder.spawn_blocking(move || {
            let own: Vec<usize> = places.iter().copied().filter(|place| *place < width).collect();
            let mut first = 0_i64;
            // Whether somebody still wants rows.
            let mut send = |batch: RecordBatch, is_staged: bool| -> EngineResult<bool> {
                let rows = batch.num_rows();
                let mut read = batch.columns().iter();
                let columns = places.iter().map(|place| match *place < width {
                    true => read.next().cloned(),
                    false if is_staged => Some(Arc::new(Int64Array::from_iter_values(first..first + rows as i64)) as _),
                    false => Some(new_null_array(&DataType::Int64, rows)),
                });
                let columns: Vec<ArrayRef> = columns.collect::<Option<_>>().unwrap_or_default();
                first += rows as i64;
                Ok(sender.blocking_send(Ok(uuid::columns(&columns, rows, &schema)?)).is_ok())
            };
            // A receiver that is gone needs no more rows: that is the end, not an error.
            match rows {
                Rows::Inlined(Stored { snapshot, view }) => {
                    for batch in snapshot.inlined(&view, Some(&own)).map_err(external)? {
                        if !send(batch, false)? {
                            return Ok(());
                        }
                    }
                }
                Rows::Files(Stored { snapshot, view }, files) => {
                    for file in files {
                        for batch in snapshot.read_file(&view, &file, Some(&own)).map_err(external)? {
                            if !send(batch.map_err(external)?, false)? {
                                return Ok(());
                            }
                        }
                    }
                }
                Rows::Staged(rows) => {
                    let mut failure = None;
                    let mut take = |batch| match send(batch, true) {
                        Ok(goes_on) => Ok(goes_on),
                        Err(error) => {
                            failure = Some(error);
                            Ok(false)
                        }
                    };
                    rows.read(Some(&own), &mut take).map_err(external)?;
                    if let Some(error) = failure {
                        return Err(error);
                    }
                }
            }
            Ok(())
        });
        builder.build()
    }
}

/// One of our errors on its way through the engine; `error::of_rows` takes it out again.
fn external(error: portolan_model::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
