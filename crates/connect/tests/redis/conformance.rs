//! The contract of sources, held against each kind of source of the connector: keys, a stream, a consumer group.

use std::ops::Range;

use anyhow::Result;
use arrow::datatypes::DataType;
use portolan_connect::source::redis::Redis as Connector_;
use portolan_model::config::{SourceSpec, TlsSpec};
use portolan_model::source::{Capabilities, Connector};
use portolan_testkit::conformance::source::{
    NOT_APPLICABLE_TO_CURSORS, NOT_APPLICABLE_TO_GROUPS, NOT_APPLICABLE_TO_WHOLE_READS, Shape, SourceFixture, run, spec,
};
use portolan_testkit::servers::{Redis, Reply};
use serde_json::{Value, json};

/// Commands sent in one write.
const WRITES_AT_ONCE: usize = 2_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Keys,
    Stream,
    Group,
}

struct Fixture {
    server: Redis,
    kind: Kind,
    is_encrypted: bool,
}

impl Fixture {
    fn start(kind: Kind, is_encrypted: bool) -> Self {
        Self { server: Redis::start().unwrap(), kind, is_encrypted }
    }
}

impl SourceFixture for Fixture {
    fn connector(&self) -> &dyn Connector {
        &Connector_
    }

    fn capabilities(&self) -> Capabilities {
        let (resume, acknowledge) = (self.kind == Kind::Stream, self.kind == Kind::Group);
        Capabilities { resume, acknowledge, ..Connector_.capabilities() }
    }

    fn server_port(&self) -> u16 {
        if self.is_encrypted { self.server.tls_port() } else { self.server.port() }
    }

    fn spec(&self, port: u16, shape: Shape) -> SourceSpec {
        let mut options = match self.kind {
            Kind::Keys => "keys = \"item:*\"\ntype = \"hash\"\n".to_owned(),
            Kind::Stream => "stream = \"items\"\nid_column = \"entry\"\n".to_owned(),
            Kind::Group => "stream = \"items\"\nid_column = \"entry\"\ngroup = \"portolan\"\n".to_owned(),
        };
        if shape == Shape::SmallItems {
            options.push_str(&format!("max_value = \"{}KiB\"\n", self.item_bytes_max().unwrap() >> 10));
        }
        let mut spec = spec("items", "redis", port, &options);
        let types = [("id", "bigint"), ("price", "double"), ("on", "boolean")];
        spec.columns = types.map(|(name, type_)| (name.to_owned(), type_.to_owned())).into();
        if self.is_encrypted {
            spec.tls = TlsSpec { ca: Some(self.server.tls().authority.clone()), ..TlsSpec::default() };
        }
        spec
    }

    fn write(&mut self, ids: Range<i64>, padding: usize) -> Result<()> {
        let mut session = self.server.session()?;
        let ids: Vec<i64> = ids.collect();
        for ids in ids.chunks(WRITES_AT_ONCE) {
            let commands: Vec<Vec<String>> = ids
                .iter()
                .map(|id| {
                    let mut words = match self.kind {
                        Kind::Keys => vec!["HSET".to_owned(), format!("item:{id}")],
                        _ => vec!["XADD".to_owned(), "items".to_owned(), "*".to_owned()],
                    };
                    words.extend(["id".into(), id.to_string(), "name".into(), format!("item {id}")]);
                    words.extend(["price".into(), (*id as f64 + 0.25).to_string()]);
                    words.extend(["on".into(), (id % 2 == 0).to_string()]);
                    if padding > 0 {
                        words.extend(["padding".into(), "x".repeat(padding)]);
                    }
                    words
                })
                .collect();
            let commands: Vec<Vec<&[u8]>> =
                commands.iter().map(|words| words.iter().map(|word| word.as_bytes()).collect()).collect();
            session.run_all(&commands)?;
        }
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        self.server.command("FLUSHALL")?;
        if self.kind == Kind::Group {
            self.server.command("XGROUP CREATE items portolan 0 MKSTREAM")?;
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        self.server.restart()?;
        assert!(matches!(self.server.command("DBSIZE")?, Reply::Integer(1..)), "the restart has lost the content");
        Ok(())
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
        let mut columns = vec![
            ("id", DataType::Int64),
            ("name", DataType::Utf8),
            ("price", DataType::Float64),
            ("on", DataType::Boolean),
        ];
        if self.kind == Kind::Keys {
            columns.extend([("key", DataType::Utf8), ("ttl_ms", DataType::Int64)]);
        } else {
            columns.push(("entry", DataType::Utf8));
        }
        columns
    }

    fn item_bytes_max(&self) -> Option<usize> {
        Some(64 << 10)
    }

    fn not_applicable(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Keys => NOT_APPLICABLE_TO_WHOLE_READS,
            Kind::Stream => NOT_APPLICABLE_TO_CURSORS,
            Kind::Group => NOT_APPLICABLE_TO_GROUPS,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_keep_the_contract() {
    run(&mut Fixture::start(Kind::Keys, false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_keeps_the_contract() {
    run(&mut Fixture::start(Kind::Stream, false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_keeps_the_contract() {
    run(&mut Fixture::start(Kind::Group, false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_is_kept_over_tls() {
    run(&mut Fixture::start(Kind::Stream, true)).await;
}
