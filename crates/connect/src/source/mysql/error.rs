//! The server's error codes as kinds of the cross-crate error, with what to do next.

use portolan_model::{Error, ErrorKind, Retry};

use super::wire::message::ServerError;
use crate::relational;

/// What a server's error concerns, for the hints.
#[derive(Clone, Debug, Default)]
pub(super) struct Subject {
    pub(super) user: String,
    pub(super) database: String,
    pub(super) table: Option<String>,
}

/// Where to connect, and as whom.
pub(super) type Endpoint = relational::Endpoint<Subject>;

impl Subject {
    /// The statement that gives the right to read.
    fn grant(&self) -> String {
        let quoted = |name: &str| format!("`{}`", name.replace('`', "``"));
        let table = self.table.as_deref().map_or("*".to_owned(), quoted);
        let user = self.user.replace('\'', "''");
        format!("as an administrator: GRANT SELECT ON {}.{table} TO '{user}'@'%'", quoted(&self.database))
    }

    /// The cross-crate form of `error`.
    pub(super) fn map(&self, operation: &'static str, error: &ServerError) -> Error {
        use ErrorKind as K;
        let (kind, hint) = match error.code {
            1045 | 1698 | 1820 | 1862 | 3118 | 4151 => (
                K::Authentication,
                Some(format!("check `user` and `password`: mysql --user={} --password --host=…", self.user)),
            ),
            1251 | 1275 => (K::Authentication, Some("give the account a newer login method".into())),
            1044 | 1142 | 1143 | 1227 | 1370 => (K::Permission, Some(self.grant())),
            1792 => (K::Permission, Some("a source only reads: `query` must not write".into())),
            1049 => (K::NotFound, Some("check `database`: SHOW DATABASES".into())),
            1146 => (K::NotFound, Some(format!("check `table`: SHOW TABLES FROM `{}`", self.database))),
            1054 => (K::NotFound, Some("check the column names in `cursor` and `query`: SHOW COLUMNS FROM …".into())),
            1305 | 1356 => (K::NotFound, None),
            1040 | 1203 | 1226 => (
                K::Busy,
                Some("the server's limit of connections is reached: SHOW VARIABLES LIKE 'max%connections'".into()),
            ),
            1041 | 1135 | 1037 | 1038 => (K::Busy, None),
            1129 => (K::Unreachable, Some("on the server: FLUSH HOSTS (or mariadb-admin flush-hosts)".into())),
            1130 => {
                (K::Permission, Some("the server lets no account in from this host: CREATE USER '…'@'HOST'".into()))
            }
            3159 | 4219 => (K::Tls, Some("the account needs TLS: remove `allow_plaintext`".into())),
            1064 | 1149 => (K::Configuration, Some("check the SQL in `query`".into())),
            1295 => (K::Configuration, Some("`query` must be a SELECT that can be prepared".into())),
            1053 | 1077 | 1079 | 1080 | 1152 | 1184 | 1927 | 4031 => (K::Disconnected, None),
            1317 => (K::Disconnected, Some("somebody ended the query: SHOW PROCESSLIST".into())),
            1969 | 3024 | 1907 => (K::Timeout, Some("the server's own limit of a statement's time was reached".into())),
            _ => (K::Server, None),
        };
        let retry = match error.code {
            // Lock wait timeout, deadlock, changed table definition, disk full on the server.
            1205 | 1213 | 1412 | 1021 | 1030 | 1114 | 1615 => Retry::Transient,
            1317 | 1969 | 3024 | 1907 | 1129 => Retry::Transient,
            _ => kind.retry(),
        };
        let state = if error.state.is_empty() { String::new() } else { format!(" ({})", error.state) };
        let mapped = Error::new(kind, operation, format!("error {}{state}: {}", error.code, error.message.trim()))
            .with_retry(retry);
        match hint {
            Some(hint) => mapped.with_hint(hint),
            None => mapped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_kinds() {
        let subject = Subject { user: "o'x".into(), database: "a`b".into(), table: Some("t".into()) };
        let map =
            |code| subject.map("read", &ServerError { code, state: "HY000".into(), message: "said the server".into() });
        for (code, kind, retry) in [
            (1045, ErrorKind::Authentication, Retry::Permanent),
            (1142, ErrorKind::Permission, Retry::Permanent),
            (1146, ErrorKind::NotFound, Retry::Permanent),
            (1040, ErrorKind::Busy, Retry::Transient),
            (1205, ErrorKind::Server, Retry::Transient),
            (1213, ErrorKind::Server, Retry::Transient),
            (1053, ErrorKind::Disconnected, Retry::Transient),
            (9999, ErrorKind::Server, Retry::Permanent),
        ] {
            assert_eq!((map(code).kind(), map(code).retry()), (kind, retry), "{code}");
        }
        assert_eq!(map(1142).hint(), Some("as an administrator: GRANT SELECT ON `a``b`.`t` TO 'o''x'@'%'"));
    }
}
