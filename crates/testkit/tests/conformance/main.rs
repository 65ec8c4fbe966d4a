//! The tests of the tests: a sound source passes every check, and each check finds the source that is broken in the
//! way it is there to find.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;

use std::time::Duration;

use portolan_testkit::conformance::source::{CHECKS, run, run_one};

use fake::{Defect, FakeFixture};

/// Check → the defect it must find.
const TWINS: &[(&str, Defect)] = &[
    ("open_touches_no_network", Defect::OpenConnects),
    ("capabilities_do_not_exceed_the_connectors", Defect::ClaimsMore),
    ("rows_come_once_with_their_types", Defect::WrongType),
    ("an_empty_collection_is_read", Defect::FailsOnEmpty),
    ("read_prepares_by_itself", Defect::NeedsPrepare),
    ("resume_yields_exactly_the_new_rows", Defect::YieldsLastAgain),
    ("resume_depends_on_the_position_alone", Defect::RemembersByItself),
    ("a_growing_collection_is_read_once", Defect::SkipsOne),
    ("what_is_acknowledged_does_not_come_again", Defect::AcknowledgesWhileReading),
    ("a_read_ends_where_it_is_asked_to", Defect::NeverHasEnough),
    ("a_burst_comes_whole", Defect::StopsEarly),
    ("phases_come_in_order", Defect::MarksReleaseLate),
    ("bytes_are_counted", Defect::CountsNothing),
    ("a_slow_consumer_slows_the_server", Defect::ReadsAhead),
    ("a_slow_consumer_slows_the_senders", Defect::ReadsAhead),
    ("a_dropped_read_yields_the_same_rows_again", Defect::KeepsHalfReadConnection),
    ("a_cut_answer_is_an_error", Defect::TakesCutForEnd),
    ("a_dead_port_is_named_and_heals", Defect::NamesNoAddress),
    ("a_hanging_port_times_out_and_heals", Defect::NoTimeout),
    ("hostile_bytes_are_an_error", Defect::PanicsOnNoise),
    ("a_server_restart_is_survived", Defect::KeepsDeadConnection),
    ("a_server_killed_within_a_read_is_survived", Defect::TakesCutForEnd),
    ("a_network_cut_is_survived", Defect::KeepsDeadConnection),
    ("a_cut_connection_loses_nothing", Defect::SkipsOne),
    ("an_oversized_item_is_a_limit", Defect::OversizedIsData),
    ("an_oversized_item_goes_to_the_quarantine", Defect::OversizedIsData),
    ("acknowledge_can_be_repeated", Defect::AcknowledgesOnce),
    ("probe_says_something", Defect::EmptyProbe),
    ("a_closed_source_prepares_again", Defect::StaysClosed),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_source_passes() {
    run(&mut FakeFixture::start(Defect::None)).await;
}

/// A source whose place the server keeps, as a consumer group's.
#[tokio::test(flavor = "multi_thread")]
async fn a_sound_source_without_a_place_of_its_own_passes() {
    run(&mut FakeFixture::start_grouped(Defect::None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_check_finds_its_twin() {
    let checks: Vec<&str> = CHECKS.iter().map(|check| check.name).collect();
    let twins: Vec<&str> = TWINS.iter().map(|(name, _)| *name).collect();
    assert_eq!(checks, twins, "each check has a twin");
    let mut blind = Vec::new();
    for (check, (name, defect)) in CHECKS.iter().zip(TWINS) {
        let mut fixture = match defect {
            Defect::AcknowledgesWhileReading => FakeFixture::start_grouped(*defect),
            _ => FakeFixture::start(*defect),
        };
        let patience = Duration::from_secs(if *defect == Defect::NoTimeout { 3 } else { 30 });
        match run_one(check, &mut fixture, patience).await {
            Ok(()) => blind.push(format!("`{name}` does not find {defect:?}")),
            Err(error) => println!("{name}: {error:#}"),
        }
    }
    assert!(blind.is_empty(), "{blind:#?}");
}
