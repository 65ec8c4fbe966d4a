//! The crash campaigns: the real binary collects from real servers while it, they or the disk are cut off at random;
//! then its lake is compared, row by row, with what was written outside.
//!
//! - [`kill`]: SIGKILL of the collector, of the servers, or of both, at random moments
//! - [`failpoints`]: death at each named point of a commit or a maintenance job
//! - [`disk`]: a disk that fills up and is freed
//! - [`replay`]: the recorded system calls cut off at each one, as a power cut would
//!
//! Each campaign is a pure function of its seed as far as the machine allows: the seed chooses the moments.

pub mod audit;
pub mod collector;
pub mod disk;
pub mod failpoints;
pub mod kill;
pub mod random;
pub mod replay;
pub mod world;

use std::path::PathBuf;

/// What every campaign is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The binary under test.
    pub binary: PathBuf,
    /// Chooses the moments; printed, so that a failure can be sought again.
    pub seed: u64,
}

/// What a campaign did, for its closing line.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Kills, points, cuts.
    pub blows: u64,
    /// What a blow was.
    pub blow_name: &'static str,
    /// Rows written outside and found in the lake, each once and unaltered.
    pub rows: u64,
    /// Rounds found whole.
    pub rounds: u64,
    /// Further figures, for people.
    pub notes: Vec<String>,
}

impl std::fmt::Display for Report {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { blows, blow_name, rows, rounds, notes } = self;
        write!(
            formatter,
            "{blows} {blow_name}; {rows} rows: 0 lost, 0 duplicated, 0 altered, 0 invented; {rounds} rounds, each whole"
        )?;
        for note in notes {
            write!(formatter, "\n  {note}")?;
        }
        Ok(())
    }
}
