//! The name of an effect: what the ledger is keyed by and what operators type.

use std::fmt;
use std::str::FromStr;

/// The alphabet of Crockford's base 32, in lower case (<https://www.crockford.com/base32.html>).
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const PREFIX: &str = "ef_";
const DIGITS: usize = 26;

/// 128 bits that name one effect. Shown as `ef_` and 26 digits of Crockford's base 32, in lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EffectId([u8; 16]);

/// Why a text is not an [`EffectId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EffectIdError {
    /// The text does not begin with `ef_`.
    #[error("an effect id begins with `ef_`, as in the Semel-Effect-Id header")]
    Prefix,
    /// The text is not 26 digits after its prefix.
    #[error("an effect id has 26 digits after `ef_`, this one has {0}")]
    Length(usize),
    /// A character that is no digit of Crockford's base 32.
    #[error("`{0}` is no digit of an effect id (0-9 and a-z without i, l, o, u)")]
    Digit(char),
    /// The digits say more than 128 bits.
    #[error("the digits of this effect id say more than 128 bits (the first digit is 0 to 7)")]
    Overflow,
}

impl EffectId {
    /// The id with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The id's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The text form, without an allocation.
    #[must_use]
    pub fn to_ascii(self) -> [u8; 29] {
        let mut text = *b"ef_00000000000000000000000000";
        base32(u128::from_be_bytes(self.0), &mut text[PREFIX.len()..]);
        text
    }
}

/// Writes `number` big-endian into 26 digits.
pub(super) fn base32(mut number: u128, digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[(number & 31) as usize];
        number >>= 5;
    }
}

impl fmt::Display for EffectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(std::str::from_utf8(&self.to_ascii()).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for EffectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for EffectId {
    type Err = EffectIdError;

    /// Reads the text form; capitals are welcome, as are Crockford's aliases (`o` for 0, `i` and `l` for 1).
    fn from_str(text: &str) -> Result<Self, EffectIdError> {
        let digits = text.strip_prefix(PREFIX).ok_or(EffectIdError::Prefix)?;
        let count = digits.chars().count();
        if count != DIGITS {
            return Err(EffectIdError::Length(count));
        }
        let mut number = 0_u128;
        for (at, digit) in digits.chars().enumerate() {
            let value = value_of(digit).ok_or(EffectIdError::Digit(digit))?;
            if at == 0 && value > 7 {
                return Err(EffectIdError::Overflow);
            }
            number = number << 5 | u128::from(value);
        }
        Ok(Self(number.to_be_bytes()))
    }
}

fn value_of(digit: char) -> Option<u8> {
    let digit = match digit.to_ascii_lowercase() {
        'o' => b'0',
        'i' | 'l' => b'1',
        other => u8::try_from(other).ok()?,
    };
    ALPHABET.iter().position(|&known| known == digit).and_then(|at| u8::try_from(at).ok())
}

impl<C> minicbor::Encode<C> for EffectId {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(&self.0)?.ok()
    }
}

impl<'b, C> minicbor::Decode<'b, C> for EffectId {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let bytes = d.bytes()?;
        let bytes = bytes.try_into().map_err(|_| minicbor::decode::Error::message("an effect id has 16 bytes"))?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_texts() {
        assert_eq!(EffectId([0; 16]).to_string(), "ef_00000000000000000000000000");
        assert_eq!(EffectId([255; 16]).to_string(), "ef_7zzzzzzzzzzzzzzzzzzzzzzzzz");
        assert_eq!("EF_0".parse::<EffectId>(), Err(EffectIdError::Prefix));
        assert_eq!("ef_0".parse::<EffectId>(), Err(EffectIdError::Length(1)));
        assert_eq!("ef_8zzzzzzzzzzzzzzzzzzzzzzzzz".parse::<EffectId>(), Err(EffectIdError::Overflow));
        assert_eq!("ef_0u000000000000000000000000".parse::<EffectId>(), Err(EffectIdError::Digit('u')));
        assert_eq!("ef_O000000000000000000000000L".parse::<EffectId>(), "ef_00000000000000000000000001".parse());
    }

    proptest! {
        #[test]
        fn text_and_cbor_round_trip(bytes: [u8; 16]) {
            let id = EffectId(bytes);
            prop_assert_eq!(id.to_string().parse::<EffectId>(), Ok(id));
            let cbor = minicbor::to_vec(id).unwrap();
            prop_assert_eq!(minicbor::decode::<EffectId>(&cbor).unwrap(), id);
        }

        #[test]
        fn text_order_is_byte_order(a: [u8; 16], b: [u8; 16]) {
            prop_assert_eq!(a.cmp(&b), EffectId(a).to_string().cmp(&EffectId(b).to_string()));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = text.parse::<EffectId>();
        }
    }
}
