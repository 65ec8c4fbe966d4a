//! The lock that makes a process the lake's one collector.
//!
//! An operating-system lock on `collector.lock`: it ends with the process, however that ends. The file holds the
//! process id, for people. Readers never take it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use portolan_model::{Error, ErrorKind, Result};

use crate::error::file as file_error;

/// How often the lock is tried, and the pause between.
const ATTEMPTS: u32 = 25;
const ATTEMPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);

/// The lock, held until dropped.
#[derive(Debug)]
pub(crate) struct CollectorLock {
    _file: File,
}

/// Takes the lock.
///
/// # Errors
/// `Conflict` naming the process that holds it.
pub(crate) fn take(path: &Path) -> Result<CollectorLock> {
    let operation = "lock lake";
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|error| file_error(operation, path, error))?;
    // Somebody who looks whether a collector runs holds the lock for an instant; so does one that is just ending.
    let mut attempts = 0;
    let outcome = loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if attempts < ATTEMPTS => {
                attempts += 1;
                std::thread::sleep(ATTEMPT_PAUSE);
            }
            outcome => break outcome,
        }
    };
    match outcome {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder =
                read_pid(&mut file).map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
            return Err(Error::new(
                ErrorKind::Conflict,
                operation,
                format!("{holder} is collecting into {}", path.parent().unwrap_or(path).display()),
            )
            .with_hint(
                "one collector writes a lake at a time: stop the other one, or give this one its own [lake] path",
            ));
        }
        Err(TryLockError::Error(error)) => return Err(file_error(operation, path, error)),
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        write!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(|error| file_error(operation, path, error))?;
    Ok(CollectorLock { _file: file })
}

/// The process that holds the lock, if one does.
pub(crate) fn holder(path: &Path) -> Result<Option<u32>> {
    let mut file = match OpenOptions::new().read(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file_error("look at lock", path, error)),
    };
    // A shared lock, so that two who look at the same time do not see each other.
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(read_pid(&mut file).unwrap_or(0))),
        Err(TryLockError::Error(error)) => Err(file_error("look at lock", path, error)),
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
