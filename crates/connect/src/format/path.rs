//! JSONPath (RFC 9535): where the rows, cursors and page tokens are.
//!
//! Promise: a path of names and one trailing wildcard, which nearly all are, is walked without building anything;
//! every other path goes through the full query engine.

use std::borrow::Cow;
use std::cmp::Ordering;

use jsonpath_rust::parser::model::{JpQuery, Segment, Selector};
use jsonpath_rust::parser::parse_json_path;
use jsonpath_rust::query::js_path_process;
use serde_json::Value;

use super::json::node::Node;
use super::json::number::{Number, classify};

/// The longest path accepted, in bytes.
const PATH_LENGTH_MAX: usize = 1_024;
/// How deep parentheses and brackets may be nested in one: the parser tries every alternative at each level anew, so its
/// time multiplies with each.
const NESTING_MAX: usize = 8;

/// A parsed JSONPath.
#[derive(Clone, Debug, PartialEq)]
pub struct RowPath {
    query: JpQuery,
    simple: Option<SimplePath>,
}

/// A path of member names, with or without a wildcard at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimplePath {
    /// The names from the root on.
    pub names: Vec<String>,
    /// Whether every element of what they lead to is meant.
    pub wildcard: bool,
}

impl RowPath {
    /// Reads a JSONPath; `$` may be left out before a single name, so that a column is a path too.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > PATH_LENGTH_MAX {
            return Err(format!("a JSONPath has at most {PATH_LENGTH_MAX} bytes, this one has {}", text.len()));
        }
        if text.is_empty() {
            return Err("an empty JSONPath".into());
        }
        if !text.starts_with('$') {
            return Ok(Self::column(text));
        }
        let depth = nesting(text);
        if depth > NESTING_MAX {
            return Err(format!(
                "a JSONPath nests brackets and parentheses at most {NESTING_MAX} deep, this one {depth}"
            ));
        }
        let query = parse_json_path(text)
            .map_err(|error| error.to_string().lines().map(str::trim).collect::<Vec<_>>().join(" "))?;
        let simple = simple_path(&query);
        Ok(Self { query, simple })
    }

    /// The path of a column.
    pub fn column(name: &str) -> Self {
        let query = JpQuery::new(vec![Segment::name(name)]);
        Self { query, simple: Some(SimplePath { names: vec![name.to_owned()], wildcard: false }) }
    }

    /// Whether the names that the path begins with are there, so that no match means no rows and not another body.
    pub fn begins_in(&self, node: &Node<'_>) -> bool {
        let mut names = self.query.segments.iter().map_while(|segment| match segment {
            Segment::Selector(Selector::Name(name)) => Some(name),
            _ => None,
        });
        names.try_fold(node, |node, name| node.member(name)).is_some()
    }

    /// The path as plain names, if it is no more than that.
    pub fn simple(&self) -> Option<&SimplePath> {
        self.simple.as_ref()
    }

    /// Every value the path leads to, in document order.
    pub fn all<'n, 'a>(&self, node: &'n Node<'a>) -> Vec<&'n Node<'a>> {
        if let Some(simple) = &self.simple {
            let target = simple.names.iter().try_fold(node, |node, name| node.member(name));
            return match (target, simple.wildcard) {
                (None, _) => Vec::new(),
                (Some(target), false) => vec![target],
                (Some(Node::List(items)), true) => items.iter().collect(),
                (Some(Node::Object(members)), true) => members.iter().map(|(_, value)| value).collect(),
                (Some(_), true) => Vec::new(),
            };
        }
        js_path_process(&self.query, node)
            .map(|found| found.into_iter().map(|one| one.val).collect())
            .unwrap_or_default()
    }

    /// The first value the path leads to.
    pub fn first<'n, 'a>(&self, node: &'n Node<'a>) -> Option<&'n Node<'a>> {
        match &self.simple {
            Some(SimplePath { names, wildcard: false }) => names.iter().try_fold(node, |node, name| node.member(name)),
            _ => self.all(node).into_iter().next(),
        }
    }
}

/// How deep parentheses and brackets are nested, those inside quotes aside.
fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(_), '\\') => drop(characters.next()),
            (Some(open), _) if open == character => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(character),
            (None, '(' | '[') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (None, ')' | ']') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
    }
    deepest
}

fn simple_path(query: &JpQuery) -> Option<SimplePath> {
    let mut names = Vec::new();
    for (index, segment) in query.segments.iter().enumerate() {
        match segment {
            Segment::Selector(Selector::Name(name)) => names.push(name.clone()),
            Segment::Selector(Selector::Wildcard) if index + 1 == query.segments.len() => {
                return Some(SimplePath { names, wildcard: true });
            }
            _ => return None,
        }
    }
    Some(SimplePath { names, wildcard: false })
}

/// A cursor: a value that grows as rows are added.
#[derive(Clone, Debug, PartialEq)]
pub enum Cursor {
    /// A whole number.
    Integer(i128),
    /// Text; instants (RFC 3339) are compared as such, other text byte by byte.
    Text(String),
}

impl Cursor {
    /// The cursor in a row's value; `None` for null.
    ///
    /// # Errors
    /// What stands there instead.
    pub fn from_node(node: &Node<'_>) -> Result<Option<Self>, String> {
        match node {
            Node::Null => Ok(None),
            Node::Number(text) => match classify(text) {
                Number::Integer(value) => Ok(Some(Self::Integer(value.into()))),
                Number::Unsigned(value) => Ok(Some(Self::Integer(value.into()))),
                _ => text
                    .parse()
                    .map(|value| Some(Self::Integer(value)))
                    .map_err(|_| format!("{text} is not a whole number")),
            },
            Node::Text(text) => Ok(Some(Self::Text(text.clone().into_owned()))),
            other => Err(format!("{} is neither a whole number nor text", shorten(&other.to_compact()))),
        }
    }

    /// The stored form.
    pub fn to_value(&self) -> Value {
        match self {
            Self::Integer(value) => i64::try_from(*value)
                .map(Value::from)
                .or_else(|_| u64::try_from(*value).map(Value::from))
                .unwrap_or_else(|_| serde_json::json!({ "integer": value.to_string() })),
            Self::Text(text) => Value::from(text.as_str()),
        }
    }

    /// Reads the stored form.
    pub fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Number(number) => {
                number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from)).map(Self::Integer)
            }
            Value::String(text) => Some(Self::Text(text.clone())),
            Value::Object(object) => object.get("integer")?.as_str()?.parse().ok().map(Self::Integer),
            _ => None,
        }
    }

    /// The text sent to the server.
    pub fn to_text(&self) -> Cow<'_, str> {
        match self {
            Self::Integer(value) => Cow::Owned(value.to_string()),
            Self::Text(text) => Cow::Borrowed(text),
        }
    }

    /// The later of two cursors; text and number do not compare.
    ///
    /// # Errors
    /// The two that differ in kind.
    pub fn later(self, other: Self) -> Result<Self, String> {
        let ordering = match (&self, &other) {
            (Self::Integer(a), Self::Integer(b)) => a.cmp(b),
            (Self::Text(a), Self::Text(b)) => compare_text(a, b),
            (a, b) => return Err(format!("{} and {} do not compare", shorten(&a.to_text()), shorten(&b.to_text()))),
        };
        Ok(if ordering == Ordering::Less { other } else { self })
    }
}

fn compare_text(a: &str, b: &str) -> Ordering {
    match (a.parse::<jiff::Timestamp>(), b.parse::<jiff::Timestamp>()) {
        (Ok(first), Ok(second)) => first.cmp(&second),
        _ => a.cmp(b),
    }
}

fn shorten(text: &str) -> String {
    if text.chars().count() > 60 { text.chars().take(60).chain(['…']).collect() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::json::parse::parse;

    /// Found by fuzzing: 30 levels took the parser half a minute.
    #[test]
    fn deep_nesting_is_refused_and_not_tried() {
        let deep = format!("$[?length{}", "(".repeat(30));
        assert!(RowPath::parse(&deep).unwrap_err().contains("at most 8 deep"));
        assert!(RowPath::parse("$[?@['((((((((((((((((('] == 1]").is_ok());
        assert!(RowPath::parse("$[?(@.a == 1 && (@.b > 2 || !(@.c)))]").is_ok());
    }

    #[test]
    fn simple_and_full_paths() {
        let node = parse(r#"{"a":{"b":[{"id":1,"on":true},{"id":2}]},"x y":3}"#).unwrap();
        let found = |path: &str| -> Vec<String> {
            RowPath::parse(path).unwrap().all(&node).into_iter().map(Node::to_compact).collect()
        };
        assert_eq!(found("$.a.b[*]"), [r#"{"id":1,"on":true}"#, r#"{"id":2}"#]);
        assert_eq!(found("$['x y']"), ["3"]);
        assert_eq!(found("x y"), ["3"]);
        assert_eq!(found("$.a.b[?@.on == true].id"), ["1"]);
        assert_eq!(found("$..id"), ["1", "2"]);
        assert_eq!(found("$.a.b[-1].id"), ["2"]);
        assert!(found("$.none[*]").is_empty());
        assert!(RowPath::parse("$.a.b[*]").unwrap().simple().is_some());
        assert!(RowPath::parse("$..id").unwrap().simple().is_none());
        for bad in ["", "$[", "$.a[?", "$.a b c]"] {
            assert!(RowPath::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cursors_compare_by_kind() {
        let text = |text: &str| Cursor::Text(text.into());
        assert_eq!(Cursor::Integer(9).later(Cursor::Integer(10)), Ok(Cursor::Integer(10)));
        assert_eq!(
            text("2026-01-01T00:00:00+02:00").later(text("2025-12-31T23:00:00Z")),
            Ok(text("2025-12-31T23:00:00Z"))
        );
        assert_eq!(text("b").later(text("a")), Ok(text("b")));
        assert!(text("b").later(Cursor::Integer(1)).is_err());
        for cursor in [Cursor::Integer(-5), Cursor::Integer(i128::from(u64::MAX)), Cursor::Integer(1 << 100), text("é")]
        {
            assert_eq!(Cursor::from_value(&cursor.to_value()), Some(cursor));
        }
    }
}
