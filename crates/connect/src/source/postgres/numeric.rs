//! The binary form of `numeric`: digits of base 10,000, a weight, a sign and the digits shown after the point.

use super::wire::reader::Malformed;
use super::wire::reader::Reader;

const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const NEGATIVE_INFINITY: u16 = 0xF000;

/// A `numeric` as it stands on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numeric<'a> {
    digits: &'a [u8],
    /// The power of 10,000 of the first digit.
    weight: i16,
    sign: u16,
    shown: u16,
}

impl<'a> Numeric<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let count = usize::try_from(reader.i16()?).map_err(|_| Malformed("a number of digits is negative"))?;
        let (weight, sign, shown) = (reader.i16()?, reader.i16()? as u16, reader.i16()? as u16);
        let digits = reader.take(2 * count)?;
        let number = Self { digits, weight, sign, shown };
        if !reader.is_empty() || number.digits().any(|digit| digit > 9_999) {
            return Err(Malformed("a numeric of another length, or with digits beyond 9,999"));
        }
        if !matches!(sign, 0 | NEGATIVE | NAN | INFINITY | NEGATIVE_INFINITY) {
            return Err(Malformed("a numeric without a sign"));
        }
        Ok(number)
    }

    fn digits(&self) -> impl ExactSizeIterator<Item = u16> + '_ {
        self.digits.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
    }

    pub(super) fn is_finite(&self) -> bool {
        matches!(self.sign, 0 | NEGATIVE)
    }

    /// The scaled integer at `scale`, or `None` if it is not finite, or has more digits than `precision` (≤ 38) in all or
    /// `scale` after the point.
    #[inline]
    pub(super) fn scaled(&self, precision: u8, scale: u8) -> Option<i128> {
        if !self.is_finite() {
            return None;
        }
        let mut value: i128 = 0;
        // The power of ten of the digit at hand, in units of the scale.
        let mut power = 4 * i32::from(self.weight) + i32::from(scale);
        for digit in self.digits() {
            let digit = i128::from(digit);
            let part = match power {
                // Within the number of digits that there can be: beyond it only zeros fit.
                0.. if digit == 0 => 0,
                0.. => digit.checked_mul(10i128.checked_pow(power.unsigned_abs())?)?,
                -3..0 => {
                    let unit = 10i128.pow(power.unsigned_abs());
                    if digit % unit != 0 {
                        return None;
                    }
                    digit / unit
                }
                _ if digit == 0 => 0,
                _ => return None,
            };
            value = value.checked_add(part)?;
            power -= 4;
        }
        if value >= 10i128.checked_pow(u32::from(precision))? {
            return None;
        }
        Some(if self.sign == NEGATIVE { -value } else { value })
    }

    /// The number as the server writes it, or so many bytes of it.
    pub(super) fn text(&self, bytes_max: usize) -> String {
        match self.sign {
            NAN => return "NaN".into(),
            INFINITY => return "Infinity".into(),
            NEGATIVE_INFINITY => return "-Infinity".into(),
            _ => {}
        }
        let digit = |place: i32| {
            let index = usize::try_from(i32::from(self.weight) - place).ok();
            let pair = index.and_then(|index| self.digits.get(2 * index..2 * index + 2));
            pair.map_or(0, |pair| u16::from_be_bytes([pair[0], pair[1]]))
        };
        let mut text = String::new();
        if self.sign == NEGATIVE {
            text.push('-');
        }
        let sign = text.len();
        for place in (0..=i32::from(self.weight.max(0))).rev() {
            if text.len() >= bytes_max {
                break;
            }
            match digit(place) {
                // Zeros before the first digit; one stands for all where there is none.
                first if text.len() == sign && (first > 0 || place == 0) => text.push_str(&first.to_string()),
                _ if text.len() == sign => {}
                next => text.push_str(&format!("{next:04}")),
            }
        }
        if self.shown > 0 {
            let end = text.len() + 1 + usize::from(self.shown);
            text.push('.');
            for place in 1..=i32::from(self.shown.div_ceil(4)) {
                if text.len() >= bytes_max {
                    break;
                }
                text.push_str(&format!("{:04}", digit(-place)));
            }
            text.truncate(end);
        }
        text.truncate(bytes_max);
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A number as the server sends it.
    fn sent(text: &str) -> Vec<u8> {
        let (sign, digits) = text.strip_prefix('-').map_or((0, text), |digits| (NEGATIVE, digits));
        let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
        let whole = format!("{whole:0>width$}", width = whole.len().div_ceil(4) * 4);
        let padded = format!("{part:0<width$}", width = part.len().div_ceil(4) * 4);
        let all = format!("{whole}{padded}");
        let mut groups: Vec<u16> = (0..all.len()).step_by(4).map(|at| all[at..at + 4].parse().unwrap()).collect();
        let mut weight = whole.len() as i16 / 4 - 1;
        while groups.first() == Some(&0) {
            groups.remove(0);
            weight -= 1;
        }
        while groups.last() == Some(&0) {
            groups.pop();
        }
        let head = [groups.len() as u16, weight as u16, sign, part.len() as u16];
        head.into_iter().chain(groups).flat_map(u16::to_be_bytes).collect()
    }

    #[test]
    fn extremes() {
        let nines = "9".repeat(38);
        for (text, precision, scale, expected) in [
            (nines.as_str(), 38, 0, nines.parse().ok()),
            ("0", 1, 0, Some(0)),
            ("-0.50", 12, 4, Some(-5_000)),
            ("12345.678", 12, 3, Some(12_345_678)),
            ("10000", 5, 0, Some(10_000)),
            ("10000", 4, 0, None),
            ("0.00001", 5, 5, Some(1)),
            ("0.00001", 5, 4, None),
            ("1.5", 5, 0, None),
        ] {
            let bytes = sent(text);
            let number = Numeric::parse(&bytes).unwrap();
            assert_eq!(number.scaled(precision, scale), expected, "{text}");
            assert_eq!(number.text(usize::MAX), text);
        }
        let fraction = format!("0.{nines}");
        assert_eq!(Numeric::parse(&sent(&fraction)).unwrap().scaled(38, 38), nines.parse().ok());
        let nan = Numeric::parse(&[0, 0, 0, 0, 0xC0, 0, 0, 0]).unwrap().text(usize::MAX);
        assert_eq!(nan, "NaN");
        // Ten bytes of 131,072 digits.
        let long = [0, 1, 0x7F, 0xFF, 0, 0, 0, 0, 0, 1];
        let long = Numeric::parse(&long).unwrap();
        assert_eq!((long.text(usize::MAX).len(), long.text(100).len()), (131_069, 100));
        assert!(Numeric::parse(&[0, 1, 0, 0, 0, 0, 0, 0, 0x27, 0x10]).is_err());
        assert!(Numeric::parse(&[0, 0, 0, 0, 0, 1, 0, 0]).is_err());
    }

    proptest! {
        #[test]
        fn text_and_scaled_agree(value in -10i128.pow(37)..10i128.pow(37), scale in 0u8..30) {
            let digits = format!("{:0>width$}", value.unsigned_abs(), width = usize::from(scale) + 1);
            let (whole, part) = digits.split_at(digits.len() - usize::from(scale));
            let sign = if value < 0 { "-" } else { "" };
            let text = if part.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{part}") };
            let bytes = sent(&text);
            let number = Numeric::parse(&bytes).unwrap();
            prop_assert_eq!(number.text(usize::MAX), text);
            prop_assert_eq!(number.scaled(38, scale), Some(value));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40), precision: u8, scale: u8) {
            if let Ok(number) = Numeric::parse(&bytes) {
                let _ = number.scaled(precision, scale);
                let text = number.text(usize::MAX);
                for most in [0, 1, 5, 1_000] {
                    prop_assert_eq!(number.text(most), &text[..text.len().min(most)]);
                }
            }
        }
    }
}
