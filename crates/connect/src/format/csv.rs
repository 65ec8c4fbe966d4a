//! CSV bodies (RFC 4180) with a header line to record batches.
//!
//! Columns are text unless a type is configured or [`Settings::csv_infer`] is set: then the whole body is looked at
//! first, and a column whose values are all booleans, whole numbers or numbers, written canonically (`7`, not `007` or
//! `+7`), gets that type. An empty field is null in a typed column and an empty text in a text column. A row with
//! another number of fields than the header, or with bytes that are not UTF-8, goes to the quarantine whole; the others
//! stay.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{FieldRef, Schema};
use arrow::record_batch::RecordBatch;
use csv::{ByteRecord, Reader, ReaderBuilder, StringRecord};
use portolan_model::error::{Error, ErrorKind, Result};
use portolan_model::source::QuarantineItem;
use serde_json::Value;

use super::column_type::ColumnBuilder;
use super::inference::Traits;
use super::{
    BATCH_BYTES, BATCH_ROWS, COLUMNS_MAX, ColumnType, Cursor, Item, Settings, Sink, Summary, data_error, kept,
    quarantine_text, quarantined_value,
};

/// Decodes a body.
///
/// # Errors
/// `Data` if its header is not UTF-8, `Limit` if it has too many columns, and what `sink` returns.
pub fn decode(body: &[u8], settings: &Settings, sink: &mut Sink<'_>) -> Result<Summary> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let mut reader = reader(body, settings);
    let names = names(reader.byte_headers().map_err(unreadable)?)?;
    let header = (line(body, 0, &reader), settings.csv_delimiter);
    let types = types(body, settings, &names)?;
    let mut table = Table::new(settings, names, types);
    let mut record = ByteRecord::new();
    let mut row = 0_u64;
    loop {
        let start = reader.position().byte();
        if !reader.read_byte_record(&mut record).map_err(unreadable)? {
            break;
        }
        row += 1;
        let (reason, detail) = if record.len() == table.names.len() {
            match StringRecord::from_byte_record(record) {
                Ok(text) => {
                    table.push(&text, row, sink)?;
                    record = text.into_byte_record();
                    continue;
                }
                Err(error) => record = error.into_byte_record(),
            }
            ("row_not_utf8", format!("row {row} is not UTF-8"))
        } else {
            let detail = format!("row {row} has {} fields where the header has {}", record.len(), table.names.len());
            ("row_wrong_length", detail)
        };
        // As it came: with its quotes, it can be read again by another delimiter.
        let content = line(body, start, &reader);
        let place = kept::place(Some(row), content, Some(header));
        let content = quarantine_text(content);
        sink(Item::Quarantine(QuarantineItem { reason, column: None, row: place, content, detail }))?;
    }
    table.flush(sink)?;
    Ok(table.summary)
}

fn reader<'b>(body: &'b [u8], settings: &Settings) -> Reader<&'b [u8]> {
    ReaderBuilder::new().delimiter(settings.csv_delimiter).flexible(true).from_reader(body)
}

/// The bytes from `start` to where the reader stands, without line ends around them.
fn line<'b>(body: &'b [u8], start: u64, reader: &Reader<&[u8]>) -> &'b [u8] {
    let place = |byte: u64| usize::try_from(byte).unwrap_or(usize::MAX).min(body.len());
    let end = place(reader.position().byte());
    let mut line = &body[place(start).min(end)..end];
    while let [b'\r' | b'\n', rest @ ..] | [rest @ .., b'\r' | b'\n'] = line {
        line = rest;
    }
    line
}

fn unreadable(error: csv::Error) -> Error {
    data_error("the body is not CSV").with_cause(error)
}

/// The columns' names: an empty one is called by its place, a repeated one gets a number.
fn names(header: &ByteRecord) -> Result<Vec<String>> {
    if header.len() > COLUMNS_MAX {
        let message = format!("the header has {} columns, more than the {COLUMNS_MAX} allowed", header.len());
        return Err(Error::new(ErrorKind::Limit, "decode body", message));
    }
    let text = |field| Ok(std::str::from_utf8(field).map_err(|_| data_error("the header is not UTF-8"))?.trim());
    let texts = header.iter().map(text).collect::<Result<Vec<&str>>>()?;
    Ok(unique_names(texts.into_iter()))
}

/// Names of which none is empty and none is there twice.
pub(super) fn unique_names<'n>(names: impl Iterator<Item = &'n str>) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let unique = names.enumerate().map(|(index, text)| {
        let base = if text.is_empty() { format!("column_{}", index + 1) } else { text.to_owned() };
        let mut name = base.clone();
        let mut number = 2;
        while !taken.insert(name.clone()) {
            name = format!("{base}_{number}");
            number += 1;
        }
        name
    });
    unique.collect()
}

fn types(body: &[u8], settings: &Settings, names: &[String]) -> Result<Vec<ColumnType>> {
    let mut traits = vec![Traits::default(); names.len()];
    if settings.csv_infer {
        let mut reader = reader(body, settings);
        let mut record = ByteRecord::new();
        while reader.read_byte_record(&mut record).map_err(unreadable)? {
            // Rows for the quarantine do not count.
            if record.len() != names.len() {
                continue;
            }
            match StringRecord::from_byte_record(record) {
                Ok(text) => {
                    traits.iter_mut().zip(&text).for_each(|(traits, field)| traits.see(field));
                    record = text.into_byte_record();
                }
                Err(error) => record = error.into_byte_record(),
            }
        }
    }
    let configured = names.iter().map(|name| settings.columns.get(name).copied());
    Ok(configured.zip(traits).map(|(configured, traits)| configured.unwrap_or_else(|| traits.type_())).collect())
}

/// Rows on their way into batches.
struct Table {
    names: Vec<String>,
    types: Vec<ColumnType>,
    builders: Vec<ColumnBuilder>,
    identity: Vec<(String, usize)>,
    cursor: Option<usize>,
    pending: usize,
    pending_bytes: usize,
    summary: Summary,
}

impl Table {
    fn new(settings: &Settings, names: Vec<String>, types: Vec<ColumnType>) -> Self {
        let index: HashMap<&str, usize> =
            names.iter().enumerate().map(|(index, name)| (name.as_str(), index)).collect();
        let identity = settings
            .identity
            .iter()
            .map(|name| Some((name.clone(), *index.get(name.as_str())?)))
            .collect::<Option<_>>();
        let cursor =
            settings.cursor.as_ref().and_then(|path| path.simple()).and_then(|path| match path.names.as_slice() {
                [name] => index.get(name.as_str()).copied(),
                _ => None,
            });
        let builders = types.iter().map(|type_| type_.builder(0)).collect();
        Self {
            identity: identity.unwrap_or_default(),
            cursor,
            builders,
            names,
            types,
            pending: 0,
            pending_bytes: 0,
            summary: Summary::default(),
        }
    }

    fn push(&mut self, record: &StringRecord, row: u64, sink: &mut Sink<'_>) -> Result<()> {
        for (index, text) in record.iter().enumerate() {
            let builder = &mut self.builders[index];
            if text.is_empty() && self.types[index] != ColumnType::Text {
                builder.push_null();
            } else if let Err(detail) = builder.push_text(text) {
                let identity = identity(&self.identity, record, row);
                sink(quarantined_value(identity, &self.names[index], text, detail))?;
            }
        }
        if let Some(text) = self.cursor.and_then(|index| record.get(index))
            && !text.is_empty()
        {
            let cursor = text.parse().map_or_else(|_| Cursor::Text(text.to_owned()), Cursor::Integer);
            let latest = match self.summary.cursor.take() {
                None => cursor,
                Some(before) => before.later(cursor).map_err(|problem| data_error(format!("cursor: {problem}")))?,
            };
            self.summary.cursor = Some(latest);
        }
        self.pending += 1;
        self.pending_bytes += record.as_byte_record().as_slice().len();
        if self.pending >= BATCH_ROWS || self.pending_bytes >= BATCH_BYTES {
            self.flush(sink)?;
        }
        Ok(())
    }

    fn flush(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        if self.pending == 0 {
            return Ok(());
        }
        let fresh = self.types.iter().map(|type_| type_.builder(0)).collect();
        let arrays: Vec<ArrayRef> =
            std::mem::replace(&mut self.builders, fresh).into_iter().map(|builder| builder.finish()).collect();
        let fields: Vec<FieldRef> =
            self.names.iter().zip(&self.types).map(|(name, type_)| Arc::new(type_.field(name))).collect();
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
            .map_err(|error| Error::new(ErrorKind::Internal, "build batch", error.to_string()))?;
        self.summary.rows += self.pending as u64;
        (self.pending, self.pending_bytes) = (0, 0);
        sink(Item::Batch(batch))
    }
}

fn identity(columns: &[(String, usize)], record: &StringRecord, row: u64) -> Value {
    if columns.is_empty() {
        return Value::from(row);
    }
    let value = |index: usize| Value::from(record.get(index).unwrap_or_default());
    Value::Object(columns.iter().map(|(name, index)| (name.clone(), value(*index))).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::RowPath;

    fn run(body: &[u8], settings: &Settings) -> (String, Vec<QuarantineItem>, Summary) {
        let (mut batches, mut quarantine) = (Vec::new(), Vec::new());
        let summary = decode(body, settings, &mut |item| {
            match item {
                Item::Batch(batch) => batches.push(batch),
                Item::Quarantine(item) => quarantine.push(item),
            }
            Ok(())
        })
        .unwrap();
        (arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string(), quarantine, summary)
    }

    #[test]
    fn text_unless_configured() {
        let columns = [("price".to_owned(), ColumnType::parse("decimal(6,2)").unwrap())].into();
        let settings = Settings {
            columns,
            identity: vec!["id".into()],
            cursor: Some(RowPath::column("id")),
            ..Settings::default()
        };
        let body =
            b"\xef\xbb\xbfid,price,,id\r\n007,1.5,\"a,\"\"b\"\"\",x\r\n8,,,\n9,1.234,c,d\n10,too,few\n11,\xff,c,d\n";
        let (table, quarantine, summary) = run(body, &settings);
        let expected = "\
+-----+-------+----------+------+
| id  | price | column_3 | id_2 |
+-----+-------+----------+------+
| 007 | 1.50  | a,\"b\"    | x    |
| 8   |       |          |      |
| 9   |       | c        | d    |
+-----+-------+----------+------+";
        assert_eq!(table, expected);
        assert_eq!(summary, Summary { rows: 3, cursor: Some(Cursor::Integer(9)) });
        let reasons: Vec<_> = quarantine.iter().map(|item| (item.reason, item.content.as_str())).collect();
        assert_eq!(
            reasons,
            [("value_not_exact", "1.234"), ("row_wrong_length", "10,too,few"), ("row_not_utf8", "11,\\xff,c,d")]
        );
        assert_eq!(quarantine[0].row, serde_json::json!({ "id": "9" }));
        let header = "id,price,,id";
        assert_eq!(quarantine[1].row, serde_json::json!({ "row": 4, "header": header, "delimiter": "," }));
        assert_eq!(quarantine[2].row, serde_json::json!({ "row": 5, "header": header, "delimiter": ",", "bytes": 8 }));
    }

    #[test]
    fn bytes_that_are_text_only_across_fields_are_none() {
        let settings = Settings { csv_infer: true, ..Settings::default() };
        let (table, quarantine, _) = run(b"a,b,c\n1,2,3\n\xc3,\xa9,x\n", &settings);
        assert!(table.contains("| 1 | 2 | 3 |"), "{table}");
        assert_eq!(quarantine.iter().map(|item| item.reason).collect::<Vec<_>>(), ["row_not_utf8"]);
        let mut types = Vec::new();
        decode(b"a,b,c\n1,2,3\n\xc3,\xa9,x\n", &settings, &mut |item| {
            if let Item::Batch(batch) = item {
                types.extend(batch.schema().fields().iter().map(|field| field.data_type().to_string()));
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(types, ["Int64"; 3], "a row of the quarantine does not count");
    }

    #[test]
    fn inference_is_canonical_and_exact() {
        let settings = Settings { csv_infer: true, ..Settings::default() };
        let body =
            b"a,b,c,d,e,f,g\n1,1.5,true,007,9007199254740993,18446744073709551615,\n-2,3,false,8,0.5,1,\n,,,,,,\n";
        let (mut types, mut sink_rows) = (Vec::new(), 0);
        decode(body, &settings, &mut |item| {
            if let Item::Batch(batch) = item {
                types.extend(batch.schema().fields().iter().map(|field| field.data_type().to_string()));
                sink_rows += batch.num_rows();
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(types, ["Int64", "Float64", "Boolean", "Utf8", "Utf8", "UInt64", "Utf8"]);
        assert_eq!(sink_rows, 3);
    }

    #[test]
    fn nothing_gives_nothing() {
        for body in ["", "\n", "a,b", "a,b\n"] {
            let (_, quarantine, summary) = run(body.as_bytes(), &Settings::default());
            assert_eq!((quarantine.len(), summary.rows), (0, 0), "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn fields_survive(rows in prop::collection::vec(prop::collection::vec("[a-z0-9,\"\n é.]{0,8}", 3), 0..20)) {
            let mut writer = csv::Writer::from_writer(Vec::new());
            writer.write_record(["x", "y", "z"]).unwrap();
            for row in &rows {
                writer.write_record(row).unwrap();
            }
            let body = writer.into_inner().unwrap();
            let mut seen: Vec<Vec<String>> = Vec::new();
            decode(&body, &Settings::default(), &mut |item| {
                let Item::Batch(batch) = item else { panic!("quarantined") };
                for row in 0..batch.num_rows() {
                    seen.push((0..3).map(|column| {
                        let array: &arrow::array::StringArray =
                            batch.column(column).as_any().downcast_ref().unwrap();
                        array.value(row).to_owned()
                    }).collect());
                }
                Ok(())
            }).unwrap();
            prop_assert_eq!(seen, rows);
        }

        #[test]
        fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..200), infer in any::<bool>()) {
            let settings = Settings { csv_infer: infer, ..Settings::default() };
            let _ = decode(&body, &settings, &mut |_| Ok(()));
        }
    }
}
