//! Values of one stored type as another, as far as they are exactly the same there.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, Decimal128Array, PrimitiveArray};
use arrow::compute::kernels::nullif;
use arrow::datatypes::{self as ty, TimeUnit};
use arrow::error::ArrowError;

use super::refused;
use crate::types::Kind;

/// Whole numbers up to this magnitude are exact as a 64-bit float.
const EXACT_FLOAT: f64 = 9_007_199_254_740_992.0;

/// Values taken apart by whether they fit a type.
#[derive(Debug)]
pub struct Split {
    /// Those that are exactly the same in the new type; null for the others.
    pub fitting: ArrayRef,
    /// The others as they were, null for those that fit; `None` if all do.
    pub rest: Option<ArrayRef>,
}

/// Values of the stored type `from`, in the Arrow type that carries it, as `to`: numbers among each other and instants
/// among each other. A float is no decimal, whatever its shortest digits look like, and beyond 2^53 no whole number.
///
/// # Errors
/// There is no such conversion.
pub fn exact(array: &ArrayRef, from: &Kind, to: &Kind) -> Result<Split, ArrowError> {
    if from.same_shape(to) || matches!((from, to), (Kind::Varchar | Kind::Json, Kind::Varchar | Kind::Json)) {
        // Parts of other columns have other field ids.
        return Ok(Split { fitting: super::plain(array, to)?, rest: None });
    }
    let none = || refused(array, &to.arrow());
    if is_instant(from) && is_instant(to) {
        let ticks = super::ticks(array)?;
        let (unit_from, unit_to) = (unit(from), unit(to));
        let scaled: PrimitiveArray<ty::Int64Type> =
            ticks.iter().map(|ticks| rescaled(ticks?, unit_from, unit_to)).collect();
        return split(array, instants(scaled, to));
    }
    let number = reader(array, from).ok_or_else(none)?;
    let number = |row: usize| array.is_valid(row).then(|| number(row));
    let fitting: ArrayRef = match to {
        Kind::Int8 => integers::<ty::Int8Type>(array.len(), number),
        Kind::Int16 => integers::<ty::Int16Type>(array.len(), number),
        Kind::Int32 => integers::<ty::Int32Type>(array.len(), number),
        Kind::Int64 => integers::<ty::Int64Type>(array.len(), number),
        Kind::UInt8 => integers::<ty::UInt8Type>(array.len(), number),
        Kind::UInt16 => integers::<ty::UInt16Type>(array.len(), number),
        Kind::UInt32 => integers::<ty::UInt32Type>(array.len(), number),
        Kind::UInt64 => integers::<ty::UInt64Type>(array.len(), number),
        Kind::Float32 => {
            let single = |row| number(row)?.to_single();
            Arc::new((0..array.len()).map(single).collect::<PrimitiveArray<ty::Float32Type>>())
        }
        Kind::Float64 => {
            let double = |row| number(row)?.to_double();
            Arc::new((0..array.len()).map(double).collect::<PrimitiveArray<ty::Float64Type>>())
        }
        Kind::Decimal(precision, scale) => {
            let decimal = |row| number(row)?.to_decimal(*precision, *scale);
            let decimals: Decimal128Array = (0..array.len()).map(decimal).collect();
            Arc::new(decimals.with_precision_and_scale(*precision, *scale as i8)?)
        }
        _ => return Err(none()),
    };
    split(array, fitting)
}

/// All values as another stored type.
///
/// # Errors
/// It does not hold one of them, or there is no such conversion.
pub fn whole(values: &ArrayRef, from: &Kind, to: &Kind) -> Result<ArrayRef, ArrowError> {
    let Split { fitting, rest } = exact(values, from, to)?;
    match rest {
        None => Ok(fitting),
        Some(rest) => {
            let count = rest.len() - rest.null_count();
            Err(ArrowError::CastError(format!("{count} values of type {from} are none of {to}")))
        }
    }
}

fn split(array: &ArrayRef, fitting: ArrayRef) -> Result<Split, ArrowError> {
    if fitting.null_count() == array.null_count() {
        return Ok(Split { fitting, rest: None });
    }
    let fits: BooleanArray = (0..array.len()).map(|row| Some(fitting.is_valid(row))).collect();
    let rest = nullif::nullif(array, &fits)?;
    Ok(Split { fitting, rest: Some(rest) })
}

fn integers<T: ArrowPrimitiveType>(rows: usize, number: impl Fn(usize) -> Option<Number>) -> ArrayRef
where
    T::Native: TryFrom<i128>,
{
    let value = |row| T::Native::try_from(number(row)?.to_whole()?).ok();
    Arc::new((0..rows).map(value).collect::<PrimitiveArray<T>>())
}

/// A number of any stored type.
#[derive(Clone, Copy, Debug)]
enum Number {
    /// A whole number divided by ten to a power.
    Decimal(i128, u8),
    Float(f64),
}

type Reader<'a> = Box<dyn Fn(usize) -> Number + 'a>;

fn reader<'a>(array: &'a ArrayRef, kind: &Kind) -> Option<Reader<'a>> {
    fn wholes<T: ArrowPrimitiveType>(array: &ArrayRef) -> Reader<'_>
    where
        i128: From<T::Native>,
    {
        let array = array.as_primitive::<T>();
        Box::new(move |row| Number::Decimal(array.value(row).into(), 0))
    }
    Some(match kind {
        Kind::Int8 => wholes::<ty::Int8Type>(array),
        Kind::Int16 => wholes::<ty::Int16Type>(array),
        Kind::Int32 => wholes::<ty::Int32Type>(array),
        Kind::Int64 => wholes::<ty::Int64Type>(array),
        Kind::UInt8 => wholes::<ty::UInt8Type>(array),
        Kind::UInt16 => wholes::<ty::UInt16Type>(array),
        Kind::UInt32 => wholes::<ty::UInt32Type>(array),
        Kind::UInt64 => wholes::<ty::UInt64Type>(array),
        Kind::Float32 => {
            let array = array.as_primitive::<ty::Float32Type>();
            Box::new(move |row| Number::Float(array.value(row).into()))
        }
        Kind::Float64 => {
            let array = array.as_primitive::<ty::Float64Type>();
            Box::new(move |row| Number::Float(array.value(row)))
        }
        Kind::Decimal(_, scale) => {
            let (array, scale) = (array.as_primitive::<ty::Decimal128Type>(), *scale);
            Box::new(move |row| Number::Decimal(array.value(row), scale))
        }
        _ => return None,
    })
}

impl Number {
    fn to_whole(self) -> Option<i128> {
        match self {
            Self::Decimal(value, scale) => shifted(value, scale, 0),
            // Negative zero is no whole number: its sign would be lost.
            Self::Float(value) => {
                let is_whole = value.fract() == 0.0 && value.abs() <= EXACT_FLOAT;
                (is_whole && !(value == 0.0 && value.is_sign_negative())).then_some(value as i128)
            }
        }
    }

    fn to_double(self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(value),
            Self::Decimal(value, 0) => {
                let double = value as f64;
                (double.abs() <= EXACT_FLOAT && double as i128 == value).then_some(double)
            }
            Self::Decimal(..) => None,
        }
    }

    fn to_single(self) -> Option<f32> {
        let double = self.to_double()?;
        let single = double as f32;
        (f64::from(single) == double || double.is_nan()).then_some(single)
    }

    fn to_decimal(self, precision: u8, scale: u8) -> Option<i128> {
        let Self::Decimal(value, was) = self else { return None };
        let limit = 10i128.checked_pow(precision.into())?;
        shifted(value, was, scale).filter(|value| value.unsigned_abs() < limit.unsigned_abs())
    }
}

/// A decimal's digits with another scale.
fn shifted(value: i128, from: u8, to: u8) -> Option<i128> {
    let power = 10i128.checked_pow(from.abs_diff(to).into())?;
    if to >= from { value.checked_mul(power) } else { (value % power == 0).then(|| value / power) }
}

fn is_instant(kind: &Kind) -> bool {
    matches!(kind, Kind::TimestampMs | Kind::Timestamp | Kind::TimestampNs | Kind::TimestampTz)
}

/// What a stored time counts, in nanoseconds.
pub(super) fn unit(kind: &Kind) -> i64 {
    nanoseconds(match kind {
        Kind::TimestampMs => &TimeUnit::Millisecond,
        Kind::TimestampNs => &TimeUnit::Nanosecond,
        _ => &TimeUnit::Microsecond,
    })
}

/// A unit in nanoseconds.
pub(super) fn nanoseconds(unit: &TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    }
}

/// A count of one unit as a count of another.
pub(super) fn rescaled(ticks: i64, from: i64, to: i64) -> Option<i64> {
    if from >= to { ticks.checked_mul(from / to) } else { (ticks % (to / from) == 0).then(|| ticks / (to / from)) }
}

/// Counts in the unit of a stored time as that time.
pub(super) fn instants(ticks: PrimitiveArray<ty::Int64Type>, kind: &Kind) -> ArrayRef {
    match kind {
        Kind::Time => Arc::new(ticks.reinterpret_cast::<ty::Time64MicrosecondType>()),
        Kind::TimestampMs => Arc::new(ticks.reinterpret_cast::<ty::TimestampMillisecondType>()),
        Kind::TimestampNs => Arc::new(ticks.reinterpret_cast::<ty::TimestampNanosecondType>()),
        Kind::TimestampTz => Arc::new(ticks.reinterpret_cast::<ty::TimestampMicrosecondType>().with_timezone("UTC")),
        _ => Arc::new(ticks.reinterpret_cast::<ty::TimestampMicrosecondType>()),
    }
}
