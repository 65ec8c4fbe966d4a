//! The columns of a table: those committed, those a round adds, and where each incoming column goes.
//!
//! Promise: nothing is lost when types change. A column is widened where every value it holds keeps its meaning; a
//! value that does not fit its column exactly goes to a variant column of its own type, `<name>__<type>`.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringBuilder, new_null_array};
use arrow::datatypes::{DataType, Field};
use portolan_model::{Error, ErrorKind, Result};

use crate::convert::{self, Split};
use crate::error::arrow as arrow_error;
use crate::text::json;
use crate::types::{Column, Kind, kind_of, part_names};

/// Columns up to which a table gets new ones of their own types. SQLite's tables have 2,000 at most, three of which are
/// DuckLake's.
const COLUMNS_MAX: usize = 1_900;
/// Columns up to which a table gets new ones for values of any type, as JSON.
const JSON_COLUMNS_MAX: usize = 1_990;

/// A column with what it was made for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StoredColumn {
    pub(crate) column: Column,
    /// The name that the source gives it.
    pub(crate) source: String,
    /// Whether it takes the values that do not fit the source's main column.
    pub(crate) variant: bool,
}

impl StoredColumn {
    /// Whether it holds values of the column that the source calls `name`.
    pub(crate) fn is_of(&self, name: &str) -> bool {
        self.source == name && !is_leading(&self.column.name)
    }
}

/// A committed table, as stagings see it.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) id: i64,
    /// The version of its columns.
    pub(crate) schema_version: i64,
    pub(crate) columns: Vec<StoredColumn>,
    pub(crate) next_column_id: i64,
    /// Where its files are.
    pub(crate) folder: PathBuf,
}

/// The columns of a table while a round adds rows to it.
#[derive(Clone, Debug)]
pub(crate) struct Columns {
    pub(crate) list: Vec<StoredColumn>,
    pub(crate) next_id: i64,
    /// Counts changes, so that a file is ended when its columns are no longer the table's.
    pub(crate) version: u64,
    /// Whether a table of a source: two leading columns, and names are checked.
    leading: bool,
}

impl Columns {
    /// The columns of a committed table, or those of a new one.
    pub(crate) fn new(base: Option<&Shape>, leading: bool) -> Self {
        if let Some(shape) = base {
            return Self { list: shape.columns.clone(), next_id: shape.next_column_id, version: 0, leading };
        }
        let mut columns = Self { list: Vec::new(), next_id: 1, version: 0, leading };
        if leading {
            columns.push("_round", "_round", Kind::Int64, false);
            columns.push("_time", "_time", Kind::TimestampTz, false);
        }
        columns
    }

    /// The bare columns.
    pub(crate) fn plain(&self) -> Vec<Column> {
        self.list.iter().map(|stored| stored.column.clone()).collect()
    }

    fn push(&mut self, name: &str, source: &str, kind: Kind, variant: bool) -> usize {
        let id = self.next_id;
        self.next_id += 1;
        let kind = self.renumber(kind);
        let column = Column { id, name: name.to_owned(), kind };
        self.list.push(StoredColumn { column, source: source.to_owned(), variant });
        self.version += 1;
        self.list.len() - 1
    }

    /// Gives the parts of a nested type ids of this table.
    fn renumber(&mut self, kind: Kind) -> Kind {
        let mut part = |column: Column| {
            let id = self.next_id;
            self.next_id += 1;
            Column { id, name: column.name, kind: self.renumber(column.kind) }
        };
        match kind {
            Kind::List(element) => Kind::List(Box::new(part(*element))),
            Kind::Map(key, value) => Kind::Map(Box::new(part(*key)), Box::new(part(*value))),
            Kind::Struct(fields) => Kind::Struct(fields.into_iter().map(part).collect()),
            simple => simple,
        }
    }

    /// A name for `wanted` that is neither reserved nor taken, whatever its case: with `_2`, `_3`, … where it is.
    fn free_name(&self, wanted: &str) -> String {
        let clean: String = wanted.chars().map(|c| if c.is_control() { '_' } else { c }).collect();
        let base = if clean.is_empty() { "column".to_owned() } else { clean };
        let taken = |name: &str| {
            let lower = name.to_lowercase();
            (self.leading && is_reserved(&lower)) || self.list.iter().any(|c| c.column.name.to_lowercase() == lower)
        };
        if !taken(&base) {
            return base;
        }
        (2u32..).map(|number| format!("{base}_{number}")).find(|name| !taken(name)).unwrap_or(base)
    }

    /// Places one incoming column: appends `(place, array)` pairs to `out`.
    ///
    /// # Errors
    /// `Data` for a type without a lossless place, `Limit` for too many columns.
    pub(crate) fn place(&mut self, field: &Field, array: &ArrayRef, out: &mut Vec<(usize, ArrayRef)>) -> Result<()> {
        let Some(kind) = kind_of(field)? else { return Ok(()) };
        // A source may have columns of the names of the leading ones; those are renamed, never matched.
        let own = |stored: &StoredColumn| !(self.leading && is_leading(&stored.column.name));
        let main = self.list.iter().position(|stored| stored.source == *field.name() && !stored.variant && own(stored));
        let Some(main) = main else {
            if self.list.len() >= COLUMNS_MAX {
                return Err(too_many(field.name(), COLUMNS_MAX));
            }
            let name = self.free_name(field.name());
            let place = self.push(&name, field.name(), kind, false);
            out.push((place, stored_array(array, field, &self.list[place].column)?));
            return Ok(());
        };
        if has_untyped(field.data_type()) && is_same_but_untyped(field, &self.list[main].column.kind) {
            // An empty list or a missing part says nothing about its type: it takes the column's.
            if let Ok(array) = stored_array(array, field, &self.list[main].column) {
                out.push((main, array));
                return Ok(());
            }
        }
        let existing = self.list[main].column.kind.clone();
        match relation(&existing, &kind) {
            Relation::Fits => out.push((main, stored_array(array, field, &self.list[main].column)?)),
            Relation::Widen(wider) => {
                self.list[main].column.kind = wider;
                self.version += 1;
                return self.place(field, array, out);
            }
            Relation::ByValue => {
                let own = Column { id: 0, name: field.name().clone(), kind: kind.clone() };
                let values = stored_array(array, field, &own)?;
                let split = convert::exact(&values, &kind, &existing);
                let Split { fitting, rest } = split.map_err(|error| arrow_error("store rows", error))?;
                out.push((main, fitting));
                if let Some(rest) = rest {
                    self.place_variant(main, &own, &rest, out)?;
                }
            }
            Relation::Apart => {
                if array.null_count() == array.len() {
                    return Ok(());
                }
                let own = Column { id: 0, name: field.name().clone(), kind };
                let values = stored_array(array, field, &own)?;
                self.place_variant(main, &own, &values, out)?;
            }
        }
        Ok(())
    }

    fn place_variant(
        &mut self,
        main: usize,
        own: &Column,
        values: &ArrayRef,
        out: &mut Vec<(usize, ArrayRef)>,
    ) -> Result<()> {
        // The widest type of its class, so that one variant column serves all widths.
        let kind = match &own.kind {
            Kind::Int8 | Kind::Int16 | Kind::Int32 => Kind::Int64,
            Kind::UInt8 | Kind::UInt16 | Kind::UInt32 => Kind::UInt64,
            Kind::Float32 => Kind::Float64,
            other => other.clone(),
        };
        let source = self.list[main].source.clone();
        let found = self
            .list
            .iter()
            .position(|stored| stored.variant && stored.source == source && stored.column.kind.same_shape(&kind));
        let place = match found {
            Some(place) => place,
            None if self.list.len() < COLUMNS_MAX => {
                let name = self.free_name(&format!("{}__{}", self.list[main].column.name, kind.word()));
                self.push(&name, &source, kind, true)
            }
            None => return self.place_json(main, own, values, out),
        };
        let wider = convert::whole(values, &own.kind, &self.list[place].column.kind);
        out.push((place, wider.map_err(|error| arrow_error("store rows", error))?));
        Ok(())
    }

    /// Places values that fit no column of a table that has no room for one of their type.
    fn place_json(
        &mut self,
        main: usize,
        own: &Column,
        values: &ArrayRef,
        out: &mut Vec<(usize, ArrayRef)>,
    ) -> Result<()> {
        let source = self.list[main].source.clone();
        let mut texts = StringBuilder::new();
        let mut text = String::new();
        for row in 0..values.len() {
            text.clear();
            if values.is_null(row) {
                texts.append_null();
            } else if json::value(values, row, &own.kind, &mut text) {
                texts.append_value(&text);
            } else {
                return Err(too_many(&source, COLUMNS_MAX));
            }
        }
        let found = self
            .list
            .iter()
            .position(|stored| stored.variant && stored.source == source && stored.column.kind == Kind::Json);
        let place = match found {
            Some(place) => place,
            None if self.list.len() < JSON_COLUMNS_MAX => {
                let name = self.free_name(&format!("{}__{}", self.list[main].column.name, Kind::Json.word()));
                self.push(&name, &source, Kind::Json, true)
            }
            None => return Err(too_many(&source, JSON_COLUMNS_MAX)),
        };
        out.push((place, Arc::new(texts.finish())));
        Ok(())
    }
}

fn too_many(name: &str, limit: usize) -> Error {
    Error::new(ErrorKind::Limit, "store rows", format!("column `{name}` would be number {}", limit + 1))
        .with_hint("let the source yield fewer columns, for example the changing part as one JSON text")
}

/// Whether a column is one that the lake puts before those of the source.
pub(crate) fn is_leading(name: &str) -> bool {
    matches!(name, "_round" | "_time")
}

/// Names that DuckLake or the lake itself uses inside a table.
fn is_reserved(lower: &str) -> bool {
    matches!(lower, "row_id" | "rowid" | "begin_snapshot" | "end_snapshot" | "_round" | "_time")
        || lower.starts_with("_ducklake_internal_")
}

/// A row of columns as arrays in the order of `columns`, nulls where nothing came.
pub(crate) fn fill(columns: &Columns, parts: Vec<(usize, ArrayRef)>, rows: usize) -> Vec<ArrayRef> {
    let mut arrays: Vec<Option<ArrayRef>> = vec![None; columns.list.len()];
    for (place, array) in parts {
        arrays[place] = Some(array);
    }
    let pairs = arrays.into_iter().zip(&columns.list);
    pairs.map(|(array, stored)| array.unwrap_or_else(|| new_null_array(&stored.column.kind.arrow(), rows))).collect()
}

#[derive(Debug, PartialEq)]
enum Relation {
    /// Every value of the incoming type is one of the column's.
    Fits,
    /// The column can be widened so that it is.
    Widen(Kind),
    /// Some values may be.
    ByValue,
    /// No value is.
    Apart,
}

fn relation(existing: &Kind, incoming: &Kind) -> Relation {
    if existing.same_shape(incoming) {
        return Relation::Fits;
    }
    match (integer(existing), integer(incoming)) {
        (Some((signed, bits)), Some((incoming_signed, incoming_bits))) => {
            let covers = |signed: bool, bits: u8| match (signed, incoming_signed) {
                (true, true) | (false, false) => bits >= incoming_bits,
                (true, false) => bits > incoming_bits,
                (false, true) => false,
            };
            if covers(signed, bits) {
                return Relation::Fits;
            }
            let wider = [(signed, 16), (signed, 32), (signed, 64), (true, 16), (true, 32), (true, 64)];
            // An unsigned column may become a signed one only with room for all it holds.
            let holds = |(other, width): &(bool, u8)| *width > bits || (*other == signed && *width >= bits);
            match wider.into_iter().filter(holds).find(|(signed, bits)| covers(*signed, *bits)) {
                Some((signed, bits)) => Relation::Widen(integer_kind(signed, bits)),
                None => Relation::ByValue,
            }
        }
        (None, Some((_, bits))) => match existing {
            Kind::Float64 if bits <= 32 => Relation::Fits,
            Kind::Float32 if bits <= 16 => Relation::Fits,
            Kind::Float32 => Relation::Widen(Kind::Float64),
            Kind::Float64 => Relation::ByValue,
            Kind::Decimal(precision, scale) if precision - scale >= digits(bits) => Relation::Fits,
            Kind::Decimal(..) => Relation::ByValue,
            _ => Relation::Apart,
        },
        // A float is no decimal, whatever its shortest digits look like.
        (Some(_), None) => match incoming {
            Kind::Float32 | Kind::Float64 | Kind::Decimal(..) => Relation::ByValue,
            _ => Relation::Apart,
        },
        (None, None) => match (existing, incoming) {
            (Kind::Float64, Kind::Float32) => Relation::Fits,
            (Kind::Float32, Kind::Float64) => Relation::Widen(Kind::Float64),
            (Kind::Decimal(p, s), Kind::Decimal(q, t)) if s >= t && p - s >= q - t => Relation::Fits,
            (Kind::Decimal(..), Kind::Decimal(..)) => Relation::ByValue,
            (
                Kind::TimestampMs | Kind::Timestamp | Kind::TimestampNs,
                Kind::TimestampMs | Kind::Timestamp | Kind::TimestampNs,
            ) => Relation::ByValue,
            _ => Relation::Apart,
        },
    }
}

fn integer(kind: &Kind) -> Option<(bool, u8)> {
    Some(match kind {
        Kind::Int8 => (true, 8),
        Kind::Int16 => (true, 16),
        Kind::Int32 => (true, 32),
        Kind::Int64 => (true, 64),
        Kind::UInt8 => (false, 8),
        Kind::UInt16 => (false, 16),
        Kind::UInt32 => (false, 32),
        Kind::UInt64 => (false, 64),
        _ => return None,
    })
}

fn integer_kind(signed: bool, bits: u8) -> Kind {
    match (signed, bits) {
        (true, 16) => Kind::Int16,
        (true, 32) => Kind::Int32,
        (true, _) => Kind::Int64,
        (false, 16) => Kind::UInt16,
        (false, 32) => Kind::UInt32,
        (false, _) => Kind::UInt64,
    }
}

/// Decimal digits that any integer of this width fits in.
fn digits(bits: u8) -> u8 {
    match bits {
        8 => 3,
        16 => 5,
        32 => 10,
        _ => 20,
    }
}

fn has_untyped(data_type: &DataType) -> bool {
    match data_type {
        DataType::Null => true,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::Map(item, _) => has_untyped(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_untyped(field.data_type())),
        _ => false,
    }
}

/// Whether a field has the parts and types of `kind`, but for what it says nothing about.
fn is_same_but_untyped(field: &Field, kind: &Kind) -> bool {
    match (field.data_type(), kind) {
        (DataType::Null, _) => true,
        (
            DataType::List(item)
            | DataType::LargeList(item)
            | DataType::FixedSizeList(item, _)
            | DataType::ListView(item)
            | DataType::LargeListView(item),
            Kind::List(element),
        ) => is_same_but_untyped(item, &element.kind),
        (DataType::Map(entries, _), Kind::Map(key, value)) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                is_same_but_untyped(&fields[0], &key.kind) && is_same_but_untyped(&fields[1], &value.kind)
            }
            _ => false,
        },
        (DataType::Struct(fields), Kind::Struct(parts)) => {
            let names = part_names(fields);
            // As the conversion goes: by name, or by place where a part has another name than its own.
            let is_by_place = fields.iter().zip(&names).any(|(field, name)| field.name() != name);
            let find = |place: usize, name: &String| {
                if is_by_place { parts.get(place) } else { parts.iter().find(|part| part.name == *name) }
            };
            fields.len() == parts.len()
                && fields.iter().zip(&names).enumerate().all(|(place, (field, name))| {
                    find(place, name).is_some_and(|part| part.name == *name && is_same_but_untyped(field, &part.kind))
                })
        }
        _ => matches!(kind_of(field), Ok(Some(found)) if found.same_shape(kind)),
    }
}

/// An incoming array as the column's type.
fn stored_array(array: &ArrayRef, field: &Field, column: &Column) -> Result<ArrayRef> {
    let own = kind_of(field)?.filter(|own| !own.is_nested() && !own.same_shape(&column.kind));
    let converted = match own {
        None => convert::plain(array, &column.kind),
        Some(own) => convert::plain(array, &own).and_then(|values| convert::whole(&values, &own, &column.kind)),
    };
    converted.map_err(|error| {
        let message =
            format!("column `{}` of type {} does not convert to {}", field.name(), field.data_type(), column.kind);
        Error::new(ErrorKind::Data, "store rows", message).with_cause(error)
    })
}

/// The base of a staging and what the writer knows of it, shared.
pub(crate) type SharedShape = Arc<Shape>;
