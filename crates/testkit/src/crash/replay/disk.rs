//! A model of a disk with its cache: what may be there after a power cut.
//!
//! The rules are POSIX's, strictly: content is safe once the file has been synced, a name once its folder has been.
//! Without a sync, any part of the content may be there, page by page, and any beginning of a folder's changes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Files;
use super::trace::Operation;
use crate::crash::random::Random;

/// The unit in which content reaches the disk.
const PAGE_BYTES: usize = 4_096;

/// What is assumed of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// Everything was written out: the process died, the machine did not.
    AllKept,
    /// Only what was synced.
    OnlySynced,
    /// What was synced, and a random part of the rest.
    PartKept,
}

impl Variant {
    pub(super) const ALL: [Self; 3] = [Self::AllKept, Self::OnlySynced, Self::PartKept];
}

/// The disk after the operations applied so far.
#[derive(Debug, Default)]
pub(super) struct Disk {
    files: Vec<File>,
    names: BTreeMap<PathBuf, usize>,
    safe_names: BTreeMap<PathBuf, usize>,
    /// Changes of names that are not safe, with the operation that made them.
    pending: Vec<(usize, NameChange)>,
}

#[derive(Debug, Default)]
struct File {
    content: Vec<u8>,
    safe: Vec<u8>,
    /// Changes of the content that are not safe, with the operation that made them.
    pending: Vec<(usize, ContentChange)>,
}

#[derive(Clone, Debug)]
enum ContentChange {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

#[derive(Clone, Debug)]
enum NameChange {
    Add(PathBuf, usize),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf, usize),
}

impl NameChange {
    fn folder(&self) -> &Path {
        let (Self::Add(path, _) | Self::Remove(path) | Self::Rename(_, path, _)) = self;
        path.parent().unwrap_or(Path::new(""))
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Add(path, file) => drop(names.insert(path.clone(), *file)),
            Self::Remove(path) => drop(names.remove(path)),
            Self::Rename(from, to, file) => {
                names.remove(from);
                names.insert(to.clone(), *file);
            }
        }
    }
}

/// Stands for a folder among the names.
const FOLDER: usize = usize::MAX;

impl ContentChange {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => {
                let offset = *offset as usize;
                let end = offset + data.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[offset..end].copy_from_slice(data);
            }
            Self::Truncate(length) => content.resize(*length as usize, 0),
        }
    }

    /// A random part of the change: each page of a write by itself.
    fn apply_part(&self, content: &mut Vec<u8>, random: &mut Random) {
        match self {
            Self::Truncate(_) if random.once_in(2) => self.apply(content),
            Self::Truncate(_) => {}
            Self::Write(offset, data) => {
                let mut at = 0;
                while at < data.len() {
                    let position = *offset as usize + at;
                    let next = (at + PAGE_BYTES - position % PAGE_BYTES).min(data.len());
                    if random.once_in(2) {
                        Self::Write(position as u64, data[at..next].to_vec()).apply(content);
                    }
                    at = next;
                }
            }
        }
    }
}

impl Disk {
    /// Carries out operation number `index`.
    pub(super) fn apply(&mut self, index: usize, operation: &Operation) {
        match operation {
            Operation::Create(path) => {
                if !self.names.contains_key(path) {
                    let file = self.files.len();
                    self.files.push(File::default());
                    self.rename(index, NameChange::Add(path.clone(), file));
                }
            }
            Operation::MakeFolder(path) => self.rename(index, NameChange::Add(path.clone(), FOLDER)),
            Operation::Write { path, offset, data } => {
                let end = self.file(path).map_or(0, |file| file.content.len() as u64);
                self.change(index, path, ContentChange::Write(offset.unwrap_or(end), data.clone()));
            }
            Operation::Truncate(path, length) => self.change(index, path, ContentChange::Truncate(*length)),
            Operation::Rename(from, to) => {
                if let Some(file) = self.names.get(from).copied() {
                    self.rename(index, NameChange::Rename(from.clone(), to.clone(), file));
                }
            }
            Operation::Remove(path) => self.rename(index, NameChange::Remove(path.clone())),
            Operation::Sync { path, started } => self.sync(path, *started),
            Operation::Committed(_) => {}
        }
    }

    fn file(&mut self, path: &Path) -> Option<&mut File> {
        let index = *self.names.get(path)?;
        self.files.get_mut(index)
    }

    fn change(&mut self, index: usize, path: &Path, change: ContentChange) {
        if let Some(file) = self.file(path) {
            change.apply(&mut file.content);
            file.pending.push((index, change));
        }
    }

    fn rename(&mut self, index: usize, change: NameChange) {
        change.apply(&mut self.names);
        self.pending.push((index, change));
    }

    fn sync(&mut self, path: &Path, started: usize) {
        let is_folder = path.as_os_str().is_empty() || self.names.get(path) == Some(&FOLDER);
        if is_folder {
            let pending = std::mem::take(&mut self.pending);
            for (index, change) in pending {
                if change.folder() == path && index < started {
                    change.apply(&mut self.safe_names);
                } else {
                    self.pending.push((index, change));
                }
            }
        } else if let Some(file) = self.file(path) {
            let later = file.pending.split_off(file.pending.partition_point(|(index, _)| *index < started));
            for (_, change) in std::mem::replace(&mut file.pending, later) {
                change.apply(&mut file.safe);
            }
        }
    }

    /// The files that are there if the power is cut now.
    pub(super) fn cut(&self, variant: Variant, random: &mut Random) -> Files {
        let mut names = match variant {
            Variant::AllKept => self.names.clone(),
            _ => self.safe_names.clone(),
        };
        if variant == Variant::PartKept {
            // A folder's changes reach the disk in order; how many did is anybody's guess.
            let mut kept: BTreeMap<&Path, bool> = BTreeMap::new();
            for (_, change) in &self.pending {
                let goes_on = kept.entry(change.folder()).or_insert(true);
                *goes_on = *goes_on && !random.once_in(3);
                if *goes_on {
                    change.apply(&mut names);
                }
            }
        }
        let mut files = Files::new();
        for (path, index) in &names {
            let has_folders = path
                .ancestors()
                .skip(1)
                .filter(|folder| !folder.as_os_str().is_empty())
                .all(|folder| names.get(folder) == Some(&FOLDER));
            let Some(file) = self.files.get(*index).filter(|_| has_folders) else { continue };
            let content = match variant {
                Variant::AllKept => file.content.clone(),
                Variant::OnlySynced => file.safe.clone(),
                Variant::PartKept => {
                    let mut content = file.safe.clone();
                    for (_, change) in &file.pending {
                        change.apply_part(&mut content, random);
                    }
                    content
                }
            };
            files.insert(path.clone(), content);
        }
        files
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(operations: &[Operation]) -> Disk {
        let mut disk = Disk::default();
        for (index, operation) in operations.iter().enumerate() {
            disk.apply(index, operation);
        }
        disk
    }

    fn write(path: &str, offset: u64, data: &str) -> Operation {
        Operation::Write { path: path.into(), offset: Some(offset), data: data.into() }
    }

    fn sync(path: &str, started: usize) -> Operation {
        Operation::Sync { path: path.into(), started }
    }

    fn cut(disk: &Disk, variant: Variant) -> Vec<(String, String)> {
        let files = disk.cut(variant, &mut Random::new(1));
        let text = |content: Vec<u8>| String::from_utf8_lossy(&content).into_owned();
        files.into_iter().map(|(path, content)| (path.display().to_string(), text(content))).collect()
    }

    #[test]
    fn content_needs_its_sync_and_names_their_folders() {
        let mut operations = vec![Operation::Create("a".into()), write("a", 0, "one")];
        assert_eq!(cut(&disk(&operations), Variant::AllKept), [("a".into(), "one".into())]);
        assert_eq!(cut(&disk(&operations), Variant::OnlySynced), []);
        operations.push(sync("a", 2));
        assert_eq!(cut(&disk(&operations), Variant::OnlySynced), [], "the name is not safe");
        operations.push(sync("", 3));
        operations.push(write("a", 3, "two"));
        assert_eq!(cut(&disk(&operations), Variant::OnlySynced), [("a".into(), "one".into())]);
        // A sync that began before the write says nothing of it.
        operations.push(sync("a", 4));
        assert_eq!(cut(&disk(&operations), Variant::OnlySynced), [("a".into(), "one".into())]);
        operations.push(sync("a", 5));
        assert_eq!(cut(&disk(&operations), Variant::OnlySynced), [("a".into(), "onetwo".into())]);
        operations.push(Operation::Rename("a".into(), "b".into()));
        assert_eq!(cut(&disk(&operations), Variant::OnlySynced), [("a".into(), "onetwo".into())]);
        operations.push(Operation::Remove("b".into()));
        assert_eq!(cut(&disk(&operations), Variant::AllKept), []);
        assert_eq!(cut(&disk(&operations), Variant::OnlySynced), [("a".into(), "onetwo".into())]);
    }

    #[test]
    fn a_file_in_a_folder_that_is_not_safe_is_not_there() {
        let operations = [
            Operation::MakeFolder("d".into()),
            Operation::Create("d/a".into()),
            write("d/a", 0, "x"),
            sync("d/a", 3),
            sync("d", 4),
        ];
        assert_eq!(cut(&disk(&operations), Variant::OnlySynced), []);
        let mut operations = operations.to_vec();
        operations.push(sync("", 5));
        assert_eq!(cut(&disk(&operations), Variant::OnlySynced), [("d/a".into(), "x".into())]);
    }

    #[test]
    fn a_part_kept_lies_between_nothing_and_all() {
        let page = "x".repeat(PAGE_BYTES);
        let operations =
            [Operation::Create("a".into()), sync("", 1), write("a", 0, &page), write("a", PAGE_BYTES as u64, &page)];
        let disk = disk(&operations);
        let mut lengths: Vec<usize> =
            (0..50).map(|seed| disk.cut(Variant::PartKept, &mut Random::new(seed))[Path::new("a")].len()).collect();
        lengths.sort_unstable();
        lengths.dedup();
        assert_eq!(lengths, [0, PAGE_BYTES, 2 * PAGE_BYTES]);
    }
}
