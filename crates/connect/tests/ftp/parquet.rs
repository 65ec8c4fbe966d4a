//! Parquet files: of our own writer and of DuckDB's, once each, damaged ones, larger ones than allowed.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use portolan_model::{ErrorKind, Position};
use portolan_testkit::duckdb;
use serde_json::json;

use crate::support::*;

/// A file of rows with these ids, in row groups of a hundred.
fn file(ids: std::ops::Range<i64>) -> Vec<u8> {
    let names = StringArray::from_iter_values(ids.clone().map(|id| format!("name {id}")));
    let columns: [(&str, ArrayRef); 2] =
        [("id", Arc::new(Int64Array::from_iter_values(ids))), ("name", Arc::new(names))];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(100)).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

fn ids(output: &Collected) -> Vec<i64> {
    output.rows().iter().map(|row| row["id"].as_i64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_state_of_a_file_is_read_once() {
    for server in servers() {
        let mut position = None;
        let mut source = open(&server, "path = \"/out/*\"");
        let first = file(0..250);
        server.write("out/a.parquet", &first).unwrap();
        server.write("out/empty.PARQUET", "").unwrap();
        server.touch("out/a.parquet", 1_600_000_000).unwrap();
        let output = read_on(&mut source, &mut position).await;
        assert_eq!(ids(&output), (0..250).collect::<Vec<_>>());
        assert_eq!(output.rows()[7], json!({ "id": 7, "name": "name 7", "_file": "/out/a.parquet" }));
        assert!(output.payload == first);
        // The same bytes with another time: nothing.
        server.touch("out/a.parquet", 1_600_000_100).unwrap();
        let output = read_on(&mut source, &mut position).await;
        assert_eq!((output.rows().len(), output.reasons().len(), output.payload.len()), (0, 0, 0));
        // Another file beside, and other bytes.
        server.write("out/b.parquet", file(300..301)).unwrap();
        server.write("out/a.parquet", file(250..260)).unwrap();
        let output = read_on(&mut source, &mut position).await;
        assert_eq!(ids(&output), (250..260).chain([300]).collect::<Vec<_>>());
        assert_eq!(output.reasons(), ["file_replaced"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_shall_end_ends_between_files() {
    for server in servers() {
        for name in 0..3_i64 {
            server.write(&format!("out/{name}.parquet"), file(name * 300..name * 300 + 300)).unwrap();
        }
        let mut source = open(&server, "path = \"/out/*.parquet\"");
        let (mut seen, mut position) = (Vec::new(), None::<Position>);
        for is_last in [false, false, true] {
            source.prepare().await.unwrap();
            let mut output = Collected { has_enough: true, ..Collected::default() };
            let end = source.read(position.as_ref(), &mut output).await.unwrap();
            assert_eq!(end.more, !is_last);
            assert_eq!(ids(&output).len(), 300);
            seen.extend(ids(&output));
            position = end.position;
        }
        assert_eq!(seen, (0..900).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_whole_file_is_an_error_that_names_it() {
    for server in servers() {
        let mut source = open(&server, "path = \"/out/*\"\nformat = \"parquet\"\nmax_file = \"20KiB\"");
        let whole = file(0..250);
        for (content, kind, words) in [
            (whole[..whole.len() - 9].to_vec(), ErrorKind::Data, "not a Parquet file"),
            (b"id\n1\n22222222\n".to_vec(), ErrorKind::Data, "not a Parquet file"),
            (vec![7; 20 * 1024 + 1], ErrorKind::Limit, "max_file"),
        ] {
            server.write("out/a.dat", content).unwrap();
            let error = failure(&mut source).await;
            assert_eq!(error.kind(), kind, "{error:?}");
            assert!(error.message().contains("/out/a.dat") && error.message().contains(words), "{error:?}");
        }
        server.write("out/a.dat", &whole).unwrap();
        assert_eq!(ids(&read(&mut source, None).await.unwrap().0).len(), 250);
        let mut source = open(&server, "path = \"/out/*\"\nformat = \"parquet\"\nfile_column = \"NAME\"");
        let error = failure(&mut source).await;
        assert!(error.kind() == ErrorKind::Data && error.message().contains("of their own"), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_another_writer_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let [server, _] = servers();
    let select = "select i as id, 'text ' || (i % 50) as label, i::decimal(18, 3) / 8 as amount, i::hugeint as huge, \
                  case when i % 3 = 0 then null else timestamptz '2026-01-02 03:04:05+00' + interval (i) second end as at, \
                  date '2026-01-02' + i::int as day, time '01:02:03.5' as t, uuid '00000000-0000-0000-0000-00000000000a' as u, \
                  [i, i + 1] as list, {'a': i, 'b': 'x'} as part, map { 'k': i } as pairs, '\\x00\\xff'::blob as bytes, \
                  i::utinyint as small, i % 2 = 0 as even, i / 4.0::double as ratio from range(120) r(i)";
    for (name, options) in [
        ("snappy", "codec snappy"),
        ("zstd", "codec zstd, parquet_version v2"),
        ("gzip", "codec gzip, row_group_size 2048"),
        ("lz4_raw", "codec lz4_raw, parquet_version v2"),
        ("uncompressed", "codec uncompressed"),
    ] {
        let path = folder.path().join(format!("{name}.parquet"));
        let copy = format!("copy ({select}) to '{}' (format parquet, {options})", path.display());
        let session = duckdb::Session { folder: folder.path(), snapshot: None, write: true };
        session.run(&[copy.as_str()]).unwrap();
        server.write("out/a.parquet", std::fs::read(&path).unwrap()).unwrap();
        let (output, _) = read(&mut open(&server, "path = \"/out/a.parquet\""), None).await.unwrap();
        let rows = output.rows();
        assert_eq!(rows.len(), 120, "{name}");
        let row = &rows[7];
        assert_eq!((&row["label"], &row["list"]), (&json!("text 7"), &json!([7, 8])), "{name}: {row}");
        assert_eq!((&row["part"], &row["pairs"]), (&json!({ "a": 7, "b": "x" }), &json!({ "k": 7 })), "{name}: {row}");
        assert_eq!(
            (&row["small"], &row["even"], &row["ratio"]),
            (&json!(7), &json!(false), &json!(1.75)),
            "{name}: {row}"
        );
        let types: Vec<String> = output.batches[0]
            .schema()
            .fields()
            .iter()
            .map(|field| format!("{} {}", field.name(), field.data_type()))
            .collect();
        for expected in ["id Int64", "label Utf8", "day Date32", "u FixedSizeBinary(16)", "bytes Binary", "small UInt8"]
        {
            assert!(types.iter().any(|found| found == expected), "{name}: {types:?}");
        }
    }
    let path = folder.path().join("brotli.parquet");
    let copy = format!("copy ({select}) to '{}' (format parquet, codec brotli)", path.display());
    duckdb::Session { folder: folder.path(), snapshot: None, write: true }.run(&[copy.as_str()]).unwrap();
    server.write("out/a.parquet", std::fs::read(&path).unwrap()).unwrap();
    let error = failure(&mut open(&server, "path = \"/out/a.parquet\"")).await;
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.message().contains("BROTLI") && error.message().contains("`id`"), "{error:?}");
}
