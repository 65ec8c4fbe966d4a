//! HTTP/1.1 and HTTP/2: JSON, NDJSON and CSV answers as rows.
//!
//! `options` is what may be configured, `check` what is wrong with it, `plan` the options worked out; `client` keeps
//! one warm `connection` and runs an `exchange` over it; `source` walks the pages (`paging`, `link`), gives their rows
//! on (`convert`) and ends with a `position`. Promise: a row is given once per position, nothing a server sends panics or grows
//! without bound, no secret is shown.

mod check;
mod client;
mod connection;
mod convert;
mod exchange;
mod fingerprint;
pub mod link;
pub mod options;
pub mod paging;
mod plan;
mod position;
mod request;
mod source;
mod status;

use portolan_model::config::{Diagnostic, SourceSpec};
use portolan_model::error::{Error, ErrorKind, Result};
use portolan_model::source::{Capabilities, Connector, Environment, KeptRow, ReleaseKind, RetriedRow, Source};

use self::options::HttpOptions;
use crate::format::kept;

/// What an `http` source can do at most.
const CAPABILITIES: Capabilities = Capabilities {
    resume: true,
    acknowledge: false,
    reread: true,
    payload: true,
    push: false,
    listens: false,
    tls: true,
    release: ReleaseKind::Held,
};

/// The connector.
#[derive(Clone, Copy, Debug)]
pub struct Http;

impl Connector for Http {
    fn protocol(&self) -> &'static str {
        "http"
    }

    fn summary(&self) -> &'static str {
        "JSON, NDJSON or CSV from a web API, over HTTP/1.1 or HTTP/2"
    }

    fn default_port(&self) -> Option<u16> {
        None
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn option_schema(&self) -> schemars::Schema {
        schemars::schema_for!(HttpOptions)
    }

    fn check(&self, spec: &SourceSpec) -> Vec<Diagnostic> {
        check::check(spec)
    }

    fn retry_row(&self, spec: &SourceSpec, row: &KeptRow<'_>) -> Result<RetriedRow> {
        let wrong =
            |message: String| Error::new(ErrorKind::Configuration, "retry row", message).with_source(&spec.name);
        let options: HttpOptions = spec.options.parse().map_err(|found: Diagnostic| wrong(found.message))?;
        let plan = plan::Plan::new(spec, &options).map_err(|problem| wrong(problem.message))?;
        kept::retry(row, &plan.settings, options.delimiter.map(|delimiter| delimiter as u8))
    }

    fn open(&self, spec: &SourceSpec, environment: &Environment) -> Result<Box<dyn Source>> {
        let options: HttpOptions = spec.options.parse().map_err(|diagnostic: Diagnostic| {
            Error::new(ErrorKind::Configuration, "open source", diagnostic.message.clone()).with_source(&spec.name)
        })?;
        Ok(Box::new(source::HttpSource::open(spec, &options, environment)?))
    }
}
