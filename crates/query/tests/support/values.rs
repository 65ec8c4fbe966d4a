//! Values of every type that a source may yield: ordinary, extreme, awkward and missing ones.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{cast, take};
use arrow::datatypes::*;

/// A column: its field, and the values from which rows are drawn.
pub(crate) type Pool = (Field, ArrayRef);

/// Draws numbers, the same in each run.
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        // Knuth's MMIX generator; its upper bits are the good ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit.max(1)
    }
}

/// Rows drawn from `pools` behind an `id` that counts up from `first`.
pub(crate) fn rows(pools: &[Pool], draw: &mut Draw, first: i64, rows: usize) -> RecordBatch {
    let ids: ArrayRef = Arc::new((first..first + rows as i64).collect::<Int64Array>());
    let mut fields = vec![Field::new("id", DataType::Int64, true)];
    let mut arrays = vec![ids];
    for (field, pool) in pools {
        let places: UInt32Array = (0..rows).map(|_| draw.below(pool.len()) as u32).collect();
        fields.push(field.clone());
        arrays.push(take(pool, &places, None).unwrap());
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
}

pub(crate) fn pool(name: &str, array: impl Array + 'static) -> Pool {
    let array: ArrayRef = Arc::new(array);
    (Field::new(name, array.data_type().clone(), true), array)
}

fn extension((field, array): Pool, name: &str) -> Pool {
    let metadata = HashMap::from([("ARROW:extension:name".to_owned(), name.to_owned())]);
    (field.with_metadata(metadata), array)
}

/// Texts that a reader of text forms may trip over.
pub(crate) const TEXTS: [&str; 48] = [
    "",
    " ",
    "  two  ",
    "plain",
    "it's",
    "''",
    "\"",
    "\"quoted\"",
    "\\",
    "\\\\",
    "\\'",
    "\\x41",
    "\\u0041",
    "a\\",
    "\n",
    "a\r\nb",
    "\t",
    "a\0b",
    "\0",
    "null",
    "NULL",
    "nan",
    "infinity",
    "true",
    "007",
    "1e5",
    "-0",
    " 1 ",
    "[]",
    "[1, 2]",
    "{}",
    "{'a': 1}",
    "{k=v}",
    "a,b",
    "a=b",
    "a:b",
    "(",
    "%_",
    "-- no",
    "/* no */",
    "é",
    "e\u{301}",
    "漢字",
    "😀👩‍👩‍👧",
    "\u{feff}bom",
    "\u{202e}right",
    "\u{ffff}",
    "\u{10ffff}",
];

fn texts() -> Vec<Option<String>> {
    let long =
        ["x".repeat(127), "y".repeat(128), "z".repeat(129), "ü".repeat(64), "\u{10ffff}".repeat(40), "l".repeat(3_000)];
    TEXTS.iter().map(|text| Some((*text).to_owned())).chain(long.map(Some)).chain([None, None, None]).collect()
}

/// Every type whose values have no parts.
pub(crate) fn scalars() -> Vec<Pool> {
    numbers().into_iter().chain(times()).chain(texts_and_bytes()).collect()
}

/// Every type of number.
fn numbers() -> Vec<Pool> {
    let decimal = |values: &[i128], precision, scale| {
        let values = values.iter().map(|value| Some(*value)).chain([None, Some(0), Some(1), Some(-1)]);
        values.collect::<Decimal128Array>().with_precision_and_scale(precision, scale).unwrap()
    };
    let nines = |digits| 10i128.pow(digits) - 1;
    let halves = Float32Array::from(vec![Some(1.5), Some(-0.25), Some(65_504.0), Some(f32::NAN), Some(-0.0), None]);
    let long = ["12345678901234567890123456789012345678901234567890123456789012345", "-1", "0"];
    vec![
        pool("boolean", BooleanArray::from(vec![Some(true), Some(false), None])),
        pool("int8", Int8Array::from(vec![Some(i8::MIN), Some(i8::MAX), Some(0), Some(-1), None])),
        pool("int16", Int16Array::from(vec![Some(i16::MIN), Some(i16::MAX), Some(0), Some(-1), None])),
        pool("int32", Int32Array::from(vec![Some(i32::MIN), Some(i32::MAX), Some(0), Some(-1), None])),
        pool("int64", Int64Array::from(vec![Some(i64::MIN), Some(i64::MAX), Some(0), Some((1 << 53) + 1), None])),
        pool("uint8", UInt8Array::from(vec![Some(0), Some(u8::MAX), Some(128), None])),
        pool("uint16", UInt16Array::from(vec![Some(0), Some(u16::MAX), Some(1 << 15), None])),
        pool("uint32", UInt32Array::from(vec![Some(0), Some(u32::MAX), Some(1 << 31), None])),
        pool("uint64", UInt64Array::from(vec![Some(0), Some(u64::MAX), Some(1 << 63), Some((1 << 53) + 1), None])),
        (Field::new("float16", DataType::Float16, true), cast(&halves, &DataType::Float16).unwrap()),
        pool(
            "float32",
            Float32Array::from(vec![
                Some(1.1),
                Some(f32::MIN_POSITIVE),
                Some(1e-45),
                Some(f32::MAX),
                Some(f32::MIN),
                None,
            ]),
        ),
        pool(
            "float32x",
            Float32Array::from(vec![
                Some(f32::NAN),
                Some(-0.0),
                Some(0.0),
                Some(f32::INFINITY),
                Some(f32::NEG_INFINITY),
                Some(16_777_216.0),
                None,
            ]),
        ),
        pool(
            "float64",
            Float64Array::from(vec![
                Some(0.1),
                Some(1e300),
                Some(5e-324),
                Some(f64::MAX),
                Some(f64::MIN),
                Some(-1e-7),
                Some(9_007_199_254_740_993.0),
                Some(123_456_789_012_345_680.0),
                None,
            ]),
        ),
        pool(
            "float64x",
            Float64Array::from(vec![
                Some(f64::NAN),
                Some(-0.0),
                Some(0.0),
                Some(f64::INFINITY),
                Some(f64::NEG_INFINITY),
                Some(2.5),
                None,
            ]),
        ),
        pool("decimal9", decimal(&[12_345, nines(9), -nines(9)], 9, 2)),
        pool("decimal18", decimal(&[nines(18), -nines(18)], 18, 18)),
        pool("decimal25", decimal(&[nines(25), -nines(25)], 25, 0)),
        pool("decimal38", decimal(&[nines(38), -nines(38), 15], 38, 10)),
        pool("decimal38s", decimal(&[nines(38), -nines(38), 15], 38, 38)),
        pool("decimal_minus", decimal(&[nines(5), -nines(5)], 5, -3)),
        pool(
            "decimal32",
            Decimal32Array::from(vec![Some(12_345), Some(-1), None]).with_precision_and_scale(7, 3).unwrap(),
        ),
        pool(
            "decimal64",
            Decimal64Array::from(vec![Some(12_345), Some(-1), None]).with_precision_and_scale(15, 0).unwrap(),
        ),
        pool(
            "decimal256",
            Decimal256Array::from(vec![Some(i256::from_i128(-150)), Some(i256::from_i128(nines(30))), None])
                .with_precision_and_scale(30, 2)
                .unwrap(),
        ),
        pool(
            "decimal65",
            long.iter()
                .map(|text| i256::from_string(text))
                .chain([None])
                .collect::<Decimal256Array>()
                .with_precision_and_scale(65, 30)
                .unwrap(),
        ),
        pool("duration", DurationMillisecondArray::from(vec![Some(-5), Some(i64::MAX), Some(i64::MIN), None])),
    ]
}

/// Every type of time, as far as DuckDB's own values reach.
fn times() -> Vec<Pool> {
    let us = 1_577_934_245_000_006i64;
    let (first_us, first_ns) = (-9_223_372_022_400_000_000i64, -9_223_286_400_000_000_000i64);
    let year_one = -62_135_596_800_000_000i64;
    let micro = vec![
        Some(us),
        Some(-1),
        Some(0),
        Some(500_000),
        Some(first_us),
        Some(i64::MAX - 1),
        Some(i64::MAX),
        Some(-i64::MAX),
        Some(year_one),
        Some(year_one - 1),
        Some(253_402_300_800_000_000),
        None,
    ];
    let milli = vec![
        Some(us / 1_000),
        Some(-1),
        Some(0),
        Some(500),
        Some(first_us / 1_000),
        Some(i64::MAX / 1_000),
        Some(year_one / 1_000 - 1),
        None,
    ];
    let nano =
        vec![Some(us * 1_000 + 7), Some(-1), Some(0), Some(500_000_000), Some(first_ns), Some(i64::MAX - 1), None];
    let seconds = vec![Some(us / 1_000_000), Some(-1), Some(0), Some(year_one / 1_000_000 - 1), None];
    let dates = vec![
        Some(18_263),
        Some(0),
        Some(-1),
        Some(-735_599),
        Some(2_932_896),
        Some(2_932_897),
        Some(i32::MAX - 1),
        Some(1 - i32::MAX),
        Some(i32::MAX),
        Some(-i32::MAX),
        Some(-719_162),
        Some(-719_163),
        None,
    ];
    vec![
        pool("date32", Date32Array::from(dates)),
        pool("date64", Date64Array::from(vec![Some(86_400_000), Some(0), Some(-86_400_000), None])),
        pool("time32s", Time32SecondArray::from(vec![Some(0), Some(86_399), None])),
        pool("time32ms", Time32MillisecondArray::from(vec![Some(1), Some(86_399_999), Some(500), None])),
        pool("time64us", Time64MicrosecondArray::from(vec![Some(1), Some(86_399_999_999), Some(86_400_000_000), None])),
        pool("time64ns", Time64NanosecondArray::from(vec![Some(1), Some(86_399_999_999_999), None])),
        pool("ts_s", TimestampSecondArray::from(seconds.clone())),
        pool("ts_ms", TimestampMillisecondArray::from(milli.clone())),
        pool("ts_us", TimestampMicrosecondArray::from(micro.clone())),
        pool("ts_ns", TimestampNanosecondArray::from(nano.clone())),
        pool("tz_s", TimestampSecondArray::from(seconds).with_timezone("+02:00")),
        pool("tz_ms", TimestampMillisecondArray::from(milli).with_timezone("UTC")),
        pool("tz_us", TimestampMicrosecondArray::from(micro).with_timezone("UTC")),
        pool("tz_ns", TimestampNanosecondArray::from(nano).with_timezone("-05:30")),
    ]
}

/// Every type of text and bytes.
fn texts_and_bytes() -> Vec<Pool> {
    let json = [
        "null",
        "{}",
        "[]",
        "{\"a\": [1, 2.50], \"é\": \"\\u0000\"}",
        "12345678901234567890.10",
        "\"it's\"",
        " {\"b\":1}\n",
    ];
    let ids = [[0x5bu8; 16], [0xff; 16], [0; 16], [0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]];
    let fixed = [[1u8, 2], [255, 0], [0, 0]];
    let short = [Some("r"), Some("it's"), None, Some("\\")];
    vec![
        pool("utf8", StringArray::from(texts())),
        pool("large_utf8", LargeStringArray::from(texts())),
        pool("utf8_view", StringViewArray::from_iter(texts())),
        pool("dictionary", short.into_iter().collect::<DictionaryArray<Int8Type>>()),
        pool(
            "run_end",
            RunArray::<Int32Type>::try_new(&Int32Array::from(vec![2, 3, 5, 6]), &StringArray::from(short.to_vec()))
                .unwrap(),
        ),
        extension(pool("json", json.iter().map(Some).chain([None]).collect::<StringArray>()), "arrow.json"),
        extension(
            pool(
                "uuid",
                FixedSizeBinaryArray::try_from_sparse_iter_with_size(ids.into_iter().map(Some).chain([None]), 16)
                    .unwrap(),
            ),
            "arrow.uuid",
        ),
        pool("binary", BinaryArray::from(BYTES.to_vec())),
        pool("large_binary", LargeBinaryArray::from(BYTES.to_vec())),
        pool("binary_view", BinaryViewArray::from(BYTES.to_vec())),
        pool(
            "fixed",
            FixedSizeBinaryArray::try_from_sparse_iter_with_size(fixed.into_iter().map(Some).chain([None]), 2).unwrap(),
        ),
    ]
}

const BYTES: [Option<&[u8]>; 8] = [
    Some(b"\x00\xff"),
    Some(b"abc"),
    Some(b""),
    Some(b"\\x41"),
    Some(b"it's \"q\""),
    Some(b"\x80\n\\"),
    Some(b"[1]"),
    None,
];

/// Lists, structs and maps of every type above, but for bytes, with which rows cannot be kept inside the catalog.
pub(crate) fn nested() -> Vec<Pool> {
    let scalars: Vec<Pool> = scalars().into_iter().filter(|(field, _)| !is_for_files(field)).collect();
    let mut pools: Vec<Pool> = scalars.iter().map(list).collect();
    let whole = structs("struct", &scalars);
    pools.push(list(&whole));
    pools.push(whole);
    pools.extend(scalars.iter().step_by(3).map(map));
    let ints = list(&pool("int32", Int32Array::from(vec![Some(1), None, Some(-7)])));
    pools.push(list(&list(&ints)));
    pools.push(map(&ints));
    pools.push(pool(
        "untyped_list",
        ListArray::new(
            Arc::new(Field::new("item", DataType::Null, true)),
            OffsetBuffer::from_lengths([0, 1, 2]),
            Arc::new(NullArray::new(3)),
            None,
        ),
    ));
    pools.push(pool("empty_struct", StructArray::new_empty_fields(3, Some(NullBuffer::from(vec![true, false, true])))));
    pools.push(pool(
        "fixed_list",
        FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>(
            vec![Some(vec![Some(1), Some(2)]), Some(vec![None, Some(4)]), None],
            2,
        ),
    ));
    pools
}

/// Nested values with bytes inside.
pub(crate) fn nested_bytes() -> Vec<Pool> {
    inside(texts_and_bytes().into_iter().filter(|(field, _)| is_for_files(field) && field.name() != "json"))
}

/// Nested values with JSON inside.
pub(crate) fn nested_json() -> Vec<Pool> {
    inside(texts_and_bytes().into_iter().filter(|(field, _)| field.name() == "json"))
}

/// Each pool's values in lists, the first's in maps, those of all in structs.
fn inside(pools: impl Iterator<Item = Pool>) -> Vec<Pool> {
    let inner: Vec<Pool> = pools.collect();
    let mut pools: Vec<Pool> = inner.iter().map(list).collect();
    pools.push(map(&inner[0]));
    pools.push(structs("struct", &inner));
    pools
}

/// Whether rows with such a value inside a nested one are for a file.
fn is_for_files(field: &Field) -> bool {
    match field.data_type() {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => true,
        DataType::FixedSizeBinary(_) => field.name() != "uuid",
        _ => field.name() == "json",
    }
}

/// Lists of the pool's values: all of them, none, one, a missing list, and several pieces.
fn list((field, values): &Pool) -> Pool {
    let count = values.len();
    let item = Arc::new(field.clone().with_name("item"));
    let lengths = [1, 0, count / 2, 1, 0, count - count / 2 - 2];
    let nulls = NullBuffer::from(vec![true, true, true, true, false, true]);
    let array = ListArray::new(item, OffsetBuffer::from_lengths(lengths), Arc::clone(values), Some(nulls));
    pool(&format!("list_{}", field.name()), array)
}

/// Structs whose parts are the values of each pool, as many as the longest has, one of them missing.
fn structs(name: &str, parts: &[Pool]) -> Pool {
    let rows = parts.iter().map(|(_, values)| values.len()).max().unwrap_or(0);
    let arrays = parts.iter().map(|(_, values)| {
        let places: UInt32Array = (0..rows).map(|row| (row % values.len()) as u32).collect();
        take(values, &places, None).unwrap()
    });
    let fields: Fields =
        parts.iter().map(|(field, _)| field.clone().with_name(format!("part {}'s", field.name()))).collect();
    let nulls: NullBuffer = (0..rows).map(|row| row != 5).collect::<Vec<bool>>().into();
    pool(name, StructArray::new(fields, arrays.collect(), Some(nulls)))
}

/// Maps from awkward texts to the pool's values.
fn map((field, values): &Pool) -> Pool {
    // A map has each key once.
    let count = values.len().min(TEXTS.len());
    let keys: ArrayRef =
        Arc::new((0..count).map(|row| Some(TEXTS[(row * 7 + 3) % TEXTS.len()])).collect::<StringArray>());
    let fields: Fields = vec![Field::new("keys", DataType::Utf8, false), field.clone().with_name("values")].into();
    let entries = StructArray::new(fields.clone(), vec![keys, values.slice(0, count)], None);
    let offsets = OffsetBuffer::from_lengths([1, 0, 0, count - 1]);
    let nulls = NullBuffer::from(vec![true, true, false, true]);
    let entry = Arc::new(Field::new("entries", DataType::Struct(fields), false));
    pool(&format!("map_{}", field.name()), MapArray::new(entry, offsets, entries, Some(nulls), false))
}
