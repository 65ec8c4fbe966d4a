//! The crash campaigns in short: the real binary killed, its servers killed, its disk filled, its I/O cut off at
//! recorded points, and its lake compared with what was written outside. `cargo xtask crash` runs them in full.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use std::time::Duration;

use portolan_testkit::crash::{Options, Report, disk, kill, replay};

/// The same moments in every run, as far as the machine allows.
fn options() -> Options {
    Options { binary: support::binary(), seed: 20_261_122 }
}

fn expect(report: anyhow::Result<Report>) {
    match report {
        Ok(report) => println!("{report}"),
        Err(error) => panic!("{error:#}"),
    }
}

#[test]
fn kills_of_the_collector_lose_nothing() {
    expect(kill::collector(&options(), kill::Extent { blows: 15, longest: None }));
}

#[test]
fn kills_of_the_servers_lose_nothing() {
    expect(kill::servers(&options(), kill::Extent { blows: 10, longest: None }));
}

#[test]
fn kills_of_all_in_random_mixture_lose_nothing() {
    expect(kill::mixture(&options(), kill::Extent { blows: 25, longest: None }));
}

#[test]
fn a_full_disk_loses_nothing() {
    expect(disk::full(&options(), 1));
}

#[test]
fn recorded_io_opens_to_whole_rounds_wherever_it_is_cut_off() {
    let record_for = Duration::from_secs(8);
    expect(replay::every(&options(), replay::Extent { record_for, cuts_max: Some(150), continued: 3 }));
}

#[cfg(feature = "failpoints")]
#[test]
fn death_at_the_points_of_a_commit_loses_nothing() {
    let options = Options { binary: support::built_binary(), ..options() };
    expect(portolan_testkit::crash::failpoints::every(&options, Some("commit::")));
}
