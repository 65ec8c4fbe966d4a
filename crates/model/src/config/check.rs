//! `[[check]]` as values.

use std::ops::Range;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::DurationText;
use crate::name::SourceName;

/// One check of a round, checked itself.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckSpec {
    /// Its name, unique in the configuration.
    pub name: String,
    /// What must hold.
    pub kind: CheckKind,
    /// What follows where it does not.
    pub on_failure: OnCheckFailure,
    /// The longest it may take; a quarter of the round's deadline where `None`.
    pub timeout: Option<Duration>,
    /// Where its question stands in the text.
    pub place: Place,
}

/// A place in the text. All are equal: a check that has only moved is the same.
#[derive(Clone, Debug, Default)]
pub struct Place(pub Option<Range<usize>>);

impl PartialEq for Place {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// What becomes of a round of which a check does not hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnCheckFailure {
    /// It is stored, and the check's result with it.
    #[default]
    Warn,
    /// The rows that fail go to `portolan.quarantine`, the others to their tables.
    Quarantine,
    /// Its rows are not stored, and are read again.
    Reject,
}

impl OnCheckFailure {
    /// The stable name, as written and stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warn => "warn",
            Self::Quarantine => "quarantine",
            Self::Reject => "reject",
        }
    }
}

/// Which rows a check looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Within {
    /// Those of this round.
    Round,
    /// Those that the lake will hold after this round.
    Lake,
}

/// What must hold.
#[derive(Clone, Debug, PartialEq)]
pub enum CheckKind {
    /// A query that gives one row with one boolean: true.
    Sql(String),
    /// A query that gives the rows of `source` that fail, by their `_row`.
    Rows {
        /// The source.
        source: SourceName,
        /// The query.
        sql: String,
    },
    /// No two rows have the same values in `columns`.
    Unique {
        /// The source.
        source: SourceName,
        /// The columns.
        columns: Vec<String>,
        /// Among which rows.
        within: Within,
    },
    /// No row has NULL in one of `columns`.
    NotNull {
        /// The source.
        source: SourceName,
        /// The columns.
        columns: Vec<String>,
    },
    /// Every value lies between two bounds, both included.
    Range {
        /// The source.
        source: SourceName,
        /// What is allowed.
        range: RangeTable,
    },
    /// How many rows there are.
    RowCount {
        /// The source.
        source: SourceName,
        /// What is allowed.
        count: RowCountTable,
    },
    /// The sum of a column is that of another source's.
    Sum {
        /// The source.
        source: SourceName,
        /// What is compared.
        sum: SumTable,
    },
    /// Values of columns stand in another source's.
    ForeignKey {
        /// The source.
        source: SourceName,
        /// What refers to what.
        key: ForeignKeyTable,
        /// Among which rows they must be found.
        within: Within,
    },
    /// The newest value of a time column is not too old.
    Freshness {
        /// The source.
        source: SourceName,
        /// What is allowed.
        freshness: FreshnessTable,
        /// Among which rows it is looked for.
        within: Within,
    },
}

impl CheckKind {
    /// The stable name, as written and stored.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Sql(_) => "sql",
            Self::Rows { .. } => "rows",
            Self::Unique { .. } => "unique",
            Self::NotNull { .. } => "not_null",
            Self::Range { .. } => "range",
            Self::RowCount { .. } => "row_count",
            Self::Sum { .. } => "sum",
            Self::ForeignKey { .. } => "foreign_key",
            Self::Freshness { .. } => "freshness",
        }
    }

    /// The source whose rows it is about, where it is about one.
    pub fn source(&self) -> Option<&SourceName> {
        match self {
            Self::Sql(_) => None,
            Self::Rows { source, .. }
            | Self::Unique { source, .. }
            | Self::NotNull { source, .. }
            | Self::Range { source, .. }
            | Self::RowCount { source, .. }
            | Self::Sum { source, .. }
            | Self::ForeignKey { source, .. }
            | Self::Freshness { source, .. } => Some(source),
        }
    }

    /// The query as written, where it is one.
    pub fn sql(&self) -> Option<&str> {
        match self {
            Self::Sql(sql) | Self::Rows { sql, .. } => Some(sql),
            _ => None,
        }
    }
}

/// `range = { … }`.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RangeTable {
    /// The column.
    pub column: String,
    /// The least value allowed.
    pub min: Option<Bound>,
    /// The greatest value allowed.
    pub max: Option<Bound>,
}

/// A bound: a number, or text for columns of text, dates and times.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Bound {
    /// A whole number.
    Integer(i64),
    /// A number.
    Float(f64),
    /// Text, a date or an instant.
    Text(String),
}

/// `row_count = { … }`.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RowCountTable {
    /// The fewest rows allowed.
    pub min: Option<u64>,
    /// The most rows allowed.
    pub max: Option<u64>,
    /// The source that has as many.
    pub equals: Option<String>,
    /// How many more or fewer than `equals` are allowed.
    pub tolerance: Option<u64>,
}

/// `sum = { … }`.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SumTable {
    /// The column that is summed up.
    pub column: String,
    /// The column whose sum must be the same.
    pub equals: ColumnOf,
    /// How far apart the sums may be.
    pub tolerance: Option<f64>,
}

/// A column of a source.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ColumnOf {
    /// The source.
    pub source: String,
    /// Its column.
    pub column: String,
}

/// `foreign_key = { … }`.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForeignKeyTable {
    /// The columns that refer.
    pub columns: Vec<String>,
    /// What they refer to.
    pub references: ColumnsOf,
}

/// Columns of a source.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ColumnsOf {
    /// The source.
    pub source: String,
    /// Its columns.
    pub columns: Vec<String>,
}

/// `freshness = { … }`.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FreshnessTable {
    /// The column, of instants or dates.
    pub column: String,
    /// How old its newest value may be when the round begins.
    pub max_age: DurationText,
}
