//! `portolan`: collects the data behind every port of a server, in sync, into one lake.
//!
//! The binary parses the command line, joins the concrete parts ([`wiring`]) and turns results into exit codes
//! ([`exit`]). What it does is in the crates below it.

#![forbid(unsafe_code)]

mod cli;
mod collector;
mod demo;
mod diagnostics;
mod exit;
mod output;
mod reload;
mod rows;
mod telemetry;
mod wiring;

/// A read of a small answer is mostly small allocations (docs/decisions/0004-allocator.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
