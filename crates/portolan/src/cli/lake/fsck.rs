//! `portolan lake fsck`: the structure of the catalog and its files.

use std::path::{Path, PathBuf};

use portolan_lake::FsckReport;
use portolan_model::clock::SystemClock;

use crate::cli::progress::Progress;
use crate::exit::{Exit, Stop};
use crate::output::visible;

/// Arguments of `portolan lake fsck`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Changes nothing, also not what it finds; a collector may run meanwhile. Looks at the catalog, at the
sizes and footers of files and at files that the catalog does not name. Whether the rows are those that came is what
`portolan verify` proves.

Examples:
  portolan lake fsck
  portolan lake fsck --json | jq '.findings[] | select(.severity == \"error\")'

Exit codes: 0 no errors (warnings and notes may be), 8 something is damaged, 5 the lake could not be read."
)]
pub(crate) struct Arguments {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Folder of the lake, instead of the configuration's.
    #[arg(long, value_name = "FOLDER")]
    lake: Option<PathBuf>,
}

/// Checks the lake and shows what was found.
pub(crate) fn run(config: &Path, arguments: &Arguments) -> Result<Exit, Stop> {
    let path = crate::cli::lake_path(arguments.lake.as_deref(), config)?;
    let bar = Progress::text();
    bar.keep_moving();
    let report = portolan_lake::fsck(&path, &SystemClock::new(), &mut |what| bar.tell(what));
    bar.end();
    let report = report?;
    if arguments.json {
        crate::cli::print_line(to_json(&path, &report))?;
    } else {
        show(&path, &report)?;
    }
    Ok(if report.is_sound() { Exit::Success } else { Exit::Damaged })
}

fn show(path: &Path, report: &FsckReport) -> std::io::Result<()> {
    let line = |text: std::fmt::Arguments<'_>| crate::cli::print_line(text);
    for one in &report.findings {
        let (severity, place) = (one.severity.as_str(), visible(&one.place));
        line(format_args!("{severity} {}: {place}: {}", one.code, visible(&one.message)))?;
        line(format_args!("  next: {}", visible(&one.next)))?;
    }
    let more = report.findings_total - report.findings.len() as u64;
    if more > 0 {
        line(format_args!("{more} more findings are not named"))?;
    }
    line(format_args!(
        "lake {}: DuckLake {}, {} snapshots, {} tables, {} files, {} rows inside the catalog",
        path.display(),
        report.ducklake_version.as_deref().unwrap_or("?"),
        report.snapshots,
        report.tables,
        report.files,
        report.inlined_rows
    ))?;
    match (report.errors_total, report.findings_total) {
        (0, 0) => line(format_args!("nothing found")),
        (errors, findings) => line(format_args!("{findings} findings, {errors} of them errors")),
    }
}

fn to_json(path: &Path, report: &FsckReport) -> serde_json::Value {
    let findings: Vec<serde_json::Value> = report
        .findings
        .iter()
        .map(|one| {
            serde_json::json!({
                "severity": one.severity.as_str(), "code": one.code, "place": one.place, "message": one.message,
                "next": one.next,
            })
        })
        .collect();
    serde_json::json!({
        "lake": path.display().to_string(),
        "sound": report.is_sound(),
        "ducklake_version": report.ducklake_version,
        "collector": report.collector,
        "snapshots": report.snapshots,
        "tables": report.tables,
        "files": report.files,
        "inlined_rows": report.inlined_rows,
        "findings": findings,
        "findings_total": report.findings_total,
        "errors_total": report.errors_total,
    })
}
