//! A parsed JSON value that borrows its text.
//!
//! Promise: a number keeps the text it came as, so that nothing is rounded before its column's type is known.

use std::borrow::Cow;

use jsonpath_rust::query::queryable::Queryable;
use serde_json::Value;

/// One member of an object: its name and value.
pub type Member<'a> = (Cow<'a, str>, Node<'a>);

/// A JSON value (RFC 8259).
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Node<'a> {
    /// `null`
    #[default]
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, as written.
    Number(Cow<'a, str>),
    /// A string, unescaped.
    Text(Cow<'a, str>),
    /// An array.
    List(Vec<Node<'a>>),
    /// An object; members in the order written, duplicates kept.
    Object(Vec<Member<'a>>),
}

impl<'a> Node<'a> {
    /// The value of the last member of that name, as most readers of JSON take it.
    pub fn member(&self, name: &str) -> Option<&Node<'a>> {
        match self {
            Self::Object(members) => members.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value),
            _ => None,
        }
    }

    /// Writes the value as JSON without white space; numbers as they came.
    pub fn write_compact(&self, text: &mut String) {
        match self {
            Self::Null => text.push_str("null"),
            Self::Bool(true) => text.push_str("true"),
            Self::Bool(false) => text.push_str("false"),
            Self::Number(number) => text.push_str(number),
            Self::Text(string) => write_string(string, text),
            Self::List(items) => {
                text.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        text.push(',');
                    }
                    item.write_compact(text);
                }
                text.push(']');
            }
            Self::Object(members) => {
                text.push('{');
                for (index, (name, value)) in members.iter().enumerate() {
                    if index > 0 {
                        text.push(',');
                    }
                    write_string(name, text);
                    text.push(':');
                    value.write_compact(text);
                }
                text.push('}');
            }
        }
    }

    /// The value as JSON without white space; numbers as they came.
    pub fn to_compact(&self) -> String {
        let mut text = String::new();
        self.write_compact(&mut text);
        text
    }

    /// A scalar as a value for positions and quarantine notes; what a 64-bit number cannot hold stays text.
    pub fn to_value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Number(text) => match super::number::classify(text) {
                super::number::Number::Integer(value) => Value::from(value),
                super::number::Number::Unsigned(value) => Value::from(value),
                super::number::Number::Fraction(value) => Value::from(value),
                super::number::Number::Inexact => Value::from(text.as_ref()),
            },
            Self::Text(text) => Value::from(text.as_ref()),
            Self::List(_) | Self::Object(_) => Value::from(self.to_compact()),
        }
    }
}

/// Writes a JSON string with the escapes that RFC 8259 section 7 demands, and no others.
pub(crate) fn write_string(string: &str, text: &mut String) {
    text.push('"');
    let mut rest = string;
    while let Some(index) = rest.bytes().position(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        let (plain, special) = rest.split_at(index);
        text.push_str(plain);
        let mut characters = special.chars();
        match characters.next() {
            Some('"') => text.push_str("\\\""),
            Some('\\') => text.push_str("\\\\"),
            Some('\n') => text.push_str("\\n"),
            Some('\r') => text.push_str("\\r"),
            Some('\t') => text.push_str("\\t"),
            Some('\u{8}') => text.push_str("\\b"),
            Some('\u{c}') => text.push_str("\\f"),
            Some(control) => text.push_str(&format!("\\u{:04x}", control as u32)),
            None => {}
        }
        rest = characters.as_str();
    }
    text.push_str(rest);
    text.push('"');
}

impl From<&str> for Node<'_> {
    fn from(text: &str) -> Self {
        Self::Text(Cow::Owned(text.to_owned()))
    }
}

impl From<String> for Node<'_> {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl From<bool> for Node<'_> {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Node<'_> {
    fn from(value: i64) -> Self {
        Self::Number(Cow::Owned(value.to_string()))
    }
}

impl From<f64> for Node<'_> {
    fn from(value: f64) -> Self {
        if value.is_finite() { Self::Number(Cow::Owned(value.to_string())) } else { Self::Null }
    }
}

impl From<Vec<Self>> for Node<'_> {
    fn from(items: Vec<Self>) -> Self {
        Self::List(items)
    }
}

/// What JSONPath (RFC 9535) needs of a value.
impl Queryable for Node<'_> {
    fn get(&self, key: &str) -> Option<&Self> {
        self.member(key)
    }

    fn as_array(&self) -> Option<&Vec<Self>> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }

    fn as_object(&self) -> Option<Vec<(&str, &Self)>> {
        match self {
            Self::Object(members) => Some(members.iter().map(|(name, value)| (name.as_ref(), value)).collect()),
            _ => None,
        }
    }

    fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Number(text) => text.parse().ok(),
            _ => None,
        }
    }

    fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Number(text) => text.parse().ok(),
            _ => None,
        }
    }

    fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    fn null() -> Self {
        Self::Null
    }
}
