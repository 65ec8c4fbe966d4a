//! A whole reply, and its values one after the other.

use super::resp::{Fault, Node};

/// One value of a reply, with its bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// A string.
    Text(&'a [u8]),
    /// An error.
    Error(&'a [u8]),
    /// An integer.
    Integer(i64),
    /// A double.
    Double(f64),
    /// A truth value.
    Boolean(bool),
    /// Nothing.
    Null,
    /// So many elements follow.
    Array(u32),
}

/// A whole reply, read value by value.
#[derive(Clone, Debug)]
pub struct Reply<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) nodes: &'a [Node],
    pub(super) next: usize,
}

impl<'a> Reply<'a> {
    /// The next value without going on.
    pub fn peek(&self) -> Option<Value<'a>> {
        let text = |start: u32, end: u32| self.bytes.get(start as usize..end as usize).unwrap_or_default();
        Some(match *self.nodes.get(self.next)? {
            Node::Text(start, end) => Value::Text(text(start, end)),
            Node::Error(start, end) => Value::Error(text(start, end)),
            Node::Integer(value) => Value::Integer(value),
            Node::Double(value) => Value::Double(value),
            Node::Boolean(value) => Value::Boolean(value),
            Node::Null => Value::Null,
            Node::Array(count) => Value::Array(count),
        })
    }

    /// Leaves the next value out, with everything inside it.
    pub fn pass(&mut self) {
        let mut left = 1_u64;
        while left > 0 {
            match self.next() {
                Some(Value::Array(count)) => left += u64::from(count),
                Some(_) => {}
                None => return,
            }
            left -= 1;
        }
    }

    /// A string.
    ///
    /// # Errors
    /// Something else comes.
    pub fn text(&mut self) -> Result<&'a [u8], Fault> {
        match self.next() {
            Some(Value::Text(text)) => Ok(text),
            _ => Err(Fault::Malformed("no string where one belongs")),
        }
    }

    /// An integer, which some replies write as a string.
    ///
    /// # Errors
    /// Something else comes.
    pub fn integer(&mut self) -> Result<i64, Fault> {
        match self.next() {
            Some(Value::Integer(value)) => Ok(value),
            Some(Value::Text(text)) => integer(text),
            _ => Err(Fault::Malformed("no integer where one belongs")),
        }
    }

    /// A double, which RESP2 writes as a string.
    ///
    /// # Errors
    /// Something else comes.
    pub fn double(&mut self) -> Result<f64, Fault> {
        match self.next() {
            Some(Value::Double(value)) => Some(value),
            Some(Value::Integer(value)) if value.unsigned_abs() <= 1 << 53 => Some(value as f64),
            Some(Value::Text(text)) => double(text),
            _ => None,
        }
        .ok_or(Fault::Malformed("no number where one belongs"))
    }

    /// The number of elements that follow.
    ///
    /// # Errors
    /// Something else comes.
    pub fn array(&mut self) -> Result<u32, Fault> {
        match self.next() {
            Some(Value::Array(count)) => Ok(count),
            _ => Err(Fault::Malformed("no array where one belongs")),
        }
    }
}

impl<'a> Iterator for Reply<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        let value = self.peek();
        self.next += 1;
        value
    }
}

/// A number as a line or string has it.
pub(super) fn integer(text: &[u8]) -> Result<i64, Fault> {
    let text = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    text.ok_or(Fault::Malformed("a number that is none"))
}

/// The same of a double.
pub(super) fn double(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
