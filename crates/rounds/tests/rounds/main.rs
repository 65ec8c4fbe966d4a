//! The coordinator against scripted sources and a catalog in memory.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod bounds;
mod checks;
mod consistency;
mod coordinator;
mod support;
mod watermark;
