//! `portolan query`: SQL over everything collected.

#[cfg(feature = "sql")]
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

#[cfg(feature = "sql")]
use portolan_lake::{At, LakeReader};
use portolan_model::{Error, ErrorKind};

#[cfg(feature = "sql")]
use super::progress::Progress;
#[cfg(feature = "sql")]
use crate::exit::Exit;
use crate::exit::Stop;
#[cfg(feature = "sql")]
use crate::output::{self, Options, Rows, Target};

/// Arguments of `portolan query`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Every source is a table; `portolan.rounds`, `portolan.receipts` and `portolan.quarantine` tell how the
rows came. The collector may run meanwhile: a query sees one committed state.

Examples:
  portolan query \"select count(*) from orders\"
  portolan query \"select * from orders\" --at 120              as of round 120
  portolan query \"select * from orders\" --at 2026-11-22T10:00:00Z
  portolan query --file report.sql --format parquet --output report.parquet
  portolan query \"select source, error from portolan.receipts where verdict = 'failed'\" --format csv"
)]
pub(crate) struct Arguments {
    /// The query; `-` reads it from standard input.
    #[arg(value_name = "SQL", required_unless_present = "file")]
    sql: Option<String>,
    /// Read the query from a file.
    #[arg(long, value_name = "FILE", conflicts_with = "sql")]
    file: Option<PathBuf>,
    /// The round, or the instant (RFC 3339), whose state is read; the latest by default.
    #[arg(long, value_name = "ROUND|TIME")]
    at: Option<String>,
    /// How rows are written: table, json, ndjson, csv, arrow or parquet.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: String,
    /// Write to a file instead of standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Rows that `table` shows; 0 shows all.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    rows: usize,
    /// The most memory a query may take, in MiB; sorts and joins beyond it go to disk where they can.
    #[arg(long, value_name = "MIB", default_value_t = 1_024)]
    memory_limit: usize,
    /// Folder of the lake, instead of the configuration's.
    #[arg(long, value_name = "FOLDER")]
    lake: Option<PathBuf>,
}

/// Why this build cannot run SQL.
#[cfg_attr(feature = "sql", expect(dead_code, reason = "told by builds without SQL"))]
pub(crate) fn unsupported(what: &str) -> Stop {
    let error =
        Error::new(ErrorKind::Configuration, "run SQL", format!("`{what}` needs SQL, which this build does not have"))
            .with_hint("use a full build (cargo build --release), or open the lake with DuckDB (docs/lake.md)");
    Stop::Error(crate::exit::Exit::Unsupported, error)
}

/// Refuses: this build has no SQL.
#[cfg(not(feature = "sql"))]
pub(crate) async fn run(_: &Path, _: Arguments) -> Result<crate::exit::Exit, Stop> {
    Err(unsupported("query"))
}

/// Refuses: this build has no SQL.
#[cfg(not(feature = "sql"))]
pub(crate) async fn over_rows(
    _: &str,
    _: Vec<crate::output::Rows>,
    _: &crate::output::Format,
    _: &crate::output::Target,
) -> Result<(), Stop> {
    Err(unsupported("fetch --sql"))
}

/// Runs the query and shows its result.
#[cfg(feature = "sql")]
pub(crate) async fn run(config: &Path, arguments: Arguments) -> Result<Exit, Stop> {
    let format = output::format(&arguments.format)?;
    let sql = text(&arguments)?;
    let at = arguments.at.as_deref().map(|text| super::state("--at", text)).transpose()?.unwrap_or(At::Head);
    let path = super::lake_path(arguments.lake.as_deref(), config)?;
    let reader = LakeReader::open(&path)?;
    let engine = engine(arguments.memory_limit)?;
    engine.attach_lake(std::sync::Arc::new(reader.snapshot(at)?))?;
    let target = arguments.output.map_or(Target::Stdout, Target::File);
    let rows_max = (arguments.rows > 0).then_some(arguments.rows);
    show(&engine, &sql, format, &target, &Options { rows_max, ..Options::default() }).await?;
    Ok(Exit::Success)
}

/// Runs a query over rows that are in memory, each result a table.
#[cfg(feature = "sql")]
pub(crate) async fn over_rows(
    sql: &str,
    results: Vec<Rows>,
    format: &output::Format,
    target: &Target,
) -> Result<(), Stop> {
    let engine = engine(1_024)?;
    for Rows { name, schema, batches } in results {
        engine.attach_rows(&name, schema, batches)?;
    }
    show(&engine, sql, format, target, &Options::default()).await
}

/// An engine for one command.
#[cfg(feature = "sql")]
pub(crate) fn engine(memory_limit_mib: usize) -> Result<portolan_query::Engine, Stop> {
    let options = portolan_query::EngineOptions {
        memory_limit_bytes: memory_limit_mib << 20,
        ..portolan_query::EngineOptions::default()
    };
    Ok(portolan_query::Engine::new(options)?)
}

#[cfg(feature = "sql")]
async fn show(
    engine: &portolan_query::Engine,
    sql: &str,
    format: &output::Format,
    target: &Target,
    options: &Options,
) -> Result<(), Stop> {
    use futures_util::StreamExt;
    use indicatif::HumanCount;

    let query_error = |error| Stop::Error(Exit::Query, error);
    let bar = Progress::text();
    bar.tell("query");
    bar.keep_moving();
    let stream = engine.sql(sql).await.map_err(query_error)?;
    let schema = stream.schema.clone();
    // Rows on the same terminal take its place.
    let gives_way = matches!(target, Target::Stdout) && std::io::stdout().is_terminal();
    let (mut bar, mut rows) = (Some(bar), 0);
    let batches = stream.batches.inspect(move |batch| {
        rows += batch.as_ref().map_or(0, |batch| batch.num_rows() as u64);
        if gives_way {
            bar = None;
        } else if let Some(bar) = &bar {
            bar.tell(format!("query: {} rows", HumanCount(rows)));
        }
    });
    output::deliver_stream(format, target, options, "", &schema, Box::pin(batches)).await.map_err(query_error)?;
    Ok(())
}

#[cfg(feature = "sql")]
fn text(arguments: &Arguments) -> Result<String, Stop> {
    use std::io::Read;

    use anyhow::Context;
    /// The longest query read, in bytes.
    const TEXT_LENGTH_MAX: u64 = 1 << 20;
    let mut text = String::new();
    match (&arguments.file, arguments.sql.as_deref()) {
        (Some(path), _) => {
            let file = std::fs::File::open(path).with_context(|| format!("failed to open {}", path.display()))?;
            // One byte more than is accepted: a text that is cut off would be another query.
            file.take(TEXT_LENGTH_MAX + 1)
                .read_to_string(&mut text)
                .with_context(|| format!("failed to read {}", path.display()))?;
        }
        (None, Some("-")) => {
            std::io::stdin()
                .take(TEXT_LENGTH_MAX + 1)
                .read_to_string(&mut text)
                .context("failed to read standard input")?;
        }
        (None, sql) => sql.unwrap_or_default().clone_into(&mut text),
    }
    Ok(text)
}
