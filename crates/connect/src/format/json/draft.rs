//! Columns whose types and values are known and whose Arrow arrays are still to be made.
//!
//! Of a small body nearly all of the work is memory: an array with memory of its own costs two allocations and more time
//! than its values. So the values of a batch's columns are gathered in one piece of memory first, as far as they fit, and
//! the arrays share it; larger ones have their own. Promise: the values are the same either way.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, ArrowPrimitiveType, BooleanArray, ListArray, PrimitiveArray, StringArray, StructArray};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{ArrowNativeType, DataType, Field, FieldRef, Fields, ToByteSlice};
use arrow::error::ArrowError;

use super::known::{Known, same_fields};

/// What the columns of one batch share at most. An array counts all memory it shares as its own
/// (`get_array_memory_size`): this bounds how far that is off.
const SHARED_BYTES: usize = 1_024;

/// Where Arrow's values may begin: none here is larger.
const ALIGNMENT: usize = 8;

/// A column and its field.
pub(super) type Column = (FieldRef, ArrayRef);

/// The memory that the columns of a batch share, while it is filled.
pub(super) struct Shared {
    bytes: [u8; SHARED_BYTES],
    length: usize,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self { bytes: [0; SHARED_BYTES], length: 0 }
    }

    /// Ends the filling.
    pub(super) fn finish(&self) -> Buffer {
        Buffer::from(&self.bytes[..self.length])
    }

    /// Keeps values.
    pub(super) fn values<T: ArrowNativeType>(&mut self, values: impl ExactSizeIterator<Item = T>) -> Part {
        const { assert!(align_of::<T>() <= ALIGNMENT) }
        let Some(room) = self.room(values.len() * size_of::<T>()) else {
            return Part::Own(Buffer::from_vec(values.collect::<Vec<T>>()));
        };
        for (slot, value) in self.bytes[room.clone()].chunks_exact_mut(size_of::<T>()).zip(values) {
            slot.copy_from_slice(value.to_byte_slice());
        }
        Part::Shared(room)
    }

    /// Keeps texts, one after another.
    pub(super) fn texts<'t>(&mut self, texts: impl Iterator<Item = &'t str>, bytes: usize) -> Part {
        let Some(room) = self.room(bytes) else {
            let mut own = Vec::with_capacity(bytes);
            texts.for_each(|text| own.extend_from_slice(text.as_bytes()));
            return Part::Own(Buffer::from_vec(own));
        };
        let mut rest = &mut self.bytes[room.clone()];
        for text in texts {
            let (slot, after) = rest.split_at_mut(text.len());
            slot.copy_from_slice(text.as_bytes());
            rest = after;
        }
        Part::Shared(room)
    }

    /// Keeps where each of some stretches begins and the last one ends. Returns how long they are together, too.
    pub(super) fn offsets(&mut self, count: usize, length_of: impl Fn(usize) -> usize) -> (Part, usize) {
        let mut end = 0;
        let part = self.values((0..count + 1).map(|index| {
            let offset = end;
            if index < count {
                end += length_of(index);
            }
            // Arrow counts in 32 bits. A body is shorter; where a JSONPath repeats its rows beyond that, Arrow refuses
            // offsets that do not rise.
            offset as i32
        }));
        (part, end)
    }

    fn room(&mut self, bytes: usize) -> Option<Range<usize>> {
        let start = self.length.next_multiple_of(ALIGNMENT);
        let end = start.checked_add(bytes).filter(|end| *end <= SHARED_BYTES)?;
        self.length = end;
        Some(start..end)
    }
}

/// The memory of one array.
pub(super) enum Part {
    Shared(Range<usize>),
    Own(Buffer),
}

impl Part {
    fn take(self, shared: &Buffer) -> Buffer {
        match self {
            Self::Shared(range) => shared.slice_with_length(range.start, range.len()),
            Self::Own(buffer) => buffer,
        }
    }
}

/// A column to be.
pub(super) struct Draft<'d> {
    pub(super) name: &'d str,
    pub(super) known: Known<'d>,
    pub(super) nulls: Option<NullBuffer>,
    pub(super) values: Values<'d>,
}

/// Its values.
pub(super) enum Values<'d> {
    /// Made already.
    Column(Column),
    Booleans(BooleanArray),
    Numbers(Part, fn(Buffer, Option<NullBuffer>) -> ArrayRef),
    Texts {
        offsets: Part,
        text: Part,
    },
    Members(Vec<Draft<'d>>),
    Items {
        offsets: Part,
        item: Box<Draft<'d>>,
    },
}

/// An array of numbers in `buffer`.
pub(super) fn numbers<T: ArrowPrimitiveType>(buffer: Buffer, nulls: Option<NullBuffer>) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::new(buffer.into(), nulls))
}

impl Draft<'_> {
    /// Makes the array.
    pub(super) fn finish(self, shared: &Buffer) -> Result<Column, ArrowError> {
        let Self { name, known, nulls, values } = self;
        let offsets = |part: Part| OffsetBuffer::new(ScalarBuffer::<i32>::from(part.take(shared)));
        let array: ArrayRef = match values {
            Values::Column(column) => return Ok(column),
            Values::Booleans(array) => Arc::new(array),
            Values::Numbers(part, array_of) => array_of(part.take(shared), nulls),
            Values::Texts { offsets: ends, text } => {
                Arc::new(StringArray::try_new(offsets(ends), text.take(shared), nulls)?)
            }
            Values::Members(members) => {
                let (fields, arrays) = finish_all(members, shared)?;
                let fields = same_fields(known.members(), &fields).cloned().unwrap_or_else(|| Fields::from(fields));
                Arc::new(StructArray::try_new(fields, arrays, nulls)?)
            }
            Values::Items { offsets: ends, item } => {
                let (field, array) = item.finish(shared)?;
                Arc::new(ListArray::try_new(field, offsets(ends), array, nulls)?)
            }
        };
        Ok((field(name, array.data_type(), known), array))
    }
}

/// Makes the arrays of all columns.
pub(super) fn finish_all(
    drafts: Vec<Draft<'_>>,
    shared: &Buffer,
) -> Result<(Vec<FieldRef>, Vec<ArrayRef>), ArrowError> {
    let (mut fields, mut arrays) = (Vec::with_capacity(drafts.len()), Vec::with_capacity(drafts.len()));
    for draft in drafts {
        let (field, array) = draft.finish(shared)?;
        fields.push(field);
        arrays.push(array);
    }
    Ok((fields, arrays))
}

fn field(name: &str, data_type: &DataType, known: Known<'_>) -> FieldRef {
    let equal = known.equal(name, data_type).cloned();
    equal.unwrap_or_else(|| Arc::new(Field::new(name, data_type.clone(), true)))
}
