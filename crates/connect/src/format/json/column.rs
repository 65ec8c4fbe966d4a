//! Values of one name in many rows to one Arrow column.
//!
//! The type follows from the values: all boolean, all whole numbers, numbers that doubles hold, all text, all objects,
//! all arrays. Whatever mixes these, or holds a number that no 64-bit type holds, becomes JSON text (extension type
//! `arrow.json`). Promise: no value is lost or rounded.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BooleanArray, ListArray, PrimitiveArray, StringArray, StringBuilder, StructArray,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Float64Type, Int64Type, UInt64Type};

use super::node::{Member, Node};
use super::number::{DOUBLE_INTEGER_MAX, Number, classify};
use crate::format::column_type::{EXTENSION_TYPE_NAME_KEY, json_field};

/// An object with more members than this inside a column becomes JSON text: it is a map, not a record.
const MEMBERS_MAX: usize = 1_024;

/// Cells (rows × names) that one table of values may have.
const CELLS_MAX: usize = 8 << 20;

/// Up to this many columns a name is searched for one by one.
const SEARCHED_COLUMNS: usize = 16;

/// A column and its field.
pub(super) type Column = (FieldRef, ArrayRef);

/// The values of one name, a row each.
pub(super) struct Gathered<'n, 'a> {
    /// The name.
    pub(super) name: &'n str,
    /// The value of each row.
    pub(super) values: Values<'n, 'a>,
}

/// The values of one column; that of a single row, the common small answer, without an allocation.
pub(super) enum Values<'n, 'a> {
    One([Option<&'n Node<'a>>; 1]),
    Many(Vec<Option<&'n Node<'a>>>),
}

impl<'n, 'a> Values<'n, 'a> {
    fn empty(count: usize) -> Self {
        if count == 1 { Self::One([None]) } else { Self::Many(vec![None; count]) }
    }

    fn as_mut(&mut self) -> &mut [Option<&'n Node<'a>>] {
        match self {
            Self::One(value) => value,
            Self::Many(values) => values,
        }
    }
}

impl<'n, 'a> std::ops::Deref for Values<'n, 'a> {
    type Target = [Option<&'n Node<'a>>];

    fn deref(&self) -> &Self::Target {
        match self {
            Self::One(value) => value,
            Self::Many(values) => values,
        }
    }
}

const BOOL: u8 = 1;
const NUMBER: u8 = 2;
const TEXT: u8 = 4;
const OBJECT: u8 = 8;
const LIST: u8 = 16;

/// Builds the column of `values`; `None` while nothing but null, `{}` and `[]` has been seen. `previous` is the type
/// that an earlier batch of the same body gave the column: what was widened stays wide.
pub(super) fn build(name: &str, values: &[Option<&Node<'_>>], previous: Option<&Field>) -> Option<Column> {
    let mut kinds = 0;
    for value in values.iter().flatten() {
        kinds |= match value {
            Node::Null => 0,
            Node::Bool(_) => BOOL,
            Node::Number(_) => NUMBER,
            Node::Text(_) => TEXT,
            Node::Object(_) => OBJECT,
            Node::List(_) => LIST,
        };
    }
    if kinds == 0 {
        return None;
    }
    if previous.is_some_and(|field| field.metadata().contains_key(EXTENSION_TYPE_NAME_KEY)) {
        return Some(json(name, values));
    }
    match kinds {
        BOOL => {
            let array: BooleanArray = values.iter().map(|value| boolean(*value)).collect();
            Some(column(name, Arc::new(array)))
        }
        NUMBER => Some(numbers(name, values, previous)),
        TEXT => texts(name, values),
        OBJECT => structure(name, values, previous),
        LIST => list(name, values, previous),
        _ => Some(json(name, values)),
    }
}

fn column(name: &str, array: ArrayRef) -> Column {
    (Arc::new(Field::new(name, array.data_type().clone(), true)), array)
}

fn boolean(value: Option<&Node<'_>>) -> Option<bool> {
    match value {
        Some(Node::Bool(value)) => Some(*value),
        _ => None,
    }
}

fn text<'n>(value: Option<&'n Node<'_>>) -> Option<&'n str> {
    match value {
        Some(Node::Text(text)) => Some(text),
        _ => None,
    }
}

/// JSON text of every value; null stays null.
pub(super) fn json(name: &str, values: &[Option<&Node<'_>>]) -> Column {
    let mut builder = StringBuilder::new();
    let mut text = String::new();
    for value in values {
        match value {
            None | Some(Node::Null) => builder.append_null(),
            Some(node) => {
                text.clear();
                node.write_compact(&mut text);
                builder.append_value(&text);
            }
        }
    }
    (Arc::new(json_field(name)), Arc::new(builder.finish()))
}

fn numbers(name: &str, values: &[Option<&Node<'_>>], previous: Option<&Field>) -> Column {
    let classes: Vec<Option<Number>> = values
        .iter()
        .map(|value| match value {
            Some(Node::Number(text)) => Some(classify(text)),
            _ => None,
        })
        .collect();
    let (mut fraction, mut negative, mut unsigned, mut wide, mut inexact) = (false, false, false, false, false);
    for class in classes.iter().flatten() {
        match class {
            Number::Integer(value) => {
                negative |= *value < 0;
                wide |= value.unsigned_abs() > DOUBLE_INTEGER_MAX;
            }
            Number::Unsigned(_) => (unsigned, wide) = (true, true),
            Number::Fraction(_) => fraction = true,
            Number::Inexact => inexact = true,
        }
    }
    let was = previous.map(Field::data_type);
    let wants_double = fraction || (was == Some(&DataType::Float64) && !wide);
    let wants_unsigned = unsigned || (was == Some(&DataType::UInt64) && !negative);
    if inexact || (fraction && wide) || (unsigned && negative) {
        return json(name, values);
    }
    let array = if wants_double {
        primitive::<Float64Type>(values, &classes, |number| match number {
            Number::Fraction(value) => value,
            Number::Integer(value) => value as f64,
            _ => 0.0,
        })
    } else if wants_unsigned {
        primitive::<UInt64Type>(values, &classes, |number| match number {
            Number::Unsigned(value) => value,
            Number::Integer(value) => value.unsigned_abs(),
            _ => 0,
        })
    } else {
        primitive::<Int64Type>(values, &classes, |number| match number {
            Number::Integer(value) => value,
            _ => 0,
        })
    };
    column(name, array)
}

/// Filled without a builder: a small body is all overhead.
fn primitive<T: ArrowPrimitiveType>(
    values: &[Option<&Node<'_>>],
    classes: &[Option<Number>],
    value_of: impl Fn(Number) -> T::Native,
) -> ArrayRef {
    let numbers: Vec<T::Native> = classes.iter().map(|class| class.map(&value_of).unwrap_or_default()).collect();
    Arc::new(PrimitiveArray::<T>::new(numbers.into(), nulls(values)))
}

fn texts(name: &str, values: &[Option<&Node<'_>>]) -> Option<Column> {
    let text_of = |value: &Option<&Node<'_>>| text(*value).unwrap_or_default().len();
    let offsets = OffsetBuffer::<i32>::from_lengths(values.iter().map(text_of));
    let mut bytes = Vec::with_capacity(values.iter().map(text_of).sum());
    for value in values {
        bytes.extend_from_slice(text(*value).unwrap_or_default().as_bytes());
    }
    let array = StringArray::try_new(offsets, Buffer::from_vec(bytes), nulls(values)).ok()?;
    Some(column(name, Arc::new(array)))
}

fn nulls(values: &[Option<&Node<'_>>]) -> Option<NullBuffer> {
    let present = |value: &Option<&Node<'_>>| !matches!(value, None | Some(Node::Null));
    if values.iter().all(present) { None } else { Some(values.iter().map(present).collect::<Vec<bool>>().into()) }
}

fn structure(name: &str, values: &[Option<&Node<'_>>], previous: Option<&Field>) -> Option<Column> {
    let objects = values.iter().map(|value| match value {
        Some(Node::Object(members)) => Some(members.as_slice()),
        _ => None,
    });
    let Some(gathered) = gather(objects, MEMBERS_MAX, |_, _, _| ()) else { return Some(json(name, values)) };
    let known = match previous.map(Field::data_type) {
        Some(DataType::Struct(fields)) => Some(fields),
        _ => None,
    };
    let columns: Vec<Column> =
        gathered.iter().filter_map(|member| build(member.name, &member.values, field_of(known, member.name))).collect();
    if columns.is_empty() {
        return None;
    }
    let (fields, arrays): (Vec<FieldRef>, Vec<ArrayRef>) = columns.into_iter().unzip();
    let array = StructArray::try_new(Fields::from(fields), arrays, nulls(values)).ok()?;
    Some(column(name, Arc::new(array)))
}

fn list(name: &str, values: &[Option<&Node<'_>>], previous: Option<&Field>) -> Option<Column> {
    let mut items: Vec<Option<&Node<'_>>> = Vec::new();
    let lengths = values.iter().map(|value| match value {
        Some(Node::List(elements)) => elements.len(),
        _ => 0,
    });
    let offsets = OffsetBuffer::<i32>::from_lengths(lengths);
    for value in values {
        if let Some(Node::List(elements)) = value {
            items.extend(elements.iter().map(Some));
        }
    }
    let known = match previous.map(Field::data_type) {
        Some(DataType::List(item)) => Some(item.as_ref()),
        _ => None,
    };
    let (field, array) = build("item", &items, known)?;
    let array = ListArray::try_new(field, offsets, array, nulls(values)).ok()?;
    Some(column(name, Arc::new(array)))
}

/// The field of that name.
pub(super) fn field_of<'f>(fields: Option<&'f Fields>, name: &str) -> Option<&'f Field> {
    fields?.iter().find(|field| field.name() == name).map(AsRef::as_ref)
}

/// Turns objects into columns of values. `None` if they have more than `names_max` names together, or so many rows and
/// names that the table would be mostly holes. `duplicate` is told of each member (row, name, value) that a later one of the same name replaces.
pub(super) fn gather<'n, 'a: 'n>(
    objects: impl ExactSizeIterator<Item = Option<&'n [Member<'a>]>>,
    names_max: usize,
    mut duplicate: impl FnMut(usize, &str, &Node<'a>),
) -> Option<Vec<Gathered<'n, 'a>>> {
    let count = objects.len();
    let names_max = names_max.min((CELLS_MAX / count.max(1)).max(16));
    let mut columns: Vec<Gathered<'n, 'a>> = Vec::new();
    // Rows mostly have the same members in the same order: look where the last row had this one, then search; by hash
    // once there are many.
    let mut index_by_name: HashMap<&'n str, usize> = HashMap::new();
    for (row, object) in objects.enumerate() {
        let Some(members) = object else { continue };
        if columns.is_empty() {
            columns.reserve(members.len().min(names_max));
        }
        for (position, (name, value)) in members.iter().enumerate() {
            let name: &'n str = name.as_ref();
            let known = match columns.get(position) {
                Some(column) if column.name == name => Some(position),
                _ if columns.len() <= SEARCHED_COLUMNS => columns.iter().position(|column| column.name == name),
                _ => index_by_name.get(name).copied(),
            };
            let index = match known {
                Some(index) => index,
                None if columns.len() >= names_max => return None,
                None => {
                    columns.push(Gathered { name, values: Values::empty(count) });
                    match columns.len() {
                        length if length == SEARCHED_COLUMNS + 1 => {
                            index_by_name
                                .extend(columns.iter().enumerate().map(|(index, column)| (column.name, index)));
                        }
                        length if length > SEARCHED_COLUMNS => drop(index_by_name.insert(name, length - 1)),
                        _ => {}
                    }
                    columns.len() - 1
                }
            };
            let slot = &mut columns[index].values.as_mut()[row];
            if let Some(earlier) = slot.replace(value) {
                duplicate(row, name, earlier);
            }
        }
    }
    Some(columns)
}
