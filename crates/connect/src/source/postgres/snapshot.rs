//! One snapshot for the sources of one database, each over a connection of its own.
//!
//! Each begins a transaction and exports its snapshot; all take over that of the first one (`pg_export_snapshot`, `SET TRANSACTION
//! SNAPSHOT`; PostgreSQL documentation, 9.28.5 "Snapshot Synchronization Functions"). No lock, and no right beside that to
//! read. A standby exports snapshots, too; rows that its primary was changing were seen to be missing from reads there, so it is refused.
//!
//! Promise: a read that has a snapshot's name reads that snapshot; the one who gave it waits until all have taken it over.

use portolan_model::source::{Meeting, Output, Phase};
use portolan_model::{Error, ErrorKind, Result, Retry};

use super::connection::Connection;
use super::statement::Relation;

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";
/// Its transaction numbers are the same on every version, `pg_current_snapshot` came with 13. When the server was started, to
/// the microsecond, tells it from others: two may give their snapshots the same name.
const EXPORT: &str = "SELECT concat_ws(' ', pg_export_snapshot(), txid_current_snapshot()), \
     extract(epoch FROM pg_postmaster_start_time())";

/// Whether all that `relation` reads belongs to the snapshots of this database.
///
/// # Errors
/// `Configuration` if it reads a foreign table, whose server has snapshots of its own, or the server is a standby; what the
/// server says.
pub(super) async fn check(connection: &mut Connection, relation: &Relation) -> Result<()> {
    let standby = connection.query("SELECT pg_is_in_recovery()").await?;
    if standby.first().and_then(|row| row.first()?.as_deref()) == Some("t") {
        let message = "the server is a standby: a snapshot there may lack rows that its primary is changing";
        return Err(Error::new(ErrorKind::Configuration, "open snapshot", message)
            .with_hint("read the primary, or give the round consistency = \"released\""));
    }
    let plan = connection.query(&format!("EXPLAIN (COSTS OFF) {}", relation.whole())).await?;
    let mut steps = plan.iter().flatten().flatten().map(|step| step.trim_start().trim_start_matches("->").trim_start());
    match steps.find_map(|step| step.strip_prefix("Async ").unwrap_or(step).strip_prefix("Foreign Scan")) {
        None => Ok(()),
        Some(rest) => {
            let message = format!("a foreign table belongs to no snapshot of this server: foreign scan{rest}");
            Err(Error::new(ErrorKind::Configuration, "open snapshot", message)
                .with_hint("read it at its own server, or in a round of its own"))
        }
    }
}

/// Opens the snapshot that all sources of this database agree on; its name. The connection reads from it until its transaction
/// ends.
///
/// # Errors
/// `Configuration` if the address leads to several servers; what the server says.
pub(super) async fn open(connection: &mut Connection, output: &mut dyn Output) -> Result<String> {
    connection.query(BEGIN).await?;
    connection.release_query(EXPORT, output).await?;
    let rows = connection.query_answer().await?;
    output.mark(Phase::FirstByte);
    let own: Vec<String> = rows.into_iter().flatten().flatten().collect();
    let meeting = output.meet(own.join("\n")).await;
    check_server(&meeting)?;
    let leader = meeting.leader();
    let name = parts(meeting.word(leader).unwrap_or_default()).0.to_owned();
    if meeting.own != leader {
        // By now the leader's snapshot stands, not before.
        output.mark(Phase::FirstByte);
        let id = name.split(' ').next().unwrap_or_default().replace('\'', "''");
        let taken = connection.query(&format!("ROLLBACK; {BEGIN}; SET TRANSACTION SNAPSHOT '{id}'")).await;
        taken.map_err(|error| match error.kind() {
            // The one who gave it has ended meanwhile.
            ErrorKind::Server | ErrorKind::NotFound | ErrorKind::Configuration => {
                let message = format!("snapshot {id} cannot be taken over: {}", error.message());
                Error::new(ErrorKind::Server, "open snapshot", message).with_retry(Retry::Transient)
            }
            _ => error,
        })?;
    }
    output.meet(String::new()).await;
    Ok(name)
}

/// A snapshot's name and its server, of what a read says.
fn parts(word: &str) -> (&str, &str) {
    word.split_once('\n').unwrap_or((word, ""))
}

/// All who meet must have reached the same server.
fn check_server(meeting: &Meeting) -> Result<()> {
    let mut servers = meeting.words.iter().flatten().map(|word| parts(word).1);
    let first = servers.next();
    match servers.find(|server| Some(*server) != first) {
        None => Ok(()),
        Some(other) => {
            let message = format!(
                "the address leads to several servers, which have no snapshot in common: one was started at {}, another \
                 at {other} (seconds since 1970)",
                first.unwrap_or_default()
            );
            Err(Error::new(ErrorKind::Configuration, "open snapshot", message).with_hint(
                "write the address of one server as `host`, not a name or balancer that hands connections out to several",
            ))
        }
    }
}
