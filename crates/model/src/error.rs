//! The one error that crosses crate borders: what failed, on which source and port, why, whether trying again can
//! help, and what to do next.

use std::fmt;
use std::time::Duration;

use crate::name::SourceName;

/// A result with the cross-crate error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it is. Stable: the names appear in the lake, in `status` and in exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The configuration is wrong or asks for what this build cannot do.
    Configuration,
    /// The host name did not resolve.
    NameResolution,
    /// Nothing listens on the port, or the network refuses the way.
    Unreachable,
    /// No answer within the time allowed.
    Timeout,
    /// The connection ended before the answer was whole.
    Disconnected,
    /// The TLS handshake or a certificate failed.
    Tls,
    /// The server refused who we are.
    Authentication,
    /// The server knows us and refuses what we ask.
    Permission,
    /// What we ask for is not there (a path, a table, a column).
    NotFound,
    /// The server says it cannot serve now.
    Busy,
    /// The server answered with an error of its own.
    Server,
    /// What came is not the protocol that was configured.
    Protocol,
    /// The protocol is right and the content is not readable as configured.
    Data,
    /// A limit of ours was exceeded (body size, row size, pages, queue).
    Limit,
    /// The lake could not store.
    Storage,
    /// The disk is full.
    StorageFull,
    /// The lake's own content is not what it should be.
    Corrupt,
    /// Another process holds what we need (the lake's write lock).
    Conflict,
    /// The work was asked to stop.
    Cancelled,
    /// A defect of Portolan.
    Internal,
}

impl ErrorKind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [ErrorKind; 20] = [
        Self::Configuration,
        Self::NameResolution,
        Self::Unreachable,
        Self::Timeout,
        Self::Disconnected,
        Self::Tls,
        Self::Authentication,
        Self::Permission,
        Self::NotFound,
        Self::Busy,
        Self::Server,
        Self::Protocol,
        Self::Data,
        Self::Limit,
        Self::Storage,
        Self::StorageFull,
        Self::Corrupt,
        Self::Conflict,
        Self::Cancelled,
        Self::Internal,
    ];

    /// The stable name, as stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::NameResolution => "name_resolution",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Disconnected => "disconnected",
            Self::Tls => "tls",
            Self::Authentication => "authentication",
            Self::Permission => "permission",
            Self::NotFound => "not_found",
            Self::Busy => "busy",
            Self::Server => "server",
            Self::Protocol => "protocol",
            Self::Data => "data",
            Self::Limit => "limit",
            Self::Storage => "storage",
            Self::StorageFull => "storage_full",
            Self::Corrupt => "corrupt",
            Self::Conflict => "conflict",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }

    /// Whether trying the same again later can succeed, by default for the kind.
    pub fn retry(self) -> Retry {
        match self {
            Self::NameResolution
            | Self::Unreachable
            | Self::Timeout
            | Self::Disconnected
            | Self::Busy
            | Self::Storage
            | Self::StorageFull
            | Self::Conflict => Retry::Transient,
            _ => Retry::Permanent,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Whether trying the same again later can succeed by itself: for people. Rounds and probes try again after either, since
/// what somebody has to change is changed elsewhere and seen by trying alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It may succeed by itself.
    Transient,
    /// Somebody has to change something first.
    Permanent,
}

/// The error that crosses crate borders.
///
/// Messages are lower-case fragments that name the entity and the value, without a full stop; `Display` prints
/// `operation: message`, with source and address where known. The cause chain is in [`std::error::Error::source`].
/// Boxed inside, so that a `Result` stays small.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    retry: Retry,
    operation: &'static str,
    message: String,
    source_name: Option<SourceName>,
    address: Option<String>,
    hint: Option<String>,
    retry_after: Option<Duration>,
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` in `operation` (a short verb phrase such as `connect` or `decode body`).
    pub fn new(kind: ErrorKind, operation: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            retry: kind.retry(),
            operation,
            message: message.into(),
            source_name: None,
            address: None,
            hint: None,
            retry_after: None,
            cause: None,
        }))
    }

    /// Names the source that failed.
    #[must_use]
    pub fn with_source(mut self, name: &SourceName) -> Self {
        self.0.source_name = Some(name.clone());
        self
    }

    /// Names the address (`host:port`) it failed on.
    #[must_use]
    pub fn with_address(mut self, address: impl Into<String>) -> Self {
        self.0.address = Some(address.into());
        self
    }

    /// Says what to do next.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Overrides whether trying again can help.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// The server asked not to be tried again before this time has passed.
    #[must_use]
    pub fn with_retry_after(mut self, delay: Duration) -> Self {
        self.0.retry_after = Some(delay);
        self
    }

    /// Keeps the error underneath.
    #[must_use]
    pub fn with_cause(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether trying again can help.
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// The operation that failed.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// What failed, without the context that `Display` adds.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The source that failed, where known.
    pub fn source_name(&self) -> Option<&SourceName> {
        self.0.source_name.as_ref()
    }

    /// The address it failed on, where known.
    pub fn address(&self) -> Option<&str> {
        self.0.address.as_deref()
    }

    /// What to do next, where known.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// How long the server asked to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The message with every cause underneath, in one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let part = error.to_string();
            if !text.ends_with(&part) {
                text.push_str(": ");
                text.push_str(&part);
            }
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { source_name, address, operation, message, .. } = &*self.0;
        match (source_name, address) {
            (Some(name), Some(address)) => write!(formatter, "source `{name}` at {address}: ")?,
            (Some(name), None) => write!(formatter, "source `{name}`: ")?,
            (None, Some(address)) => write!(formatter, "{address}: ")?,
            (None, None) => {}
        }
        write!(formatter, "{operation}: {message}")
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "[{}] {}", self.0.kind, self.chain())?;
        if let Some(hint) = &self.0.hint {
            write!(formatter, " (next: {hint})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_distinct_names() {
        let names: std::collections::BTreeSet<_> = ErrorKind::ALL.iter().map(|kind| kind.as_str()).collect();
        assert_eq!(names.len(), ErrorKind::ALL.len());
    }

    #[test]
    fn display_names_source_address_operation_and_cause() {
        let error = Error::new(ErrorKind::Unreachable, "connect", "connection refused")
            .with_source(&SourceName::new("orders").unwrap())
            .with_address("127.0.0.1:3306")
            .with_cause(std::io::Error::other("os error 111"));
        assert_eq!(error.chain(), "source `orders` at 127.0.0.1:3306: connect: connection refused: os error 111");
        assert_eq!(error.retry(), Retry::Transient);
    }
}
