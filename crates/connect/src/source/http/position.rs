//! Where an `http` source continues.
//!
//! Version 1 is an object: `cursor`, what was asked for with last and is committed; `highest`, the highest cursor seen
//! on pages already committed while more are to come; `rows`, how many rows these had; `page`, the page that comes next then, and `trail`, what is kept of
//! those behind it; `etag`, the strong ETag of the committed body; `of`, the [`Fingerprint`] of the options that it was read with: four numbers beside a cursor or
//! page, one beside an ETag, absent in positions of before it was stored.

use portolan_model::error::{Error, ErrorKind, Result};
use portolan_model::position::Position;
use serde_json::{Map, Value};

use super::fingerprint::Fingerprint;
use super::paging::{NextPage, Trail};
use crate::format::Cursor;

const VERSION: u32 = 1;

/// The decoded position.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct HttpPosition {
    pub(super) cursor: Option<Cursor>,
    pub(super) highest: Option<Cursor>,
    pub(super) rows: u64,
    pub(super) page: Option<NextPage>,
    pub(super) trail: Trail,
    pub(super) etag: Option<String>,
}

impl HttpPosition {
    /// Reads a stored position. A source that is not `incremental` begins anew each time, whatever cursor is stored; an
    /// ETag that was read with other options is left out.
    ///
    /// # Errors
    /// `Configuration` if it is not readable, or if a cursor or page is one of other options.
    pub(super) fn read(position: Option<&Position>, fingerprint: &Fingerprint, incremental: bool) -> Result<Self> {
        let Some(position) = position else { return Ok(Self::default()) };
        let unreadable = || {
            let text = position.to_text();
            Error::new(ErrorKind::Configuration, "read position", format!("the stored position {text} is not readable"))
                .with_hint("was it written by a newer version, or by another protocol under the same source name?")
        };
        let object = position.value.as_object().filter(|_| position.version == VERSION).ok_or_else(unreadable)?;
        let cursor = |key: &str| match object.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => Cursor::from_value(value).map(Some).ok_or_else(unreadable),
        };
        let page = match object.get("page") {
            None | Some(Value::Null) => None,
            Some(page) => Some(serde_json::from_value(page.clone()).map_err(|_| unreadable())?),
        };
        let trail = match object.get("trail") {
            None | Some(Value::Null) => Trail::default(),
            Some(trail) => serde_json::from_value(trail.clone()).map_err(|_| unreadable())?,
        };
        let rows = match object.get("rows") {
            None | Some(Value::Null) => 0,
            Some(rows) => rows.as_u64().ok_or_else(unreadable)?,
        };
        let of = object.get("of");
        let etag = object.get("etag").filter(|_| fingerprint.is_of_etag(of));
        let etag = etag.and_then(Value::as_str).map(str::to_owned);
        let (cursor, highest) = (cursor("cursor")?, cursor("highest")?);
        if !incremental {
            return Ok(Self { etag, ..Self::default() });
        }
        fingerprint.require_cursor(of, page.is_some())?;
        Ok(Self { cursor, highest, rows, page, trail, etag })
    }

    /// A stored position without its ETag; one that is not readable stays as it is.
    pub(super) fn without_etag(mut position: Position) -> Position {
        if let Some(object) = position.value.as_object_mut() {
            object.remove("etag");
        }
        position
    }

    pub(super) fn to_position(&self, fingerprint: &Fingerprint) -> Position {
        let mut object = Map::new();
        if self.cursor.is_some() || self.page.is_some() {
            object.insert("of".into(), fingerprint.of_cursor());
        } else if self.etag.is_some() {
            object.insert("of".into(), fingerprint.of_etag());
        }
        if let Some(cursor) = &self.cursor {
            object.insert("cursor".into(), cursor.to_value());
        }
        if let Some(highest) = &self.highest {
            object.insert("highest".into(), highest.to_value());
        }
        if let Some(Ok(page)) = self.page.as_ref().map(serde_json::to_value) {
            object.insert("page".into(), page);
            object.insert("rows".into(), Value::from(self.rows));
            if let Ok(trail) = serde_json::to_value(self.trail) {
                object.insert("trail".into(), trail);
            }
        }
        if let Some(etag) = &self.etag {
            object.insert("etag".into(), Value::from(etag.as_str()));
        }
        Position::new(VERSION, Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fingerprint of a source with these keys.
    fn fingerprint(keys: &str) -> Fingerprint {
        let text = format!(
            "[[source]]\nname = \"x\"\nhost = \"localhost\"\nport = 80\nprotocol = \"http\"\ntls = {{ allow_plaintext = \"test\" }}\n{keys}"
        );
        let configuration = portolan_model::config::read(&text, &crate::Registry).unwrap();
        let spec = &configuration.sources[0];
        Fingerprint::new(spec, &spec.options.parse().unwrap())
    }

    #[test]
    fn a_fingerprint_stays_the_same_and_tells_options_apart() {
        let stored = fingerprint("path = \"/a?x=1\"\nquery = { y = \"2\" }").of_cursor();
        assert_eq!(stored.to_string(), "[4181624098604534,7331057796473703,8011147086339971,6169008071258145]");
        let one = fingerprint("query = { a = \"b\", c = \"\" }");
        for other in ["query = { a = \"bc\" }", "query = { a = \"b\" }", "method = \"POST\"", "path = \"/a\""] {
            assert!(fingerprint(other).require_cursor(Some(&one.of_cursor()), true).is_err(), "{other}");
        }
        for other in ["columns = { a = \"date\" }", "format = \"json\"", "rows = \"$.a\"", "infer = true"] {
            let other = fingerprint(&format!("query = {{ a = \"b\", c = \"\" }}\n{other}"));
            assert!(other.require_cursor(Some(&one.of_cursor()), true).is_ok(), "{other:?}");
            assert!(!other.is_of_etag(Some(&one.of_etag())), "{other:?}");
        }
    }

    #[test]
    fn the_first_format_is_read_for_ever() {
        let stored = r#"{"version":1,"value":{"cursor":41,"highest":"2026-01-01T00:00:00Z","page":{"token":"abc"},"etag":"\"x\""}}"#;
        let fingerprint = fingerprint("path = \"/a\"");
        let read = |position: &Position| HttpPosition::read(Some(position), &fingerprint, true);
        let position = read(&Position::from_text(stored).unwrap()).unwrap();
        let expected = HttpPosition {
            cursor: Some(Cursor::Integer(41)),
            highest: Some(Cursor::Text("2026-01-01T00:00:00Z".into())),
            rows: 0,
            page: Some(NextPage::Token("abc".into())),
            trail: Trail::default(),
            // It does not say which options it was read with: one whole answer more, and never a wrong 304.
            etag: None,
        };
        assert_eq!(position, expected);
        assert_eq!(read(&position.to_position(&fingerprint)).unwrap(), expected);
        assert_eq!(HttpPosition::read(None, &fingerprint, true).unwrap(), HttpPosition::default());
        for bad in
            [r#"{"version":2,"value":{}}"#, r#"{"version":1,"value":[]}"#, r#"{"version":1,"value":{"cursor":[]}}"#]
        {
            assert!(read(&Position::from_text(bad).unwrap()).is_err(), "{bad}");
        }
    }
}
