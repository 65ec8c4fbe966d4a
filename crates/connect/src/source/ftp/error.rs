//! What a server's refusals are as kinds of the cross-crate error, with what to do next.

use portolan_model::{Error, ErrorKind, Retry};

use super::reply::Reply;

/// The cross-crate form of a reply of 4xx or 5xx (RFC 959, section 4.2; RFC 2228, section 4.4; RFC 2428).
pub(super) fn refusal(operation: &'static str, subject: &str, reply: &Reply) -> Error {
    use ErrorKind as K;
    let text = reply.text();
    let lower = text.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let wants_tls = says(&["encrypt", "tls", "ssl", "secure"]);
    let (kind, hint) = match reply.code {
        421 | 434 => (K::Busy, "the server takes no more connections now, or is going down: look at its log and limits".to_owned()),
        425 => (
            K::Disconnected,
            "the data connection did not come about: open the server's passive ports in the firewall between".to_owned(),
        ),
        426 => (K::Disconnected, "the data connection was cut: look at the server's log".to_owned()),
        450 => (K::Busy, "the file is in use on the server".to_owned()),
        430 | 530 if wants_tls => (K::Tls, "the server wants TLS: remove tls.allow_plaintext".to_owned()),
        430 | 530 | 331 | 332 => {
            (K::Authentication, "check `user` and `password`: curl --user USER --list-only ftp://HOST/".to_owned())
        }
        532 => (K::Permission, "the server asks for an account of its own: give this user the right to read".to_owned()),
        522 if wants_tls || says(&["session"]) => (
            K::Tls,
            "the server wants data connections to reuse the TLS session; if it cannot with TLS 1.3, accept 1.2 with the \
             reason: tls = { allow_tls12 = \"…\" }"
                .to_owned(),
        ),
        431 | 533..=537 => {
            (K::Tls, "the server refuses protection: enable TLS there, or write tls = { allow_plaintext = \"REASON\" }".to_owned())
        }
        550 | 553 if says(&["denied", "permission", "permitted", "not allowed"]) => {
            (K::Permission, format!("give the account the right to read: as it, on the server, ls -l {subject}"))
        }
        550 | 553 => {
            (K::NotFound, format!("is it there, and may the account read it? On the server: ls -ld {subject}"))
        }
        500..=504 => (K::Server, "the server does not know a command that is needed: which one is in the message".to_owned()),
        _ => (K::Server, "look at the server's log".to_owned()),
    };
    let retry =
        if (400..500).contains(&reply.code) && kind != K::Authentication { Retry::Transient } else { kind.retry() };
    let of = if subject.is_empty() { String::new() } else { format!("{subject}: ") };
    Error::new(kind, operation, format!("{of}{} {text}", reply.code)).with_retry(retry).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_kinds() {
        for (code, text, kind, retry) in [
            (530, "Login incorrect.", ErrorKind::Authentication, Retry::Permanent),
            (530, "Non-anonymous sessions must use encryption.", ErrorKind::Tls, Retry::Permanent),
            (550, "Permission denied", ErrorKind::Permission, Retry::Permanent),
            (550, "No such file or directory", ErrorKind::NotFound, Retry::Permanent),
            (421, "Too many users", ErrorKind::Busy, Retry::Transient),
            (425, "Can't open data connection", ErrorKind::Disconnected, Retry::Transient),
            (426, "Failure writing network stream.", ErrorKind::Disconnected, Retry::Transient),
            (451, "Local error", ErrorKind::Server, Retry::Transient),
            (522, "SSL connection failed; session reuse required", ErrorKind::Tls, Retry::Permanent),
            (502, "Command not implemented", ErrorKind::Server, Retry::Permanent),
        ] {
            let error = refusal("read file", "/a", &Reply { code, lines: vec![text.into()] });
            assert_eq!((error.kind(), error.retry()), (kind, retry), "{code} {text}");
            assert!(error.hint().is_some() && error.message().contains(text), "{error:?}");
        }
    }
}
