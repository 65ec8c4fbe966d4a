//! The Redis connector against real servers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod conformance;
mod faults;
mod groups;
mod keys;
mod login;
mod streams;
mod support;
