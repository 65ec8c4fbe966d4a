//! Every form of an instant, what is no time, and what moves the watermark.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, StringArray, TimestampMillisecondArray,
    TimestampNanosecondArray, UInt64Array,
};

use super::*;

fn times(array: ArrayRef, unit: Option<EventTimeUnit>) -> Result<(EventTimes, Vec<Option<i64>>)> {
    let spec = EventTimeSpec { column: "t".into(), unit, lateness: Duration::ZERO };
    let mut reader = EventTimeReader::new(spec, Timestamp::from_microsecond(1_000_000).ok());
    let read = reader.times(&array)?;
    reader.update(&RecordBatch::try_from_iter([("t", array)]).unwrap(), Timestamp::from_second(100).unwrap())?;
    Ok((reader.finish(), read))
}

#[test]
fn every_way_to_write_an_instant_is_read() {
    use EventTimeUnit::{Microsecond, Millisecond, Nanosecond, Second};
    let cases: [(ArrayRef, Option<EventTimeUnit>); 10] = [
        (Arc::new(TimestampMillisecondArray::from(vec![1_500])), None),
        (Arc::new(TimestampNanosecondArray::from(vec![1_500_000_999]).with_timezone("+02:00")), None),
        (Arc::new(Int64Array::from(vec![1_500])), Some(Millisecond)),
        (Arc::new(UInt64Array::from(vec![1_500_000])), Some(Microsecond)),
        (Arc::new(Int64Array::from(vec![1_500_000_000])), Some(Nanosecond)),
        (Arc::new(Float64Array::from(vec![1.5])), Some(Second)),
        (Arc::new(Decimal128Array::from(vec![150]).with_precision_and_scale(9, 2).unwrap()), Some(Second)),
        (Arc::new(StringArray::from(vec!["1970-01-01T02:00:01.5+02:00"])), None),
        (Arc::new(StringArray::from(vec!["1970-01-01 00:00:01.5"])), None),
        (Arc::new(StringArray::from(vec![" 1970-01-01T00:00:01.500Z "])), None),
    ];
    for (array, unit) in cases {
        let shown = format!("{array:?}");
        assert_eq!(times(array, unit).unwrap().1, [Some(1_500_000)], "{shown}");
    }
    assert_eq!(times(Arc::new(Date32Array::from(vec![-1])), None).unwrap().1, [Some(-86_400_000_000)]);
}

#[test]
fn what_is_no_time_is_counted_or_refused_with_what_to_do() {
    let (found, _) = times(Arc::new(StringArray::from(vec![Some("yesterday"), None, Some("")])), None).unwrap();
    assert_eq!((found.untimed, found.range, found.late), (3, None, 0));
    let (found, _) = times(Arc::new(Float64Array::from(vec![f64::NAN, 1e300])), Some(EventTimeUnit::Second)).unwrap();
    assert_eq!(found.untimed, 2);
    let error = times(Arc::new(Int64Array::from(vec![1])), None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.hint().unwrap().contains("event_time_unit"), "{error}");
    let error = times(Arc::new(BooleanArray::from(vec![true])), None).unwrap_err();
    assert!(error.message().contains("no time"), "{error}");
}

#[test]
fn late_rows_are_counted_and_a_time_ahead_of_the_clock_moves_nothing() {
    // The watermark is at 1 s, the clock at 100 s.
    let (found, _) =
        times(Arc::new(Int64Array::from(vec![0, 999, 1_000, 160_000, 160_001])), Some(EventTimeUnit::Millisecond))
            .unwrap();
    assert_eq!(found.late, 2);
    assert_eq!(found.believed_max, Timestamp::from_second(160).ok());
    assert_eq!(
        found.range,
        Timestamp::UNIX_EPOCH.checked_add(Duration::ZERO).ok().zip(Timestamp::from_millisecond(160_001).ok())
    );
}
