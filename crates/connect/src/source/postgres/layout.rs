//! What is read, as the server's catalog has it: the tables behind it with their files, partitions and views.
//!
//! A snapshot is one of rows, not of tables. One that was emptied or written anew since (TRUNCATE, some forms of ALTER TABLE, REFRESH
//! MATERIALIZED VIEW) shows no rows, or those of later (PostgreSQL documentation, 13.6 "Caveats"); a partition that came or
//! went, a view that was replaced and a policy for rows count as they are now. The table's lock keeps all that away from the first row on, not before.
//!
//! Promise: where the layout is the same before the snapshot and after the last row, the rows are those of the snapshot.

use portolan_model::{Error, ErrorKind, Result, Retry};

use super::connection::Connection;
use super::statement::Relation;

/// The relations that the statement before it in the same message has locked, each with what decides which rows it has. What
/// is numbered below 16384 is the server's own. A row of a catalog has another `xmin` once it is changed.
const FACTS: &str = "WITH seen AS (SELECT DISTINCT relation AS seen FROM pg_catalog.pg_locks \
     WHERE locktype = 'relation' AND pid = pg_backend_pid() AND relation >= 16384), \
     facts AS (SELECT concat_ws(' ', 'relation', c.oid, relkind, relfilenode, relrowsecurity, relforcerowsecurity) AS fact \
     FROM pg_catalog.pg_class c JOIN seen ON c.oid = seen WHERE relkind NOT IN ('i', 'I') \
     UNION ALL SELECT concat_ws(' ', 'rule', r.oid, r.xmin) FROM pg_catalog.pg_rewrite r JOIN seen ON ev_class = seen \
     UNION ALL SELECT concat_ws(' ', 'policy', p.oid, p.xmin) FROM pg_catalog.pg_policy p JOIN seen ON polrelid = seen \
     UNION ALL SELECT concat_ws(' ', 'part', inhrelid, inhparent, i.xmin) FROM pg_catalog.pg_inherits i \
     JOIN seen ON inhparent = seen) \
     SELECT string_agg(fact, ', ' ORDER BY fact) FROM facts";

/// The tables behind what is read, as they are now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout(Option<String>);

impl Layout {
    /// What `relation` is made of.
    ///
    /// # Errors
    /// `Configuration` if it reads a foreign table, whose server has snapshots of its own; what the server says.
    pub(super) async fn of(connection: &mut Connection, relation: &Relation) -> Result<Self> {
        // One message is one transaction: the locks of the first statement are there for the second.
        let mut rows = connection.query(&format!("EXPLAIN (COSTS OFF) {}\n; {FACTS}", relation.whole())).await?;
        let facts = rows.pop().and_then(|mut row| row.pop()).flatten();
        let steps = rows.iter().flatten().flatten();
        let mut steps = steps.map(|step| step.trim_start().trim_start_matches("->").trim_start());
        match steps.find_map(|step| step.strip_prefix("Async ").unwrap_or(step).strip_prefix("Foreign Scan")) {
            None => Ok(Self(facts)),
            Some(rest) => {
                let message = format!("a foreign table belongs to no snapshot of this server: foreign scan{rest}");
                Err(Error::new(ErrorKind::Configuration, "open snapshot", message)
                    .with_hint("read it at its own server, or in a round of its own"))
            }
        }
    }

    /// Looks whether `relation` is still made of the same, its snapshot having been read.
    ///
    /// # Errors
    /// `Data` if not; as [`Self::of`].
    pub(super) async fn check(&self, connection: &mut Connection, relation: &Relation) -> Result<()> {
        if Self::of(connection, relation).await? == *self {
            return Ok(());
        }
        let message = "a table that is read was emptied, written anew or altered while its snapshot was read: rows may be missing, \
                       or be of later";
        Err(Error::new(ErrorKind::Data, "close snapshot", message).with_retry(Retry::Transient).with_hint(
            "it is read again with the next round; a job that comes each time (TRUNCATE, REFRESH MATERIALIZED VIEW) wants \
             another time, or DELETE and REFRESH … CONCURRENTLY",
        ))
    }
}
