//! The `tcp` connector with senders and devices on loopback.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod conformance;
mod intake;
mod messages;
