//! Values of one column on their way into an Arrow array.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, FixedSizeBinaryBuilder, Float32Builder,
    Float64Builder, Int16Builder, Int32Builder, Int64Builder, ListArray, StringBuilder, StructArray,
    Time64MicrosecondBuilder, TimestampMicrosecondBuilder, UInt32Builder, UInt64Builder,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{FieldRef, Fields};
use arrow::error::ArrowError;

use super::columns::Kind;
use super::numeric::Numeric;
use super::temporal::{self, OutOfCalendar};
use super::wire::reader::Malformed;
use super::wire::reader::Reader;

/// The most bytes of text that are asked for before any has come.
const TEXT_BYTES_EXPECTED_MAX: usize = 4 << 20;
/// What is kept of a value that cannot be stored, in bytes.
pub(super) const CONTENT_BYTES_MAX: usize = 64 << 10;
/// The most dimensions of an array (`MAXDIM`).
const DIMENSIONS_MAX: i32 = 6;

/// Why a value has no place in its column's type; NULL stands in the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Misfit {
    pub(super) reason: &'static str,
    pub(super) content: String,
    pub(super) detail: &'static str,
}

/// What one value came to.
type Stored = Result<(), Box<Misfit>>;

/// The values of one column.
pub(super) enum Values {
    Boolean(BooleanBuilder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    UInt32(UInt32Builder),
    UInt64(UInt64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Decimal(Decimal128Builder, u8, u8),
    Money(Decimal128Builder),
    Text(StringBuilder),
    Jsonb(StringBuilder),
    Bytes(BinaryBuilder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Timestamp(TimestampMicrosecondBuilder, &'static str),
    Uuid(FixedSizeBinaryBuilder),
    List { element: Box<Values>, field: FieldRef, offsets: Vec<i32>, validity: Vec<bool> },
    Struct { parts: Vec<(u32, Values)>, fields: Fields, validity: Vec<bool> },
    Interval(Box<Intervals>),
}

/// The values of a column of intervals.
#[derive(Default)]
pub(super) struct Intervals {
    months: Int32Builder,
    days: Int32Builder,
    microseconds: Int64Builder,
    validity: Vec<bool>,
}

impl Values {
    /// No values yet, with room for so many rows that have so many bytes of text: what is asked for at once is not copied as
    /// it grows.
    pub(super) fn new(kind: &Kind, rows: usize, bytes: usize) -> Self {
        let bytes = bytes.min(TEXT_BYTES_EXPECTED_MAX);
        let decimal = || Decimal128Builder::with_capacity(rows).with_data_type(kind.data_type());
        let timestamp = || TimestampMicrosecondBuilder::with_capacity(rows).with_data_type(kind.data_type());
        match kind {
            Kind::Boolean => Self::Boolean(BooleanBuilder::with_capacity(rows)),
            Kind::Int16 => Self::Int16(Int16Builder::with_capacity(rows)),
            Kind::Int32 => Self::Int32(Int32Builder::with_capacity(rows)),
            Kind::Int64 => Self::Int64(Int64Builder::with_capacity(rows)),
            Kind::UInt32 => Self::UInt32(UInt32Builder::with_capacity(rows)),
            Kind::UInt64 => Self::UInt64(UInt64Builder::with_capacity(rows)),
            Kind::Float32 => Self::Float32(Float32Builder::with_capacity(rows)),
            Kind::Float64 => Self::Float64(Float64Builder::with_capacity(rows)),
            Kind::Decimal { precision, scale } => Self::Decimal(decimal(), *precision, *scale),
            Kind::Money { .. } => Self::Money(decimal()),
            Kind::Text | Kind::Json => Self::Text(StringBuilder::with_capacity(rows, bytes)),
            Kind::Jsonb => Self::Jsonb(StringBuilder::with_capacity(rows, bytes)),
            Kind::Bytes => Self::Bytes(BinaryBuilder::with_capacity(rows, bytes)),
            Kind::Date => Self::Date(Date32Builder::with_capacity(rows)),
            Kind::Time => Self::Time(Time64MicrosecondBuilder::with_capacity(rows)),
            Kind::Timestamp => Self::Timestamp(timestamp(), ""),
            Kind::Instant => Self::Timestamp(timestamp(), "+00"),
            Kind::Uuid => Self::Uuid(FixedSizeBinaryBuilder::with_capacity(rows, 16)),
            Kind::Interval => Self::Interval(Box::default()),
            Kind::List(element) => Self::List {
                field: element.element_field(),
                element: Box::new(Self::new(element, rows, bytes)),
                offsets: vec![0],
                validity: Vec::new(),
            },
            Kind::Struct(fields) => Self::Struct {
                parts: fields.iter().map(|(_, type_id, kind)| (*type_id, Self::new(kind, rows, 0))).collect(),
                fields: Kind::struct_fields(fields),
                validity: Vec::new(),
            },
        }
    }

    /// Bytes of its texts.
    pub(super) fn text_bytes(&self) -> usize {
        match self {
            Self::Text(values) | Self::Jsonb(values) => values.values_slice().len(),
            Self::Bytes(values) => values.values_slice().len(),
            Self::List { element, .. } => element.text_bytes(),
            _ => 0,
        }
    }

    /// Adds a value. Of one that does not fit, at most `room` bytes of its content are told.
    #[inline]
    pub(super) fn push(&mut self, bytes: &[u8], room: usize) -> Result<Stored, Malformed> {
        match self {
            Self::Int64(values) => values.append_value(i64::from_be_bytes(fixed(bytes)?)),
            Self::Int32(values) => values.append_value(i32::from_be_bytes(fixed(bytes)?)),
            Self::Text(values) => return Ok(text(values, bytes, room)),
            Self::Timestamp(values, zone) => {
                let value = temporal::microseconds(i64::from_be_bytes(fixed(bytes)?), zone);
                values.append_option(value.as_ref().ok().copied());
                return Ok(value.map(drop).map_err(calendar));
            }
            Self::Boolean(values) => values.append_value(fixed::<1>(bytes)? != [0]),
            Self::Int16(values) => values.append_value(i16::from_be_bytes(fixed(bytes)?)),
            Self::UInt32(values) => values.append_value(u32::from_be_bytes(fixed(bytes)?)),
            Self::UInt64(values) => values.append_value(u64::from_be_bytes(fixed(bytes)?)),
            Self::Float32(values) => values.append_value(f32::from_be_bytes(fixed(bytes)?)),
            Self::Float64(values) => values.append_value(f64::from_be_bytes(fixed(bytes)?)),
            Self::Decimal(values, precision, scale) => {
                let number = Numeric::parse(bytes)?;
                let value = number.scaled(*precision, *scale);
                values.append_option(value);
                if value.is_none() {
                    return Ok(Err(unfit(number, room)));
                }
            }
            Self::Money(values) => values.append_value(i64::from_be_bytes(fixed(bytes)?).into()),
            Self::Jsonb(values) => match bytes.split_first() {
                Some((1, bytes)) => return Ok(text(values, bytes, room)),
                _ => return Err(Malformed("a jsonb of another version")),
            },
            Self::Bytes(values) => values.append_value(bytes),
            Self::Date(values) => {
                let value = temporal::days(i32::from_be_bytes(fixed(bytes)?));
                values.append_option(value.as_ref().ok().copied());
                return Ok(value.map(drop).map_err(calendar));
            }
            Self::Time(values) => {
                let value = temporal::time_of_day(i64::from_be_bytes(fixed(bytes)?));
                values.append_option(value.as_ref().ok().copied());
                return Ok(value.map(drop).map_err(calendar));
            }
            Self::Uuid(values) => {
                values.append_value(fixed::<16>(bytes)?).map_err(|_| Malformed("a uuid of another length"))?
            }
            Self::List { element, offsets, validity, .. } => return list(element, offsets, validity, bytes, room),
            Self::Struct { parts, validity, .. } => {
                validity.push(true);
                return composite(parts, bytes, room);
            }
            Self::Interval(values) => {
                let mut reader = Reader::new(bytes);
                values.microseconds.append_value(i64::from_be_bytes(reader.array()?));
                values.days.append_value(reader.i32()?);
                values.months.append_value(i32::from_be_bytes(fixed(reader.rest())?));
                values.validity.push(true);
            }
        }
        Ok(Ok(()))
    }

    pub(super) fn push_null(&mut self) {
        match self {
            Self::Boolean(values) => values.append_null(),
            Self::Int16(values) => values.append_null(),
            Self::Int32(values) => values.append_null(),
            Self::Int64(values) => values.append_null(),
            Self::UInt32(values) => values.append_null(),
            Self::UInt64(values) => values.append_null(),
            Self::Float32(values) => values.append_null(),
            Self::Float64(values) => values.append_null(),
            Self::Decimal(values, ..) | Self::Money(values) => values.append_null(),
            Self::Text(values) | Self::Jsonb(values) => values.append_null(),
            Self::Bytes(values) => values.append_null(),
            Self::Date(values) => values.append_null(),
            Self::Time(values) => values.append_null(),
            Self::Timestamp(values, _) => values.append_null(),
            Self::Uuid(values) => values.append_null(),
            Self::List { offsets, validity, .. } => {
                offsets.push(offsets.last().copied().unwrap_or(0));
                validity.push(false);
            }
            Self::Struct { parts, validity, .. } => {
                parts.iter_mut().for_each(|(_, part)| part.push_null());
                validity.push(false);
            }
            Self::Interval(values) => {
                values.months.append_null();
                values.days.append_null();
                values.microseconds.append_null();
                values.validity.push(false);
            }
        }
    }

    pub(super) fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Boolean(values) => Arc::new(values.finish()),
            Self::Int16(values) => Arc::new(values.finish()),
            Self::Int32(values) => Arc::new(values.finish()),
            Self::Int64(values) => Arc::new(values.finish()),
            Self::UInt32(values) => Arc::new(values.finish()),
            Self::UInt64(values) => Arc::new(values.finish()),
            Self::Float32(values) => Arc::new(values.finish()),
            Self::Float64(values) => Arc::new(values.finish()),
            Self::Decimal(values, ..) | Self::Money(values) => Arc::new(values.finish()),
            Self::Text(values) | Self::Jsonb(values) => Arc::new(values.finish()),
            Self::Bytes(values) => Arc::new(values.finish()),
            Self::Date(values) => Arc::new(values.finish()),
            Self::Time(values) => Arc::new(values.finish()),
            Self::Timestamp(values, _) => Arc::new(values.finish()),
            Self::Uuid(values) => Arc::new(values.finish()),
            Self::List { element, field, offsets, validity } => {
                let offsets = OffsetBuffer::new(std::mem::replace(offsets, vec![0]).into());
                let nulls = NullBuffer::from(std::mem::take(validity));
                Arc::new(ListArray::try_new(field.clone(), offsets, element.finish()?, Some(nulls))?)
            }
            Self::Struct { parts, fields, validity } => {
                let nulls = NullBuffer::from(std::mem::take(validity));
                let arrays = parts.iter_mut().map(|(_, part)| part.finish()).collect::<Result<_, _>>()?;
                Arc::new(StructArray::try_new(fields.clone(), arrays, Some(nulls))?)
            }
            Self::Interval(values) => {
                let Intervals { months, days, microseconds, validity } = values.as_mut();
                let nulls = NullBuffer::from(std::mem::take(validity));
                let arrays: Vec<ArrayRef> =
                    vec![Arc::new(months.finish()), Arc::new(days.finish()), Arc::new(microseconds.finish())];
                Arc::new(StructArray::try_new(Kind::interval_fields(), arrays, Some(nulls))?)
            }
        })
    }
}

#[inline]
fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Malformed> {
    bytes.try_into().map_err(|_| Malformed("a value has another length than its type"))
}

#[inline]
fn text(values: &mut StringBuilder, bytes: &[u8], room: usize) -> Stored {
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            values.append_value(text);
            Ok(())
        }
        Err(_) => {
            values.append_null();
            let detail = "not UTF-8 as the server sends it (a database with the encoding SQL_ASCII); NULL is stored";
            Err(Box::new(Misfit { reason: "invalid_text", content: escaped(bytes, room), detail }))
        }
    }
}

/// An array. One of several dimensions, or with other bounds, is NULL here: its text comes in a column of its own.
fn list(
    element: &mut Values,
    offsets: &mut Vec<i32>,
    validity: &mut Vec<bool>,
    bytes: &[u8],
    room: usize,
) -> Result<Stored, Malformed> {
    let mut reader = Reader::new(bytes);
    let dimensions = reader.i32()?;
    let (_has_nulls, _type_id) = (reader.i32()?, reader.u32()?);
    let mut stored = Ok(());
    let mut count = 0;
    let is_list = match dimensions {
        0 => true,
        1 => {
            count = reader.i32()?;
            reader.i32()? == 1
        }
        2..=DIMENSIONS_MAX => false,
        _ => return Err(Malformed("an array has more dimensions than the server knows")),
    };
    if is_list {
        for _ in 0..count {
            let other = push_or_null(element, reader.value()?, left(&stored, room))?;
            join(&mut stored, other, room);
        }
        if !reader.is_empty() {
            return Err(Malformed("an array goes on after its last element"));
        }
    } else {
        count = 0;
    }
    let end = offsets.last().copied().unwrap_or(0).checked_add(count).filter(|_| count >= 0);
    offsets.push(end.ok_or(Malformed("an absurd number of elements"))?);
    validity.push(is_list);
    Ok(stored)
}

fn composite(parts: &mut [(u32, Values)], bytes: &[u8], room: usize) -> Result<Stored, Malformed> {
    let mut reader = Reader::new(bytes);
    if usize::try_from(reader.i32()?) != Ok(parts.len()) {
        return Err(Malformed("a composite value has other fields than its type"));
    }
    let mut stored = Ok(());
    for (type_id, part) in parts {
        if reader.u32()? != *type_id {
            return Err(Malformed("a composite value has other fields than its type"));
        }
        let other = push_or_null(part, reader.value()?, left(&stored, room))?;
        join(&mut stored, other, room);
    }
    if reader.is_empty() { Ok(stored) } else { Err(Malformed("a composite value goes on after its last field")) }
}

fn push_or_null(values: &mut Values, value: Option<&[u8]>, room: usize) -> Result<Stored, Malformed> {
    match value {
        Some(bytes) => values.push(bytes, room),
        None => {
            values.push_null();
            Ok(Ok(()))
        }
    }
}

/// Bytes of content that the next part may tell.
fn left(stored: &Stored, room: usize) -> usize {
    stored.as_ref().err().map_or(room, |misfit| room.saturating_sub(misfit.content.len()))
}

/// What of several parts does not fit, together.
fn join(stored: &mut Stored, other: Stored, room: usize) {
    match (stored, other) {
        (Err(first), Err(other)) if first.content.len() < room => {
            first.content.push_str(", ");
            first.content.push_str(&other.content);
            cut(&mut first.content, room);
        }
        (stored @ Ok(()), other) => *stored = other,
        _ => {}
    }
}

fn calendar(value: OutOfCalendar) -> Box<Misfit> {
    let detail = match value.reason {
        "infinite_date" => "infinity is no day; NULL is stored",
        "time_out_of_range" => "not a time of day (0 to 24 h); NULL is stored",
        _ => "outside the years 1 to 9999; NULL is stored",
    };
    Box::new(Misfit { reason: value.reason, content: value.content, detail })
}

fn unfit(number: Numeric<'_>, room: usize) -> Box<Misfit> {
    let (reason, detail) = if number.is_finite() {
        ("decimal_out_of_range", "more digits than the column's type says; NULL is stored")
    } else {
        ("not_a_number", "NaN or infinity, which no decimal holds; NULL is stored")
    };
    Box::new(Misfit { reason, content: number.text(room), detail })
}

/// Text as it is, other bytes as `\xNN`, cut at `bytes_max`.
pub(super) fn escaped(bytes: &[u8], bytes_max: usize) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02X}")));
        if text.len() >= bytes_max {
            break;
        }
    }
    cut(&mut text, bytes_max);
    text
}

/// Leaves at most so many bytes, between characters.
fn cut(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        let end = (0..=bytes_max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
}
