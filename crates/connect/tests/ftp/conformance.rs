//! The contract of sources, held against the connector: pure-ftpd with MLSD, vsftpd with LIST; plain and over TLS 1.3
//! with session reuse; one growing file and many files, read on and read whole.

use std::ops::Range;

use anyhow::Result;
use arrow::datatypes::DataType;
use portolan_connect::source::ftp::Ftp;
use portolan_model::config::{SourceSpec, TlsSpec};
use portolan_model::source::Connector;
use portolan_testkit::conformance::source::{CHECKS, Shape, SourceFixture, run, run_one, spec};
use portolan_testkit::proxy::FaultProxy;
use portolan_testkit::servers::{FtpServer, PureFtpd, VsFtpd};
use serde_json::{Value, json};

const ITEM_BYTES_MAX: usize = 64 << 10;

struct Fixture {
    server: FtpServer,
    is_encrypted: bool,
    /// Each write makes a file of its own instead of going to the end of one.
    has_many_files: bool,
    written: u32,
    file_column: &'static str,
    /// Whatever the suite asks for is read whole.
    is_whole: bool,
}

impl Fixture {
    fn new(server: FtpServer) -> Self {
        Self { server, is_encrypted: false, has_many_files: false, written: 0, file_column: "_file", is_whole: false }
    }
}

fn item(id: i64) -> Value {
    json!({ "id": id, "name": format!("item {id}"), "price": id as f64 + 0.25, "on": id % 2 == 0 })
}

impl SourceFixture for Fixture {
    fn connector(&self) -> &dyn Connector {
        &Ftp
    }

    fn server_port(&self) -> u16 {
        self.server.address().port()
    }

    fn proxy(&self) -> Result<FaultProxy> {
        self.server.proxy()
    }

    fn spec(&self, port: u16, shape: Shape) -> SourceSpec {
        let mut options = format!(
            "path = \"/out/*.ndjson\"\nuser = \"{}\"\npassword = {{ literal = \"{}\" }}\nfile_column = \"{}\"\n",
            self.server.user, self.server.password, self.file_column
        );
        if shape == Shape::SmallItems {
            options.push_str(&format!("max_body = \"{}KiB\"\n", ITEM_BYTES_MAX >> 10));
        }
        if shape == Shape::Whole || self.is_whole {
            options.push_str("read = \"all\"\n");
        }
        let mut spec = spec("items", "ftp", port, &options);
        if self.is_encrypted {
            spec.tls = TlsSpec { ca: Some(self.server.tls().authority.clone()), ..TlsSpec::default() };
        }
        spec
    }

    fn write(&mut self, ids: Range<i64>, padding: usize) -> Result<()> {
        let padding = "x".repeat(padding);
        let mut text = String::new();
        for id in ids {
            let mut item = item(id);
            if !padding.is_empty() {
                item["padding"] = json!(padding);
            }
            text.push_str(&item.to_string());
            text.push('\n');
        }
        self.written += 1;
        let name = if self.has_many_files { format!("out/{}.ndjson", self.written) } else { "out/items.ndjson".into() };
        self.server.append(&name, text)
    }

    fn clear(&mut self) -> Result<()> {
        self.server.clear()
    }

    fn restart(&mut self) -> Result<()> {
        self.server.restart()
    }

    fn expected(&self, id: i64) -> Value {
        item(id)
    }

    fn columns(&self) -> Vec<(&'static str, DataType)> {
        vec![
            ("id", DataType::Int64),
            ("name", DataType::Utf8),
            ("price", DataType::Float64),
            ("on", DataType::Boolean),
            (self.file_column, DataType::Utf8),
        ]
    }

    fn item_bytes_max(&self) -> Option<usize> {
        Some(ITEM_BYTES_MAX)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pure_ftpd_with_one_growing_file_keeps_the_contract() {
    run(&mut Fixture::new(PureFtpd::start().unwrap())).await;
}
