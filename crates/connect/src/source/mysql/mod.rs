//! MySQL and MariaDB: a table or a query, read whole or from a cursor on, streamed in bounded memory.
//!
//! Promise: every column type reaches Arrow without loss or as NULL with a quarantine item; a position advances to the
//! highest cursor value seen and never back; the server is only read, and a dropped read leaves no query behind.

mod columns;
mod connection;
mod cursor;
mod decimal;
mod decode;
mod error;
mod handshake;
mod identity;
mod settings;
mod snapshot;
mod source;
mod statement;
mod temporal;
#[cfg(test)]
mod untrusted;
mod wire;

use std::sync::Arc;

use portolan_model::Result;
use portolan_model::catalog::WriteMode;
use portolan_model::config::{Diagnostic, SourceSpec};
use portolan_model::source::{Capabilities, Connector, Environment, SnapshotGroup, Source};

use error::Subject;
use source::{MySqlSource, Settings};

use crate::options::{password, refused};
use crate::relational::{CAPABILITIES, Endings, Endpoint};
use crate::transport::Dialer;
use crate::transport::tls::Tls;

pub use crate::relational::{Malformed, Problem};
pub use columns::{TimeAs, field_of};
pub use decode::RowDecoder;
pub use settings::Options;
pub use wire::{Column, column_type};

/// The connector.
#[derive(Clone, Copy, Debug, Default)]
pub struct MySql;

impl Connector for MySql {
    fn protocol(&self) -> &'static str {
        "mysql"
    }

    fn summary(&self) -> &'static str {
        "a table or query of MySQL or MariaDB, whole or from a cursor on"
    }

    fn default_port(&self) -> Option<u16> {
        Some(3306)
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn option_schema(&self) -> schemars::Schema {
        schemars::schema_for!(Options)
    }

    fn check(&self, spec: &SourceSpec) -> Vec<Diagnostic> {
        settings::problems(spec)
    }

    fn snapshot_group(&self, spec: &SourceSpec) -> Option<SnapshotGroup> {
        Some(SnapshotGroup::new(self.protocol(), &spec.host, spec.port, None))
    }

    fn default_mode(&self, spec: &SourceSpec) -> WriteMode {
        spec.options.parse::<Options>().map_or(WriteMode::Append, |options| options.choice().default_mode())
    }

    fn open(&self, spec: &SourceSpec, environment: &Environment) -> Result<Box<dyn Source>> {
        let options: Options = spec.options.parse().map_err(|problem| refused(spec, problem.message))?;
        let relation = options.relation().ok_or_else(|| refused(spec, "name one of `table` and `query`"))?;
        let password = password(spec, environment, options.password.as_ref())?;
        let tls = spec.tls.is_enabled().then(|| Tls::new(spec, &[])).transpose()?;
        let endpoint = Endpoint {
            dialer: Dialer::new(&spec.host, spec.port),
            tls,
            password,
            subject: Subject { user: options.user, database: options.database, table: options.table },
            connect_timeout: spec.connect_timeout,
            idle_timeout: spec.idle_timeout,
        };
        Ok(Box::new(MySqlSource {
            name: spec.name.clone(),
            address: spec.address(),
            endpoint: Arc::new(endpoint),
            settings: Settings {
                relation,
                cursor: options.cursor,
                late_window: options.late_window,
                batch_rows: options.batch_rows.max(1) as usize,
                max_rows: options.max_rows.filter(|rows| *rows > 0),
                time_as: options.time_as,
                key: spec.key.clone(),
                snapshot_lock: options.snapshot_lock,
                snapshot_lock_wait: options.snapshot_lock_wait.0,
            },
            ready: None,
            endings: Endings::default(),
        }))
    }
}
