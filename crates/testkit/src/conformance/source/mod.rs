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

    /// The item of this number as the source must yield it, as JSON; with its number as `id`.
    fn expected(&self, id: i64) -> Value;

    /// Columns and types that the source must yield.
    fn columns(&self) -> Vec<(&'static str, DataType)>;

    /// The largest item that the source of [`Shape::SmallItems`] accepts, in bytes; `None` if the protocol bounds it.
    fn item_bytes_max(&self) -> Option<usize>;
}

/// How the source of a check is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Reads the collection whole each time.
    Whole,
    /// Continues from a cursor, without a window for late rows.
    Incremental,
    /// Accepts items up to [`SourceFixture::item_bytes_max`].
    SmallItems,
}

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
    /// Whether it applies to a connector of these capabilities.
    pub applies: fn(Capabilities) -> bool,
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
    manners::open_touches_no_network if |_| true;
    manners::capabilities_do_not_exceed_the_connectors if |_| true;
    delivery::rows_come_once_with_their_types if |_| true;
    delivery::an_empty_collection_is_read if |_| true;
    delivery::read_prepares_by_itself if |_| true;
    delivery::resume_yields_exactly_the_new_rows if |c| c.resume;
    delivery::resume_depends_on_the_position_alone if |c| c.resume && c.reread;
    delivery::a_growing_collection_is_read_once if |c| c.resume;
    delivery::what_is_acknowledged_does_not_come_again if |c| c.acknowledge && !c.resume;
    delivery::a_read_ends_where_it_is_asked_to if |c| c.resume;
    delivery::a_burst_comes_whole if |_| true;
    delivery::phases_come_in_order if |_| true;
    delivery::bytes_are_counted if |_| true;
    delivery::a_slow_consumer_slows_the_server if |c| !c.push;
    failures::a_dropped_read_yields_the_same_rows_again if |c| c.reread;
    failures::a_cut_answer_is_an_error if |c| c.reread && !c.push;
    failures::a_dead_port_is_named_and_heals if |c| !c.listens;
    failures::a_hanging_port_times_out_and_heals if |c| !c.push;
    failures::hostile_bytes_are_an_error if |c| !c.push;
    failures::a_server_restart_is_survived if |c| c.reread;
    failures::a_network_cut_is_survived if |c| c.reread && (c.listens || !c.push);
    failures::a_cut_connection_loses_nothing if |c| c.listens;
    failures::an_oversized_item_is_a_limit if |c| !c.push;
    failures::an_oversized_item_goes_to_the_quarantine if |c| c.push;
    manners::acknowledge_can_be_repeated if |_| true;
    manners::probe_says_something if |_| true;
    manners::a_closed_source_prepares_again if |_| true;
};

/// Runs every check that applies.
///
/// # Panics
/// Checks failed; all of them are named.
pub async fn run(fixture: &mut dyn SourceFixture) {
    let capabilities = fixture.capabilities();
    let mut failed = Vec::new();
    let mut passed = 0;
    for check in CHECKS.iter().filter(|check| (check.applies)(capabilities)) {
        match run_one(check, fixture, Duration::from_secs(60)).await {
            Ok(()) => passed += 1,
            Err(error) => failed.push(format!("{}: {error:#}", check.name)),
        }
    }
    assert!(
        failed.is_empty(),
        "{} of {} checks failed:\n  {}",
        failed.len(),
        failed.len() + passed,
        failed.join("\n  ")
    );
    println!("conformance: {passed} checks passed");
}

/// Runs one check on an empty collection. `patience` bounds every wait of the check: a source that hangs has failed.
pub async fn run_one(check: &Check, fixture: &mut dyn SourceFixture, patience: Duration) -> Result<()> {
    let mut harness = Harness::new(fixture, patience)?;
    (check.run)(&mut harness).await
}
