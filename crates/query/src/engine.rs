//! The engine: names attached to it, a statement in, a stream of record batches out.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::datasource::MemTable;
use datafusion::error::Result as EngineResult;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::{SQLOptions, SessionContext};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionConfig;
use futures_util::{Stream, StreamExt};
use portolan_lake::Snapshot;
use portolan_model::{Error, ErrorKind, Result};

use crate::lake::LakeTable;
use crate::names::{CATALOG, MAIN, Names};
use crate::types::Types;
use crate::{asof, error, functions, statement, uuid};

/// The longest statement accepted, in bytes.
pub(crate) const STATEMENT_BYTES_MAX: usize = 1024 * 1024;

/// What a query may use.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Memory that sorts, joins and aggregates of one query may hold, in bytes.
    pub memory_limit_bytes: usize,
    /// Rows in one batch of a result.
    pub batch_rows: usize,
    /// Partitions that are worked on at the same time.
    pub partitions: usize,
    /// The folder in which sorts, joins and aggregates spill; the system's temporary folder where `None`.
    pub spill_folder: Option<PathBuf>,
    /// What may be spilled at one time, in bytes; zero forbids spilling.
    pub spill_limit_bytes: u64,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            memory_limit_bytes: 512 * 1024 * 1024,
            batch_rows: 8192,
            partitions: std::thread::available_parallelism().map_or(2, usize::from).min(16),
            spill_folder: None,
            spill_limit_bytes: 16 * 1024 * 1024 * 1024,
        }
    }
}

/// Runs queries over the tables attached to it. Cheap to make (a few milliseconds), so one a command is fine.
pub struct Engine {
    context: SessionContext,
    names: Arc<Names>,
    options: EngineOptions,
}

impl Engine {
    /// An engine without tables.
    ///
    /// # Errors
    /// `Configuration` if an option cannot be used.
    pub fn new(options: EngineOptions) -> Result<Self> {
        let mut config = SessionConfig::new()
            .with_batch_size(options.batch_rows.clamp(1, 1 << 20))
            .with_target_partitions(options.partitions.clamp(1, 256))
            .with_default_catalog_and_schema(CATALOG, MAIN)
            .with_create_default_catalog_and_schema(false)
            .with_information_schema(true);
        let settings = config.options_mut();
        // `statement` gives every name one spelling before the planner sees it, so the planner must not change it.
        settings.sql_parser.enable_ident_normalization = false;
        settings.sql_parser.collect_spans = true;
        // A literal such as 0.1 is a decimal, as in DuckDB: arithmetic with decimal columns stays exact.
        settings.sql_parser.parse_float_as_decimal = true;
        settings.execution.time_zone = Some("UTC".into());
        settings.execution.parquet.pushdown_filters = false;
        settings.execution.parquet.reorder_filters = false;
        // Text stays `Utf8`: live rows, inlined rows and files then have one type, without a cast at each union.
        settings.execution.parquet.schema_force_view_types = false;
        settings.sql_parser.map_string_types_to_utf8view = false;

        let mut disk = DiskManagerBuilder::default().with_max_temp_directory_size(options.spill_limit_bytes);
        disk.set_mode(match (&options.spill_folder, options.spill_limit_bytes) {
            (_, 0) => DiskManagerMode::Disabled,
            (Some(folder), _) => DiskManagerMode::Directories(vec![folder.clone()]),
            (None, _) => DiskManagerMode::OsTmpDirectory,
        });
        let consumers_named = std::num::NonZeroUsize::MIN;
        let pool = TrackConsumersPool::new(FairSpillPool::new(options.memory_limit_bytes.max(1)), consumers_named);
        let runtime = RuntimeEnvBuilder::new()
            .with_disk_manager_builder(disk)
            .with_memory_pool(Arc::new(pool))
            .build_arc()
            .map_err(|cause| Error::new(ErrorKind::Configuration, "start query", cause.to_string()))?;

        let state = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(runtime)
            .with_default_features()
            .with_type_planner(Arc::new(Types))
            .with_query_planner(Arc::new(asof::Planner))
            .build();
        let mut context = SessionContext::new_with_state(state);
        functions::register(&mut context)
            .map_err(|cause| Error::new(ErrorKind::Internal, "start query", cause.to_string()))?;
        let names = Arc::new(Names::default());
        context.register_catalog(CATALOG, names.catalog());
        Ok(Self { context, names, options })
    }

    /// Attaches every table of a lake as one snapshot sees it: `main.<source>`, `portolan.rounds` and the others.
    ///
    /// # Errors
    /// Those of [`Snapshot::tables`].
    pub fn attach_lake(&self, snapshot: Arc<Snapshot>) -> Result<()> {
        for view in snapshot.tables()? {
            let (schema, name) = (view.schema.clone(), view.name.clone());
            self.names.attach_lake(&schema, &name, Arc::new(LakeTable::new(Arc::clone(&snapshot), view)));
        }
        Ok(())
    }

    /// Attaches rows that are in memory as `main.<name>`; they shadow a table of the lake of that name.
    ///
    /// # Errors
    /// `Data` if a batch does not have the schema.
    pub fn attach_rows(&self, name: &str, schema: SchemaRef, batches: Vec<RecordBatch>) -> Result<()> {
        let partitions = self.options.partitions.clamp(1, batches.len().max(1));
        let mut parts: Vec<Vec<RecordBatch>> = vec![Vec::new(); partitions];
        let wrong = |cause: &dyn std::fmt::Display| {
            Error::new(ErrorKind::Data, "attach rows", format!("rows of `{name}` do not have its schema: {cause}"))
        };
        let columns = uuid::schema(&schema);
        for (index, batch) in batches.into_iter().enumerate() {
            parts[index % partitions].push(uuid::batch(&batch, &columns).map_err(|cause| wrong(&cause))?);
        }
        let table = MemTable::try_new(columns, parts).map_err(|cause| wrong(&cause))?;
        self.names.attach_rows(name, Arc::new(table));
        Ok(())
    }

    /// Attaches a table as `schema.name`.
    pub(crate) fn attach_table(&self, schema: &str, name: &str, table: LakeTable) {
        self.names.attach_lake(schema, name, Arc::new(table));
    }

    /// Plans and starts a query. Reads only: everything but `SELECT`, `WITH`, `VALUES`, `EXPLAIN`, `SHOW` and
    /// `DESCRIBE` is refused.
    ///
    /// # Errors
    /// `Configuration` where the text is not a query or cannot be planned, with line and column where known;
    /// `NotFound` where it names a table or column that is not there, with the nearest names; `Permission` where it
    /// wants to change something. What fails while rows are read comes through the stream.
    pub async fn sql(&self, text: &str) -> Result<QueryStream> {
        if text.len() > STATEMENT_BYTES_MAX {
            let message = format!("the statement has {} bytes, at most {STATEMENT_BYTES_MAX} are accepted", text.len());
            return Err(Error::new(ErrorKind::Limit, "parse query", message));
        }
        let (statement, places) = statement::parse(text, &self.names)?;
        let state = self.context.state();
        let plan = state.statement_to_plan(statement).await.map_err(|cause| error::of_plan(cause, text))?;
        let plan = asof::plan(plan, &places).map_err(|cause| error::of_plan(cause, text))?;
        SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false)
            .verify_plan(&plan)
            .map_err(|_| statement::refused(None))?;
        let plan = state.create_physical_plan(&plan).await.map_err(|cause| error::of_plan(cause, text))?;
        let plan = interruptible(plan).map_err(|cause| error::of_plan(cause, text))?;
        let schema = plan.schema();
        let stream = execute_stream(plan, self.context.task_ctx()).map_err(|cause| error::of_plan(cause, text))?;
        Ok(QueryStream { schema, batches: Box::pin(stream.map(|item| item.map_err(error::of_rows))) })
    }
}

/// The plan, made to yield now and then where it multiplies rows: a join that makes many of few asks its inputs for nothing for
/// long, and neither a timeout nor the end of who wants the rows would stop it.
fn interruptible(plan: Arc<dyn ExecutionPlan>) -> EngineResult<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| {
        let multiplies = node.children().len() > 1 || node.name() == "UnnestExec";
        Ok(match multiplies {
            true => Transformed::yes(Arc::new(CooperativeExec::new(node)) as Arc<dyn ExecutionPlan>),
            false => Transformed::no(node),
        })
    })
    .data()
}

/// The rows of a result as they come. Dropping it stops the query.
pub struct QueryStream {
    /// The columns of the result.
    pub schema: SchemaRef,
    /// The rows; after an error nothing follows.
    pub batches: Pin<Box<dyn Stream<Item = Result<RecordBatch>> + Send>>,
}

impl QueryStream {
    /// Reads the whole result into memory: for results known to be small, such as a check's.
    pub async fn collect(mut self) -> Result<Vec<RecordBatch>> {
        let mut batches = Vec::new();
        while let Some(batch) = self.batches.next().await {
            batches.push(batch?);
        }
        Ok(batches)
    }
}
