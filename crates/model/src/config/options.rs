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
