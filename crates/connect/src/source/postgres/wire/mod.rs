//! The PostgreSQL frontend/backend protocol 3.0, as far as a reader needs it: messages, login, statements, COPY.
//!
//! Nothing here allocates per row: a message is handed out as a slice of the receive buffer. Why the protocol is spoken
//! here rather than through a driver: `docs/decisions/0011-postgres-wire.md`.

pub(crate) mod answer;
pub(crate) mod messages;
pub(crate) mod reader;
pub(crate) mod request;
pub(crate) mod scram;

pub use answer::Column;
