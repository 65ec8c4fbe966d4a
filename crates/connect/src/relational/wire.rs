//! The bytes of one message of a database's protocol. Reading past the end is an error, never a panic.

use std::fmt;
use std::marker::PhantomData;

use portolan_model::{Error, ErrorKind};

/// A message that does not follow the protocol; says what was being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

impl Malformed {
    /// The cross-crate form, for `protocol`, which calls its messages `unit`.
    pub(crate) fn into_error(self, protocol: &str, unit: &str) -> Error {
        Error::new(ErrorKind::Protocol, "read answer", format!("the server does not follow the {protocol} protocol"))
            .with_cause(format!("malformed {unit}: {self}"))
    }
}

/// The unread rest of a message of the protocol `P`, which adds how its own numbers and texts are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a, P> {
    rest: &'a [u8],
    protocol: PhantomData<P>,
}

impl<'a, P> Reader<'a, P> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, protocol: PhantomData }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        match self.rest.split_at_checked(length) {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(head)
            }
            None => Err(Malformed("it ends too early")),
        }
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        match self.rest.split_first_chunk::<N>() {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(*head)
            }
            None => Err(Malformed("it ends too early")),
        }
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Bytes up to a NUL, which is consumed; `None` where there is none.
    pub(crate) fn split_nul(&mut self) -> Option<&'a [u8]> {
        let end = memchr::memchr(0, self.rest)?;
        let head = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Some(head)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    enum Any {}

    #[test]
    fn a_read_beyond_the_end_says_what_the_protocol_calls_it() {
        let mut reader = Reader::<'_, Any>::new(b"ab\0c");
        assert_eq!(reader.take(5), Err(Malformed("it ends too early")));
        assert_eq!(reader.array::<5>(), Err(Malformed("it ends too early")));
        assert_eq!((reader.split_nul(), reader.split_nul(), reader.rest()), (Some(&b"ab"[..]), None, &b"c"[..]));
        assert_eq!((reader.u8(), reader.is_empty(), reader.take(0)), (Ok(b'c'), true, Ok(&b""[..])));
        let error = Malformed("it ends too early").into_error("MySQL", "packet");
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert_eq!(error.message(), "the server does not follow the MySQL protocol");
        assert_eq!(error.source().unwrap().to_string(), "malformed packet: it ends too early");
    }
}
