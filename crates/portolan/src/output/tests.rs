//! Every format over rows of every type; Arrow and Parquet read back equal.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::*;
use arrow::record_batch::RecordBatch;
use portolan_model::{Error, ErrorKind};

use super::*;

fn extension(name: &str, kind: DataType, extension: &str) -> Field {
    Field::new(name, kind, true).with_metadata(HashMap::from([("ARROW:extension:name".into(), extension.into())]))
}

/// A row of ordinary values, a row of extremes, a row of nulls.
fn every_type() -> RecordBatch {
    let mut columns: Vec<(Field, ArrayRef)> = Vec::new();
    let mut add =
        |name: &str, array: ArrayRef| columns.push((Field::new(name, array.data_type().clone(), true), array));
    add("boolean", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])));
    add("int8", Arc::new(Int8Array::from(vec![Some(1), Some(i8::MIN), None])));
    add("int16", Arc::new(Int16Array::from(vec![Some(1), Some(i16::MIN), None])));
    add("int32", Arc::new(Int32Array::from(vec![Some(1), Some(i32::MIN), None])));
    add("int64", Arc::new(Int64Array::from(vec![Some(1), Some(i64::MIN), None])));
    add("uint8", Arc::new(UInt8Array::from(vec![Some(1), Some(u8::MAX), None])));
    add("uint16", Arc::new(UInt16Array::from(vec![Some(1), Some(u16::MAX), None])));
    add("uint32", Arc::new(UInt32Array::from(vec![Some(1), Some(u32::MAX), None])));
    add("uint64", Arc::new(UInt64Array::from(vec![Some(1), Some(u64::MAX), None])));
    add("float32", Arc::new(Float32Array::from(vec![Some(0.1), Some(f32::NEG_INFINITY), None])));
    add("float64", Arc::new(Float64Array::from(vec![Some(0.1), Some(f64::NAN), None])));
    add("float64_wide", Arc::new(Float64Array::from(vec![Some(1e300), Some(-0.0), None])));
    let decimal = Decimal128Array::from(vec![Some(150), Some(-(10_i128.pow(38) - 1)), None]);
    add("decimal128", Arc::new(decimal.with_precision_and_scale(38, 2).unwrap()));
    let wide = Decimal256Array::from(vec![Some(i256::from_i128(5)), Some(i256::from_i128(i128::MIN)), None]);
    add("decimal256", Arc::new(wide.with_precision_and_scale(65, 30).unwrap()));
    add("date", Arc::new(Date32Array::from(vec![Some(20_000), Some(-719_529), None])));
    add("date64", Arc::new(Date64Array::from(vec![Some(86_400_000), Some(-1), None])));
    add("time_ms", Arc::new(Time32MillisecondArray::from(vec![Some(1_500), Some(86_399_999), None])));
    add("time", Arc::new(Time64MicrosecondArray::from(vec![Some(0), Some(86_399_999_999), None])));
    add("timestamp_s", Arc::new(TimestampSecondArray::from(vec![Some(0), Some(-62_167_219_201), None])));
    add("timestamp_ms", Arc::new(TimestampMillisecondArray::from(vec![Some(1_001), Some(i64::MAX), None])));
    let micro = TimestampMicrosecondArray::from(vec![Some(1_767_323_045_000_006), Some(i64::MIN), None]);
    add("timestamp", Arc::new(micro.clone()));
    add("timestamp_utc", Arc::new(micro.with_timezone("UTC")));
    add("timestamp_ns", Arc::new(TimestampNanosecondArray::from(vec![Some(1), Some(i64::MAX), None])));
    add("duration", Arc::new(DurationMillisecondArray::from(vec![Some(1_500), Some(-1), None])));
    let interval = vec![
        Some(IntervalMonthDayNano::new(1, 2, 3_000_000_000)),
        Some(IntervalMonthDayNano::new(-1, 0, -500_000_000)),
        None,
    ];
    add("interval", Arc::new(IntervalMonthDayNanoArray::from(interval)));
    let text = "a,\"b\"\n\u{1b}[31m é — 漢字 \\";
    add("text", Arc::new(StringArray::from(vec![Some(text), Some(""), None])));
    add("text_large", Arc::new(LargeStringArray::from(vec![Some("NULL"), Some(" "), None])));
    add("text_view", Arc::new(StringViewArray::from(vec![Some("a view longer than twelve bytes"), Some("'"), None])));
    add("binary", Arc::new(BinaryArray::from(vec![Some(&b"\x00\xff"[..]), Some(b""), None])));
    let words: DictionaryArray<Int32Type> = vec![Some("x"), Some("y"), None].into_iter().collect();
    add("dictionary", Arc::new(words));
    let list = ListArray::from_iter_primitive::<Int64Type, _, _>(vec![Some(vec![Some(1), None]), Some(vec![]), None]);
    add("list", Arc::new(list));
    let fields = Fields::from(vec![Field::new("a", DataType::UInt64, true), Field::new("b\"", DataType::Utf8, true)]);
    let parts: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from(vec![Some(u64::MAX), None, None])),
        Arc::new(StringArray::from(vec![Some("q\""), None, None])),
    ];
    add("struct", Arc::new(StructArray::new(fields, parts, Some(NullBuffer::from(vec![true, true, false])))));
    let entries = StructArray::from(vec![
        (Arc::new(Field::new("key", DataType::Int64, false)), Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef),
        (Arc::new(Field::new("value", DataType::Utf8, true)), Arc::new(StringArray::from(vec![Some("x"), None])) as _),
    ]);
    let entry = Arc::new(Field::new("key_value", entries.data_type().clone(), false));
    let offsets = OffsetBuffer::new(vec![0, 2, 2, 2].into());
    let nulls = Some(NullBuffer::from(vec![true, true, false]));
    add("map", Arc::new(MapArray::new(entry, offsets, entries, nulls, false)));
    add("null", Arc::new(NullArray::new(3)));

    let json = StringArray::from(vec![
        Some("{ \"n\": 12345678901234567890.10,\n \"s\": \"a b\\\" {\" }"),
        Some("not json"),
        None,
    ]);
    columns.push((extension("json", DataType::Utf8, "arrow.json"), Arc::new(json)));
    let uuid =
        vec![Some([0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0, 1, 2, 3, 4, 5, 6, 7]), Some([0xff; 16]), None];
    let uuid = FixedSizeBinaryArray::try_from_sparse_iter_with_size(uuid.into_iter(), 16).unwrap();
    columns.push((extension("uuid", DataType::FixedSizeBinary(16), "arrow.uuid"), Arc::new(uuid)));
    let (fields, arrays): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
}

fn small(name: &str, values: Vec<i64>) -> Rows {
    let batch = RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(values)) as ArrayRef)]).unwrap();
    Rows { name: name.into(), schema: batch.schema(), batches: vec![batch] }
}

fn written(name: &str, options: &Options, results: &[Rows]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    deliver_rows(format(name).unwrap(), &Target::File(path.clone()), options, results).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing but the output is left");
    fs::read(path).unwrap()
}

fn text(name: &str, options: &Options, results: &[Rows]) -> String {
    String::from_utf8(written(name, options, results)).unwrap()
}

/// One line a column: a table of this width is unreadable as a snapshot.
fn by_column(name: &str) -> String {
    let batch = every_type();
    let mut shown = String::new();
    for place in 0..batch.num_columns() {
        let batch = batch.project(&[place]).unwrap();
        let rows = Rows { name: String::new(), schema: batch.schema(), batches: vec![batch] };
        shown.push_str(&text(name, &Options::default(), &[rows]));
    }
    shown
}

#[test]
fn csv_of_every_type() {
    insta::assert_snapshot!(by_column("csv"));
}

#[test]
fn json_lines_of_every_type() {
    let shown = by_column("ndjson");
    for line in shown.lines() {
        serde_json::from_str::<serde::de::IgnoredAny>(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn table_of_every_type() {
    insta::assert_snapshot!(by_column("table"));
}

#[test]
fn json_document_of_several_sources() {
    let named = Options { named: true, ..Options::default() };
    let results = [small("metrics", vec![1, 2]), small("orders", vec![])];
    let shown = text("json", &named, &results);
    serde_json::from_str::<serde::de::IgnoredAny>(&shown).unwrap();
    insta::assert_snapshot!(shown, @r#"
    {
    "metrics": [
    {"n":1},
    {"n":2}
    ],
    "orders": []
    }
    "#);
    assert_eq!(text("json", &named, &[]), "{}\n");
    assert_eq!(text("json", &Options::default(), &[small("", vec![])]), "[]\n");
    assert_eq!(
        text("ndjson", &named, &results),
        "{\"source\":\"metrics\",\"row\":{\"n\":1}}\n{\"source\":\"metrics\",\"row\":{\"n\":2}}\n"
    );
    insta::assert_snapshot!(text("table", &named, &results));
}

#[test]
fn formats_of_one_result_refuse_several() {
    for name in ["csv", "arrow", "parquet"] {
        let results = [small("a", vec![1]), small("b", vec![1])];
        let folder = tempfile::tempdir().unwrap();
        let target = Target::File(folder.path().join("out"));
        let error = deliver_rows(format(name).unwrap(), &target, &Options::default(), &results).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.hint().is_some());
    }
}

#[test]
fn arrow_and_parquet_read_back_equal() {
    let batch = every_type();
    let rows = || Rows { name: String::new(), schema: batch.schema(), batches: vec![batch.clone(), batch.slice(1, 1)] };
    let bytes = written("arrow", &Options::default(), &[rows()]);
    let read: Vec<_> = arrow::ipc::reader::StreamReader::try_new(io::Cursor::new(bytes), None).unwrap().collect();
    assert_eq!(read.into_iter().map(|batch| batch.unwrap()).collect::<Vec<_>>(), rows().batches);

    // Parquet has no place for these two.
    let kept: Vec<usize> = (0..batch.num_columns())
        .filter(|place| !matches!(batch.schema().field(*place).name().as_str(), "interval" | "map"))
        .collect();
    let batch = batch.project(&kept).unwrap();
    let rows = Rows { name: String::new(), schema: batch.schema(), batches: vec![batch.clone()] };
    let bytes = bytes::Bytes::from(written("parquet", &Options::default(), &[rows]));
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(bytes, 1024).unwrap();
    let read: Vec<RecordBatch> = reader.map(|batch| batch.unwrap()).collect();
    assert_eq!(read, [batch]);
}

#[tokio::test]
async fn a_table_stops_the_query_at_its_cap() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let result = small("", (0..10).collect());
    let schema = result.schema.clone();
    // Endless: only a writer that has enough ends it.
    let batches = futures_util::stream::repeat_with(move || Ok(result.batches[0].clone()));
    let options = Options { rows_max: Some(15), ..Options::default() };
    let target = Target::File(path.clone());
    let rows =
        deliver_stream(format("table").unwrap(), &target, &options, "", &schema, Box::pin(batches)).await.unwrap();
    assert_eq!(rows, 20);
    assert!(fs::read_to_string(path).unwrap().contains("the first 15 rows; there are more"));
}

#[tokio::test]
async fn a_failing_query_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    fs::write(&path, "before").unwrap();
    let result = small("", vec![1]);
    let target = Target::File(path.clone());
    for name in FORMATS.iter().map(|format| format.name) {
        let bad = Error::new(ErrorKind::Data, "read", "bad");
        let stream = Box::pin(futures_util::stream::iter([Ok(result.batches[0].clone()), Err(bad)]));
        let delivered =
            deliver_stream(format(name).unwrap(), &target, &Options::default(), "", &result.schema, stream).await;
        assert_eq!(delivered.unwrap_err().kind(), ErrorKind::Data, "{name}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "before", "{name}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "{name}");
    }
}

/// A sink whose reader has gone, or whose disk is full.
struct Failing(io::ErrorKind);

impl Write for Failing {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Err(self.0.into())
    }
}

#[test]
fn failed_writes_are_told_apart_in_every_format() {
    let rows = small("a", vec![1]);
    for format in &FORMATS {
        for (io, kind, gone) in [
            (io::ErrorKind::BrokenPipe, ErrorKind::Storage, true),
            (io::ErrorKind::StorageFull, ErrorKind::StorageFull, false),
        ] {
            let mut writer = (format.open)(Box::new(Failing(io)), &Options::default());
            let error = write_all(writer.as_mut(), std::slice::from_ref(&rows), &mut 0)
                .and_then(|()| writer.finish())
                .unwrap_err();
            assert_eq!((error.kind(), target::reader_is_gone(&error)), (kind, gone), "{} {error:?}", format.name);
        }
    }
}

#[test]
fn formats_have_distinct_names_and_say_what_they_are() {
    let names: std::collections::BTreeSet<_> = FORMATS.iter().map(|format| format.name).collect();
    assert_eq!(names.len(), FORMATS.len());
    assert!(FORMATS.iter().all(|format| !format.summary.is_empty()));
    let error = format("xml").err().unwrap();
    assert!(FORMATS.iter().all(|format| error.hint().unwrap().contains(format.name)));
}
