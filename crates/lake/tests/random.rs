//! Random rounds with random types: DuckDB and the lake's own reader see every value, wherever it is kept.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::DataType;
use common::*;
use portolan_lake::{At, LakeReader, LakeSettings, VerifyScope};
use portolan_model::clock::SystemClock;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Values {
    Int8(Vec<Option<i8>>),
    Int32(Vec<Option<i32>>),
    Int64(Vec<Option<i64>>),
    UInt64(Vec<Option<u64>>),
    Float32(Vec<Option<f32>>),
    Float64(Vec<Option<f64>>),
    Text(Vec<Option<String>>),
    Bytes(Vec<Option<Vec<u8>>>),
    Decimal(Vec<Option<i64>>, u8),
    Timestamp(Vec<Option<i32>>),
    List(Vec<Option<Vec<Option<String>>>>),
}

impl Values {
    fn array(&self) -> ArrayRef {
        match self {
            Self::Int8(values) => Arc::new(Int8Array::from(values.clone())),
            Self::Int32(values) => Arc::new(Int32Array::from(values.clone())),
            Self::Int64(values) => Arc::new(Int64Array::from(values.clone())),
            Self::UInt64(values) => Arc::new(UInt64Array::from(values.clone())),
            Self::Float32(values) => Arc::new(Float32Array::from(values.clone())),
            Self::Float64(values) => Arc::new(Float64Array::from(values.clone())),
            Self::Text(values) => Arc::new(StringArray::from(values.clone())),
            Self::Bytes(values) => Arc::new(values.iter().map(|v| v.as_deref()).collect::<BinaryArray>()),
            Self::Decimal(values, scale) => {
                let values: Decimal128Array = values.iter().map(|v| v.map(i128::from)).collect();
                Arc::new(values.with_precision_and_scale(20, *scale as i8).unwrap())
            }
            Self::Timestamp(values) => {
                Arc::new(values.iter().map(|v| v.map(i64::from)).collect::<TimestampMicrosecondArray>())
            }
            Self::List(values) => {
                let mut builder = ListBuilder::new(StringBuilder::new());
                for value in values {
                    match value {
                        Some(items) => {
                            items.iter().for_each(|item| builder.values().append_option(item.as_deref()));
                            builder.append(true);
                        }
                        None => builder.append(false),
                    }
                }
                Arc::new(builder.finish())
            }
        }
    }
}

fn values(rows: usize) -> impl Strategy<Value = Values> {
    fn several<T: std::fmt::Debug + Clone>(
        value: impl Strategy<Value = T>,
        rows: usize,
    ) -> impl Strategy<Value = Vec<Option<T>>> {
        prop::collection::vec(prop::option::weighted(0.85, value), rows)
    }
    let text = "[a-z'\"\\\\,:={}\\[\\] é\u{0}\n]{0,8}";
    prop_oneof![
        several(any::<i8>(), rows).prop_map(Values::Int8),
        several(any::<i32>(), rows).prop_map(Values::Int32),
        several(any::<i64>(), rows).prop_map(Values::Int64),
        several(any::<u64>(), rows).prop_map(Values::UInt64),
        several(any::<f32>(), rows).prop_map(Values::Float32),
        several(any::<f64>(), rows).prop_map(Values::Float64),
        several(text, rows).prop_map(Values::Text),
        several(prop::collection::vec(any::<u8>(), 0..6), rows).prop_map(Values::Bytes),
        (several(any::<i64>(), rows), 0u8..10).prop_map(|(values, scale)| Values::Decimal(values, scale)),
        several(any::<i32>(), rows).prop_map(Values::Timestamp),
        several(prop::collection::vec(prop::option::of("[a-z'\"\\\\,:={}\\[\\] é\n]{0,6}"), 0..4), rows)
            .prop_map(Values::List),
    ]
}

type Batch = Vec<(usize, Values)>;

fn batches() -> impl Strategy<Value = Vec<Batch>> {
    let batch = (1usize..5).prop_flat_map(|rows| {
        prop::collection::btree_map(0usize..4, values(rows), 1..4)
            .prop_map(|columns| columns.into_iter().collect::<Batch>())
    });
    prop::collection::vec(batch, 1..6)
}

fn record_batch(batch: &Batch) -> RecordBatch {
    let columns = batch.iter().map(|(name, values)| (["a", "b", "C", "c"][*name], values.array(), true));
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

/// Every value of a batch that is not null, as a canonical text, whichever column it ends in.
fn texts(array: &ArrayRef) -> Vec<String> {
    let array = match array.data_type() {
        // Numbers are the same number whatever the width of their column.
        DataType::Int8 | DataType::Int16 | DataType::Int32 => arrow::compute::cast(array, &DataType::Int64).unwrap(),
        DataType::Float32 => arrow::compute::cast(array, &DataType::Float64).unwrap(),
        _ => array.clone(),
    };
    (0..array.len())
        .filter(|row| array.is_valid(*row))
        .map(|row| match array.data_type() {
            DataType::Float64 => {
                let value = array.as_primitive::<arrow::datatypes::Float64Type>().value(row);
                if value.fract() == 0.0 && value.abs() <= 9e15 { format!("{value:.0}") } else { format!("{value:?}") }
            }
            DataType::Decimal128(..) => {
                let text = arrow::util::display::array_value_to_string(&array, row).unwrap();
                let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
                text.to_owned()
            }
            DataType::Binary => format!("{:?}", array.as_binary::<i32>().value(row)),
            _ => arrow::util::display::array_value_to_string(&array, row).unwrap(),
        })
        .collect()
}

fn multiset<'a>(batches: impl Iterator<Item = &'a RecordBatch>) -> Vec<String> {
    let mut all = Vec::new();
    for batch in batches {
        let schema = batch.schema();
        let columns = schema.fields().iter().zip(batch.columns());
        all.extend(columns.filter(|(field, _)| !field.name().starts_with('_')).flat_map(|(_, array)| texts(array)));
    }
    all.sort();
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost(batches in batches()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let sent: Vec<RecordBatch> = batches.iter().map(record_batch).collect();
            let mut answers = Vec::new();
            for inline_rows in [1_000, 2, 0] {
                let folder = tempfile::tempdir().unwrap();
                let flush_after = std::time::Duration::ZERO;
                let lake = open(folder.path(), LakeSettings { inline_rows, flush_after, ..settings() }).await;
                for batch in &sent {
                    round(&lake, spec("t"), std::slice::from_ref(batch)).await.unwrap();
                }
                for pass in 0..3 {
                    let head = at(folder.path(), At::Head);
                    let table = head.table("main", "t").unwrap().unwrap();
                    let found = rows(&head, &table);
                    prop_assert_eq!(multiset(sent.iter()), multiset(found.iter()), "inline {} pass {}", inline_rows, pass);
                    let reader = LakeReader::open(folder.path()).unwrap();
                    for full in [false, true] {
                        let scope = VerifyScope { full, ..VerifyScope::default() };
                        let report = reader.verify(&scope, &mut |_| {}).unwrap();
                        prop_assert!(report.is_sound() && report.unproved.is_empty(), "{:#?}", report);
                        prop_assert_eq!(report.tables[0].rounds, sent.len() as u64);
                    }
                    let report = portolan_lake::fsck(folder.path(), &SystemClock::new(), &mut |_| {}).unwrap();
                    prop_assert!(report.findings.is_empty(), "{:#?}", report);
                    if pass < 2 {
                        lake.maintain().await.unwrap();
                    }
                }
                let names: Vec<String> = {
                    let head = at(folder.path(), At::Head);
                    let table = head.table("main", "t").unwrap().unwrap();
                    table.columns.iter().map(|column| format!("\"{}\"::varchar", column.name)).collect()
                };
                let sql = format!("select {} from t order by rowid", names.join(", "));
                answers.push(duck(folder.path(), &[&sql]).remove(0));
            }
            prop_assert_eq!(&answers[0], &answers[2], "inlined and in files, by DuckDB");
            prop_assert_eq!(&answers[1], &answers[2], "some inlined and in files, by DuckDB");
            Ok(())
        })?;
    }
}
