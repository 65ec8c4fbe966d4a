//! What the collector's sources yield in the test of our own lake, round by round.

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, Field};
use portolan_model::source::QuarantineItem;
use serde_json::json;

use super::collector::{Yield, appended, replaced};
use super::values::{self, Draw, Pool, TEXTS, pool};

/// Columns whose types change from round to round; each step is two rounds, one inlined and one in a file.
fn changes(step: usize) -> Vec<Pool> {
    let texts = || StringArray::from(vec![Some("text"), Some("7"), Some("it's"), None]);
    let list = |values: &[Option<i32>]| {
        ListArray::from_iter_primitive::<arrow::datatypes::Int32Type, _, _>(vec![
            Some(values.to_vec()),
            Some(vec![]),
            None,
        ])
    };
    let structure = |parts: Vec<(&str, ArrayRef)>| {
        StructArray::from(
            parts
                .into_iter()
                .map(|(name, array)| (Arc::new(Field::new(name, array.data_type().clone(), true)), array))
                .collect::<Vec<_>>(),
        )
    };
    let numbers = || Arc::new(Int32Array::from(vec![Some(1), None])) as ArrayRef;
    let words = || Arc::new(StringArray::from(vec![Some("{y}"), None])) as ArrayRef;
    let decimals = |values: Vec<i128>, precision, scale| {
        Decimal128Array::from(values).with_precision_and_scale(precision, scale).unwrap()
    };
    match step {
        0 => vec![
            pool("a", Int8Array::from(vec![Some(-128), Some(127), None])),
            pool("b", texts()),
            pool("f", Float32Array::from(vec![Some(1.1), Some(f32::NAN), None])),
            pool("d", decimals(vec![12_345, -1], 9, 2)),
            pool("t", TimestampSecondArray::from(vec![Some(-1), Some(1_577_934_245), None])),
            pool("l", list(&[Some(1), None])),
            pool("s", structure(vec![("x", numbers())])),
            pool("gone", texts()),
        ],
        1 => vec![
            pool("a", UInt8Array::from(vec![Some(255), None])),
            pool("b", texts()),
            pool("d", decimals(vec![999, -5], 5, 1)),
            pool("t", TimestampMicrosecondArray::from(vec![Some(1_000), Some(1), None])),
            pool(
                "l",
                ListArray::new(
                    Arc::new(Field::new("item", DataType::Utf8, true)),
                    arrow::buffer::OffsetBuffer::from_lengths([2, 2]),
                    Arc::new(texts()),
                    None,
                ),
            ),
            pool("s", structure(vec![("x", numbers()), ("y", words())])),
            pool("new column", BooleanArray::from(vec![Some(true), None])),
        ],
        2 => vec![
            pool("a", Int32Array::from(vec![Some(i32::MIN), Some(i32::MAX), None])),
            pool("b", Int64Array::from(vec![Some(7), Some(i64::MIN), None])),
            pool("f", Float64Array::from(vec![Some(0.1), Some(1e300), None])),
            pool("d", decimals(vec![10i128.pow(38) - 1, 15], 38, 10)),
            pool("l", ListArray::new_null(Arc::new(Field::new("item", DataType::Null, true)), 2)),
            pool("gone", NullArray::new(1)),
        ],
        3 => vec![
            pool("a", UInt32Array::from(vec![Some(u32::MAX), Some(3), None])),
            pool("b", BooleanArray::from(vec![Some(false), None])),
            pool("f", Int64Array::from(vec![Some(1 << 53), Some((1 << 53) + 1), None])),
            pool("d", Int64Array::from(vec![Some(7), Some(i64::MAX), None])),
            pool("B", texts()),
            pool("row_id", Int64Array::from(vec![1, 2])),
            pool("_round", texts()),
            pool("a \"quoted\" name; --", Int64Array::from(vec![1, 2])),
        ],
        4 => vec![
            pool("a", UInt64Array::from(vec![Some(u64::MAX), Some(9), None])),
            pool("d", Float64Array::from(vec![Some(0.5), Some(1e300), Some(f64::NAN), None])),
            pool("t", TimestampMicrosecondArray::from(vec![Some(1), Some(1_500_000), None]).with_timezone("UTC")),
            pool("B", Int8Array::from(vec![1, 2])),
        ],
        5 => vec![
            pool("a", Float64Array::from(vec![Some(2.0), Some(2.5), Some(-0.0), Some(f64::INFINITY), None])),
            pool("t", TimestampNanosecondArray::from(vec![Some(1), Some(1_500_000_000), None])),
            pool("l", Int8Array::from(vec![Some(1), None])),
            pool("s", texts()),
        ],
        6 => Vec::new(),
        _ => vec![
            pool("a", list(&[Some(7)])),
            pool("b", structure(vec![("x", numbers())])),
            pool("s", structure(vec![("x", numbers())])),
        ],
    }
}

/// The sources of one round, in the order of the story.
pub(crate) fn yields(round: usize, draw: &mut Draw) -> Vec<Yield> {
    let is_large = round % 3 == 2;
    let count = if is_large { 20 + draw.below(20) } else { 1 + draw.below(6) };
    let first = round as i64 * 100;
    let keys: ArrayRef = Arc::new((0..count as i64).map(|row| (round as i64 / 2) * 5 + row).collect::<Int64Array>());
    let words: ArrayRef =
        Arc::new((0..count).map(|row| TEXTS[(round * 11 + row) % TEXTS.len()]).map(Some).collect::<StringArray>());
    let pairs = RecordBatch::try_from_iter_with_nullable([("key", keys, true), ("value", words, true)]).unwrap();
    let mut keyed = appended("keyed", vec![pairs.clone(), pairs.slice(0, 1)]);
    keyed.spec.key = vec!["key".to_owned()];
    let mut scalars = appended("scalars", vec![values::rows(&values::scalars(), draw, first, count)]);
    if round % 4 == 1 {
        scalars.quarantine = (0..count)
            .map(|row| QuarantineItem {
                reason: "zero_date",
                column: (row % 2 == 0).then(|| TEXTS[row % TEXTS.len()].to_owned()),
                row: json!({ "id": row }),
                content: TEXTS[(round + row) % TEXTS.len()].to_owned(),
                detail: "it's no \"date\"\n".to_owned(),
            })
            .collect();
    }
    let mut yields = vec![
        scalars,
        appended("nested", vec![values::rows(&values::nested(), draw, first, count)]),
        appended("order", vec![values::rows(&changes(round / 2), draw, first, count)]),
        replaced("state", vec![pairs]),
        keyed,
    ];
    if round == 1 || round == 9 {
        // More than a batch of a file, and than what is done without a thread of its own.
        let wanted = ["boolean", "int8", "float64x", "date32", "utf8"];
        let mut pools = values::scalars();
        pools.retain(|(field, _)| wanted.contains(&field.name().as_str()));
        let first = 100_000 * round as i64;
        let batches = [(0, 9_000), (9_000, 3_000)];
        let batches = batches.map(|(from, count)| values::rows(&pools, draw, first + from, count));
        yields.push(appended("many", batches.to_vec()));
    }
    if round.is_multiple_of(2) {
        yields.push(appended("documents", vec![values::rows(&values::nested_json(), draw, first, count)]));
        yields.push(appended("bytes", vec![values::rows(&values::nested_bytes(), draw, first, count)]));
    }
    yields
}
