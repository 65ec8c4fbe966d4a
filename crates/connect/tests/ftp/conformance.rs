//! The contract of sources, held against the connector: pure-ftpd with MLSD, vsftpd with LIST; plain and over TLS 1.3
//! with session reuse; one growing file and many files, read on and read whole.

use std::ops::Range;

use anyhow::Result;
use arrow::datatypes::DataType;
use portolan_connect::source::ftp::Ftp;
use portolan_model::config::{SourceSpec, TlsSpec};
use portolan_model::source::{Capabilities, Connector};
use portolan_testkit::conformance::source::{
    NOT_APPLICABLE_TO_CURSORS, NOT_APPLICABLE_TO_WHOLE_READS, Shape, SourceFixture, run, spec,
};
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
    /// Everything is read each time.
    is_whole: bool,
    /// Lines of the configuration.
    options: &'static str,
}

impl Fixture {
    fn new(server: FtpServer) -> Self {
        Self { server, is_encrypted: false, has_many_files: false, written: 0, is_whole: false, options: "" }
    }
}

fn item(id: i64) -> Value {
    json!({ "id": id, "name": format!("item {id}"), "price": id as f64 + 0.25, "on": id % 2 == 0 })
}

impl SourceFixture for Fixture {
    fn connector(&self) -> &dyn Connector {
        &Ftp
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { resume: !self.is_whole, ..Ftp.capabilities() }
    }

    fn server_port(&self) -> u16 {
        self.server.address().port()
    }

    fn proxy(&self) -> Result<FaultProxy> {
        self.server.proxy()
    }

    fn spec(&self, port: u16, shape: Shape) -> SourceSpec {
        let mut options = format!(
            "path = \"/out/*.ndjson\"\nuser = \"{}\"\npassword = {{ literal = \"{}\" }}\n{}\n",
            self.server.user, self.server.password, self.options
        );
        if shape == Shape::SmallItems {
            options.push_str(&format!("max_body = \"{}KiB\"\n", ITEM_BYTES_MAX >> 10));
        }
        if self.is_whole {
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

    fn kill(&mut self) -> Result<()> {
        self.server.kill()
    }

    fn start_again(&mut self) -> Result<()> {
        self.server.start_again()
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
            ("_file", DataType::Utf8),
        ]
    }

    fn item_bytes_max(&self) -> Option<usize> {
        Some(ITEM_BYTES_MAX)
    }

    fn not_applicable(&self) -> &'static [&'static str] {
        if self.is_whole { NOT_APPLICABLE_TO_WHOLE_READS } else { NOT_APPLICABLE_TO_CURSORS }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pure_ftpd_with_one_growing_file_keeps_the_contract() {
    run(&mut Fixture::new(PureFtpd::start().unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pure_ftpd_over_tls_with_many_files_keeps_the_contract() {
    let server = PureFtpd::start().unwrap();
    run(&mut Fixture { is_encrypted: true, has_many_files: true, ..Fixture::new(server) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pure_ftpd_read_whole_keeps_the_contract() {
    let server = PureFtpd::start().unwrap();
    run(&mut Fixture { is_whole: true, has_many_files: true, ..Fixture::new(server) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vsftpd_with_many_files_keeps_the_contract() {
    run(&mut Fixture { has_many_files: true, ..Fixture::new(VsFtpd::start().unwrap()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vsftpd_over_tls_that_wants_its_session_reused_keeps_the_contract() {
    let server = VsFtpd::start().unwrap();
    run(&mut Fixture { is_encrypted: true, ..Fixture::new(server) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vsftpd_over_implicit_tls_read_whole_keeps_the_contract() {
    let server = VsFtpd::start_with(&["implicit_ssl=YES"]).unwrap();
    run(&mut Fixture { is_encrypted: true, is_whole: true, options: "implicit = true", ..Fixture::new(server) }).await;
}
