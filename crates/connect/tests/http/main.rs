//! The `http` connector against a server on loopback.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod checks;
mod faults;
mod paging;
mod reading;
mod secure;
mod support;
