//! Automation of this repository, in Rust so that it runs wherever the product builds: `cargo xtask COMMAND`.

#![forbid(unsafe_code)]

mod corruption;
mod crash;
mod double_collect;
mod fuzz;
mod release;
mod run;
mod simulation;
mod snapshots;
mod test;
mod tidy;
mod tools;

use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "cargo xtask COMMAND

  test [ARGUMENT…]   install what the tests need, then run every test; arguments go to the test runner
  setup              only install what the tests need
  tidy               check the rules of the house that no other tool checks
  release-test [ARGUMENT…]  build the released binary, then run the tests of the command line against it (--help)
  crash [ARGUMENT…]  kill, starve and cut off the binary and compare its lake with a ledger (--help for modes)
  corruption [--count N] [--seed N] [--lakes N]  corrupt lakes at random; `verify` must find and name each corruption
  simulation [--seeds N] [--first N] [--seed N]  run the rounds against models that fail, from seeds
  snapshots [--rounds N] [--server mariadb|postgres]  read a bank's accounts while money moves, and add them up
  double-collect [--rounds N] [--seed N]  proven rounds over ports of one state that never comes twice, and their figures
  fuzz [--minutes N] [TARGET…]  feed the readers of foreign bytes what nobody would send on purpose
";

fn main() -> ExitCode {
    match dispatch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", [].as_slice()),
    };
    match command {
        "test" => test::run_all(rest),
        "setup" => tools::install(),
        "tidy" => tidy::run(),
        "release-test" => release::run_all(rest),
        "crash" => crash::run_all(rest),
        "corruption" => corruption::run_all(rest),
        "simulation" => simulation::run_all(rest),
        "snapshots" => snapshots::run_all(rest),
        "double-collect" => double_collect::run_all(rest),
        "fuzz" => fuzz::run_all(rest),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        unknown => bail!("unknown command `{unknown}`\n\n{HELP}"),
    }
}
