//! Arrays to the one Arrow type that carries a stored type ([`plain`]), and values of one stored type to another
//! ([`exact`]).
//!
//! Promise: a value that comes out is the value that went in; one that the new type does not hold exactly is handed back
//! instead. Arrow's own cast rounds, cuts and wraps, so that each had to be proven by a cast back, and it brings the
//! conversions of every type to every other along: a seventh of the lean collector
//! (`docs/decisions/0009-conversions.md`).

mod value;

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryArray, Decimal128Array, Int32Array, ListArray, MapArray,
    PrimitiveArray, StringArray, StructArray, UInt32Array, new_null_array,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::compute::take;
use arrow::datatypes::{self as ty, DataType, FieldRef, Fields, TimeUnit};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

pub use self::value::{Split, exact, whole};
use crate::types::{Column, Kind, part_names};

type Converted = Result<ArrayRef, ArrowError>;

/// `array`, of any of the Arrow types that are stored as `kind`, as the one that carries it. Nulls without a type are
/// nulls of any.
///
/// # Errors
/// It is of another kind, or a value is out of range.
pub fn plain(array: &ArrayRef, kind: &Kind) -> Converted {
    let target = kind.arrow();
    if *array.data_type() == target {
        return Ok(Arc::clone(array));
    }
    match (array.data_type(), kind) {
        (DataType::Null, _) => Ok(new_null_array(&target, array.len())),
        (DataType::Dictionary(..), _) => {
            let dictionary = array.as_any_dictionary();
            take(&plain(dictionary.values(), kind)?, dictionary.keys(), None)
        }
        (DataType::RunEndEncoded(..), _) => runs(array, kind),
        (_, Kind::List(element)) => list(array, element, &target),
        (DataType::Struct(fields), Kind::Struct(parts)) => structure(array, fields, parts, &target),
        (DataType::Map(..), Kind::Map(key, value)) => map(array, key, value, &target),
        // An object without members has no column: it is kept as the JSON text it was.
        (DataType::Struct(fields), Kind::Json) if fields.is_empty() => {
            let texts = (0..array.len()).map(|row| array.is_valid(row).then_some("{}"));
            Ok(Arc::new(texts.collect::<StringArray>()))
        }
        (_, Kind::Varchar | Kind::Json) => text(array),
        (_, Kind::Blob) => bytes(array),
        (_, Kind::Decimal(precision, scale)) => decimal(array, *precision, *scale),
        (_, Kind::Time | Kind::TimestampMs | Kind::Timestamp | Kind::TimestampNs | Kind::TimestampTz) => {
            time(array, kind)
        }
        (DataType::Float16, Kind::Float32) => {
            numbers::<ty::Float16Type, ty::Float32Type>(array, |value| Some(value.to_f32()))
        }
        (DataType::Duration(_), Kind::Int64) => ticks(array).map(|ticks| Arc::new(ticks) as ArrayRef),
        _ => Err(refused(array, &target)),
    }
}

fn refused(array: &ArrayRef, target: &DataType) -> ArrowError {
    ArrowError::CastError(format!("{} is not stored as {target}", array.data_type()))
}

fn too_large(row: usize) -> ArrowError {
    ArrowError::CastError(format!("the value of row {row} is out of range"))
}

/// Each number as another one.
fn numbers<F: ArrowPrimitiveType, T: ArrowPrimitiveType>(
    array: &ArrayRef,
    convert: impl Fn(F::Native) -> Option<T::Native>,
) -> Converted {
    Ok(Arc::new(converted::<F, T>(array.as_primitive::<F>(), convert)?))
}

fn converted<F: ArrowPrimitiveType, T: ArrowPrimitiveType>(
    from: &PrimitiveArray<F>,
    convert: impl Fn(F::Native) -> Option<T::Native>,
) -> Result<PrimitiveArray<T>, ArrowError> {
    let value = |row: usize| {
        if from.is_null(row) {
            return Ok(T::Native::default());
        }
        convert(from.value(row)).ok_or_else(|| too_large(row))
    };
    let values = (0..from.len()).map(value).collect::<Result<Vec<_>, _>>()?;
    PrimitiveArray::try_new(values.into(), from.nulls().cloned())
}

fn text(array: &ArrayRef) -> Converted {
    let texts: StringArray = match array.data_type() {
        DataType::LargeUtf8 => array.as_string::<i64>().iter().collect(),
        DataType::Utf8View => array.as_string_view().iter().collect(),
        // Where a writer of files does not say that its bytes are text.
        DataType::Binary => array.as_binary::<i32>().iter().map(utf8).collect::<Result<_, _>>()?,
        // Types that have no lossless place but text.
        DataType::Decimal256(..) | DataType::Decimal128(..) | DataType::Time64(TimeUnit::Nanosecond) => {
            let options = FormatOptions::default();
            let formatter = ArrayFormatter::try_new(array, &options)?;
            let show = |row: usize| {
                let value = array.is_valid(row).then(|| formatter.value(row).try_to_string());
                value.transpose()
            };
            (0..array.len()).map(show).collect::<Result<_, _>>()?
        }
        _ => return Err(refused(array, &DataType::Utf8)),
    };
    Ok(Arc::new(texts))
}

fn utf8(bytes: Option<&[u8]>) -> Result<Option<&str>, ArrowError> {
    let text = bytes.map(std::str::from_utf8).transpose();
    text.map_err(|error| ArrowError::CastError(format!("not UTF-8: {error}")))
}

fn bytes(array: &ArrayRef) -> Converted {
    let bytes: BinaryArray = match array.data_type() {
        DataType::LargeBinary => array.as_binary::<i64>().iter().collect(),
        DataType::BinaryView => array.as_binary_view().iter().collect(),
        DataType::FixedSizeBinary(_) => array.as_fixed_size_binary().iter().collect(),
        _ => return Err(refused(array, &DataType::Binary)),
    };
    Ok(Arc::new(bytes))
}

fn decimal(array: &ArrayRef, precision: u8, scale: u8) -> Converted {
    let (values, was): (PrimitiveArray<ty::Decimal128Type>, i8) = match array.data_type() {
        DataType::Decimal32(_, was) => {
            (converted(array.as_primitive::<ty::Decimal32Type>(), |v| Some(i128::from(v)))?, *was)
        }
        DataType::Decimal64(_, was) => {
            (converted(array.as_primitive::<ty::Decimal64Type>(), |v| Some(i128::from(v)))?, *was)
        }
        DataType::Decimal128(_, was) => (array.as_primitive::<ty::Decimal128Type>().clone(), *was),
        DataType::Decimal256(_, was) => (converted(array.as_primitive::<ty::Decimal256Type>(), |v| v.to_i128())?, *was),
        _ => return Err(refused(array, &DataType::Decimal128(precision, scale as i8))),
    };
    // A negative scale stands for zeros before the point.
    let power = u32::try_from(i16::from(scale) - i16::from(was)).ok().and_then(|digits| 10i128.checked_pow(digits));
    let power = power.ok_or_else(|| refused(array, &DataType::Decimal128(precision, scale as i8)))?;
    let values: Decimal128Array = converted::<ty::Decimal128Type, _>(&values, |value| value.checked_mul(power))?;
    let values = values.with_precision_and_scale(precision, scale as i8)?;
    values.validate_decimal_precision(precision)?;
    Ok(Arc::new(values))
}

/// What an array of instants, times or durations counts, without its unit.
fn ticks(array: &ArrayRef) -> Result<PrimitiveArray<ty::Int64Type>, ArrowError> {
    macro_rules! raw {
        ($type:ty) => {
            Ok(array.as_primitive::<$type>().reinterpret_cast())
        };
    }
    match array.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => raw!(ty::TimestampSecondType),
        DataType::Timestamp(TimeUnit::Millisecond, _) => raw!(ty::TimestampMillisecondType),
        DataType::Timestamp(TimeUnit::Microsecond, _) => raw!(ty::TimestampMicrosecondType),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => raw!(ty::TimestampNanosecondType),
        DataType::Duration(TimeUnit::Second) => raw!(ty::DurationSecondType),
        DataType::Duration(TimeUnit::Millisecond) => raw!(ty::DurationMillisecondType),
        DataType::Duration(TimeUnit::Microsecond) => raw!(ty::DurationMicrosecondType),
        DataType::Duration(TimeUnit::Nanosecond) => raw!(ty::DurationNanosecondType),
        DataType::Time64(TimeUnit::Microsecond) => raw!(ty::Time64MicrosecondType),
        DataType::Date64 => raw!(ty::Date64Type),
        DataType::Time32(TimeUnit::Second) => {
            converted(array.as_primitive::<ty::Time32SecondType>(), |v| Some(v.into()))
        }
        DataType::Time32(TimeUnit::Millisecond) => {
            converted(array.as_primitive::<ty::Time32MillisecondType>(), |v| Some(v.into()))
        }
        _ => Err(refused(array, &DataType::Int64)),
    }
}

fn time(array: &ArrayRef, kind: &Kind) -> Converted {
    let unit = match array.data_type() {
        DataType::Timestamp(unit, _) if *kind != Kind::Time => unit,
        DataType::Date64 if *kind == Kind::TimestampMs => &TimeUnit::Millisecond,
        DataType::Time32(unit) if *kind == Kind::Time => unit,
        _ => return Err(refused(array, &kind.arrow())),
    };
    let (from, to) = (value::nanoseconds(unit), value::unit(kind));
    let scaled = converted::<_, ty::Int64Type>(&ticks(array)?, |ticks| value::rescaled(ticks, from, to))?;
    Ok(value::instants(scaled, kind))
}

fn runs(array: &ArrayRef, kind: &Kind) -> Converted {
    macro_rules! runs {
        ($type:ty) => {{
            let runs = array.as_any().downcast_ref::<arrow::array::RunArray<$type>>();
            let runs = runs.ok_or_else(|| refused(array, &kind.arrow()))?;
            let places = (0..runs.len()).map(|row| runs.get_physical_index(row) as u32);
            (UInt32Array::from_iter_values(places), Arc::clone(runs.values()))
        }};
    }
    let DataType::RunEndEncoded(ends, _) = array.data_type() else { return Err(refused(array, &kind.arrow())) };
    let (places, values) = match ends.data_type() {
        DataType::Int16 => runs!(ty::Int16Type),
        DataType::Int32 => runs!(ty::Int32Type),
        _ => runs!(ty::Int64Type),
    };
    take(&plain(&values, kind)?, &places, None)
}

fn list(array: &ArrayRef, element: &Column, target: &DataType) -> Converted {
    let DataType::List(field) = target else { return Err(refused(array, target)) };
    let (starts_and_values, nulls) = match array.data_type() {
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            ((list.offsets().clone(), Arc::clone(list.values())), list.nulls())
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            let offsets = list.offsets().iter().map(|offset| i32::try_from(*offset)).collect::<Result<Vec<_>, _>>();
            let offsets = offsets.map_err(|_| ArrowError::CastError("more than 2^31 elements".into()))?;
            ((OffsetBuffer::new(ScalarBuffer::from(offsets)), Arc::clone(list.values())), list.nulls())
        }
        DataType::FixedSizeList(..) => {
            let list = array.as_fixed_size_list();
            let lengths = std::iter::repeat_n(list.value_length().unsigned_abs() as usize, list.len());
            ((OffsetBuffer::from_lengths(lengths), Arc::clone(list.values())), list.nulls())
        }
        DataType::ListView(_) => {
            let list = array.as_list_view::<i32>();
            let range = |row: usize| (list.offsets()[row] as i64, list.sizes()[row] as i64);
            (viewed(list.len(), range, list.values())?, list.nulls())
        }
        DataType::LargeListView(_) => {
            let list = array.as_list_view::<i64>();
            let range = |row: usize| (list.offsets()[row], list.sizes()[row]);
            (viewed(list.len(), range, list.values())?, list.nulls())
        }
        _ => return Err(refused(array, target)),
    };
    let (offsets, values) = starts_and_values;
    let values = plain(&values, &element.kind)?;
    Ok(Arc::new(ListArray::try_new(Arc::clone(field), offsets, values, nulls.cloned())?))
}

/// The elements of views, one list after another.
fn viewed(
    count: usize,
    range: impl Fn(usize) -> (i64, i64),
    values: &ArrayRef,
) -> Result<(OffsetBuffer<i32>, ArrayRef), ArrowError> {
    let places = (0..count).flat_map(|row| {
        let (start, length) = range(row);
        start..start + length
    });
    let places = places.map(i32::try_from).collect::<Result<Vec<i32>, _>>();
    let places = places.map_err(|_| ArrowError::CastError("more than 2^31 elements".into()))?;
    let offsets = OffsetBuffer::from_lengths((0..count).map(|row| range(row).1.unsigned_abs() as usize));
    Ok((offsets, take(values, &Int32Array::from(places), None)?))
}

/// Parts go by name, or by place where a part is stored under another name than its own.
fn structure(array: &ArrayRef, fields: &Fields, parts: &[Column], target: &DataType) -> Converted {
    let DataType::Struct(target_fields) = target else { return Err(refused(array, target)) };
    let structure = array.as_struct();
    let names = part_names(fields);
    let is_by_place = fields.iter().zip(&names).any(|(field, name)| field.name() != name);
    let place_of = |place: usize, part: &Column| {
        if is_by_place {
            (place < fields.len()).then_some(place)
        } else {
            names.iter().position(|name| *name == part.name)
        }
    };
    let arrays = parts.iter().enumerate().map(|(place, part)| match place_of(place, part) {
        Some(place) => plain(structure.column(place), &part.kind),
        None => Err(refused(array, target)),
    });
    let arrays = arrays.collect::<Result<Vec<_>, _>>()?;
    Ok(Arc::new(StructArray::try_new(target_fields.clone(), arrays, structure.nulls().cloned())?))
}

fn map(array: &ArrayRef, key: &Column, value: &Column, target: &DataType) -> Converted {
    let DataType::Map(field, sorted) = target else { return Err(refused(array, target)) };
    let map = array.as_map();
    let parts = vec![plain(map.keys(), &key.kind)?, plain(map.values(), &value.kind)?];
    let entries = StructArray::try_new(entry_fields(field)?, parts, None)?;
    let map = MapArray::try_new(Arc::clone(field), map.offsets().clone(), entries, map.nulls().cloned(), *sorted)?;
    Ok(Arc::new(map))
}

fn entry_fields(field: &FieldRef) -> Result<Fields, ArrowError> {
    match field.data_type() {
        DataType::Struct(fields) => Ok(fields.clone()),
        other => Err(ArrowError::CastError(format!("a map of {other}"))),
    }
}

#[cfg(test)]
mod tests;
