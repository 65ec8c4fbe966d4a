//! Pure logic on the contracts: what happens in a round, when the next one starts, and where each source stands.
//!
//! Nothing here opens a socket or a file: sources, catalog and clock come in as traits, so the same code runs against
//! real servers, in tests and in a simulation.
//!
//! - [`slot`]: one source with its state, position and counters
//! - [`output`]: where a source's rows go during a read, what is measured and digested on the way
//! - [`reading`]: one read of a group of sources, all at once
//! - `meeting`: where the reads that are to see one snapshot meet
//! - `release`: one release for the reads that begin together
//! - `collect`: the collects of one round, as many as its promise takes
//! - `checks`: what is asked of a round's rows before they are committed, and what follows; `record`: what is kept of it
//! - [`coordinator`]: rounds for good: schedule, commit, acknowledge, the probe beside the rounds of what is down
//! - [`schedule`]: when the next round starts

#![forbid(unsafe_code)]

mod checks;
mod collect;
pub mod coordinator;
mod meeting;
pub mod output;
pub mod reading;
mod record;
mod release;
pub mod schedule;
pub mod slot;
