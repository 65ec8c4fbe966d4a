//! The connectors: one module per protocol under [`source`], the [`registry`] with one row each, the [`transport`]
//! they share (name resolution, TCP, TLS, secrets) and the [formats](mod@format) that turn bytes into Arrow record batches.
//!
//! Promise: nothing here panics on what a server sends, every buffer and wait is bounded, no secret reaches an error
//! or a log.

#![deny(unsafe_code)]

pub mod format;
pub mod intake;
mod options;
pub mod registry;
mod relational;
pub mod source;
pub mod transport;

pub use registry::Registry;
