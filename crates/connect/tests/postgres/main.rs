//! The PostgreSQL connector against real servers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod changes;
mod conformance;
mod cursor;
mod faults;
mod login;
mod snapshot;
mod support;
mod types;
