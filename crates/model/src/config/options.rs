//! The keys of a source that only its protocol knows, kept with their places in the text until the connector reads
//! them.

use std::ops::Range;

use serde::de::{DeserializeOwned, IntoDeserializer};
use toml_edit::{InlineTable, Table, Value};

use super::Diagnostic;

/// The keys of a source that only its protocol knows.
#[derive(Clone, Debug, Default)]
pub struct OptionTable {
    table: InlineTable,
    span: Option<Range<usize>>,
}

impl OptionTable {
    /// Wraps the keys; `span` is where the source stands in the text.
    pub fn new(table: Table, span: Option<Range<usize>>) -> Self {
        Self { table: table.into_inline_table(), span }
    }

    /// Options written as TOML text, for tests and programs that build a source without a file.
    ///
    /// # Errors
    /// The parser's message if the text is not TOML.
    pub fn from_text(text: &str) -> Result<Self, String> {
        let document = toml_edit::Document::parse(text).map_err(|error| error.to_string())?;
        Ok(Self::new(document.as_table().clone(), None))
    }

    /// Reads the keys as `T`, usually a struct with `deny_unknown_fields`.
    ///
    /// # Errors
    /// The first problem, with its place.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Diagnostic> {
        T::deserialize(Value::from(self.table.clone()).into_deserializer()).map_err(|error: toml_edit::de::Error| {
            let span = error.span().or_else(|| self.span.clone());
            Diagnostic::new(error.message().to_owned(), span)
        })
    }

    /// Where the value of `key` stands in the text; where the source stands if the key is absent.
    pub fn span_of(&self, key: &str) -> Option<Range<usize>> {
        self.table.get(key).and_then(Value::span).or_else(|| self.span.clone())
    }

    /// The keys present, with their places.
    pub fn keys(&self) -> impl Iterator<Item = (&str, Option<Range<usize>>)> {
        self.table.iter().map(|(key, value)| {
            let span = self.table.key(key).and_then(toml_edit::Key::span).or_else(|| value.span());
            (key, span)
        })
    }
}
