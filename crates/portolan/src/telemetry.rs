//! The log: one line an event on standard error. Secrets never reach it, because no value that holds one can be
//! displayed.

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts the log. `PORTOLAN_LOG` filters it (`debug`, `portolan_lake=trace`, …) instead of `level`.
pub(crate) fn start(format: LogFormat, level: &str, is_colored: bool) {
    let filter = EnvFilter::try_from_env("PORTOLAN_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(is_colored);
    let started = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if let Err(error) = started {
        crate::exit::tell(format_args!("error: the log could not be started: {error}\n"));
    }
}
