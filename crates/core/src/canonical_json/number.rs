//! Which numbers survive a double.

/// Decimal digits that every double keeps: DBL_DIG of C.
const DIGITS_SAFE: usize = 15;
/// Significant digits that the longest double has; no text with more can be one.
const DIGITS_MAX: usize = 767;

/// Offset of the first number in `json`, which must be valid JSON, that a double does not give back.
///
/// A number survives if the nearest double, printed in its shortest form or with as many significant digits as the
/// number has, is the number again. So 1.10 and 333333333.33333331 (as `%.17g` prints) survive; 9007199254740993,
/// 1e-400 and 1.000000000000000001 do not: a receiver that reads decimals would see another amount than one that reads
/// doubles.
pub(super) fn first_inexact(json: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(&byte) = json.get(at) {
        match byte {
            b'"' => at = after_string(json, at),
            b'-' | b'0'..=b'9' => {
                let rest = &json[at..];
                let end = rest.iter().position(|byte| !matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
                let number = &rest[..end.unwrap_or(rest.len())];
                if !survives(number) {
                    return Some(at);
                }
                at += number.len();
            }
            _ => at += 1,
        }
    }
    None
}

/// Offset after the string that begins at `at`.
fn after_string(json: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while let Some(found) = memchr::memchr2(b'"', b'\\', json.get(at..).unwrap_or_default()) {
        if json[at + found] == b'"' {
            return at + found + 1;
        }
        at += found + 2;
    }
    json.len()
}

fn survives(number: &[u8]) -> bool {
    let plain = !number.iter().any(|byte| matches!(byte, b'e' | b'E'));
    // Sign and point count too: a bound from above is enough.
    if plain && number.len() <= DIGITS_SAFE {
        return true;
    }
    let Some(text) = std::str::from_utf8(number).ok() else { return false };
    let Ok(double) = text.parse::<f64>() else { return false };
    let decimal = Decimal::of(text);
    let count = decimal.digits().count();
    if count == 0 {
        return true;
    }
    if count > DIGITS_MAX || !double.is_finite() {
        return false;
    }
    // Between two equally near decimals the shortest form may choose the other one.
    let printed = [format!("{double:.*e}", count - 1), format!("{double:e}")];
    printed.iter().any(|printed| Decimal::of(printed).equals(&decimal))
}

/// A decimal as written, compared by value without its sign (no rounding changes a sign).
struct Decimal<'a> {
    /// Digits and point.
    mantissa: &'a [u8],
    /// Digits of the mantissa that count: from the first to the last that is not zero.
    significant: std::ops::Range<usize>,
    /// Power of ten of the first significant digit.
    power: i64,
}

impl<'a> Decimal<'a> {
    fn of(text: &'a str) -> Self {
        let text = text.as_bytes();
        let text = text.strip_prefix(b"-").unwrap_or(text);
        let split = text.iter().position(|byte| matches!(byte, b'e' | b'E'));
        let (mantissa, exponent) = split.map_or((text, &[][..]), |at| (&text[..at], &text[at + 1..]));
        let is_significant = |byte: &u8| matches!(byte, b'1'..=b'9');
        let first = mantissa.iter().position(is_significant).unwrap_or(mantissa.len());
        let last = mantissa.iter().rposition(is_significant).map_or(first, |at| at + 1);
        let point = mantissa.iter().position(|&byte| byte == b'.').unwrap_or(mantissa.len());
        let offset = |at: usize| i64::try_from(at).unwrap_or(i64::MAX);
        let place = if first < point { offset(point) - offset(first) - 1 } else { offset(point) - offset(first) };
        Self { mantissa, significant: first..last, power: place.saturating_add(exponent_of(exponent)) }
    }

    fn digits(&self) -> impl Iterator<Item = u8> {
        self.mantissa[self.significant.clone()].iter().copied().filter(u8::is_ascii_digit)
    }

    fn equals(&self, other: &Self) -> bool {
        let both_zero = self.significant.is_empty() && other.significant.is_empty();
        both_zero || self.power == other.power && self.digits().eq(other.digits())
    }
}

fn exponent_of(text: &[u8]) -> i64 {
    let (negative, digits) = match text.split_first() {
        Some((b'-', digits)) => (true, digits),
        Some((b'+', digits)) => (false, digits),
        _ => (false, text),
    };
    let size = digits.iter().fold(0_i64, |size, digit| size.saturating_mul(10).saturating_add(i64::from(digit & 15)));
    if negative { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_numbers() {
        for number in [
            "0",
            "-0",
            "0.0",
            "1",
            "1.10",
            "1e0",
            "1E30",
            "4.50",
            "2e-3",
            "0.000000000000000000000000001",
            "-1.5e+3",
            "333333333.33333331",
            "333333333.3333333",
            "9007199254740992",
            "9007199254740994",
            "9223372036854775808",
            "5e-324",
            "4.94e-324",
            "1.7976931348623157e308",
            "0e999999999999999999999",
            "100000000000000000000000",
            "0.1000000000000000055511151231257827",
            "1.000000000000000000000000000000",
        ] {
            assert!(survives(number.as_bytes()), "{number}");
        }
        for number in [
            "9007199254740993",
            "-9007199254740993",
            "18446744073709551615",
            "1.000000000000000001",
            "1e-400",
            "2e-324",
            "1e400",
            "0.30000000000000001",
            "333333333.33333329",
            "1e99999999999999999999",
            "123456789012345678",
        ] {
            assert!(!survives(number.as_bytes()), "{number}");
        }
        assert!(!survives(&[b'1'; 70_000]), "no number is long enough to do harm");
    }

    #[test]
    fn numbers_in_strings_do_not_count() {
        assert_eq!(first_inexact(br#"{"9007199254740993":"a\"9007199254740993","b":[1,2]}"#), None);
        assert_eq!(first_inexact(br#"{"a\\":9007199254740993}"#), Some(7));
        assert_eq!(first_inexact(br#"[1,"",9007199254740993]"#), Some(6));
    }

    proptest! {
        #[test]
        fn every_double_survives_shortest_and_in_17_digits(bits: u64) {
            let double = f64::from_bits(bits);
            prop_assume!(double.is_finite());
            for text in [format!("{double:e}"), format!("{double}"), format!("{double:.16e}")] {
                prop_assert!(survives(text.as_bytes()), "{}", text);
            }
        }

        #[test]
        fn integers_survive_exactly_when_a_double_holds_them(number: i64) {
            // Trailing zeros are places that a shorter printing rounds to: 1152921504606847000 is 2^60.
            prop_assume!(number % 10 != 0);
            prop_assert_eq!(survives(number.to_string().as_bytes()), (number as f64) as i128 == i128::from(number));
        }
    }
}
