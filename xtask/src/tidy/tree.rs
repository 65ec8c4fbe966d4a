//! The workspace's text files, read once.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Kinds of files that are looked at.
const EXTENSIONS: [&str; 9] = ["rs", "toml", "md", "yml", "yaml", "sh", "json", "sql", "py"];
/// Folders that are made, not written.
const MADE: [&str; 5] = ["target", ".git", "portolan-demo", "corpus", "artifacts"];

/// A text file.
#[derive(Clone, Debug)]
pub(crate) struct TextFile {
    /// Relative to the workspace, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// The text files of the workspace, by path.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    pub(crate) files: Vec<TextFile>,
}

impl Tree {
    /// Reads every text file under `root`.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        tree.add(root, "")?;
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(tree)
    }

    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let file = |(path, text): &(&str, &str)| TextFile { path: (*path).into(), text: (*text).into() };
        Self { files: files.iter().map(file).collect() }
    }

    fn add(&mut self, folder: &Path, prefix: &str) -> Result<()> {
        for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{prefix}{name}");
            if entry.file_type()?.is_dir() {
                if !MADE.contains(&name.as_str()) {
                    self.add(&entry.path(), &format!("{path}/"))?;
                }
            } else if path == ".ci/run" || name.rsplit_once('.').is_some_and(|(_, end)| EXTENSIONS.contains(&end)) {
                // A file that vanishes or is not UTF-8 is not one that somebody wrote here.
                if let Ok(text) = fs::read_to_string(entry.path()) {
                    self.files.push(TextFile { path, text });
                }
            }
        }
        Ok(())
    }

    /// The file at a path.
    pub(crate) fn get(&self, path: &str) -> Option<&TextFile> {
        self.files.iter().find(|file| file.path == path)
    }

    /// The Rust files.
    pub(crate) fn rust(&self) -> impl Iterator<Item = &TextFile> {
        self.files.iter().filter(|file| file.path.ends_with(".rs"))
    }
}
