//! One snapshot for the sources of one database, each over a connection of its own.
//!
//! Each begins a transaction and exports its snapshot; all take over that of the first one (`pg_export_snapshot`, `SET TRANSACTION
//! SNAPSHOT`; PostgreSQL documentation, 9.28.5 "Snapshot Synchronization Functions"). No lock, and no right beside that to
//! read.
//!
//! On a primary a snapshot that was taken over stands by itself. On a standby it does not: before replay removes rows, it waits for
//! the transactions that can see them, of which it makes the list once (`ResolveRecoveryConflictWithSnapshot`). A snapshot that is
//! taken over while replay waits is in no list: once the transaction that it was taken from ends, its rows go, and its
//! reader finds neither them nor those that came for them. There the first one keeps its transaction open until all others
//! have ended, and each of these looks, after its last row, whether that transaction is still there: replay has then
//! not gone past it, for it waits until the server no longer lists its virtual transaction (`VirtualXactLock`, which `pg_locks` shows).
//!
//! Promise: a read that has a snapshot's name has read that snapshot, whole.

use portolan_model::source::{Meeting, Output, Phase};
use portolan_model::{Error, ErrorKind, Result, Retry};

use super::connection::Connection;

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";
/// When the server was started, to the microsecond.
const STARTED: &str = "extract(epoch FROM pg_postmaster_start_time())";

/// What a read says to the others, see [`Word`].
fn export() -> String {
    // Transaction numbers are the same on every version, `pg_current_snapshot` came with 13.
    format!(
        "SELECT concat_ws(' ', pg_export_snapshot(), txid_current_snapshot()), {STARTED}, \
         CASE WHEN pg_is_in_recovery() THEN coalesce((SELECT virtualxid FROM pg_catalog.pg_locks \
         WHERE locktype = 'virtualxid' AND pid = pg_backend_pid() AND granted LIMIT 1), 'unknown') ELSE '' END"
    )
}

/// A snapshot that a connection reads until its transaction ends.
pub(super) struct Snapshot {
    /// What it is called.
    pub(super) name: String,
    hold: Hold,
}

/// The transaction that must outlast every read of a snapshot.
enum Hold {
    /// None: on a primary.
    None,
    /// That of the connection itself.
    Own,
    /// That of another one: a virtual transaction of a server.
    Other { transaction: String, server: String },
}

impl Snapshot {
    /// Opens the snapshot that all sources of this database agree on. The connection reads from it until its transaction ends.
    ///
    /// # Errors
    /// `Configuration` if the address leads to several servers; what the server says.
    pub(super) async fn open(connection: &mut Connection, output: &mut dyn Output) -> Result<Self> {
        connection.query(BEGIN).await?;
        connection.release_query(&export(), output).await?;
        let rows = connection.query_answer().await?;
        output.mark(Phase::FirstByte);
        let own: Vec<String> = rows.into_iter().flatten().flatten().collect();
        let meeting = output.meet(own.join("\n")).await;
        check_server(&meeting)?;
        let leader = meeting.leader();
        let word = Word::of(meeting.word(leader).unwrap_or_default());
        let hold = match word.transaction {
            "" => Hold::None,
            _ if meeting.own == leader => Hold::Own,
            transaction => Hold::Other { transaction: transaction.to_owned(), server: word.server.to_owned() },
        };
        if meeting.own != leader {
            // By now the leader's snapshot stands, not before.
            output.mark(Phase::FirstByte);
            let id = word.name.split(' ').next().unwrap_or_default().replace('\'', "''");
            let taken = connection.query(&format!("ROLLBACK; {BEGIN}; SET TRANSACTION SNAPSHOT '{id}'")).await;
            taken.map_err(|error| match error.kind() {
                // The one who gave it has ended meanwhile.
                ErrorKind::Server | ErrorKind::NotFound | ErrorKind::Configuration => {
                    let message = format!("snapshot {id} cannot be taken over: {}", error.message());
                    let hint =
                        error.hint().unwrap_or("the source that has given it has failed: its own error says why");
                    Error::new(ErrorKind::Server, "open snapshot", message).with_retry(Retry::Transient).with_hint(hint)
                }
                _ => error,
            })?;
        }
        output.meet(String::new()).await;
        Ok(Self { name: word.name.to_owned(), hold })
    }

    /// The rows have been read: waits for those who read under this transaction, or looks whether that of the other one
    /// is still there, over a connection that can be asked.
    ///
    /// # Errors
    /// `Server` if it is not, for rows may be missing; `Configuration` if the connection has reached another server; what the
    /// server says.
    pub(super) async fn hold(&self, connection: &mut Connection, output: &mut dyn Output) -> Result<()> {
        match &self.hold {
            Hold::None => Ok(()),
            Hold::Own => {
                output.others_ended().await;
                Ok(())
            }
            Hold::Other { transaction, server } => check_hold(connection, transaction, server).await,
        }
    }
}

async fn check_hold(connection: &mut Connection, transaction: &str, server: &str) -> Result<()> {
    let quoted = transaction.replace('\'', "''");
    let asked = format!(
        "SELECT {STARTED}, EXISTS (SELECT FROM pg_catalog.pg_locks \
         WHERE locktype = 'virtualxid' AND virtualxid = '{quoted}' AND mode = 'ExclusiveLock' AND granted)"
    );
    let answer: Vec<String> = connection.query(&asked).await?.into_iter().flatten().flatten().collect();
    match answer.as_slice() {
        [reached, _] if reached != server => Err(several_servers(server, reached)),
        [_, is_there] if is_there == "t" => Ok(()),
        _ => {
            let message = format!(
                "the transaction {transaction} that keeps the snapshot on this standby ended before all of it was read: rows \
                 that the primary has changed since may be missing"
            );
            Err(Error::new(ErrorKind::Server, "close snapshot", message).with_retry(Retry::Transient).with_hint(
                "its source has failed, or it was too long for the standby: hot_standby_feedback = on or a longer \
                 max_standby_streaming_delay there, no idle_in_transaction_session_timeout for its account, less to read at once",
            ))
        }
    }
}

/// What a read says to the others.
struct Word<'w> {
    /// The snapshot's name.
    name: &'w str,
    /// The server that it has reached, by its start: two may give their snapshots the same name.
    server: &'w str,
    /// The transaction that must outlast every read of the snapshot; empty where there need be none.
    transaction: &'w str,
}

impl<'w> Word<'w> {
    fn of(text: &'w str) -> Self {
        let mut parts = text.split('\n');
        let mut part = || parts.next().unwrap_or_default();
        Self { name: part(), server: part(), transaction: part() }
    }
}

/// All who meet must have reached the same server.
fn check_server(meeting: &Meeting) -> Result<()> {
    let mut servers = meeting.words.iter().flatten().map(|word| Word::of(word).server);
    let first = servers.next().unwrap_or_default();
    servers.find(|server| *server != first).map_or(Ok(()), |other| Err(several_servers(first, other)))
}

fn several_servers(one: &str, other: &str) -> Error {
    let message = format!(
        "the address leads to several servers, which have no snapshot in common: one was started at {one}, another at {other} \
         (seconds since 1970)"
    );
    Error::new(ErrorKind::Configuration, "open snapshot", message).with_hint(
        "write the address of one server as `host`, not a name or balancer that hands connections out to several",
    )
}
