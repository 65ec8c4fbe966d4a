//! Least and greatest values of columns, as DuckLake keeps them for files and tables.
//!
//! Promise: what is stored is right or absent. DuckDB leaves files out by these values, so a doubtful bound (a long
//! text, a NaN, a type whose order readers may see differently) is not stored.

use arrow::array::{Array, AsArray};
use arrow::compute::kernels::aggregate;
use arrow::datatypes as ty;

use crate::text::calendar::{self, Unit};
use crate::text::{read, write};
use crate::types::{Column, Kind};

/// The longest text kept as a bound, in bytes.
const TEXT_BOUND_BYTES: usize = 128;

/// One end of a range of values, comparable within one column.
#[derive(Clone, Debug, PartialEq, PartialOrd)]
pub(crate) enum Bound {
    Integer(i128),
    Float(f64),
    Text(String),
}

/// What is known of a column's values.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Statistics {
    /// Values, nulls included.
    pub(crate) values: u64,
    /// Nulls among them.
    pub(crate) nulls: u64,
    /// Whether a NaN is among them.
    pub(crate) nan: bool,
    /// Least and greatest; `None` if there is no value yet or nothing certain can be said.
    pub(crate) range: Option<(Bound, Bound)>,
    /// A value was seen that has no certain bound: there will be no range any more.
    pub(crate) unbounded: bool,
}

impl Statistics {
    /// Takes in the values of an array of the column's type.
    pub(crate) fn update(&mut self, array: &dyn Array, kind: &Kind) {
        self.values += array.len() as u64;
        self.nulls += array.null_count() as u64;
        if array.null_count() == array.len() {
            return;
        }
        match range(array, kind, &mut self.nan) {
            Some((min, max)) => self.widen(min, max),
            None => self.unbounded = true,
        }
        if self.nan || self.unbounded {
            self.unbounded = true;
            self.range = None;
        }
    }

    /// Takes in what is known of other values of the same column.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.values += other.values;
        self.nulls += other.nulls;
        self.nan |= other.nan;
        self.unbounded |= other.unbounded;
        match (&other.range, self.unbounded) {
            (_, true) => self.range = None,
            (Some((min, max)), false) => self.widen(min.clone(), max.clone()),
            (None, false) => {}
        }
    }

    fn widen(&mut self, min: Bound, max: Bound) {
        if self.unbounded {
            return;
        }
        self.range = Some(match self.range.take() {
            None => (min, max),
            Some((least, greatest)) => {
                (if min < least { min } else { least }, if max > greatest { max } else { greatest })
            }
        });
    }

    /// The text of least and greatest value.
    pub(crate) fn texts(&self, kind: &Kind) -> (Option<String>, Option<String>) {
        let text = |bound: &Bound| bound_text(bound, kind);
        match &self.range {
            Some((min, max)) => match (text(min), text(max)) {
                (Some(min), Some(max)) => (Some(min), Some(max)),
                _ => (None, None),
            },
            None => (None, None),
        }
    }

    /// `contains_nan`: known for floats only.
    pub(crate) fn nan_flag(&self, kind: &Kind) -> Option<bool> {
        matches!(kind, Kind::Float32 | Kind::Float64).then_some(self.nan)
    }
}

fn range(array: &dyn Array, kind: &Kind, nan: &mut bool) -> Option<(Bound, Bound)> {
    macro_rules! integers {
        ($type:ty) => {{
            let values = array.as_primitive::<$type>();
            let integer = |value| Bound::Integer(i128::from(value));
            Some((integer(aggregate::min(values)?), integer(aggregate::max(values)?)))
        }};
    }
    macro_rules! floats {
        ($type:ty) => {{
            let values = array.as_primitive::<$type>();
            // The kernels order NaN above everything, or below with its sign set.
            let (min, max) = (f64::from(aggregate::min(values)?), f64::from(aggregate::max(values)?));
            *nan |= min.is_nan() || max.is_nan();
            Some((Bound::Float(min), Bound::Float(max)))
        }};
    }
    match kind {
        Kind::Boolean => {
            let values = array.as_boolean();
            let integer = |value: bool| Bound::Integer(i128::from(value));
            Some((integer(aggregate::min_boolean(values)?), integer(aggregate::max_boolean(values)?)))
        }
        Kind::Int8 => integers!(ty::Int8Type),
        Kind::Int16 => integers!(ty::Int16Type),
        Kind::Int32 => integers!(ty::Int32Type),
        Kind::Int64 => integers!(ty::Int64Type),
        Kind::UInt8 => integers!(ty::UInt8Type),
        Kind::UInt16 => integers!(ty::UInt16Type),
        Kind::UInt32 => integers!(ty::UInt32Type),
        Kind::UInt64 => integers!(ty::UInt64Type),
        Kind::Decimal(..) => integers!(ty::Decimal128Type),
        Kind::Date => integers!(ty::Date32Type),
        Kind::Time => integers!(ty::Time64MicrosecondType),
        Kind::TimestampMs => integers!(ty::TimestampMillisecondType),
        Kind::Timestamp | Kind::TimestampTz => integers!(ty::TimestampMicrosecondType),
        Kind::TimestampNs => integers!(ty::TimestampNanosecondType),
        // DuckDB compares their bounds with a 64-bit float of the shortest digits (3.4028235e+38 is above the greatest
        // 32-bit one), and leaves out files that hold the value: no bound is certain.
        Kind::Float32 => floats!(ty::Float32Type).and(None),
        Kind::Float64 => floats!(ty::Float64Type),
        Kind::Varchar => {
            let values = array.as_string::<i32>();
            let (min, max) = (aggregate::min_string(values)?, aggregate::max_string(values)?);
            let certain = |text: &str| text.len() <= TEXT_BOUND_BYTES && !text.contains('\0');
            (certain(min) && certain(max)).then(|| (Bound::Text(min.to_owned()), Bound::Text(max.to_owned())))
        }
        Kind::Json | Kind::Blob | Kind::Uuid | Kind::List(_) | Kind::Struct(_) | Kind::Map(..) => None,
    }
}

fn bound_text(bound: &Bound, kind: &Kind) -> Option<String> {
    let mut out = String::new();
    match (bound, kind) {
        (Bound::Text(text), _) => return Some(text.clone()),
        (Bound::Float(value), _) => {
            let array = arrow::array::Float64Array::from(vec![*value]);
            write::value(&array, 0, &Kind::Float64, &mut out).then_some(())?;
        }
        (Bound::Integer(value), Kind::Boolean) => out.push_str(if *value == 0 { "false" } else { "true" }),
        (Bound::Integer(value), Kind::Decimal(_, scale)) => write::decimal(*value, *scale, &mut out),
        (Bound::Integer(value), Kind::Date) => {
            calendar::write_date(i32::try_from(*value).ok()?, &mut out).then_some(())?;
        }
        (Bound::Integer(value), Kind::Time) => {
            calendar::write_time(i64::try_from(*value).ok()?, &mut out).then_some(())?;
        }
        (Bound::Integer(value), Kind::TimestampMs | Kind::Timestamp | Kind::TimestampTz | Kind::TimestampNs) => {
            let (unit, zoned) = timestamp_unit(kind)?;
            calendar::write_timestamp(i64::try_from(*value).ok()?, unit, zoned, &mut out).then_some(())?;
        }
        (Bound::Integer(value), _) => out = value.to_string(),
    }
    Some(out)
}

fn timestamp_unit(kind: &Kind) -> Option<(Unit, bool)> {
    match kind {
        Kind::TimestampMs => Some((Unit::Milli, false)),
        Kind::Timestamp => Some((Unit::Micro, false)),
        Kind::TimestampTz => Some((Unit::Micro, true)),
        Kind::TimestampNs => Some((Unit::Nano, false)),
        _ => None,
    }
}

/// Reads a stored bound; `None` if it cannot be relied on.
pub(crate) fn read_bound(text: &str, kind: &Kind) -> Option<Bound> {
    let integer = |value: Option<i64>| value.map(|value| Bound::Integer(i128::from(value)));
    match kind {
        Kind::Boolean => match text {
            "false" | "0" => Some(Bound::Integer(0)),
            "true" | "1" => Some(Bound::Integer(1)),
            _ => None,
        },
        Kind::Float32 | Kind::Float64 => text.parse::<f64>().ok().filter(|value| !value.is_nan()).map(Bound::Float),
        Kind::Decimal(_, scale) => read::decimal(text, *scale).map(Bound::Integer),
        Kind::Date => integer(calendar::read_date(text).map(i64::from)),
        Kind::Time => integer(calendar::read_time(text)),
        Kind::TimestampMs | Kind::Timestamp | Kind::TimestampTz | Kind::TimestampNs => {
            integer(calendar::read_timestamp(text, timestamp_unit(kind)?.0))
        }
        Kind::Varchar => Some(Bound::Text(text.to_owned())),
        Kind::Json | Kind::Blob | Kind::Uuid | Kind::List(_) | Kind::Struct(_) | Kind::Map(..) => None,
        _ => text.parse().ok().map(Bound::Integer),
    }
}

/// The leaf columns under `column` for which DuckLake keeps statistics: itself, or the leaves of a nested one.
pub(crate) fn leaves(column: &Column) -> Vec<&Column> {
    if column.kind.is_nested() { column.kind.children().into_iter().flat_map(leaves).collect() } else { vec![column] }
}
