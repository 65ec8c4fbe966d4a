//! The SQL that a source sends. Names are quoted; values are literals, because COPY takes no parameters.

use crate::relational::{From, trimmed};

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    Table { schema: String, table: String },
    Query(String),
}

/// The rows that a read asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) from: From,
    /// The literal that it begins at.
    pub(super) lower: Option<String>,
    /// The literal that it ends with.
    pub(super) upper: Option<String>,
}

/// The name under which what is read stands in every statement: a column of it cannot be taken for one of the result.
const ROWS: &str = "portolan_rows";

/// A name in double quotes.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as a literal of no type yet, which takes that of the column it is compared with. The same whatever
/// `standard_conforming_strings` says.
pub(super) fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// A column of what is read.
pub(super) fn column(name: &str) -> String {
    format!("{ROWS}.{}", quoted(name))
}

impl Relation {
    /// As it stands after FROM.
    fn sql(&self) -> String {
        match self {
            Self::Table { schema, table } => format!("{}.{} AS {ROWS}", quoted(schema), quoted(table)),
            // On lines of its own, so that a comment at the end of the query ends with it.
            Self::Query(query) => format!("(\n{}\n) AS {ROWS}", trimmed(query)),
        }
    }

    /// A statement whose columns are those of the relation.
    pub(super) fn whole(&self) -> String {
        match self {
            Self::Table { .. } => format!("SELECT * FROM {}", self.sql()),
            Self::Query(query) => trimmed(query).to_owned(),
        }
    }

    /// The COPY of everything; `selection` are the expressions of its columns.
    pub(super) fn copy(&self, selection: &[String]) -> String {
        copy(&format!("SELECT {} FROM {}", selection.join(", "), self.sql()))
    }

    /// The COPY of the rows in `range`, ordered by `cursor`.
    pub(super) fn copy_range(&self, selection: &[String], cursor: &str, range: &Range) -> String {
        let condition = condition(cursor, range);
        copy(&format!("SELECT {} FROM {}{condition} ORDER BY {}", selection.join(", "), self.sql(), column(cursor)))
    }

    /// The cursor values number `rows_max` and one more in `range`: the bound of a read of so many rows.
    pub(super) fn bound(&self, cursor: &str, range: &Range, rows_max: u64) -> String {
        let (name, skipped) = (column(cursor), rows_max.saturating_sub(1));
        let condition = match range.from {
            From::Start => format!(" WHERE {name} IS NOT NULL"),
            _ => condition(cursor, range),
        };
        format!("SELECT {name}::text FROM {}{condition} ORDER BY {name} LIMIT 2 OFFSET {skipped}", self.sql())
    }

    /// Whether a row has NULL in its cursor. Asked by itself, because together with a range it would keep the server from
    /// using an index.
    pub(super) fn has_null(&self, cursor: &str) -> String {
        format!("SELECT EXISTS (SELECT FROM {} WHERE {} IS NULL)", self.sql(), column(cursor))
    }
}

fn copy(select: &str) -> String {
    format!("COPY ({select}) TO STDOUT (FORMAT binary)")
}

fn condition(cursor: &str, range: &Range) -> String {
    let name = column(cursor);
    let lower = range.lower.as_ref().and_then(|value| match range.from {
        From::Start => None,
        From::After => Some(format!("{name} > {value}")),
        From::With => Some(format!("{name} >= {value}")),
    });
    let upper = range.upper.as_ref().map(|value| format!("{name} <= {value}"));
    let parts: Vec<String> = lower.into_iter().chain(upper).collect();
    if parts.is_empty() { String::new() } else { format!(" WHERE {}", parts.join(" AND ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_quote_names_and_values() {
        let table = Relation::Table { schema: "s".into(), table: "or\"ders".into() };
        let selection = [column("i\"d"), format!("{}::text", column("x"))];
        let range = Range { from: From::After, lower: Some(literal("it's \\ 1")), upper: Some(literal("9")) };
        assert_eq!(
            table.copy_range(&selection, "i\"d", &range),
            "COPY (SELECT portolan_rows.\"i\"\"d\", portolan_rows.\"x\"::text FROM \"s\".\"or\"\"ders\" AS portolan_rows \
             WHERE portolan_rows.\"i\"\"d\" > E'it''s \\\\ 1' AND portolan_rows.\"i\"\"d\" <= E'9' \
             ORDER BY portolan_rows.\"i\"\"d\") TO STDOUT (FORMAT binary)"
        );
        let query = Relation::Query("select 1 as a -- all; \n ; ".into());
        assert_eq!(query.whole(), "select 1 as a -- all");
        assert_eq!(
            query.copy(&[column("a")]),
            "COPY (SELECT portolan_rows.\"a\" FROM (\nselect 1 as a -- all\n) AS portolan_rows) TO STDOUT (FORMAT binary)"
        );
        let start = Range { from: From::Start, lower: None, upper: None };
        assert_eq!(
            query.bound("a", &start, 10),
            "SELECT portolan_rows.\"a\"::text FROM (\nselect 1 as a -- all\n) AS portolan_rows \
             WHERE portolan_rows.\"a\" IS NOT NULL ORDER BY portolan_rows.\"a\" LIMIT 2 OFFSET 9"
        );
    }
}
