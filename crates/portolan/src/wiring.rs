//! The sole place that joins concrete parts: configuration file → connectors → slots → lake.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use portolan_connect::Registry;
use portolan_connect::transport::SystemSecrets;
use portolan_model::catalog::Catalog;
use portolan_model::check::Checker;
use portolan_model::clock::{Clock, SystemClock};
use portolan_model::config::{Configuration, ConnectorSet, Diagnostic, SourceSpec};
use portolan_model::source::Environment;
use portolan_model::{Error, ErrorKind, Result};
use portolan_rounds::slot::Slot;

use crate::exit::{Exit, Stop};

/// A configuration file that has been read.
pub(crate) struct Loaded {
    /// The file's path as given.
    pub(crate) file: String,
    /// The folder that relative paths in it start from.
    pub(crate) folder: PathBuf,
    /// Its content, or what is wrong with it.
    pub(crate) outcome: std::result::Result<Configuration, Vec<Diagnostic>>,
    /// Its text.
    pub(crate) text: String,
}

/// Reads a configuration file.
///
/// # Errors
/// `Configuration` if the file cannot be read; what is wrong inside it is in [`Loaded::outcome`].
pub(crate) fn load(path: &Path) -> Result<Loaded> {
    let file = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|error| {
        let hint = if error.kind() == std::io::ErrorKind::NotFound {
            "name the file with --config FILE, or start with the example in docs/getting-started.md"
        } else {
            "check the file's permissions"
        };
        Error::new(ErrorKind::Configuration, "read configuration", format!("{file} is not readable"))
            .with_cause(error)
            .with_hint(hint)
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let line =
            error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::new(ErrorKind::Configuration, "read configuration", format!("{file}:{line}: the text is not UTF-8"))
            .with_hint("save the file as UTF-8")
    })?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = folder.to_path_buf();
    let outcome = portolan_model::config::read(&text, &Registry)
        .and_then(with_queries)
        .map(|configuration| absolute(configuration, &folder));
    Ok(Loaded { file, folder, outcome, text })
}

/// The configuration, if the queries of its checks are some; a build without SQL does not look.
fn with_queries(configuration: Configuration) -> std::result::Result<Configuration, Vec<Diagnostic>> {
    #[cfg(feature = "sql")]
    let found = portolan_query::problems(&configuration);
    #[cfg(not(feature = "sql"))]
    let found = Vec::new();
    if found.is_empty() { Ok(configuration) } else { Err(found) }
}

/// Who evaluates the checks of rounds that are committed to the lake in `lake`.
pub(crate) fn checker(lake: &Path, clock: &Arc<dyn Clock>) -> Option<Arc<dyn Checker>> {
    #[cfg(feature = "sql")]
    return Some(Arc::new(portolan_query::LakeChecker::new(lake, clock.clone())));
    #[cfg(not(feature = "sql"))]
    {
        let _ = (lake, clock);
        None
    }
}

/// Whether this build can do what the configuration asks of it.
///
/// # Errors
/// Exit code 7 for checks, where it has no SQL.
pub(crate) fn supported(configuration: &Configuration) -> std::result::Result<(), Stop> {
    if cfg!(feature = "sql") || configuration.rounds.iter().all(|round| round.checks.is_empty()) {
        return Ok(());
    }
    let error =
        Error::new(ErrorKind::Configuration, "check rounds", "this build evaluates no [[check]]: it has no SQL")
            .with_hint("use the full build (without --no-default-features), or remove the checks");
    Err(Stop::Error(Exit::Unsupported, error))
}

/// Paths in the file are relative to it, not to where the command runs.
fn absolute(mut configuration: Configuration, folder: &Path) -> Configuration {
    // `./lake` beside `./portolan.toml` is `./lake`.
    let beside = |path: &Path| folder.join(path).components().collect();
    configuration.lake.path = beside(&configuration.lake.path);
    for source in &mut configuration.sources {
        for path in [&mut source.tls.ca, &mut source.tls.certificate, &mut source.tls.key].into_iter().flatten() {
            *path = beside(path);
        }
    }
    configuration
}

/// What connectors may use of the world; `lake` is where their rows are committed.
pub(crate) fn environment(folder: &Path, lake: Option<&Path>) -> Environment {
    Environment {
        clock: Arc::new(SystemClock::new()),
        secrets: Arc::new(SystemSecrets::new(folder)),
        intake: lake.map(|lake| lake.join("intake")),
    }
}

/// Opens the sources at their start. Touches no network and no lake.
pub(crate) fn open_slots<'a>(
    specs: impl IntoIterator<Item = &'a SourceSpec>,
    environment: &Environment,
) -> Result<Vec<Slot>> {
    specs
        .into_iter()
        .map(|spec| {
            let connector = Registry.get(&spec.protocol).ok_or_else(|| {
                let message = format!("no connector for protocol `{}`", spec.protocol);
                Error::new(ErrorKind::Configuration, "open source", message).with_source(&spec.name)
            })?;
            Slot::open(spec, connector, environment, None)
                .map_err(|error| if error.source_name().is_none() { error.with_source(&spec.name) } else { error })
        })
        .collect()
}

/// Lets the sources go on from what a lake holds.
pub(crate) async fn restore<'a>(slots: impl Iterator<Item = &'a mut Slot>, catalog: &dyn Catalog) -> Result<()> {
    let (mut positions, statuses) = (catalog.positions().await?, catalog.statuses().await?);
    let watermarks = catalog.watermarks().await?;
    for slot in slots {
        slot.restore(positions.remove(&slot.name), &statuses, &watermarks);
    }
    Ok(())
}
