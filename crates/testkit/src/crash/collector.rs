//! The binary under test, as a process that is started, killed and stopped.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::world::World;
use crate::process::{Process, Signal};

/// How long a stop in order may take.
const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// A running `portolan run`.
#[derive(Debug)]
pub struct Collector {
    process: Process,
    log: PathBuf,
}

impl Collector {
    /// Starts the binary on the world's configuration. `environment` is added to ours.
    pub fn start(binary: &Path, world: &World, environment: &[(&str, &str)]) -> Result<Self> {
        Self::start_with(binary, &world.configuration(), &world.folder().join("collector.log"), environment)
    }

    /// Starts the binary on a configuration, its log going to a file.
    pub fn start_with(binary: &Path, configuration: &Path, log: &Path, environment: &[(&str, &str)]) -> Result<Self> {
        ensure!(binary.is_file(), "{} is not there: build it with `cargo build --release`", binary.display());
        let binary = std::path::absolute(binary)?;
        let process = Process::spawn(&binary, log, Signal::KILL, |command| {
            command.arg("--config").arg(configuration).args(["--log-format", "json", "run"]);
            command.envs(environment.iter().copied());
        })?;
        Ok(Self { process, log: log.to_owned() })
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Kills it at once.
    ///
    /// # Errors
    /// It had ended before, by itself: that is a finding.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(status) = self.process.ended()? {
            bail!("the collector ended by itself with {status}; its log ends:\n{}", self.process.log_tail());
        }
        self.process.kill().map(drop)
    }

    /// Stops it in order.
    ///
    /// # Errors
    /// It does not end, or not with success.
    pub fn stop(mut self) -> Result<()> {
        let status = self.process.stop(Signal::TERM, STOP_PATIENCE)?;
        ensure!(status.success(), "the collector stopped with {status}; its log ends:\n{}", self.process.log_tail());
        Ok(())
    }

    /// Everything logged since the log file exists.
    pub fn log(&self) -> Result<String> {
        std::fs::read_to_string(&self.log).context("read the collector's log")
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }
}
