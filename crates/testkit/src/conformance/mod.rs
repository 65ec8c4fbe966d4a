//! One suite per contract, run unchanged over every implementation. Each check has a twin in this crate's tests: an
//! implementation broken on purpose, for which that check must fail.

pub mod catalog;
pub mod source;
