//! What every [`Source`](portolan_model::source::Source) promises, as checks over a real server with a fault proxy in
//! front. A connector's test implements [`SourceFixture`] and calls [`run`]; which checks apply follows from the
//! connector's capabilities.
//!
//! ```text
//! #[tokio::test(flavor = "multi_thread")]
//! async fn keeps_the_contract() {
//!     run(&mut MyFixture::start().unwrap()).await;
//! }
//! ```

mod delivery;
mod failures;
mod harness;
mod manners;
mod recorder;
mod release;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use anyhow::Result;
use arrow::datatypes::DataType;
use portolan_model::config::{OptionTable, SourceSpec, TlsSpec};
use portolan_model::name::SourceName;
use portolan_model::source::{Capabilities, Connector};
use serde_json::Value;

use crate::proxy::FaultProxy;

pub use harness::{Harness, environment};
pub use recorder::{Recorder, to_json};

/// What the suite needs of a connector's world: a real server with one collection of items, numbered by a rising
/// integer.
pub trait SourceFixture: Send + Sync {
    /// The connector under test.
    fn connector(&self) -> &dyn Connector;

    /// What the sources of this fixture can do, where that is less than their connector: a protocol may have several
    /// kinds of sources, each with a fixture of its own.
    fn capabilities(&self) -> Capabilities {
        self.connector().capabilities()
    }

    /// The server's own port; the suite puts a fault proxy in front of it.
    fn server_port(&self) -> u16;

    /// The proxy to put in front of the server: a fixture whose server names further ports puts it in front of them, too.
    fn proxy(&self) -> Result<FaultProxy> {
        FaultProxy::start(self.server_port())
    }

    /// A source that reads the collection through `port` of 127.0.0.1; see [`spec`]. The suite sets the timeouts.
    fn spec(&self, port: u16, shape: Shape) -> SourceSpec;

    /// Writes the items of these numbers outside, each with `padding` more bytes in a column that `expected` leaves
    /// out. Must manage 100,000 at once.
    fn write(&mut self, ids: std::ops::Range<i64>, padding: usize) -> Result<()>;

    /// Empties the collection.
    fn clear(&mut self) -> Result<()>;

    /// Stops the server and starts it again on the same port, with its content.
    fn restart(&mut self) -> Result<()>;

    /// Kills the server within what it is doing; a sender dies within a message.
    fn kill(&mut self) -> Result<()>;

    /// Starts it again on the same port after [`kill`](Self::kill), with its content.
    fn start_again(&mut self) -> Result<()>;

    /// The item of this number as the source must yield it, as JSON; with its number as `id`.
    fn expected(&self, id: i64) -> Value;

    /// Columns and types that the source must yield.
    fn columns(&self) -> Vec<(&'static str, DataType)>;

    /// The largest item that the source of [`Shape::SmallItems`] accepts, in bytes; `None` if the protocol bounds it.
    fn item_bytes_max(&self) -> Option<usize>;

    /// The checks that say nothing about these sources, in the suite's order: [`run`] fails where it leaves out others, so
    /// that no check is left out unseen.
    fn not_applicable(&self) -> &'static [&'static str];
}

/// [`SourceFixture::not_applicable`] of sources that are asked and continue from a position.
pub const NOT_APPLICABLE_TO_CURSORS: &[&str] = &[
    "what_is_acknowledged_does_not_come_again",
    "a_slow_consumer_slows_the_senders",
    "a_cut_connection_loses_nothing",
    "an_oversized_item_goes_to_the_quarantine",
];

/// [`SourceFixture::not_applicable`] of sources that are asked and yield everything each time.
pub const NOT_APPLICABLE_TO_WHOLE_READS: &[&str] = &[
    "resume_yields_exactly_the_new_rows",
    "resume_depends_on_the_position_alone",
    "a_growing_collection_is_read_once",
    "what_is_acknowledged_does_not_come_again",
    "a_read_ends_where_it_is_asked_to",
    "a_slow_consumer_slows_the_senders",
    "a_cut_connection_loses_nothing",
    "an_oversized_item_goes_to_the_quarantine",
];

/// [`SourceFixture::not_applicable`] of sources that are asked and whose place the server keeps.
pub const NOT_APPLICABLE_TO_GROUPS: &[&str] = &[
    "resume_yields_exactly_the_new_rows",
    "resume_depends_on_the_position_alone",
    "a_slow_consumer_slows_the_senders",
    "a_cut_connection_loses_nothing",
    "an_oversized_item_goes_to_the_quarantine",
];

/// How the source of a check is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Reads the collection whole each time.
    Whole,
    /// Continues from a cursor, without a window for late rows.
    Incremental,
    /// Accepts items up to [`SourceFixture::item_bytes_max`].
    SmallItems,
    /// Stores as little as it can of what was sent and not read: at most [`STORED_BYTES_MAX`]. For sources that are sent to.
    SmallStore,
}

/// The most that a source of [`Shape::SmallStore`] stores, in bytes.
pub const STORED_BYTES_MAX: u64 = 128 << 20;

/// A source's specification with the defaults of a configuration and no TLS; `options` is the protocol's own keys as
/// TOML.
///
/// # Panics
/// `options` is not TOML, or `name` not a name: a mistake in the test.
pub fn spec(name: &str, protocol: &str, port: u16, options: &str) -> SourceSpec {
    SourceSpec {
        name: SourceName::new(name).unwrap_or_else(|problem| panic!("{problem}")),
        host: "127.0.0.1".into(),
        port,
        protocol: protocol.into(),
        tls: TlsSpec { allow_plaintext: Some("loopback".into()), ..TlsSpec::default() },
        required: true,
        mode: None,
        key: Vec::new(),
        key_memory: 100_000,
        event_time: None,
        columns: Default::default(),
        connect_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(30),
        options: OptionTable::from_text(options).unwrap_or_else(|problem| panic!("{problem}")),
        span: None,
    }
}

/// A check under way.
pub type CheckFuture<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// One check of the suite.
pub struct Check {
    /// Its stable name.
    pub name: &'static str,
    /// Whether it applies to sources of these capabilities, whose items may be bounded in size.
    pub applies: fn(Capabilities, bool) -> bool,
    /// Runs it; the error says what the source did and what it promised.
    pub run: for<'a, 'b> fn(&'a mut Harness<'b>) -> CheckFuture<'a>,
}

impl std::fmt::Debug for Check {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name)
    }
}

macro_rules! checks {
    ($($module:ident :: $name:ident if $applies:expr;)*) => {
        &[$(Check {
            name: stringify!($name),
            applies: $applies,
            run: |harness| Box::pin($module::$name(harness)),
        }),*]
    };
}

/// Every check, in the order in which they run.
pub const CHECKS: &[Check] = checks! {
    manners::open_touches_no_network if |_, _| true;
    manners::capabilities_do_not_exceed_the_connectors if |_, _| true;
    delivery::rows_come_once_with_their_types if |_, _| true;
    delivery::an_empty_collection_is_read if |_, _| true;
    delivery::read_prepares_by_itself if |_, _| true;
    delivery::resume_yields_exactly_the_new_rows if |c, _| c.resume;
    delivery::resume_depends_on_the_position_alone if |c, _| c.resume && c.reread;
    delivery::a_growing_collection_is_read_once if |c, _| c.resume || c.acknowledge;
    delivery::what_is_acknowledged_does_not_come_again if |c, _| c.acknowledge && !c.resume;
    delivery::a_read_ends_where_it_is_asked_to if |c, _| c.resume || c.acknowledge;
    delivery::a_burst_comes_whole if |_, _| true;
    delivery::phases_come_in_order if |_, _| true;
    delivery::bytes_are_counted if |_, _| true;
    delivery::a_slow_consumer_slows_the_server if |c, _| !c.push;
    delivery::a_slow_consumer_slows_the_senders if |c, _| c.push;
    release::a_held_read_sees_what_comes_before_its_release if |_, _| true;
    release::a_held_read_that_is_dropped_is_forgotten if |c, _| c.reread;
    failures::a_dropped_read_yields_the_same_rows_again if |c, _| c.reread;
    failures::a_cut_answer_is_an_error if |c, _| c.reread && !c.push;
    failures::a_dead_port_is_named_and_heals if |c, _| !c.listens;
    failures::a_hanging_port_times_out_and_heals if |c, _| !c.push;
    failures::hostile_bytes_are_an_error if |c, _| !c.push;
    failures::a_server_restart_is_survived if |c, _| c.reread;
    failures::a_server_killed_within_a_read_is_survived if |c, _| c.reread;
    failures::a_network_cut_is_survived if |c, _| c.reread && (c.listens || !c.push);
    failures::a_cut_connection_loses_nothing if |c, _| c.listens;
    failures::an_oversized_item_is_a_limit if |c, is_bounded| is_bounded && !c.push;
    failures::an_oversized_item_goes_to_the_quarantine if |c, is_bounded| is_bounded && c.push;
    manners::acknowledge_can_be_repeated if |_, _| true;
    manners::probe_says_something if |_, _| true;
    manners::a_closed_source_prepares_again if |_, _| true;
};

/// Runs every check that applies.
///
/// # Panics
/// Checks failed, and all of them are named; or others than [`SourceFixture::not_applicable`] says do not apply.
pub async fn run(fixture: &mut dyn SourceFixture) {
    let (capabilities, is_bounded) = (fixture.capabilities(), fixture.item_bytes_max().is_some());
    let (checks, left_out): (Vec<_>, Vec<_>) =
        CHECKS.iter().partition(|check| (check.applies)(capabilities, is_bounded));
    let left_out: Vec<_> = left_out.into_iter().map(|check| check.name).collect();
    assert_eq!(
        left_out.as_slice(),
        fixture.not_applicable(),
        "left out by the suite, and not applicable by the fixture"
    );
    let mut failed = Vec::new();
    for check in &checks {
        // Shown where the test fails or hangs.
        println!("{}", check.name);
        if let Err(error) = run_one(check, fixture, Duration::from_secs(60)).await {
            failed.push(format!("{}: {error:#}", check.name));
        }
    }
    assert!(failed.is_empty(), "{} of {} checks failed:\n  {}", failed.len(), checks.len(), failed.join("\n  "));
    println!("conformance: {} checks passed, not applicable: {left_out:?}", checks.len());
}

/// Runs one check on an empty collection. `patience` bounds every wait of the check: a source that hangs has failed.
pub async fn run_one(check: &Check, fixture: &mut dyn SourceFixture, patience: Duration) -> Result<()> {
    let mut harness = Harness::new(fixture, patience)?;
    (check.run)(&mut harness).await
}
