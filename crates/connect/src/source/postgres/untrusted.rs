//! Tests: any bytes are taken for descriptions and rows. `fuzz/` drives the same decoder for longer.

use proptest::prelude::*;

use super::columns::{Facts, Selected, Type};
use super::decode::RowDecoder;
use super::values::CONTENT_BYTES_MAX;
use super::wire::Column;
use super::wire::answer::{ServerError, columns};
use super::wire::reader::Malformed;

/// Types of which the bytes choose: built-in ones, an enum, an array of numbers, of words and of composites, and a composite.
const TYPES: [u32; 26] = [
    16, 17, 20, 21, 23, 25, 26, 114, 700, 701, 790, 1082, 1083, 1114, 1184, 1186, 1700, 2950, 3802, 5069, 600, 90_001,
    90_002, 90_003, 90_004, 90_005,
];

fn facts() -> Facts {
    let composite = Type::Composite(vec![("a".into(), 23, -1), ("b".into(), 90_001, -1), ("c".into(), 1184, -1)]);
    let types = [
        (90_001, Type::Enum),
        (90_002, Type::Array { element: 23 }),
        (90_003, Type::Array { element: 25 }),
        (90_004, composite),
        (90_005, Type::Array { element: 90_004 }),
        (90_006, Type::Array { element: 1700 }),
    ];
    Facts { types: types.into(), money_scale: 2, ..Facts::default() }
}

fn selected(type_id: u32, modifier: i32) -> Selected {
    facts().select(Column { name: "c".into(), table: 0, attribute: 0, type_id, modifier })
}

/// Decodes messages as if a server had sent them; returns the number of rows.
fn decode_untrusted(columns: &[Selected], messages: &[Vec<u8>]) -> Result<usize, Malformed> {
    let mut decoder = RowDecoder::new(columns, Some(0));
    decoder.push(b"PGCOPY\n\xFF\r\n\0\0\0\0\0\0\0\0\0")?;
    for message in messages {
        decoder.push(message)?;
    }
    let rows = decoder.rows();
    let (batch, problems) = decoder.finish().map_err(|_| Malformed("rows that form no batch"))?;
    if batch.num_rows() != rows || problems.iter().any(|problem| problem.row >= rows) {
        return Err(Malformed("a batch of another length"));
    }
    Ok(rows)
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    // Small numbers are lengths, counts and bounds more often than others.
    let byte = prop_oneof![6 => 0u8..3, 1 => any::<u8>()];
    prop_oneof![
        prop::collection::vec(byte.clone(), 0..40),
        prop::sample::select(vec![1usize, 2, 4, 8, 12, 16])
            .prop_flat_map(move |length| prop::collection::vec(byte.clone(), length)),
        // An array of one integer, and one of two dimensions.
        Just(b"\0\0\0\x01\0\0\0\0\0\0\0\x17\0\0\0\x01\0\0\0\x01\0\0\0\x04\0\0\0\x07".to_vec()),
        Just(b"\0\0\0\x02\0\0\0\0\0\0\0\x17\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\0\0\x04\0\0\0\x07".to_vec()),
    ]
}

/// Few bytes of a number may stand for many digits: an array of such is neither endless work nor a long text.
#[test]
fn numbers_that_do_not_fit_are_told_up_to_a_limit() -> Result<(), Malformed> {
    const COUNT: i32 = 100_000;
    let mut array = [1, 0, 1700, COUNT, 1].map(i32::to_be_bytes).concat();
    for _ in 0..COUNT {
        array.extend_from_slice(&[0, 0, 0, 10, 0, 1, 0x7F, 0xFF, 0, 0, 0, 0, 0, 1]);
    }
    let column = selected(90_006, (5 << 16) + 4);
    let shapes = usize::from(column.shape().is_some());
    let mut decoder = RowDecoder::new(&[column], None);
    decoder.push(b"PGCOPY\n\xFF\r\n\0\0\0\0\0\0\0\0\0")?;
    let mut row = (1 + shapes as i16).to_be_bytes().to_vec();
    row.extend_from_slice(&(array.len() as i32).to_be_bytes());
    row.extend_from_slice(&array);
    (0..shapes).for_each(|_| row.extend_from_slice(&(-1i32).to_be_bytes()));
    decoder.push(&row)?;
    let (batch, problems) = decoder.finish().map_err(|_| Malformed("rows that form no batch"))?;
    assert_eq!((batch.num_rows(), problems.len(), problems[0].content.len()), (1, 1, CONTENT_BYTES_MAX));
    Ok(())
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = columns(&bytes);
        let _ = ServerError::parse(&bytes);
        let _ = RowDecoder::new(&[selected(23, -1)], None).push(&bytes);
    }

    #[test]
    fn no_rows_panic(
        types in prop::collection::vec((prop::sample::select(TYPES.to_vec()), prop_oneof![Just(-1), any::<i32>()]), 1..6),
        rows in prop::collection::vec(prop::collection::vec(prop::option::of(value()), 6..12), 0..5),
    ) {
        let columns: Vec<Selected> = types.iter().map(|(type_id, modifier)| selected(*type_id, *modifier)).collect();
        let shapes = columns.iter().filter(|column| column.shape().is_some()).count();
        let messages: Vec<Vec<u8>> = rows.iter().map(|row| {
            let values: Vec<_> = row.iter().cycle().take(columns.len() + shapes).collect();
            let mut message = (values.len() as i16).to_be_bytes().to_vec();
            for value in values {
                match value {
                    None => message.extend_from_slice(&(-1i32).to_be_bytes()),
                    Some(bytes) => {
                        message.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
                        message.extend_from_slice(bytes);
                    }
                }
            }
            message
        }).collect();
        let decoded = decode_untrusted(&columns, &messages);
        prop_assert!(decoded != Err(Malformed("a batch of another length")), "{columns:?}");
        prop_assert!(decoded != Err(Malformed("rows that form no batch")), "{columns:?}");
        prop_assert!(!rows.is_empty() || decoded == Ok(0));
    }
}
