//! The keys of a source that only its protocol knows, kept with their places in the text until the connector reads
//! them.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::de::{DeserializeOwned, IntoDeserializer};
use toml_edit::{InlineTable, Table, Value};

use super::{Diagnostic, diagnostic::explain};

/// The keys of a source that only its protocol knows.
#[derive(Clone, Debug, Default)]
pub struct OptionTable {
    table: InlineTable,
    places: BTreeMap<String, Range<usize>>,
    span: Option<Range<usize>>,
}

impl OptionTable {
    /// Wraps the keys; `places` says where the values of all the source's keys stand, `span` where the source does.
    pub fn new(table: Table, places: BTreeMap<String, Range<usize>>, span: Option<Range<usize>>) -> Self {
        Self { table: table.into_inline_table(), places, span }
    }

    /// Options written as TOML text, for tests and programs that build a source without a file.
    ///
    /// # Errors
    /// The parser's message if the text is not TOML.
    pub fn from_text(text: &str) -> Result<Self, String> {
        let document = toml_edit::Document::parse(text).map_err(|error| error.to_string())?;
        Ok(Self::new(document.as_table().clone(), BTreeMap::new(), None))
    }

    /// Whether both hold the same values, in whatever order and wherever they stand in a text.
    pub fn is_same(&self, other: &Self) -> bool {
        is_same_table(&self.table, &other.table)
    }

    /// Reads the keys as `T`, usually a struct with `deny_unknown_fields`.
    ///
    /// # Errors
    /// The first problem, with its place.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Diagnostic> {
        T::deserialize(Value::from(self.table.clone()).into_deserializer())
            .map_err(|error: toml_edit::de::Error| explain(&error, self.span.clone()))
    }

    /// Where the value of `key`, one of the protocol's own or a shared one, stands in the text; where the source stands
    /// if the key is absent.
    pub fn span_of(&self, key: &str) -> Option<Range<usize>> {
        let own = self.table.get(key).and_then(Value::span);
        own.or_else(|| self.places.get(key).cloned()).or_else(|| self.span.clone())
    }

    /// The keys present, with their places.
    pub fn keys(&self) -> impl Iterator<Item = (&str, Option<Range<usize>>)> {
        self.table.iter().map(|(key, value)| {
            let span = self.table.key(key).and_then(toml_edit::Key::span).or_else(|| value.span());
            (key, span)
        })
    }
}
fn is_same_table(one: &InlineTable, other: &InlineTable) -> bool {
    one.len() == other.len()
        && one.iter().all(|(key, value)| other.get(key).is_some_and(|other| is_same_value(value, other)))
}

fn is_same_value(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::String(one), Value::String(other)) => one.value() == other.value(),
        (Value::Integer(one), Value::Integer(other)) => one.value() == other.value(),
        (Value::Float(one), Value::Float(other)) => one.value().to_bits() == other.value().to_bits(),
        (Value::Boolean(one), Value::Boolean(other)) => one.value() == other.value(),
        (Value::Datetime(one), Value::Datetime(other)) => one.value() == other.value(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other.iter()).all(|(one, other)| is_same_value(one, other))
        }
        (Value::InlineTable(one), Value::InlineTable(other)) => is_same_table(one, other),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_the_same_wherever_it_stands() {
        let table = |text: &str| OptionTable::from_text(text).unwrap();
        let one = table("path = \"/a\"\nheaders = { A = \"1\", B = \"2\" }\nsizes = [1, 2]");
        assert!(one.is_same(&table("# c\nsizes = [1,2]\nheaders = {B=\"2\",  A='1'}\npath = '/a'")));
        for other in [
            "path = \"/a\"",
            "path = \"/b\"\nheaders = { A = \"1\", B = \"2\" }\nsizes = [1, 2]",
            "path = \"/a\"\nheaders = { A = \"1\", B = \"2\" }\nsizes = [2, 1]",
            "path = \"/a\"\nheaders = { A = \"1\", B = 2 }\nsizes = [1, 2]",
        ] {
            assert!(!one.is_same(&table(other)), "{other}");
        }
    }
}
