//! What was written to the outside, row by row, and its comparison with what the lake holds.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

/// The rows written outside, by table and key.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    tables: BTreeMap<String, Table>,
}

#[derive(Clone, Debug, Default)]
struct Table {
    rows: BTreeMap<String, Value>,
    /// Rows whose writing was interrupted: they may have been stored or not.
    uncertain: BTreeSet<String>,
}

/// What differs between a ledger's table and the lake's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Keys written and not found.
    pub lost: Vec<String>,
    /// Keys found more than once, with how often.
    pub duplicated: Vec<(String, usize)>,
    /// Keys found with other values: key, written, found.
    pub altered: Vec<(String, String, String)>,
    /// Keys found and never written.
    pub invented: Vec<String>,
}

impl Difference {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// How many of each are named.
        const SHOWN: usize = 10;
        let Self { lost, duplicated, altered, invented } = self;
        write!(
            formatter,
            "{} lost, {} duplicated, {} altered, {} invented",
            lost.len(),
            duplicated.len(),
            altered.len(),
            invented.len()
        )?;
        for key in lost.iter().take(SHOWN) {
            write!(formatter, "\n  lost {key}")?;
        }
        for (key, count) in duplicated.iter().take(SHOWN) {
            write!(formatter, "\n  duplicated {key}: found {count} times")?;
        }
        for (key, written, found) in altered.iter().take(SHOWN) {
            write!(formatter, "\n  altered {key}: written {written}, found {found}")?;
        }
        for key in invented.iter().take(SHOWN) {
            write!(formatter, "\n  invented {key}")?;
        }
        Ok(())
    }
}

impl Ledger {
    /// A row was written, for sure.
    pub fn wrote(&mut self, table: &str, key: impl fmt::Display, row: Value) {
        self.tables.entry(table.to_owned()).or_default().rows.insert(key.to_string(), row);
    }

    /// A row may have been written: its writer was cut off before the answer came.
    pub fn may_have_written(&mut self, table: &str, key: impl fmt::Display, row: Value) {
        let table = self.tables.entry(table.to_owned()).or_default();
        table.uncertain.insert(key.to_string());
        table.rows.insert(key.to_string(), row);
    }

    /// How many rows of a table were written.
    pub fn count(&self, table: &str) -> usize {
        self.tables.get(table).map_or(0, |table| table.rows.len())
    }

    /// The tables written to.
    pub fn tables(&self) -> impl Iterator<Item = &str> {
        self.tables.keys().map(String::as_str)
    }

    /// Compares a table with the rows found, keyed by `key`. Of each row found, only the columns that were written are
    /// looked at. Numbers are compared as numbers, everything else as it is.
    pub fn compare(&self, table: &str, key: &str, found: &[Value]) -> Difference {
        let empty = Table::default();
        let written = self.tables.get(table).unwrap_or(&empty);
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let mut difference = Difference::default();
        for row in found {
            let name = match &row[key] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let count = counts.entry(name.clone()).or_default();
            *count += 1;
            match written.rows.get(&name) {
                None if *count == 1 => difference.invented.push(name),
                Some(original) if !agrees(original, row) => {
                    difference.altered.push((name, original.to_string(), row.to_string()));
                }
                _ => {}
            }
        }
        for name in written.rows.keys() {
            match counts.get(name) {
                None if !written.uncertain.contains(name) => difference.lost.push(name.clone()),
                Some(count @ 2..) => difference.duplicated.push((name.clone(), *count)),
                _ => {}
            }
        }
        difference
    }
}

fn agrees(written: &Value, found: &Value) -> bool {
    match (written, found) {
        (Value::Object(written), Value::Object(found)) => {
            written.iter().all(|(name, value)| agrees(value, found.get(name).unwrap_or(&Value::Null)))
        }
        (Value::Number(written), Value::Number(found)) => written == found || written.as_f64() == found.as_f64(),
        _ => written == found,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_difference_is_named() {
        let mut ledger = Ledger::default();
        for id in 1..=5 {
            ledger.wrote("items", id, json!({ "id": id, "name": format!("n{id}") }));
        }
        ledger.may_have_written("items", 6, json!({ "id": 6 }));
        let whole: Vec<Value> = (1..=5).map(|id| json!({ "id": id, "name": format!("n{id}"), "_round": 3 })).collect();
        assert!(ledger.compare("items", "id", &whole).is_empty());
        let mut wrong = whole.clone();
        wrong.remove(1);
        wrong.push(wrong[0].clone());
        wrong[2]["name"] = json!("other");
        wrong.push(json!({ "id": 99 }));
        wrong.push(json!({ "id": 6 }));
        let difference = ledger.compare("items", "id", &wrong);
        assert_eq!(difference.lost, ["2"]);
        assert_eq!(difference.duplicated, [("1".to_owned(), 2)]);
        assert_eq!(difference.altered.len(), 1);
        assert_eq!(difference.altered[0].0, "4");
        assert_eq!(difference.invented, ["99"]);
        assert!(difference.to_string().starts_with("1 lost, 1 duplicated, 1 altered, 1 invented\n  lost 2"));
    }
}
