//! Reading what `strace` wrote: the calls that change files under one folder, in the order in which they ended, with
//! the data.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// The calls that are recorded.
pub(super) const CALLS: &str = "open,openat,creat,write,writev,pwrite64,pwritev,pwritev2,lseek,ftruncate,fallocate,fsync,\
                                fdatasync,sync_file_range,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,\
                                mkdirat,copy_file_range,sendfile";

/// A change of the lake's folder; paths are relative to it.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Operation {
    /// A file is there from now on.
    Create(PathBuf),
    /// Bytes are written; at the end where no offset is given.
    Write { path: PathBuf, offset: Option<u64>, data: Vec<u8> },
    /// A file has this length.
    Truncate(PathBuf, u64),
    /// What had been written to a file, or the names in a folder, before operation `started`, is safe.
    Sync { path: PathBuf, started: usize },
    /// A file has another name.
    Rename(PathBuf, PathBuf),
    /// A name is gone.
    Remove(PathBuf),
    /// A folder is there from now on.
    MakeFolder(PathBuf),
    /// The program has reported that this round is committed.
    Committed(i64),
}

impl std::fmt::Debug for Operation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Create(path) => write!(formatter, "create {}", path.display()),
            Self::Write { path, offset, data } => {
                write!(formatter, "write {} bytes to {} at {offset:?}", data.len(), path.display())
            }
            Self::Truncate(path, length) => write!(formatter, "truncate {} to {length}", path.display()),
            Self::Sync { path, started } => write!(formatter, "sync {} since {started}", path.display()),
            Self::Rename(from, to) => write!(formatter, "rename {} to {}", from.display(), to.display()),
            Self::Remove(path) => write!(formatter, "remove {}", path.display()),
            Self::MakeFolder(path) => write!(formatter, "make folder {}", path.display()),
            Self::Committed(round) => write!(formatter, "round {round} reported"),
        }
    }
}

/// Reads a record, keeping what concerns `folder`.
pub(super) fn read(record: &Path, folder: &Path) -> Result<Vec<Operation>> {
    let folder = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let mut reader = Reader { folder, operations: Vec::new(), offsets: BTreeMap::new() };
    let mut unfinished: BTreeMap<String, (String, usize)> = BTreeMap::new();
    let file = std::fs::File::open(record).with_context(|| format!("open {}", record.display()))?;
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line?;
        let (pid, rest) = line.trim_start().split_once(' ').unwrap_or((&line, ""));
        let rest = rest.trim_start();
        if let Some(start) = rest.strip_suffix("<unfinished ...>") {
            unfinished.insert(pid.to_owned(), (start.trim_end().to_owned(), reader.operations.len()));
            continue;
        }
        let (call, started) = match rest.strip_prefix("<... ") {
            Some(resumed) => {
                let Some((start, started)) = unfinished.remove(pid) else { continue };
                let end = resumed.split_once("resumed>").map_or("", |(_, end)| end);
                (start + end, started)
            }
            None => (rest.to_owned(), reader.operations.len()),
        };
        reader.call(&call, started).with_context(|| format!("line {} of the record", number + 1))?;
    }
    Ok(reader.operations)
}

struct Reader {
    folder: PathBuf,
    operations: Vec<Operation>,
    /// Descriptor → where the next `write` goes; `None` for a file opened for appending.
    offsets: BTreeMap<u64, Option<u64>>,
}

impl Reader {
    fn call(&mut self, text: &str, started: usize) -> Result<()> {
        let Some((name, rest)) = text.split_once('(') else { return Ok(()) };
        // Short calls are padded before the result.
        let Some((arguments, result)) = rest.rsplit_once(" = ") else { return Ok(()) };
        let Some(arguments) = arguments.trim_end().strip_suffix(')') else { return Ok(()) };
        let result = result.trim();
        if result.starts_with('-') || result.starts_with('?') {
            return Ok(());
        }
        let returned: u64 = leading_number(result);
        let descriptor = leading_number(arguments);
        match name {
            "open" | "openat" | "creat" => self.opened(name, arguments, result, returned),
            "write" | "writev" | "pwrite64" | "pwritev" | "pwritev2" => {
                self.written(name, arguments, descriptor, returned)
            }
            "lseek" => {
                self.offsets.entry(descriptor).and_modify(|offset| *offset = offset.map(|_| returned));
                Ok(())
            }
            "ftruncate" => {
                let length = last_number(arguments)?;
                self.on_descriptor(arguments, |path| Operation::Truncate(path, length))
            }
            "fsync" | "fdatasync" => self.on_descriptor(arguments, |path| Operation::Sync { path, started }),
            "rename" | "renameat" | "renameat2" => {
                let names = strings(arguments)?;
                let [from, to] = names.as_slice() else { bail!("a rename of {} names", names.len()) };
                if let (Some(from), Some(to)) = (self.inside(from), self.inside(to)) {
                    self.operations.push(Operation::Rename(from, to));
                }
                Ok(())
            }
            "unlink" | "unlinkat" => self.on_name(arguments, Operation::Remove),
            "mkdir" | "mkdirat" => self.on_name(arguments, Operation::MakeFolder),
            _ => {
                let concerns = paths(arguments).iter().any(|path| self.inside(path).is_some())
                    || strings(arguments)?.iter().any(|path| self.inside(path).is_some());
                ensure!(!concerns, "the replay does not know the call `{name}`");
                Ok(())
            }
        }
    }

    /// The path relative to the folder, if it lies inside.
    fn inside(&self, path: &[u8]) -> Option<PathBuf> {
        let path = PathBuf::from(String::from_utf8_lossy(path).into_owned());
        path.strip_prefix(&self.folder).ok().map(Path::to_owned)
    }

    fn opened(&mut self, name: &str, arguments: &str, result: &str, descriptor: u64) -> Result<()> {
        let resolved = paths(result);
        let Some(path) = resolved.first().and_then(|path| self.inside(path)) else {
            self.offsets.remove(&descriptor);
            return Ok(());
        };
        let has = |flag: &str| arguments.contains(flag);
        self.offsets.insert(descriptor, (!has("O_APPEND")).then_some(0));
        if has("O_CREAT") || name == "creat" {
            self.operations.push(Operation::Create(path.clone()));
        }
        if has("O_TRUNC") || name == "creat" {
            self.operations.push(Operation::Truncate(path, 0));
        }
        Ok(())
    }

    fn written(&mut self, name: &str, arguments: &str, descriptor: u64, count: u64) -> Result<()> {
        // Nothing is recorded of pipes and sockets.
        let Some(target) = paths(arguments).into_iter().next() else { return Ok(()) };
        let Some(path) = self.inside(&target) else {
            if descriptor == 2 {
                self.reported(&strings(arguments)?.concat());
            }
            return Ok(());
        };
        ensure!(!arguments.contains("\"..."), "the data of a write was cut by the recorder");
        let mut data = strings(arguments)?.concat();
        data.truncate(usize::try_from(count)?);
        let offset = if name.starts_with('p') {
            Some(last_number(arguments)?)
        } else {
            let next = self.offsets.entry(descriptor).or_insert(Some(0));
            let offset = *next;
            *next = next.map(|offset| offset + count);
            offset
        };
        if !is_gone(arguments) {
            self.operations.push(Operation::Write { path, offset, data });
        }
        Ok(())
    }

    /// Log lines that report a committed round.
    fn reported(&mut self, text: &[u8]) {
        for line in text.split(|byte| *byte == b'\n') {
            let Ok(line) = serde_json::from_slice::<Value>(line) else { continue };
            let is_report = matches!(line["message"].as_str(), Some("round committed" | "round stored"));
            let round = line["round"].as_str().and_then(|round| round.parse().ok()).or(line["round"].as_i64());
            if let (true, Some(round)) = (is_report, round) {
                self.operations.push(Operation::Committed(round));
            }
        }
    }

    fn on_descriptor(&mut self, arguments: &str, operation: impl FnOnce(PathBuf) -> Operation) -> Result<()> {
        let path = paths(arguments).first().and_then(|path| self.inside(path));
        if let Some(path) = path.filter(|_| !is_gone(arguments)) {
            self.operations.push(operation(path));
        }
        Ok(())
    }

    fn on_name(&mut self, arguments: &str, operation: impl FnOnce(PathBuf) -> Operation) -> Result<()> {
        let names = strings(arguments)?;
        let Some(name) = names.first() else { return Ok(()) };
        let base = paths(arguments).into_iter().next();
        let whole = match base.filter(|_| !name.starts_with(b"/")) {
            Some(base) => [base.as_slice(), b"/", name.as_slice()].concat(),
            None => name.clone(),
        };
        if let Some(path) = self.inside(&whole) {
            self.operations.push(operation(path));
        }
        Ok(())
    }
}

fn leading_number(text: &str) -> u64 {
    text.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(u64::MAX)
}

fn last_number(arguments: &str) -> Result<u64> {
    let text = arguments.rsplit(", ").next().unwrap_or_default();
    text.parse().with_context(|| format!("no number at the end of {text:?}"))
}

/// Whether the descriptor's file has no name any more.
fn is_gone(arguments: &str) -> bool {
    arguments.contains(">(deleted)")
}

/// What stands in `<…>`: the paths of descriptors.
fn paths(text: &str) -> Vec<Vec<u8>> {
    let pieces = text.split('<').skip(1).filter_map(|rest| rest.split_once('>'));
    pieces.map(|(path, _)| unescape(path)).filter(|path| path.starts_with(b"/")).collect()
}

/// What stands in quotes.
fn strings(text: &str) -> Result<Vec<Vec<u8>>> {
    let pieces: Vec<&str> = text.split('"').collect();
    ensure!(pieces.len() % 2 == 1, "a quote without its other half");
    Ok(pieces.iter().skip(1).step_by(2).map(|piece| unescape(piece)).collect())
}

/// `\xNN` as bytes; anything else as it is.
fn unescape(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len() / 4 + 1);
    let mut at = 0;
    while at < bytes.len() {
        let digit = |offset: usize| bytes.get(at + offset).and_then(|digit| char::from(*digit).to_digit(16));
        match (bytes[at], bytes.get(at + 1), digit(2), digit(3)) {
            (b'\\', Some(b'x'), Some(high), Some(low)) => {
                plain.push((high * 16 + low) as u8);
                at += 4;
            }
            (byte, ..) => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> String {
        text.bytes().map(|byte| format!("\\x{byte:02x}")).collect()
    }

    #[test]
    fn calls_become_operations() {
        let folder = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(folder.path()).unwrap();
        let lake = root.display().to_string();
        let at = |name: &str| hex(&format!("{lake}/{name}"));
        let committed = hex("{\"message\":\"round committed\",\"round\":\"7\"}\n");
        let (a, b, dir, other) = (at("a"), at("b"), hex(&lake), hex("/elsewhere/a"));
        let lines = [
            format!("1 openat(AT_FDCWD<{dir}>, \"{a}\", O_WRONLY|O_CREAT|O_CLOEXEC, 0666) = 5<{a}>"),
            format!("1 write(5<{a}>, \"{}\", 3) = 3", hex("abc")),
            format!("2 fsync(5<{a}> <unfinished ...>"),
            format!("1 pwrite64(5<{a}>, \"{}\", 2, 9) = 2", hex("xy")),
            "2 <... fsync resumed>)        = 0".to_owned(),
            format!("1 write(5<{a}>, \"{}\", 1) = 1", hex("d")),
            format!("1 write(6<{other}>, \"{}\", 1) = 1", hex("q")),
            format!("1 rename(\"{a}\", \"{b}\") = 0"),
            format!("1 fsync(7<{dir}>) = 0"),
            format!("1 write(2</log>, \"{committed}\", 40) = 40"),
            format!("1 unlink(\"{}\") = -1 ENOENT (No such file or directory)", at("c")),
            format!("1 unlink(\"{b}\") = 0"),
            format!("1 write(5<{b}>(deleted), \"{}\", 1) = 1", hex("e")),
        ];
        let record = root.join("record.txt");
        std::fs::write(&record, lines.join("\n")).unwrap();
        let write = |offset, data: &str| Operation::Write { path: "a".into(), offset, data: data.into() };
        let expected = [
            Operation::Create("a".into()),
            write(Some(0), "abc"),
            write(Some(9), "xy"),
            Operation::Sync { path: "a".into(), started: 2 },
            write(Some(3), "d"),
            Operation::Rename("a".into(), "b".into()),
            Operation::Sync { path: "".into(), started: 6 },
            Operation::Committed(7),
            Operation::Remove("b".into()),
        ];
        assert_eq!(read(&record, &root).unwrap(), expected);
    }
}
