//! Raw TCP: devices and programs that send messages, to a port of ours or from one of theirs.
//!
//! What arrives cannot be read again, so it goes to an intake log on disk first ([`crate::intake`]); a read of the source
//! reads the log. `framing` tells messages apart, `connection` takes them in and answers, `engine` holds the port and the
//! connections, `decode` makes rows, `source` reads and acknowledges, `options` is what may be configured.
//!
//! Promise: a message that came whole before a crash and was synced is stored exactly once; with `acknowledge`, every
//! message that its sender was told about. A sender that is too fast waits; nothing is dropped.

mod connection;
mod decode;
mod engine;
pub mod framing;
pub mod options;
mod position;
mod source;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use portolan_model::config::{Diagnostic, SourceSpec};
use portolan_model::error::{Error, ErrorKind, Result};
use portolan_model::source::{Capabilities, Connector, Environment, KeptRow, ReleaseKind, RetriedRow, Source};
use tokio_rustls::TlsAcceptor;

use self::engine::{Endpoint, LogSpec};
use self::options::{Options, Plan};
use crate::transport::Dialer;
use crate::transport::tls::{Tls, server_config};

/// What a `tcp` source can do at most.
const CAPABILITIES: Capabilities = Capabilities {
    resume: true,
    acknowledge: true,
    reread: true,
    payload: true,
    push: true,
    listens: true,
    tls: true,
    release: ReleaseKind::Arrived,
};

/// The connector.
#[derive(Clone, Copy, Debug)]
pub struct Tcp;

impl Connector for Tcp {
    fn protocol(&self) -> &'static str {
        "tcp"
    }

    fn summary(&self) -> &'static str {
        "messages over TCP, sent to a port of ours or by one that we connect to: JSON, CSV, text or bytes"
    }

    fn default_port(&self) -> Option<u16> {
        None
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn option_schema(&self) -> schemars::Schema {
        schemars::schema_for!(Options)
    }

    fn check(&self, spec: &SourceSpec) -> Vec<Diagnostic> {
        options::problems(spec)
    }

    fn reads_secrets(&self, spec: &SourceSpec) -> bool {
        spec.tls.allow_plaintext.is_none()
    }

    fn retry_row(&self, spec: &SourceSpec, row: &KeptRow<'_>) -> Result<RetriedRow> {
        let refused =
            |message: String| Error::new(ErrorKind::Configuration, "retry row", message).with_source(&spec.name);
        let options: Options = spec.options.parse().map_err(|problem| refused(problem.message))?;
        let plan = Plan::new(spec, &options).map_err(|(_, message)| refused(message))?;
        decode::retry(&plan, row)
    }

    fn open(&self, spec: &SourceSpec, environment: &Environment) -> Result<Box<dyn Source>> {
        let refused =
            |message: String| Error::new(ErrorKind::Configuration, "open source", message).with_source(&spec.name);
        let options: Options = spec.options.parse().map_err(|problem| refused(problem.message))?;
        let plan = Plan::new(spec, &options).map_err(|(_, message)| refused(message))?;
        let endpoint = if options.listen {
            let acceptor = match spec.tls.is_enabled() {
                true => Some(TlsAcceptor::from(Arc::new(server_config(&spec.tls)?))),
                false => None,
            };
            Endpoint::Listen {
                host: spec.host.clone(),
                port: spec.port,
                tls: acceptor,
                connections_max: options.max_connections,
                peer_connections_max: options.max_connections_per_peer.unwrap_or(options.max_connections),
            }
        } else {
            let tls = spec.tls.is_enabled().then(|| Tls::new(spec, &[])).transpose()?;
            Endpoint::Dial { dialer: Dialer::new(&spec.host, spec.port), tls }
        };
        let (folder, temporary) = match &environment.intake {
            Some(folder) => (folder.join(spec.name.as_str()), None),
            None => {
                let temporary = TemporaryFolder::new(spec.name.as_str(), environment);
                (temporary.0.clone(), Some(temporary))
            }
        };
        Ok(Box::new(source::TcpSource {
            name: spec.name.clone(),
            address: spec.address(),
            plan: Arc::new(plan),
            endpoint,
            log: LogSpec { folder, bytes_max: options.max_intake.0 },
            temporary,
            connect_timeout: spec.connect_timeout,
            clock: Arc::clone(&environment.clock),
            engine: None,
            committed: None,
        }))
    }
}

/// A folder of the system's temporary ones that goes with its owner.
struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    /// Names it; it is made when the log is opened.
    fn new(source: &str, environment: &Environment) -> Self {
        let now_us = environment.clock.wall().as_microsecond();
        let name = format!("portolan-intake-{}-{source}-{now_us}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // What cannot be removed is the system's to clean up.
        let _ = std::fs::remove_dir_all(Path::new(&self.0));
    }
}
