//! The cursor column: what is known of it, and the positions made of its values.
//!
//! Promise: a position is taken for a place to continue from only by the source that has written it.

use std::cmp::Ordering;

use portolan_model::{Error, ErrorKind, Position, Result};
use serde_json::json;

use super::window::{LateWindow, WindowUnit};

/// The version of the position format written here.
const POSITION_VERSION: u32 = 1;
const OPERATION: &str = "continue from position";

/// What is known of the cursor column.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<K> {
    pub(crate) name: String,
    pub(crate) kind: K,
    /// No two rows share a value of it.
    pub(crate) is_unique: bool,
    pub(crate) is_nullable: bool,
}

impl<K> Cursor<K> {
    /// Rows that share a value are told apart by the key alone.
    pub(crate) fn check(&self, key: &[String]) -> Result<()> {
        if self.is_unique || !key.is_empty() {
            return Ok(());
        }
        let name = &self.name;
        let message = format!("several rows may share a value of cursor `{name}`, and no `key` tells them apart");
        Err(Error::new(ErrorKind::Configuration, "prepare cursor", message).with_hint(format!(
            "write key = [\"id\", \"{name}\"] (columns that identify a row and its version), \
             or use a column with a unique index of its own as cursor"
        )))
    }
}

/// What kind of order a cursor has. Its values stand in positions as text.
pub(crate) trait Kind: Copy {
    fn name(self) -> &'static str;

    /// The order of two position texts; `None` for the kinds whose order is the server's alone.
    fn order(self, one: &str, other: &str) -> Option<Ordering>;

    /// What a late window before it is counted in; `None` where there can be none.
    fn window_unit(self) -> Option<WindowUnit>;

    /// Checks that `window` can be taken off a cursor of this kind.
    fn accept(self, window: LateWindow) -> Result<()> {
        if self.window_unit() == Some(window.unit()) {
            return Ok(());
        }
        let message = format!("`late_window` does not fit a cursor of kind {}", self.name());
        Err(Error::new(ErrorKind::Configuration, "prepare cursor", message)
            .with_hint("a number for a numeric cursor, a duration such as \"10min\" for a date or time"))
    }

    /// The later of two position texts, for the kinds that a late window can turn back.
    fn later(self, one: String, other: &str) -> String {
        if self.order(&one, other) == Some(Ordering::Less) { other.to_owned() } else { one }
    }

    /// Whether `one` is later than `other`; false also where only the server can tell.
    fn is_later(self, one: &str, other: &str) -> bool {
        self.order(one, other) == Some(Ordering::Greater)
    }

    /// The position of a cursor value in `of`, what is read.
    fn position(self, of: &str, cursor: &str, text: &str) -> Position {
        Position::new(POSITION_VERSION, json!({ "of": of, "cursor": cursor, "kind": self.name(), "value": text }))
    }

    /// The cursor value of a position that was written for `cursor` in `of`.
    fn value_of(self, of: &str, cursor: &str, position: &Position) -> Result<String> {
        let field = |name: &str| position.value.get(name).and_then(serde_json::Value::as_str);
        if position.version != POSITION_VERSION {
            return refused(format!("position version {} was written by a newer program", position.version));
        }
        // Positions written before what is read was noted name nothing, and are believed.
        if let Some(stored) = field("of").filter(|stored| *stored != of) {
            return refused(format!("the stored position belongs to {stored}, the configuration reads {of}"));
        }
        match (field("cursor"), field("kind"), field("value")) {
            (Some(name), ..) if name != cursor => {
                refused(format!("the stored position belongs to cursor `{name}`, the configuration says `{cursor}`"))
            }
            (_, Some(kind), _) if kind != self.name() => {
                refused(format!("cursor `{cursor}` was of kind {kind} and is now of kind {}", self.name()))
            }
            (Some(_), Some(_), Some(value)) => Ok(value.to_owned()),
            _ => no_position(),
        }
    }

    /// A stored text is none of this kind.
    fn unreadable(self, text: &str) -> Error {
        Error::new(ErrorKind::Data, OPERATION, format!("stored cursor value {text:?} is not {}", self.name()))
    }
}

fn refused<T>(message: String) -> Result<T> {
    let hint = "put the configuration back, or give the source a new name, which starts from the beginning";
    Err(Error::new(ErrorKind::Configuration, OPERATION, message).with_hint(hint))
}

/// The stored position is not one that a source of this kind writes.
pub(crate) fn no_position<T>() -> Result<T> {
    refused("the stored position is not one of this connector".into())
}

/// A row without a cursor value would never be read again, whatever it becomes.
pub(crate) fn null_cursor(name: &str) -> Error {
    Error::new(ErrorKind::Data, "read rows", format!("a row has NULL in cursor `{name}`: it could never be recognised"))
        .with_hint(format!("declare the column NOT NULL, or use query = \"SELECT … WHERE {name} IS NOT NULL\""))
}
