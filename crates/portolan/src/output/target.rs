//! Where output goes, and what its failures mean.

use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use portolan_model::{Error, ErrorKind, Result};

use super::{Format, Sink};

const OPERATION: &str = "write output";
const BUFFER_BYTES: usize = 128 * 1024;

/// Where output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Standard output.
    Stdout,
    /// A file, replaced as a whole.
    File(PathBuf),
}

impl Target {
    /// Readies it for one output.
    ///
    /// # Errors
    /// `Configuration` where a terminal would get bytes.
    pub(super) fn open(&self, format: &Format) -> Result<Opened> {
        match self {
            Self::Stdout if format.binary && io::stdout().is_terminal() => {
                Err(Error::new(ErrorKind::Configuration, OPERATION, format!("`{}` is bytes, not text", format.name))
                    .with_hint("write it to a file with --output FILE, or pipe it on"))
            }
            Self::Stdout => Ok(Opened { partial: None, path: None }),
            // A device or a pipe is written as it is: only a plain file can be replaced.
            Self::File(path) if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) => {
                Ok(Opened { partial: None, path: Some(path.clone()) })
            }
            Self::File(path) => {
                let mut name = path.file_name().unwrap_or_default().to_os_string();
                name.push(format!(".{}.partial", std::process::id()));
                Ok(Opened { partial: Some(path.with_file_name(name)), path: Some(path.clone()) })
            }
        }
    }
}

/// A target being written. Dropped without [`keep`](Self::keep), a file is removed.
pub(super) struct Opened {
    partial: Option<PathBuf>,
    path: Option<PathBuf>,
}

impl Opened {
    /// The place to write to, buffered.
    pub(super) fn sink(&self) -> Result<Sink> {
        let Some(path) = self.partial.as_ref().or(self.path.as_ref()) else {
            return Ok(Box::new(BufWriter::with_capacity(BUFFER_BYTES, io::stdout())));
        };
        let file = File::create(path).map_err(|error| failed_on(path, error))?;
        Ok(Box::new(BufWriter::with_capacity(BUFFER_BYTES, file)))
    }

    /// The output is whole: gives a file its name.
    pub(super) fn keep(mut self) -> Result<()> {
        if let (Some(partial), Some(path)) = (self.partial.take(), &self.path) {
            fs::rename(&partial, path).map_err(|error| failed_on(path, error))?;
        }
        Ok(())
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(partial) = &self.partial {
            // Best effort: the error that led here is the one to show.
            let _ = fs::remove_file(partial);
        }
    }
}

/// A failed write as the cross-crate error.
pub(super) fn failed(error: io::Error) -> Error {
    Error::new(kind(&error), OPERATION, "the output cannot be written").with_cause(error)
}

/// A failure of an Arrow or Parquet writer, which may hold a failed write.
pub(super) fn failed_within(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<io::Error>() {
            return failed(io::Error::new(io.kind(), io.to_string()));
        }
        cause = match current.downcast_ref::<arrow::error::ArrowError>() {
            Some(arrow::error::ArrowError::IoError(_, io)) => Some(io),
            _ => current.source(),
        };
    }
    Error::new(ErrorKind::Data, OPERATION, "the rows cannot be written in this format").with_cause(error)
}

fn failed_on(path: &Path, error: io::Error) -> Error {
    Error::new(kind(&error), OPERATION, format!("{} cannot be written", path.display())).with_cause(error)
}

fn kind(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
        _ => ErrorKind::Storage,
    }
}

/// Whether the output's reader went away, as `head` does.
pub(super) fn reader_is_gone(error: &Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(current) = cause {
        if current.downcast_ref::<io::Error>().is_some_and(|io| io.kind() == io::ErrorKind::BrokenPipe) {
            return true;
        }
        cause = current.source();
    }
    false
}

/// Writes text.
pub(super) fn put(sink: &mut dyn Write, text: &str) -> Result<()> {
    sink.write_all(text.as_bytes()).map_err(failed)
}

/// Hands on what is buffered, so that a reader sees rows as they come.
pub(super) fn flush(sink: &mut dyn Write) -> Result<()> {
    sink.flush().map_err(failed)
}
