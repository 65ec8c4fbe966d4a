//! The contract of sources, held against the connector: plain and over TLS 1.3.

use std::ops::Range;

use anyhow::Result;
use arrow::datatypes::DataType;
use portolan_model::config::{SourceSpec, TlsSpec};
use portolan_model::source::{Capabilities, Connector};
use portolan_testkit::conformance::source::{Shape, SourceFixture, run, spec};
use portolan_testkit::servers::COLLECTOR_PASSWORD;
use serde_json::{Value, json};

use super::Dialect;
use crate::engine::{Engine, Server};
use crate::harness::Protocol;

struct Fixture {
    server: Server,
    is_encrypted: bool,
    /// The table is read whole each time.
    is_whole: bool,
}

impl Fixture {
    fn start(is_encrypted: bool, is_whole: bool) -> Result<Self> {
        let server = Server::start()?;
        server.sql(&format!(
            "CREATE TABLE items (id bigint PRIMARY KEY, name varchar(40) NOT NULL, price double precision NOT NULL, \
             {} {} NOT NULL, padding {})",
            Engine::quoted("on"),
            Engine::BOOLEAN,
            Engine::LONG_TEXT
        ))?;
        Ok(Self { server, is_encrypted, is_whole })
    }
}

impl SourceFixture for Fixture {
    fn connector(&self) -> &dyn Connector {
        Engine::CONNECTOR
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { resume: !self.is_whole, ..Engine::CONNECTOR.capabilities() }
    }

    fn server_port(&self) -> u16 {
        self.server.port()
    }

    fn spec(&self, port: u16, shape: Shape) -> SourceSpec {
        let mut options = format!(
            "user = \"collector\"\npassword = {{ literal = \"{COLLECTOR_PASSWORD}\" }}\ndatabase = \"{}\"\n\
             table = \"items\"\n",
            Server::DATABASE
        );
        if shape == Shape::Incremental {
            options.push_str("cursor = \"id\"\n");
        }
        let mut spec = spec("items", Engine::CONNECTOR.protocol(), port, &options);
        if self.is_encrypted {
            spec.tls = TlsSpec { ca: Some(self.server.tls().authority.clone()), ..TlsSpec::default() };
        }
        spec
    }

    fn write(&mut self, ids: Range<i64>, padding: usize) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        self.server.sql(&format!(
            "INSERT INTO items SELECT seq, concat('item ', seq), seq + 0.25, seq % 2 = 0, \
             nullif(repeat('x', {padding}), '') FROM {}",
            Engine::series(ids.start, ids.end - 1)
        ))?;
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        self.server.sql("TRUNCATE TABLE items").map(drop)
    }

    fn restart(&mut self) -> Result<()> {
        self.server.restart()
    }

    fn kill(&mut self) -> Result<()> {
        self.server.kill()
    }

    fn start_again(&mut self) -> Result<()> {
        self.server.start_again()
    }

    fn expected(&self, id: i64) -> Value {
        json!({ "id": id, "name": format!("item {id}"), "price": id as f64 + 0.25, "on": id % 2 == 0 })
    }

    fn columns(&self) -> Vec<(&'static str, DataType)> {
        vec![("id", DataType::Int64), ("name", DataType::Utf8), ("price", DataType::Float64), ("on", DataType::Boolean)]
    }

    fn item_bytes_max(&self) -> Option<usize> {
        None
    }

    fn not_applicable(&self) -> &'static [&'static str] {
        // The server's own limit bounds a row.
        if self.is_whole {
            &[
                "resume_yields_exactly_the_new_rows",
                "resume_depends_on_the_position_alone",
                "a_growing_collection_is_read_once",
                "what_is_acknowledged_does_not_come_again",
                "a_read_ends_where_it_is_asked_to",
                "a_slow_consumer_slows_the_senders",
                "a_cut_connection_loses_nothing",
                "an_oversized_item_is_a_limit",
                "an_oversized_item_goes_to_the_quarantine",
            ]
        } else {
            &[
                "what_is_acknowledged_does_not_come_again",
                "a_slow_consumer_slows_the_senders",
                "a_cut_connection_loses_nothing",
                "an_oversized_item_is_a_limit",
                "an_oversized_item_goes_to_the_quarantine",
            ]
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_is_kept() {
    run(&mut Fixture::start(false, false).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_is_kept_over_tls() {
    run(&mut Fixture::start(true, false).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_read_whole_keeps_the_contract() {
    run(&mut Fixture::start(false, true).unwrap()).await;
}
