//! Values of one name in many rows to one Arrow column.
//!
//! The type follows from the values: all boolean, all whole numbers, numbers that doubles hold, all text, all objects,
//! all arrays. Whatever mixes these, or holds a number that no 64-bit type holds, becomes JSON text (extension type
//! `arrow.json`). Promise: no value is lost or rounded.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrowPrimitiveType, StringBuilder};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, UInt64Type};

use super::draft::{Column, Draft, Shared, Values};
use super::known::Known;
use super::node::{Member, Node};
use super::number::{DOUBLE_INTEGER_MAX, Number, classify};
use crate::format::column_type::{EXTENSION_TYPE_NAME_KEY, json_field};

/// An object with more members than this inside a column becomes JSON text: it is a map, not a record.
const MEMBERS_MAX: usize = 1_024;

/// Cells (rows × names) that one table of values may have.
const CELLS_MAX: usize = 8 << 20;

/// Up to this many columns a name is searched for one by one.
const SEARCHED_COLUMNS: usize = 16;

/// The values of one name, a row each.
pub(super) struct Gathered<'n, 'a> {
    /// The name.
    pub(super) name: &'n str,
    /// The value of each row.
    pub(super) values: PerRow<Option<&'n Node<'a>>>,
}

/// Something of each row; of a single row, the common small answer, without an allocation.
pub(super) enum PerRow<T> {
    One([T; 1]),
    Many(Vec<T>),
}

impl<T> PerRow<T> {
    fn new(count: usize, mut of_row: impl FnMut(usize) -> T) -> Self {
        if count == 1 { Self::One([of_row(0)]) } else { Self::Many((0..count).map(of_row).collect()) }
    }

    fn as_mut(&mut self) -> &mut [T] {
        match self {
            Self::One(value) => value,
            Self::Many(values) => values,
        }
    }
}

impl<T> std::ops::Deref for PerRow<T> {
    type Target = [T];

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

/// Drafts the column of `values`; `None` while nothing but null, `{}` and `[]` has been seen.
pub(super) fn draft<'d>(
    name: &'d str,
    values: &[Option<&'d Node<'_>>],
    known: Known<'d>,
    shared: &mut Shared,
) -> Option<Draft<'d>> {
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
    let as_json = || Some(Draft { name, known, nulls: None, values: Values::Column(json(name, values)) });
    if known.earlier().is_some_and(|field| field.metadata().contains_key(EXTENSION_TYPE_NAME_KEY)) {
        return as_json();
    }
    let values_of = match kinds {
        BOOL => Some(Values::Booleans(values.iter().map(|value| boolean(*value)).collect())),
        NUMBER => numbers(values, known, shared),
        TEXT => Some(texts(values, shared)),
        OBJECT => match members(values, known, shared) {
            Some(members) if members.is_empty() => return None,
            members => members.map(Values::Members),
        },
        LIST => Some(items(values, known, shared)?),
        _ => None,
    };
    let Some(values_of) = values_of else { return as_json() };
    let nulls = if kinds == BOOL { None } else { nulls(values) };
    Some(Draft { name, known, nulls, values: values_of })
}

fn boolean(value: Option<&Node<'_>>) -> Option<bool> {
    match value {
        Some(Node::Bool(value)) => Some(*value),
        _ => None,
    }
}

fn text<'n>(value: Option<&'n Node<'_>>) -> &'n str {
    match value {
        Some(Node::Text(text)) => text,
        _ => "",
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

/// `None` if no type holds them all.
fn numbers(values: &[Option<&Node<'_>>], known: Known<'_>, shared: &mut Shared) -> Option<Values<'static>> {
    let classes = PerRow::new(values.len(), |row| match values[row] {
        Some(Node::Number(text)) => Some(classify(text)),
        _ => None,
    });
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
    let was = known.earlier().map(Field::data_type);
    let wants_double = fraction || (was == Some(&DataType::Float64) && !wide);
    let wants_unsigned = unsigned || (was == Some(&DataType::UInt64) && !negative);
    if inexact || (fraction && wide) || (unsigned && negative) {
        return None;
    }
    Some(if wants_double {
        typed::<Float64Type>(&classes, shared, |number| match number {
            Number::Fraction(value) => value,
            Number::Integer(value) => value as f64,
            _ => 0.0,
        })
    } else if wants_unsigned {
        typed::<UInt64Type>(&classes, shared, |number| match number {
            Number::Unsigned(value) => value,
            Number::Integer(value) => value.unsigned_abs(),
            _ => 0,
        })
    } else {
        typed::<Int64Type>(&classes, shared, |number| match number {
            Number::Integer(value) => value,
            _ => 0,
        })
    })
}

fn typed<T: ArrowPrimitiveType>(
    classes: &[Option<Number>],
    shared: &mut Shared,
    value_of: impl Fn(Number) -> T::Native,
) -> Values<'static> {
    let numbers = classes.iter().map(|class| class.map(&value_of).unwrap_or_default());
    Values::Numbers(shared.values(numbers), super::draft::numbers::<T>)
}

fn texts(values: &[Option<&Node<'_>>], shared: &mut Shared) -> Values<'static> {
    let (offsets, bytes) = shared.offsets(values.len(), |row| text(values[row]).len());
    let text = shared.texts(values.iter().map(|value| text(*value)), bytes);
    Values::Texts { offsets, text }
}

fn nulls(values: &[Option<&Node<'_>>]) -> Option<NullBuffer> {
    let present = |value: &Option<&Node<'_>>| !matches!(value, None | Some(Node::Null));
    if values.iter().all(present) { None } else { Some(values.iter().map(present).collect::<Vec<bool>>().into()) }
}

/// `None` if there are too many for a record.
fn members<'d>(values: &[Option<&'d Node<'_>>], known: Known<'d>, shared: &mut Shared) -> Option<Vec<Draft<'d>>> {
    let objects = values.iter().map(|value| match value {
        Some(Node::Object(members)) => Some(members.as_slice()),
        _ => None,
    });
    let gathered = gather(objects, MEMBERS_MAX, |_, _, _| ())?;
    let mut drafts = Vec::with_capacity(gathered.len());
    for member in &gathered {
        let known = Known::among(known.members(), drafts.len(), member.name, known.is_of_body);
        drafts.extend(draft(member.name, &member.values, known, shared));
    }
    Some(drafts)
}

/// `None` if nothing is known of the items.
fn items<'d>(values: &[Option<&'d Node<'_>>], known: Known<'d>, shared: &mut Shared) -> Option<Values<'d>> {
    let elements_of = |value: &Option<&'d Node<'_>>| -> &'d [Node<'_>] {
        match value {
            Some(Node::List(elements)) => elements,
            _ => &[],
        }
    };
    let (offsets, count) = shared.offsets(values.len(), |row| elements_of(&values[row]).len());
    let mut items: Vec<Option<&Node<'_>>> = Vec::with_capacity(count);
    for value in values {
        items.extend(elements_of(value).iter().map(Some));
    }
    let item = draft("item", &items, known.item(), shared)?;
    Some(Values::Items { offsets, item: Box::new(item) })
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
                    columns.push(Gathered { name, values: PerRow::new(count, |_| None) });
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
