//! What sources of tables and queries share, whatever engine is behind their port. What an engine says in its own
//! words, or does in its own way, stands with its connector.

mod columns;
mod cursor;
mod endings;
mod endpoint;
mod options;
mod pending;
mod query;
mod reading;
mod stream;
mod window;
mod wire;

use portolan_model::source::{Capabilities, ReleaseKind};

pub(crate) use columns::{Named, check_key, check_names, no_column};
pub(crate) use cursor::{Cursor, Kind, no_position, null_cursor};
pub(crate) use endings::{EndGuard, Endings};
pub(crate) use endpoint::Endpoint;
pub(crate) use options::{Choice, batch_rows};
pub(crate) use pending::PendingBatch;
pub use pending::Problem;
pub(crate) use query::{From, digest_of, trimmed};
pub(crate) use reading::{Next, Plan, Progress, Rows};
pub(crate) use stream::{BUFFER_BYTES, Buffered, Hints};
pub(crate) use window::{LateWindow, WindowUnit, moment_before, parse_moment};
pub use wire::Malformed;
pub(crate) use wire::Reader;

/// What a source of rows that a query brings can do.
pub(crate) const CAPABILITIES: Capabilities = Capabilities {
    resume: true,
    acknowledge: false,
    reread: true,
    payload: false,
    push: false,
    listens: false,
    tls: true,
    release: ReleaseKind::Held,
};
