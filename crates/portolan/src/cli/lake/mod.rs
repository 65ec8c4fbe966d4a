//! `portolan lake`: what the lake takes, its maintenance at once, its structure checked.

mod fsck;
mod maintain;
mod stats;

use std::path::Path;

use clap::Subcommand;

use crate::exit::{Exit, Stop};

pub(crate) use maintain::open;

/// Arguments of `portolan lake`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portolan lake stats                        rows, files and bytes of each table
  portolan lake flush                        rows inside the catalog go to Parquet files, now
  portolan lake merge --table orders         small files become one
  portolan lake expire --keep 2d             snapshots older than two days can no longer be read
  portolan lake fsck                         is the catalog right, and are its files there?

The collector maintains the lake by itself while it runs.")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows what each table takes and what could be had back.
    Stats(stats::Arguments),
    /// Moves the rows that are kept inside the catalog to Parquet files.
    Flush(maintain::TableArguments),
    /// Merges adjacent small Parquet files.
    Merge(maintain::TableArguments),
    /// Lets old snapshots expire.
    Expire(maintain::ExpireArguments),
    /// Checks the structure of the catalog and its files; changes nothing.
    Fsck(fsck::Arguments),
}

/// Runs the command.
pub(crate) async fn run(config: &Path, arguments: Arguments) -> Result<Exit, Stop> {
    match arguments.command {
        Command::Stats(arguments) => stats::run(config, &arguments),
        Command::Flush(arguments) => maintain::flush(config, arguments).await,
        Command::Merge(arguments) => maintain::merge(config, arguments).await,
        Command::Expire(arguments) => maintain::expire(config, arguments).await,
        Command::Fsck(arguments) => fsck::run(config, &arguments),
    }
}
