//! The MySQL connector against real MariaDB servers.

mod conformance;
mod cursor;
mod faults;
mod login;
mod support;
mod types;
