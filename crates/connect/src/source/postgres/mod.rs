//! PostgreSQL: a table or a query, read whole or from a cursor on, streamed by binary COPY in bounded memory.
//!
//! Promise: every column type reaches Arrow without loss or as NULL with a quarantine item; a position advances to the
//! highest cursor value seen and never back; the server is only read, and a dropped read leaves no query behind.
//! Where the transaction of a read begins: `connection.rs`.

mod catalog;
mod columns;
mod connection;
mod cursor;
mod decode;
mod error;
mod handshake;
mod layout;
mod numeric;
mod settings;
mod snapshot;
mod source;
mod statement;
mod temporal;
#[cfg(test)]
mod untrusted;
mod values;
mod wire;

use std::sync::Arc;

use portolan_model::Result;
use portolan_model::catalog::WriteMode;
use portolan_model::config::{Diagnostic, SourceSpec};
use portolan_model::source::{Capabilities, Connector, Environment, SnapshotGroup, Source};

use error::Subject;
use source::{PostgresSource, Settings};
use statement::Relation;

use crate::options::{password, refused};
use crate::relational::{CAPABILITIES, Endings, Endpoint};
use crate::transport::Dialer;
use crate::transport::tls::Tls;

pub use crate::relational::{Malformed, Problem};
pub use columns::Kind;
pub use decode::RowDecoder;
pub use settings::Options;
pub use wire::Column;

/// The connector.
#[derive(Clone, Copy, Debug, Default)]
pub struct Postgres;

impl Connector for Postgres {
    fn protocol(&self) -> &'static str {
        "postgres"
    }

    fn summary(&self) -> &'static str {
        "a table or query of PostgreSQL, whole or from a cursor on"
    }

    fn default_port(&self) -> Option<u16> {
        Some(5432)
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
        // A snapshot that is handed on is one of its database alone.
        let database = spec.options.parse::<Options>().ok()?.database;
        Some(SnapshotGroup::new(self.protocol(), &spec.host, spec.port, Some(&database)))
    }

    fn default_mode(&self, spec: &SourceSpec) -> WriteMode {
        spec.options.parse::<Options>().map_or(WriteMode::Append, |options| options.choice().default_mode())
    }

    fn open(&self, spec: &SourceSpec, environment: &Environment) -> Result<Box<dyn Source>> {
        let options: Options = spec.options.parse().map_err(|problem| refused(spec, problem.message))?;
        let relation = options.relation().ok_or_else(|| refused(spec, "name one of `table` and `query`"))?;
        let password = password(spec, environment, options.password.as_ref())?;
        if password.as_ref().is_some_and(|password| password.expose().contains('\0')) {
            return Err(refused(spec, "`password` holds a NUL character, which no password of the server does"));
        }
        let tls = spec.tls.is_enabled().then(|| Tls::new(spec, &[])).transpose()?;
        let tls = tls.map(|tls| tls.with_starttls("postgres"));
        let table = match &relation {
            Relation::Table { schema, table } => Some((schema.clone(), table.clone())),
            Relation::Query(_) => None,
        };
        let subject = Subject { user: options.user, database: options.database, table, is_encrypted: tls.is_some() };
        let endpoint = Endpoint {
            dialer: Dialer::new(&spec.host, spec.port),
            tls,
            password,
            subject,
            connect_timeout: spec.connect_timeout,
            idle_timeout: spec.idle_timeout,
        };
        Ok(Box::new(PostgresSource {
            name: spec.name.clone(),
            address: spec.address(),
            endpoint: Arc::new(endpoint),
            settings: Settings {
                relation,
                cursor: options.cursor,
                late_window: options.late_window,
                batch_rows: options.batch_rows.max(1) as usize,
                max_rows: options.max_rows.filter(|rows| *rows > 0),
                key: spec.key.clone(),
            },
            ready: None,
            endings: Endings::default(),
        }))
    }
}
