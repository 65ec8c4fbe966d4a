//! What holds of every source of tables and queries, whatever engine is behind its port. What the engines say in other
//! words, or hold to differently, is a [`Dialect`] of theirs; what only one of them has is tested with it.

mod changes;
mod conformance;
mod cursor;
mod faults;
mod login;
mod options;
mod parts;
pub(crate) mod snapshot;
pub(crate) mod types;

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use portolan_model::ErrorKind;
use portolan_testkit::servers::COLLECTOR_PASSWORD;

use crate::engine::Server;
use crate::harness::{PLAIN, Recorder};

/// How an engine says what these tests need said, and where it differs in what may be expected of it.
pub(crate) trait Dialect {
    /// What statements begin with that write times and odd values as they stand.
    const MODE: &'static str = "";
    const BOOLEAN: &'static str;
    /// A type of whole numbers of 20 digits.
    const TWENTY_DIGITS: &'static str;
    const DATE_TIME: &'static str;
    /// An instant, to the microsecond.
    const INSTANT: &'static str;
    const JSON: &'static str;
    /// Text of any length.
    const LONG_TEXT: &'static str;
    /// The earliest value of [`Self::DATE_TIME`], before which no window reaches.
    const EARLIEST: &'static str;
    /// A function that waits for so many seconds.
    const SLEEP: &'static str;
    /// What puts a column that is added before all others, where the engine can.
    const FIRST: &'static str = "";

    /// The numbers from `first` to `last` as what follows FROM: its column is `seq`.
    fn series(first: i64, last: i64) -> String;

    /// A name between its quotes.
    fn quoted(name: &str) -> String;

    /// The words that give column `id` the type `sql_type`, behind ALTER TABLE and the table's name.
    fn retyped_id(sql_type: &str) -> String;

    /// The statement that lists the sessions of the account `collector` whose statements hold `marker`, by their
    /// numbers.
    fn running(marker: &str) -> String;

    /// The statement that ends a session by its number.
    fn ending(session: &str) -> String;

    /// A server with a limit.
    fn limited(limit: Limit) -> Server;

    /// A name by which a cursor may call its column `id`.
    const CURSOR_OF_ID: &'static str;
    /// Types whose values order rows, with three values in their order.
    const CURSORS: &'static [(&'static str, [&'static str; 3])];
    /// An option with which all those can be read.
    const CURSORS_OPTION: &'static str = "";
    /// A late window before a unique cursor is read with the value at its very beginning.
    const READS_START_OF_WINDOW: bool;
    /// Windows that reach to the ends of a type: the type, two values of it, the window, and how many rows it holds.
    const WIDE_WINDOWS: &'static [(&'static str, &'static str, &'static str, usize)];
    /// A kept connection learns of a column's new type with the rows alone, and says so once.
    const LEARNS_TYPES_LATE: bool;
    /// A mistake in an option that no other engine has, and words of what is said.
    const OWN_MISTAKE: (&'static str, &'static str);
    /// How many options a source has.
    const OPTIONS: usize;
    /// How a server names itself, and TLS from 1.2 on.
    const SERVER_NAME: &'static str;
    const TLS_VERSIONS: [&'static str; 2];
    /// The options of the account `certified`, and what is said of it where it shows no certificate.
    const CERTIFIED: (&'static str, ErrorKind, &'static str);

    /// What cannot be read exactly from a table `table`.
    fn inexact(table: &str) -> Inexact;

    /// What an account called `name` meets that may read the table `NAME_open` of the shared server and not the table
    /// `NAME`.
    fn refusals(name: &str) -> Refusals;
}

/// A limit of a server's own.
pub(crate) enum Limit {
    /// It speaks no newer TLS.
    Tls12,
    NoTls,
    /// So many sessions of the account `collector`.
    Sessions(usize),
}

/// A table, with cursors and queries of it that cannot be read exactly.
pub(crate) struct Inexact {
    /// Makes the table with two rows: a unique `id`, a unique `n` with a NULL, a unique `d`, and `p`, which is not
    /// unique.
    pub(crate) setup: String,
    /// Options beside the table, what kind of error they are, and words of what is said.
    pub(crate) options: Vec<(&'static str, ErrorKind, &'static str)>,
    pub(crate) queries: Vec<(String, ErrorKind)>,
}

/// Logins, and what is said to them.
pub(crate) struct Refusals {
    pub(crate) setup: String,
    /// Options, what kind of error they are, and words of the hint.
    pub(crate) options: Vec<(String, ErrorKind, &'static str)>,
}

/// What a source is configured with where a test says nothing else: the account `collector`, and no TLS.
pub(crate) fn collector() -> Vec<(&'static str, String)> {
    vec![
        ("tls", PLAIN.to_owned()),
        ("user", "user = \"collector\"".into()),
        ("password", format!("password = {{ literal = \"{COLLECTOR_PASSWORD}\" }}")),
        ("database", format!("database = \"{}\"", Server::DATABASE)),
    ]
}

/// What the account `name` logs in with that [`Dialect::refusals`] makes.
pub(crate) fn account(name: &str) -> String {
    format!("user = \"{name}\"\npassword = {{ literal = \"x\" }}")
}

/// A query that is answered at once.
pub(crate) const ONE: &str = "query = \"select 1 as one\"";

impl Recorder {
    /// The values of a column of 64-bit integers.
    pub(crate) fn integers(&self, column: &str) -> Vec<i64> {
        let arrays = self.batches.iter().map(|batch| batch.column_by_name(column).unwrap());
        arrays.flat_map(|array| array.as_primitive::<Int64Type>().values().to_vec()).collect()
    }

    /// The values of a column of text.
    pub(crate) fn texts(&self, column: &str) -> Vec<Option<String>> {
        let arrays = self.batches.iter().map(|batch| batch.column_by_name(column).unwrap());
        arrays
            .flat_map(|array| {
                let array = array.as_string::<i32>();
                (0..array.len()).map(|row| array.is_valid(row).then(|| array.value(row).to_owned())).collect::<Vec<_>>()
            })
            .collect()
    }
}
