//! The server's errors as kinds of the cross-crate error, with what to do next.

use portolan_model::{Error, ErrorKind, Retry};

use super::resp::Fault;

/// The longest part of a server's error that is repeated.
const MESSAGE_CHARS_MAX: usize = 300;

/// What a server's error concerns, for the hints.
#[derive(Clone, Debug, Default)]
pub(super) struct Subject {
    /// The ACL user.
    pub(super) user: String,
    /// The keys that are read, as an ACL pattern.
    pub(super) keys: String,
    /// The consumer group, where one is read.
    pub(super) group: Option<String>,
    /// The database.
    pub(super) database: u32,
}

impl Subject {
    /// The cross-crate form of `error`, which the server gave to `command`.
    pub(super) fn map(&self, operation: &'static str, command: &str, error: &[u8]) -> Error {
        use ErrorKind as K;
        let text: String = String::from_utf8_lossy(error).trim().chars().take(MESSAGE_CHARS_MAX).collect();
        let lower = text.to_lowercase();
        let code = text.split(' ').next().unwrap_or_default();
        let user = &self.user;
        let (kind, hint) = match code {
            "WRONGPASS" => {
                (K::Authentication, format!("check `user` and `password`: redis-cli --user {user} --askpass PING"))
            }
            "NOAUTH" => {
                (K::Authentication, "the server wants a login: write `password`, and `user` for an ACL user".into())
            }
            "NOPERM" if lower.contains("key") => {
                (K::Permission, format!("as an administrator: ACL SETUSER {user} '~{}'", self.keys.replace('\'', "?")))
            }
            "NOPERM" => (K::Permission, format!("as an administrator: ACL SETUSER {user} {}", rule(command))),
            "DENIED" => (
                K::Permission,
                "the server is in protected mode: give it a password (requirepass) or an ACL user, then a bind address"
                    .into(),
            ),
            "LOADING" => (K::Busy, "the server loads its data: redis-cli INFO persistence".into()),
            "BUSY" => (K::Busy, "a script runs on the server: redis-cli SCRIPT KILL".into()),
            "MASTERDOWN" => (K::Busy, "the replica has lost its primary: redis-cli INFO replication".into()),
            "TRYAGAIN" | "CLUSTERDOWN" => (K::Busy, "look at the cluster: redis-cli CLUSTER INFO".into()),
            "OOM" => (K::Busy, "the server's memory is full: redis-cli INFO memory".into()),
            "MISCONF" | "NOREPLICAS" => {
                (K::Busy, "the server takes no writes, which a group needs: look at its log".into())
            }
            "MOVED" | "ASK" | "CROSSSLOT" => (K::Configuration, CLUSTER.into()),
            "READONLY" => (
                K::Configuration,
                "a replica keeps no groups: read the group from the primary, or the stream without `group`".into(),
            ),
            "NOGROUP" => {
                let group = self.group.as_deref().unwrap_or_default();
                (
                    K::NotFound,
                    format!("redis-cli XGROUP CREATE '{}' '{group}' 0 MKSTREAM, or create_group = true", self.keys),
                )
            }
            "WRONGTYPE" => {
                (K::Configuration, format!("look what it holds: redis-cli -n {} TYPE '{}'", self.database, self.keys))
            }
            _ if lower.contains("max number of clients") => {
                (K::Busy, "the server's limit of connections is reached: redis-cli CONFIG GET maxclients".into())
            }
            _ if lower.contains("db index") || lower.contains("select is not allowed") => {
                (K::NotFound, "check `database`: redis-cli CONFIG GET databases".into())
            }
            _ if lower.contains("unknown command") || lower.contains("syntax error") => (
                K::Server,
                format!(
                    "the server does not know {command} as it is used here: Redis 6 or Valkey is the oldest that is read"
                ),
            ),
            _ => (K::Server, "the server's own words say what: look at its log".into()),
        };
        Error::new(kind, operation, format!("{command}: {text}")).with_hint(hint)
    }
}

/// What is said of clusters.
pub(super) const CLUSTER: &str =
    "clusters are not read: one node has a part of the keys; read a standalone server or a replica of one";

/// The ACL rule that allows a command.
fn rule(command: &str) -> String {
    let mut words = command.split(' ');
    let name = words.next().unwrap_or_default().to_lowercase();
    match words.next() {
        Some(sub) if name != "scan" => format!("+{name}|{}", sub.to_lowercase()),
        _ => format!("+{name}"),
    }
}

/// The cross-crate form of bytes that are refused.
pub(super) fn refused(fault: &Fault) -> Error {
    match fault {
        Fault::Malformed(what) => Error::new(
            ErrorKind::Protocol,
            "read reply",
            format!("the server does not follow the Redis protocol: {what}"),
        )
        .with_hint("another service may listen on this port: check `port` and `protocol`"),
        Fault::TooLarge { what, size, limit } => {
            Error::new(ErrorKind::Limit, "read reply", format!("{what} has {size}, more than the {limit} allowed"))
                .with_hint("if it is wanted, raise `max_value`; `count` makes replies of many elements smaller")
                .with_retry(Retry::Permanent)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_kinds() {
        let subject =
            Subject { user: "reader".into(), keys: "s:*".into(), group: Some("g".into()), ..Subject::default() };
        let map = |command: &str, text: &str| subject.map("read", command, text.as_bytes());
        for (text, kind, retry) in [
            ("WRONGPASS invalid username-password pair", ErrorKind::Authentication, Retry::Permanent),
            ("NOAUTH Authentication required.", ErrorKind::Authentication, Retry::Permanent),
            ("LOADING Redis is loading the dataset in memory", ErrorKind::Busy, Retry::Transient),
            ("BUSY Redis is busy running a script.", ErrorKind::Busy, Retry::Transient),
            ("MASTERDOWN Link with MASTER is down", ErrorKind::Busy, Retry::Transient),
            ("OOM command not allowed", ErrorKind::Busy, Retry::Transient),
            ("ERR max number of clients reached", ErrorKind::Busy, Retry::Transient),
            ("MOVED 3999 127.0.0.1:6381", ErrorKind::Configuration, Retry::Permanent),
            ("NOGROUP No such key", ErrorKind::NotFound, Retry::Permanent),
            ("WRONGTYPE Operation against a key", ErrorKind::Configuration, Retry::Permanent),
            ("ERR DB index is out of range", ErrorKind::NotFound, Retry::Permanent),
            ("ERR something", ErrorKind::Server, Retry::Permanent),
        ] {
            let error = map("GET", text);
            assert_eq!((error.kind(), error.retry()), (kind, retry), "{text}");
            assert!(error.hint().is_some(), "{text}");
        }
        assert_eq!(
            map("XINFO STREAM", "NOPERM this user has no permissions to run the 'xinfo|stream' command").hint(),
            Some("as an administrator: ACL SETUSER reader +xinfo|stream")
        );
        assert_eq!(
            map("HSCAN", "NOPERM this user has no permissions to access one of the keys used as arguments").hint(),
            Some("as an administrator: ACL SETUSER reader '~s:*'")
        );
    }
}
