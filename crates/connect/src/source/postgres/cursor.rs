//! The cursor column: which types order rows without surprise, and how its value travels to the server and back.
//!
//! Promise: a position is exact for every type accepted; the server compares, in the column's own type and collation.

use std::cmp::Ordering;

use portolan_model::{Error, ErrorKind, Position, Result};

use super::columns::{Cast, Kind, Selected, oid};
use super::numeric::Numeric;
use super::statement::literal;
use super::temporal;
use super::wire::reader::Malformed;
use crate::relational::{self, Kind as _, LateWindow, WindowUnit, moment_before, no_position, parse_moment};

/// What kind of order a cursor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CursorKind {
    /// Within these bounds, which the server does not let a literal leave.
    Integer {
        min: i64,
        max: i64,
    },
    Decimal,
    Double,
    Float,
    Date,
    DateTime,
    Instant,
    Time,
    Text,
    Bytes,
    Uuid,
}

/// Why a raw value is no place to continue from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPlace {
    Malformed(Malformed),
    /// Infinity, NaN, or a year that no position holds.
    Endless,
}

impl From<Malformed> for NoPlace {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl CursorKind {
    /// The kind of a column, or why it cannot be a cursor.
    pub(super) fn of(selected: &Selected) -> Result<Self> {
        let column = &selected.column;
        let refused = |what: &str| {
            Err(Error::new(
                ErrorKind::Configuration,
                "prepare cursor",
                format!("column `{}` is {what}, which cannot be a cursor", column.name),
            )
            .with_hint("use a number, a date or time, a uuid, or a string column"))
        };
        let integer = |min: i64, max: i64| Self::Integer { min, max };
        Ok(match &selected.kind {
            Kind::Int16 => integer(i16::MIN.into(), i16::MAX.into()),
            Kind::Int32 => integer(i32::MIN.into(), i32::MAX.into()),
            Kind::Int64 => integer(i64::MIN, i64::MAX),
            Kind::UInt32 if column.type_id == oid::OID => integer(0, u32::MAX.into()),
            Kind::Decimal { .. } => Self::Decimal,
            Kind::Text if column.type_id == oid::NUMERIC => Self::Decimal,
            Kind::Float64 => Self::Double,
            Kind::Float32 => Self::Float,
            Kind::Date => Self::Date,
            Kind::Timestamp => Self::DateTime,
            Kind::Instant => Self::Instant,
            Kind::Time => Self::Time,
            Kind::Uuid => Self::Uuid,
            Kind::Bytes => Self::Bytes,
            Kind::Text if matches!(column.type_id, oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::NAME) => Self::Text,
            Kind::Json | Kind::Jsonb => return refused("JSON"),
            Kind::Text if selected.cast == Cast::None => return refused("an enum"),
            _ => return refused("of a type without an order that can be relied on"),
        })
    }

    /// A raw value of a row as position text.
    pub(super) fn text_of(self, kind: &Kind, raw: &[u8]) -> Result<String, NoPlace> {
        fn fixed<const N: usize>(raw: &[u8]) -> Result<[u8; N], Malformed> {
            raw.try_into().map_err(|_| Malformed("a cursor value has another length than its type"))
        }
        let text = |raw: &[u8]| {
            let text = std::str::from_utf8(raw).map_err(|_| Malformed("a cursor value is not UTF-8"))?;
            Ok::<_, NoPlace>(text.to_owned())
        };
        let finite = |value: f64, text: String| if value.is_finite() { Ok(text) } else { Err(NoPlace::Endless) };
        Ok(match kind {
            Kind::Int16 => i16::from_be_bytes(fixed(raw)?).to_string(),
            Kind::Int32 => i32::from_be_bytes(fixed(raw)?).to_string(),
            Kind::Int64 => i64::from_be_bytes(fixed(raw)?).to_string(),
            Kind::UInt32 => u32::from_be_bytes(fixed(raw)?).to_string(),
            Kind::Decimal { .. } => {
                let number = Numeric::parse(raw)?;
                if !number.is_finite() {
                    return Err(NoPlace::Endless);
                }
                number.text(usize::MAX)
            }
            Kind::Float64 => {
                let value = f64::from_be_bytes(fixed(raw)?);
                finite(value, value.to_string())?
            }
            Kind::Float32 => {
                let value = f32::from_be_bytes(fixed(raw)?);
                finite(value.into(), value.to_string())?
            }
            Kind::Date => {
                let days = temporal::days(i32::from_be_bytes(fixed(raw)?)).map_err(|_| NoPlace::Endless)?;
                temporal::day_text(days)
            }
            Kind::Timestamp | Kind::Instant => {
                let since =
                    temporal::microseconds(i64::from_be_bytes(fixed(raw)?), "").map_err(|_| NoPlace::Endless)?;
                temporal::instant_text(since)
            }
            Kind::Time => temporal::clock_text_exact(i64::from_be_bytes(fixed(raw)?)),
            Kind::Bytes => raw.iter().map(|byte| format!("{byte:02x}")).collect(),
            Kind::Uuid => uuid_text(fixed(raw)?),
            _ if self == Self::Decimal => {
                let text = text(raw)?;
                if text.contains(|c: char| c.is_ascii_alphabetic()) {
                    return Err(NoPlace::Endless);
                }
                text
            }
            _ => text(raw)?,
        })
    }

    /// Position text as a literal, `window` before it.
    pub(super) fn literal_before(self, text: &str, window: Option<LateWindow>) -> Result<String> {
        let Some(window) = window else { return Ok(self.literal_of(text)) };
        let unreadable = || self.unreadable(text);
        match (self, window) {
            (Self::Integer { min, max }, LateWindow::Number(units)) => {
                let value: i128 = text.parse().map_err(|_| unreadable())?;
                Ok(self.literal_of(&(value - i128::from(units)).clamp(min.into(), max.into()).to_string()))
            }
            (Self::Double | Self::Float, LateWindow::Number(units)) => {
                let value: f64 = text.parse().map_err(|_| unreadable())?;
                Ok(self.literal_of(&(value - units as f64).to_string()))
            }
            // However many digits it has, the server subtracts exactly.
            (Self::Decimal, LateWindow::Number(units)) => Ok(format!("({}::numeric - {units})", literal(text))),
            (Self::Date | Self::DateTime | Self::Instant, LateWindow::Time(window)) => {
                let moment = parse_moment(text).ok_or_else(unreadable)?;
                let before = moment_before(moment, window, self == Self::Date).ok_or_else(unreadable)?;
                Ok(self.literal_of(&before))
            }
            _ => self.accept(window).and_then(|()| Err(unreadable())),
        }
    }

    /// Position text as a literal.
    pub(super) fn literal_of(self, text: &str) -> String {
        match self {
            Self::Bytes => literal(&format!("\\x{text}")),
            _ => literal(text),
        }
    }

    /// The cursor value of a position that this connector has written.
    pub(super) fn stored_value(self, of: &str, cursor: &str, position: &Position) -> Result<String> {
        let value = self.value_of(of, cursor, position)?;
        // It has always noted what is read, and no text of the server holds a NUL.
        let is_noted = position.value.get("of").is_some_and(serde_json::Value::is_string);
        if is_noted && !value.contains('\0') { Ok(value) } else { no_position() }
    }
}

impl relational::Kind for CursorKind {
    fn name(self) -> &'static str {
        match self {
            Self::Integer { .. } => "integer",
            Self::Decimal => "decimal",
            Self::Double => "double",
            Self::Float => "float",
            Self::Date => "date",
            Self::DateTime => "datetime",
            Self::Instant => "instant",
            Self::Time => "time",
            Self::Text => "text",
            Self::Bytes => "bytes",
            Self::Uuid => "uuid",
        }
    }

    fn order(self, one: &str, other: &str) -> Option<Ordering> {
        match self {
            Self::Integer { .. } => one.parse::<i128>().ok().partial_cmp(&other.parse().ok()),
            Self::Double | Self::Float => one.parse::<f64>().ok().partial_cmp(&other.parse().ok()),
            Self::Decimal => Some(decimal_order(one, other)),
            // Written at full width, or digit by digit, they order as text.
            Self::Date | Self::DateTime | Self::Instant | Self::Time | Self::Uuid | Self::Bytes => Some(one.cmp(other)),
            Self::Text => None,
        }
    }

    fn window_unit(self) -> Option<WindowUnit> {
        match self {
            Self::Integer { .. } | Self::Decimal | Self::Double | Self::Float => Some(WindowUnit::Number),
            Self::Date | Self::DateTime | Self::Instant => Some(WindowUnit::Time),
            Self::Time | Self::Text | Self::Bytes | Self::Uuid => None,
        }
    }
}

fn uuid_text(bytes: [u8; 16]) -> String {
    let digits = format!("{:032x}", u128::from_be_bytes(bytes));
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

/// The order of two decimals of any length.
fn decimal_order(one: &str, other: &str) -> Ordering {
    fn parts(text: &str) -> (bool, &str, &str) {
        let (is_negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
        let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
        let (whole, part) = (whole.trim_start_matches('0'), part.trim_end_matches('0'));
        (is_negative && !(whole.is_empty() && part.is_empty()), whole, part)
    }
    let ((one_negative, one_whole, one_part), (other_negative, other_whole, other_part)) = (parts(one), parts(other));
    let size = one_whole.len().cmp(&other_whole.len()).then(one_whole.cmp(other_whole)).then(one_part.cmp(other_part));
    match (one_negative, other_negative) {
        (false, false) => size,
        (true, true) => size.reverse(),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use portolan_model::config::DurationText;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const INTEGER: CursorKind = CursorKind::Integer { min: i64::MIN, max: i64::MAX };

    #[test]
    fn a_window_is_taken_off_exactly() {
        let number = LateWindow::Number(100);
        let hour = LateWindow::Time(DurationText(Duration::from_secs(3_600)));
        for (kind, text, window, expected) in [
            (INTEGER, "-9223372036854775807", number, "E'-9223372036854775808'"),
            (CursorKind::Integer { min: -32_768, max: 32_767 }, "-32700", number, "E'-32768'"),
            (CursorKind::Decimal, "50.1", number, "(E'50.1'::numeric - 100)"),
            (CursorKind::DateTime, "2024-03-01 00:30:00.000001", hour, "E'2024-02-29 23:30:00.000001'"),
            (CursorKind::Date, "2024-03-01", hour, "E'2024-02-29'"),
            (CursorKind::Instant, "0001-01-01 00:30:00.000000", hour, "E'0001-01-01 00:00:00.000000'"),
        ] {
            assert_eq!(kind.literal_before(text, Some(window)).unwrap(), expected);
        }
        assert!(CursorKind::Text.literal_before("a", Some(number)).is_err());
        assert_eq!(CursorKind::Bytes.literal_of("00ff"), "E'\\\\x00ff'");
        assert_eq!(INTEGER.later("9".into(), "10"), "10");
    }

    #[test]
    fn a_position_is_refused_where_it_does_not_belong() {
        let position = INTEGER.position("table a", "id", "7");
        assert_eq!(INTEGER.stored_value("table a", "id", &position).unwrap(), "7");
        for (kind, of, cursor) in
            [(INTEGER, "table a", "other"), (CursorKind::Text, "table a", "id"), (INTEGER, "table b", "id")]
        {
            let error = kind.stored_value(of, cursor, &position).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration);
        }
        assert!(INTEGER.stored_value("table a", "id", &Position::new(9, json!({}))).is_err());
        assert!(INTEGER.stored_value("table a", "id", &Position::new(1, json!([1]))).is_err());
        let unnamed = Position::new(1, json!({ "cursor": "id", "kind": "integer", "value": "7" }));
        assert!(INTEGER.stored_value("table a", "id", &unnamed).is_err());
        let nul = CursorKind::Text.position("table a", "id", "a\0b");
        assert!(CursorKind::Text.stored_value("table a", "id", &nul).is_err());
    }

    #[test]
    fn decimals_order_as_numbers() {
        for texts in [["-1000000000000000000000000000000000000000000.5", "-10", "-9.5", "0.000", "0.1", "00.2", "10"]] {
            for pair in texts.windows(2) {
                assert_eq!(decimal_order(pair[0], pair[1]), Ordering::Less, "{pair:?}");
                assert_eq!(decimal_order(pair[1], pair[0]), Ordering::Greater, "{pair:?}");
            }
        }
        assert_eq!(decimal_order("1.50", "01.5"), Ordering::Equal);
        assert_eq!(decimal_order("-0", "0.0"), Ordering::Equal);
    }

    proptest! {
        #[test]
        fn decimals_order_as_integers(one: i64, other: i64) {
            prop_assert_eq!(decimal_order(&one.to_string(), &other.to_string()), one.cmp(&other));
        }
    }
}
