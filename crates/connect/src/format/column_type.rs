//! The types a configuration may give to columns, and exact conversion of text to them.
//!
//! Promise: a value is converted exactly or refused with the reason; nothing is rounded, cut or guessed.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Date32Builder, Decimal128Builder, Float64Builder, Int8Builder, Int16Builder,
    Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder, UInt8Builder, UInt16Builder, UInt32Builder,
    UInt64Builder,
};
use arrow::datatypes::{DataType, Field, TimeUnit};
use jiff::civil::{Date, DateTime};
use jiff::tz::Offset;

use super::json::number::{exact_double, exact_integer};

/// The names accepted in `columns`, for messages.
pub const TYPE_NAMES: &str = "boolean, tinyint, smallint, integer, bigint, utinyint, usmallint, uinteger, ubigint, \
     double, decimal(p,s), varchar, date, timestamp, timestamptz, json";

/// The key of Arrow field metadata that names an extension type.
pub const EXTENSION_TYPE_NAME_KEY: &str = "ARROW:extension:name";

/// A type that a configuration gives to a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// `boolean`
    Boolean,
    /// `tinyint` … `bigint`
    Integer {
        /// Bits: 8, 16, 32 or 64.
        bits: u8,
    },
    /// `utinyint` … `ubigint`
    Unsigned {
        /// Bits: 8, 16, 32 or 64.
        bits: u8,
    },
    /// `double`
    Double,
    /// `decimal(precision,scale)`
    Decimal {
        /// Digits, 1 … 38.
        precision: u8,
        /// Digits behind the point.
        scale: u8,
    },
    /// `varchar`
    Text,
    /// `date`
    Date,
    /// `timestamp`: date and time of day without a time zone, microseconds.
    Timestamp,
    /// `timestamptz`: an instant, microseconds.
    TimestampTz,
    /// `json`
    Json,
}

impl ColumnType {
    /// Reads the written form, a DuckLake type name.
    ///
    /// # Errors
    /// What is accepted instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let name = text.trim().to_ascii_lowercase();
        let type_ = match name.as_str() {
            "boolean" | "bool" => Self::Boolean,
            "tinyint" | "int8" => Self::Integer { bits: 8 },
            "smallint" | "int16" => Self::Integer { bits: 16 },
            "integer" | "int" | "int32" => Self::Integer { bits: 32 },
            "bigint" | "int64" => Self::Integer { bits: 64 },
            "utinyint" | "uint8" => Self::Unsigned { bits: 8 },
            "usmallint" | "uint16" => Self::Unsigned { bits: 16 },
            "uinteger" | "uint32" => Self::Unsigned { bits: 32 },
            "ubigint" | "uint64" => Self::Unsigned { bits: 64 },
            "double" | "float64" => Self::Double,
            "varchar" | "text" | "string" => Self::Text,
            "date" => Self::Date,
            "timestamp" | "datetime" => Self::Timestamp,
            "timestamptz" | "timestamp with time zone" => Self::TimestampTz,
            "json" => Self::Json,
            _ => return decimal(&name).ok_or_else(|| format!("unknown type {text:?}; known: {TYPE_NAMES}")),
        };
        Ok(type_)
    }

    /// The Arrow type.
    pub fn data_type(self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Integer { bits: 8 } => DataType::Int8,
            Self::Integer { bits: 16 } => DataType::Int16,
            Self::Integer { bits: 32 } => DataType::Int32,
            Self::Integer { .. } => DataType::Int64,
            Self::Unsigned { bits: 8 } => DataType::UInt8,
            Self::Unsigned { bits: 16 } => DataType::UInt16,
            Self::Unsigned { bits: 32 } => DataType::UInt32,
            Self::Unsigned { .. } => DataType::UInt64,
            Self::Double => DataType::Float64,
            Self::Decimal { precision, scale } => DataType::Decimal128(precision, scale as i8),
            Self::Text | Self::Json => DataType::Utf8,
            Self::Date => DataType::Date32,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        }
    }

    /// The Arrow field of a column of this type.
    pub fn field(self, name: &str) -> Field {
        if self == Self::Json { json_field(name) } else { Field::new(name, self.data_type(), true) }
    }

    /// A builder of such a column.
    pub fn builder(self, rows: usize) -> ColumnBuilder {
        let array = match self {
            Self::Boolean => Builder::Boolean(BooleanBuilder::with_capacity(rows)),
            Self::Integer { bits: 8 } => Builder::Int8(Int8Builder::with_capacity(rows)),
            Self::Integer { bits: 16 } => Builder::Int16(Int16Builder::with_capacity(rows)),
            Self::Integer { bits: 32 } => Builder::Int32(Int32Builder::with_capacity(rows)),
            Self::Integer { .. } => Builder::Int64(Int64Builder::with_capacity(rows)),
            Self::Unsigned { bits: 8 } => Builder::UInt8(UInt8Builder::with_capacity(rows)),
            Self::Unsigned { bits: 16 } => Builder::UInt16(UInt16Builder::with_capacity(rows)),
            Self::Unsigned { bits: 32 } => Builder::UInt32(UInt32Builder::with_capacity(rows)),
            Self::Unsigned { .. } => Builder::UInt64(UInt64Builder::with_capacity(rows)),
            Self::Double => Builder::Double(Float64Builder::with_capacity(rows)),
            Self::Decimal { precision, scale } => Builder::Decimal(
                Decimal128Builder::with_capacity(rows).with_data_type(self.data_type()),
                precision,
                scale,
            ),
            Self::Text | Self::Json => Builder::Text(StringBuilder::with_capacity(rows, rows * 16)),
            Self::Date => Builder::Date(Date32Builder::with_capacity(rows)),
            Self::Timestamp => Builder::Timestamp(TimestampMicrosecondBuilder::with_capacity(rows)),
            Self::TimestampTz => {
                Builder::TimestampTz(TimestampMicrosecondBuilder::with_capacity(rows).with_timezone("UTC"))
            }
        };
        ColumnBuilder(array)
    }
}

/// The Arrow field of a column of JSON text (canonical extension type `arrow.json`).
pub fn json_field(name: &str) -> Field {
    let metadata = [(EXTENSION_TYPE_NAME_KEY.to_owned(), "arrow.json".to_owned())];
    Field::new(name, DataType::Utf8, true).with_metadata(metadata.into())
}

fn decimal(name: &str) -> Option<ColumnType> {
    let inner = name.strip_prefix("decimal").or_else(|| name.strip_prefix("numeric"))?.trim();
    let (precision, scale) = inner.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
    let (precision, scale): (u8, u8) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
    ((1..=38).contains(&precision) && scale <= precision).then_some(ColumnType::Decimal { precision, scale })
}

/// Collects the values of one column of a configured type.
pub struct ColumnBuilder(Builder);

enum Builder {
    Boolean(BooleanBuilder),
    Int8(Int8Builder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    UInt8(UInt8Builder),
    UInt16(UInt16Builder),
    UInt32(UInt32Builder),
    UInt64(UInt64Builder),
    Double(Float64Builder),
    Decimal(Decimal128Builder, u8, u8),
    Text(StringBuilder),
    Date(Date32Builder),
    Timestamp(TimestampMicrosecondBuilder),
    TimestampTz(TimestampMicrosecondBuilder),
}

impl ColumnBuilder {
    /// Adds a null.
    pub fn push_null(&mut self) {
        match &mut self.0 {
            Builder::Boolean(builder) => builder.append_null(),
            Builder::Int8(builder) => builder.append_null(),
            Builder::Int16(builder) => builder.append_null(),
            Builder::Int32(builder) => builder.append_null(),
            Builder::Int64(builder) => builder.append_null(),
            Builder::UInt8(builder) => builder.append_null(),
            Builder::UInt16(builder) => builder.append_null(),
            Builder::UInt32(builder) => builder.append_null(),
            Builder::UInt64(builder) => builder.append_null(),
            Builder::Double(builder) => builder.append_null(),
            Builder::Decimal(builder, ..) => builder.append_null(),
            Builder::Text(builder) => builder.append_null(),
            Builder::Date(builder) => builder.append_null(),
            Builder::Timestamp(builder) | Builder::TimestampTz(builder) => builder.append_null(),
        }
    }

    /// Adds the value that `text` names; a null and the reason if the type does not hold it exactly.
    ///
    /// # Errors
    /// Why it does not fit.
    pub fn push_text(&mut self, text: &str) -> Result<(), String> {
        let result = self.try_push(text);
        if result.is_err() {
            self.push_null();
        }
        result
    }

    fn try_push(&mut self, text: &str) -> Result<(), String> {
        match &mut self.0 {
            Builder::Text(builder) => builder.append_value(text),
            Builder::Boolean(builder) => match text {
                "true" | "TRUE" | "True" => builder.append_value(true),
                "false" | "FALSE" | "False" => builder.append_value(false),
                _ => return Err("not a boolean: true or false is expected".into()),
            },
            Builder::Int8(builder) => builder.append_value(whole(text)?),
            Builder::Int16(builder) => builder.append_value(whole(text)?),
            Builder::Int32(builder) => builder.append_value(whole(text)?),
            Builder::Int64(builder) => builder.append_value(whole(text)?),
            Builder::UInt8(builder) => builder.append_value(whole(text)?),
            Builder::UInt16(builder) => builder.append_value(whole(text)?),
            Builder::UInt32(builder) => builder.append_value(whole(text)?),
            Builder::UInt64(builder) => builder.append_value(whole(text)?),
            Builder::Double(builder) => match exact_double(text) {
                Some(value) => builder.append_value(value),
                None => return Err("not a number that a double holds without rounding".into()),
            },
            Builder::Decimal(builder, precision, scale) => {
                let value = exact_integer(text, u32::from(*scale))
                    .filter(|value| value.unsigned_abs() < 10_u128.pow(u32::from(*precision)));
                match value {
                    Some(value) => builder.append_value(value),
                    None => {
                        return Err(format!("not a number that decimal({precision},{scale}) holds without rounding"));
                    }
                }
            }
            Builder::Date(builder) => {
                let date: Date = strict_date(text).ok_or("not a date: YYYY-MM-DD is expected")?;
                let days = i64::from(date.since(Date::constant(1970, 1, 1)).map_err(|e| e.to_string())?.get_days());
                builder.append_value(i32::try_from(days).map_err(|_| "a date out of range".to_owned())?);
            }
            Builder::Timestamp(builder) => builder.append_value(timestamp(text)?),
            Builder::TimestampTz(builder) => builder.append_value(instant(text)?),
        }
        Ok(())
    }

    /// The column.
    pub fn finish(self) -> ArrayRef {
        match self.0 {
            Builder::Boolean(mut builder) => Arc::new(builder.finish()),
            Builder::Int8(mut builder) => Arc::new(builder.finish()),
            Builder::Int16(mut builder) => Arc::new(builder.finish()),
            Builder::Int32(mut builder) => Arc::new(builder.finish()),
            Builder::Int64(mut builder) => Arc::new(builder.finish()),
            Builder::UInt8(mut builder) => Arc::new(builder.finish()),
            Builder::UInt16(mut builder) => Arc::new(builder.finish()),
            Builder::UInt32(mut builder) => Arc::new(builder.finish()),
            Builder::UInt64(mut builder) => Arc::new(builder.finish()),
            Builder::Double(mut builder) => Arc::new(builder.finish()),
            Builder::Decimal(mut builder, ..) => Arc::new(builder.finish()),
            Builder::Text(mut builder) => Arc::new(builder.finish()),
            Builder::Date(mut builder) => Arc::new(builder.finish()),
            Builder::Timestamp(mut builder) | Builder::TimestampTz(mut builder) => Arc::new(builder.finish()),
        }
    }
}

fn whole<T: TryFrom<i128>>(text: &str) -> Result<T, String> {
    exact_integer(text, 0)
        .and_then(|value| T::try_from(value).ok())
        .ok_or_else(|| format!("not a whole number that {} holds", std::any::type_name::<T>()))
}

fn strict_date(text: &str) -> Option<Date> {
    let plausible = text.len() == 10 && text.is_ascii();
    if plausible { text.parse().ok() } else { None }
}

/// Date and time of day without an offset (RFC 3339 without its last part; a space may stand for the `T`).
fn timestamp(text: &str) -> Result<i64, String> {
    const EXPECTED: &str = "not a timestamp: YYYY-MM-DD HH:MM:SS[.ffffff] without an offset is expected";
    if let Some(instant) = usual_timestamp(text) {
        return microseconds(instant);
    }
    if has_offset(text) {
        return Err("an offset or Z stands at its end: the type timestamptz takes it".into());
    }
    let civil: DateTime = text.parse().map_err(|_| EXPECTED.to_owned())?;
    if text.len() < 16 {
        return Err(EXPECTED.into());
    }
    let instant = Offset::UTC.to_timestamp(civil).map_err(|_| "a timestamp out of range".to_owned())?;
    microseconds(instant)
}

/// `YYYY-MM-DD HH:MM:SS[.ffffff]`, with a space or a `T`: the form that most have, taken apart by its places.
fn usual_timestamp(text: &str) -> Option<jiff::Timestamp> {
    let number = |digits: &[u8]| {
        digits
            .iter()
            .try_fold(0_i32, |number, byte| byte.is_ascii_digit().then(|| number * 10 + i32::from(byte - b'0')))
    };
    let (usual, rest) = text.as_bytes().split_at_checked(19)?;
    let fraction = match rest {
        [] => 0,
        [b'.', digits @ ..] if (1..=6).contains(&digits.len()) => {
            number(digits)? * 10_i32.pow(9 - u32::try_from(digits.len()).ok()?)
        }
        _ => return None,
    };
    let marks = [usual[4], usual[7], usual[10], usual[13], usual[16]];
    if !matches!(marks, [b'-', b'-', b' ' | b'T', b':', b':']) {
        return None;
    }
    let year = i16::try_from(number(&usual[..4])?).ok()?;
    let two = |at: usize| i8::try_from(number(&usual[at..at + 2])?).ok();
    let civil = DateTime::new(year, two(5)?, two(8)?, two(11)?, two(14)?, two(17)?, fraction).ok()?;
    Offset::UTC.to_timestamp(civil).ok()
}

/// An instant (RFC 3339).
fn instant(text: &str) -> Result<i64, String> {
    if let Some(instant) = text.strip_suffix('Z').and_then(usual_timestamp) {
        return microseconds(instant);
    }
    let instant: jiff::Timestamp =
        text.parse().map_err(|_| "not an instant: RFC 3339 with an offset or Z is expected".to_owned())?;
    microseconds(instant)
}

fn has_offset(text: &str) -> bool {
    text.ends_with(['Z', 'z']) || text.get(11..).is_some_and(|time| time.contains(['+', '-']))
}

fn microseconds(instant: jiff::Timestamp) -> Result<i64, String> {
    if instant.subsec_nanosecond() % 1_000 != 0 {
        return Err("finer than a microsecond".into());
    }
    Ok(instant.as_microsecond())
}

#[cfg(test)]
mod tests {
    use arrow::util::display::{ArrayFormatter, FormatOptions};
    use proptest::prelude::*;

    use super::*;

    fn convert(type_: &str, text: &str) -> Result<String, String> {
        let type_ = ColumnType::parse(type_).unwrap();
        let mut builder = type_.builder(1);
        let result = builder.push_text(text);
        let array = builder.finish();
        assert_eq!(array.len(), 1);
        assert_eq!(array.data_type(), &type_.data_type());
        // arrow prints time zones by name only with a feature that nothing else needs
        let plain = arrow::compute::cast(&array, &DataType::Timestamp(TimeUnit::Microsecond, None));
        let array = if type_ == ColumnType::TimestampTz { plain.unwrap() } else { array };
        result.map(|()| ArrayFormatter::try_new(&array, &FormatOptions::default()).unwrap().value(0).to_string())
    }

    #[test]
    fn exact_or_refused() {
        let fits = [
            ("bigint", "-9223372036854775808", "-9223372036854775808"),
            ("bigint", "1e3", "1000"),
            ("ubigint", "18446744073709551615", "18446744073709551615"),
            ("double", "0.1", "0.1"),
            ("decimal(10,2)", "12.5", "12.50"),
            ("decimal(38,0)", "99999999999999999999999999999999999999", "99999999999999999999999999999999999999"),
            ("boolean", "true", "true"),
            ("varchar", "é", "é"),
            ("date", "1969-12-31", "1969-12-31"),
            ("timestamp", "2026-01-02 03:04:05.678901", "2026-01-02T03:04:05.678901"),
            ("timestamp", "0001-01-01T00:00", "0001-01-01T00:00:00"),
            ("timestamptz", "2026-01-02T03:04:05+02:00", "2026-01-02T01:04:05"),
        ];
        for (type_, text, expected) in fits {
            assert_eq!(convert(type_, text), Ok(expected.to_owned()), "{type_} {text}");
        }
        let refused = [
            ("tinyint", "128"),
            ("utinyint", "-1"),
            ("bigint", "1.5"),
            ("bigint", ""),
            ("double", "9007199254740993"),
            ("double", "NaN"),
            ("decimal(4,2)", "100"),
            ("decimal(4,2)", "1.234"),
            ("boolean", "1"),
            ("date", "2026-02-30"),
            ("date", "2026-01-01T00:00:00"),
            ("timestamp", "2026-01-02T03:04:05Z"),
            ("timestamp", "2026-01-02T03:04:05-02:00"),
            ("timestamp", "2026-01-02"),
            ("timestamp", "2026-01-02T03:04:05.1234567"),
            ("timestamptz", "2026-01-02T03:04:05"),
        ];
        for (type_, text) in refused {
            assert!(convert(type_, text).is_err(), "{type_} {text}");
        }
        for bad in ["", "decimal", "decimal(39,0)", "decimal(4,5)", "blob", "int(5)"] {
            assert!(ColumnType::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn the_usual_form_comes_to_the_same(
            text in "[0-2][0-9]{3}-[01][0-9]-[0-3][0-9][ T][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{1,7})?[-Z:x]?",
        ) {
            let slow = text.parse::<DateTime>().ok().and_then(|civil| Offset::UTC.to_timestamp(civil).ok());
            if let Some(quick) = usual_timestamp(&text) {
                prop_assert_eq!(Some(quick), slow);
            }
        }

        #[test]
        fn the_usual_form_is_taken(seconds in -62_000_000_000_i64..253_000_000_000, micros in 0_i32..1_000_000) {
            let instant = jiff::Timestamp::new(seconds, 0).unwrap() + jiff::SignedDuration::from_micros(micros.into());
            let text = Offset::UTC.to_datetime(instant).to_string();
            prop_assert_eq!(usual_timestamp(&text), Some(instant));
            prop_assert_eq!(super::instant(&format!("{text}Z")), Ok(instant.as_microsecond()));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            for type_ in ["bigint", "double", "decimal(38,38)", "boolean", "date", "timestamp", "timestamptz", "json"] {
                let _ = convert(type_, &text);
            }
            let _ = ColumnType::parse(&text);
        }
    }
}
