//! The `http` connector against a server on loopback.

mod reading;
mod support;
