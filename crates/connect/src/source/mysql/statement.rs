//! The SQL that a source sends. Names are quoted, values travel as parameters.

use super::cursor::CursorKind;
use crate::relational::{From, trimmed};

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    Table(String),
    Query(String),
}

/// One of the statements a source may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Statement {
    /// All rows, without a cursor.
    Whole,
    /// The rows from the cursor on, up to a bound if `bounded`.
    Rows { from: From, bounded: bool },
    /// The cursor values number n and n + 1 beyond the position: the bound of a read of n rows.
    Bound { from: From },
}

impl Statement {
    /// The number of values it takes.
    pub(super) fn parameters(self) -> usize {
        match self {
            Self::Whole => 0,
            Self::Rows { from, bounded } => usize::from(from != From::Start) + usize::from(bounded),
            Self::Bound { from } => usize::from(from != From::Start),
        }
    }
}

/// A name in backticks.
pub(super) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

impl Relation {
    /// As it stands after FROM.
    fn sql(&self) -> String {
        match self {
            Self::Table(name) => quoted(name),
            // On lines of its own, so that a comment at the end of the query ends with it.
            Self::Query(query) => format!("(\n{}\n) AS `portolan_rows`", trimmed(query)),
        }
    }

    /// A statement whose columns are those of the relation.
    pub(super) fn whole(&self) -> String {
        match self {
            Self::Table(name) => format!("SELECT * FROM {}", quoted(name)),
            Self::Query(query) => trimmed(query).to_owned(),
        }
    }

    /// The text of `statement` over this relation, ordered by `cursor`.
    ///
    /// A NULL in the cursor column would never be read again: where the column can hold one, it is asked for each
    /// time, so that the read fails loudly rather than leaves rows out.
    pub(super) fn statement(
        &self,
        statement: Statement,
        cursor: &str,
        kind: CursorKind,
        is_nullable: bool,
        rows_max: u64,
    ) -> String {
        let (relation, column, value) = (self.sql(), quoted(cursor), kind.placeholder());
        let lower = |from| match from {
            From::Start => None,
            From::After => Some(format!("{column} > {value}")),
            From::With => Some(format!("{column} >= {value}")),
        };
        match statement {
            Statement::Whole => self.whole(),
            Statement::Rows { from, bounded } => {
                let upper = bounded.then(|| format!("{column} <= {value}"));
                let range: Vec<String> = lower(from).into_iter().chain(upper).collect();
                let condition = match (range.join(" AND "), is_nullable) {
                    (range, _) if range.is_empty() => String::new(),
                    (range, false) => format!(" WHERE {range}"),
                    (range, true) => format!(" WHERE ({range}) OR {column} IS NULL"),
                };
                format!("SELECT * FROM {relation}{condition} ORDER BY {column}")
            }
            Statement::Bound { from } => {
                let condition = lower(from).unwrap_or_else(|| format!("{column} IS NOT NULL"));
                let skipped = rows_max.saturating_sub(1);
                format!("SELECT {column} FROM {relation} WHERE {condition} ORDER BY {column} LIMIT 2 OFFSET {skipped}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_quote_names_and_bind_values() {
        let table = Relation::Table("or`ders".into());
        let rows = Statement::Rows { from: From::After, bounded: true };
        assert_eq!(
            table.statement(rows, "i'd", CursorKind::Integer, false, 0),
            "SELECT * FROM `or``ders` WHERE `i'd` > ? AND `i'd` <= ? ORDER BY `i'd`"
        );
        let query = Relation::Query("select 1 as a -- all; \n ; ".into());
        let rows = Statement::Rows { from: From::With, bounded: false };
        assert_eq!(
            query.statement(rows, "a", CursorKind::DateTime, true, 0),
            "SELECT * FROM (\nselect 1 as a -- all\n) AS `portolan_rows` \
             WHERE (`a` >= CAST(? AS DATETIME(6))) OR `a` IS NULL ORDER BY `a`"
        );
        assert_eq!(
            table.statement(Statement::Bound { from: From::Start }, "a", CursorKind::Integer, true, 10),
            "SELECT `a` FROM `or``ders` WHERE `a` IS NOT NULL ORDER BY `a` LIMIT 2 OFFSET 9"
        );
    }
}
