//! Dates and times of the binary protocol, which count from 2000, as counts from 1970; what no calendar of four digits
//! knows is told apart.

/// Days from 1970-01-01 to 2000-01-01.
const EPOCH_DAYS: i64 = 10_957;
const MICROSECONDS_A_DAY: i64 = 86_400_000_000;
/// 0001-01-01 and 10000-01-01.
const FIRST_DAY: i64 = -719_162;
const DAY_AFTER: i64 = 2_932_897;

/// A value that has no place in its Arrow type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OutOfCalendar {
    /// The stable reason, as stored in the quarantine.
    pub(super) reason: &'static str,
    /// The value as the server writes it.
    pub(super) content: String,
}

/// Days since 1970-01-01 of a `date`.
pub(super) fn days(sent: i32) -> Result<i32, OutOfCalendar> {
    let days = i64::from(sent) + EPOCH_DAYS;
    match sent {
        i32::MAX => Err(infinite("infinity")),
        i32::MIN => Err(infinite("-infinity")),
        _ if (FIRST_DAY..DAY_AFTER).contains(&days) => Ok(days as i32),
        _ => {
            let (date, era) = date_text(days);
            Err(out_of_range(format!("{date}{era}")))
        }
    }
}

/// Microseconds since 1970-01-01T00:00:00 of a `timestamp` or `timestamptz`; `zone` is what the server writes behind it.
#[inline]
pub(super) fn microseconds(sent: i64, zone: &str) -> Result<i64, OutOfCalendar> {
    let since = i128::from(sent) + i128::from(EPOCH_DAYS * MICROSECONDS_A_DAY);
    match sent {
        i64::MAX => Err(infinite("infinity")),
        i64::MIN => Err(infinite("-infinity")),
        _ => match i64::try_from(since) {
            Ok(since) if (FIRST_DAY * MICROSECONDS_A_DAY..DAY_AFTER * MICROSECONDS_A_DAY).contains(&since) => Ok(since),
            _ => {
                let days = sent.div_euclid(MICROSECONDS_A_DAY) + EPOCH_DAYS;
                let (date, era) = date_text(days);
                Err(out_of_range(format!("{date} {}{zone}{era}", time_text(sent.rem_euclid(MICROSECONDS_A_DAY)))))
            }
        },
    }
}

/// Microseconds since midnight of a `time`, which may be 24:00:00.
pub(super) fn time_of_day(sent: i64) -> Result<i64, OutOfCalendar> {
    if (0..MICROSECONDS_A_DAY).contains(&sent) {
        Ok(sent)
    } else {
        Err(OutOfCalendar { reason: "time_out_of_range", content: time_text(sent) })
    }
}

/// `YYYY-MM-DD` of a day since 1970.
pub(super) fn day_text(days: i32) -> String {
    date_text(i64::from(days)).0
}

/// `YYYY-MM-DD hh:mm:ss.ffffff` of microseconds since 1970, at full width, so that texts order as the instants do.
pub(super) fn instant_text(microseconds: i64) -> String {
    let (days, rest) = (microseconds.div_euclid(MICROSECONDS_A_DAY), microseconds.rem_euclid(MICROSECONDS_A_DAY));
    format!("{} {}.{:06}", date_text(days).0, clock_text(rest), rest % 1_000_000)
}

/// `hh:mm:ss.ffffff` of microseconds since midnight, at full width.
pub(super) fn clock_text_exact(microseconds: i64) -> String {
    format!("{}.{:06}", clock_text(microseconds), microseconds.rem_euclid(1_000_000))
}

fn infinite(content: &str) -> OutOfCalendar {
    OutOfCalendar { reason: "infinite_date", content: content.to_owned() }
}

fn out_of_range(content: String) -> OutOfCalendar {
    OutOfCalendar { reason: "date_out_of_range", content }
}

fn clock_text(microseconds: i64) -> String {
    let seconds = microseconds.div_euclid(1_000_000);
    format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

/// A time as the server writes it: without zeros at the end of a fraction.
fn time_text(microseconds: i64) -> String {
    match microseconds.rem_euclid(1_000_000) {
        0 => clock_text(microseconds),
        _ => clock_text_exact(microseconds).trim_end_matches('0').to_owned(),
    }
}

/// Proleptic Gregorian, counted from 1 March, so that the leap day comes last (Hinnant, "chrono-compatible low-level date
/// algorithms"); and ` BC` for a year before the first.
fn date_text(days: i64) -> (String, &'static str) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    if year > 0 {
        (format!("{year:04}-{month:02}-{day:02}"), "")
    } else {
        (format!("{:04}-{month:02}-{day:02}", 1 - year), " BC")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_texts() {
        assert_eq!(days(0), Ok(10_957));
        assert_eq!(day_text(10_957), "2000-01-01");
        assert_eq!(days(-730_119).map(day_text), Ok("0001-01-01".into()));
        assert_eq!(days(-730_120).unwrap_err().content, "0001-12-31 BC");
        assert_eq!(days(2_921_939).map(day_text), Ok("9999-12-31".into()));
        assert_eq!(days(2_921_940).unwrap_err().content, "10000-01-01");
        assert_eq!(days(i32::MAX).unwrap_err().reason, "infinite_date");
        assert_eq!(microseconds(1, "").map(instant_text), Ok("2000-01-01 00:00:00.000001".into()));
        assert_eq!(microseconds(-1, "").map(instant_text), Ok("1999-12-31 23:59:59.999999".into()));
        assert_eq!(microseconds(i64::MIN, "").unwrap_err().content, "-infinity");
        assert_eq!(microseconds(-211_810_204_800_000_000, "+00").unwrap_err().content, "4713-01-01 00:00:00+00 BC");
        assert_eq!(microseconds(9_223_371_331_199_999_999, "").unwrap_err().content, "294276-12-31 23:59:59.999999");
        assert_eq!(time_of_day(86_400_000_000).unwrap_err().content, "24:00:00");
        assert_eq!(time_of_day(1), Ok(1));
        assert_eq!(time_text(1_500_000), "00:00:01.5");
        assert_eq!(time_text(36_000_000_000), "10:00:00");
    }
}
