//! One table of the lake, as one snapshot sees it.
//!
//! Three kinds of rows meet in one scan: files whose rows are all seen go to DataFusion's own reader, which prunes row
//! groups and pages, with columns found by field id; files with deleted rows or with rows of later snapshots, and
//! columns that are nested or uuids, are read by the lake's reader, which honours all of that; rows that are kept inside the catalog come
//! from there. Files whose statistics exclude a filter are not opened.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
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

use crate::adapt::ByFieldId;
use crate::{prune, uuid};

/// Batches that may wait between a reader and the query.
const BATCHES_AHEAD: usize = 2;

/// A table of the lake in a snapshot.
pub(crate) struct LakeTable {
    snapshot: Arc<Snapshot>,
    view: Arc<TableView>,
    /// The columns as a query sees them.
    columns: SchemaRef,
}

impl LakeTable {
    /// The table `view` of `snapshot`.
    pub(crate) fn new(snapshot: Arc<Snapshot>, view: TableView) -> Self {
        Self { snapshot, columns: uuid::schema(&view.arrow), view: Arc::new(view) }
    }

    /// Whether the snapshot sees every row of the file.
    fn whole(&self, file: &DataFile) -> bool {
        file.delete_files.is_empty()
            && file.deleted_positions.is_empty()
            && file.partial_max.is_none_or(|last| last <= self.snapshot.id())
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
            column_statistics: vec![ColumnStatistics::new_unknown(); self.view.arrow.fields().len()],
        };
        let source = Arc::new(ParquetSource::new(Arc::clone(&self.view.arrow)));
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
        write!(formatter, "LakeTable({}.{} at {})", self.view.schema, self.view.name, self.snapshot.id())
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
        let exact = self.view.files.iter().all(|file| self.whole(file));
        let rows = usize::try_from(self.view.rows()).unwrap_or(usize::MAX);
        let mut statistics = Statistics::new_unknown(&self.view.arrow);
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
        let keep = prune::files(state, &self.view, &self.columns, filters)?;
        let files = self.view.files.iter().zip(keep).filter(|(_, keep)| *keep).map(|(file, _)| file);
        let schema = match projection {
            Some(places) => Arc::new(self.columns.project(places)?),
            None => Arc::clone(&self.columns),
        };
        let stored = |place: usize| self.view.arrow.field(place);
        let special = |place: usize| stored(place).data_type().is_nested() || uuid::is_bytes(stored(place));
        let special = match projection {
            Some(places) => places.iter().any(|place| special(*place)),
            None => (0..self.columns.fields().len()).any(special),
        };
        let (whole, other): (Vec<_>, Vec<_>) = files.partition(|file| !special && self.whole(file));

        let partitions = state.config().target_partitions();
        let mut inputs = Vec::new();
        if !whole.is_empty() {
            inputs.push(self.whole_scan(&whole, projection, limit, partitions)?);
        }
        let mut streams: Vec<Arc<dyn PartitionStream>> = Vec::new();
        let part = |rows| {
            Arc::new(LakeRows {
                snapshot: Arc::clone(&self.snapshot),
                view: Arc::clone(&self.view),
                projection: projection.cloned(),
                schema: Arc::clone(&schema),
                rows,
            })
        };
        let mut shares: Vec<Vec<DataFile>> = vec![Vec::new(); partitions.clamp(1, other.len().max(1))];
        let share_count = shares.len();
        for (place, file) in other.into_iter().enumerate() {
            shares[place % share_count].push(file.clone());
        }
        for share in shares.into_iter().filter(|share| !share.is_empty()) {
            streams.push(part(Rows::Files(share)));
        }
        if self.view.inlined_rows > 0 {
            streams.push(part(Rows::Inlined));
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
    Inlined,
    /// Those of files, one after the other.
    Files(Vec<DataFile>),
}

/// Rows that the lake's own reader reads, in one partition.
struct LakeRows {
    snapshot: Arc<Snapshot>,
    view: Arc<TableView>,
    projection: Option<Vec<usize>>,
    schema: SchemaRef,
    rows: Rows,
}

impl fmt::Debug for LakeRows {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rows {
            Rows::Inlined => write!(formatter, "{} rows of {} in the catalog", self.view.inlined_rows, self.view.name),
            Rows::Files(files) => write!(formatter, "{} files of {}", files.len(), self.view.name),
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
        let (snapshot, view) = (Arc::clone(&self.snapshot), Arc::clone(&self.view));
        let (projection, rows) = (self.projection.clone(), self.rows.clone());
        builder.spawn_blocking(move || {
            let projection = projection.as_deref();
            // A receiver that is gone needs no more rows: that is the end, not an error.
            match rows {
                Rows::Inlined => {
                    for batch in snapshot.inlined(&view, projection).map_err(external)? {
                        if sender.blocking_send(Ok(uuid::batch(&batch, &schema)?)).is_err() {
                            return Ok(());
                        }
                    }
                }
                Rows::Files(files) => {
                    for file in files {
                        for batch in snapshot.read_file(&view, &file, projection).map_err(external)? {
                            if sender.blocking_send(Ok(uuid::batch(&batch.map_err(external)?, &schema)?)).is_err() {
                                return Ok(());
                            }
                        }
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
