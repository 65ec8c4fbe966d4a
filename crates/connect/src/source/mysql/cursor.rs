//! The cursor column: which types order rows without surprise, and how its value travels to the server and back.
//!
//! Promise: a position is exact for every type accepted; the server compares, in the column's own collation.

use std::cmp::Ordering;

use arrow::datatypes::{DataType, TimeUnit, i256};
use portolan_model::{Error, ErrorKind, Result};

use super::columns::{TimeAs, field_of};
use super::decimal;
use super::temporal::{CivilTime, Span};
use super::wire::reader::{Malformed, Reader};
use super::wire::{Column, column_type};
use crate::relational::{Kind, LateWindow, WindowUnit, moment_before, parse_moment};

/// What kind of order a cursor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CursorKind {
    Integer,
    Decimal { precision: u8, scale: u8 },
    Double,
    Float,
    Date,
    DateTime,
    Time,
    Text,
    Bytes,
}

impl CursorKind {
    /// The kind of a column, or why it cannot be a cursor.
    pub(super) fn of(column: &Column) -> Result<Self> {
        let is_word = matches!(column.column_type, column_type::ENUM | column_type::SET)
            || column.has(super::wire::message::column_flag::ENUM | super::wire::message::column_flag::SET);
        let refused = |what: &str| {
            Err(Error::new(
                ErrorKind::Configuration,
                "prepare cursor",
                format!("column `{}` is {what}, which cannot be a cursor", column.name),
            )
            .with_hint("use a number, a decimal, a date or time, or a string column"))
        };
        if is_word {
            return refused("an ENUM or SET");
        }
        if column.is_bits() {
            return refused("a BIT field");
        }
        // MariaDB's is text with a mark.
        if column.is_json() {
            return refused("JSON");
        }
        Ok(match field_of(column, TimeAs::Microseconds).data_type() {
            _ if column.is_time() => Self::Time,
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => Self::Integer,
            DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => Self::Integer,
            DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
                Self::Decimal { precision: *precision, scale: scale.unsigned_abs() }
            }
            DataType::Float64 => Self::Double,
            DataType::Float32 => Self::Float,
            DataType::Date32 => Self::Date,
            DataType::Timestamp(TimeUnit::Microsecond, _) => Self::DateTime,
            DataType::Utf8 => Self::Text,
            DataType::Binary if column.column_type != column_type::GEOMETRY => Self::Bytes,
            _ => return refused("of a type without an order"),
        })
    }

    /// The SQL expression of a parameter, so that the server compares in the column's own type: without it a decimal
    /// and a string would meet as doubles.
    pub(super) fn placeholder(self) -> String {
        match self {
            Self::Integer | Self::Double | Self::Float | Self::Text | Self::Bytes => "?".into(),
            Self::Decimal { precision, scale } => format!("CAST(? AS DECIMAL({},{scale}))", precision.min(65)),
            Self::Date => "CAST(? AS DATE)".into(),
            Self::DateTime => "CAST(? AS DATETIME(6))".into(),
            Self::Time => "CAST(? AS TIME(6))".into(),
        }
    }

    /// A raw value of a row as position text.
    pub(super) fn text_of(self, column: &Column, raw: &[u8]) -> Result<String, Malformed> {
        let mut reader = Reader::new(raw);
        Ok(match self {
            Self::Integer => integer(column, &mut reader)?.to_string(),
            Self::Double => f64::from_le_bytes(reader.array()?).to_string(),
            Self::Float => f64::from(f32::from_le_bytes(reader.array()?)).to_string(),
            Self::Date => CivilTime::parse(&mut reader)?.date_text(),
            Self::DateTime => CivilTime::parse(&mut reader)?.text(6),
            Self::Time => Span::parse(&mut reader)?.text(6),
            Self::Decimal { .. } | Self::Text => {
                std::str::from_utf8(reader.bytes()?).map_err(|_| Malformed("a cursor value is not UTF-8"))?.to_owned()
            }
            Self::Bytes => reader.bytes()?.iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }

    /// Position text as a parameter.
    pub(super) fn parameter_of(self, text: &str) -> Result<Parameter> {
        let unreadable = || self.unreadable(text);
        Ok(match self {
            Self::Integer => Parameter::Integer(text.parse().map_err(|_| unreadable())?),
            Self::Double | Self::Float => Parameter::Double(text.parse().map_err(|_| unreadable())?),
            Self::Bytes => Parameter::Bytes(from_hexadecimal(text).ok_or_else(unreadable)?),
            _ => Parameter::Text(text.to_owned()),
        })
    }

    /// The position text `window` before `text`; clamped where the calendar or the numbers end.
    pub(super) fn before(self, text: &str, window: LateWindow) -> Result<String> {
        let unreadable = || self.unreadable(text);
        match (self, window) {
            (Self::Integer, LateWindow::Number(units)) => {
                let value: i128 = text.parse().map_err(|_| unreadable())?;
                Ok((value - i128::from(units)).max(i64::MIN.into()).to_string())
            }
            (Self::Double | Self::Float, LateWindow::Number(units)) => {
                Ok((text.parse::<f64>().map_err(|_| unreadable())? - units as f64).to_string())
            }
            (Self::Decimal { scale, .. }, LateWindow::Number(units)) => {
                let value = decimal::parse_i256(text.as_bytes(), 76, scale).ok_or_else(unreadable)?;
                let one = i256::from_i128(10).checked_pow(u32::from(scale)).ok_or_else(unreadable)?;
                let window = one.checked_mul(i256::from_i128(units.into())).ok_or_else(unreadable)?;
                Ok(decimal_text(value.wrapping_sub(window), scale))
            }
            (Self::Date | Self::DateTime, LateWindow::Time(window)) => {
                // A zero date: nothing lies before it.
                let Some(moment) = parse_moment(text) else { return Ok(text.to_owned()) };
                moment_before(moment, window, self == Self::Date).ok_or_else(unreadable)
            }
            _ => self.accept(window).and_then(|()| Err(unreadable())),
        }
    }
}

impl Kind for CursorKind {
    fn name(self) -> &'static str {
        match self {
            Self::Integer => "integer",
            Self::Decimal { .. } => "decimal",
            Self::Double => "double",
            Self::Float => "float",
            Self::Date => "date",
            Self::DateTime => "datetime",
            Self::Time => "time",
            Self::Text => "text",
            Self::Bytes => "bytes",
        }
    }

    fn order(self, one: &str, other: &str) -> Option<Ordering> {
        match self {
            Self::Integer => one.parse::<i128>().ok().partial_cmp(&other.parse().ok()),
            Self::Double | Self::Float => one.parse::<f64>().ok().partial_cmp(&other.parse().ok()),
            Self::Decimal { scale, .. } => {
                let value = |text: &str| decimal::parse_i256(text.as_bytes(), 76, scale);
                value(one).partial_cmp(&value(other))
            }
            // Written at full width, they order as text.
            Self::Date | Self::DateTime => Some(one.cmp(other)),
            Self::Time | Self::Text | Self::Bytes => None,
        }
    }

    fn window_unit(self) -> Option<WindowUnit> {
        match self {
            Self::Integer | Self::Decimal { .. } | Self::Double | Self::Float => Some(WindowUnit::Number),
            Self::Date | Self::DateTime => Some(WindowUnit::Time),
            Self::Time | Self::Text | Self::Bytes => None,
        }
    }
}

/// A value bound to a statement.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Parameter {
    Integer(i128),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
}

fn integer(column: &Column, reader: &mut Reader<'_>) -> Result<i128, Malformed> {
    let unsigned = column.is_unsigned();
    Ok(match column.column_type {
        column_type::TINY if unsigned => u8::from_le_bytes(reader.array()?).into(),
        column_type::TINY => i8::from_le_bytes(reader.array()?).into(),
        column_type::SHORT if unsigned => u16::from_le_bytes(reader.array()?).into(),
        column_type::SHORT | column_type::YEAR => i16::from_le_bytes(reader.array()?).into(),
        column_type::LONGLONG if unsigned => u64::from_le_bytes(reader.array()?).into(),
        column_type::LONGLONG => i64::from_le_bytes(reader.array()?).into(),
        _ if unsigned => u32::from_le_bytes(reader.array()?).into(),
        _ => i32::from_le_bytes(reader.array()?).into(),
    })
}

fn decimal_text(value: i256, scale: u8) -> String {
    let text = value.to_string();
    let (sign, digits) = text.strip_prefix('-').map_or(("", text.as_str()), |digits| ("-", digits));
    let digits = format!("{digits:0>width$}", width = usize::from(scale) + 1);
    let (whole, part) = digits.split_at(digits.len() - usize::from(scale));
    if part.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{part}") }
}

fn from_hexadecimal(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use portolan_model::config::DurationText;

    use portolan_model::Position;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_window_is_taken_off_exactly() {
        let number = LateWindow::Number(100);
        let hour = LateWindow::Time(DurationText(Duration::from_secs(3_600)));
        let decimal = CursorKind::Decimal { precision: 65, scale: 30 };
        for (kind, text, window, expected) in [
            (CursorKind::Integer, "18446744073709551615", number, "18446744073709551515"),
            (CursorKind::Integer, "-9223372036854775807", number, "-9223372036854775808"),
            (decimal, "50.000000000000000000000000000001", number, "-49.999999999999999999999999999999"),
            (CursorKind::DateTime, "2024-03-01 00:30:00.000001", hour, "2024-02-29 23:30:00.000001"),
            (CursorKind::DateTime, "0000-00-00 00:00:00.000000", hour, "0000-00-00 00:00:00.000000"),
            (CursorKind::Date, "2024-03-01", hour, "2024-02-29"),
        ] {
            assert_eq!(kind.before(text, window).unwrap(), expected);
        }
        assert!(CursorKind::Text.before("a", number).is_err());
        assert_eq!(CursorKind::Integer.later("9".into(), "10"), "10");
        assert_eq!(decimal.later("9.5".into(), "-10"), "9.5");
    }

    #[test]
    fn a_position_is_refused_where_it_does_not_belong() {
        let position = CursorKind::Integer.position("table `a`.`t`", "id", "7");
        assert_eq!(CursorKind::Integer.value_of("table `a`.`t`", "id", &position).unwrap(), "7");
        assert_eq!(
            CursorKind::Integer.value_of("table `a`.`t`", "other", &position).unwrap_err().kind(),
            ErrorKind::Configuration
        );
        assert_eq!(
            CursorKind::Text.value_of("table `a`.`t`", "id", &position).unwrap_err().kind(),
            ErrorKind::Configuration
        );
        let error = CursorKind::Integer.value_of("table `a`.`u`", "id", &position).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.message().contains("belongs to table `a`.`t`, the configuration reads table `a`.`u`"));
        let older = Position::new(1, json!({ "cursor": "id", "kind": "integer", "value": "7" }));
        assert_eq!(CursorKind::Integer.value_of("table `a`.`u`", "id", &older).unwrap(), "7");
        assert!(CursorKind::Integer.value_of("table `a`.`t`", "id", &Position::new(9, json!({}))).is_err());
        assert!(CursorKind::Integer.value_of("table `a`.`t`", "id", &Position::new(1, json!([1]))).is_err());
        assert_eq!(from_hexadecimal("00ff"), Some(vec![0, 255]));
        assert_eq!(from_hexadecimal("0é"), None);
    }
}
