//! The options of a `mysql` source, and what is wrong with them before the network is touched.

use std::time::Duration;

use portolan_model::catalog::WriteMode;
use portolan_model::config::{Diagnostic, DurationText, SecretReference, SourceSpec};
use schemars::JsonSchema;
use serde::Deserialize;

use super::columns::TimeAs;
use super::statement::Relation;
use crate::relational::LateWindow;

/// The most rows of one record batch.
const BATCH_ROWS_MAX: u32 = 1 << 20;
/// A longer lock is no moment.
const SNAPSHOT_LOCK_WAIT_MAX: Duration = Duration::from_secs(60);

fn batch_rows() -> u32 {
    16_384
}

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
    #[serde(default = "batch_rows")]
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
}

/// Every problem of a source's options.
pub(super) fn problems(spec: &SourceSpec) -> Vec<Diagnostic> {
    let options: Options = match spec.options.parse() {
        Ok(options) => options,
        Err(problem) => return vec![problem],
    };
    let mut problems = Vec::new();
    let mut problem = |key: &str, message: String, help: &str| {
        problems.push(Diagnostic::new(message, spec.options.span_of(key)).with_help(help));
    };
    match (&options.table, &options.query) {
        (Some(_), Some(_)) => problem("query", "`table` and `query` exclude each other".into(), "keep one of them"),
        (None, None) => problem(
            "table",
            format!("source `{}` names neither `table` nor `query`", spec.name),
            "write table = \"NAME\" or query = \"SELECT …\"",
        ),
        _ => {}
    }
    let texts = [
        ("user", Some(&options.user)),
        ("database", Some(&options.database)),
        ("table", options.table.as_ref()),
        ("query", options.query.as_ref()),
        ("cursor", options.cursor.as_ref()),
    ];
    for (key, text) in texts {
        if text.is_some_and(|text| text.trim().is_empty()) {
            problem(key, format!("`{key}` is empty"), "write a name");
        } else if text.is_some_and(|text| text.contains('\0')) {
            problem(key, format!("`{key}` holds a NUL character"), "no name on the server does");
        }
    }
    if options.batch_rows == 0 || options.batch_rows > BATCH_ROWS_MAX {
        let message = format!("`batch_rows` is {}, not from 1 to {BATCH_ROWS_MAX}", options.batch_rows);
        problem("batch_rows", message, "the default is 16384");
    }
    if options.snapshot_lock_wait.0.is_zero() || options.snapshot_lock_wait.0 > SNAPSHOT_LOCK_WAIT_MAX {
        let message = "`snapshot_lock_wait` must be more than 0 and at most 1min".into();
        problem("snapshot_lock_wait", message, "the default is 1s; writers of the server may wait as long");
    }
    if options.max_rows == Some(0) {
        problem("max_rows", "`max_rows` is 0".into(), "leave it out to read everything");
    }
    if !spec.columns.is_empty() {
        let message = "`columns` does nothing here: a column has the type that the server says".into();
        problem("columns", message, "write a `query` with CAST(… AS …)");
    }
    if options.cursor.is_none() {
        if options.late_window.is_some() {
            problem("late_window", "`late_window` needs `cursor`".into(), "name the column that rises");
        }
        if options.max_rows.is_some() {
            problem("max_rows", "`max_rows` needs `cursor`".into(), "without a cursor a read cannot be continued");
        }
    } else if spec.mode == Some(WriteMode::Replace) {
        problem(
            "cursor",
            "with `mode = \"replace\"` the table would hold only what is new since the last round".into(),
            "use mode = \"append\", or leave `cursor` out",
        );
    }
    match options.late_window {
        Some(_) if spec.key.is_empty() => problem(
            "late_window",
            "`late_window` reads rows again and needs `key` to recognise them".into(),
            "write key = [\"id\"]; add the cursor column to it if every version of a row is to be kept",
        ),
        Some(LateWindow::Number(0)) => problem("late_window", "`late_window` is 0".into(), "leave it out"),
        Some(LateWindow::Time(time)) if time.0.is_zero() => {
            problem("late_window", "`late_window` is 0".into(), "leave it out");
        }
        _ => {}
    }
    problems
}
