//! The MySQL client/server protocol, as far as a reader needs it: framing, handshake, logins, statements.
//!
//! Nothing here allocates per row: a packet is handed out as a slice of the receive buffer. Why the protocol is
//! spoken here rather than through a driver: `docs/decisions/0003-mysql-wire.md`.

pub(crate) mod login;
pub(crate) mod message;
pub(crate) mod packets;
pub(crate) mod reader;

pub use message::{Column, column_type};
