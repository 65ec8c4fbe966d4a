//! Parquet of many codecs and types, damaged and hostile files.

use arrow::array::{
    ArrayRef, AsArray, BinaryArray, Decimal128Array, DictionaryArray, FixedSizeBinaryArray, Float64Array, Int64Array,
    IntervalDayTimeArray, LargeStringArray, ListArray, StringArray, TimestampMicrosecondArray, UInt8Array,
};
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, GzipLevel, ZstdLevel};
use parquet::data_type::{Int96, Int96Type};
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use portolan_model::ErrorKind;

use super::*;

fn written(batch: &RecordBatch, properties: WriterPropertiesBuilder) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.build())).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    bytes
}

fn read(bytes: &[u8]) -> Result<Vec<RecordBatch>> {
    let mut batches = Vec::new();
    let rows = decode(&Body::Memory(Bytes::copy_from_slice(bytes)), &mut |item| {
        let Item::Batch(batch) = item else { panic!("quarantined") };
        batches.push(batch);
        Ok(())
    })?;
    assert_eq!(rows, batches.iter().map(|batch| batch.num_rows() as u64).sum::<u64>());
    Ok(batches)
}

/// Columns of many types, with nulls.
fn sample(rows: i64) -> RecordBatch {
    let ids: ArrayRef = Arc::new((0..rows).map(|row| (row % 7 != 3).then_some(row)).collect::<Int64Array>());
    let texts: Vec<String> = (0..rows).map(|row| format!("text {}", row % 100)).collect();
    let lists = (0..rows).map(|row| (row % 5 != 0).then(|| (0..row % 4).map(Some).collect::<Vec<_>>()));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", ids),
        ("text", Arc::new(StringArray::from_iter_values(&texts))),
        ("large", Arc::new(LargeStringArray::from_iter_values(&texts))),
        ("label", Arc::new(texts.iter().map(String::as_str).collect::<DictionaryArray<Int32Type>>())),
        ("bytes", Arc::new(BinaryArray::from_iter_values(texts.iter().map(String::as_bytes)))),
        ("small", Arc::new((0..rows).map(|row| row as u8).collect::<UInt8Array>())),
        ("ratio", Arc::new((0..rows).map(|row| row as f64 / 3.0).collect::<Float64Array>())),
        (
            "amount",
            Arc::new(
                (0..rows)
                    .map(|row| Some(i128::from(row) * 1_001))
                    .collect::<Decimal128Array>()
                    .with_precision_and_scale(18, 3)
                    .unwrap(),
            ),
        ),
        ("at", Arc::new((0..rows).map(Some).collect::<TimestampMicrosecondArray>().with_timezone("+00:00"))),
        ("list", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

fn shown(batches: &[RecordBatch]) -> String {
    arrow::util::pretty::pretty_format_batches(batches).unwrap().to_string()
}

#[test]
fn values_come_as_they_were_written_by_any_codec() {
    let batch = sample(2_000);
    let zstd = Compression::ZSTD(ZstdLevel::default());
    let gzip = Compression::GZIP(GzipLevel::default());
    for codec in [Compression::UNCOMPRESSED, Compression::SNAPPY, gzip, zstd, Compression::LZ4, Compression::LZ4_RAW] {
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            for has_dictionary in [true, false] {
                let properties = WriterProperties::builder()
                    .set_compression(codec)
                    .set_writer_version(version)
                    .set_dictionary_enabled(has_dictionary)
                    .set_max_row_group_row_count(Some(700));
                let batches = read(&written(&batch, properties)).unwrap();
                assert_eq!(shown(&batches), shown(std::slice::from_ref(&batch)), "{codec:?}");
                let types: Vec<String> =
                    batches[0].schema().fields().iter().map(|field| field.data_type().to_string()).collect();
                assert_eq!(&types[1..5], ["Utf8", "Utf8", "Utf8", "Binary"]);
            }
        }
    }
}

#[test]
fn a_large_text_in_a_dictionary_makes_small_batches() {
    let text = "x".repeat(1 << 20);
    let texts = StringArray::from_iter_values(std::iter::repeat_n(text.as_str(), 300));
    let batch = RecordBatch::try_from_iter([("text", Arc::new(texts) as ArrayRef)]).unwrap();
    let bytes = written(&batch, WriterProperties::builder().set_dictionary_page_size_limit(4 << 20));
    assert!(bytes.len() < 4 << 20, "{}", bytes.len());
    let batches = read(&bytes).unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 300);
    for batch in batches {
        assert!(batch.get_array_memory_size() < 3 * BATCH_BYTES, "{}", batch.get_array_memory_size());
    }
}

#[test]
fn columns_have_names_and_what_parquet_says_of_them() {
    let message = "message m { required int32 a; required int32 a; required fixed_len_byte_array(16) u (UUID);
                   required binary j (JSON); }";
    let schema = Arc::new(parse_message_type(message).unwrap());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut place = 0;
    while let Some(mut column) = group.next_column().unwrap() {
        use parquet::data_type as ty;
        match place {
            2 => drop(column.typed::<ty::FixedLenByteArrayType>().write_batch(&[vec![7; 16].into()], None, None)),
            3 => drop(column.typed::<ty::ByteArrayType>().write_batch(&["{}".into()], None, None)),
            _ => drop(column.typed::<ty::Int32Type>().write_batch(&[place], None, None)),
        }
        column.close().unwrap();
        place += 1;
    }
    group.close().unwrap();
    writer.close().unwrap();
    let batch = read(&bytes).unwrap().remove(0);
    let schema = batch.schema();
    let found: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| (field.name().as_str(), field.metadata().get(EXTENSION_KEY).map_or("", String::as_str)))
        .collect();
    assert_eq!(found, [("a", ""), ("a_2", ""), ("u", "arrow.uuid"), ("j", "arrow.json")]);
    assert_eq!(batch.column(2).as_any().downcast_ref::<FixedSizeBinaryArray>().unwrap().value(0), [7; 16]);
}

fn int96(values: &[(u32, u64)]) -> Vec<u8> {
    let schema = Arc::new(parse_message_type("message m { required int96 at; }").unwrap());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let values: Vec<Int96> = values
        .iter()
        .map(|(day, nanoseconds)| {
            let mut value = Int96::new();
            value.set_data(*nanoseconds as u32, (nanoseconds >> 32) as u32, *day);
            value
        })
        .collect();
    column.typed::<Int96Type>().write_batch(&values, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    bytes
}

#[test]
fn outdated_instants_are_exact_or_refused() {
    let batches = read(&int96(&[(2_440_588, 1), (2_440_587, 86_399_999_999_999)])).unwrap();
    let values = batches[0].column(0).as_primitive::<TimestampNanosecondType>();
    assert_eq!(values.values(), &[1, -1]);
    // 9999-12-31.
    let error = read(&int96(&[(2_440_588, 1), (5_373_484, 0)])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.message().contains("`at`") && error.message().contains("1677"), "{error:?}");
}

#[test]
fn what_cannot_be_stored_names_its_column() {
    let interval = IntervalDayTimeArray::from(vec![None]);
    let batch = RecordBatch::try_from_iter([("pause", Arc::new(interval) as ArrayRef)]).unwrap();
    let error = read(&written(&batch, WriterProperties::builder())).unwrap_err();
    assert!(error.kind() == ErrorKind::Data && error.message().contains("`pause`"), "{error:?}");
}

#[test]
fn files_that_are_none_are_errors() {
    let whole = written(&sample(50), WriterProperties::builder());
    let end = whole.len();
    let mut long = whole.clone();
    long[end - 8..end - 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut encrypted = whole.clone();
    encrypted[end - 4..].copy_from_slice(b"PARE");
    for (bytes, words) in [
        (&b"PAR1"[..], "not a Parquet file"),
        (b"id,name\n1,a\n", "not a Parquet file"),
        (&whole[..end / 2], "not a Parquet file"),
        (&long, "a footer of 4294967295 bytes"),
        (&encrypted, "encrypted"),
    ] {
        let error = read(bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data, "{error:?}");
        assert!(error.message().contains(words), "{error:?}");
    }
    // Rows that the footer counts and the pages do not have.
    let mut pages_lost = vec![b'P', b'A', b'R', b'1'];
    pages_lost.extend_from_slice(&whole[end - 4_000..]);
    assert_eq!(read(&pages_lost).unwrap_err().kind(), ErrorKind::Data);
}

#[test]
fn a_codec_that_is_not_read_is_named_with_its_column() {
    // `codec` is the fourth field of the column's metadata: 1 is SNAPPY, 4 is BROTLI, in zigzag 2 and 8.
    let ids = Int64Array::from(vec![1, 2]);
    let batch = RecordBatch::try_from_iter([("identity", Arc::new(ids) as ArrayRef)]).unwrap();
    let mut bytes = written(&batch, WriterProperties::builder().set_compression(Compression::SNAPPY));
    let places: Vec<usize> =
        (0..bytes.len() - 11).filter(|at| bytes[*at..].starts_with(b"\x18\x08identity\x15\x02")).collect();
    assert_eq!(places.len(), 1, "the footer is written in another way now");
    bytes[places[0] + 11] = 8;
    let error = read(&bytes).unwrap_err();
    assert!(error.message().contains("`identity`") && error.message().contains("BROTLI"), "{error:?}");
    assert!(error.hint().unwrap().contains("ZSTD"));
}

#[test]
fn no_damaged_byte_panics() {
    let properties = || WriterProperties::builder().set_compression(Compression::SNAPPY);
    let whole = written(&sample(40), properties());
    let mut refused = 0;
    for at in 0..whole.len() {
        for change in [0xff, 0x01, 0x80] {
            let mut bytes = whole.clone();
            bytes[at] ^= change;
            refused += u32::from(read(&bytes).is_err());
        }
    }
    assert!(refused > 1_000, "{refused}");
}

/// Found by fuzzing: a field that nobody knows, a list of two thousand million truth values, which have no bytes for the
/// reader.
#[test]
fn lists_without_bytes_take_no_time() {
    let file = include_bytes!("../../../../../fuzz/seeds/parquet_file/boolean_list");
    assert_eq!(read(file).unwrap_err().kind(), ErrorKind::Data);
}

#[test]
fn a_page_of_gzip_may_not_unpack_to_more_than_it_says() {
    let mut state = 1_u32;
    let text: String = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b' ' + (state >> 26) as u8)
    })
    .take(500_000)
    .collect();
    let batch =
        RecordBatch::try_from_iter([("text", Arc::new(StringArray::from(vec![text.as_str()])) as ArrayRef)]).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(Compression::GZIP(GzipLevel::try_new(1).unwrap()))
        .set_dictionary_enabled(false)
        .set_statistics_enabled(parquet::file::properties::EnabledStatistics::None);
    let mut bytes = written(&batch, properties);
    assert_eq!(read(&bytes).unwrap()[0].num_rows(), 1);
    // The second field of the first page header is the size, here in three bytes: it shall say 1000.
    let start = bytes.iter().position(|byte| *byte == 0x15).unwrap();
    let sizes = &bytes[start..start + 16];
    let unpacked = sizes.iter().skip(1).position(|byte| *byte == 0x15).unwrap() + start + 1;
    bytes.splice(unpacked + 1..unpacked + 4, [0xd0, 0x8f, 0x00]);
    let error = read(&bytes).unwrap_err();
    assert!(error.message().contains("unpacks to more"), "{error:?}");
}

#[test]
fn lengths_are_counted_before_they_are_kept() {
    let texts: Vec<String> = (0..300).map(|row| format!("text {row}")).collect();
    for encoding in [Encoding::DELTA_LENGTH_BYTE_ARRAY, Encoding::DELTA_BYTE_ARRAY] {
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            let array = Arc::new(StringArray::from_iter_values(&texts)) as ArrayRef;
            let batch = RecordBatch::try_from_iter_with_nullable([("text", array, true)]).unwrap();
            let properties = WriterProperties::builder()
                .set_writer_version(version)
                .set_dictionary_enabled(false)
                .set_encoding(encoding);
            let mut bytes = written(&batch, properties);
            assert_eq!(shown(&read(&bytes).unwrap()), shown(std::slice::from_ref(&batch)), "{encoding}");
            // A block of 128 numbers in four, of which there are 300: there shall be 16,383.
            let head = [0x80, 0x01, 0x04, 0xac, 0x02];
            let place = bytes.windows(5).position(|window| window == head).unwrap();
            bytes[place + 3..place + 5].copy_from_slice(&[0xff, 0x7f]);
            let error = read(&bytes).unwrap_err();
            assert!(error.kind() == ErrorKind::Data && error.message().contains("length"), "{encoding} {error:?}");
        }
    }
}
