//! What a decoder knows of the batch under way, beside the builders of its columns.

use arrow::error::ArrowError;

/// A value that has no place in its column's type; NULL stands in the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The row within the batch.
    pub row: usize,
    /// The column.
    pub column: usize,
    /// Stable short reason.
    pub reason: &'static str,
    /// The value as the server would write it.
    pub content: String,
    /// What is wrong, for people.
    pub detail: &'static str,
}

/// Counts the rows of a batch, keeps what could not be stored in it, and the raw value of the cursor in its last row.
#[derive(Debug)]
pub(crate) struct PendingBatch {
    rows: usize,
    bytes: usize,
    problems: Vec<Problem>,
    cursor: Option<usize>,
    cursor_value: Vec<u8>,
    cursor_saw_null: bool,
    /// A row was only partly added.
    is_broken: bool,
}

impl PendingBatch {
    /// The raw value of column `cursor` is kept for each last row.
    pub(crate) fn new(cursor: Option<usize>) -> Self {
        Self {
            rows: 0,
            bytes: 0,
            problems: Vec::new(),
            cursor,
            cursor_value: Vec::new(),
            cursor_saw_null: false,
            is_broken: false,
        }
    }

    /// Rows since the last batch.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes received and of quarantined text since the last batch.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The cursor's raw value in the last row; `None` if it was NULL in any row.
    pub(crate) fn cursor_value(&self) -> Option<&[u8]> {
        (!self.cursor_saw_null).then_some(&self.cursor_value)
    }

    /// A row is added, value by value: until [`Self::end_row`] there is no batch.
    #[inline]
    pub(crate) fn begin_row(&mut self) {
        self.is_broken = true;
    }

    /// A value of the row has no place in `column`.
    pub(crate) fn add_problem(&mut self, column: usize, reason: &'static str, content: String, detail: &'static str) {
        self.bytes += content.len();
        self.problems.push(Problem { row: self.rows, column, reason, content, detail });
    }

    /// Whether the values of `column` are to be noted.
    #[inline]
    pub(crate) fn is_cursor(&self, column: usize) -> bool {
        self.cursor == Some(column)
    }

    /// The row's cursor is `raw`; `None` for NULL.
    #[inline]
    pub(crate) fn note_cursor(&mut self, raw: Option<&[u8]>) {
        self.cursor_saw_null |= raw.is_none();
        self.cursor_value.clear();
        self.cursor_value.extend_from_slice(raw.unwrap_or_default());
    }

    /// The row, which came as so many bytes, is whole.
    #[inline]
    pub(crate) fn end_row(&mut self, bytes: usize) {
        self.is_broken = false;
        self.rows += 1;
        self.bytes += bytes;
    }

    /// Its rows are all whole.
    pub(crate) fn check(&self) -> Result<(), ArrowError> {
        match self.is_broken {
            true => Err(ArrowError::InvalidArgumentError("a row was only partly added".into())),
            false => Ok(()),
        }
    }

    /// The batch is made, and the next one begins; what could not be stored in this one.
    pub(crate) fn end_batch(&mut self) -> Vec<Problem> {
        (self.rows, self.bytes) = (0, 0);
        std::mem::take(&mut self.problems)
    }
}
