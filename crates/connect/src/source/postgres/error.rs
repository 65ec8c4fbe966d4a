//! The server's SQLSTATEs as kinds of the cross-crate error, with what to do next.

use portolan_model::{Error, ErrorKind, Retry};

use super::statement::quoted;
use super::wire::answer::ServerError;
use crate::relational;

/// What a server's error concerns, for the hints.
#[derive(Clone, Debug, Default)]
pub(super) struct Subject {
    pub(super) user: String,
    pub(super) database: String,
    /// Schema and table, where the source reads one.
    pub(super) table: Option<(String, String)>,
    pub(super) is_encrypted: bool,
}

/// Where to connect, and as whom.
pub(super) type Endpoint = relational::Endpoint<Subject>;

impl Subject {
    /// The statement that gives the right to read.
    fn grant(&self) -> String {
        let user = quoted(&self.user);
        match &self.table {
            Some((schema, table)) => {
                let (schema, table) = (quoted(schema), quoted(table));
                format!(
                    "as its owner: GRANT USAGE ON SCHEMA {schema} TO {user}; GRANT SELECT ON {schema}.{table} TO {user}"
                )
            }
            None => format!("as an administrator: GRANT SELECT ON … TO {user}, or GRANT pg_read_all_data TO {user}"),
        }
    }

    /// The line that lets this account in.
    fn access_line(&self) -> String {
        let line = format!("hostssl \"{}\" \"{}\" OUR_ADDRESS/32 scram-sha-256", self.database, self.user);
        let plain = if self.is_encrypted { "" } else { "; lines with `hostssl` let nobody in without TLS" };
        format!("pg_hba.conf on the server decides: add `{line}` and reload (SELECT pg_reload_conf()){plain}")
    }

    /// The cross-crate form of `error`.
    pub(super) fn map(&self, operation: &'static str, error: &ServerError) -> Error {
        use ErrorKind as K;
        let code = error.code.as_str();
        let class = code.get(..2).unwrap_or_default();
        let (kind, hint) = match code {
            // No line of pg_hba.conf, or one that rejects: told apart from a wrong account by the server's function.
            "28000" if error.routine == "ClientAuthentication" => (K::Permission, Some(self.access_line())),
            "28000" | "28P01" => (
                K::Authentication,
                Some(format!("check `user` and `password`: psql --username={} --password --host=…", self.user)),
            ),
            "42501" => (K::Permission, Some(self.grant())),
            "25006" => (K::Permission, Some("a source only reads: `query` must not write".into())),
            "3D000" => (K::NotFound, Some("check `database`: psql --list".into())),
            "3F000" | "42P01" => (K::NotFound, Some("check `schema` and `table`: \\dt *.* in psql".into())),
            "42703" => (K::NotFound, Some("check the column names in `cursor` and `query`: \\d in psql".into())),
            "42883" | "42704" => (K::NotFound, None),
            "53300" => (
                K::Busy,
                Some(
                    "the server's limit of connections is reached: SHOW max_connections; \\drds and \\du in psql"
                        .into(),
                ),
            ),
            "57P03" => (K::Busy, Some("the server starts, stops or recovers: it is tried again".into())),
            "57P01" | "57P02" | "57P04" | "57P05" | "25P03" => (
                K::Disconnected,
                Some(
                    "look at the server's log: it stopped, or somebody ended the session (pg_terminate_backend)".into(),
                ),
            ),
            "57014" => (
                K::Timeout,
                Some("its own statement_timeout, or somebody who ended the query (pg_cancel_backend)".into()),
            ),
            // Of a transaction that only reads, and so has nothing to serialize.
            "40001" if error.routine.contains("Interrupt") => (
                K::Server,
                Some(
                    "a standby ends what keeps it from following its primary: there, hot_standby_feedback = on or a longer \
                     max_standby_streaming_delay"
                        .into(),
                ),
            ),
            "55P03" => {
                (K::Timeout, Some("another transaction holds a lock: SELECT * FROM pg_locks WHERE NOT granted".into()))
            }
            "0A000" if error.routine == "RevalidateCachedQuery" => {
                (K::Data, Some("it is read with its new columns next time".into()))
            }
            "42601" => (K::Configuration, Some("check the SQL in `query`: one SELECT".into())),
            _ => match class {
                "42" | "0A" => (K::Configuration, Some("check the SQL in `query`".into())),
                "08" => (K::Disconnected, Some("look at the server's log".into())),
                "53" => (K::Busy, Some("the server is short of memory or disk: look at its log".into())),
                _ => (K::Server, None),
            },
        };
        let retry = match (code, class) {
            // Serialization failures, deadlocks, a query that a standby's recovery ended.
            (_, "40") | ("57014" | "0A000", _) => Retry::Transient,
            _ => kind.retry(),
        };
        let mut message = format!("SQLSTATE {code}: {}", error.message.trim());
        if let Some(detail) = &error.detail {
            message.push_str(&format!(" ({})", detail.trim()));
        }
        let mapped = Error::new(kind, operation, message).with_retry(retry);
        let own = error.hint.as_deref().map(|hint| hint.trim().trim_end_matches('.').to_owned());
        let hints: Vec<String> = own.into_iter().chain(hint).collect();
        if hints.is_empty() { mapped } else { mapped.with_hint(hints.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_kinds() {
        let table = Some(("s".to_owned(), "t".to_owned()));
        let subject = Subject { user: "o\"x".into(), database: "d".into(), table, is_encrypted: true };
        let map = |code: &str, routine: &str| {
            let error = ServerError {
                code: code.into(),
                message: "said the server".into(),
                routine: routine.into(),
                ..ServerError::default()
            };
            subject.map("read", &error)
        };
        for (code, routine, kind, retry) in [
            ("28P01", "auth_failed", ErrorKind::Authentication, Retry::Permanent),
            ("28000", "InitializeSessionUserId", ErrorKind::Authentication, Retry::Permanent),
            ("28000", "ClientAuthentication", ErrorKind::Permission, Retry::Permanent),
            ("42501", "", ErrorKind::Permission, Retry::Permanent),
            ("42P01", "", ErrorKind::NotFound, Retry::Permanent),
            ("53300", "", ErrorKind::Busy, Retry::Transient),
            ("57P03", "", ErrorKind::Busy, Retry::Transient),
            ("57P01", "", ErrorKind::Disconnected, Retry::Transient),
            ("57014", "", ErrorKind::Timeout, Retry::Transient),
            ("40001", "", ErrorKind::Server, Retry::Transient),
            ("40001", "ProcessInterrupts", ErrorKind::Server, Retry::Transient),
            ("22012", "", ErrorKind::Server, Retry::Permanent),
            ("0A000", "RevalidateCachedQuery", ErrorKind::Data, Retry::Transient),
            ("", "", ErrorKind::Server, Retry::Permanent),
        ] {
            assert_eq!((map(code, routine).kind(), map(code, routine).retry()), (kind, retry), "{code}");
        }
        assert!(map("40001", "").hint().is_none());
        assert!(map("40001", "ProcessRecoveryConflictInterrupt").hint().unwrap().contains("standby"));
        assert!(map("42501", "").hint().unwrap().contains("GRANT SELECT ON \"s\".\"t\" TO \"o\"\"x\""));
    }
}
