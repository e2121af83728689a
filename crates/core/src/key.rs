//! The caller's key: where it comes from and what makes it well formed.

mod pointer;
mod source;

pub use pointer::{JsonPointer, JsonPointerError};
pub use source::{KeyFrom, KeySource, KeySpec, KeySpecError};

use http::header::{HeaderMap, HeaderName};
use std::borrow::Cow;
use std::fmt;

/// Longest key, in bytes. Stripe's limit, which the IETF draft's users inherited.
pub const KEY_BYTES_MAX: usize = 255;

/// A well-formed key: 1 to 255 bytes per part.
///
/// Borrows from the request where it can: a bare header value costs no allocation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey<'a> {
    text: Cow<'a, str>,
    part_count: u32,
}

/// Why a request has no usable key. Says what to do; the HTTP status is the edge's business.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing where the key should be.
    #[error("no idempotency key in {place}: send one that is unique to this effect, for example a UUID")]
    Missing {
        /// Where it was looked for.
        place: KeySource,
    },
    /// Something that is no key.
    #[error("malformed idempotency key in {place}: {fault}")]
    Malformed {
        /// Where it stands.
        place: KeySource,
        /// What is wrong with it.
        fault: KeyFault,
    },
}

/// What is wrong with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// No character.
    #[error("it is empty; send 1 to 255 characters")]
    Empty,
    /// More than [`KEY_BYTES_MAX`].
    #[error("it has {0} bytes; send at most 255")]
    TooLong(usize),
    /// A byte outside 0x21 to 0x7E in a header.
    #[error("it holds the byte 0x{0:02x}; use visible ASCII characters without spaces")]
    Byte(u8),
    /// More than one header of the name.
    #[error("the header is there more than once; send exactly one")]
    Repeated,
    /// The body, where the key should be, is not JSON.
    #[error("the body is not JSON; send JSON, the key is read from it")]
    NotJson,
    /// The same member name stands twice on the way to the key.
    #[error("the body names the same member twice on the way to it; send it once")]
    Duplicate,
    /// The JSON value is neither a string nor an integer.
    #[error("it is neither a string nor an integer")]
    NotScalar,
}

impl<'a> IdempotencyKey<'a> {
    /// Reads one `Idempotency-Key` value.
    ///
    /// A complete structured-field string (RFC 9651 section 3.3.3) yields its content, anything else is the trimmed
    /// value as it is: `"abc"` and `abc` are one key, because official SDKs send it bare while the IETF draft quotes it.
    ///
    /// # Errors
    /// Where the key is empty, longer than 255 bytes, or holds a byte outside 0x21 to 0x7E.
    pub fn from_header_value(value: &'a [u8]) -> Result<Self, KeyFault> {
        let trimmed = value.trim_ascii();
        let text = match quoted(trimmed) {
            Some(content) => Cow::Owned(content),
            None => Cow::Borrowed(visible(trimmed)?),
        };
        visible(text.as_bytes())?;
        Self::single(text)
    }

    /// Reads the key from the header `name`, which must be there exactly once.
    ///
    /// # Errors
    /// Where it is missing, there twice, or malformed.
    pub fn from_header(headers: &'a HeaderMap, name: &HeaderName) -> Result<Self, KeyError> {
        let place = || KeySource::Header(name.clone());
        let mut values = headers.get_all(name).iter();
        let Some(value) = values.next() else {
            return Err(KeyError::Missing { place: place() });
        };
        let key =
            if values.next().is_some() { Err(KeyFault::Repeated) } else { Self::from_header_value(value.as_bytes()) };
        key.map_err(|fault| KeyError::Malformed { place: place(), fault })
    }

    /// A key of one part from text that did not come in a header; any character is welcome.
    ///
    /// # Errors
    /// Where it is empty or longer than 255 bytes.
    pub fn single(text: impl Into<Cow<'a, str>>) -> Result<Self, KeyFault> {
        let text = text.into();
        match text.len() {
            0 => Err(KeyFault::Empty),
            1..=KEY_BYTES_MAX => Ok(Self { text, part_count: 1 }),
            long => Err(KeyFault::TooLong(long)),
        }
    }

    /// Joins several parts into one natural key. Each part is preceded by its length in bytes, as in a netstring, so
    /// that ("ab", "c") and ("a", "bc") stay two keys.
    #[must_use]
    pub fn joined(parts: &[Self]) -> Self {
        if let [single] = parts {
            return single.clone();
        }
        let mut text = String::with_capacity(parts.iter().map(|part| part.text.len() + 5).sum());
        for part in parts {
            text.push_str(&part.text.len().to_string());
            text.push(':');
            text.push_str(&part.text);
            text.push(',');
        }
        Self { text: Cow::Owned(text), part_count: u32::try_from(parts.len()).unwrap_or(u32::MAX) }
    }

    /// The key's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// How many parts were joined; 1 for a plain key.
    #[must_use]
    pub const fn part_count(&self) -> u32 {
        self.part_count
    }

    /// The key without its borrow of the request.
    #[must_use]
    pub fn into_owned(self) -> IdempotencyKey<'static> {
        IdempotencyKey { text: Cow::Owned(self.text.into_owned()), part_count: self.part_count }
    }
}

impl fmt::Display for IdempotencyKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

/// The content of a complete structured-field string without parameters.
fn quoted(value: &[u8]) -> Option<String> {
    if value.first() != Some(&b'"') {
        return None;
    }
    let item = sfv::Parser::new(value).parse::<sfv::Item>().ok()?;
    match item.bare_item {
        sfv::BareItem::String(content) if item.params.is_empty() => Some(content.as_str().to_owned()),
        _ => None,
    }
}

/// The value as text, where every byte is a visible ASCII character.
fn visible(value: &[u8]) -> Result<&str, KeyFault> {
    match value.iter().find(|byte| !byte.is_ascii_graphic()) {
        Some(&byte) => Err(KeyFault::Byte(byte)),
        // Visible ASCII is UTF-8: the empty text is never reached.
        None => Ok(std::str::from_utf8(value).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(value: &str) -> Result<String, KeyFault> {
        IdempotencyKey::from_header_value(value.as_bytes()).map(|key| key.as_str().to_owned())
    }

    #[test]
    fn quoted_and_bare_are_one_key() {
        assert_eq!(key("abc"), Ok("abc".into()));
        assert_eq!(key("\"abc\""), Ok("abc".into()));
        assert_eq!(key(" \t\"abc\"  "), Ok("abc".into()));
        assert_eq!(key(r#""a\"b\\c""#), Ok(r#"a"b\c"#.into()));
        // Not complete structured-field strings: the value as it is.
        assert_eq!(key("\"abc"), Ok("\"abc".into()));
        assert_eq!(key("\"abc\"x"), Ok("\"abc\"x".into()));
        assert_eq!(key("\"abc\";v=1"), Ok("\"abc\";v=1".into()));
        assert_eq!(key(r#""a\bc""#), Ok(r#""a\bc""#.into()));
        assert_eq!(key("abc\""), Ok("abc\"".into()));
    }

    #[test]
    fn public_structured_field_vectors() {
        let vectors: serde_json::Value = serde_json::from_str(include_str!("../tests/data/sf-string.json")).unwrap();
        let strings = vectors["strings"].as_array().unwrap();
        assert!(strings.len() > 10);
        for vector in strings {
            let found = quoted(vector["raw"].as_str().unwrap().as_bytes());
            assert_eq!(found.as_deref(), vector["content"].as_str(), "{}", vector["name"]);
        }
        for byte in 0..=u8::MAX {
            let plain = (0x20..0x7f).contains(&byte) && !b"\"\\".contains(&byte);
            assert_eq!(quoted(&[b'"', b'a', byte, b'"']).is_some(), plain, "{byte:02x} in a string");
            assert_eq!(quoted(&[b'"', b'\\', byte, b'"']).is_some(), b"\"\\".contains(&byte), "{byte:02x} escaped");
        }
    }

    #[test]
    fn malformed() {
        assert_eq!(key(""), Err(KeyFault::Empty));
        assert_eq!(key("  "), Err(KeyFault::Empty));
        assert_eq!(key("\"\""), Err(KeyFault::Empty));
        assert_eq!(key("a b"), Err(KeyFault::Byte(b' ')));
        assert_eq!(key("\"a b\""), Err(KeyFault::Byte(b' ')));
        assert_eq!(key("a\u{7f}"), Err(KeyFault::Byte(0x7f)));
        assert_eq!(key("ä"), Err(KeyFault::Byte(0xc3)));
        assert_eq!(key(&"k".repeat(255)), Ok("k".repeat(255)));
        assert_eq!(key(&"k".repeat(256)), Err(KeyFault::TooLong(256)));
        assert_eq!(key(&format!("\"{}\"", "k".repeat(255))), Ok("k".repeat(255)));
    }

    #[test]
    fn header_must_be_there_once() {
        let name = HeaderName::from_static("idempotency-key");
        let mut headers = HeaderMap::new();
        assert!(matches!(IdempotencyKey::from_header(&headers, &name), Err(KeyError::Missing { .. })));
        headers.append(&name, "a".parse().unwrap());
        assert_eq!(IdempotencyKey::from_header(&headers, &name).unwrap().as_str(), "a");
        headers.append(&name, "a".parse().unwrap());
        let error = IdempotencyKey::from_header(&headers, &name).unwrap_err();
        assert_eq!(
            error.to_string(),
            "malformed idempotency key in header:idempotency-key: the header is there more than once; send exactly one"
        );
    }

    proptest! {
        #[test]
        fn quoting_changes_nothing(text in "[!-~]{1,255}") {
            let quoted = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
            let expected = IdempotencyKey::single(text.as_str()).unwrap();
            prop_assert_eq!(&IdempotencyKey::from_header_value(quoted.as_bytes()).unwrap(), &expected);
            // A bare value is itself unless it happens to be a complete quoted string.
            if !text.starts_with('"') {
                prop_assert_eq!(&IdempotencyKey::from_header_value(text.as_bytes()).unwrap(), &expected);
            }
        }

        #[test]
        fn no_value_panics_and_every_key_is_visible(value in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(key) = IdempotencyKey::from_header_value(&value) {
                prop_assert!((1..=KEY_BYTES_MAX).contains(&key.as_str().len()));
                prop_assert!(key.as_str().bytes().all(|byte| (0x21..=0x7e).contains(&byte)));
            }
        }

        #[test]
        fn joining_is_unambiguous(
            one in proptest::collection::vec("[0-9:,a]{1,6}", 1..4),
            two in proptest::collection::vec("[0-9:,a]{1,6}", 1..4),
        ) {
            let join = |parts: &[String]| {
                let keys: Vec<_> = parts.iter().map(|part| IdempotencyKey::single(part.clone()).unwrap()).collect();
                IdempotencyKey::joined(&keys)
            };
            prop_assert_eq!(join(&one) == join(&two), one == two);
        }
    }
}
