//! The options of a `mysql` source, and what is wrong with them before the network is touched.

use std::time::Duration;

use portolan_model::config::{Diagnostic, DurationText, SecretReference, SourceSpec};
use schemars::JsonSchema;
use serde::Deserialize;

use super::columns::TimeAs;
use super::statement::Relation;
use crate::options::Problems;
use crate::relational::{self, Choice, LateWindow};

/// A longer lock is no moment.
const SNAPSHOT_LOCK_WAIT_MAX: Duration = Duration::from_secs(60);

fn snapshot_lock_wait() -> DurationText {
    DurationText(Duration::from_secs(1))
}

/// The options that only this protocol has.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The account to log in with.
    pub user: String,
    /// The account's password; none where the account has none or logs in by its client certificate.
    pub password: Option<SecretReference>,
    /// The database to read from.
    pub database: String,
    /// The table or view to read, by its plain name. Either this or `query`.
    pub table: Option<String>,
    /// The SELECT to read. Either this or `table`.
    pub query: Option<String>,
    /// The column by which new rows are recognised. Without it everything is read each time.
    pub cursor: Option<String>,
    /// How far behind the last cursor value each read starts again, for rows that are committed late: a number for a
    /// numeric cursor, a duration for a temporal one. Needs `key`.
    pub late_window: Option<LateWindow>,
    /// The most rows of one record batch.
    #[serde(default = "relational::batch_rows")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub batch_rows: u32,
    /// About how many new rows one round reads at most; the next round follows at once. Needs `cursor`.
    #[schemars(range(min = 1))]
    pub max_rows: Option<u64>,
    /// How the server's TIME is stored.
    #[serde(default)]
    pub time_as: TimeAs,
    /// Whether rounds with snapshots hold commits back for a moment, even where the server's log would do without.
    #[serde(default)]
    pub snapshot_lock: bool,
    /// The longest that the lock of a snapshot is waited for, and the longest that it is held.
    #[serde(default = "snapshot_lock_wait")]
    pub snapshot_lock_wait: DurationText,
}

impl Options {
    /// What is read.
    pub(super) fn relation(&self) -> Option<Relation> {
        match (&self.table, &self.query) {
            (Some(table), None) => Some(Relation::Table(table.clone())),
            (None, Some(query)) => Some(Relation::Query(query.clone())),
            _ => None,
        }
    }

    /// What is read, and how much of it.
    pub(super) fn choice(&self) -> Choice<'_> {
        Choice {
            table: self.table.as_ref(),
            query: self.query.as_ref(),
            cursor: self.cursor.as_ref(),
            late_window: self.late_window,
            batch_rows: self.batch_rows,
            max_rows: self.max_rows,
        }
    }
}

/// Every problem of a source's options.
pub(super) fn problems(spec: &SourceSpec) -> Vec<Diagnostic> {
    let options: Options = match spec.options.parse() {
        Ok(options) => options,
        Err(problem) => return vec![problem],
    };
    let (choice, mut problems) = (options.choice(), Problems::of(spec));
    choice.check_names(&[("user", Some(&options.user)), ("database", Some(&options.database))], &mut problems);
    choice.check_batch_rows(&mut problems);
    if options.snapshot_lock_wait.0.is_zero() || options.snapshot_lock_wait.0 > SNAPSHOT_LOCK_WAIT_MAX {
        let message = "`snapshot_lock_wait` must be more than 0 and at most 1min";
        problems.add("snapshot_lock_wait", message, "the default is 1s; writers of the server may wait as long");
    }
    choice.check_read(spec, &mut problems);
    problems.into_found()
}
