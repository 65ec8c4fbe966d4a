//! The options that sources of tables and queries have in common, and what is wrong with them.

use portolan_model::catalog::WriteMode;
use portolan_model::config::SourceSpec;

use super::window::LateWindow;
use crate::options::Problems;

/// The most rows of one record batch.
const BATCH_ROWS_MAX: u32 = 1 << 20;

/// The rows of one record batch where nobody says otherwise.
pub(crate) fn batch_rows() -> u32 {
    16_384
}

/// What a source reads, and how much of it.
pub(crate) struct Choice<'a> {
    pub(crate) table: Option<&'a String>,
    pub(crate) query: Option<&'a String>,
    pub(crate) cursor: Option<&'a String>,
    pub(crate) late_window: Option<LateWindow>,
    pub(crate) batch_rows: u32,
    pub(crate) max_rows: Option<u64>,
}

impl Choice<'_> {
    /// What is read is named, with names that can be sent; `own` are those that only this engine has.
    pub(crate) fn check_names(&self, own: &[(&str, Option<&String>)], problems: &mut Problems<'_>) {
        let either = [("table", self.table.is_some()), ("query", self.query.is_some())];
        problems.check_either(either, "write table = \"NAME\" or query = \"SELECT …\"");
        let texts = [("table", self.table), ("query", self.query), ("cursor", self.cursor)];
        for (key, text) in own.iter().copied().chain(texts) {
            if text.is_some_and(|text| text.trim().is_empty()) {
                problems.add(key, format!("`{key}` is empty"), "write a name");
            } else if text.is_some_and(|text| text.contains('\0')) {
                problems.add(key, format!("`{key}` holds a NUL character"), "no name on the server does");
            }
        }
    }

    /// A batch has rows, and fits into memory.
    pub(crate) fn check_batch_rows(&self, problems: &mut Problems<'_>) {
        if self.batch_rows == 0 || self.batch_rows > BATCH_ROWS_MAX {
            let message = format!("`batch_rows` is {}, not from 1 to {BATCH_ROWS_MAX}", self.batch_rows);
            problems.add("batch_rows", message, "the default is 16384");
        }
    }

    /// What is said of a read is true of it: a bound or a window needs a cursor, and rows that come again a key.
    pub(crate) fn check_read(&self, spec: &SourceSpec, problems: &mut Problems<'_>) {
        if self.max_rows == Some(0) {
            problems.add("max_rows", "`max_rows` is 0", "leave it out to read everything");
        }
        if !spec.columns.is_empty() {
            let message = "`columns` does nothing here: a column has the type that the server says";
            problems.add("columns", message, "write a `query` with CAST(… AS …)");
        }
        if self.cursor.is_none() {
            if self.late_window.is_some() {
                problems.add("late_window", "`late_window` needs `cursor`", "name the column that rises");
            }
            if self.max_rows.is_some() {
                let help = "without a cursor a read cannot be continued";
                problems.add("max_rows", "`max_rows` needs `cursor`", help);
            }
        } else if spec.mode == Some(WriteMode::Replace) {
            problems.add(
                "cursor",
                "with `mode = \"replace\"` the table would hold only what is new since the last round",
                "use mode = \"append\", or leave `cursor` out",
            );
        }
        match self.late_window {
            Some(_) if spec.key.is_empty() => problems.add(
                "late_window",
                "`late_window` reads rows again and needs `key` to recognise them",
                "write key = [\"id\"]; add the cursor column to it if every version of a row is to be kept",
            ),
            Some(window) if window.is_zero() => problems.add("late_window", "`late_window` is 0", "leave it out"),
            _ => {}
        }
    }

    /// What is read whole each time replaces what was read before; time travel keeps the earlier rounds.
    pub(crate) fn default_mode(&self) -> WriteMode {
        if self.cursor.is_none() { WriteMode::Replace } else { WriteMode::Append }
    }
}
