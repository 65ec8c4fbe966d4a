//! The event times of the rows that a round stores: their range, what of them moves the watermark, who is late.
//!
//! Promise: every row is looked at once and none is changed; what cannot be read as a time is counted, not guessed.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int64Type, TimeUnit};
use arrow::record_batch::RecordBatch;
use jiff::Timestamp;
use portolan_model::catalog::EventTimes;
use portolan_model::config::{EventTimeSpec, EventTimeUnit};
use portolan_model::{Error, ErrorKind, Result};

use crate::error::arrow as arrow_error;
use crate::shape::StoredColumn;

const OPERATION: &str = "read event time";
/// How far ahead of the clock an event time may be and still move the watermark, at least, in microseconds: clocks of servers
/// differ, and one row of the year 9999 must not make all that follow late.
const AHEAD_US: i64 = 60_000_000;

/// Gathers the event times of the rows of one source in one round.
pub(crate) struct EventTimeReader {
    spec: EventTimeSpec,
    watermark_us: Option<i64>,
    range_us: Option<(i64, i64)>,
    believed_max_us: Option<i64>,
    late: u64,
    untimed: u64,
}

impl EventTimeReader {
    /// Rows before `watermark` are late.
    pub(crate) fn new(spec: EventTimeSpec, watermark: Option<Timestamp>) -> Self {
        let watermark_us = watermark.map(Timestamp::as_microsecond);
        Self { spec, watermark_us, range_us: None, believed_max_us: None, late: 0, untimed: 0 }
    }

    /// One that has seen no row yet, for the same column.
    pub(crate) fn anew(&self) -> Self {
        let Self { spec, watermark_us, .. } = self;
        Self {
            spec: spec.clone(),
            watermark_us: *watermark_us,
            range_us: None,
            believed_max_us: None,
            late: 0,
            untimed: 0,
        }
    }

    /// The column.
    pub(crate) fn column(&self) -> &str {
        &self.spec.column
    }

    /// Takes in the rows of `batch`, which are stored at `now`.
    ///
    /// # Errors
    /// `Configuration` if the column is of a type that is no time, or holds numbers without a unit.
    pub(crate) fn update(&mut self, batch: &RecordBatch, now: Timestamp) -> Result<()> {
        let Some(array) = batch.column_by_name(&self.spec.column) else {
            self.untimed += batch.num_rows() as u64;
            return Ok(());
        };
        self.take(self.times(array)?, now);
        Ok(())
    }

    /// As [`update`](Self::update) of rows in the `columns` of their table, where a value stands in the source's column or, if
    /// it did not fit that, in another one of the same source column.
    ///
    /// # Errors
    /// Those of [`update`](Self::update).
    pub(crate) fn update_stored(
        &mut self,
        batch: &RecordBatch,
        columns: &[StoredColumn],
        now: Timestamp,
    ) -> Result<()> {
        let mut times = vec![None; batch.num_rows()];
        for (stored, array) in columns.iter().zip(batch.columns()) {
            if stored.is_of(&self.spec.column) && array.null_count() < array.len() {
                times.iter_mut().zip(self.times(array)?).for_each(|(time, other)| *time = time.or(other));
            }
        }
        self.take(times, now);
        Ok(())
    }

    fn take(&mut self, times: Vec<Option<i64>>, now: Timestamp) {
        let lateness_us = i64::try_from(self.spec.lateness.as_micros()).unwrap_or(i64::MAX);
        let believed_us = now.as_microsecond().saturating_add(lateness_us.max(AHEAD_US));
        for time in times {
            // Beyond the years that a timestamp has: as good as none.
            let Some(time_us) = time.filter(|time| Timestamp::from_microsecond(*time).is_ok()) else {
                self.untimed += 1;
                continue;
            };
            let (min, max) = self.range_us.unwrap_or((time_us, time_us));
            self.range_us = Some((min.min(time_us), max.max(time_us)));
            if time_us <= believed_us {
                self.believed_max_us = self.believed_max_us.max(Some(time_us));
            }
            self.late += u64::from(self.watermark_us.is_some_and(|watermark| time_us < watermark));
        }
    }

    /// What was gathered.
    pub(crate) fn finish(&self) -> EventTimes {
        let instant = |us: i64| Timestamp::from_microsecond(us).ok();
        EventTimes {
            range: self.range_us.and_then(|(min, max)| Some((instant(min)?, instant(max)?))),
            believed_max: self.believed_max_us.and_then(instant),
            late: self.late,
            untimed: self.untimed,
        }
    }

    /// Each row's time in microseconds since 1970.
    fn times(&self, array: &ArrayRef) -> Result<Vec<Option<i64>>> {
        let error = |error| arrow_error(OPERATION, error);
        let integers = |scale: fn(i64) -> Option<i64>| -> Result<Vec<Option<i64>>> {
            let values = cast(array, &DataType::Int64).map_err(error)?;
            Ok(values.as_primitive::<Int64Type>().iter().map(|value| value.and_then(scale)).collect())
        };
        match array.data_type() {
            DataType::Null => Ok(vec![None; array.len()]),
            DataType::Timestamp(TimeUnit::Second, _) => integers(|value| value.checked_mul(1_000_000)),
            DataType::Timestamp(TimeUnit::Millisecond, _) | DataType::Date64 => {
                integers(|value| value.checked_mul(1_000))
            }
            DataType::Timestamp(TimeUnit::Microsecond, _) => integers(Some),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => integers(|value| Some(value.div_euclid(1_000))),
            DataType::Date32 => {
                let days =
                    cast(array, &DataType::Int32).and_then(|days| cast(&days, &DataType::Int64)).map_err(error)?;
                let days = days.as_primitive::<Int64Type>().iter();
                Ok(days.map(|day| day.and_then(|day| day.checked_mul(86_400_000_000))).collect())
            }
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                let texts = cast(array, &DataType::Utf8).map_err(error)?;
                Ok(texts.as_string::<i32>().iter().map(|text| text.and_then(read_text)).collect())
            }
            DataType::Dictionary(_, values) => self.times(&cast(array, values).map_err(error)?),
            kind if kind.is_floating() => {
                let per_second = self.per_second(kind)? as f64;
                let values = cast(array, &DataType::Float64).map_err(error)?;
                let us = |value: f64| Some((value * (1e6 / per_second)).floor()).filter(|us| us.abs() < 9e18);
                let values = values.as_primitive::<Float64Type>().iter();
                Ok(values.map(|value| value.and_then(us).map(|us| us as i64)).collect())
            }
            kind if kind.is_numeric() => {
                let per_second = i128::from(self.per_second(kind)?);
                // Nine digits after the point are more than microseconds of seconds need.
                let values = cast(array, &DataType::Decimal128(38, 9)).map_err(error)?;
                let us = |value: i128| {
                    let us = value.checked_mul(1_000_000)?.div_euclid(per_second * 1_000_000_000);
                    i64::try_from(us).ok()
                };
                Ok(values.as_primitive::<Decimal128Type>().iter().map(|value| value.and_then(us)).collect())
            }
            other => {
                let message = format!("column `{}` is of type {other}, which is no time", self.spec.column);
                Err(Error::new(ErrorKind::Configuration, OPERATION, message)
                    .with_hint("event_time names a timestamp, a date, RFC 3339 text or a number with event_time_unit"))
            }
        }
    }

    /// How many units a second has.
    fn per_second(&self, kind: &DataType) -> Result<i64> {
        match self.spec.unit {
            Some(EventTimeUnit::Second) => Ok(1),
            Some(EventTimeUnit::Millisecond) => Ok(1_000),
            Some(EventTimeUnit::Microsecond) => Ok(1_000_000),
            Some(EventTimeUnit::Nanosecond) => Ok(1_000_000_000),
            None => {
                let message =
                    format!("column `{}` holds numbers ({kind}), of which unit is not said", self.spec.column);
                Err(Error::new(ErrorKind::Configuration, OPERATION, message)
                    .with_hint("write event_time_unit = \"s\", \"ms\", \"us\" or \"ns\" in the source"))
            }
        }
    }
}

/// RFC 3339; without an offset it is UTC, as a timestamp column without a zone is.
fn read_text(text: &str) -> Option<i64> {
    let text = text.trim();
    let instant = text.parse::<Timestamp>().ok().or_else(|| {
        let civil = text.parse::<jiff::civil::DateTime>().ok()?;
        civil.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
    });
    instant.map(Timestamp::as_microsecond)
}

#[cfg(test)]
#[path = "event_time/tests.rs"]
mod tests;
