//! The `[[check]]` tables: each goes to its round.
//!
//! What can be known without rows is found here: sources and rounds that are not there, more than one question or none,
//! bounds that allow nothing. Columns are known when rows come; SQL is looked at by those who can read it.

use std::collections::BTreeMap;
use std::ops::Range;

use toml_edit::{Item, Table};

use super::{CheckTable, Reader, SHORTEST, unknown_value};
use crate::config::{
    Bound, CheckKind, CheckSpec, Diagnostic, ForeignKeyTable, FreshnessTable, Place, RangeTable, RoundSpec,
    RowCountTable, SumTable, Within,
};
use crate::name::SourceName;

/// The most checks in one configuration.
const CHECKS_MAX: usize = 1_000;
/// The most columns that one check names.
const COLUMNS_MAX: usize = 32;
/// The longest name, in bytes.
const NAME_LENGTH_MAX: usize = 200;

const KINDS: [&str; 9] = ["sql", "rows", "unique", "not_null", "range", "row_count", "sum", "foreign_key", "freshness"];

impl Reader<'_> {
    /// Reads every check into its round.
    pub(super) fn checks(&mut self, root: &toml_edit::Table, rounds: &mut [RoundSpec]) {
        let tables = self.tables(root, "check");
        if tables.len() > CHECKS_MAX {
            self.report(Diagnostic::new(format!("{} checks, more than the {CHECKS_MAX} allowed", tables.len()), None));
            return;
        }
        let mut names: BTreeMap<String, Option<Range<usize>>> = BTreeMap::new();
        for table in tables {
            let span = table.span();
            self.unknown_keys::<CheckTable>(&table, "check");
            let Some(check) = self.values::<CheckTable>(table.clone(), span.clone(), "a [[check]]") else { continue };
            let mut one = One { reader: self, table: &table, span, rounds };
            let found = one.read(check);
            let Some((round, spec)) = found else { continue };
            let place = table.get("name").and_then(Item::span);
            if self.is_new("check", &spec.name, place.clone(), &names) {
                names.insert(spec.name.clone(), place);
            }
            rounds[round].checks.push(spec);
        }
    }
}

/// One table being read.
struct One<'a, 'r, 'c> {
    reader: &'a mut Reader<'c>,
    table: &'a Table,
    span: Option<Range<usize>>,
    rounds: &'r [RoundSpec],
}

impl One<'_, '_, '_> {
    fn place(&self, key: &str) -> Option<Range<usize>> {
        self.table.get(key).and_then(Item::span).or_else(|| self.span.clone())
    }

    fn problem(&mut self, key: &str, message: impl Into<String>, help: &str) {
        let diagnostic = Diagnostic::new(message, self.place(key));
        self.reader.report(if help.is_empty() { diagnostic } else { diagnostic.with_help(help) });
    }

    fn read(&mut self, check: CheckTable) -> Option<(usize, CheckSpec)> {
        let name = check.name.trim().to_owned();
        if name.is_empty() || name.len() > NAME_LENGTH_MAX || name.chars().any(char::is_control) {
            let message = format!(
                "{:?} is not a check's name: 1 to {NAME_LENGTH_MAX} bytes without control characters",
                check.name
            );
            self.problem("name", message, "say what holds, such as name = \"every order has a customer\"");
        }
        let given: Vec<&str> = KINDS.into_iter().filter(|kind| self.table.contains_key(kind)).collect();
        let kind = match given[..] {
            [kind] => kind,
            [] => {
                self.problem(
                    "name",
                    format!("check `{name}` asks nothing"),
                    &format!("add one of: {}", KINDS.join(", ")),
                );
                return None;
            }
            [_, second, ..] => {
                let message = format!("check `{name}` asks more than one thing: {}", given.join(", "));
                self.problem(second, message, "write one [[check]] for each");
                return None;
            }
        };
        let round = self.round(&check, &name);
        let source = self.source(&check, &name, kind, round);
        if check.within.is_some() && !matches!(kind, "unique" | "foreign_key" | "freshness") {
            self.problem("in", format!("`in` has no effect on `{kind}`"), "remove it");
        }
        if check.timeout.is_some_and(|timeout| timeout.0 < SHORTEST) {
            self.problem("timeout", "timeout must be at least 1ms", "");
        }
        let (on_failure, timeout) = (check.on_failure.unwrap_or_default(), check.timeout.map(|timeout| timeout.0));
        let round = round?;
        let kind = self.kind(check, round, source)?;
        let place = Place(self.place(kind.as_str()));
        Some((round, CheckSpec { name, kind, on_failure, timeout, place }))
    }

    /// The place of the check's round.
    fn round(&mut self, check: &CheckTable, name: &str) -> Option<usize> {
        let rounds = self.rounds;
        let of_source =
            |source: &str| rounds.iter().position(|round| round.sources.iter().any(|known| known.as_str() == source));
        let named = check.round.as_deref().map(|round| rounds.iter().position(|known| known.name.as_str() == round));
        let held = check.source.as_deref().map(of_source);
        // Of one that is written and cannot be read its own error is told.
        if let (Some(None), Some(round)) = (named, &check.round)
            && !self.reader.rounds_written.contains(round)
        {
            let known: Vec<&str> = rounds.iter().map(|round| round.name.as_str()).collect();
            let place = self.place("round");
            self.reader.report(unknown_value("round", round, &known, place));
        }
        if let (Some(None), Some(source)) = (held, &check.source)
            && !self.reader.sources_written.contains(source)
        {
            let known: Vec<&str> = rounds.iter().flat_map(|round| &round.sources).map(SourceName::as_str).collect();
            let place = self.place("source");
            self.reader.report(unknown_value("source", source, &known, place));
        }
        match (named, held) {
            (None, None) => {
                let help = "write source = \"…\", or round = \"…\" for a check over several sources";
                self.problem(
                    "name",
                    format!("check `{name}` says neither whose rows nor which round it is about"),
                    help,
                );
                None
            }
            (Some(named), None) => named,
            (None, Some(held)) => held,
            (Some(Some(named)), Some(Some(held))) if named != held => {
                let message = format!(
                    "source `{}` is read by round `{}`, not by `{}`",
                    check.source.as_deref().unwrap_or_default(),
                    rounds[held].name,
                    rounds[named].name
                );
                self.problem("round", message, "leave `round` out: the source says it");
                None
            }
            (Some(named), Some(held)) => named.and(held),
        }
    }

    /// The source whose rows the check is about; a round of one source has no other.
    fn source(&mut self, check: &CheckTable, name: &str, kind: &str, round: Option<usize>) -> Option<SourceName> {
        if let Some(source) = &check.source {
            return SourceName::new(source).ok();
        }
        match &self.rounds[round?].sources[..] {
            [only] => Some(only.clone()),
            _ if kind == "sql" => None,
            _ => {
                self.problem(
                    kind,
                    format!("check `{name}` does not say whose rows it is about"),
                    "write source = \"…\"",
                );
                None
            }
        }
    }

    fn kind(&mut self, check: CheckTable, round: usize, source: Option<SourceName>) -> Option<CheckKind> {
        if let Some(sql) = check.sql {
            return self.sql("sql", sql).map(CheckKind::Sql);
        }
        let source = source?;
        if let Some(sql) = check.rows {
            return self.sql("rows", sql).map(|sql| CheckKind::Rows { source, sql });
        }
        if let Some(columns) = check.unique {
            let columns = self.columns("unique", columns)?;
            return Some(CheckKind::Unique { source, columns, within: check.within.unwrap_or(Within::Round) });
        }
        if let Some(columns) = check.not_null {
            return self.columns("not_null", columns).map(|columns| CheckKind::NotNull { source, columns });
        }
        if let Some(range) = check.range {
            return self.range(&range).then_some(CheckKind::Range { source, range });
        }
        if let Some(count) = check.row_count {
            return self.row_count(&count, round, &source).then_some(CheckKind::RowCount { source, count });
        }
        if let Some(sum) = check.sum {
            return self.sum(&sum, round).then_some(CheckKind::Sum { source, sum });
        }
        if let Some(key) = check.foreign_key {
            let within = check.within.unwrap_or(Within::Lake);
            return self.foreign_key(&key, round, within).then_some(CheckKind::ForeignKey { source, key, within });
        }
        let freshness = check.freshness?;
        let within = check.within.unwrap_or(Within::Lake);
        self.freshness(&freshness).then_some(CheckKind::Freshness { source, freshness, within })
    }

    fn sql(&mut self, key: &str, sql: String) -> Option<String> {
        if sql.trim().is_empty() {
            self.problem(key, format!("`{key}` is empty"), "write a query");
            return None;
        }
        Some(sql)
    }

    fn columns(&mut self, key: &str, columns: Vec<String>) -> Option<Vec<String>> {
        let twice = columns.iter().enumerate().find(|(place, column)| columns[..*place].contains(column));
        let problem = match twice {
            _ if columns.is_empty() => "names no column".to_owned(),
            _ if columns.len() > COLUMNS_MAX => format!("names more than {COLUMNS_MAX} columns"),
            _ if columns.iter().any(|column| column.is_empty()) => "has a column without a name".to_owned(),
            Some((_, column)) => format!("names the column `{column}` twice"),
            None => return Some(columns),
        };
        self.problem(key, format!("`{key}` {problem}"), "");
        None
    }

    fn range(&mut self, range: &RangeTable) -> bool {
        let number = |bound: &Bound| match bound {
            Bound::Integer(number) => Some(*number as f64),
            Bound::Float(number) => Some(*number),
            Bound::Text(_) => None,
        };
        let problem = match (&range.min, &range.max) {
            _ if range.column.is_empty() => "`range` names no column",
            (None, None) => "`range` has neither `min` nor `max`",
            (Some(Bound::Float(bound)), _) | (_, Some(Bound::Float(bound))) if !bound.is_finite() => {
                "a bound of `range` is no number"
            }
            (Some(min), Some(max)) => match (number(min), number(max)) {
                (Some(min), Some(max)) if min > max => "`min` of `range` is greater than `max`: no value would do",
                (Some(_), None) | (None, Some(_)) => "one bound of `range` is a number and the other text",
                _ => return true,
            },
            _ => return true,
        };
        self.problem("range", problem, "such as range = { column = \"amount\", min = 0, max = 1000 }");
        false
    }

    fn row_count(&mut self, count: &RowCountTable, round: usize, source: &SourceName) -> bool {
        let problem = match count {
            RowCountTable { min: None, max: None, equals: None, .. } => {
                "`row_count` has none of `min`, `max` and `equals`"
            }
            RowCountTable { min: Some(min), max: Some(max), .. } if min > max => {
                "`min` of `row_count` is greater than `max`: no number of rows would do"
            }
            RowCountTable { equals: None, tolerance: Some(_), .. } => "`tolerance` of `row_count` is about `equals`",
            RowCountTable { equals: Some(other), .. } if other == source.as_str() => {
                "`row_count` compares a source with itself"
            }
            RowCountTable { equals: Some(other), .. } => return self.is_of_round("row_count", other, round),
            _ => return true,
        };
        self.problem("row_count", problem, "such as row_count = { equals = \"invoices\", tolerance = 0 }");
        false
    }

    fn sum(&mut self, sum: &SumTable, round: usize) -> bool {
        if sum.column.is_empty() || sum.equals.column.is_empty() {
            self.problem("sum", "`sum` has a column without a name", "");
            return false;
        }
        if sum.tolerance.is_some_and(|tolerance| !(tolerance.is_finite() && tolerance >= 0.0)) {
            self.problem("sum", "`tolerance` of `sum` must be 0 or more", "");
            return false;
        }
        self.is_of_round("sum", &sum.equals.source, round)
    }

    fn foreign_key(&mut self, key: &ForeignKeyTable, round: usize, within: Within) -> bool {
        let references = &key.references;
        let are_columns = self.columns("foreign_key", key.columns.clone()).is_some()
            && self.columns("foreign_key", references.columns.clone()).is_some();
        if !are_columns {
            return false;
        }
        if key.columns.len() != references.columns.len() {
            let message =
                format!("`foreign_key` has {} columns that refer to {}", key.columns.len(), references.columns.len());
            self.problem("foreign_key", message, "name as many on both sides");
            return false;
        }
        match within {
            Within::Round => self.is_of_round("foreign_key", &references.source, round),
            Within::Lake => self.is_source("foreign_key", &references.source),
        }
    }

    fn freshness(&mut self, freshness: &FreshnessTable) -> bool {
        if freshness.column.is_empty() {
            self.problem("freshness", "`freshness` names no column", "");
        }
        !freshness.column.is_empty()
    }

    fn is_source(&mut self, key: &str, source: &str) -> bool {
        let known: Vec<&str> = self.rounds.iter().flat_map(|round| &round.sources).map(SourceName::as_str).collect();
        if known.contains(&source) {
            return true;
        }
        let place = self.place(key);
        self.reader.report(unknown_value("source", source, &known, place));
        false
    }

    /// Whether the round reads the source; what is not read at the same time cannot be compared.
    fn is_of_round(&mut self, key: &str, source: &str, round: usize) -> bool {
        if !self.is_source(key, source) {
            return false;
        }
        let round = &self.rounds[round];
        if round.sources.iter().any(|known| known.as_str() == source) {
            return true;
        }
        let message = format!("round `{}` does not read source `{source}`", round.name);
        let help = if key == "foreign_key" {
            "name both in one [[round]], or write in = \"lake\""
        } else {
            "name both in one [[round]]"
        };
        self.problem(key, message, help);
        false
    }
}
