//! What the quarantine keeps of a row that could not be read, so that it can be read again after the configuration was
//! corrected.
//!
//! The row as it came is its content; what else it needs stands in its place (the item's `row`): `header` and `delimiter` of CSV,
//! and `bytes`, its length, where the content alone does not tell whether `\xNN` in it came so or stands for a byte that is not
//! UTF-8. Promise: what is read again is what came, to the byte, or nothing is.

use portolan_model::error::Result;
use portolan_model::source::{KeptRow, RetriedRow};
use serde_json::{Map, Value, json};

use super::{CONTENT_BYTES_MAX, Format, Item, Settings, Sink, decode};

/// The longest header that is kept with each row, in bytes.
const HEADER_BYTES_MAX: usize = 1 << 10;
/// A text that was cut within a character may be shorter by so much.
const CUT_BYTES: usize = 4;

/// The place of a row: its number, and what its content does not tell.
pub(crate) fn place(number: Option<u64>, content: &[u8], header: Option<(&[u8], u8)>) -> Value {
    let mut place = Map::new();
    if let Some((header, delimiter)) = header
        && header.len() <= HEADER_BYTES_MAX
        && let Ok(header) = std::str::from_utf8(header)
    {
        place.insert("header".into(), header.into());
        place.insert("delimiter".into(), char::from(delimiter).to_string().into());
    }
    let is_plain = std::str::from_utf8(content).is_ok_and(|text| unescaped(text).is_none());
    if !is_plain {
        place.insert("bytes".into(), content.len().into());
    }
    match number {
        Some(number) if place.is_empty() => number.into(),
        None if place.is_empty() => Value::Null,
        number => {
            if let Some(number) = number {
                place.insert("row".into(), number.into());
            }
            Value::Object(place)
        }
    }
}

/// Adds what is known of a row to its place.
pub(crate) fn add(place: &mut Value, known: Map<String, Value>) {
    let mut members = match place.take() {
        Value::Object(members) => members,
        Value::Null => Map::new(),
        number => Map::from_iter([("row".to_owned(), number)]),
    };
    members.extend(known);
    *place = json!(members);
}

/// The row as it came; `None` if that is not known.
pub(crate) fn bytes(row: &KeptRow<'_>) -> Option<Vec<u8>> {
    let content = row.content;
    if content.len() + CUT_BYTES > CONTENT_BYTES_MAX {
        return None;
    }
    let unescaped = unescaped(content);
    match (row.row.get("bytes").and_then(Value::as_u64), unescaped) {
        (None, None) => Some(content.into()),
        (Some(bytes), _) if bytes == content.len() as u64 => Some(content.into()),
        // As many bytes as it had: each `\xNN` stands for one.
        (Some(bytes), Some(unescaped)) if bytes == unescaped.len() as u64 => Some(unescaped),
        _ => None,
    }
}

/// The text with a byte for each `\xNN`; `None` if there is none.
fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    let mut found = false;
    while let Some((first, behind)) = rest.split_first() {
        let digit = |byte: &u8| char::from(*byte).to_digit(16).filter(|_| !byte.is_ascii_uppercase());
        if let [b'\\', b'x', high, low, after @ ..] = rest
            && let (Some(high), Some(low)) = (digit(high), digit(low))
        {
            bytes.push((high * 16 + low) as u8);
            (rest, found) = (after, true);
            continue;
        }
        bytes.push(*first);
        rest = behind;
    }
    found.then_some(bytes)
}

/// Reads a row of a body again. `delimiter` is the one that is configured for CSV; else the one it came with counts.
///
/// # Errors
/// What decoding returns but for the row's own faults.
pub(crate) fn retry(row: &KeptRow<'_>, settings: &Settings, delimiter: Option<u8>) -> Result<RetriedRow> {
    let Some(content) = bytes(row) else { return Ok(RetriedRow::Unable) };
    let text = |name: &str| row.row.get(name).and_then(Value::as_str);
    match row.reason {
        "row_not_json" => retried(|sink| decode(Format::Ndjson, &content, settings, sink).map(drop)),
        "row_wrong_length" | "row_not_utf8" => {
            let Some(header) = text("header") else { return Ok(RetriedRow::Unable) };
            let came = text("delimiter").and_then(|text| text.bytes().next());
            let delimiter = delimiter.or(came).unwrap_or(settings.csv_delimiter);
            let settings = Settings { csv_delimiter: delimiter, ..settings.clone() };
            let body = [header.as_bytes(), b"\n", &content].concat();
            retried(|sink| decode(Format::Csv, &body, &settings, sink).map(drop))
        }
        _ => Ok(RetriedRow::Unable),
    }
}

/// What came of reading one row again.
///
/// # Errors
/// What `decode` returns.
pub(crate) fn retried(decode: impl FnOnce(&mut Sink<'_>) -> Result<()>) -> Result<RetriedRow> {
    let (mut batches, mut quarantined) = (Vec::new(), Vec::new());
    decode(&mut |item| {
        match item {
            Item::Batch(batch) => batches.push(batch),
            Item::Quarantine(item) => quarantined.push(item),
        }
        Ok(())
    })?;
    Ok(match quarantined.iter().position(|item| item.column.is_none()) {
        Some(whole) => RetriedRow::Unfit(quarantined.swap_remove(whole).detail),
        None if batches.is_empty() => RetriedRow::Unfit("it holds no row".to_owned()),
        None => RetriedRow::Fits { batches, quarantined },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::quarantine_text;
    use super::*;

    #[test]
    fn what_is_not_known_to_the_byte_is_not_tried() {
        let row = |content: &str, row: Value| bytes(&KeptRow { reason: "row_not_json", row: &row, content });
        assert_eq!(row("a,b", json!(3)), Some(b"a,b".to_vec()));
        // Of an older lake: nobody knows what stood there.
        assert_eq!(row("a\\xff", json!(3)), None);
        assert_eq!(row("a\\xff", json!({ "bytes": 2 })), Some(vec![b'a', 0xff]));
        assert_eq!(row("a\\xff", json!({ "bytes": 5 })), Some(b"a\\xff".to_vec()));
        assert_eq!(row("\\xff\\xfe", json!({ "bytes": 5 })), None, "one of them came so");
        for length in CONTENT_BYTES_MAX - 3..=CONTENT_BYTES_MAX {
            assert_eq!(row(&"x".repeat(length), json!(1)), None, "it may have been cut");
        }
    }

    proptest! {
        #[test]
        fn bytes_come_back_or_are_unknown(
            parts in prop::collection::vec(prop_oneof![Just(b"\\x".to_vec()), Just(b"ff".to_vec()), Just(vec![0xff]),
                prop::collection::vec(any::<u8>(), 0..4)], 0..12),
        ) {
            let content = parts.concat();
            let place = place(Some(1), &content, None);
            let text = quarantine_text(&content);
            if let Some(found) = bytes(&KeptRow { reason: "", row: &place, content: &text }) {
                prop_assert_eq!(found, content);
            } else {
                prop_assert!(std::str::from_utf8(&content).is_err());
            }
        }
    }
}
