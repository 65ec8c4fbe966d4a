//! One snapshot for the sources of one server, each over a connection of its own.
//!
//! Each starts a transaction with a consistent snapshot, and all compare what they have:
//!
//! - By the log, without a lock. MariaDB starts such a snapshot under the mutex under which it makes logged transactions
//!   visible and counts them (`Binlog_commits`): our understanding of it, which the campaign over transfers holds to the test.
//!   Each source asks for the count before and after its start. Where all these counts are the same, no
//!   transaction became visible from the first question to the last, and all snapshots hold the same; else all start anew,
//!   a bounded number of times. The place in the log that a snapshot ends at (`binlog_snapshot_position`) is its name and no proof: the server
//!   answers it out of variables that all connections share, and who asks at the same time may be given another's.
//!   What is committed past the log (`sql_log_bin = 0`, a filter) or in two phases (`XA COMMIT`) is not counted with its
//!   becoming visible: `snapshot_lock`.
//! - By a lock. The first source holds commits back for the moment in which all start their snapshots (`BACKUP STAGE
//!   BLOCK_COMMIT` of MariaDB since 10.4.1, else `FLUSH TABLES WITH READ LOCK`), over a connection of its own.
//!
//! Promise: a snapshot has a name only where all who met have the same one; a lock is waited for and held no longer than
//! allowed, by this side's clock and, should that fall silent, by the server's; a read that is dropped leaves none behind.

use std::time::Duration;

use portolan_model::source::{Meeting, Output, Phase};
use portolan_model::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::connection::Connection;
use super::identity::several_servers;
use super::statement::Relation;
use crate::relational::{EndGuard, Endings};

const START: &str = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";
/// How often snapshots are started by the log: under so many commits that they never meet, a lock is shorter.
const STARTS_MAX: u32 = 12;
/// How often a snapshot's place in the log is asked for, until two answers agree.
const PLACES_MAX: u32 = 4;
/// What the one who takes the lock says.
const LOCKED: &str = "locked";
const REFUSED: &str = "refused ";
const BUSY: &str = "busy ";
const ELSEWHERE: &str = "elsewhere ";
const UNSAFE: &str = "unsafe ";
/// Asks for the number of logged transactions.
const COUNT: &str = "SHOW STATUS LIKE 'Binlog_commits'";
/// What stands before it in what a source says.
const COUNTED: &str = "commits ";
/// What a source says that has seen it change.
const MOVED: &str = "moved";

/// Engines that speak of transactions, and keep their rows at another server or in none of this one's snapshots.
const FOREIGN: &str = "'FEDERATED', 'SPIDER', 'CONNECT', 'ndbcluster'";

/// What the snapshots of a connection can stand on.
pub(super) struct Footing {
    /// The server's log tells snapshots apart.
    has_log: bool,
    /// The lock that holds commits alone back.
    has_stages: bool,
    /// A replica that applies with several threads: no lock is taken there. `BACKUP STAGE BLOCK_COMMIT` beside them ends the server
    /// itself (seen of 10.11.14, after some hundred locks: signal 11 in `wait_for_commit::wait_for_prior_commit2`).
    is_parallel: bool,
    /// The connection that takes the lock.
    pub(super) spare: Option<Connection>,
}

/// Finds what a snapshot of `relation` can stand on.
///
/// # Errors
/// `Configuration` if a table has no snapshots; `Permission` if its tables cannot be seen.
pub(super) async fn footing(connection: &mut Connection, relation: &Relation, wants_lock: bool) -> Result<Footing> {
    check_engines(connection, relation).await?;
    let version = version(&connection.session.server);
    let has_stages = version.is_some_and(|version| version >= [10, 4, 1]);
    let replication = if version.is_some() { Replication::of(connection).await? } else { Replication::default() };
    let has_log = replication.logs_all && !wants_lock;
    Ok(Footing { has_log, has_stages, is_parallel: replication.is_parallel, spare: None })
}

/// What a server of MariaDB has to do with replication and its log.
#[derive(Default)]
struct Replication {
    /// It counts all its transactions by its log.
    logs_all: bool,
    /// It applies at present, with several threads, what another server has committed.
    is_parallel: bool,
}

impl Replication {
    async fn of(connection: &mut Connection) -> Result<Self> {
        let rows = connection
            .query(
                "SELECT VARIABLE_NAME, VARIABLE_VALUE FROM information_schema.GLOBAL_VARIABLES WHERE VARIABLE_NAME IN \
                 ('log_bin', 'log_slave_updates', 'gtid_slave_pos', 'wsrep_on', 'binlog_do_db', 'binlog_ignore_db', \
                  'binlog_optimize_thread_scheduling', 'slave_parallel_threads') \
                 UNION ALL SELECT VARIABLE_NAME, VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS \
                 WHERE VARIABLE_NAME = 'Slaves_running'",
            )
            .await?;
        let value = |name: &str| {
            let row = rows.iter().find(|row| matches!(row.first(), Some(Some(own)) if own.eq_ignore_ascii_case(name)));
            row.and_then(|row| row.get(1)?.as_deref()).unwrap_or_default()
        };
        // A replica or a member of a cluster whose changes do not go to its own log has commits that the log does not know.
        let is_running = !matches!(value("slaves_running"), "" | "0");
        let is_replica = is_running || !value("gtid_slave_pos").is_empty();
        let is_fed = is_replica || value("wsrep_on") == "ON";
        let logs_all = value("log_slave_updates") == "ON" || !is_fed;
        // Then a group of commits is made visible one by one, and its place in the log at once.
        let is_unordered = value("binlog_optimize_thread_scheduling") == "OFF";
        let has_filter = ["binlog_do_db", "binlog_ignore_db"].iter().any(|name| !value(name).is_empty());
        let logs_all = value("log_bin") == "ON" && logs_all && !is_unordered && !has_filter;
        Ok(Self { logs_all, is_parallel: is_running && !matches!(value("slave_parallel_threads"), "" | "0") })
    }
}

/// Opens the snapshot that all sources of this server agree on; its name, or `None` where they could not. The connection
/// reads from it until its transaction ends.
///
/// # Errors
/// What the server says; `Permission` or `Busy` if a lock is needed and not to be had; `Configuration` if the address
/// leads to several servers.
pub(super) async fn open(
    connection: &mut Connection,
    footing: &mut Footing,
    lock_wait: Duration,
    endings: &Endings,
    output: &mut dyn Output,
) -> Result<Option<String>> {
    let requests = footing.requests();
    connection.release(&requests, output).await?;
    let mut word = started(connection, footing, output).await?;
    check_server(connection, output).await?;
    let mut starts = 1;
    loop {
        let meeting = output.meet(word).await;
        let can_agree = meeting.words.iter().flatten().all(|word| word.starts_with(COUNTED) || word == MOVED);
        if meeting.words.iter().flatten().count() == 1 {
            return name(connection).await.map(Some);
        }
        if can_agree && meeting.agreed().is_some_and(|agreed| agreed != MOVED) {
            // All have the same one, whoever gives it its name.
            let leader = meeting.leader();
            let name = if meeting.own == leader { name(connection).await? } else { String::new() };
            let meeting = output.meet(name).await;
            return Ok(meeting.word(leader).map(str::to_owned));
        }
        if !can_agree || starts == STARTS_MAX {
            return locked(connection, footing, lock_wait, endings, &meeting, can_agree, output).await;
        }
        connection.send_requests(&requests).await?;
        word = started(connection, footing, output).await?;
        starts += 1;
    }
}

/// All who meet must have reached the same server.
async fn check_server(connection: &Connection, output: &mut dyn Output) -> Result<()> {
    let own = &connection.identity;
    let meeting = output.meet(own.clone()).await;
    match meeting.words.iter().flatten().find(|word| *word != own) {
        None => Ok(()),
        Some(other) => Err(several_servers(own, other)),
    }
}

impl Footing {
    /// What is sent to start a snapshot, which ends the one before.
    fn requests(&self) -> Vec<Vec<u8>> {
        let statements: &[&str] = if self.has_log { &[COUNT, START, COUNT] } else { &[START] };
        statements.iter().map(|statement| Connection::command(statement)).collect()
    }
}

/// Reads the answers to [`Footing::requests`]: what there is to say to the others.
async fn started(connection: &mut Connection, footing: &Footing, output: &mut dyn Output) -> Result<String> {
    let before = if footing.has_log { Some(count(connection).await?) } else { None };
    connection.query_answer().await?;
    output.mark(Phase::FirstByte);
    let Some(before) = before else { return Ok(String::new()) };
    let after = count(connection).await?;
    Ok(if before.is_some() && before == after {
        format!("{COUNTED}{}", after.unwrap_or_default())
    } else {
        MOVED.to_owned()
    })
}

async fn count(connection: &mut Connection) -> Result<Option<String>> {
    let rows = connection.query_answer().await?;
    Ok(rows.first().and_then(|row| row.get(1)?.clone()))
}

/// Starts the snapshot anew: the transaction before it ends.
async fn start(connection: &mut Connection, output: &mut dyn Output) -> Result<()> {
    connection.query(START).await?;
    output.mark(Phase::FirstByte);
    Ok(())
}

/// Opens the snapshot while the leader of `before` holds commits back. All who met come here, and meet three times more.
async fn locked(
    connection: &mut Connection,
    footing: &mut Footing,
    lock_wait: Duration,
    endings: &Endings,
    before: &Meeting,
    can_do_without: bool,
    output: &mut dyn Output,
) -> Result<Option<String>> {
    let leader = before.leader();
    let mut lock = None;
    let said = |word: &str, error: &Error| format!("{word}{}\n{}", error.message(), error.hint().unwrap_or_default());
    let word = if before.own != leader {
        String::new()
    } else if footing.is_parallel {
        said(UNSAFE, &parallel())
    } else {
        match Lock::take(connection, footing, lock_wait, endings).await {
            Ok(taken) => {
                lock = Some(taken);
                LOCKED.to_owned()
            }
            Err(error) => {
                let word = match error.kind() {
                    ErrorKind::Permission => REFUSED,
                    ErrorKind::Configuration => ELSEWHERE,
                    _ => BUSY,
                };
                said(word, &error)
            }
        }
    };
    let meeting = output.meet(word).await;
    match meeting.word(leader) {
        Some(LOCKED) => {}
        Some(word) if !can_do_without || word.starts_with(ELSEWHERE) => return Err(refusal(word)),
        // Each reads what it has; without a name in common it counts for no snapshot.
        _ => return Ok(None),
    }
    let Some(lock) = lock else {
        start(connection, output).await?;
        output.meet(String::new()).await;
        let meeting = output.meet(String::new()).await;
        return Ok(meeting.word(leader).filter(|word| !word.is_empty()).map(str::to_owned));
    };
    let end = lock.taken + lock_wait;
    let started = tokio::time::timeout_at(end, start(connection, output)).await;
    started
        .map_err(|_| Error::new(ErrorKind::Timeout, "open snapshot", format!("no snapshot within {lock_wait:?}")))??;
    let in_time = tokio::time::timeout_at(end, output.meet(String::new())).await;
    let released = lock.release(footing).await;
    let word = match (&in_time, released) {
        (Ok(_), Ok(held)) => format!("{}, lock held {} µs", name(connection).await?, held.as_micros()),
        // It may have ended before all had started: nobody knows who saw what.
        _ => String::new(),
    };
    if in_time.is_err() {
        output.meet(String::new()).await;
    }
    output.meet(word.clone()).await;
    Ok(Some(word).filter(|word| !word.is_empty()))
}

/// What the one who takes the lock was told.
fn refusal(word: &str) -> Error {
    let (kind, text) = if let Some(text) = word.strip_prefix(REFUSED) {
        (ErrorKind::Permission, text)
    } else if let Some(text) = word.strip_prefix(ELSEWHERE) {
        (ErrorKind::Configuration, text)
    } else if let Some(text) = word.strip_prefix(UNSAFE) {
        (ErrorKind::Configuration, text)
    } else {
        (ErrorKind::Busy, word.strip_prefix(BUSY).unwrap_or(word))
    };
    let (message, hint) = text.split_once('\n').unwrap_or((text, ""));
    Error::new(kind, "open snapshot", message).with_hint(hint)
}

/// Where in the log the snapshot of this transaction ends, if two answers in a row say the same.
async fn place(connection: &mut Connection) -> Result<Option<String>> {
    let mut last = None;
    for _ in 0..PLACES_MAX {
        let rows = connection.query("SHOW STATUS LIKE 'binlog_snapshot_%'").await?;
        let value = |name: &str| {
            let row =
                rows.iter().find(|row| matches!(row.first(), Some(Some(own)) if own.eq_ignore_ascii_case(name)))?;
            row.get(1)?.clone().filter(|value| !value.is_empty())
        };
        let place = value("binlog_snapshot_file").zip(value("binlog_snapshot_position"));
        let place = place.map(|(file, position)| format!("binlog {file}:{position}"));
        if place.is_none() || place == last {
            return Ok(place);
        }
        last = place;
    }
    Ok(None)
}

/// What a snapshot is called: its place in the log, else the connection that vouches for it and the time.
async fn name(connection: &mut Connection) -> Result<String> {
    if let Some(place) = place(connection).await? {
        return Ok(place);
    }
    let rows = connection.query("SELECT UTC_TIMESTAMP(6)").await?;
    let time = rows.first().and_then(|row| row.first()?.as_deref()).unwrap_or_default();
    Ok(format!("connection {} at {time} UTC", connection.session.thread_id))
}

/// Commits held back, over a connection of its own.
struct Lock {
    connection: Connection,
    /// Ends it if it is dropped, even while the server still waits for it.
    guard: EndGuard,
    end: &'static str,
    /// When it was asked for.
    taken: Instant,
}

impl Lock {
    async fn take(
        reader: &mut Connection,
        footing: &mut Footing,
        allowed: Duration,
        endings: &Endings,
    ) -> Result<Self> {
        let mut spare = footing.spare.take();
        let is_alive = match &mut spare {
            Some(spare) => spare.is_alive().await,
            None => false,
        };
        let mut connection = match spare {
            Some(spare) if is_alive => spare,
            _ => Connection::open(&reader.endpoint).await?,
        };
        if connection.identity != reader.identity {
            return Err(several_servers(&reader.identity, &connection.identity));
        }
        let guard = connection.guard(endings);
        let (before, lock, end) = if footing.has_stages {
            (Some("BACKUP STAGE START"), "BACKUP STAGE BLOCK_COMMIT", "BACKUP STAGE END")
        } else {
            (None, "FLUSH TABLES WITH READ LOCK", "UNLOCK TABLES")
        };
        let seconds = allowed.as_secs() + u64::from(allowed.subsec_nanos() > 0);
        // The server lets go by itself of a lock whose owner says nothing more.
        let bounds = format!("SET SESSION lock_wait_timeout = {seconds}, wait_timeout = {}", seconds + 1);
        let steps = async {
            connection.query(&bounds).await?;
            if let Some(before) = before {
                connection.query(before).await?;
            }
            // New commits wait from here on, while those under way are waited for.
            let taken = Instant::now();
            connection.query(lock).await?;
            Ok(taken)
        };
        let taken = tokio::time::timeout(allowed, steps).await;
        let taken = taken.unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "lock", "no answer")));
        match taken {
            Ok(taken) => Ok(Self { connection, guard, end, taken }),
            Err(error) => Err(explained(error, reader, allowed).await),
        }
    }

    /// Lets commits go on; for how long they were held back.
    async fn release(mut self, footing: &mut Footing) -> Result<Duration> {
        self.connection.query(self.end).await?;
        let held = self.taken.elapsed();
        self.guard.disarm();
        if self.connection.query("SET SESSION wait_timeout = DEFAULT").await.is_ok() {
            footing.spare = Some(self.connection);
        }
        Ok(held)
    }
}

/// Why there is no lock, and what to do.
async fn explained(error: Error, reader: &mut Connection, allowed: Duration) -> Error {
    match error.kind() {
        ErrorKind::Permission => {
            let user = reader.endpoint.subject.user.clone();
            // The account as the server knows it: the same name may have others for other hosts.
            let account =
                reader.query("SELECT CURRENT_USER()").await.ok().and_then(|rows| rows.into_iter().next()?.pop()?);
            let account = account.unwrap_or_else(|| format!("{user}@%"));
            let (name, host) = account.rsplit_once('@').unwrap_or((&account, "%"));
            let account = [name, host].map(|part| format!("'{}'", part.replace('\'', "''"))).join("@");
            let message = format!(
                "sources of one server can read one snapshot by its binary log, which does not do here, or by a lock, \
                 for which `{user}` lacks the right: {}",
                error.message()
            );
            Error::new(ErrorKind::Permission, "open snapshot", message).with_hint(format!(
                "as an administrator: GRANT RELOAD ON *.* TO {account}; or, on MariaDB, turn the binary log on (log_bin)"
            ))
        }
        ErrorKind::Timeout | ErrorKind::Server => {
            let message = format!("the lock was not to be had within {allowed:?}: {}", error.message());
            Error::new(ErrorKind::Busy, "open snapshot", message).with_hint(
                "a backup, a long write or, on MySQL, a long query holds it up: SHOW PROCESSLIST; or raise `snapshot_lock_wait`",
            )
        }
        _ => error,
    }
}

/// Why no lock is taken on a replica that applies with several threads.
fn parallel() -> Error {
    let message = "this replica applies with several threads (slave_parallel_threads), where the lock for a common snapshot can end \
                   the server";
    Error::new(ErrorKind::Configuration, "open snapshot", message).with_hint(
        "let its binary log tell snapshots apart (log_bin, log_slave_updates), set slave_parallel_threads = 0, or read the primary",
    )
}

/// MariaDB's version; `None` of another server.
fn version(server: &str) -> Option<[u32; 3]> {
    let (number, _) = server.split_once("-MariaDB").or_else(|| server.split_once("MariaDB").map(|_| (server, "")))?;
    let mut parts = number.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    Some([parts.next()?, parts.next().unwrap_or(0), parts.next().unwrap_or(0)])
}

/// A table that knows no transactions shows every snapshot its present rows, and so does one whose rows are elsewhere.
async fn check_engines(connection: &mut Connection, relation: &Relation) -> Result<()> {
    let others = format!(
        "SELECT TABLE_SCHEMA, TABLE_NAME, ENGINE FROM information_schema.TABLES \
         WHERE TABLE_TYPE = 'BASE TABLE' AND ENGINE IS NOT NULL \
         AND TABLE_SCHEMA NOT IN ('information_schema', 'performance_schema', 'mysql', 'sys') \
         AND ENGINE NOT IN (SELECT ENGINE FROM information_schema.ENGINES \
         WHERE TRANSACTIONS = 'YES' AND ENGINE NOT IN ({FOREIGN}))"
    );
    if let Relation::Table(table) = relation {
        let table: String = table.bytes().map(|byte| format!("{byte:02x}")).collect();
        let own = format!("TABLE_SCHEMA = DATABASE() AND TABLE_NAME = _utf8mb4 0x{table}");
        let refused = connection.query(&format!("{others} AND {own}")).await?;
        if let Some(row) = refused.first() {
            return Err(without_snapshots(row));
        }
        let types = format!("SELECT TABLE_TYPE FROM information_schema.TABLES WHERE {own}");
        let rows = connection.query(&types).await?;
        if !rows.iter().flatten().flatten().any(|kind| kind.contains("VIEW")) {
            return Ok(());
        }
    }
    let others = connection.query(&others).await?;
    if others.is_empty() {
        return Ok(());
    }
    let explain = if version(&connection.session.server).is_some() { "EXPLAIN EXTENDED" } else { "EXPLAIN" };
    let explained = connection.query(&format!("{explain} {}", relation.whole())).await;
    let plan = explained.map_err(|error| match error.kind() {
        ErrorKind::Server | ErrorKind::Permission => {
            let message = format!("the tables behind the view or query cannot be seen: {}", error.message());
            Error::new(ErrorKind::Permission, "open snapshot", message)
                .with_hint("a snapshot needs transactional tables, and to know them: GRANT SHOW VIEW on the database")
        }
        _ => error,
    })?;
    // The query as the server understands it, views taken apart.
    let notes = connection.query("SHOW WARNINGS").await?;
    let text: Vec<&str> = notes.iter().filter_map(|note| note.get(2)?.as_deref()).collect();
    let quoted = |name: &Option<String>| format!("`{}`", name.as_deref().unwrap_or_default().replace('`', "``"));
    let is_read = |row: &&Vec<Option<String>>| {
        let [Some(schema), Some(table)] = [row.first(), row.get(1)] else { return false };
        let full = format!("{}.{}", quoted(schema), quoted(table));
        text.iter().any(|text| text.contains(&full)) || plan.iter().any(|step| step.get(2) == Some(table))
    };
    others.iter().find(is_read).map_or(Ok(()), |row| Err(without_snapshots(row)))
}

fn without_snapshots(row: &[Option<String>]) -> Error {
    let part = |index: usize| row.get(index).and_then(Option::as_deref).unwrap_or_default();
    let (schema, table, engine) = (part(0), part(1), part(2));
    let is_foreign = FOREIGN.split(", ").any(|name| name.trim_matches('\'').eq_ignore_ascii_case(engine));
    let (what, hint) = if is_foreign {
        ("whose rows belong to no snapshot of this server", "read it at the server that has its rows".to_owned())
    } else {
        ("which knows no snapshots", format!("ALTER TABLE `{schema}`.`{table}` ENGINE = InnoDB"))
    };
    let message = format!("table `{schema}`.`{table}` has the engine {engine}, {what}");
    Error::new(ErrorKind::Configuration, "open snapshot", message)
        .with_hint(format!("{hint}; or read it in a round of its own"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_mariadb_are_told_from_others() {
        assert_eq!(version("10.11.14-MariaDB-0+deb12u2"), Some([10, 11, 14]));
        assert_eq!(version("11.4.2-MariaDB"), Some([11, 4, 2]));
        assert_eq!(version("8.0.36"), None);
        assert_eq!(version("8.4.0-1.debian"), None);
    }

    #[test]
    fn a_refusal_says_to_all_what_was_said_to_one() {
        let error = refusal("refused no right\nGRANT it");
        assert_eq!(
            (error.kind(), error.message(), error.hint()),
            (ErrorKind::Permission, "no right", Some("GRANT it"))
        );
        assert_eq!(refusal("busy later\n").kind(), ErrorKind::Busy);
        assert_eq!(refusal("elsewhere two\n").kind(), ErrorKind::Configuration);
        assert_eq!((refusal("unsafe no\n").kind(), refusal("unsafe no\n").message()), (ErrorKind::Configuration, "no"));
    }

    #[test]
    fn a_table_whose_rows_are_elsewhere_is_not_told_to_change_its_engine() {
        let row = |engine: &str| ["d", "t", engine].map(|part| Some(part.to_owned()));
        let error = without_snapshots(&row("FEDERATED"));
        assert!(error.message().contains("no snapshot of this server"), "{error:?}");
        assert!(!error.hint().unwrap().contains("ALTER"), "{error:?}");
        assert!(without_snapshots(&row("Aria")).hint().unwrap().contains("ENGINE = InnoDB"));
    }
}
