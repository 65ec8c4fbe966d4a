//! Where an `ftp` source continues: what has been read of each file.
//!
//! Version 1 is an object: `files`, by path; `last`, the file at which the last read ended early; `refused`, names
//! that were not taken and have been reported.

use std::collections::{BTreeMap, BTreeSet};

use portolan_model::error::{Error, ErrorKind, Result};
use portolan_model::position::Position;
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;
/// How long a file that has gone is remembered, in seconds: a folder that is not mounted for an hour looks empty.
const GONE_SECONDS_MAX: i64 = 86_400;

/// What has been read of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileState {
    /// Its size when it was read, in bytes.
    pub(super) size: u64,
    /// Bytes whose rows have been given.
    pub(super) offset: u64,
    /// Its time of change then, as the server writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) modify: Option<String>,
    /// Digest of the bytes before `offset`, see [`super::lines::Prefix`]; of a file read whole, of all of it.
    pub(super) digest: String,
    /// The read ended within it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) is_partial: bool,
    /// Since when the line at its end has been unfinished, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) held_since: Option<i64>,
    /// That has been reported.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) is_reported: bool,
    /// Since when it has been gone, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) gone_since: Option<i64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// The decoded position.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FtpPosition {
    pub(super) files: BTreeMap<String, FileState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) refused: BTreeSet<String>,
}

impl FtpPosition {
    /// Reads a stored position.
    ///
    /// # Errors
    /// `Configuration` if it is not readable.
    pub(super) fn read(position: Option<&Position>) -> Result<Self> {
        let Some(position) = position else { return Ok(Self::default()) };
        let unreadable = || {
            Error::new(ErrorKind::Configuration, "read position", "the stored position is not readable")
                .with_hint("was it written by a newer version, or by another protocol under the same source name?")
        };
        if position.version != VERSION {
            return Err(unreadable());
        }
        Self::deserialize(&position.value).map_err(|error| unreadable().with_cause(error))
    }

    pub(super) fn to_position(&self) -> Position {
        Position::new(VERSION, serde_json::to_value(self).unwrap_or_default())
    }

    /// Notes which files have gone, and forgets those gone for long; `is_meant` tells which of them would have been
    /// found. Where more than `files_max` are known, those gone longest are forgotten first, then those not looked for.
    ///
    /// # Errors
    /// `Limit`, if more than `files_max` are there.
    pub(super) fn settle(
        &mut self,
        found: &BTreeSet<&str>,
        is_meant: impl Fn(&str) -> bool,
        now: i64,
        files_max: usize,
    ) -> Result<()> {
        for (path, state) in &mut self.files {
            if found.contains(path.as_str()) {
                state.gone_since = None;
            } else if is_meant(path) && state.gone_since.is_none() {
                state.gone_since = Some(now);
            }
        }
        self.files.retain(|_, state| state.gone_since.is_none_or(|since| now - since <= GONE_SECONDS_MAX));
        let fresh = found.iter().filter(|path| !self.files.contains_key(**path)).count();
        let mut excess = (self.files.len() + fresh).saturating_sub(files_max);
        if excess > 0 {
            let absent = self.files.iter().filter(|(path, _)| !found.contains(path.as_str()));
            let mut gone: Vec<(i64, String)> =
                absent.map(|(path, state)| (state.gone_since.unwrap_or(i64::MAX), path.clone())).collect();
            gone.sort();
            for (_, path) in gone.into_iter().take(excess) {
                self.files.remove(&path);
                excess -= 1;
            }
        }
        if excess > 0 {
            let message = format!("{} files, more than `max_files` allows ({files_max})", files_max + excess);
            return Err(Error::new(ErrorKind::Limit, "list files", message)
                .with_hint("raise max_files, narrow `path`, or move files away that have been read"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_format_is_read_for_ever() {
        let stored = r#"{"version":1,"value":{"files":{"/out/a.csv":{"size":9,"offset":7,"modify":"20261123080021","digest":"ab"}},"last":"/out/a.csv"}}"#;
        let position = FtpPosition::read(Some(&Position::from_text(stored).unwrap())).unwrap();
        assert_eq!(position.files["/out/a.csv"].offset, 7);
        assert_eq!(Position::from_text(stored), Ok(position.to_position()));
        for bad in
            [r#"{"version":2,"value":{}}"#, r#"{"version":1,"value":[]}"#, r#"{"version":1,"value":{"files":3}}"#]
        {
            assert!(FtpPosition::read(Some(&Position::from_text(bad).unwrap())).is_err(), "{bad}");
        }
    }

    #[test]
    fn files_that_have_gone_are_forgotten_after_a_day_or_for_lack_of_room() {
        let state = || FileState { size: 1, ..FileState::default() };
        let mut position = FtpPosition::default();
        for path in ["/a", "/b", "/elsewhere"] {
            position.files.insert(path.into(), state());
        }
        let is_meant = |path: &str| path != "/elsewhere";
        let mut settle = |found: &[&str], now, most| {
            position.settle(&found.iter().copied().collect(), is_meant, now, most).map(|()| position.files.len())
        };
        assert_eq!(settle(&["/a"], 1_000, 10).unwrap(), 3);
        assert_eq!(settle(&["/a"], 1_000 + GONE_SECONDS_MAX, 10).unwrap(), 3);
        assert_eq!(settle(&["/a"], 1_001 + GONE_SECONDS_MAX, 10).unwrap(), 2);
        assert_eq!(settle(&["/c"], 200_000, 10).unwrap(), 2);
        // `/a` has gone and makes room first; `/elsewhere` is not looked for and makes room then.
        assert_eq!(settle(&["/c"], 200_001, 2).unwrap(), 1);
        assert_eq!(settle(&["/c", "/d"], 200_002, 2).unwrap(), 0);
        assert_eq!(settle(&["/c", "/d", "/e"], 200_003, 2).unwrap_err().kind(), ErrorKind::Limit);
    }
}
