//! The Redis connector against real servers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../harness/mod.rs"]
mod harness;

mod conformance;
mod engine;
mod faults;
mod groups;
mod keys;
mod login;
mod streams;
mod support;
