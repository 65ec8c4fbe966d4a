//! Every type that a connector may yield, inlined and in a file: DuckDB shows the same values as text, and the lake's
//! own reader gives the same rows.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Float16Type, Int8Type, Int32Type, Schema, TimeUnit, i256};
use common::*;
use portolan_lake::{At, LakeSettings};

/// A column and what DuckDB shows of it, row by row.
type Case = (Field, ArrayRef, Vec<Option<&'static str>>);

fn case(name: &str, array: ArrayRef, shown: &[Option<&'static str>]) -> Case {
    assert_eq!(array.len(), shown.len(), "{name}");
    (Field::new(name, array.data_type().clone(), true), array, shown.to_vec())
}

fn extension(case: Case, name: &str) -> Case {
    let (field, array, shown) = case;
    let metadata = HashMap::from([("ARROW:extension:name".to_owned(), name.to_owned())]);
    (field.with_metadata(metadata), array, shown)
}

const LAST: Option<&str> = None;

fn numbers() -> Vec<Case> {
    vec![
        case(
            "boolean",
            Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])),
            &[Some("true"), Some("false"), LAST],
        ),
        case(
            "int8",
            Arc::new(Int8Array::from(vec![Some(i8::MIN), Some(i8::MAX), None])),
            &[Some("-128"), Some("127"), LAST],
        ),
        case(
            "int16",
            Arc::new(Int16Array::from(vec![Some(i16::MIN), Some(i16::MAX), None])),
            &[Some("-32768"), Some("32767"), LAST],
        ),
        case(
            "int32",
            Arc::new(Int32Array::from(vec![Some(i32::MIN), Some(i32::MAX), None])),
            &[Some("-2147483648"), Some("2147483647"), LAST],
        ),
        case(
            "int64",
            Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(i64::MAX), None])),
            &[Some("-9223372036854775808"), Some("9223372036854775807"), LAST],
        ),
        case("uint8", Arc::new(UInt8Array::from(vec![Some(0), Some(u8::MAX), None])), &[Some("0"), Some("255"), LAST]),
        case(
            "uint16",
            Arc::new(UInt16Array::from(vec![Some(0), Some(u16::MAX), None])),
            &[Some("0"), Some("65535"), LAST],
        ),
        case(
            "uint32",
            Arc::new(UInt32Array::from(vec![Some(0), Some(u32::MAX), None])),
            &[Some("0"), Some("4294967295"), LAST],
        ),
        case(
            "uint64",
            Arc::new(UInt64Array::from(vec![Some(0), Some(u64::MAX), None])),
            &[Some("0"), Some("18446744073709551615"), LAST],
        ),
        case(
            "float16",
            Arc::new(PrimitiveArray::<Float16Type>::from(vec![Some(half(1.5)), Some(half(-0.25)), None])),
            &[Some("1.5"), Some("-0.25"), LAST],
        ),
        case(
            "float32",
            Arc::new(Float32Array::from(vec![Some(1.1), Some(f32::MIN_POSITIVE), None])),
            &[Some("1.1"), Some("1.1754944e-38"), LAST],
        ),
        case(
            "float32x",
            Arc::new(Float32Array::from(vec![Some(f32::NAN), Some(-0.0), Some(f32::NEG_INFINITY)])),
            &[Some("nan"), Some("-0.0"), Some("-inf")],
        ),
        case(
            "float64",
            Arc::new(Float64Array::from(vec![Some(0.1), Some(1e300), None])),
            &[Some("0.1"), Some("1e+300"), LAST],
        ),
        case(
            "float64x",
            Arc::new(Float64Array::from(vec![Some(f64::NAN), Some(f64::INFINITY), Some(5e-324)])),
            &[Some("nan"), Some("inf"), Some("5e-324")],
        ),
        case(
            "float64y",
            Arc::new(Float64Array::from(vec![Some(123456789012345680.0), Some(9007199254740993.0), Some(-1e-7)])),
            &[Some("1.2345678901234568e+17"), Some("9007199254740992.0"), Some("-1e-07")],
        ),
        case(
            "decimal9",
            Arc::new(Decimal128Array::from(vec![Some(12345), Some(-1), None]).with_precision_and_scale(9, 2).unwrap()),
            &[Some("123.45"), Some("-0.01"), LAST],
        ),
        case(
            "decimal18",
            Arc::new(
                Decimal128Array::from(vec![Some(999_999_999_999_999_999), Some(-1), None])
                    .with_precision_and_scale(18, 18)
                    .unwrap(),
            ),
            &[Some(".999999999999999999"), Some("-.000000000000000001"), LAST],
        ),
        case(
            "decimal38",
            Arc::new(
                Decimal128Array::from(vec![Some(10i128.pow(38) - 1), Some(1 - 10i128.pow(38)), None])
                    .with_precision_and_scale(38, 10)
                    .unwrap(),
            ),
            &[Some("9999999999999999999999999999.9999999999"), Some("-9999999999999999999999999999.9999999999"), LAST],
        ),
        case(
            "decimal25",
            Arc::new(
                Decimal128Array::from(vec![Some(10i128.pow(25) - 1), Some(-7), None])
                    .with_precision_and_scale(25, 0)
                    .unwrap(),
            ),
            &[Some("9999999999999999999999999"), Some("-7"), LAST],
        ),
        case(
            "decimal256",
            Arc::new(
                Decimal256Array::from(vec![Some(i256::from_i128(-150)), Some(i256::from_i128(7)), None])
                    .with_precision_and_scale(30, 2)
                    .unwrap(),
            ),
            &[Some("-1.50"), Some("0.07"), LAST],
        ),
        case(
            "decimal65",
            Arc::new(
                Decimal256Array::from(vec![
                    i256::from_string("12345678901234567890123456789012345678901234567890123456789012345"),
                    i256::from_string("-1"),
                    None,
                ])
                .with_precision_and_scale(65, 30)
                .unwrap(),
            ),
            &[
                Some("12345678901234567890123456789012345.678901234567890123456789012345"),
                Some("-0.000000000000000000000000000001"),
                LAST,
            ],
        ),
    ]
}

fn half(value: f32) -> <Float16Type as arrow::datatypes::ArrowPrimitiveType>::Native {
    let array = arrow::compute::cast(&Float32Array::from(vec![value]), &DataType::Float16).unwrap();
    array.as_primitive::<Float16Type>().value(0)
}

fn times() -> Vec<Case> {
    let us = 1_577_934_245_000_006i64;
    vec![
        case(
            "date32",
            Arc::new(Date32Array::from(vec![Some(18263), Some(-735_599), None])),
            &[Some("2020-01-02"), Some("0045-01-01 (BC)"), LAST],
        ),
        case(
            "date32x",
            Arc::new(Date32Array::from(vec![Some(2_932_896), Some(2_932_897), None])),
            &[Some("9999-12-31"), Some("10000-01-01"), LAST],
        ),
        case(
            "date64",
            Arc::new(Date64Array::from(vec![Some(86_400_000), Some(0), None])),
            &[Some("1970-01-02 00:00:00"), Some("1970-01-01 00:00:00"), LAST],
        ),
        case(
            "time32s",
            Arc::new(Time32SecondArray::from(vec![Some(1), Some(86_399), None])),
            &[Some("00:00:01"), Some("23:59:59"), LAST],
        ),
        case(
            "time32ms",
            Arc::new(Time32MillisecondArray::from(vec![Some(1), Some(86_399_999), None])),
            &[Some("00:00:00.001"), Some("23:59:59.999"), LAST],
        ),
        case(
            "time64us",
            Arc::new(Time64MicrosecondArray::from(vec![Some(1), Some(86_399_999_999), None])),
            &[Some("00:00:00.000001"), Some("23:59:59.999999"), LAST],
        ),
        case(
            "time64ns",
            Arc::new(Time64NanosecondArray::from(vec![Some(1), Some(86_399_999_999_999), None])),
            &[Some("00:00:00.000000001"), Some("23:59:59.999999999"), LAST],
        ),
        case(
            "ts_s",
            Arc::new(TimestampSecondArray::from(vec![Some(1_577_934_245), Some(-1), None])),
            &[Some("2020-01-02 03:04:05"), Some("1969-12-31 23:59:59"), LAST],
        ),
        case(
            "ts_ms",
            Arc::new(TimestampMillisecondArray::from(vec![Some(1_577_934_245_006), Some(-1), None])),
            &[Some("2020-01-02 03:04:05.006"), Some("1969-12-31 23:59:59.999"), LAST],
        ),
        case(
            "ts_us",
            Arc::new(TimestampMicrosecondArray::from(vec![Some(us), Some(-1), None])),
            &[Some("2020-01-02 03:04:05.000006"), Some("1969-12-31 23:59:59.999999"), LAST],
        ),
        case(
            "ts_us_old",
            Arc::new(TimestampMicrosecondArray::from(vec![
                Some(-62_135_596_800_000_001),
                Some(253_402_300_800_000_000),
                None,
            ])),
            &[Some("0001-12-31 (BC) 23:59:59.999999"), Some("10000-01-01 00:00:00"), LAST],
        ),
        case(
            "ts_ns",
            Arc::new(TimestampNanosecondArray::from(vec![Some(us * 1_000 + 7), Some(-1), None])),
            &[Some("2020-01-02 03:04:05.000006007"), Some("1969-12-31 23:59:59.999999999"), LAST],
        ),
        case(
            "tz_s",
            Arc::new(TimestampSecondArray::from(vec![Some(1_577_934_245), Some(-1), None]).with_timezone("+02:00")),
            &[Some("2020-01-02 03:04:05+00"), Some("1969-12-31 23:59:59+00"), LAST],
        ),
        case(
            "tz_us",
            Arc::new(TimestampMicrosecondArray::from(vec![Some(us), Some(-1), None]).with_timezone("UTC")),
            &[Some("2020-01-02 03:04:05.000006+00"), Some("1969-12-31 23:59:59.999999+00"), LAST],
        ),
        case(
            "tz_ns",
            Arc::new(
                TimestampNanosecondArray::from(vec![Some(us * 1_000 + 7), Some(-1), None]).with_timezone("+02:00"),
            ),
            &[Some("2020-01-02 03:04:05.000006007"), Some("1969-12-31 23:59:59.999999999"), LAST],
        ),
        case(
            "duration",
            Arc::new(DurationMillisecondArray::from(vec![Some(-5), Some(7), None])),
            &[Some("-5"), Some("7"), LAST],
        ),
    ]
}

fn texts() -> Vec<Case> {
    let odd = vec![Some("it's \"q\"\n\\"), Some("é😀"), None];
    let odd_shown: &[Option<&str>] = &[Some("it's \"q\"\n\\"), Some("é😀"), LAST];
    vec![
        case("utf8", Arc::new(StringArray::from(odd.clone())), odd_shown),
        case("large_utf8", Arc::new(LargeStringArray::from(odd.clone())), odd_shown),
        case("utf8_view", Arc::new(StringViewArray::from(odd)), odd_shown),
        case(
            "zero",
            Arc::new(StringArray::from(vec![Some("a\0b"), Some(""), Some("null")])),
            &[Some("a\0b"), Some(""), Some("null")],
        ),
        case(
            "number_like",
            Arc::new(StringArray::from(vec![Some("007"), Some("1e5"), Some(" 1 ")])),
            &[Some("007"), Some("1e5"), Some(" 1 ")],
        ),
        case(
            "binary",
            Arc::new(BinaryArray::from(vec![Some(&b"\x00\xff"[..]), Some(b"abc"), None])),
            &[Some("\\x00\\xFF"), Some("abc"), LAST],
        ),
        case(
            "large_binary",
            Arc::new(LargeBinaryArray::from(vec![Some(&b"\x80"[..]), Some(b""), None])),
            &[Some("\\x80"), Some(""), LAST],
        ),
        case(
            "binary_view",
            Arc::new(BinaryViewArray::from(vec![Some(&b"\x80"[..]), Some(b""), None])),
            &[Some("\\x80"), Some(""), LAST],
        ),
        case(
            "fixed",
            Arc::new(
                FixedSizeBinaryArray::try_from_sparse_iter_with_size(
                    [Some([1u8, 2]), Some([255, 0]), None].into_iter(),
                    2,
                )
                .unwrap(),
            ),
            &[Some("\\x01\\x02"), Some("\\xFF\\x00"), LAST],
        ),
        extension(
            case(
                "json",
                Arc::new(StringArray::from(vec![Some("{\"a\": [1, 2.50]}"), Some("null"), None])),
                &[Some("{\"a\": [1, 2.50]}"), Some("null"), LAST],
            ),
            "arrow.json",
        ),
        extension(
            case(
                "uuid",
                Arc::new(
                    FixedSizeBinaryArray::try_from_sparse_iter_with_size(
                        [Some([0x5bu8; 16]), Some([0xff; 16]), None].into_iter(),
                        16,
                    )
                    .unwrap(),
                ),
                &[Some("5b5b5b5b-5b5b-5b5b-5b5b-5b5b5b5b5b5b"), Some("ffffffff-ffff-ffff-ffff-ffffffffffff"), LAST],
            ),
            "arrow.uuid",
        ),
        case(
            "dictionary",
            Arc::new(vec![Some("x"), Some("y"), None].into_iter().collect::<DictionaryArray<Int8Type>>()),
            &[Some("x"), Some("y"), LAST],
        ),
        case(
            "run_end",
            Arc::new(
                RunArray::<Int32Type>::try_new(&Int32Array::from(vec![2, 3]), &StringArray::from(vec!["r", "s"]))
                    .unwrap(),
            ),
            &[Some("r"), Some("r"), Some("s")],
        ),
    ]
}

fn nested() -> Vec<Case> {
    let ints =
        ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1), None, Some(3)]), Some(vec![]), None]);
    let texts: ArrayRef = Arc::new(StringArray::from(vec![
        Some("a"),
        Some("it's"),
        Some("a,b"),
        Some("[x]"),
        Some(""),
        Some("null"),
        None,
        Some(" s "),
        Some("q\"q"),
        Some("b\\s"),
        Some("{k: v}"),
        Some("a=b"),
    ]));
    let item = Arc::new(Field::new("item", DataType::Utf8, true));
    let strings = ListArray::new(
        item,
        OffsetBuffer::from_lengths([12, 0, 0]),
        texts,
        Some(NullBuffer::from(vec![true, true, false])),
    );
    let fields = vec![
        Field::new("a", DataType::Int64, true),
        Field::new("B b", DataType::Utf8, true),
        Field::new("t", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
    ];
    let structs = StructArray::new(
        fields.into(),
        vec![
            Arc::new(Int64Array::from(vec![Some(1), None, Some(2)])),
            Arc::new(StringArray::from(vec![Some("it's, {x}: =y"), Some("'"), None])),
            Arc::new(TimestampMicrosecondArray::from(vec![Some(0), None, None]).with_timezone("UTC")),
        ],
        Some(NullBuffer::from(vec![true, true, false])),
    );
    let mut map = MapBuilder::new(None, StringBuilder::new(), Float64Builder::new());
    map.keys().append_value("it's");
    map.values().append_value(1.5);
    map.keys().append_value("b=c");
    map.values().append_null();
    map.append(true).unwrap();
    map.append(true).unwrap();
    map.append(false).unwrap();
    let fixed = FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>(
        vec![Some(vec![Some(1), Some(2)]), Some(vec![None, Some(4)]), None],
        2,
    );
    vec![
        case("ints", Arc::new(ints.clone()), &[Some("[1, NULL, 3]"), Some("[]"), LAST]),
        case(
            "large_ints",
            arrow::compute::cast(&ints, &DataType::LargeList(Arc::new(Field::new("item", DataType::Int32, true))))
                .unwrap(),
            &[Some("[1, NULL, 3]"), Some("[]"), LAST],
        ),
        case(
            "strings",
            Arc::new(strings),
            &[
                Some("[a, 'it\\'s', 'a,b', '[x]', '', 'null', NULL, ' s ', 'q\"q', b\\s, '{k: v}', 'a=b']"),
                Some("[]"),
                LAST,
            ],
        ),
        case(
            "structs",
            Arc::new(structs),
            &[
                Some("{'a': 1, 'B b': 'it\\'s, {x}: =y', 't': '1970-01-01 00:00:00+00'}"),
                Some("{'a': NULL, 'B b': '\\'', 't': NULL}"),
                LAST,
            ],
        ),
        case("maps", Arc::new(map.finish()), &[Some("{'it\\'s'=1.5, 'b=c'=NULL}"), Some("{}"), LAST]),
        case("fixed_list", Arc::new(fixed), &[Some("[1, 2]"), Some("[NULL, 4]"), LAST]),
        case(
            "untyped_list",
            Arc::new(ListArray::new(
                Arc::new(Field::new("item", DataType::Null, true)),
                OffsetBuffer::from_lengths([0, 1, 0]),
                Arc::new(NullArray::new(1)),
                None,
            )),
            &[Some("[]"), Some("[NULL]"), Some("[]")],
        ),
    ]
}

fn blobs_inside() -> Vec<Case> {
    let mut blobs = ListBuilder::new(BinaryBuilder::new());
    blobs.values().append_value(b"\x00'");
    blobs.append(true);
    blobs.append(true);
    blobs.append(false);
    vec![case("blobs", Arc::new(blobs.finish()), &[Some("[\\x00\\x27]"), Some("[]"), LAST])]
}

async fn check(cases: Vec<Case>) {
    let schema = Schema::new(cases.iter().map(|(field, ..)| field.clone()).collect::<Vec<_>>());
    let batch =
        RecordBatch::try_new(Arc::new(schema), cases.iter().map(|(_, array, _)| array.clone()).collect()).unwrap();
    let mut digests = Vec::new();
    let mut shown = Vec::new();
    let mut own = Vec::new();
    for inline_rows in [1_000, 0] {
        let folder = tempfile::tempdir().unwrap();
        let lake = open(folder.path(), LakeSettings { inline_rows, ..settings() }).await;
        let (_, staged) = round(&lake, spec("t"), std::slice::from_ref(&batch)).await.unwrap();
        digests.push(staged.rows_sha256);
        let head = at(folder.path(), At::Head);
        let table = head.table("main", "t").unwrap().unwrap();
        own.push(rows(&head, &table));
        let columns: Vec<String> =
            cases.iter().map(|(f, ..)| format!("\"{0}\"::varchar as \"{0}\"", f.name())).collect();
        let sql = format!("select {} from t order by rowid", columns.join(", "));
        let mut answers = duck(folder.path(), &[&sql, "select count(*) as n from ducklake_list_files('lake', 't')"]);
        let files = answers.pop().unwrap()[0]["n"].as_i64().unwrap();
        shown.push((inline_rows, files, answers.pop().unwrap()));
    }
    for (inline_rows, files, rows) in &shown {
        for (field, _, expected) in &cases {
            let got: Vec<Option<String>> =
                rows.iter().map(|row| row[field.name()].as_str().map(str::to_owned)).collect();
            let expected: Vec<Option<String>> = expected.iter().map(|text| text.map(str::to_owned)).collect();
            assert_eq!(got, expected, "{} inline_rows {inline_rows} files {files}", field.name());
        }
    }
    assert_eq!(shown[0].2, shown[1].2, "inlined and in a file");
    assert_eq!(digests[0], digests[1]);
    assert_eq!(own[0], own[1]);
}

#[tokio::test]
async fn numbers_keep_their_value() {
    check(numbers()).await;
}

#[tokio::test]
async fn times_keep_their_value() {
    check(times()).await;
}

#[tokio::test]
async fn texts_and_bytes_keep_their_value() {
    check(texts()).await;
}

#[tokio::test]
async fn nested_values_keep_their_value() {
    check(nested()).await;
    check(blobs_inside()).await;
}
