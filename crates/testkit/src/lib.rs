//! Real servers, a fault proxy, ledgers and conformance suites for the tests.
//!
//! Nothing here pretends: servers are the ones that users run, started in a folder of their own on free loopback
//! ports; a server that is not installed is a failure that says how to install it, never a test that is skipped.
//!
//! - [`servers`]: MariaDB, PostgreSQL, nginx, Redis and FTP servers
//! - [`memory`]: a catalog without a disk, which keeps the contract
//! - [`api`]: an HTTP API whose content grows, with every habit of paging, caching and failing that APIs have
//! - [`proxy`]: a TCP proxy that fails on demand
//! - [`ledger`]: what was written outside, and its comparison with what the lake holds
//! - [`duckdb`]: the lake as an outside reader sees it
//! - [`conformance`]: one suite per contract, run unchanged over every implementation
//! - `crash` (feature `campaigns`): the released binary killed, starved and cut off, and its lake compared with a ledger
//! - [`tls`]: an authority of our own, with server and client certificates
//! - [`process`], [`folders`]: processes that end with the test, and where tools are kept

#![forbid(unsafe_code)]

pub mod api;
pub mod conformance;
#[cfg(feature = "campaigns")]
pub mod crash;
pub mod duckdb;
pub mod folders;
pub mod ledger;
pub mod memory;
pub mod process;
pub mod proxy;
pub mod senders;
pub mod servers;
pub mod tls;
