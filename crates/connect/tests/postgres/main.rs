//! The PostgreSQL connector against real servers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../relational/mod.rs"]
mod relational;

mod changes;
mod engine;
mod login;
mod snapshot;
mod standby;
mod types;
