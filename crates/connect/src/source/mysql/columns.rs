//! Column types of the server as Arrow fields, without loss.

use std::collections::HashMap;

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, Field, TimeUnit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::wire::message::{BINARY_CHARACTER_SET, column_flag};
use super::wire::{Column, column_type as t};

/// How the server's TIME, a span of up to ±838 h, is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimeAs {
    /// As a time of day; a span outside 0 to 24 h is NULL and goes to the quarantine.
    #[default]
    Time,
    /// As a signed number of microseconds.
    Microseconds,
}

impl Column {
    pub(super) fn is_time(&self) -> bool {
        self.column_type == t::TIME
    }

    pub(super) fn is_bits(&self) -> bool {
        self.column_type == t::BIT
    }

    pub(super) fn is_null(&self) -> bool {
        self.column_type == t::NULL
    }

    pub(super) fn is_unsigned(&self) -> bool {
        self.has(column_flag::UNSIGNED)
    }

    pub(super) fn is_json(&self) -> bool {
        self.column_type == t::JSON || self.extended_type.as_deref() == Some("json")
    }

    /// Whether it is text rather than bytes. Lists of words come with a character set of their own.
    fn is_text(&self) -> bool {
        let is_word = matches!(self.column_type, t::ENUM | t::SET) || self.has(column_flag::ENUM | column_flag::SET);
        // UUID and INET are sent as text, marked as bytes by some versions.
        let is_spelled = matches!(self.extended_type.as_deref(), Some("uuid" | "inet4" | "inet6"));
        let is_bytes = matches!(self.column_type, t::GEOMETRY | t::VECTOR);
        is_word || is_spelled || (self.character_set != BINARY_CHARACTER_SET && !is_bytes)
    }

    /// Digits in all and after the point, from the display length, which counts the point and the sign.
    pub(super) fn decimal_digits(&self) -> (u8, u8) {
        let scale = self.decimals.min(38);
        let signs = u32::from(scale > 0) + u32::from(!self.is_unsigned());
        let precision = self.length.saturating_sub(signs).clamp(1, u32::from(DECIMAL256_MAX_PRECISION));
        ((precision as u8).max(scale), scale)
    }
}

/// The Arrow field of a column. Always nullable: a zero date in a NOT NULL column becomes NULL.
pub fn field_of(column: &Column, time_as: TimeAs) -> Field {
    let unsigned = column.is_unsigned();
    let data_type = match column.column_type {
        t::TINY if unsigned => DataType::UInt8,
        t::TINY => DataType::Int8,
        t::SHORT if unsigned => DataType::UInt16,
        t::SHORT | t::YEAR => DataType::Int16,
        t::INT24 | t::LONG if unsigned => DataType::UInt32,
        t::INT24 | t::LONG => DataType::Int32,
        t::LONGLONG if unsigned => DataType::UInt64,
        t::LONGLONG => DataType::Int64,
        t::FLOAT => DataType::Float32,
        t::DOUBLE => DataType::Float64,
        t::DECIMAL | t::NEWDECIMAL => match column.decimal_digits() {
            (precision, scale) if precision <= DECIMAL128_MAX_PRECISION => DataType::Decimal128(precision, scale as i8),
            (precision, scale) => DataType::Decimal256(precision, scale as i8),
        },
        t::BIT if column.length == 1 => DataType::Boolean,
        t::BIT => DataType::UInt64,
        t::DATE => DataType::Date32,
        t::DATETIME => DataType::Timestamp(TimeUnit::Microsecond, None),
        t::TIMESTAMP => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        t::TIME if time_as == TimeAs::Time => DataType::Time64(TimeUnit::Microsecond),
        t::TIME => DataType::Int64,
        t::NULL => DataType::Utf8,
        _ if column.is_json() || column.is_text() => DataType::Utf8,
        _ => DataType::Binary,
    };
    let field = Field::new(&column.name, data_type, true);
    if column.is_json() {
        let name = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        return field.with_metadata(HashMap::from([
            name("ARROW:extension:name", "arrow.json"),
            name("ARROW:extension:metadata", ""),
        ]));
    }
    field
}
