//! What the footer of a file says of its row groups, where that is all that has to be known of their rows.
//!
//! Only for files whose bytes are proved: their footer then says what it said when it was written.

use std::fs::File;

use parquet::file::metadata::{ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::statistics::Statistics;

use crate::reader::{DataFile, ROW_ID_NAME, SNAPSHOT_ID_NAME};
use crate::types::Column;

/// A row group whose rows are all of one round, with ids that follow each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    pub(super) round: i64,
    /// `_time`, in microseconds since 1970.
    pub(super) time_us: i64,
    /// The snapshot that added its rows.
    pub(super) begin: i64,
    pub(super) first_id: i64,
    pub(super) last_id: i64,
    pub(super) rows: u64,
}

/// The row groups of a file, if each is of one round; `marks` are `_round` and `_time`.
pub(super) fn groups(file: &DataFile, marks: &[Column; 2]) -> Option<Vec<Group>> {
    let opened = File::open(&file.path).ok()?;
    // Whoever has changed the digests as well may have written anything.
    let read = std::panic::AssertUnwindSafe(|| ParquetMetaDataReader::new().parse_and_finish(&opened));
    let metadata = std::panic::catch_unwind(read).ok()?.ok()?;
    let mut next_id = file.row_id_start;
    let mut groups = Vec::with_capacity(metadata.num_row_groups());
    for group in metadata.row_groups() {
        let rows = group.num_rows();
        let by_id = |id: i64| {
            bounds(group, |name, field| name != ROW_ID_NAME && name != SNAPSHOT_ID_NAME && i64::from(field) == id)
        };
        let one = |bounds: (i64, i64)| (bounds.0 == bounds.1).then_some(bounds.0);
        let has = |wanted: &str| group.columns().iter().any(|column| column.column_descr().name() == wanted);
        let (first_id, last_id) = match has(ROW_ID_NAME) {
            true => bounds(group, |name, _| name == ROW_ID_NAME)?,
            false => (next_id, next_id.checked_add(rows)?.checked_sub(1)?),
        };
        let begin = match has(SNAPSHOT_ID_NAME) {
            true => one(bounds(group, |name, _| name == SNAPSHOT_ID_NAME)?)?,
            false => file.begin_snapshot,
        };
        if last_id.checked_sub(first_id)?.checked_add(1)? != rows {
            return None;
        }
        groups.push(Group {
            round: one(by_id(marks[0].id)?)?,
            time_us: one(by_id(marks[1].id)?)?,
            begin,
            first_id,
            last_id,
            rows: u64::try_from(rows).ok()?,
        });
        next_id = next_id.checked_add(rows)?;
    }
    Some(groups)
}

/// The least and the greatest value of a column of integers without nulls, which `is_wanted` knows by name and field id.
fn bounds(group: &RowGroupMetaData, is_wanted: impl Fn(&str, i32) -> bool) -> Option<(i64, i64)> {
    let column = group.columns().iter().find(|column| {
        let info = column.column_descr().self_type().get_basic_info();
        column.column_path().parts().len() == 1 && info.has_id() && is_wanted(info.name(), info.id())
    })?;
    match column.statistics()? {
        Statistics::Int64(known) if known.null_count_opt() == Some(0) => Some((*known.min_opt()?, *known.max_opt()?)),
        _ => None,
    }
}
