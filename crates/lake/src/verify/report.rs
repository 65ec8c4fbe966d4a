//! What a verification has found.

use std::collections::HashMap;

use super::NAMED_MAX;
use crate::chain::ChainHead;
use crate::scan::INSIDE;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// The tables, in order of their names.
    pub tables: Vec<VerifiedTable>,
    /// Rounds whose rows are not what their receipts say, the first [`mismatches_total`](Self::mismatches_total) of them.
    pub mismatches: Vec<Mismatch>,
    /// All of them.
    pub mismatches_total: u64,
    /// Files that are damaged or are not those the catalog means, the first of
    /// [`damaged_files_total`](Self::damaged_files_total).
    pub damaged_files: Vec<DamagedFile>,
    /// All of them.
    pub damaged_files_total: u64,
    /// What could be neither proved nor disproved, although nothing is damaged there.
    pub unproved: Vec<Unproved>,
    /// The chain over the rounds; `None` if one table alone was asked for.
    pub chain: Option<VerifiedChain>,
    /// What was not looked at because of the damage that was found, and why, for people.
    pub left_out: Vec<String>,
    /// Every damaged file, by table and path, with its place among those that are named: there are no more than files in the
    /// catalog, and a file that is not named is damaged all the same.
    damaged: HashMap<String, HashMap<String, Option<usize>>>,
}

impl VerifyReport {
    /// Whether nothing is damaged, as far as could be proved.
    pub fn is_sound(&self) -> bool {
        self.mismatches_total == 0 && self.damaged_files_total == 0
    }

    pub(super) fn mismatch(&mut self, mismatch: Mismatch) {
        self.mismatches_total += 1;
        if self.mismatches.len() < NAMED_MAX {
            self.mismatches.push(mismatch);
        }
    }

    pub(super) fn damaged(&mut self, file: DamagedFile) {
        // What was found of a file first is nearest to the cause.
        if self.is_damaged(&file.table, &file.path) {
            return;
        }
        // Rows inside the catalog are one place a table, and no file: they are named whatever else is.
        let is_named = self.damaged_files.len() < NAMED_MAX || !file.is_file();
        let place = is_named.then_some(self.damaged_files.len());
        self.damaged.entry(file.table.clone()).or_default().insert(file.path.clone(), place);
        self.damaged_files_total += 1;
        if is_named {
            self.damaged_files.push(file);
        }
    }

    /// Whether a file of `table` was found damaged.
    pub(super) fn is_damaged(&self, table: &str, path: &str) -> bool {
        self.damaged.get(table).is_some_and(|files| files.contains_key(path))
    }

    /// Notes a round that cannot be proved because a file is damaged: its finding is that of the file. False where the
    /// file is not damaged.
    pub(super) fn hide(&mut self, table: &str, path: &str, round: i64) -> bool {
        let Some(place) = self.damaged.get(table).and_then(|files| files.get(path)) else { return false };
        if let Some(file) = place.and_then(|place| self.damaged_files.get_mut(place)) {
            file.rounds += 1;
            file.first_round = Some(file.first_round.map_or(round, |first| first.min(round)));
            file.last_round = Some(file.last_round.map_or(round, |last| last.max(round)));
        }
        true
    }

    /// Takes in what was found of the chain or of one table.
    pub(super) fn absorb(&mut self, found: Self) {
        let Self {
            tables,
            mismatches,
            mismatches_total,
            damaged_files,
            damaged_files_total: _,
            unproved,
            chain,
            left_out,
            damaged,
        } = found;
        self.tables.extend(tables);
        self.chain = self.chain.take().or(chain);
        self.unproved.extend(unproved);
        self.left_out.extend(left_out);
        self.mismatches_total += mismatches_total - mismatches.len() as u64;
        mismatches.into_iter().for_each(|mismatch| self.mismatch(mismatch));
        damaged_files.into_iter().for_each(|file| self.damaged(file));
        for (table, files) in damaged {
            for path in files.into_keys().filter(|path| !self.is_damaged(&table, path)).collect::<Vec<_>>() {
                self.damaged.entry(table.clone()).or_default().insert(path, None);
                self.damaged_files_total += 1;
            }
        }
    }
}

/// The chain over the rounds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifiedChain {
    /// Rounds whose link and manifest are proved.
    pub rounds: u64,
    /// Rounds of an earlier version, before the chain begins.
    pub before: u64,
    /// Files of the lake's own tables that were read and are not damaged.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Heads kept outside that the chain leads through.
    pub heads: u64,
    /// What such a head says of the digests of the files.
    pub files_by_head: HeadFiles,
    /// Where the lake stands; `None` before its first link.
    pub head: Option<ChainHead>,
}

/// What a head that was kept outside says of the digests of the files that the lake has now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeadFiles {
    /// Nothing: no head was given that is in the chain.
    #[default]
    NoHead,
    /// They are those that it knows.
    Held,
    /// There are no files, now as then.
    NoFiles,
    /// They are not those that it knows: files were added or removed since it was taken, or changed. Which of these is not
    /// told.
    Changed,
    /// Files that it knows were changed, although none was merged or has expired since: that is a finding.
    Mismatch,
}

impl HeadFiles {
    /// Its stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoHead => "no_head",
            Self::Held => "held",
            Self::NoFiles => "no_files",
            Self::Changed => "changed",
            Self::Mismatch => "mismatch",
        }
    }
}

/// One table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifiedTable {
    /// Its name, which is its source's.
    pub table: String,
    /// Rounds whose rows are proved.
    pub rounds: u64,
    /// Their rows.
    pub rows: u64,
    /// Files that were read and are not damaged.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Rows that another program has added or changed: no receipt speaks for them.
    pub foreign_rows: u64,
    /// Receipts with the digest of what a server sent: it cannot be computed again, because payloads are not kept.
    pub payload_digests: u64,
}

/// A round whose rows in a table are not what its receipt or its manifest says, or whose link is not what it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// The round.
    pub round: i64,
    /// The table.
    pub table: String,
    /// Where the rows are or should be: files, or "inside the catalog".
    pub places: Vec<String>,
    /// The digest that a receipt, a manifest, the catalog or a head has; `None` where there is none to compare.
    pub expected_sha256: Option<String>,
    /// The digest of what is stored; `None` where none was computed.
    pub found_sha256: Option<String>,
    /// The receipt's rows; `None` where rows are not counted.
    pub expected_rows: Option<u64>,
    /// The rows that are stored; `None` where rows are not counted.
    pub found_rows: Option<u64>,
    /// What is wrong, for people.
    pub detail: String,
}

impl Mismatch {
    pub(super) fn of(round: i64, table: String) -> Self {
        Self { round, table, ..Self::default() }
    }
}

/// A file that cannot be read, or is not what the catalog says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedFile {
    /// The table.
    pub table: String,
    /// The file.
    pub path: String,
    /// The first row group whose bytes are not those that were written.
    pub row_group: Option<usize>,
    /// What is wrong, for people.
    pub detail: String,
    /// Rounds that cannot be proved because of it: rows of theirs, or of the rounds before them, that it holds cannot be read.
    pub rounds: u64,
    /// The first of them.
    pub first_round: Option<i64>,
    /// The last of them.
    pub last_round: Option<i64>,
}

impl DamagedFile {
    pub(super) fn new(table: &str, path: String, row_group: Option<usize>, detail: String) -> Self {
        Self { table: table.to_owned(), path, row_group, detail, rounds: 0, first_round: None, last_round: None }
    }

    /// Whether it is a file of its own, and not rows inside the catalog.
    pub fn is_file(&self) -> bool {
        self.path != INSIDE
    }
}

/// Rounds that could be neither proved nor disproved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unproved {
    /// The table.
    pub table: String,
    /// How many rounds.
    pub rounds: u64,
    /// The first of them.
    pub first_round: i64,
    /// The last of them.
    pub last_round: i64,
    /// Why, for people.
    pub reason: String,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn file(number: usize) -> DamagedFile {
        DamagedFile::new("orders", format!("/{number}.parquet"), None, "wrong".to_owned())
    }

    #[test]
    fn files_that_are_not_named_are_damaged_all_the_same() {
        let mut found = VerifyReport::default();
        (0..NAMED_MAX + 500).for_each(|number| found.damaged(file(number)));
        found.damaged(file(3));
        found.damaged(DamagedFile::new("orders", INSIDE.to_owned(), None, "wrong".to_owned()));
        assert!(found.hide("orders", "/7.parquet", 4) && found.hide("orders", "/1200.parquet", 5));
        assert!(!found.hide("orders", "/1500.parquet", 6) && !found.hide("items", "/7.parquet", 6));
        let mut report = VerifyReport::default();
        report.damaged(file(0));
        report.absorb(found);
        assert_eq!((report.damaged_files.len(), report.damaged_files_total), (NAMED_MAX + 1, NAMED_MAX as u64 + 501));
        assert!(report.is_damaged("orders", "/1200.parquet") && !report.is_damaged("items", "/1200.parquet"));
        let noted: Vec<_> = report.damaged_files.iter().filter(|file| file.rounds > 0).collect();
        assert!(noted.len() == 1 && noted[0].path == "/7.parquet", "{noted:?}");
        assert!(!report.damaged_files.last().unwrap().is_file() && !report.is_sound());
    }
}
