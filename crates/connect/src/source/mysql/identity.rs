//! Which server a connection has reached: one address may lead to several, by a name with several addresses or a balancer.
//!
//! Promise: connections to two servers are told apart by what at least one of their settings says. Those to one are not, unless a
//! setting is changed between them.

use portolan_model::{Error, ErrorKind, Result};

use super::connection::Connection;

/// What differs between servers, as far as a server has it: `server_uuid` is MySQL's, `server_uid` newer MariaDB's.
const QUESTION: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('hostname', 'port', 'server_id', 'server_uuid', \
     'server_uid', 'datadir', 'socket', 'pid_file', 'wsrep_node_name', 'wsrep_node_address')";

/// Asks who the server is.
pub(super) async fn ask(connection: &mut Connection) -> Result<String> {
    let rows = connection.query(QUESTION).await?;
    let settings = rows.into_iter().map(|row| row.into_iter().flatten().collect::<Vec<_>>().join("="));
    Ok(settings.collect::<Vec<_>>().join(" "))
}

/// What is read together comes from two servers.
pub(super) fn several_servers(one: &str, other: &str) -> Error {
    let message = format!("the address leads to several servers, which have no snapshot in common: {one}; {other}");
    Error::new(ErrorKind::Configuration, "open snapshot", message).with_hint(
        "write the address of one server as `host`, not a name or balancer that hands connections out to several",
    )
}
