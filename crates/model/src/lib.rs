//! The contracts and plain types that every other crate of Portolan stands on.
//!
//! This crate performs no I/O: it names things, states what each party promises, and carries values between them.
//! Everything that touches a network, a disk or a clock implements a trait from here.
//!
//! - [`config`]: `portolan.toml` as values, and the diagnostics for a file that is wrong
//! - [`source`]: what a connector promises ([`source::Connector`], [`source::Source`], [`source::Output`])
//! - [`catalog`]: what the lake promises ([`catalog::Catalog`], [`catalog::Staging`])
//! - [`round`]: one read of a group of sources, its receipts and verdicts
//! - [`check`]: what is asked of a round's rows before they are committed
//! - [`position`]: where a source continues
//! - [`error`]: the one error that crosses crate borders
//! - [`clock`]: time, injected
//! - [`name`], [`port`]: validated names; port classes of RFC 6335
//! - [`state`]: the state machine of one source

#![forbid(unsafe_code)]

pub mod catalog;
pub mod check;
pub mod clock;
pub mod config;
pub mod error;
pub mod name;
pub mod port;
pub mod position;
pub mod round;
pub mod source;
pub mod state;

pub use error::{Error, ErrorKind, Result, Retry};
pub use name::{RoundName, SourceName};
pub use position::Position;
pub use round::RoundId;
