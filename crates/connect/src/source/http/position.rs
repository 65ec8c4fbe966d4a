//! Where an `http` source continues.
//!
//! Version 1 is an object: `cursor`, what was asked for with last and is committed; `highest`, the highest cursor seen
//! on pages already committed while more are to come; `page`, the page that comes next then; `etag`, the strong ETag of
//! the committed body.

use portolan_model::error::{Error, ErrorKind, Result};
use portolan_model::position::Position;
use serde_json::{Map, Value};

use super::paging::NextPage;
use crate::format::Cursor;

const VERSION: u32 = 1;

/// The decoded position.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct HttpPosition {
    pub(super) cursor: Option<Cursor>,
    pub(super) highest: Option<Cursor>,
    pub(super) page: Option<NextPage>,
    pub(super) etag: Option<String>,
}

impl HttpPosition {
    pub(super) fn read(position: Option<&Position>) -> Result<Self> {
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
        let etag = object.get("etag").and_then(Value::as_str).map(str::to_owned);
        Ok(Self { cursor: cursor("cursor")?, highest: cursor("highest")?, page, etag })
    }

    pub(super) fn to_position(&self) -> Position {
        let mut object = Map::new();
        if let Some(cursor) = &self.cursor {
            object.insert("cursor".into(), cursor.to_value());
        }
        if let Some(highest) = &self.highest {
            object.insert("highest".into(), highest.to_value());
        }
        if let Some(Ok(page)) = self.page.as_ref().map(serde_json::to_value) {
            object.insert("page".into(), page);
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

    #[test]
    fn the_first_format_is_read_for_ever() {
        let stored = r#"{"version":1,"value":{"cursor":41,"highest":"2026-01-01T00:00:00Z","page":{"token":"abc"},"etag":"\"x\""}}"#;
        let position = HttpPosition::read(Some(&Position::from_text(stored).unwrap())).unwrap();
        let expected = HttpPosition {
            cursor: Some(Cursor::Integer(41)),
            highest: Some(Cursor::Text("2026-01-01T00:00:00Z".into())),
            page: Some(NextPage::Token("abc".into())),
            etag: Some("\"x\"".into()),
        };
        assert_eq!(position, expected);
        assert_eq!(HttpPosition::read(Some(&position.to_position())).unwrap(), expected);
        assert_eq!(HttpPosition::read(None).unwrap(), HttpPosition::default());
        for bad in
            [r#"{"version":2,"value":{}}"#, r#"{"version":1,"value":[]}"#, r#"{"version":1,"value":{"cursor":[]}}"#]
        {
            assert!(HttpPosition::read(Some(&Position::from_text(bad).unwrap())).is_err(), "{bad}");
        }
    }
}
