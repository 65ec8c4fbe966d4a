//! Keys, elements and entries on their way into record batches.
//!
//! Values are collected as bytes, a column each, and become Arrow arrays when a batch is full. Promise: what is not
//! UTF-8 goes to a column of its own, `<column>__blob`; what a configured type does not hold exactly is null and in the
//! quarantine; a batch has at most [`BATCH_ROWS`] rows and about [`BATCH_BYTES`] bytes beside its last row.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array};
use arrow::datatypes::{Field, FieldRef, Schema};
use arrow::record_batch::RecordBatch;
use portolan_model::source::QuarantineItem;
use portolan_model::{Error, ErrorKind, Result};
use serde_json::Value;

use super::cells::{Cells, Column, quarantine_blobs, texts, typed};
use crate::format::inference::Traits;
use crate::format::json::{self, node::Node, parse::parse};
use crate::format::{BATCH_BYTES, BATCH_ROWS, COLUMNS_MAX, ColumnType, Item, Settings, quarantine_text};

/// The most fields of a hash or entry that become columns of one row. The lake has 1,900 columns a table.
pub(super) const RECORD_FIELDS_MAX: usize = 1_000;

/// How rows look.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The column that identifies a row: the key, or the entry id.
    pub identity: String,
    /// Whether rows have a time to live: keys have, entries have not.
    pub has_ttl: bool,
    /// Whether rows say of which type their key is.
    pub has_type: bool,
    /// Whether values are JSON.
    pub is_json: bool,
    /// Types that columns are given instead of text.
    pub columns: BTreeMap<String, ColumnType>,
    /// Whether the types of the others are inferred.
    pub infer: bool,
    /// Names that fields do not get: those of the columns beside them.
    pub reserved: Vec<&'static str>,
}

/// The columns that are not fields of a hash or entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fixed {
    Identity,
    Type,
    Ttl,
    Index,
    Field,
    Value,
    Score,
}

const FIXED: usize = 7;

/// Rows that are not a batch yet.
pub struct Table {
    layout: Layout,
    columns: Vec<Column>,
    /// Fields by their name as it came.
    names: HashMap<Box<[u8]>, usize>,
    rows: usize,
    bytes: usize,
    /// Where the next field is looked for first: fields come in the same order mostly.
    expected: usize,
    items: Vec<Item>,
}

impl Table {
    /// An empty table.
    pub fn new(layout: Layout) -> Self {
        let fixed = [
            (layout.identity.as_str(), Cells::bytes()),
            ("type", Cells::bytes()),
            ("ttl_ms", Cells::Integers(Vec::new())),
            ("index", Cells::Integers(Vec::new())),
            ("field", Cells::bytes()),
            ("value", Cells::bytes()),
            ("score", Cells::Doubles(Vec::new())),
        ];
        let columns = fixed
            .into_iter()
            .map(|(name, cells)| Column {
                raw_name: Box::default(),
                name: name.to_owned(),
                cells,
                traits: Traits::default(),
            })
            .collect();
        Self { layout, columns, names: HashMap::new(), rows: 0, bytes: 0, expected: FIXED, items: Vec::new() }
    }

    /// Rows that wait.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Whether they should become a batch.
    pub fn is_full(&self) -> bool {
        let is_wide = self.columns.len() >= COLUMNS_MAX;
        self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES || self.items.len() >= BATCH_ROWS || is_wide
    }

    pub(super) fn bytes(&mut self, column: Fixed, value: &[u8]) {
        self.bytes += value.len();
        self.columns[column as usize].cells.push_bytes(self.rows, value);
    }

    pub(super) fn integer(&mut self, column: Fixed, value: i64) {
        let rows = self.rows;
        if let Cells::Integers(values) = &mut self.columns[column as usize].cells {
            values.resize(rows, None);
            values.push(Some(value));
        }
    }

    pub(super) fn double(&mut self, column: Fixed, value: f64) {
        let rows = self.rows;
        if let Cells::Doubles(values) = &mut self.columns[column as usize].cells {
            values.resize(rows, None);
            values.push(Some(value));
        }
    }

    /// Begins the row of a key or entry.
    pub fn begin(&mut self, identity: &[u8]) {
        self.expected = FIXED;
        self.bytes(Fixed::Identity, identity);
    }

    /// Adds a field of a hash or entry to the row. Of several of one name the last stays, as in the server's own
    /// hashes; the others go to the quarantine.
    pub fn field(&mut self, name: &[u8], value: &[u8]) {
        let index = match self.columns.get(self.expected) {
            Some(column) if *column.raw_name == *name => self.expected,
            _ => self.column_of(name),
        };
        self.expected = index + 1;
        self.bytes += value.len();
        if let Some(before) = self.columns[index].cells.push_bytes(self.rows, value) {
            let column = self.columns[index].name.clone();
            self.items.push(Item::Quarantine(QuarantineItem {
                reason: "duplicate_member",
                detail: format!("the entry has `{column}` more than once; the last one is kept"),
                column: Some(column),
                row: self.identity_of(self.rows),
                content: quarantine_text(&before),
            }));
        }
    }

    fn column_of(&mut self, name: &[u8]) -> usize {
        if let Some(index) = self.names.get(name) {
            return *index;
        }
        let index = self.columns.len();
        let (raw_name, cells, traits) = (Box::from(name), Cells::bytes(), Traits::default());
        self.columns.push(Column { raw_name, name: self.field_name(name), cells, traits });
        self.names.insert(name.into(), index);
        index
    }

    /// The column of a field: its name, with `_2` behind it where it is that of a column of ours (or of one that had to
    /// give way so), and bytes that are not UTF-8 as `\xNN`.
    fn field_name(&self, name: &[u8]) -> String {
        let mut name = quarantine_text(name);
        let mut base = name.as_str();
        while let Some(shorter) = base.strip_suffix("_2") {
            base = shorter;
        }
        let is_taken = |name: &str| name == self.layout.identity || self.layout.reserved.contains(&name);
        if is_taken(base) {
            name.push_str("_2");
        }
        if name.is_empty() {
            name.push('_');
        }
        // Two names of bytes may be written alike.
        while self.columns[FIXED..].iter().any(|column| column.name == name) {
            name.push_str("_2");
        }
        name
    }

    /// Ends the row.
    pub fn end(&mut self) {
        self.rows += 1;
    }

    /// Something that cannot be a row.
    pub(super) fn quarantine(&mut self, item: QuarantineItem) {
        self.items.push(Item::Quarantine(item));
    }

    fn identity_of(&self, row: usize) -> Value {
        let text = quarantine_text(self.columns[0].cells.value(row).unwrap_or_default());
        serde_json::json!({ self.layout.identity.as_str(): text })
    }

    /// The rows as batches, with what goes to the quarantine.
    ///
    /// # Errors
    /// A row has too many columns.
    pub fn take(&mut self) -> Result<Vec<Item>> {
        let mut items = std::mem::take(&mut self.items);
        if self.rows > 0 {
            for column in &mut self.columns {
                column.cells.pad(self.rows);
            }
            if self.layout.is_json {
                self.take_json(&mut items)?
            } else {
                self.take_batch(&mut items)?
            };
        }
        self.clear();
        Ok(items)
    }

    fn clear(&mut self) {
        (self.rows, self.bytes) = (0, 0);
        if self.columns.len() >= COLUMNS_MAX / 2 {
            // Names of data rather than of a schema: not carried from batch to batch.
            self.columns.truncate(FIXED);
            self.names.clear();
        }
        for column in &mut self.columns {
            match &mut column.cells {
                Cells::Integers(values) => values.clear(),
                Cells::Doubles(values) => values.clear(),
                cells @ Cells::Bytes { .. } => *cells = Cells::bytes(),
            }
        }
    }

    fn take_batch(&mut self, items: &mut Vec<Item>) -> Result<()> {
        let (mut fields, mut arrays): (Vec<FieldRef>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
        let mut blobs: Vec<(FieldRef, ArrayRef)> = Vec::new();
        let mut columns = std::mem::take(&mut self.columns);
        let identities = &columns[0].cells;
        let identity_of = |row: usize| {
            let text = quarantine_text(identities.value(row).unwrap_or_default());
            serde_json::json!({ self.layout.identity.as_str(): text })
        };
        let mut seen_traits = Vec::new();
        for (place, column) in columns.iter().enumerate() {
            let is_kept = place == 0 || (place == Fixed::Ttl as usize && self.layout.has_ttl);
            let (field, array): (Field, ArrayRef) = match &column.cells {
                Cells::Integers(values) => {
                    if !is_kept && values.iter().all(Option::is_none) {
                        continue;
                    }
                    let array: ArrayRef = Arc::new(values.iter().copied().collect::<Int64Array>());
                    (Field::new(&column.name, array.data_type().clone(), true), array)
                }
                Cells::Doubles(values) => {
                    if values.iter().all(Option::is_none) {
                        continue;
                    }
                    let array: ArrayRef = Arc::new(values.iter().copied().collect::<Float64Array>());
                    (Field::new(&column.name, array.data_type().clone(), true), array)
                }
                Cells::Bytes { valid, .. } => {
                    if !is_kept && !valid.contains(&true) {
                        continue;
                    }
                    let configured = self.layout.columns.get(&column.name).copied();
                    let mut traits = column.traits;
                    if configured.is_none() && self.layout.infer && place != 0 && place != Fixed::Type as usize {
                        for row in 0..self.rows {
                            if let Some(value) = column.cells.value(row) {
                                // What is not UTF-8 is no number: the column is one of text then.
                                traits.see(std::str::from_utf8(value).unwrap_or("\u{fffd}"));
                            }
                        }
                        seen_traits.push((place, traits));
                    }
                    let type_ = configured.unwrap_or_else(|| traits.type_());
                    let array = if type_ == ColumnType::Text {
                        let (array, blob) = texts(&column.cells, self.rows);
                        if let Some(blob) = blob {
                            let name = format!("{}__blob", column.name);
                            blobs.push((Arc::new(Field::new(name, blob.data_type().clone(), true)), blob));
                        }
                        array
                    } else {
                        typed(column, type_, self.rows, &identity_of, items)
                    };
                    (type_.field(&column.name), array)
                }
            };
            fields.push(Arc::new(field));
            arrays.push(array);
        }
        for (field, array) in blobs {
            if fields.iter().any(|other| other.name() == field.name()) {
                quarantine_blobs(&array, field.name(), &identity_of, items);
            } else {
                fields.push(field);
                arrays.push(array);
            }
        }
        for (place, traits) in seen_traits {
            columns[place].traits = traits;
        }
        self.columns = columns;
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
            .map_err(|error| Error::new(ErrorKind::Internal, "build batch", error.to_string()))?;
        items.push(Item::Batch(batch));
        Ok(())
    }

    /// Rows whose values are JSON: the members of an object become columns, another value stays in `value`.
    fn take_json(&mut self, items: &mut Vec<Item>) -> Result<()> {
        let mut types = self.layout.columns.clone();
        types.entry("ttl_ms".into()).or_insert(ColumnType::Integer { bits: 64 });
        types.entry("index".into()).or_insert(ColumnType::Integer { bits: 64 });
        types.entry("score".into()).or_insert(ColumnType::Double);
        let settings = Settings { columns: types, identity: vec![self.layout.identity.clone()], ..Settings::default() };
        let mut given = Vec::new();
        let mut sink = |item| {
            given.push(item);
            Ok(())
        };
        let mut rows = json::Rows::new(&settings, &mut sink);
        for row in 0..self.rows {
            let value = self.columns[Fixed::Value as usize].cells.value(row).unwrap_or_default();
            let parsed = std::str::from_utf8(value)
                .map_err(|error| format!("it is not UTF-8 at byte {}", error.valid_up_to()))
                .and_then(|text| parse(text).map_err(|error| format!("it is not JSON: {error}")));
            let node = match parsed {
                Ok(node) => node,
                Err(detail) => {
                    let (row, content) = (self.identity_of(row), quarantine_text(value));
                    items.push(Item::Quarantine(QuarantineItem {
                        reason: "value_not_json",
                        column: None,
                        row,
                        content,
                        detail,
                    }));
                    continue;
                }
            };
            let mut members = self.leading(row);
            match node {
                Node::Object(own) => members.extend(own.into_iter().map(|(name, value)| {
                    let column = self.field_name(name.as_bytes());
                    (if column == name { name } else { Cow::Owned(column) }, value)
                })),
                other => members.push((Cow::Borrowed("value"), other)),
            }
            rows.push(Node::Object(members), value.len())?;
        }
        rows.finish()?;
        items.append(&mut given);
        Ok(())
    }

    /// The columns in front of a JSON value.
    fn leading(&self, row: usize) -> Vec<(Cow<'_, str>, Node<'_>)> {
        let mut members = Vec::new();
        for (place, column) in self.columns.iter().enumerate().take(FIXED) {
            if place == Fixed::Value as usize {
                continue;
            }
            let node = match &column.cells {
                Cells::Bytes { .. } => {
                    column.cells.value(row).map(|value| Node::Text(Cow::Owned(quarantine_text(value))))
                }
                Cells::Integers(values) => match values.get(row).copied().flatten() {
                    None if place == Fixed::Ttl as usize && self.layout.has_ttl => Some(Node::Null),
                    value => value.map(|value| Node::Number(Cow::Owned(value.to_string()))),
                },
                // As text, because JSON has no infinities: they go to the quarantine.
                Cells::Doubles(values) => {
                    values.get(row).copied().flatten().map(|value| Node::Text(Cow::Owned(value.to_string())))
                }
            };
            if let Some(node) = node {
                members.push((Cow::Borrowed(column.name.as_str()), node));
            }
        }
        members
    }
}
