//! The `http` connector against a server on loopback.

mod faults;
mod paging;
mod reading;
mod secure;
mod support;
