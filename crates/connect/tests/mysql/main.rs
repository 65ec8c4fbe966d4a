//! The MySQL connector against real MariaDB servers.

mod cursor;
mod faults;
mod login;
mod support;
mod types;
