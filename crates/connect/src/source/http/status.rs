//! What an answer's status, and the absence of an answer, mean.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use portolan_model::error::{Error, ErrorKind, Retry};

use super::exchange::{Answer, Failure};
use crate::transport::{Observed, sniff};

/// The longest wait a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3_600);
/// How much of an error answer's body is shown.
const EXCERPT_CHARACTERS: usize = 160;

/// The error that an answer which is not a success means.
pub(super) fn refusal(answer: &Answer, target: &str, now: Timestamp) -> Error {
    let status = answer.status;
    let (kind, hint) = match status.as_u16() {
        401 => (ErrorKind::Authentication, Some("check `auth` of the source and the secret it names")),
        403 => (ErrorKind::Permission, Some("the server knows who asks and refuses; grant the account this path")),
        404 | 410 => (ErrorKind::NotFound, Some("check `path`, `query` and the port")),
        408 | 425 | 429 | 503 => (ErrorKind::Busy, None),
        400 if is_plaintext_on_tls(answer) => {
            (ErrorKind::Protocol, Some("the port speaks TLS: remove allow_plaintext from `tls`"))
        }
        _ => (ErrorKind::Server, None),
    };
    let mut message = format!("the request for {} answered {status}", without_query(target));
    let excerpt = excerpt(answer);
    if !excerpt.is_empty() {
        message.push_str(&format!(": {excerpt}"));
    }
    let mut error = Error::new(kind, "read", message);
    if status.is_server_error() {
        error = error.with_retry(Retry::Transient);
    }
    if let Some(hint) = hint {
        error = error.with_hint(hint);
    }
    match retry_after(&answer.headers, now) {
        Some(delay) => error.with_retry_after(delay),
        None => error,
    }
}

/// A path or URL without its query, for messages: APIs take keys and tokens there.
pub(super) fn without_query(target: &str) -> &str {
    target.split('?').next().unwrap_or(target)
}

fn is_plaintext_on_tls(answer: &Answer) -> bool {
    let body = String::from_utf8_lossy(&answer.body[..answer.body.len().min(2_048)]);
    body.contains("plain HTTP request was sent to HTTPS port") || body.contains("speaking plain HTTP to an SSL-enabled")
}

fn excerpt(answer: &Answer) -> String {
    if answer.headers.contains_key(http::header::CONTENT_ENCODING) {
        return String::new();
    }
    let text = String::from_utf8_lossy(&answer.body[..answer.body.len().min(1_024)]);
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().filter(|character| !character.is_control()).take(EXCERPT_CHARACTERS).collect()
}

/// `Retry-After` (RFC 9110, section 10.2.3): seconds or a date.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let delay = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let instant = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
            Duration::try_from(instant.duration_since(now)).unwrap_or_default()
        }
    };
    Some(delay.min(RETRY_AFTER_MAX))
}

/// The error that a missing or broken answer means.
pub(super) fn failure(
    failure: Failure,
    observed: &Observed,
    silence: Duration,
    tls: bool,
    http2: bool,
    body_max: u64,
) -> Error {
    match failure {
        Failure::TooLarge => Error::new(ErrorKind::Limit, "read", format!("the body is larger than {body_max} bytes"))
            .with_hint("raise `max_body`, or read less at a time with `pagination` or `cursor`"),
        Failure::Silent { answered } => {
            let what = if answered { "the answer stopped" } else { "no answer" };
            Error::new(ErrorKind::Timeout, "read", format!("{what} for {silence:?}"))
                .with_hint("the server accepts connections and is silent; raise `idle_timeout` if it is only slow")
        }
        Failure::Broken { error, answered } => broken(error, answered, observed, tls, http2),
    }
}

fn broken(error: Option<hyper::Error>, answered: bool, observed: &Observed, tls: bool, http2: bool) -> Error {
    let first = observed.first();
    // HTTP/2 begins with its settings, not with a status line.
    let familiar = if http2 { sniff::describe(first) == Some("HTTP/2 settings") } else { first.starts_with(b"HTTP/") };
    let stranger = !tls && !first.is_empty() && !familiar;
    let is_parse = error.as_ref().is_some_and(hyper::Error::is_parse);
    if stranger || is_parse {
        let what = match sniff::describe(first) {
            Some(what) if stranger => {
                format!("what came is not HTTP: this looks like {what} ({:?})", sniff::shown(first))
            }
            _ if stranger => format!("what came is not HTTP: it starts with {:?}", sniff::shown(first)),
            _ => "the answer breaks the rules of HTTP".to_owned(),
        };
        let hint = match sniff::describe(first) {
            Some("a TLS alert" | "a TLS handshake") => "the port speaks TLS: remove allow_plaintext from `tls`",
            Some("HTTP/2 settings") => "the port speaks HTTP/2: set http2 = true",
            _ => "is the port right, is `protocol` right, is `tls` set right?",
        };
        let result = Error::new(ErrorKind::Protocol, "read", what).with_hint(hint);
        return match error {
            Some(error) => result.with_cause(error),
            None => result,
        };
    }
    let message = if answered {
        "the server closed the connection before its answer was whole"
    } else {
        "the server closed the connection without an answer"
    };
    let result = Error::new(ErrorKind::Disconnected, "read", message)
        .with_hint("look at the logs of the server and of proxies before it, and at their limits of time and size");
    match error {
        Some(error) => result.with_cause(error),
        None => result,
    }
}

/// Whether a status is worth reading a body for.
pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_takes_seconds_and_dates() {
        let now: Timestamp = "1994-11-06T08:49:00Z".parse().unwrap();
        let delay = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(delay("120"), Some(Duration::from_secs(120)));
        assert_eq!(delay("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(37)));
        assert_eq!(delay("Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(delay("99999999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(delay("soon"), None);
    }
}
