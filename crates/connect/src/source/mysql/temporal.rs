//! Dates and times of the binary protocol as counts since the epoch; what no calendar knows is told apart.

use super::wire::reader::{Malformed, Reader};

const MICROSECONDS_A_DAY: i64 = 86_400_000_000;
/// A TIME has at most 35 days; the limit only keeps the arithmetic from overflowing.
const DAYS_MAX: i64 = 10_000;

/// A date with a time of day, as it stands on the wire: any field may be zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CivilTime {
    pub(crate) year: u16,
    pub(crate) month: u8,
    pub(crate) day: u8,
    pub(crate) hour: u8,
    pub(crate) minute: u8,
    pub(crate) second: u8,
    pub(crate) microsecond: u32,
}

/// Why a temporal value has no place in its Arrow type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TemporalProblem {
    ZeroDate,
    PartialDate,
    InvalidDate,
    TimeOutOfRange,
}

impl TemporalProblem {
    /// The stable reason, as stored in the quarantine.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::ZeroDate => "zero_date",
            Self::PartialDate => "partial_date",
            Self::InvalidDate => "invalid_date",
            Self::TimeOutOfRange => "time_out_of_range",
        }
    }

    pub(crate) fn detail(self) -> &'static str {
        match self {
            Self::ZeroDate => "the server's zero date stands for no day; NULL is stored",
            Self::PartialDate => "a date without month or day is no day; NULL is stored",
            Self::InvalidDate => "no calendar has this day or time; NULL is stored",
            Self::TimeOutOfRange => {
                "not a time of day (0 to 24 h); NULL is stored, `time_as = \"microseconds\"` keeps it"
            }
        }
    }
}

impl CivilTime {
    /// Reads a DATE, DATETIME or TIMESTAMP: a length of 0, 4, 7 or 11 and as many bytes.
    pub(crate) fn parse(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let length = reader.u8()?;
        let mut value = Self::default();
        if !matches!(length, 0 | 4 | 7 | 11) {
            return Err(Malformed("a date has 0, 4, 7 or 11 bytes"));
        }
        if length >= 4 {
            value.year = reader.u16()?;
            [value.month, value.day] = reader.array()?;
        }
        if length >= 7 {
            [value.hour, value.minute, value.second] = reader.array()?;
        }
        if length == 11 {
            value.microsecond = reader.u32()?;
        }
        Ok(value)
    }

    /// Days since 1970-01-01, proleptic Gregorian.
    pub(crate) fn days(&self) -> Result<i32, TemporalProblem> {
        if self.month == 0 || self.day == 0 {
            let is_zero = self.year == 0 && self.month == 0 && self.day == 0;
            return Err(if is_zero { TemporalProblem::ZeroDate } else { TemporalProblem::PartialDate });
        }
        if self.year > 9999 || self.month > 12 || self.day > days_of_month(self.year, self.month) {
            return Err(TemporalProblem::InvalidDate);
        }
        // Counted from 1 March, so that the leap day comes last (Hinnant, "chrono-compatible low-level date algorithms").
        let (month, day) = (i32::from(self.month), i32::from(self.day));
        let year = i32::from(self.year) - i32::from(month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        Ok(era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468)
    }

    /// Microseconds since 1970-01-01T00:00:00.
    pub(crate) fn microseconds(&self) -> Result<i64, TemporalProblem> {
        let days = self.days()?;
        if self.hour > 23 || self.minute > 59 || self.second > 59 || self.microsecond > 999_999 {
            return Err(TemporalProblem::InvalidDate);
        }
        let seconds = (i64::from(self.hour) * 60 + i64::from(self.minute)) * 60 + i64::from(self.second);
        Ok(i64::from(days) * MICROSECONDS_A_DAY + seconds * 1_000_000 + i64::from(self.microsecond))
    }

    /// `YYYY-MM-DD`, as the server writes it.
    pub(crate) fn date_text(&self) -> String {
        format!("{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }

    /// `YYYY-MM-DD hh:mm:ss`, with as many digits of the second as the column has.
    pub(crate) fn text(&self, decimals: u8) -> String {
        let Self { hour, minute, second, .. } = self;
        format!("{} {hour:02}:{minute:02}:{second:02}{}", self.date_text(), fraction(self.microsecond, decimals))
    }
}

/// A TIME: a signed span of up to 838 h.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) microseconds: i64,
}

impl Span {
    /// Reads a TIME: a length of 0, 8 or 12 and as many bytes.
    pub(crate) fn parse(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let length = reader.u8()?;
        if !matches!(length, 0 | 8 | 12) {
            return Err(Malformed("a time has 0, 8 or 12 bytes"));
        }
        if length == 0 {
            return Ok(Self::default());
        }
        let is_negative = reader.u8()? != 0;
        let days = i64::from(reader.u32()?);
        let [hour, minute, second] = reader.array()?.map(i64::from);
        let fraction = if length == 12 { i64::from(reader.u32()?) } else { 0 };
        if days > DAYS_MAX {
            return Err(Malformed("a time of more days than any server knows"));
        }
        let total = days * MICROSECONDS_A_DAY + ((hour * 60 + minute) * 60 + second) * 1_000_000 + fraction;
        Ok(Self { microseconds: if is_negative { -total } else { total } })
    }

    /// As a time of day.
    pub(crate) fn time_of_day(&self) -> Result<i64, TemporalProblem> {
        if (0..MICROSECONDS_A_DAY).contains(&self.microseconds) {
            Ok(self.microseconds)
        } else {
            Err(TemporalProblem::TimeOutOfRange)
        }
    }

    /// `[-]hh:mm:ss`, as the server writes it.
    pub(crate) fn text(&self, decimals: u8) -> String {
        let sign = if self.microseconds < 0 { "-" } else { "" };
        let total = self.microseconds.unsigned_abs();
        let (seconds, microsecond) = (total / 1_000_000, (total % 1_000_000) as u32);
        let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
        format!("{sign}{hour:02}:{minute:02}:{second:02}{}", fraction(microsecond, decimals))
    }
}

fn days_of_month(year: u16, month: u8) -> u8 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        _ => 31,
    }
}

fn fraction(microsecond: u32, decimals: u8) -> String {
    match decimals {
        0 if microsecond == 0 => String::new(),
        1..=5 => {
            let digits = format!("{microsecond:06}");
            format!(".{}", &digits[..usize::from(decimals).min(digits.len())])
        }
        _ => format!(".{microsecond:06}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn days_agree_with_jiff(year in 0u16..10_001, month in 0u8..14, day in 0u8..33) {
            let ours = CivilTime { year, month, day, ..CivilTime::default() }.days();
            let theirs = jiff::civil::Date::new(year as i16, month as i8, day as i8)
                .ok()
                .filter(|_| year <= 9999)
                .map(|date| date.since(jiff::civil::date(1970, 1, 1)).unwrap().get_days());
            prop_assert_eq!(ours.ok(), theirs);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..16), decimals: u8) {
            if let Ok(value) = CivilTime::parse(&mut Reader::new(&bytes)) {
                let _ = (value.microseconds(), value.text(decimals));
            }
            if let Ok(value) = Span::parse(&mut Reader::new(&bytes)) {
                let _ = (value.time_of_day(), value.text(decimals));
            }
        }
    }
}
