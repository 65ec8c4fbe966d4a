//! Exit codes: documented in `docs/exit-codes.md`, stable.

use std::process::ExitCode;

use portolan_model::{Error, ErrorKind};

use crate::output::visible;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything asked for was done.
    Success = 0,
    /// A defect, or an error without a code of its own.
    Failure = 1,
    /// The command line or the configuration is wrong; nothing was read or written.
    Usage = 2,
    /// Some sources failed; what the others yielded was delivered.
    Partial = 3,
    /// Every source failed.
    AllFailed = 4,
    /// The lake could not be opened, read or written.
    Lake = 5,
    /// The SQL is wrong, or could not be carried out.
    #[cfg_attr(not(feature = "sql"), allow(dead_code, reason = "builds without SQL run no query"))]
    Query = 6,
    /// This build does not have what was asked for.
    Unsupported = 7,
    /// The lake was read, and something in it is damaged.
    Damaged = 8,
    /// The round was rejected, by a check or for a promise that it does not keep: nothing of it is stored.
    Rejected = 9,
    /// Ctrl-C, asked a second time.
    Interrupted = 130,
    /// A termination signal, asked a second time.
    Terminated = 143,
}

impl Exit {
    /// Every code, for the documentation's test.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 12] = [
        Self::Success,
        Self::Failure,
        Self::Usage,
        Self::Partial,
        Self::AllFailed,
        Self::Lake,
        Self::Query,
        Self::Unsupported,
        Self::Damaged,
        Self::Rejected,
        Self::Interrupted,
        Self::Terminated,
    ];

    /// The code of an error that ends a command on a lake.
    pub(crate) fn of(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::Configuration => Self::Usage,
            ErrorKind::Storage | ErrorKind::StorageFull | ErrorKind::Corrupt | ErrorKind::Conflict => Self::Lake,
            ErrorKind::NotFound => Self::Lake,
            _ => Self::Failure,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// What ends a command early: already explained on standard error, or still to be.
pub(crate) enum Stop {
    /// The user has been told.
    Told(Exit),
    /// An error to be shown, with the code to end with.
    Error(Exit, Error),
    /// An error without a kind.
    Other(anyhow::Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(Exit::of(&error), error)
    }
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Other(error.into())
    }
}

impl Stop {
    /// Tells the user and gives the code.
    pub(crate) fn tell(self) -> Exit {
        match self {
            Self::Told(exit) => exit,
            Self::Error(exit, error) => {
                show_error(&error);
                exit
            }
            Self::Other(error) => {
                tell(format_args!("error: {error:#}\n"));
                Exit::Failure
            }
        }
    }
}

/// Writes to standard error. Where nobody reads it any more there is nobody to be told.
pub(crate) fn tell(text: impl std::fmt::Display) {
    use std::io::Write;
    let _ = write!(std::io::stderr(), "{text}");
}

/// Shows an error with its causes and what to do next.
pub(crate) fn show_error(error: &Error) {
    tell(format_args!("error: {}\n", visible(&error.chain())));
    if let Some(hint) = error.hint() {
        tell(format_args!("  next: {}\n", visible(hint)));
    }
}

#[cfg(test)]
mod tests {
    use super::Exit;

    #[test]
    fn every_code_is_documented() {
        let documentation = include_str!("../../../docs/exit-codes.md");
        for exit in Exit::ALL {
            let row = format!("| {} |", exit as u8);
            assert!(documentation.contains(&row), "docs/exit-codes.md has no row {row:?} for {exit:?}");
        }
    }
}
