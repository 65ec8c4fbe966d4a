//! Dates, times and timestamps as DuckDB writes and reads them: proleptic Gregorian, ` (BC)` before year one,
//! fractions without trailing zeros.

use std::fmt::Write;

/// DuckDB's `infinity` and `-infinity` in a date.
const DATE_INFINITY: i64 = i32::MAX as i64;
/// The first timestamp DuckDB can print, in microseconds.
const TIMESTAMP_MIN_US: i64 = -9_223_372_022_400_000_000;
/// The first nanosecond timestamp that survives DuckDB's reading.
const TIMESTAMP_MIN_NS: i64 = -9_223_286_400_000_000_000;
/// Microseconds of a day.
const DAY_US: i64 = 86_400_000_000;

/// A unit of time, as how many of it a second has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Milli,
    Micro,
    Nano,
}

impl Unit {
    fn per_second(self) -> i64 {
        match self {
            Self::Milli => 1_000,
            Self::Micro => 1_000_000,
            Self::Nano => 1_000_000_000,
        }
    }
}

fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn days_from_civil(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year.abs() > 10_000_000 {
        return None;
    }
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    (civil(days) == (year, month, day)).then_some(days)
}

/// Writes a date; `days` since 1970.
pub(crate) fn write_date(days: i32, out: &mut String) -> bool {
    match i64::from(days) {
        DATE_INFINITY => out.push_str("infinity"),
        days if days == -DATE_INFINITY => out.push_str("-infinity"),
        // DuckDB cannot represent the day before its -infinity.
        days if days < -DATE_INFINITY => return false,
        days => write_civil(days, out),
    }
    true
}

fn write_civil(days: i64, out: &mut String) {
    let (year, month, day) = civil(days);
    let (shown, era) = if year > 0 { (year, "") } else { (1 - year, " (BC)") };
    let _ = write!(out, "{shown:04}-{month:02}-{day:02}{era}");
}

/// Writes a time of day; false if it is not within a day.
pub(crate) fn write_time(us: i64, out: &mut String) -> bool {
    if !(0..=DAY_US).contains(&us) {
        return false;
    }
    write_clock(us / 1_000_000, us % 1_000_000, 6, out);
    true
}

fn write_clock(second_of_day: i64, fraction: i64, digits: usize, out: &mut String) {
    let (hour, minute, second) = (second_of_day / 3_600, second_of_day / 60 % 60, second_of_day % 60);
    let _ = write!(out, "{hour:02}:{minute:02}:{second:02}");
    if fraction != 0 {
        let _ = write!(out, ".{fraction:0digits$}");
        out.truncate(out.trim_end_matches('0').len());
    }
}

/// Writes a timestamp; false if DuckDB could not read it back.
pub(crate) fn write_timestamp(value: i64, unit: Unit, zoned: bool, out: &mut String) -> bool {
    let in_range = match unit {
        Unit::Milli => value.checked_mul(1_000).is_some_and(|us| (TIMESTAMP_MIN_US..i64::MAX).contains(&us)),
        Unit::Micro => value >= TIMESTAMP_MIN_US || value == -i64::MAX,
        Unit::Nano => (TIMESTAMP_MIN_NS..i64::MAX).contains(&value),
    };
    if !in_range {
        return false;
    }
    if unit == Unit::Micro && value.abs() == i64::MAX {
        out.push_str(if value > 0 { "infinity" } else { "-infinity" });
        return true;
    }
    let seconds = value.div_euclid(unit.per_second());
    let fraction = value.rem_euclid(unit.per_second());
    let digits = match unit {
        Unit::Milli => 3,
        Unit::Micro => 6,
        Unit::Nano => 9,
    };
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let (shown, era) = if year > 0 { (year, "") } else { (1 - year, " (BC)") };
    let _ = write!(out, "{shown:04}-{month:02}-{day:02}{era} ");
    write_clock(seconds.rem_euclid(86_400), fraction, digits, out);
    if zoned {
        out.push_str("+00");
    }
    true
}

/// Reads a date.
pub(crate) fn read_date(text: &str) -> Option<i32> {
    match text {
        "infinity" => return Some(i32::MAX),
        "-infinity" => return Some(-i32::MAX),
        _ => {}
    }
    let (days, rest) = read_civil(text)?;
    if rest.trim().is_empty() { i32::try_from(days).ok() } else { None }
}

fn read_civil(text: &str) -> Option<(i64, &str)> {
    let text = text.trim_start();
    let (year, rest) = text.split_once('-')?;
    let (month, rest) = rest.split_once('-')?;
    let day_length = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (day, rest) = rest.split_at(day_length);
    let year: i64 = year.parse().ok()?;
    let (year, rest) = match rest.strip_prefix(" (BC)") {
        Some(rest) => (1 - year, rest),
        None => (year, rest),
    };
    Some((days_from_civil(year, month.parse().ok()?, day.parse().ok()?)?, rest))
}

/// Reads a time of day, in microseconds.
pub(crate) fn read_time(text: &str) -> Option<i64> {
    let (value, rest) = read_clock(text, Unit::Micro)?;
    rest.trim().is_empty().then_some(value)
}

fn read_clock(text: &str, unit: Unit) -> Option<(i64, &str)> {
    let (hour, rest) = text.split_once(':')?;
    let (minute, rest) = rest.split_once(':')?;
    let second_length = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (second, rest) = rest.split_at(second_length);
    let seconds = hour.parse::<i64>().ok()? * 3_600 + minute.parse::<i64>().ok()? * 60 + second.parse::<i64>().ok()?;
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())),
        None => ("", rest),
    };
    let mut scale = unit.per_second();
    let mut value = seconds.checked_mul(scale)?;
    for digit in fraction.bytes() {
        scale /= 10;
        value += i64::from(digit - b'0') * scale;
    }
    Some((value, rest))
}

/// Reads a timestamp in `unit`; an offset after it is taken off.
pub(crate) fn read_timestamp(text: &str, unit: Unit) -> Option<i64> {
    match text {
        "infinity" => return Some(i64::MAX),
        "-infinity" => return Some(-i64::MAX),
        _ => {}
    }
    let (days, rest) = read_civil(text)?;
    let rest = rest.trim_start_matches([' ', 'T']);
    let (clock, rest) = if rest.is_empty() { (0, "") } else { read_clock(rest, unit)? };
    let offset_seconds = match rest.trim() {
        "" | "Z" => 0,
        offset => {
            let sign = match offset.as_bytes().first()? {
                b'+' => 1,
                b'-' => -1,
                _ => return None,
            };
            let mut parts = offset.get(1..)?.split(':');
            let hours: i64 = parts.next()?.parse().ok()?;
            let minutes: i64 = parts.next().map_or(Some(0), |text| text.parse().ok())?;
            sign * (hours * 3_600 + minutes * 60)
        }
    };
    let seconds = days.checked_mul(86_400)?.checked_sub(offset_seconds)?;
    let total = i128::from(seconds) * i128::from(unit.per_second()) + i128::from(clock);
    i64::try_from(total).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms_are_those_of_duckdb() {
        let mut out = String::new();
        assert!(write_timestamp(1_577_934_245_000_006, Unit::Micro, true, &mut out));
        assert_eq!(out, "2020-01-02 03:04:05.000006+00");
        out.clear();
        assert!(write_date(-735_599, &mut out));
        assert_eq!(out, "0045-01-01 (BC)");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(value: i64, days: i32) {
            for unit in [Unit::Milli, Unit::Micro, Unit::Nano] {
                let mut out = String::new();
                if write_timestamp(value, unit, false, &mut out) {
                    prop_assert_eq!(read_timestamp(&out, unit), Some(value), "{}", out);
                }
            }
            let mut out = String::new();
            if write_date(days, &mut out) {
                prop_assert_eq!(read_date(&out), Some(days), "{}", out);
            }
        }

        #[test]
        fn no_text_panics(text in ".{0,24}") {
            let _ = (read_date(&text), read_time(&text), read_timestamp(&text, Unit::Nano));
        }
    }
}
