//! The command line: one file a command.

mod check;
mod demo;
mod diff;
mod fetch;
mod lake;
mod manual;
mod progress;
mod quarantine;
mod query;
mod rounds;
mod run;
mod status;
mod verify;
mod watch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use portolan_model::config::{Configuration, Consistency};
use portolan_model::round::ConsistencyReached;
use portolan_model::{Error, ErrorKind};

use crate::diagnostics;
use crate::exit::{Exit, Stop, tell};
use crate::telemetry::{self, LogFormat};
use crate::wiring::{self, Loaded};

/// Collects the data behind every port of a server, in sync, into one lake.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_long_help = EXAMPLES)]
pub(crate) struct Cli {
    /// Configuration file.
    #[arg(long, global = true, env = "PORTOLAN_CONFIG", default_value = DEFAULT_CONFIG, value_name = "FILE")]
    config: PathBuf,
    /// How log lines on standard error look.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

/// The configuration where none is named.
const DEFAULT_CONFIG: &str = "portolan.toml";

const EXAMPLES: &str = "\
Examples:
  portolan demo                                   a tour with a sample server, nothing to set up
  portolan check                                  is portolan.toml right? where not, and why
  portolan fetch                                  one round now: {source: rows, …} on standard output
  portolan run                                    collect for good into ./lake
  portolan query \"select count(*) from orders\"    SQL over everything collected
  portolan status                                 where each source stands
  portolan rounds show 120                        when each port was asked, and when it answered
  portolan diff 120 140                           what changed at each port between two rounds
  portolan verify                                 are the stored rows those that came?

Exit codes: 0 done, 1 failure, 2 usage or configuration, 3 some sources failed, 4 all sources failed,
5 lake, 6 SQL, 7 not in this build, 8 something in the lake is damaged, 9 a check rejected the round.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Says what is wrong with the configuration: file, line, column, offending text, what to do.
    Check(check::Arguments),
    /// Prints the JSON Schema of the configuration, for editors.
    Schema,
    /// Reads every source once, all ports at once, and shows the rows.
    Fetch(fetch::Arguments),
    /// Collects for good into the lake.
    Run(run::Arguments),
    /// Runs SQL over everything collected.
    Query(query::Arguments),
    /// Shows where each source stands: state, cause, position, last round, rows, errors.
    Status(status::Arguments),
    /// Lists the latest rounds; draws the timeline of one.
    Rounds(rounds::Arguments),
    /// Shows what changed between two rounds at each port, or in one table.
    Diff(diff::Arguments),
    /// Proves the chain over the rounds, the bytes of the files, and that each round's rows are those of its receipts.
    Verify(verify::Arguments),
    /// Shows what the lake takes, maintains it at once, checks its structure.
    Lake(lake::Arguments),
    /// Shows what could not be stored as configured, and tries it again.
    Quarantine(quarantine::Arguments),
    /// Starts a sample server with several ports, collects from it for a few seconds and shows what came.
    Demo(demo::Arguments),
    /// Prints the completion script of a shell.
    Completions(manual::CompletionsArguments),
    /// Writes the manual pages.
    Man(manual::ManArguments),
    /// Prints the named points at which a failpoint build can be stopped.
    #[cfg(feature = "failpoints")]
    #[command(hide = true)]
    Failpoints,
}

/// Parses the command line and runs the command.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    // What collects for good tells its story; the other commands speak through their output.
    let level = if matches!(cli.command, Command::Run(_)) { "info" } else { "warn" };
    telemetry::start(cli.log_format, level, is_terminal_stderr());
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(workers()).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tell(format_args!("error: the runtime could not be started: {error}\n"));
            return Exit::Failure.into();
        }
    };
    // On a worker, beside the sockets it waits for: a round that is woken from another thread pays for each answer.
    let result = runtime.block_on(runtime.spawn(dispatch(cli)));
    // A blocking task that is still busy (a name resolution, a file) must not hold the end up.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match result {
        Ok(Ok(exit)) => exit.into(),
        Ok(Err(stop)) => stop.tell().into(),
        Err(error) => {
            tell(format_args!("error: the command ended by itself, which is a defect: {error}\n"));
            Exit::Failure.into()
        }
    }
}

/// Half the cores: files are written, rows encoded and bodies converted on threads of their own, which need the others.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}

async fn dispatch(cli: Cli) -> Result<Exit, Stop> {
    let config = cli.config.as_path();
    match cli.command {
        Command::Check(arguments) => check::run(config, arguments).await,
        Command::Schema => check::schema(),
        Command::Fetch(arguments) => fetch::run(config, arguments).await,
        Command::Run(arguments) => run::run(config, arguments).await,
        Command::Query(arguments) => query::run(config, arguments).await,
        Command::Status(arguments) => status::run(config, arguments),
        Command::Rounds(arguments) => rounds::run(config, arguments),
        Command::Diff(arguments) => diff::run(config, arguments),
        Command::Verify(arguments) => verify::run(config, arguments),
        Command::Lake(arguments) => lake::run(config, arguments).await,
        Command::Quarantine(arguments) => quarantine::run(config, arguments).await,
        Command::Demo(arguments) => demo::run(arguments).await,
        Command::Completions(arguments) => manual::completions(arguments),
        Command::Man(arguments) => manual::man(arguments),
        #[cfg(feature = "failpoints")]
        Command::Failpoints => {
            for name in portolan_lake::FAILPOINTS {
                print_line(name)?;
            }
            Ok(Exit::Success)
        }
    }
}

/// The command line as clap sees it, for completions and manual pages.
fn command() -> clap::Command {
    Cli::command()
}

/// Reads the configuration; what is wrong with it is shown and ends the command.
fn configuration(path: &Path) -> Result<(Configuration, PathBuf), Stop> {
    configuration_with_text(path).map(|(configuration, folder, _)| (configuration, folder))
}

fn configuration_with_text(path: &Path) -> Result<(Configuration, PathBuf, String), Stop> {
    let Loaded { file, folder, outcome, text } = wiring::load(path)?;
    match outcome {
        Ok(configuration) => Ok((configuration, folder, text)),
        Err(found) => {
            tell(diagnostics::render(&text, &file, &found, is_terminal_stderr()));
            Err(Stop::Told(Exit::Usage))
        }
    }
}

/// Where the lake is: named, or as the configuration says, or `./lake` where no configuration was named and none is there.
fn lake_path(named: Option<&Path>, config: &Path) -> Result<PathBuf, Stop> {
    match named {
        Some(path) => Ok(path.to_path_buf()),
        None if config == Path::new(DEFAULT_CONFIG) && !config.exists() => Ok(PathBuf::from("./lake")),
        None => Ok(configuration(config)?.0.lake.path),
    }
}

/// A state that an argument names by a round's number or an instant.
fn state(argument: &str, text: &str) -> Result<portolan_lake::At, Stop> {
    if let Ok(round) = text.parse() {
        return Ok(portolan_lake::At::Round(round));
    }
    text.parse().map(portolan_lake::At::Time).map_err(|_| {
        let message = format!("{argument} {text:?} is neither a round's number nor an instant");
        Error::new(ErrorKind::Configuration, "choose state", message)
            .with_hint("write 120, or 2026-11-22T10:00:00Z")
            .into()
    })
}

/// What a round is in the place of what it promises, for people.
fn unkept(promised: Consistency, reached: ConsistencyReached) -> String {
    match reached {
        ConsistencyReached::None => format!("not {}", promised.as_str()),
        reached => format!("{}, not {}", reached.as_str(), promised.as_str()),
    }
}

/// What `--since` says: a round's number, or an instant.
fn since(text: &str) -> Result<(Option<i64>, Option<jiff::Timestamp>), Stop> {
    match (text.parse(), text.parse()) {
        (Ok(round), _) => Ok((Some(round), None)),
        (_, Ok(time)) => Ok((None, Some(time))),
        _ => {
            let message = format!("--since {text:?} is neither a round's number nor an instant");
            Err(Error::new(ErrorKind::Configuration, "choose rounds", message)
                .with_hint("write --since 120, or --since 2026-11-22T10:00:00Z")
                .into())
        }
    }
}

fn is_terminal_stderr() -> bool {
    use std::io::IsTerminal;
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// One line on standard output. A reader that has gone away is not an error of ours.
fn print_line(line: impl std::fmt::Display) -> std::io::Result<()> {
    use std::io::Write;
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}
