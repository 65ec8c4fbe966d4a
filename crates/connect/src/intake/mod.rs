//! The intake log: what has arrived and cannot be read again, kept on disk until the round that stores it is committed.
//!
//! A source that is sent to (TCP today) appends what arrives in *blocks*; a thread of its own writes and syncs them in
//! groups; a read of the source reads the blocks from its committed position to the synced end; the acknowledgement after
//! the commit removes the segments behind it.
//!
//! Promises:
//! - a block that [`Progress`] has reported as durable is read by every later read, once per position, whatever is
//!   killed meanwhile; a torn end of what was not durable is cut off;
//! - blocks come in the order in which they were appended;
//! - at most so many bytes lie on disk and in memory: beyond it appending waits, which the sender feels at its socket;
//! - damage on disk is told ([`Damage`]), with its place and length, and never read as data.
//!
//! `block` is the format, `segment` one file of it, `log` the folder with its recovery, `writer` the thread.

mod block;
mod log;
mod segment;
mod writer;

pub use block::{Block, Kind, Layout, decode_block};
pub use log::{Chunk, Damage, Log};
pub use writer::{Appender, Closed, Intake, Progress};

use serde::{Deserialize, Serialize};

/// A place in a log: the byte of a segment at which a block begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The segment's number; the first is 1.
    pub segment: u64,
    /// Bytes from its beginning.
    pub offset: u64,
}
