//! A read of rows: batches are handed on as they fill, what cannot be stored goes to the quarantine, and the position
//! follows.
//!
//! Promise: a position advances to the highest cursor value handed on and never back; memory is bounded by one batch.

use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use portolan_model::source::{Output, Phase, QuarantineItem};
use portolan_model::{Error, ErrorKind, Position, Result};

use super::columns::row_identity;
use super::cursor::{Cursor, Kind};
use super::pending::Problem;

/// A batch is handed on once it has so many bytes, however few its rows.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// What a look at the rows received has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// One more row is in the batch under way, or what stands before and behind the rows was read.
    Row,
    /// More bytes are needed: [`Rows::fill`].
    Pending,
    End,
}

/// The rows of an answer, as they come and are decoded.
pub(crate) trait Rows {
    /// Decodes what has been received, one row at most.
    fn advance(&mut self) -> Result<Next>;

    /// Waits for more bytes.
    async fn fill(&mut self) -> Result<()>;

    /// Bytes received since the last call.
    fn take_received_bytes(&mut self) -> u64;

    /// Rows in the batch under way, and its bytes.
    fn size(&self) -> (usize, usize);

    /// The cursor value of the last row as position text, where there is a cursor.
    fn cursor_text(&self) -> Result<Option<String>>;

    /// The batch under way, and what could not be stored in it.
    fn finish(&mut self) -> Result<(RecordBatch, Vec<Problem>), ArrowError>;
}

/// What a read is to do with its rows.
pub(crate) struct Plan<'a, K> {
    /// What a position belongs to.
    pub(crate) of: String,
    pub(crate) cursor: Option<&'a Cursor<K>>,
    /// The position that the read continues from, and its cursor value.
    pub(crate) from: Option<&'a Position>,
    pub(crate) before: Option<&'a str>,
    /// Every row is beyond that value.
    pub(crate) is_beyond: bool,
    pub(crate) batch_rows: usize,
    /// The columns that identify a row for people.
    pub(crate) identity: &'a [usize],
}

/// How far a read has come.
pub(crate) struct Progress {
    pub(crate) position: Option<Position>,
    /// Rows that the server still sends were left.
    pub(crate) is_cut: bool,
}

impl<K: Kind> Plan<'_, K> {
    /// Whether a read that ends at `last` has come further than its position for sure: the next one then does too.
    fn has_advanced(&self, cursor: &Cursor<K>, last: &str) -> bool {
        match self.before {
            None => true,
            Some(before) => self.is_beyond || cursor.kind.is_later(last, before),
        }
    }

    /// Hands `rows` on, to their end or as far as is enough; `named` completes the errors that are the source's own.
    pub(crate) async fn read(
        &self,
        rows: &mut impl Rows,
        output: &mut dyn Output,
        named: impl Fn(Error) -> Error,
    ) -> Result<Progress> {
        let (mut rows_before, mut last) = (0, None);
        loop {
            match rows.advance().map_err(&named)? {
                Next::Row => {
                    let (count, bytes) = rows.size();
                    if count < self.batch_rows && bytes < BATCH_BYTES_MAX {
                        continue;
                    }
                }
                Next::Pending => {
                    rows.fill().await.map_err(&named)?;
                    output.mark(Phase::LastByte);
                    continue;
                }
                Next::End => break,
            }
            last = rows.cursor_text().map_err(&named)?;
            output.count_bytes(rows.take_received_bytes());
            rows_before += self.hand_on(rows, rows_before, output, &named).await?;
            if let (Some(cursor), Some(last)) = (self.cursor, &last)
                && output.is_enough()
                && self.has_advanced(cursor, last)
            {
                output.mark(Phase::LastByte);
                let position = Some(cursor.kind.position(&self.of, &cursor.name, last));
                return Ok(Progress { position, is_cut: true });
            }
        }
        output.mark(Phase::LastByte);
        output.count_bytes(rows.take_received_bytes());
        if rows.size().0 > 0 {
            last = rows.cursor_text().map_err(&named)?;
            self.hand_on(rows, rows_before, output, &named).await?;
        }
        let position = match (self.cursor, last) {
            (Some(cursor), Some(last)) => {
                // Re-read rows may end before the position where the newest row was deleted meanwhile.
                let last = match self.before {
                    Some(before) => cursor.kind.later(last, before),
                    None => last,
                };
                Some(cursor.kind.position(&self.of, &cursor.name, &last))
            }
            (Some(_), None) => self.from.cloned(),
            (None, _) => None,
        };
        Ok(Progress { position, is_cut: false })
    }

    /// Hands the rows collected so far on; returns their number.
    async fn hand_on(
        &self,
        rows: &mut impl Rows,
        rows_before: u64,
        output: &mut dyn Output,
        named: impl Fn(Error) -> Error,
    ) -> Result<u64> {
        let (batch, problems) = rows.finish().map_err(|error| {
            named(Error::new(ErrorKind::Internal, "build batch", "rows do not form a batch").with_cause(error))
        })?;
        for problem in problems {
            let item = QuarantineItem {
                reason: problem.reason,
                column: batch.schema().fields().get(problem.column).map(|field| field.name().clone()),
                row: row_identity(&batch, self.identity, problem.row, rows_before),
                content: problem.content,
                detail: problem.detail.to_owned(),
            };
            output.quarantine(item).await?;
        }
        let rows = batch.num_rows() as u64;
        output.batch(batch).await?;
        Ok(rows)
    }
}
