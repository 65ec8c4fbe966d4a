//! The FTP connector against real pure-ftpd and vsftpd servers, and against a scripted one for what they never say.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod checks;
mod conformance;
mod faults;
mod incremental;
mod parquet;
mod scripted;
mod support;
