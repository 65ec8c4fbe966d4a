//! What a number's text is, exactly.
//!
//! Promise: nothing is rounded. A text is a [`Number::Fraction`] only if printing the double, with as many digits as
//! the text has or in its shortest form, gives the text's digits back.

/// The exact integers of a double end here: 2^53.
pub const DOUBLE_INTEGER_MAX: u64 = 1 << 53;

/// More significant digits than this are not compared with a double's; the text stays text.
const DIGITS_MAX: usize = 800;

/// What a number's text is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// A whole number that 64 bits with sign hold.
    Integer(i64),
    /// A whole number above `i64::MAX` that 64 bits without sign hold.
    Unsigned(u64),
    /// A number written with a point or an exponent that a double holds.
    Fraction(f64),
    /// None of these holds it.
    Inexact,
}

/// Says what the text of a JSON number is.
pub fn classify(text: &str) -> Number {
    if text.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
        return exact_double(text).map_or(Number::Inexact, Number::Fraction);
    }
    if let Ok(value) = text.parse::<i64>() {
        return Number::Integer(value);
    }
    text.parse::<u64>().map_or(Number::Inexact, Number::Unsigned)
}

/// The double that a decimal text names, if none of its digits is lost.
pub fn exact_double(text: &str) -> Option<f64> {
    // No more than 15 digits, and no exponent: every such text survives.
    if text.len() <= 15 && text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-')) {
        return text.parse().ok();
    }
    long_double(text)
}

fn long_double(text: &str) -> Option<f64> {
    let value: f64 = text.parse().ok()?;
    if !value.is_finite() {
        return None;
    }
    let decimal = Decimal::read(text)?;
    let count = decimal.digits().count();
    if count == 0 {
        return Some(value);
    }
    // Any decimal of up to 15 digits survives a normal double (DBL_DIG); the rest is compared.
    if count <= 15 && value.abs() > 1e-290 {
        return Some(value);
    }
    if count > DIGITS_MAX {
        return None;
    }
    // Printed as long as the text, or as short as names the double: the two differ where the last digit is a tie.
    let is_same = |printed: &str| {
        Decimal::read(printed)
            .is_some_and(|other| other.exponent() == decimal.exponent() && other.digits().eq(decimal.digits()))
    };
    (is_same(&format!("{:.*e}", count - 1, value)) || is_same(&format!("{value:e}"))).then_some(value)
}

/// `text × 10^scale` as a whole number, if it is one and 128 bits hold it.
pub fn exact_integer(text: &str, scale: u32) -> Option<i128> {
    match short_integer(text.as_bytes(), scale) {
        Some(value) => Some(i128::from(value)),
        None => long_integer(text, scale),
    }
}

/// The same for most texts: digits, perhaps a sign and a point, that 64 bits hold with `scale` more.
fn short_integer(text: &[u8], scale: u32) -> Option<i64> {
    let (is_negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut value = 0_i64;
    let mut point = None;
    for (index, byte) in text.iter().enumerate() {
        match byte {
            b'0'..=b'9' => value = value.wrapping_mul(10).wrapping_add(i64::from(byte - b'0')),
            b'.' if point.is_none() => point = Some(index),
            _ => return None,
        }
    }
    let fraction = point.map_or(0, |point| text.len() - point - 1);
    let zeros = usize::try_from(scale).ok()?.checked_sub(fraction)?;
    let digits = text.len() - usize::from(point.is_some());
    // Eighteen digits do not overflow 63 bits; where there are more, `value` is not looked at.
    if digits == 0 || digits + zeros > 18 {
        return None;
    }
    let value = value * 10_i64.pow(u32::try_from(zeros).ok()?);
    Some(if is_negative { -value } else { value })
}

fn long_integer(text: &str, scale: u32) -> Option<i128> {
    let decimal = Decimal::read(text)?;
    let count = i64::try_from(decimal.digits().count()).ok()?;
    if count == 0 {
        return Some(0);
    }
    // the value is 0.d1d2d3… × 10^exponent
    let zeros = decimal.exponent().checked_add(i64::from(scale))?.checked_sub(count)?;
    if !(0..=38).contains(&zeros) || count > 39 {
        return None;
    }
    let mut value: i128 = 0;
    for digit in decimal.digits() {
        value = value.checked_mul(10)?.checked_sub(i128::from(digit - b'0'))?;
    }
    value = value.checked_mul(10_i128.checked_pow(u32::try_from(zeros).ok()?)?)?;
    if decimal.negative { Some(value) } else { value.checked_neg() }
}

/// A decimal text taken apart without copying.
struct Decimal<'a> {
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    power: i64,
}

impl<'a> Decimal<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (mantissa, power) = match text.find(['e', 'E']) {
            Some(index) => (&text[..index], text[index + 1..].parse::<i64>().ok()?),
            None => (text, 0),
        };
        let (negative, mantissa) = match mantissa.as_bytes() {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        let (whole, fraction) = match mantissa.iter().position(|byte| *byte == b'.') {
            Some(index) => (&mantissa[..index], &mantissa[index + 1..]),
            None => (mantissa, &[][..]),
        };
        let digits_only = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
        let plausible = digits_only(whole) && digits_only(fraction) && whole.len() + fraction.len() > 0;
        (plausible && power.unsigned_abs() < 1 << 40).then_some(Self { negative, whole, fraction, power })
    }

    fn all(&self) -> impl DoubleEndedIterator<Item = u8> + use<'a> {
        self.whole.iter().chain(self.fraction).copied()
    }

    fn leading_zeros(&self) -> usize {
        self.all().take_while(|digit| *digit == b'0').count()
    }

    /// Significant digits: without zeros at either end.
    fn digits(&self) -> impl Iterator<Item = u8> + use<'a> {
        let length = self.whole.len() + self.fraction.len();
        let leading = self.leading_zeros();
        let trailing = self.all().rev().take_while(|digit| *digit == b'0').count();
        self.all().skip(leading).take(length.saturating_sub(leading + trailing))
    }

    /// The power of ten that stands behind `0.` and the significant digits.
    fn exponent(&self) -> i64 {
        self.power + self.whole.len() as i64 - self.leading_zeros() as i64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn borders() {
        assert_eq!(classify("9223372036854775807"), Number::Integer(i64::MAX));
        assert_eq!(classify("-9223372036854775808"), Number::Integer(i64::MIN));
        assert_eq!(classify("9223372036854775808"), Number::Unsigned(1 << 63));
        assert_eq!(classify("18446744073709551616"), Number::Inexact);
        assert_eq!(classify("-9223372036854775809"), Number::Inexact);
        assert_eq!(classify("0.1"), Number::Fraction(0.1));
        assert_eq!(classify("0.10000000000000001"), Number::Fraction(0.1));
        assert_eq!(classify("9007199254740993.0"), Number::Inexact);
        assert_eq!(classify("9007199254740992.0"), Number::Fraction(9_007_199_254_740_992.0));
        assert_eq!(classify("0.12345678901234567890123"), Number::Inexact);
        assert_eq!(classify("1e400"), Number::Inexact);
        assert_eq!(classify("1e-400"), Number::Inexact);
        assert_eq!(classify("0e999"), Number::Fraction(0.0));
        assert_eq!(classify("0.1000000000000000055511151231257827021181583404541015625"), Number::Fraction(0.1));
        assert_eq!(exact_double("9007199254740993"), None);
        // exactly …450.25: the shortest form ends in 3, seventeen digits end in 2
        assert_eq!(classify("1888712659846450.3"), Number::Fraction(1_888_712_659_846_450.2));
        assert_eq!(classify("1888712659846450.25"), Number::Fraction(1_888_712_659_846_450.2));
    }

    #[test]
    fn scaled_integers() {
        assert_eq!(exact_integer("12.340", 2), Some(1234));
        assert_eq!(exact_integer("-12.345", 2), None);
        assert_eq!(exact_integer("1.2e3", 0), Some(1200));
        assert_eq!(exact_integer("0.00", 0), Some(0));
        assert_eq!(exact_integer("170141183460469231731687303715884105728", 0), None);
        assert_eq!(exact_integer("-170141183460469231731687303715884105728", 0), Some(i128::MIN));
        assert_eq!(exact_integer("1e999999999", 0), None);
        assert_eq!(exact_integer("abc", 0), None);
        assert_eq!(exact_integer("", 0), None);
    }

    proptest! {
        #[test]
        fn every_double_survives_its_own_text(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            if value.is_finite() {
                prop_assert_eq!(exact_double(&format!("{value:e}")), Some(value));
                prop_assert_eq!(exact_double(&format!("{value:.16e}")), Some(value));
            }
        }

        #[test]
        fn integers_survive(value in any::<i128>()) {
            prop_assert_eq!(exact_integer(&value.to_string(), 0), Some(value));
        }

        #[test]
        fn the_short_way_comes_to_the_same(text in "[-+]?[0-9]{0,19}[.]?[0-9]{0,4}[-+.e0]?", scale in 0u32..6) {
            if let Some(value) = short_integer(text.as_bytes(), scale) {
                prop_assert_eq!(long_integer(&text, scale), Some(i128::from(value)));
            }
        }

        #[test]
        fn a_short_double_is_what_the_long_way_finds(text in "[-.0-9]{0,16}") {
            prop_assert_eq!(exact_double(&text).map(f64::to_bits), long_double(&text).map(f64::to_bits));
        }

        #[test]
        fn the_short_way_is_taken(value in -999_999_999_999_i64..999_999_999_999, cents in 0_u8..100) {
            let text = format!("{value}.{cents:02}");
            let magnitude = value.unsigned_abs() as i64 * 1000 + i64::from(cents) * 10;
            prop_assert_eq!(short_integer(text.as_bytes(), 3), Some(if value < 0 { -magnitude } else { magnitude }));
        }

        #[test]
        fn no_text_panics(text in "[-+0-9.eE]{0,30}", scale in 0u32..40) {
            let _ = classify(&text);
            let _ = exact_double(&text);
            let _ = exact_integer(&text, scale);
        }
    }
}
