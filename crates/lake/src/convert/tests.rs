//! Beside arrow's own cast, which is not part of the collector but is right where it neither rounds nor cuts.

use arrow::array::*;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{Field, Int8Type, Int16Type, Int32Type, Int64Type, i256};
use proptest::prelude::*;

use super::*;
use crate::types::kind_of;

fn cast(array: &ArrayRef, target: &DataType, safe: bool) -> ArrayRef {
    cast_with_options(array, target, &CastOptions { safe, ..CastOptions::default() }).unwrap()
}

fn times() -> Vec<ArrayRef> {
    vec![
        Arc::new(Date64Array::from(vec![Some(86_400_000), None, Some(-1)])),
        Arc::new(TimestampSecondArray::from(vec![Some(5), None, Some(-7)])),
        Arc::new(TimestampMillisecondArray::from(vec![Some(5), None, Some(-7)]).with_timezone("+02:00")),
        Arc::new(TimestampSecondArray::from(vec![Some(5), None, Some(-7)]).with_timezone("UTC")),
        Arc::new(TimestampMicrosecondArray::from(vec![Some(5), None, Some(-7)]).with_timezone("-01:30")),
        Arc::new(Time32SecondArray::from(vec![Some(5), None, Some(86_399)])),
        Arc::new(Time32MillisecondArray::from(vec![Some(5), None, Some(86_399_999)])),
        Arc::new(Time64NanosecondArray::from(vec![Some(5), None, Some(86_399_999_999_999)])),
        Arc::new(DurationMillisecondArray::from(vec![Some(5), None, Some(i64::MIN)])),
        Arc::new(DurationNanosecondArray::from(vec![Some(5), None, Some(i64::MAX)])),
    ]
}

fn flat() -> Vec<ArrayRef> {
    let texts = [Some("a"), None, Some("é, longer than what a view keeps inside")];
    let bytes: [Option<&[u8]>; 3] = [Some(b"\xff"), None, Some(b"longer than what a view keeps inside")];
    let half = |value: f32| <arrow::datatypes::Float16Type as ArrowPrimitiveType>::Native::from_f32(value);
    vec![
        Arc::new(LargeStringArray::from_iter(texts)),
        Arc::new(StringViewArray::from_iter(texts)),
        Arc::new(LargeBinaryArray::from_iter(bytes)),
        Arc::new(BinaryViewArray::from_iter(bytes)),
        Arc::new(
            FixedSizeBinaryArray::try_from_sparse_iter_with_size(vec![Some([1, 2]), None, Some([3, 4])].into_iter(), 2)
                .unwrap(),
        ),
        Arc::new(Float16Array::from_iter([Some(half(0.5)), None, Some(half(-0.0))])),
        Arc::new(Decimal32Array::from(vec![Some(-12_345), None, Some(7)]).with_precision_and_scale(9, 2).unwrap()),
        Arc::new(Decimal64Array::from(vec![Some(-12_345), None, Some(7)]).with_precision_and_scale(18, 2).unwrap()),
        Arc::new(Decimal64Array::from(vec![Some(-12_345), None, Some(7)]).with_precision_and_scale(10, -3).unwrap()),
        Arc::new(
            Decimal256Array::from(vec![Some(i256::from(-12_345)), None, Some(i256::from(7))])
                .with_precision_and_scale(20, 2)
                .unwrap(),
        ),
        Arc::new(
            Decimal256Array::from(vec![Some(i256::from_i128(i128::MAX)), None, Some(i256::from(7))])
                .with_precision_and_scale(65, 30)
                .unwrap(),
        ),
        Arc::new([Some("a"), None, Some("a")].into_iter().collect::<DictionaryArray<Int8Type>>()),
        Arc::new([Some("a"), None, Some("b")].into_iter().collect::<DictionaryArray<Int64Type>>()),
    ]
}

fn nested() -> Vec<ArrayRef> {
    let lists = || [Some(vec![Some(1), None]), None, Some(vec![Some(3), Some(4)])];
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>(lists());
    let views = |field: &Arc<Field>| {
        let values: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3, 4]));
        let (offsets, sizes) = (vec![2, 0, 0].into(), vec![2, 0, 3].into());
        Arc::new(
            ListViewArray::try_new(Arc::clone(field), offsets, sizes, values, Some(vec![true, false, true].into()))
                .unwrap(),
        )
    };
    let item = Arc::new(Field::new("item", DataType::Int32, true));
    let dictionary: ArrayRef =
        Arc::new([Some("a"), None, Some("b")].into_iter().collect::<DictionaryArray<Int32Type>>());
    let parts = StructArray::try_from(vec![
        ("texts", dictionary),
        ("lists", Arc::new(LargeListArray::from_iter_primitive::<Int32Type, _, _>(lists())) as ArrayRef),
    ])
    .unwrap();
    let mut map = MapBuilder::new(None, LargeStringBuilder::new(), Int16Builder::new());
    map.keys().append_value("a");
    map.values().append_null();
    map.append(true).unwrap();
    map.append(false).unwrap();
    map.append(true).unwrap();
    vec![
        Arc::new(list),
        Arc::new(LargeListArray::from_iter_primitive::<Int32Type, _, _>(lists())),
        Arc::new(FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>(lists(), 2)),
        views(&item),
        Arc::new(parts),
        Arc::new(map.finish()),
    ]
}

#[test]
fn any_form_of_a_type_becomes_the_one_that_is_stored() {
    for array in times().into_iter().chain(flat()).chain(nested()) {
        let kind = kind_of(&Field::new("c", array.data_type().clone(), true)).unwrap().unwrap();
        for array in [array.clone(), array.slice(1, 2), array.slice(2, 1), array.slice(0, 0)] {
            let expected = cast(&array, &kind.arrow(), false);
            let stored = plain(&array, &kind).unwrap_or_else(|error| panic!("{}: {error}", array.data_type()));
            stored.to_data().validate_full().unwrap();
            assert_eq!(*stored, *expected, "{}", array.data_type());
        }
    }
}

#[test]
fn runs_are_taken_apart() {
    let ends = Int16Array::from(vec![2, 3, 5]);
    let runs: ArrayRef =
        Arc::new(RunArray::<Int16Type>::try_new(&ends, &StringArray::from(vec![Some("a"), None, Some("b")])).unwrap());
    let expected: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), Some("a"), None, Some("b"), Some("b")]));
    assert_eq!(*plain(&runs, &Kind::Varchar).unwrap(), *expected);
    assert_eq!(*plain(&runs.slice(1, 3), &Kind::Varchar).unwrap(), *expected.slice(1, 3));
}

#[test]
fn what_says_nothing_of_its_type_is_null_of_any() {
    let nulls: ArrayRef = Arc::new(NullArray::new(2));
    assert_eq!(plain(&nulls, &Kind::Decimal(9, 2)).unwrap().null_count(), 2);
    let empty: ArrayRef = Arc::new(StructArray::new_empty_fields(2, Some(vec![true, false].into())));
    let expected: ArrayRef = Arc::new(StringArray::from(vec![Some("{}"), None]));
    assert_eq!(*plain(&empty, &Kind::Json).unwrap(), *expected);
}

#[test]
fn parts_take_the_ids_of_the_column() {
    let part = |id, kind| Column { id, name: "a".into(), kind };
    let kind = |first| Kind::Struct(vec![part(first, Kind::List(Box::new(part(first + 1, Kind::Int32))))]);
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1), None]), None]);
    let array: ArrayRef = Arc::new(StructArray::try_from(vec![("a", Arc::new(lists) as ArrayRef)]).unwrap());
    let own = plain(&array, &kind(1)).unwrap();
    let Split { fitting, rest } = exact(&own, &kind(1), &kind(7)).unwrap();
    assert_eq!(fitting.data_type(), &kind(7).arrow());
    assert!(rest.is_none());
}

#[test]
fn what_is_out_of_range_is_an_error() {
    let seconds: ArrayRef = Arc::new(TimestampSecondArray::from(vec![i64::MAX]));
    assert!(plain(&seconds, &Kind::TimestampMs).is_err());
    let wide: ArrayRef = Arc::new(Decimal256Array::from(vec![i256::MAX]).with_precision_and_scale(38, 0).unwrap());
    assert!(plain(&wide, &Kind::Decimal(38, 0)).is_err());
    let wide: ArrayRef = Arc::new(Decimal32Array::from(vec![i32::MAX]).with_precision_and_scale(3, 0).unwrap());
    assert!(plain(&wide, &Kind::Decimal(3, 0)).is_err());
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["1"]));
    assert!(plain(&texts, &Kind::Int64).is_err());
    assert!(exact(&texts, &Kind::Varchar, &Kind::Int64).is_err());
}

#[test]
fn instants_keep_their_instant_or_are_handed_back() {
    let nanoseconds: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![Some(5_000), Some(5_001), None]));
    let split = exact(&nanoseconds, &Kind::TimestampNs, &Kind::Timestamp).unwrap();
    let fitting: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![Some(5), None, None]));
    let rest: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![None, Some(5_001), None]));
    assert_eq!((&*split.fitting, split.rest.as_deref()), (&*fitting, Some(&*rest)));
    let late: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![i64::MAX / 1_000]));
    assert!(exact(&late, &Kind::TimestampMs, &Kind::TimestampNs).unwrap().rest.is_some());
}

const NUMBERS: [Kind; 13] = [
    Kind::Int8,
    Kind::Int16,
    Kind::Int32,
    Kind::Int64,
    Kind::UInt8,
    Kind::UInt16,
    Kind::UInt32,
    Kind::UInt64,
    Kind::Float32,
    Kind::Float64,
    Kind::Decimal(5, 2),
    Kind::Decimal(20, 0),
    Kind::Decimal(38, 10),
];

/// Values of a kind, from whole numbers of any size and fractions of them.
fn of_kind(kind: &Kind, seeds: &[Option<(i64, u8)>]) -> ArrayRef {
    let doubles: Float64Array =
        seeds.iter().map(|seed| seed.map(|(value, parts)| value as f64 / f64::from(parts.max(1)))).collect();
    let wholes: Int64Array = seeds.iter().map(|seed| seed.map(|(value, _)| value)).collect();
    match kind {
        Kind::Float32 | Kind::Float64 => cast(&(Arc::new(doubles) as ArrayRef), &kind.arrow(), true),
        Kind::Decimal(precision, scale) => {
            let limit = 10i128.pow(u32::from(*precision));
            let digits: Decimal128Array =
                wholes.iter().map(|value| value.map(|value| i128::from(value) % limit)).collect();
            Arc::new(digits.with_precision_and_scale(*precision, *scale as i8).unwrap())
        }
        _ => cast(&(Arc::new(wholes) as ArrayRef), &kind.arrow(), true),
    }
}

fn seed() -> impl Strategy<Value = Option<(i64, u8)>> {
    let value =
        prop_oneof![-300i64..300, -70_000i64..70_000, any::<i64>(), any::<i64>().prop_map(|value| value / 1_024)];
    prop::option::weighted(0.9, (value, prop_oneof![Just(1u8), Just(2), Just(10)]))
}

proptest! {
    #[test]
    fn a_value_is_the_same_or_handed_back(
        from in prop::sample::select(&NUMBERS[..]),
        to in prop::sample::select(&NUMBERS[..]),
        seeds in prop::collection::vec(seed(), 1..20),
    ) {
        let values = of_kind(&from, &seeds);
        let Split { fitting, rest } = exact(&values, &from, &to).unwrap();
        prop_assert_eq!(fitting.data_type(), &to.arrow());
        let rest = rest.unwrap_or_else(|| new_null_array(values.data_type(), values.len()));
        let back = cast(&fitting, &from.arrow(), true);
        for row in 0..values.len() {
            // Each value is in one of the two, and is itself there.
            prop_assert_eq!(values.is_valid(row), fitting.is_valid(row) != rest.is_valid(row));
            prop_assert!(!(fitting.is_valid(row) && rest.is_valid(row)));
            if rest.is_valid(row) {
                prop_assert_eq!(&*rest.slice(row, 1), &*values.slice(row, 1));
            } else {
                prop_assert_eq!(&*back.slice(row, 1), &*values.slice(row, 1), "{} to {}", from, to);
            }
        }
    }

    #[test]
    fn what_fits_is_not_handed_back(
        from in prop::sample::select(&NUMBERS[..8]),
        to in prop::sample::select(&NUMBERS[..8]),
        seeds in prop::collection::vec(seed(), 1..20),
    ) {
        let values = of_kind(&from, &seeds);
        let fitting = exact(&values, &from, &to).unwrap().fitting;
        prop_assert_eq!(&*fitting, &*cast(&values, &to.arrow(), true));
    }
}
