//! The exact text of each value, the same in every text format.
//!
//! | type | text | in JSON |
//! |---|---|---|
//! | integers, unsigned too | digits | number |
//! | decimal | digits with the column's scale: `1.50` | number, all digits |
//! | float | shortest that reads back the same: `0.1`, `1e+300` | number; `NaN`, `Infinity`, `-Infinity` as text |
//! | timestamp with zone | RFC 3339, UTC: `2026-01-02T03:04:05.000006Z` | text |
//! | timestamp without zone | the same without `Z` | text |
//! | date, time | `2026-01-02`, `03:04:05.000006` | text |
//! | duration, interval | ISO 8601: `PT1.5S`, `P1M2DT3S` | text |
//! | binary | lower-case hex | text |
//! | uuid | `01234567-89ab-…` | text |
//! | json | compact JSON | embedded |
//! | list, struct, map | JSON | embedded |
//!
//! Fractions of a second drop trailing zeros. Years beyond 0–9999 have a sign and six digits.

use std::fmt::Write;

use arrow::array::types::{
    Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, DecimalType,
    DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType, Float16Type,
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, IntervalDayTimeType, IntervalMonthDayNanoType,
    IntervalYearMonthType, Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Field, IntervalUnit, TimeUnit};
use portolan_model::{Error, ErrorKind, Result};

/// How a value's text stands in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// No value; nothing was written.
    Null,
    /// As it is: numbers and truth values.
    Bare,
    /// In quotes, escaped.
    Text,
    /// Already JSON.
    Json,
}

/// Writes the value of `array` at `row` to `out`.
pub(super) fn write(array: &dyn Array, field: &Field, row: usize, out: &mut String) -> Result<Form> {
    macro_rules! bare {
        ($type:ty) => {{
            let _ = write!(out, "{}", array.as_primitive::<$type>().value(row));
            Form::Bare
        }};
    }
    macro_rules! decimal {
        ($type:ty, $precision:expr, $scale:expr) => {{
            out.push_str(&<$type>::format_decimal(array.as_primitive::<$type>().value(row), $precision, $scale));
            Form::Bare
        }};
    }
    macro_rules! number {
        ($type:ty) => {
            i64::from(array.as_primitive::<$type>().value(row))
        };
    }
    if array.is_null(row) {
        return Ok(Form::Null);
    }
    Ok(match array.data_type() {
        DataType::Null => Form::Null,
        DataType::Boolean => {
            out.push_str(if array.as_boolean().value(row) { "true" } else { "false" });
            Form::Bare
        }
        DataType::Int8 => bare!(Int8Type),
        DataType::Int16 => bare!(Int16Type),
        DataType::Int32 => bare!(Int32Type),
        DataType::Int64 => bare!(Int64Type),
        DataType::UInt8 => bare!(UInt8Type),
        DataType::UInt16 => bare!(UInt16Type),
        DataType::UInt32 => bare!(UInt32Type),
        DataType::UInt64 => bare!(UInt64Type),
        DataType::Float16 => float(f64::from(array.as_primitive::<Float16Type>().value(row)), None, out),
        DataType::Float32 => {
            let value = array.as_primitive::<Float32Type>().value(row);
            float(f64::from(value), Some(value), out)
        }
        DataType::Float64 => float(array.as_primitive::<Float64Type>().value(row), None, out),
        DataType::Decimal32(precision, scale) => decimal!(Decimal32Type, *precision, *scale),
        DataType::Decimal64(precision, scale) => decimal!(Decimal64Type, *precision, *scale),
        DataType::Decimal128(precision, scale) => decimal!(Decimal128Type, *precision, *scale),
        DataType::Decimal256(precision, scale) => decimal!(Decimal256Type, *precision, *scale),
        DataType::Date32 => date(number!(Date32Type), out),
        DataType::Date64 => date(number!(Date64Type).div_euclid(86_400_000), out),
        DataType::Time32(TimeUnit::Second) => time(number!(Time32SecondType), 0, out),
        DataType::Time32(_) => time(number!(Time32MillisecondType), 3, out),
        DataType::Time64(TimeUnit::Nanosecond) => time(number!(Time64NanosecondType), 9, out),
        DataType::Time64(_) => time(number!(Time64MicrosecondType), 6, out),
        DataType::Timestamp(unit, zone) => {
            let (value, digits) = match unit {
                TimeUnit::Second => (number!(TimestampSecondType), 0),
                TimeUnit::Millisecond => (number!(TimestampMillisecondType), 3),
                TimeUnit::Microsecond => (number!(TimestampMicrosecondType), 6),
                TimeUnit::Nanosecond => (number!(TimestampNanosecondType), 9),
            };
            timestamp(value, digits, zone.is_some(), out)
        }
        DataType::Duration(unit) => {
            let (value, digits) = match unit {
                TimeUnit::Second => (number!(DurationSecondType), 0),
                TimeUnit::Millisecond => (number!(DurationMillisecondType), 3),
                TimeUnit::Microsecond => (number!(DurationMicrosecondType), 6),
                TimeUnit::Nanosecond => (number!(DurationNanosecondType), 9),
            };
            period(0, 0, i128::from(value) * 10_i128.pow(9 - digits), out)
        }
        DataType::Interval(IntervalUnit::YearMonth) => {
            period(array.as_primitive::<IntervalYearMonthType>().value(row), 0, 0, out)
        }
        DataType::Interval(IntervalUnit::DayTime) => {
            let value = array.as_primitive::<IntervalDayTimeType>().value(row);
            period(0, value.days, i128::from(value.milliseconds) * 1_000_000, out)
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let value = array.as_primitive::<IntervalMonthDayNanoType>().value(row);
            period(value.months, value.days, i128::from(value.nanoseconds), out)
        }
        DataType::Utf8 => text(array.as_string::<i32>().value(row), field, out),
        DataType::LargeUtf8 => text(array.as_string::<i64>().value(row), field, out),
        DataType::Utf8View => text(array.as_string_view().value(row), field, out),
        DataType::Binary => binary(array.as_binary::<i32>().value(row), out),
        DataType::LargeBinary => binary(array.as_binary::<i64>().value(row), out),
        DataType::BinaryView => binary(array.as_binary_view().value(row), out),
        DataType::FixedSizeBinary(16) if extension(field) == Some("arrow.uuid") => {
            let mut hex = String::with_capacity(32);
            binary(array.as_fixed_size_binary().value(row), &mut hex);
            for (place, character) in hex.chars().enumerate() {
                if matches!(place, 8 | 12 | 16 | 20) {
                    out.push('-');
                }
                out.push(character);
            }
            Form::Text
        }
        DataType::FixedSizeBinary(_) => binary(array.as_fixed_size_binary().value(row), out),
        DataType::List(item) => list(&array.as_list::<i32>().value(row), item, out)?,
        DataType::LargeList(item) => list(&array.as_list::<i64>().value(row), item, out)?,
        DataType::FixedSizeList(item, _) => list(&array.as_fixed_size_list().value(row), item, out)?,
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            out.push('{');
            for (place, (column, field)) in columns.iter().zip(fields).enumerate() {
                if place > 0 {
                    out.push(',');
                }
                quote(field.name(), out);
                out.push(':');
                json_value(column, field, row, out)?;
            }
            out.push('}');
            Form::Json
        }
        DataType::Map(entries, _) => {
            let value = array.as_map().value(row);
            let (DataType::Struct(fields), [keys, values]) = (entries.data_type(), value.columns()) else {
                return Err(unsupported(field));
            };
            out.push('{');
            for entry in 0..keys.len() {
                if entry > 0 {
                    out.push(',');
                }
                let mut key = String::new();
                write(keys, &fields[0], entry, &mut key)?;
                quote(&key, out);
                out.push(':');
                json_value(values, &fields[1], entry, out)?;
            }
            out.push('}');
            Form::Json
        }
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let key = dictionary.normalized_keys()[row];
            return write(dictionary.values().as_ref(), field, key, out);
        }
        _ => return Err(unsupported(field)),
    })
}

/// Writes the value as JSON.
pub(super) fn json_value(array: &dyn Array, field: &Field, row: usize, out: &mut String) -> Result<()> {
    let start = out.len();
    match write(array, field, row, out)? {
        Form::Null => out.push_str("null"),
        Form::Bare | Form::Json => {}
        Form::Text => {
            let text = out.split_off(start);
            quote(&text, out);
        }
    }
    Ok(())
}

/// Writes `text` as a JSON string.
pub(super) fn quote(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if (control as u32) < 0x20 || control == '\u{7f}' => {
                let _ = write!(out, "\\u{:04x}", control as u32);
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

fn list(values: &ArrayRef, item: &Field, out: &mut String) -> Result<Form> {
    out.push('[');
    for row in 0..values.len() {
        if row > 0 {
            out.push(',');
        }
        json_value(values, item, row, out)?;
    }
    out.push(']');
    Ok(Form::Json)
}

fn text(value: &str, field: &Field, out: &mut String) -> Form {
    if extension(field) == Some("arrow.json") && serde_json::from_str::<serde::de::IgnoredAny>(value).is_ok() {
        compact(value, out);
        return Form::Json;
    }
    out.push_str(value);
    Form::Text
}

/// Copies valid JSON without the white space between its parts; numbers keep their digits.
fn compact(json: &str, out: &mut String) {
    let (mut quoted, mut escaped) = (false, false);
    for character in json.chars() {
        if quoted {
            quoted = escaped || character != '"';
            escaped = !escaped && character == '\\';
        } else if character.is_ascii_whitespace() {
            continue;
        } else {
            quoted = character == '"';
        }
        out.push(character);
    }
}

fn binary(bytes: &[u8], out: &mut String) -> Form {
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    Form::Text
}

fn float(value: f64, single: Option<f32>, out: &mut String) -> Form {
    if value.is_nan() {
        out.push_str("NaN");
        return Form::Text;
    }
    if value.is_infinite() {
        out.push_str(if value > 0.0 { "Infinity" } else { "-Infinity" });
        return Form::Text;
    }
    // serde_json writes the shortest digits that read back the same, for each width.
    let text = single.map_or_else(|| serde_json::to_string(&value), |single| serde_json::to_string(&single));
    out.push_str(&text.unwrap_or_default());
    Form::Bare
}

fn date(days: i64, out: &mut String) -> Form {
    let (year, month, day) = civil(days);
    match year {
        0..=9999 => drop(write!(out, "{year:04}-{month:02}-{day:02}")),
        _ => drop(write!(out, "{year:+07}-{month:02}-{day:02}")),
    }
    Form::Text
}

fn time(value: i64, digits: u32, out: &mut String) -> Form {
    let unit = 10_i64.pow(digits);
    let (seconds, fraction) = (value.div_euclid(unit), value.rem_euclid(unit));
    let _ = write!(out, "{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    self::fraction(fraction.unsigned_abs(), digits, out);
    Form::Text
}

fn timestamp(value: i64, digits: u32, zoned: bool, out: &mut String) -> Form {
    let unit = 10_i64.pow(digits);
    let (seconds, fraction) = (value.div_euclid(unit), value.rem_euclid(unit));
    date(seconds.div_euclid(86_400), out);
    out.push('T');
    time(seconds.rem_euclid(86_400), 0, out);
    self::fraction(fraction.unsigned_abs(), digits, out);
    if zoned {
        out.push('Z');
    }
    Form::Text
}

/// A fraction of a second, where there is one, without trailing zeros.
fn fraction(value: u64, digits: u32, out: &mut String) {
    if value > 0 {
        let text = format!("{value:0width$}", width = digits as usize);
        out.push('.');
        out.push_str(text.trim_end_matches('0'));
    }
}

/// An ISO 8601 period.
fn period(months: i32, days: i32, nanoseconds: i128, out: &mut String) -> Form {
    out.push('P');
    if months != 0 {
        let _ = write!(out, "{months}M");
    }
    if days != 0 {
        let _ = write!(out, "{days}D");
    }
    if nanoseconds != 0 || (months == 0 && days == 0) {
        let (seconds, rest) = (nanoseconds.unsigned_abs() / 1_000_000_000, nanoseconds.unsigned_abs() % 1_000_000_000);
        let sign = if nanoseconds < 0 { "-" } else { "" };
        let _ = write!(out, "T{sign}{seconds}");
        fraction(rest as u64, 9, out);
        out.push('S');
    }
    Form::Text
}

/// Year, month and day of a day since 1970-01-01, proleptic Gregorian (Hinnant's `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn extension(field: &Field) -> Option<&str> {
    field.metadata().get("ARROW:extension:name").map(String::as_str)
}

fn unsupported(field: &Field) -> Error {
    let message = format!("column `{}` has type {}, which has no text form", field.name(), field.data_type());
    Error::new(ErrorKind::Data, "write output", message).with_hint("cast it in SQL, or use --format arrow or parquet")
}
