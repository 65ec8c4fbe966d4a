//! The window for rows that are committed late, and what is taken off a cursor value for it.
//!
//! Promise: a window never reaches out of the calendar that positions are written in.

use jiff::SignedDuration;
use jiff::civil::DateTime;
use portolan_model::Result;
use portolan_model::config::DurationText;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far behind the last cursor a read starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum LateWindow {
    /// In units of a numeric cursor.
    Number(u64),
    /// In time, for a temporal cursor.
    Time(DurationText),
}

impl<'de> Deserialize<'de> for LateWindow {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = LateWindow;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a whole number (numeric cursor) or a duration such as \"10min\" (temporal cursor)")
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<LateWindow, E> {
                u64::try_from(number).map(LateWindow::Number).map_err(|_| E::custom("a window is not negative"))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<LateWindow, E> {
                Ok(LateWindow::Number(number))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<LateWindow, E> {
                DurationText::parse(text).map(LateWindow::Time).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// What a window is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WindowUnit {
    Number,
    Time,
}

impl LateWindow {
    pub(crate) fn unit(self) -> WindowUnit {
        match self {
            Self::Number(_) => WindowUnit::Number,
            Self::Time(_) => WindowUnit::Time,
        }
    }

    pub(crate) fn is_zero(self) -> bool {
        match self {
            Self::Number(units) => units == 0,
            Self::Time(time) => time.0.is_zero(),
        }
    }
}

/// A date or time as positions write it.
pub(crate) fn parse_moment(text: &str) -> Option<DateTime> {
    text.replacen(' ', "T", 1).parse().ok()
}

/// The moment `window` before `moment`, as positions write it: the date alone if `is_date`. `None` for an absurd
/// window.
pub(crate) fn moment_before(moment: DateTime, window: DurationText, is_date: bool) -> Option<String> {
    let window = SignedDuration::try_from(window.0).ok()?;
    let earliest = jiff::civil::date(1, 1, 1).at(0, 0, 0, 0);
    let before = moment.saturating_sub(window).max(earliest);
    let format = if is_date { "%Y-%m-%d" } else { "%Y-%m-%d %H:%M:%S.%6f" };
    Some(before.strftime(format).to_string())
}
