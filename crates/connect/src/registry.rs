//! Every connector of this build, one row each, in the order of the documentation.
//!
//! Promise: adding a protocol is one module under `source/` and one row in `ROWS`.

use portolan_model::config::ConnectorSet;
use portolan_model::source::Connector;

use crate::source::ftp::Ftp;
use crate::source::http::Http;
use crate::source::mysql::MySql;
use crate::source::postgres::Postgres;
use crate::source::redis::Redis;
use crate::source::tcp::Tcp;

/// The rows.
static ROWS: [&dyn Connector; 6] = [&Http, &MySql, &Postgres, &Redis, &Ftp, &Tcp];

/// The connectors of this build.
#[derive(Clone, Copy, Debug, Default)]
pub struct Registry;

impl ConnectorSet for Registry {
    fn all(&self) -> Vec<&dyn Connector> {
        ROWS.to_vec()
    }
}
