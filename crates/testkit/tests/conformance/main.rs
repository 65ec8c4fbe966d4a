//! The tests of the tests: a sound source passes every check, and each check finds the source that is broken in the
//! way it is there to find.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;
mod memory;
mod push;

use std::time::Duration;

use portolan_testkit::conformance::source::{CHECKS, SourceFixture, run, run_one};

use fake::{Defect, FakeFixture};
use push::{PushDefect, PushFixture};

/// A source that is broken in one way.
#[derive(Clone, Copy, Debug)]
enum Twin {
    /// It is asked.
    Asked(Defect),
    /// It is sent to.
    Sent(PushDefect),
}

/// Check → the defect it must find, in a source to which it applies.
const TWINS: &[(&str, Twin)] = &[
    ("open_touches_no_network", Twin::Asked(Defect::OpenConnects)),
    ("capabilities_do_not_exceed_the_connectors", Twin::Asked(Defect::ClaimsMore)),
    ("rows_come_once_with_their_types", Twin::Asked(Defect::WrongType)),
    ("an_empty_collection_is_read", Twin::Asked(Defect::FailsOnEmpty)),
    ("read_prepares_by_itself", Twin::Asked(Defect::NeedsPrepare)),
    ("resume_yields_exactly_the_new_rows", Twin::Asked(Defect::YieldsLastAgain)),
    ("resume_depends_on_the_position_alone", Twin::Asked(Defect::RemembersByItself)),
    ("a_growing_collection_is_read_once", Twin::Asked(Defect::SkipsOne)),
    ("what_is_acknowledged_does_not_come_again", Twin::Asked(Defect::AcknowledgesWhileReading)),
    ("a_read_ends_where_it_is_asked_to", Twin::Asked(Defect::NeverHasEnough)),
    ("a_burst_comes_whole", Twin::Asked(Defect::StopsEarly)),
    ("phases_come_in_order", Twin::Asked(Defect::MarksReleaseLate)),
    ("bytes_are_counted", Twin::Asked(Defect::CountsNothing)),
    ("a_slow_consumer_slows_the_server", Twin::Asked(Defect::ReadsAhead)),
    ("a_slow_consumer_slows_the_senders", Twin::Sent(PushDefect::StoresWithoutLimit)),
    ("a_held_read_sees_what_comes_before_its_release", Twin::Asked(Defect::ActsBeforeRelease)),
    ("a_held_read_that_is_dropped_is_forgotten", Twin::Asked(Defect::KeepsHalfReadConnection)),
    ("a_dropped_read_yields_the_same_rows_again", Twin::Asked(Defect::KeepsHalfReadConnection)),
    ("a_cut_answer_is_an_error", Twin::Asked(Defect::TakesCutForEnd)),
    ("a_dead_port_is_named_and_heals", Twin::Asked(Defect::NamesNoAddress)),
    ("a_hanging_port_times_out_and_heals", Twin::Asked(Defect::NoTimeout)),
    ("hostile_bytes_are_an_error", Twin::Asked(Defect::PanicsOnNoise)),
    ("a_server_restart_is_survived", Twin::Asked(Defect::KeepsDeadConnection)),
    ("a_server_killed_within_a_read_is_survived", Twin::Asked(Defect::TakesCutForEnd)),
    ("a_network_cut_is_survived", Twin::Asked(Defect::KeepsDeadConnection)),
    ("a_cut_connection_loses_nothing", Twin::Sent(PushDefect::TakesCutForWhole)),
    ("an_oversized_item_is_a_limit", Twin::Asked(Defect::OversizedIsData)),
    ("an_oversized_item_goes_to_the_quarantine", Twin::Sent(PushDefect::DropsOversized)),
    ("acknowledge_can_be_repeated", Twin::Asked(Defect::AcknowledgesOnce)),
    ("probe_says_something", Twin::Asked(Defect::EmptyProbe)),
    ("a_closed_source_prepares_again", Twin::Asked(Defect::StaysClosed)),
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
    for (check, (name, twin)) in CHECKS.iter().zip(TWINS) {
        let mut fixture: Box<dyn SourceFixture> = match *twin {
            Twin::Asked(defect @ Defect::AcknowledgesWhileReading) => Box::new(FakeFixture::start_grouped(defect)),
            Twin::Asked(defect) => Box::new(FakeFixture::start(defect)),
            Twin::Sent(defect) => Box::new(PushFixture::start(defect)),
        };
        let applies = (check.applies)(fixture.capabilities(), fixture.item_bytes_max().is_some());
        assert!(applies, "`{name}` does not apply to {twin:?}: what it says of it is nothing");
        let is_waiting = matches!(twin, Twin::Asked(Defect::NoTimeout));
        let patience = Duration::from_secs(if is_waiting { 3 } else { 30 });
        match run_one(check, &mut *fixture, patience).await {
            Ok(()) => blind.push(format!("`{name}` does not find {twin:?}")),
            Err(error) => println!("{name}: {error:#}"),
        }
    }
    assert!(blind.is_empty(), "{blind:#?}");
}

/// A source that is sent to.
#[tokio::test(flavor = "multi_thread")]
async fn a_sound_source_that_is_sent_to_passes() {
    run(&mut PushFixture::start(PushDefect::None)).await;
}
