//! The options of a `postgres` source, and what is wrong with them before the network is touched.

use portolan_model::config::{Diagnostic, SecretReference, SourceSpec};
use schemars::JsonSchema;
use serde::Deserialize;

use super::statement::Relation;
use crate::options::Problems;
use crate::relational::{self, Choice, LateWindow};

/// Where tables are if nobody says otherwise.
const SCHEMA: &str = "public";

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
    /// The schema of `table`; `public` where none is named.
    pub schema: Option<String>,
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
}

impl Options {
    /// What is read.
    pub(super) fn relation(&self) -> Option<Relation> {
        match (&self.table, &self.query) {
            (Some(table), None) => {
                let schema = self.schema.clone().unwrap_or_else(|| SCHEMA.to_owned());
                Some(Relation::Table { schema, table: table.clone() })
            }
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
    let own =
        [("user", Some(&options.user)), ("database", Some(&options.database)), ("schema", options.schema.as_ref())];
    choice.check_names(&own, &mut problems);
    if options.query.is_some() && options.schema.is_some() {
        let message = "`schema` does nothing beside `query`";
        problems.add("schema", message, "name the schema in the query: SELECT … FROM schema.table");
    }
    choice.check_batch_rows(&mut problems);
    choice.check_read(spec, &mut problems);
    problems.into_found()
}
