//! Values of the catalog as Arrow arrays.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanArray, FixedSizeBinaryBuilder, ListArray, MapArray, PrimitiveBuilder, StringArray,
    StructArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{self as ty, ArrowPrimitiveType, DataType};
use portolan_model::Result;

use super::calendar::{self, Unit};
use super::nested::{Node, parse};
use crate::error::{arrow as arrow_error, corrupt};
use crate::types::{Column, Kind};

const OPERATION: &str = "read inlined rows";

/// The values of one column as an Arrow array of the column's type.
///
/// # Errors
/// `Corrupt` if a value is not of the column's type.
pub(crate) fn column(column: &Column, nodes: Vec<Node>) -> Result<ArrayRef> {
    macro_rules! integers {
        ($type:ty) => {
            primitive::<$type>(column, nodes, |node| match node {
                Node::Integer(value) => <$type as ArrowPrimitiveType>::Native::try_from(*value).ok(),
                Node::Text(text) => text.parse().ok(),
                _ => None,
            })
        };
    }
    macro_rules! texts {
        ($type:ty, $read:expr) => {
            primitive::<$type>(column, nodes, |node| match node {
                Node::Text(text) => $read(text.as_str()),
                _ => None,
            })
        };
    }
    match &column.kind {
        Kind::Boolean => {
            let values = nodes.iter().map(|node| match node {
                Node::Null => Ok(None),
                Node::Integer(value) => Ok(Some(*value != 0)),
                Node::Text(text) if text == "true" || text == "1" => Ok(Some(true)),
                Node::Text(text) if text == "false" || text == "0" => Ok(Some(false)),
                _ => Err(wrong(column, node)),
            });
            Ok(Arc::new(values.collect::<Result<BooleanArray>>()?))
        }
        Kind::Int8 => integers!(ty::Int8Type),
        Kind::Int16 => integers!(ty::Int16Type),
        Kind::Int32 => integers!(ty::Int32Type),
        Kind::Int64 => integers!(ty::Int64Type),
        Kind::UInt8 => integers!(ty::UInt8Type),
        Kind::UInt16 => integers!(ty::UInt16Type),
        Kind::UInt32 => integers!(ty::UInt32Type),
        Kind::UInt64 => integers!(ty::UInt64Type),
        Kind::Float32 => primitive::<ty::Float32Type>(column, nodes, |node| match node {
            Node::Text(text) => text.parse().ok(),
            Node::Real(value) => Some(*value as f32),
            Node::Integer(value) => Some(*value as f32),
            _ => None,
        }),
        Kind::Float64 => primitive::<ty::Float64Type>(column, nodes, |node| match node {
            Node::Text(text) => text.parse().ok(),
            Node::Real(value) => Some(*value),
            Node::Integer(value) => Some(*value as f64),
            _ => None,
        }),
        Kind::Decimal(_, scale) => primitive::<ty::Decimal128Type>(column, nodes, |node| match node {
            Node::Text(text) => decimal(text, *scale),
            Node::Integer(value) => i128::from(*value).checked_mul(10i128.checked_pow(u32::from(*scale))?),
            _ => None,
        }),
        Kind::Date => texts!(ty::Date32Type, calendar::read_date),
        Kind::Time => texts!(ty::Time64MicrosecondType, calendar::read_time),
        Kind::TimestampMs => {
            texts!(ty::TimestampMillisecondType, |text| calendar::read_timestamp(text, Unit::Milli))
        }
        Kind::Timestamp | Kind::TimestampTz => {
            texts!(ty::TimestampMicrosecondType, |text| calendar::read_timestamp(text, Unit::Micro))
        }
        Kind::TimestampNs => texts!(ty::TimestampNanosecondType, |text| calendar::read_timestamp(text, Unit::Nano)),
        Kind::Varchar | Kind::Json => {
            let values = nodes.into_iter().map(|node| match node {
                Node::Null => Ok(None),
                Node::Text(text) => Ok(Some(text)),
                Node::Integer(value) => Ok(Some(value.to_string())),
                other => Err(wrong(column, &other)),
            });
            Ok(Arc::new(values.collect::<Result<StringArray>>()?))
        }
        Kind::Blob => {
            let mut builder = BinaryBuilder::new();
            for node in &nodes {
                match node {
                    Node::Null => builder.append_null(),
                    Node::Bytes(bytes) => builder.append_value(bytes),
                    Node::Text(text) => builder.append_value(unescape(text)),
                    _ => return Err(wrong(column, node)),
                }
            }
            Ok(Arc::new(builder.finish()))
        }
        Kind::Uuid => {
            let mut builder = FixedSizeBinaryBuilder::new(16);
            for node in &nodes {
                match node {
                    Node::Null => builder.append_null(),
                    Node::Text(text) => {
                        let id = uuid::Uuid::try_parse(text).map_err(|_| wrong(column, node))?;
                        builder.append_value(id.as_bytes()).map_err(|error| arrow_error(OPERATION, error))?;
                    }
                    _ => return Err(wrong(column, node)),
                }
            }
            Ok(Arc::new(builder.finish()))
        }
        Kind::List(_) | Kind::Struct(_) | Kind::Map(..) => nested(column, nodes),
    }
}

fn primitive<T: ArrowPrimitiveType>(
    column: &Column,
    nodes: Vec<Node>,
    read: impl Fn(&Node) -> Option<T::Native>,
) -> Result<ArrayRef> {
    let mut builder = PrimitiveBuilder::<T>::with_capacity(nodes.len());
    for node in &nodes {
        match node {
            Node::Null => builder.append_null(),
            node => builder.append_value(read(node).ok_or_else(|| wrong(column, node))?),
        }
    }
    Ok(Arc::new(builder.finish().with_data_type(column.kind.arrow())))
}

fn nested(column: &Column, nodes: Vec<Node>) -> Result<ArrayRef> {
    let nodes = nodes
        .into_iter()
        .map(|node| match node {
            Node::Text(text) => parse(&text),
            other => Ok(other),
        })
        .collect::<Result<Vec<_>>>()?;
    let valid = NullBuffer::from(nodes.iter().map(|node| *node != Node::Null).collect::<Vec<_>>());
    let arrow = |result: Result<ArrayRef, arrow::error::ArrowError>| result.map_err(|e| arrow_error(OPERATION, e));
    match (&column.kind, column.kind.arrow()) {
        (Kind::List(element), DataType::List(field)) => {
            let mut lengths = Vec::with_capacity(nodes.len());
            let mut items = Vec::new();
            for node in nodes {
                match node {
                    Node::Null => lengths.push(0),
                    Node::List(list) => {
                        lengths.push(list.len());
                        items.extend(list);
                    }
                    other => return Err(wrong(column, &other)),
                }
            }
            let values = self::column(element, items)?;
            let offsets = OffsetBuffer::from_lengths(lengths);
            arrow(ListArray::try_new(field, offsets, values, Some(valid)).map(|a| Arc::new(a) as ArrayRef))
        }
        (Kind::Struct(fields), DataType::Struct(arrow_fields)) => {
            let mut parts: Vec<Vec<Node>> = fields.iter().map(|_| Vec::with_capacity(nodes.len())).collect();
            for node in nodes {
                let mut entries = match node {
                    Node::Null => Vec::new(),
                    Node::Entries(entries) => entries,
                    other => return Err(wrong(column, &other)),
                };
                for (field, part) in fields.iter().zip(&mut parts) {
                    let found = entries.iter().position(|(key, _)| matches!(key, Node::Text(k) if *k == field.name));
                    part.push(found.map_or(Node::Null, |index| entries.swap_remove(index).1));
                }
            }
            let arrays = fields.iter().zip(parts).map(|(field, part)| self::column(field, part));
            let arrays = arrays.collect::<Result<Vec<_>>>()?;
            arrow(StructArray::try_new(arrow_fields, arrays, Some(valid)).map(|a| Arc::new(a) as ArrayRef))
        }
        (Kind::Map(key, value), DataType::Map(field, sorted)) => {
            let mut lengths = Vec::with_capacity(nodes.len());
            let (mut keys, mut values) = (Vec::new(), Vec::new());
            for node in nodes {
                match node {
                    Node::Null => lengths.push(0),
                    Node::Entries(entries) => {
                        lengths.push(entries.len());
                        for (k, v) in entries {
                            keys.push(k);
                            values.push(v);
                        }
                    }
                    other => return Err(wrong(column, &other)),
                }
            }
            let DataType::Struct(entry_fields) = field.data_type() else {
                return Err(corrupt(OPERATION, format!("column `{}` is not a map", column.name)));
            };
            let arrays = vec![self::column(key, keys)?, self::column(value, values)?];
            let entries = StructArray::try_new(entry_fields.clone(), arrays, None);
            let entries = entries.map_err(|error| arrow_error(OPERATION, error))?;
            let offsets = OffsetBuffer::from_lengths(lengths);
            arrow(MapArray::try_new(field, offsets, entries, Some(valid), sorted).map(|a| Arc::new(a) as ArrayRef))
        }
        _ => Err(corrupt(OPERATION, format!("column `{}` is not nested", column.name))),
    }
}

fn wrong(column: &Column, node: &Node) -> portolan_model::Error {
    corrupt(OPERATION, format!("column `{}` of type {} holds {node:?}", column.name, column.kind))
}

/// Reads a decimal at `scale`; `None` if it has more digits after the point.
pub(crate) fn decimal(text: &str, scale: u8) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if fraction.len() > usize::from(scale) || !digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    let padding = std::iter::repeat_n(b'0', usize::from(scale) - fraction.len());
    let mut value: i128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()).chain(padding) {
        value = value.checked_mul(10)?.checked_add(i128::from(digit - b'0'))?;
    }
    Some(if negative { -value } else { value })
}

/// The bytes of DuckDB's text form of a blob: `\xNN` is a byte, anything else itself.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = (first == b'\\' && tail.first() == Some(&b'x')).then(|| tail.get(1..3)).flatten();
        let value = code.and_then(|code| std::str::from_utf8(code).ok()).and_then(|c| u8::from_str_radix(c, 16).ok());
        match value {
            Some(value) => {
                bytes.push(value);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    bytes
}
