//! `portolan completions` and `portolan man`: derived from the command line itself.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::exit::{Exit, Stop};

/// Arguments of `portolan completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portolan completions bash > /etc/bash_completion.d/portolan
  portolan completions zsh > ~/.zfunc/_portolan")]
pub(crate) struct CompletionsArguments {
    /// The shell.
    shell: clap_complete::Shell,
}

/// Arguments of `portolan man`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  portolan man ./man && man ./man/portolan-fetch.1")]
pub(crate) struct ManArguments {
    /// Folder to write to; made if absent.
    #[arg(value_name = "FOLDER", default_value = "man")]
    folder: PathBuf,
}

/// Prints the completion script.
pub(crate) fn completions(arguments: CompletionsArguments) -> Result<Exit, Stop> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::command(), "portolan", &mut script);
    super::print_line(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Exit::Success)
}

/// Writes one page for the program and one for each command.
pub(crate) fn man(arguments: ManArguments) -> Result<Exit, Stop> {
    let folder = &arguments.folder;
    std::fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
    let mut command = super::command();
    command.build();
    let mut written = Vec::new();
    pages(folder, &command, &mut written)?;
    for path in written {
        super::print_line(path.display())?;
    }
    Ok(Exit::Success)
}

/// The page of a command and those of the commands below it.
fn pages(folder: &Path, command: &clap::Command, written: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    written.push(page(folder, command)?);
    let below = command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help");
    for command in below {
        pages(folder, command, written)?;
    }
    Ok(())
}

fn page(folder: &Path, command: &clap::Command) -> anyhow::Result<PathBuf> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut text)?;
    let name = command.get_display_name().unwrap_or(command.get_name());
    let path = folder.join(format!("{name}.1"));
    std::fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
    Ok(path)
}
