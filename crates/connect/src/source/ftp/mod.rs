//! FTP and FTPS: the files of a folder as rows, each read once and what is appended to it.
//!
//! `options` is what may be configured; `wire` and `control` speak the protocol, `reply` and `listing` read what servers
//! say; `walk` finds the files that a `glob` means, `read` reads one of them, in `lines` where it can; `convert` makes
//! rows; a file that is not read in order waits on disk in a `spool`; `source` decides what to read and ends with a `position`. Promise: a row is given once per version of a file,
//! nothing a server sends panics or grows without bound, no secret is shown.

mod control;
mod convert;
mod error;
mod glob;
pub mod lines;
pub mod listing;
mod options;
mod position;
mod read;
pub mod reply;
mod source;
mod spool;
mod walk;
mod wire;

use std::sync::Arc;

use portolan_model::catalog::WriteMode;
use portolan_model::config::{Diagnostic, SourceSpec};
use portolan_model::source::{Capabilities, Connector, Environment, KeptRow, ReleaseKind, RetriedRow, Source};
use portolan_model::{Error, ErrorKind, Result};

use self::control::Endpoint;
use self::options::{Options, Plan, Read};
use crate::transport::Dialer;
use crate::transport::tls::Tls;

/// What an `ftp` source can do at most.
const CAPABILITIES: Capabilities = Capabilities {
    resume: true,
    acknowledge: false,
    reread: true,
    payload: true,
    push: false,
    listens: false,
    tls: true,
    release: ReleaseKind::Command,
};
/// The port on which TLS begins with the connection (RFC 4217, section 2).
const IMPLICIT_PORT: u16 = 990;

/// The connector.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ftp;

impl Connector for Ftp {
    fn protocol(&self) -> &'static str {
        "ftp"
    }

    fn summary(&self) -> &'static str {
        "CSV, NDJSON, JSON, Parquet or raw files from the folders of an FTP or FTPS server"
    }

    fn default_port(&self) -> Option<u16> {
        Some(21)
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn option_schema(&self) -> schemars::Schema {
        schemars::schema_for!(Options)
    }

    fn check(&self, spec: &SourceSpec) -> Vec<Diagnostic> {
        options::check(spec)
    }

    fn default_mode(&self, spec: &SourceSpec) -> WriteMode {
        // What is read whole each time replaces what was read before; time travel keeps the earlier rounds.
        match spec.options.parse::<Options>() {
            Ok(options) if options.read(spec.mode) == Read::All => WriteMode::Replace,
            _ => WriteMode::Append,
        }
    }

    fn retry_row(&self, spec: &SourceSpec, row: &KeptRow<'_>) -> Result<RetriedRow> {
        let refused =
            |message: String| Error::new(ErrorKind::Configuration, "retry row", message).with_source(&spec.name);
        let options: Options = spec.options.parse().map_err(|problem| refused(problem.message))?;
        let plan = Plan::new(spec, &options).map_err(|(_, message, help)| refused(message).with_hint(help))?;
        convert::retry(&plan, options.delimiter.map(|delimiter| delimiter as u8), row)
    }

    fn open(&self, spec: &SourceSpec, environment: &Environment) -> Result<Box<dyn Source>> {
        let refused =
            |message: String| Error::new(ErrorKind::Configuration, "open source", message).with_source(&spec.name);
        let options: Options = spec.options.parse().map_err(|problem| refused(problem.message))?;
        let plan = Plan::new(spec, &options).map_err(|(_, message, help)| refused(message).with_hint(help))?;
        let password = options.password.as_ref().map(|reference| environment.secrets.resolve(reference));
        let password = password.transpose().map_err(|error| error.with_source(&spec.name))?;
        let is_implicit = options.implicit.unwrap_or(spec.port == IMPLICIT_PORT);
        let tls = spec.tls.is_enabled().then(|| Tls::new(spec, &[])).transpose();
        let tls = tls.map_err(|error| error.with_source(&spec.name))?;
        let endpoint = Endpoint {
            dialer: Dialer::new(&spec.host, spec.port),
            tls: if is_implicit { tls } else { tls.map(|tls| tls.with_starttls("ftp")) },
            is_implicit,
            user: options.user,
            password,
            connect_timeout: spec.connect_timeout,
            idle_timeout: spec.idle_timeout,
        };
        Ok(Box::new(source::FtpSource {
            name: spec.name.clone(),
            address: spec.address(),
            endpoint,
            plan: Arc::new(plan),
            // Beside the lake, on its disk, where there is one: the system's temporary folder may be memory.
            spool: environment.intake.clone().unwrap_or_else(std::env::temp_dir),
            clock: Arc::clone(&environment.clock),
            control: None,
            failed: None,
        }))
    }
}
