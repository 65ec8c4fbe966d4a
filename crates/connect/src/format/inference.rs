//! Types of columns whose values come as text.
//!
//! A column whose values are all booleans, whole numbers or numbers, written canonically (`7`, not `007` or `+7`), gets
//! that type; every other one is text. Promise: a type that is inferred holds each value seen exactly.

use super::ColumnType;
use super::json::node::Node;
use super::json::number::{DOUBLE_INTEGER_MAX, Number, classify};
use super::json::parse::parse;

/// What the values of a column have in common so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traits {
    boolean: bool,
    text: bool,
    fraction: bool,
    whole: bool,
    negative: bool,
    unsigned: bool,
    wide: bool,
}

impl Traits {
    /// Takes one more value into account; an empty one says nothing.
    pub(crate) fn see(&mut self, text: &str) {
        if text.is_empty() || self.text {
            return;
        }
        match text {
            "true" | "false" => self.boolean = true,
            "-0" => self.text = true,
            _ if !text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => self.text = true,
            _ => match parse(text) {
                Ok(Node::Number(number)) if number.len() == text.len() => match classify(text) {
                    Number::Integer(value) => {
                        self.whole = true;
                        self.negative |= value < 0;
                        self.wide |= value.unsigned_abs() > DOUBLE_INTEGER_MAX;
                    }
                    Number::Unsigned(_) => (self.whole, self.unsigned, self.wide) = (true, true, true),
                    Number::Fraction(_) => self.fraction = true,
                    Number::Inexact => self.text = true,
                },
                _ => self.text = true,
            },
        }
    }

    /// The narrowest type that holds each value seen exactly.
    pub(crate) fn type_(self) -> ColumnType {
        match self {
            Self { text: true, .. } => ColumnType::Text,
            Self { boolean: true, whole: false, fraction: false, .. } => ColumnType::Boolean,
            Self { boolean: true, .. } => ColumnType::Text,
            Self { fraction: true, wide: false, .. } => ColumnType::Double,
            Self { fraction: true, .. } => ColumnType::Text,
            Self { unsigned: true, negative: true, .. } => ColumnType::Text,
            Self { unsigned: true, .. } => ColumnType::Unsigned { bits: 64 },
            Self { whole: true, .. } => ColumnType::Integer { bits: 64 },
            _ => ColumnType::Text,
        }
    }
}
