//! SQL over the lake and over live rows: the only crate that sees DataFusion.
//!
//! Promise: queries only read; a result streams and never has to fit into memory; what a query may hold is bounded by
//! [`EngineOptions::memory_limit_bytes`], beyond which it spills to a temporary folder or fails with a clear error;
//! values keep their exact types. Checks of rounds are queries, too. The dialect is described in `docs/query.md`.
//!
//! ```text
//! text ─► statement (tokens, one spelling a name, reads only) ─► DataFusion's planner ─► lake table scan ─► batches
//! ```

#![forbid(unsafe_code)]

mod adapt;
mod asof;
mod checks;
mod dialect;
mod engine;
mod error;
mod functions;
mod lake;
mod names;
mod prune;
mod statement;
mod types;
mod uuid;

pub use checks::{LakeChecker, problems};
pub use engine::{Engine, EngineOptions, QueryStream};
