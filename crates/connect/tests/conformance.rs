//! The contract of sources, held against the `http` connector: over HTTP/1.1 against an API whose content grows, and
//! over TLS 1.3 and HTTP/2 through nginx in front of it.

use std::ops::Range;

use anyhow::Result;
use arrow::datatypes::DataType;
use portolan_connect::source::http::Http;
use portolan_model::config::{SourceSpec, TlsSpec};
use portolan_model::source::{Capabilities, Connector};
use portolan_testkit::api::Api;
use portolan_testkit::conformance::source::{
    NOT_APPLICABLE_TO_CURSORS, NOT_APPLICABLE_TO_WHOLE_READS, Shape, SourceFixture, run, spec,
};
use portolan_testkit::servers::{Nginx, NginxOptions};
use serde_json::{Value, json};

const COLLECTION: &str = "items";
const ITEM_BYTES_MAX: usize = 64 << 10;

struct HttpFixture {
    api: Api,
    nginx: Option<Nginx>,
    paging: &'static str,
    path: &'static str,
    /// Everything is read each time.
    is_whole: bool,
}

impl HttpFixture {
    fn start(path: &'static str, paging: &'static str) -> Result<Self> {
        Ok(Self { api: Api::start()?, nginx: None, paging, path, is_whole: false })
    }

    fn start_behind_nginx(path: &'static str, paging: &'static str) -> Result<Self> {
        let api = Api::start()?;
        let nginx = Nginx::start(NginxOptions { upstream_port: Some(api.port()) })?;
        Ok(Self { api, nginx: Some(nginx), paging, path, is_whole: false })
    }
}

fn item(id: i64) -> Value {
    json!({ "id": id, "name": format!("item {id}"), "price": id as f64 + 0.25, "on": id % 2 == 0 })
}

impl SourceFixture for HttpFixture {
    fn connector(&self) -> &dyn Connector {
        &Http
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { resume: !self.is_whole, ..Http.capabilities() }
    }

    fn server_port(&self) -> u16 {
        self.nginx.as_ref().map_or(self.api.port(), Nginx::https_port)
    }

    fn spec(&self, port: u16, shape: Shape) -> SourceSpec {
        let prefix = if self.nginx.is_some() { "/api" } else { "" };
        let mut options = format!("path = \"{prefix}{}\"\n{}\n", self.path, self.paging);
        match shape {
            Shape::Whole | Shape::SmallStore => {}
            Shape::Incremental => options.push_str("cursor = { parameter = \"since\", column = \"id\" }\n"),
            Shape::SmallItems => options.push_str(&format!("max_body = \"{}KiB\"\n", ITEM_BYTES_MAX >> 10)),
        }
        let Some(nginx) = &self.nginx else { return spec("items", "http", port, &options) };
        // The suite counts the bytes of its items, so they come as they are.
        options.push_str("headers = { Accept-Encoding = \"identity\" }\n");
        let tls = TlsSpec { ca: Some(nginx.tls().authority.clone()), ..TlsSpec::default() };
        SourceSpec { tls, ..spec("items", "http", port, &options) }
    }

    fn write(&mut self, ids: Range<i64>, padding: usize) -> Result<()> {
        let padding = "x".repeat(padding);
        self.api.append(
            COLLECTION,
            ids.map(|id| {
                let mut item = item(id);
                if !padding.is_empty() {
                    item["padding"] = json!(padding);
                }
                item
            }),
        );
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        self.api.replace(COLLECTION, []);
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        match &mut self.nginx {
            Some(nginx) => nginx.restart(),
            None => self.api.start_again(),
        }
    }

    fn kill(&mut self) -> Result<()> {
        match &mut self.nginx {
            Some(nginx) => nginx.kill()?,
            None => self.api.kill(),
        }
        Ok(())
    }

    fn start_again(&mut self) -> Result<()> {
        match &mut self.nginx {
            Some(nginx) => nginx.start_again(),
            None => self.api.start_again(),
        }
    }

    fn expected(&self, id: i64) -> Value {
        item(id)
    }

    fn columns(&self) -> Vec<(&'static str, DataType)> {
        vec![("id", DataType::Int64), ("name", DataType::Utf8), ("price", DataType::Float64), ("on", DataType::Boolean)]
    }

    fn item_bytes_max(&self) -> Option<usize> {
        Some(ITEM_BYTES_MAX)
    }

    fn not_applicable(&self) -> &'static [&'static str] {
        if self.is_whole { NOT_APPLICABLE_TO_WHOLE_READS } else { NOT_APPLICABLE_TO_CURSORS }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_with_links_keeps_the_contract() {
    let mut fixture = HttpFixture::start("/link/items?limit=4000", "pagination = { by = \"link\" }").unwrap();
    run(&mut fixture).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_over_tls_with_tokens_keeps_the_contract() {
    let paging = "rows = \"$.items[*]\"\npagination = { by = \"cursor\", value = \"$.meta.next_cursor\" }";
    let mut fixture = HttpFixture::start_behind_nginx("/cursor/items?limit=4000", paging).unwrap();
    run(&mut fixture).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_read_whole_keeps_the_contract() {
    let fixture = HttpFixture::start("/link/items?limit=4000", "pagination = { by = \"link\" }").unwrap();
    run(&mut HttpFixture { is_whole: true, ..fixture }).await;
}
