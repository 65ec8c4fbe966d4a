//! The MySQL connector against real MariaDB servers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../relational/mod.rs"]
mod relational;

mod engine;
mod login;
mod snapshot;
mod types;
