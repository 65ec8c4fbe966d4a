//! Redis, as the tests of its connector see it.

use portolan_connect::source::redis;
use portolan_model::source::Connector;

use crate::harness::{PLAIN, Protocol};

pub(crate) use portolan_testkit::servers::Redis as Server;

pub(crate) struct Engine;

impl Protocol for Engine {
    const CONNECTOR: &'static dyn Connector = &redis::Redis;

    fn defaults() -> Vec<(&'static str, String)> {
        vec![("tls", PLAIN.to_owned())]
    }
}
