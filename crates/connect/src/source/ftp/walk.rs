//! Finds the files that a pattern means, folder by folder.
//!
//! Promise: folders, entries and bytes of listings are bounded; a listing that is not whole is an error, never a shorter
//! folder; what a server names is put behind the folder it was asked for and nowhere else.

use std::collections::{BTreeMap, BTreeSet};

use portolan_model::source::{Output, Phase};
use portolan_model::{Error, ErrorKind, Result};

use super::control::{Control, Transfer};
use super::glob::{Pattern, Segment};
use super::listing::{Entry, Kind, Refused, parse_list, parse_mlsd};
use crate::transport::sniff;

/// The most folders of one walk.
const FOLDERS_MAX: usize = 10_000;
/// The most entries of one walk, those not meant included.
const ENTRIES_MAX: usize = 1_000_000;
/// How deep `**` goes.
const DEPTH_MAX: usize = 16;
/// The longest line of a listing, in bytes.
const LINE_BYTES_MAX: usize = 8 << 10;
/// The longest path, in bytes.
const PATH_BYTES_MAX: usize = 4_096;
/// The most names that are reported as refused.
const REFUSED_MAX: usize = 100;
/// Bytes read at once.
const READ_BYTES: usize = 16 << 10;

/// A file as the server lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RemoteFile {
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) modify: Option<String>,
}

/// What a walk found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// By path.
    pub(super) files: BTreeMap<String, RemoteFile>,
    /// Entries that were not taken: as shown, and why.
    pub(super) refused: BTreeMap<String, String>,
}

/// Lists what `pattern` means; more than `files_max` files are an error.
///
/// # Errors
/// What the server refuses; `Limit`; `NotFound` for one file that is not there.
pub(super) async fn walk(
    control: &mut Control,
    pattern: &Pattern,
    files_max: usize,
    output: &mut dyn Output,
) -> Result<Found> {
    let mut found = Found::default();
    let mut candidates: BTreeMap<String, Entry> = BTreeMap::new();
    let mut waiting = vec![(pattern.base.clone(), 0, 0)];
    let mut seen = BTreeSet::from([(pattern.base.clone(), 0)]);
    let mut entries_left = ENTRIES_MAX;
    while let Some((folder, at, depth)) = waiting.pop() {
        let entries = list(control, &folder, &mut entries_left, &mut found, output).await?;
        for entry in entries {
            let path = format!("{}/{}", folder.trim_end_matches('/'), entry.name);
            if path.len() > PATH_BYTES_MAX {
                refuse(&mut found, path.as_bytes(), "its path is longer than 4096 bytes")?;
                continue;
            }
            let deep = pattern.segments[at] == Segment::Deep;
            let here = if deep { at + 1 } else { at };
            let is_last = here + 1 == pattern.segments.len();
            let fits = pattern.segments[here].matches(&entry.name);
            match entry.kind {
                Kind::File | Kind::Link if is_last && fits => {
                    candidates.insert(path, entry);
                    if candidates.len() > files_max {
                        return Err(limit(format!("more than {files_max} files, which is what `max_files` allows"))
                            .with_hint("raise max_files, or narrow `path`"));
                    }
                }
                Kind::Folder => {
                    let mut next = Vec::new();
                    if !is_last && fits {
                        next.push((path.clone(), here + 1, 0));
                    }
                    if deep && pattern.segments[at].matches(&entry.name) {
                        if depth >= DEPTH_MAX {
                            return Err(limit(format!(
                                "{path} is more than {DEPTH_MAX} folders below {}",
                                pattern.base
                            ))
                            .with_hint("write the upper folders in `path`"));
                        }
                        next.push((path, at, depth + 1));
                    }
                    waiting.extend(next.into_iter().filter(|(path, at, _)| seen.insert((path.clone(), *at))));
                    if seen.len() > FOLDERS_MAX {
                        return Err(limit(format!("more than {FOLDERS_MAX} folders")).with_hint("narrow `path`"));
                    }
                }
                _ => {}
            }
        }
    }
    if candidates.is_empty() && pattern.is_one_file() {
        return Err(Error::new(ErrorKind::NotFound, "list files", format!("no such file in {}", pattern.base))
            .with_hint("check `path`; a pattern such as \"/out/*.csv\" may mean no file at all"));
    }
    for (path, entry) in candidates {
        if let Some(file) = complete(control, path, entry).await? {
            found.files.insert(file.path.clone(), file);
        }
    }
    Ok(found)
}

/// Asks for what the listing does not tell. `None`: a link that leads to no file.
async fn complete(control: &mut Control, path: String, entry: Entry) -> Result<Option<RemoteFile>> {
    let size = match entry.size.filter(|_| entry.kind == Kind::File) {
        Some(size) => size,
        None => match control.size(&path).await? {
            Some(size) => size,
            None if entry.kind == Kind::Link => return Ok(None),
            None => {
                let message = format!("{path}: neither the listing nor SIZE tells its size");
                return Err(Error::new(ErrorKind::Protocol, "list files", message)
                    .with_hint("the server must speak MLSD, LIST in a known dialect, or SIZE (RFC 3659)"));
            }
        },
    };
    let modify = match entry.modify {
        None if control.features.mdtm => control.modify(&path).await?,
        modify => modify,
    };
    Ok(Some(RemoteFile { path, size, modify }))
}

fn limit(message: String) -> Error {
    Error::new(ErrorKind::Limit, "list files", message)
}

fn refuse(found: &mut Found, line: &[u8], why: &str) -> Result<()> {
    // Cut, and nothing of it that a terminal would obey.
    let shown: String =
        line.iter().take(1_024).flat_map(|byte| std::ascii::escape_default(*byte)).map(char::from).collect();
    found.refused.insert(shown, why.to_owned());
    if found.refused.len() > REFUSED_MAX {
        return Err(limit(format!("more than {REFUSED_MAX} names or lines that cannot be taken"))
            .with_hint("look at the folder: curl --list-only ftp://HOST/…/"));
    }
    Ok(())
}

/// The entries of one folder.
async fn list(
    control: &mut Control,
    folder: &str,
    entries_left: &mut usize,
    found: &mut Found,
    output: &mut dyn Output,
) -> Result<Vec<Entry>> {
    control.change_folder(folder).await?;
    let is_machine_readable = control.features.mlsd;
    let command = if is_machine_readable { "MLSD" } else { "LIST" };
    let mut transfer = control.transfer("list folder", command, folder, 0, || output.mark(Phase::Released)).await?;
    let (mut entries, mut strange) = (Vec::new(), None);
    let mut buffer = Vec::new();
    while fill(&mut transfer, &mut buffer, output).await? {
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            *entries_left = entries_left.checked_sub(1).ok_or_else(|| {
                limit(format!("more than {ENTRIES_MAX} entries in the folders")).with_hint("narrow `path`")
            })?;
            let parsed = if is_machine_readable { parse_mlsd(line) } else { parse_list(line) };
            match parsed {
                Ok(entry) => entries.extend(entry),
                Err(Refused::Name(why)) => refuse(found, line, &format!("the name is refused: {why}"))?,
                Err(Refused::Line) => {
                    refuse(found, line, "the line is in no known dialect of listings")?;
                    strange = Some(line.to_owned());
                }
            }
        }
        if buffer.len() > LINE_BYTES_MAX {
            return Err(limit(format!("{folder}: a line of the listing is longer than {LINE_BYTES_MAX} bytes"))
                .with_hint("look at the folder: curl --list-only ftp://HOST/…/"));
        }
    }
    // A plain connection that is cut looks like its end: what ends within a line, or without TLS saying so, is not whole.
    if !buffer.is_empty() || transfer.is_unclean {
        let message = format!("the listing of {folder} is not whole");
        return Err(Error::new(ErrorKind::Disconnected, "list folder", message).with_hint("look at the server's log"));
    }
    let reply = control.finish("list folder", transfer).await?;
    // Some servers leave entries out and call it done.
    if reply.text().to_lowercase().contains("truncated") {
        return Err(limit(format!("the server shows a part of {folder} alone: {}", reply.text()))
            .with_hint("raise the server's limit of entries (pure-ftpd: LimitRecursion), or use more folders"));
    }
    // An empty folder answers, too.
    output.mark(Phase::FirstByte);
    output.mark(Phase::LastByte);
    match strange {
        Some(line) if entries.is_empty() => {
            let message = format!("the listing of {folder} is in no known dialect: {:?}", sniff::shown(&line));
            Err(Error::new(ErrorKind::Protocol, "list folder", message)
                .with_hint("MLSD (RFC 3659) and LIST as Unix and DOS servers write it are read"))
        }
        _ => Ok(entries),
    }
}

/// Adds what comes next; false at the end.
async fn fill(transfer: &mut Transfer, buffer: &mut Vec<u8>, output: &mut dyn Output) -> Result<bool> {
    let mut bytes = [0; READ_BYTES];
    let count = transfer.read(&mut bytes).await?;
    if count > 0 {
        output.mark(Phase::FirstByte);
        output.mark(Phase::LastByte);
        buffer.extend_from_slice(&bytes[..count]);
    }
    Ok(count > 0)
}
