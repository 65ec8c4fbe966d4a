//! A check as a query: the text, what its answer is, and the tables that it names.

use std::collections::BTreeSet;
use std::time::Duration;

use arrow::datatypes::{DataType, SchemaRef};
use portolan_model::config::{Bound, CheckKind, ForeignKeyTable, RangeTable, RowCountTable, SumTable, Within};
use portolan_model::{Error, ErrorKind, Result};

use crate::lake::ROW_NUMBER;
use crate::statement;

/// The schema of what the lake held before the round.
pub(super) const BEFORE: &str = "before";
/// The schema of what the lake will hold after it.
pub(super) const AFTER: &str = "after";
/// The schema of what stays of what it held; for queries of ours alone.
pub(super) const KEPT: &str = "_kept";

/// Which rows of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// Those of the round.
    Round,
    /// Those that the lake held before.
    Before,
    /// Those that the lake will hold.
    After,
    /// Those of before that stay.
    Kept,
}

/// A table that a check names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mention {
    pub(super) part: Part,
    pub(super) source: String,
}

/// What the rows of an answer mean.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    /// One row with one boolean: whether it holds.
    Boolean,
    /// The rows that fail, by their number.
    Rows,
    /// How many rows there are, and how many the other has.
    Counts(RowCountTable),
    /// Two sums, and whether they are near enough.
    Sums(SumTable),
    /// The newest value, and how old it may be.
    Newest(Duration),
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Question {
    pub(super) sql: String,
    pub(super) answer: Answer,
    pub(super) mentions: BTreeSet<Mention>,
    /// Columns that must be there, of which sources.
    pub(super) columns: Vec<(Mention, Vec<String>)>,
}

impl Question {
    /// The question of `kind`.
    ///
    /// # Errors
    /// `Configuration` for a text that is no query, or names what checks cannot read.
    pub(super) fn of(kind: &CheckKind) -> Result<Self> {
        match kind {
            CheckKind::Sql(sql) => Self::written(sql, Answer::Boolean),
            CheckKind::Rows { sql, .. } => Self::written(sql, Answer::Rows),
            CheckKind::Unique { source, columns, within } => Ok(unique(source.as_str(), columns, *within)),
            CheckKind::NotNull { source, columns } => {
                let any = join(columns, " or ", |column| format!("{} is null", quoted(column)));
                let table = Mention::round(source.as_str());
                let sql = format!("select {} from {} where {any}", with_row(columns), table.sql());
                Ok(Self::made(sql, Answer::Rows, vec![(table, columns.clone())]))
            }
            CheckKind::Range { source, range } => Ok(within_range(source.as_str(), range)),
            CheckKind::RowCount { source, count } => {
                let mut tables = vec![(Mention::round(source.as_str()), Vec::new())];
                tables.extend(count.equals.iter().map(|other| (Mention::round(other), Vec::new())));
                let counts = tables.iter().zip(["one", "other"]);
                let counts =
                    counts.map(|((table, _), name)| format!("(select count(*) from {}) as {name}", table.sql()));
                let sql = format!("select {}", counts.collect::<Vec<_>>().join(", "));
                Ok(Self::made(sql, Answer::Counts(count.clone()), tables))
            }
            CheckKind::Sum { source, sum } => Ok(sums(source.as_str(), sum)),
            CheckKind::ForeignKey { source, key, within } => Ok(foreign_key(source.as_str(), key, *within)),
            CheckKind::Freshness { source, freshness, within } => {
                let part = if *within == Within::Round { Part::Round } else { Part::After };
                let table = Mention { part, source: source.as_str().to_owned() };
                let sql = format!("select max({}) from {}", quoted(&freshness.column), table.sql());
                let columns = vec![freshness.column.clone()];
                Ok(Self::made(sql, Answer::Newest(freshness.max_age.0), vec![(table, columns)]))
            }
        }
    }

    fn made(sql: String, answer: Answer, columns: Vec<(Mention, Vec<String>)>) -> Self {
        Self { sql, answer, mentions: columns.iter().map(|(table, _)| table.clone()).collect(), columns }
    }

    fn written(sql: &str, answer: Answer) -> Result<Self> {
        let mut mentions = BTreeSet::new();
        for (schema, table) in statement::mentions(sql)? {
            let schema = schema.map(|schema| schema.to_lowercase());
            let part = match schema.as_deref() {
                None | Some("main") => Part::Round,
                Some(BEFORE) => Part::Before,
                Some(AFTER) => Part::After,
                Some(other) => {
                    let message = format!("checks cannot read `{other}.{table}`");
                    return Err(Error::new(ErrorKind::Configuration, "plan check", message).with_hint(
                        "a source's name alone is what the round has of it, before.NAME and after.NAME what the lake holds",
                    ));
                }
            };
            mentions.insert(Mention { part, source: table.to_lowercase() });
        }
        Ok(Self { sql: sql.to_owned(), answer, mentions, columns: Vec::new() })
    }

    /// What is wrong with the types of the columns of `schema`, which the mention `of` has.
    pub(super) fn type_problem(kind: &CheckKind, schema: &SchemaRef) -> Option<String> {
        let CheckKind::Range { range: RangeTable { column, min, max }, .. } = kind else { return None };
        let data_type = schema.field_with_name(column).ok()?.data_type();
        let is_text = matches!((min, max), (Some(Bound::Text(_)), _) | (_, Some(Bound::Text(_))));
        let fits = match data_type {
            DataType::Utf8 | DataType::Date32 | DataType::Timestamp(..) | DataType::Time64(_) => is_text,
            other => other.is_numeric() && !is_text,
        };
        let bounds = if is_text { "text" } else { "numbers" };
        (!fits).then(|| format!("the bounds are {bounds}, and `{column}` is {data_type}"))
    }
}

impl Mention {
    fn round(source: &str) -> Self {
        Self { part: Part::Round, source: source.to_owned() }
    }

    fn sql(&self) -> String {
        match self.part {
            Part::Round => quoted(&self.source),
            Part::Before => format!("{BEFORE}.{}", quoted(&self.source)),
            Part::After => format!("{AFTER}.{}", quoted(&self.source)),
            Part::Kept => format!("{KEPT}.{}", quoted(&self.source)),
        }
    }
}

fn unique(source: &str, columns: &[String], within: Within) -> Question {
    let table = Mention::round(source);
    let list = join(columns, ", ", quoted);
    let present = join(columns, " and ", |column| format!("{} is not null", quoted(column)));
    let same =
        |left: &str, right: &str| join(columns, " and ", |column| format!("{left}.{0} = {right}.{0}", quoted(column)));
    let mut sql = format!(
        "select {} from {table} as one where exists (select 1 from (select {list} from {table} where {present} group by \
         {list} having count(*) > 1) as other where {})",
        with_row(columns),
        same("one", "other"),
        table = table.sql()
    );
    let mut tables = vec![(table.clone(), columns.to_vec())];
    if within == Within::Lake {
        let kept = Mention { part: Part::Kept, source: source.to_owned() };
        sql.push_str(&format!(
            " union all select {} from {} as one where exists (select 1 from {} as other where {})",
            with_row(columns),
            table.sql(),
            kept.sql(),
            same("one", "other")
        ));
        tables.push((kept, Vec::new()));
    }
    Question::made(sql, Answer::Rows, tables)
}

fn within_range(source: &str, range: &RangeTable) -> Question {
    let column = quoted(&range.column);
    let below = range.min.iter().map(|bound| format!("{column} < {}", literal(bound)));
    let above = range.max.iter().map(|bound| format!("{column} > {}", literal(bound)));
    let conditions: Vec<String> = below.chain(above).collect();
    let table = Mention::round(source);
    let columns = vec![range.column.clone()];
    let sql = format!("select {} from {} where {}", with_row(&columns), table.sql(), conditions.join(" or "));
    Question::made(sql, Answer::Rows, vec![(table, columns)])
}

fn sums(source: &str, sum: &SumTable) -> Question {
    let (one, other) = (Mention::round(source), Mention::round(&sum.equals.source));
    let total =
        |column: &str, table: &Mention| format!("(select coalesce(sum({}), 0) from {})", quoted(column), table.sql());
    let tolerance = literal(&Bound::Float(sum.tolerance.unwrap_or(0.0)));
    let sql = format!(
        "select one, other, case when one >= other then one - other else other - one end <= {tolerance} \
         from (select {} as one, {} as other) as sums",
        total(&sum.column, &one),
        total(&sum.equals.column, &other)
    );
    let tables = vec![(one, vec![sum.column.clone()]), (other, vec![sum.equals.column.clone()])];
    Question::made(sql, Answer::Sums(sum.clone()), tables)
}

fn foreign_key(source: &str, key: &ForeignKeyTable, within: Within) -> Question {
    let table = Mention::round(source);
    let part = if within == Within::Round { Part::Round } else { Part::After };
    let references = Mention { part, source: key.references.source.clone() };
    let present = join(&key.columns, " and ", |column| format!("one.{} is not null", quoted(column)));
    let pairs = key.columns.iter().zip(&key.references.columns);
    let same: Vec<String> = pairs.map(|(from, to)| format!("one.{} = other.{}", quoted(from), quoted(to))).collect();
    let sql = format!(
        "select {} from {} as one where {present} and not exists (select 1 from {} as other where {})",
        with_row(&key.columns),
        table.sql(),
        references.sql(),
        same.join(" and ")
    );
    let tables = vec![(table, key.columns.clone()), (references, key.references.columns.clone())];
    Question::made(sql, Answer::Rows, tables)
}

/// The number of a row, and the values that tell it from others.
fn with_row(columns: &[String]) -> String {
    format!("{ROW_NUMBER}, {}", join(columns, ", ", quoted))
}

fn join<'a>(columns: &'a [String], between: &str, each: impl Fn(&'a str) -> String) -> String {
    columns.iter().map(|column| each(column)).collect::<Vec<_>>().join(between)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(bound: &Bound) -> String {
    match bound {
        Bound::Integer(number) => format!("({number})"),
        // Without an exponent it is a decimal, which is exact beside decimals.
        Bound::Float(number) if *number == 0.0 || (1e-9..1e15).contains(&number.abs()) => format!("({number})"),
        Bound::Float(number) => format!("({number:e})"),
        Bound::Text(text) => format!("'{}'", text.replace('\'', "''")),
    }
}
