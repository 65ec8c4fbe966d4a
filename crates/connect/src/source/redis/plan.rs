//! What a source reads, as its options say.

use std::sync::Arc;

use portolan_model::Result;
use portolan_model::source::Output;
use schemars::JsonSchema;
use serde::Deserialize;

use super::rows::Layout;
use crate::format::Item;

/// A type of keys that are read by pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// A value.
    String,
    /// Fields and values.
    Hash,
    /// Values in order.
    List,
    /// Values without order.
    Set,
    /// Values with a score each.
    Zset,
}

impl KeyKind {
    /// The name that the server gives it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Hash => "hash",
            Self::List => "list",
            Self::Set => "set",
            Self::Zset => "zset",
        }
    }

    pub(super) fn from_bytes(name: &[u8]) -> Option<Self> {
        [Self::String, Self::Hash, Self::List, Self::Set, Self::Zset]
            .into_iter()
            .find(|kind| kind.as_str().as_bytes() == name)
    }

    /// The command that reads it, for errors.
    pub(super) fn command(self) -> &'static str {
        match self {
            Self::String => "GET",
            Self::Hash => "HSCAN",
            Self::List => "LRANGE",
            Self::Set => "SSCAN",
            Self::Zset => "ZSCAN",
        }
    }
}

/// What the fields of a hash become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FieldsAs {
    /// A hash is a record: a row, with a column for each field.
    #[default]
    Columns,
    /// A hash is a map: a row for each field, in the columns `field` and `value`.
    Rows,
}

/// How the value of a string or element is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ValueFormat {
    /// As it is.
    #[default]
    Text,
    /// JSON; the members of an object become columns.
    Json,
}

/// Keys by pattern.
#[derive(Debug)]
pub(super) struct KeyPlan {
    pub(super) pattern: String,
    pub(super) kind: Option<KeyKind>,
    pub(super) fields_as: FieldsAs,
    /// Keys or elements of one page.
    pub(super) count: u32,
    pub(super) layout: Layout,
}

/// The entries of a stream.
#[derive(Debug)]
pub(super) struct StreamPlan {
    pub(super) stream: String,
    pub(super) database: u32,
    pub(super) group: Option<GroupPlan>,
    /// Entries of one page.
    pub(super) count: u32,
    pub(super) layout: Layout,
}

/// The group that entries are read as.
#[derive(Debug)]
pub(super) struct GroupPlan {
    pub(super) group: String,
    pub(super) consumer: String,
    pub(super) create: bool,
    /// Entries that one read takes at most. No more than the lake remembers keys, so that it recognises each of them
    /// should they all come again.
    pub(super) entries_max: usize,
}

/// What a source reads.
#[derive(Clone, Debug)]
pub(super) enum Plan {
    Keys(Arc<KeyPlan>),
    Stream(Arc<StreamPlan>),
}

/// Hands on what a table has given.
pub(super) async fn give(items: Vec<Item>, output: &mut dyn Output) -> Result<()> {
    for item in items {
        match item {
            Item::Batch(batch) => output.batch(batch).await?,
            Item::Quarantine(item) => output.quarantine(item).await?,
        }
    }
    Ok(())
}
