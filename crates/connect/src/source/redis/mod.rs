//! Redis and Valkey: keys by pattern, read whole, and streams, from a position on or as a consumer of a group.
//!
//! Promise: each key, element and entry is given once, with every byte of it, or stands in the quarantine; the server
//! is only read, but for what a group is: its deliveries and acknowledgements.

mod cells;
mod command;
mod connection;
mod entry;
mod error;
mod group;
mod keys;
mod plan;
mod position;
mod reply;
mod resp;
mod rows;
mod settings;
mod source;
mod stream;
#[cfg(test)]
mod untrusted;
mod window;

use portolan_model::Result;
use portolan_model::catalog::WriteMode;
use portolan_model::config::{Diagnostic, SourceSpec};
use portolan_model::source::{Capabilities, Connector, Environment, ReleaseKind, Source};

use connection::Endpoint;
use error::Subject;
use group::Taken;
use plan::Plan;
use source::RedisSource;
use stream::PageSize;

use crate::options::{password, refused};
use crate::transport::Dialer;
use crate::transport::tls::Tls;

pub use command::write_command;
pub use entry::{Entries, EntryId, GroupInfo, StreamInfo, push_entries, survey};
pub use plan::{FieldsAs, KeyKind, ValueFormat};
pub use reply::{Reply, Value};
pub use resp::{Fault, Node, Parser};
pub use rows::{Layout, Table};
pub use settings::Options;

const CAPABILITIES: Capabilities = Capabilities {
    resume: true,
    acknowledge: true,
    reread: true,
    payload: true,
    push: false,
    listens: false,
    tls: true,
    release: ReleaseKind::Held,
};

/// The connector.
#[derive(Clone, Copy, Debug, Default)]
pub struct Redis;

impl Connector for Redis {
    fn protocol(&self) -> &'static str {
        "redis"
    }

    fn summary(&self) -> &'static str {
        "keys or a stream of Redis or Valkey: keys whole, a stream from a position on or as a consumer group"
    }

    fn default_port(&self) -> Option<u16> {
        Some(6379)
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

    fn default_mode(&self, spec: &SourceSpec) -> WriteMode {
        // Keys are read whole each time and replace what was read before; entries are added.
        match spec.options.parse::<Options>() {
            Ok(options) if options.stream.is_none() => WriteMode::Replace,
            _ => WriteMode::Append,
        }
    }

    fn item_key(&self, spec: &SourceSpec) -> Vec<String> {
        match spec.options.parse::<Options>() {
            // A group gives again what was not acknowledged: the lake leaves out what it has.
            Ok(options) if options.group.is_some() && spec.key.is_empty() => vec![options.id_column().to_owned()],
            _ => spec.key.clone(),
        }
    }

    fn open(&self, spec: &SourceSpec, environment: &Environment) -> Result<Box<dyn Source>> {
        let options: Options = spec.options.parse().map_err(|problem| refused(spec, problem.message))?;
        let plan = options.plan(spec).ok_or_else(|| refused(spec, "name one of `keys` and `stream`"))?;
        let password = password(spec, environment, options.password.as_ref())?;
        let (keys, group, count) = match &plan {
            Plan::Keys(plan) => (plan.pattern.clone(), None, plan.count),
            Plan::Stream(plan) => {
                (plan.stream.clone(), plan.group.as_ref().map(|group| group.group.clone()), plan.count)
            }
        };
        let endpoint = Endpoint {
            dialer: Dialer::new(&spec.host, spec.port),
            tls: spec.tls.is_enabled().then(|| Tls::new(spec, &[])).transpose()?,
            subject: Subject {
                user: options.user.clone().unwrap_or_else(|| "default".into()),
                keys,
                group,
                database: options.database,
            },
            value_bytes_max: options.value_bytes_max(),
            user: options.user,
            password,
            database: options.database,
            connect_timeout: spec.connect_timeout,
            idle_timeout: spec.idle_timeout,
            needs_all_keys: matches!(plan, Plan::Keys(_)),
        };
        Ok(Box::new(RedisSource {
            name: spec.name.clone(),
            address: spec.address(),
            endpoint,
            plan,
            connection: None,
            page: PageSize::new(count),
            taken: Taken::default(),
        }))
    }
}
