//! Decimals of the protocol (text) as scaled integers, exact.

use arrow::datatypes::i256;

/// The scaled integer of `text` at `scale`, or `None` if it is not a decimal with at most `scale` digits after the
/// point and at most `precision` digits in all (precision ≤ 38).
pub(crate) fn parse_i128(text: &[u8], precision: u8, scale: u8) -> Option<i128> {
    let (is_negative, digits) = sign(text);
    let mut value: i128 = 0;
    let mut after_point: Option<u8> = None;
    if !digits.iter().any(u8::is_ascii_digit) {
        return None;
    }
    for byte in digits {
        match byte {
            b'0'..=b'9' => {
                value = value.checked_mul(10)?.checked_add(i128::from(byte - b'0'))?;
                after_point = after_point.map(|count| count.saturating_add(1));
            }
            b'.' if after_point.is_none() => after_point = Some(0),
            _ => return None,
        }
    }
    let missing = scale.checked_sub(after_point.unwrap_or(0))?;
    value = value.checked_mul(10i128.checked_pow(u32::from(missing))?)?;
    if value >= 10i128.checked_pow(u32::from(precision))? {
        return None;
    }
    Some(if is_negative { -value } else { value })
}

/// As [`parse_i128`], for up to 76 digits.
pub(crate) fn parse_i256(text: &[u8], precision: u8, scale: u8) -> Option<i256> {
    let (is_negative, digits) = sign(text);
    let (whole, part) = match digits.iter().position(|byte| *byte == b'.') {
        Some(point) => (&digits[..point], &digits[point + 1..]),
        None => (digits, &[][..]),
    };
    let missing = usize::from(scale).checked_sub(part.len())?;
    if (whole.is_empty() && part.is_empty()) || !whole.iter().chain(part).all(u8::is_ascii_digit) {
        return None;
    }
    let significant = whole.iter().chain(part).copied().skip_while(|byte| *byte == b'0');
    let text: String = significant.chain(std::iter::repeat_n(b'0', missing)).map(char::from).collect();
    if text.len() > usize::from(precision) && text.bytes().any(|byte| byte != b'0') {
        return None;
    }
    let value = if text.is_empty() { i256::ZERO } else { i256::from_string(&text)? };
    Some(if is_negative { value.wrapping_neg() } else { value })
}

fn sign(text: &[u8]) -> (bool, &[u8]) {
    match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn extremes() {
        let nines = "9".repeat(38);
        assert_eq!(parse_i128(nines.as_bytes(), 38, 0), nines.parse().ok());
        assert_eq!(parse_i128(format!("-{nines}").as_bytes(), 38, 0), format!("-{nines}").parse().ok());
        assert_eq!(parse_i128(b"-0.50", 12, 4), Some(-5_000));
        assert_eq!(parse_i128(b"00012.3", 12, 1), Some(123));
        for bad in ["", "-", ".", "1.23", "1e3", "1..2", "abc", "12345"] {
            assert_eq!(parse_i128(bad.as_bytes(), 4, 1), None, "{bad}");
        }
        let wide = format!("-{}.{}", "9".repeat(35), "9".repeat(30));
        let expected = i256::from_string(&wide.replace('.', "")).unwrap();
        assert_eq!(parse_i256(wide.as_bytes(), 65, 30), Some(expected));
        for bad in ["", "-", "1.2e", "1.2.3", "."] {
            assert_eq!(parse_i256(bad.as_bytes(), 65, 30), None, "{bad}");
        }
        assert_eq!(parse_i256(b"0.000", 65, 30), Some(i256::ZERO));
    }

    proptest! {
        #[test]
        fn both_widths_agree(value in -10i128.pow(18)..10i128.pow(18), scale in 1u8..10) {
            let text = format!("{}{}.{:0width$}", if value < 0 { "-" } else { "" },
                value.abs() / 10i128.pow(scale.into()), value.abs() % 10i128.pow(scale.into()), width = scale.into());
            prop_assert_eq!(parse_i128(text.as_bytes(), 38, scale), Some(value));
            prop_assert_eq!(parse_i256(text.as_bytes(), 65, scale), Some(i256::from_i128(value)));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..90), precision: u8, scale: u8) {
            let _ = parse_i128(&bytes, precision, scale);
            let _ = parse_i256(&bytes, precision, scale);
        }
    }
}
