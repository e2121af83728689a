//! JSON pointers (RFC 6901) and reading one scalar from a body without building the rest of it.

use super::KeyFault;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// A JSON pointer (RFC 6901) to one member of a request body, such as `/order/id`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JsonPointer {
    text: Box<str>,
    tokens: Box<[Box<str>]>,
}

/// Why a text is no [`JsonPointer`] to a member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonPointerError {
    /// RFC 6901: a pointer to a member begins with a slash.
    #[error("a JSON pointer begins with `/`, as in `/order_id`")]
    Slash,
    /// RFC 6901 knows the escapes `~0` and `~1` only.
    #[error("`~` in a JSON pointer must be written `~0` (and `/` as `~1`)")]
    Escape,
}

impl JsonPointer {
    /// The string or integer this pointer leads to; `None` where the body has no such member, or it is null.
    ///
    /// # Errors
    /// Where the body is not JSON, names a member on the way twice, or holds something that is no string or integer.
    pub fn read<'a>(&self, body: &'a [u8]) -> Result<Option<Cow<'a, str>>, KeyFault> {
        let mut fault = None;
        let mut json = serde_json::Deserializer::from_slice(body);
        let found = Walk { tokens: &self.tokens, fault: &mut fault }.deserialize(&mut json).and_then(|found| {
            json.end()?;
            Ok(found)
        });
        found.map_err(|_| fault.unwrap_or(KeyFault::NotJson))
    }
}

/// Walks to the member that `tokens` name and skips everything else.
struct Walk<'w> {
    tokens: &'w [Box<str>],
    fault: &'w mut Option<KeyFault>,
}

impl Walk<'_> {
    fn scalar<'de, E: serde::de::Error>(self, text: impl Into<Cow<'de, str>>) -> Result<Option<Cow<'de, str>>, E> {
        // A scalar before the end of the pointer has no members.
        Ok(self.tokens.is_empty().then(|| text.into()))
    }

    fn refuse<T, E: serde::de::Error>(self, fault: KeyFault) -> Result<T, E> {
        *self.fault = Some(fault);
        Err(E::custom(fault))
    }

    fn not_scalar<'de, E: serde::de::Error>(self) -> Result<Option<Cow<'de, str>>, E> {
        if self.tokens.is_empty() { self.refuse(KeyFault::NotScalar) } else { Ok(None) }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Option<Cow<'de, str>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Self::Value, E> {
        self.not_scalar()
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Self::Value, E> {
        self.not_scalar()
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Self::Value, E> {
        self.scalar(number.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Self::Value, E> {
        self.scalar(number.to_string())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        self.scalar(text.to_owned())
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        self.scalar(text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let Some((token, rest)) = self.tokens.split_first() else {
            return self.refuse(KeyFault::NotScalar);
        };
        let wanted = index(token);
        let mut found = None;
        for at in 0_usize.. {
            if Some(at) == wanted {
                match items.next_element_seed(Walk { tokens: rest, fault: &mut *self.fault })? {
                    Some(value) => found = value,
                    None => break,
                }
            } else if items.next_element::<IgnoredAny>()?.is_none() {
                break;
            }
        }
        Ok(found)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let Some((token, rest)) = self.tokens.split_first() else {
            return self.refuse(KeyFault::NotScalar);
        };
        let mut found = None;
        let mut seen = false;
        while let Some(wanted) = members.next_key_seed(Named(token))? {
            if !wanted {
                members.next_value::<IgnoredAny>()?;
                continue;
            }
            if seen {
                *self.fault = Some(KeyFault::Duplicate);
                return Err(A::Error::custom(KeyFault::Duplicate));
            }
            seen = true;
            found = members.next_value_seed(Walk { tokens: rest, fault: &mut *self.fault })?;
        }
        Ok(found)
    }
}

/// Whether the next member has this name; compares without keeping the name.
struct Named<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for Named<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Named<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member name")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

/// RFC 6901: digits without a leading zero.
fn index(token: &str) -> Option<usize> {
    let digits = token.bytes().all(|byte| byte.is_ascii_digit()) && (token == "0" || !token.starts_with('0'));
    if digits { token.parse().ok() } else { None }
}

impl FromStr for JsonPointer {
    type Err = JsonPointerError;

    /// Reads a pointer to a member; the pointer to the whole document (the empty text) is refused.
    fn from_str(text: &str) -> Result<Self, JsonPointerError> {
        let path = text.strip_prefix('/').ok_or(JsonPointerError::Slash)?;
        let tokens = path.split('/').map(unescape).collect::<Result<_, _>>()?;
        Ok(Self { text: text.into(), tokens })
    }
}

fn unescape(token: &str) -> Result<Box<str>, JsonPointerError> {
    let mut plain = String::with_capacity(token.len());
    let mut characters = token.chars();
    while let Some(character) = characters.next() {
        plain.push(match character {
            '~' => match characters.next() {
                Some('0') => '~',
                Some('1') => '/',
                _ => return Err(JsonPointerError::Escape),
            },
            other => other,
        });
    }
    Ok(plain.into())
}

impl fmt::Display for JsonPointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(pointer: &str, body: &str) -> Result<Option<String>, KeyFault> {
        let found = pointer.parse::<JsonPointer>().unwrap().read(body.as_bytes());
        found.map(|value| value.map(Cow::into_owned))
    }

    /// The document of RFC 6901 section 5, with scalars only.
    const RFC: &str = r#"{"foo":["bar","baz"],"":0,"a/b":1,"c%d":2,"e^f":3,"g|h":4,"i\\j":5,"k\"l":6," ":7,"m~n":8}"#;

    #[test]
    fn rfc_6901_section_5() {
        let vectors = [
            ("/foo/0", "bar"),
            ("/", "0"),
            ("/a~1b", "1"),
            ("/c%d", "2"),
            ("/e^f", "3"),
            ("/g|h", "4"),
            ("/i\\j", "5"),
            ("/k\"l", "6"),
            ("/ ", "7"),
            ("/m~0n", "8"),
        ];
        for (pointer, expected) in vectors {
            assert_eq!(read(pointer, RFC), Ok(Some(expected.into())), "{pointer}");
        }
        assert_eq!(read("/foo", RFC), Err(KeyFault::NotScalar));
    }

    #[test]
    fn what_is_not_there() {
        for pointer in ["/x", "/foo/2", "/foo/00", "/foo/-", "/foo/01", "/foo/bar", "/a~1b/x"] {
            assert_eq!(read(pointer, RFC), Ok(None), "{pointer}");
        }
        assert_eq!(read("/a", r#"{"a":null}"#), Ok(None));
        assert_eq!(read("/a", "[1]"), Ok(None));
        assert_eq!(read("/a", "1"), Ok(None));
    }

    #[test]
    fn what_is_no_key() {
        for body in [r#"{"a":true}"#, r#"{"a":1.5}"#, r#"{"a":1e3}"#, r#"{"a":[]}"#, r#"{"a":{}}"#] {
            assert_eq!(read("/a", body), Err(KeyFault::NotScalar), "{body}");
        }
        assert_eq!(read("/a", r#"{"a":1,"a":1}"#), Err(KeyFault::Duplicate));
        assert_eq!(read("/a", r#"{"b":1,"b":1,"a":1}"#), Ok(Some("1".into())));
        for body in ["", "{", r#"{"a":1} x"#, r#"{"a":"\ud800"}"#] {
            assert_eq!(read("/a", body), Err(KeyFault::NotJson), "{body}");
        }
    }

    #[test]
    fn escapes_and_borrows() {
        assert!(matches!("/a".parse::<JsonPointer>().unwrap().read(br#"{"a":"x"}"#), Ok(Some(Cow::Borrowed("x")))));
        assert_eq!(read("/a", r#"{"\u0061":"\u0062"}"#), Ok(Some("b".into())));
        assert_eq!("".parse::<JsonPointer>(), Err(JsonPointerError::Slash));
        assert_eq!("/~2".parse::<JsonPointer>(), Err(JsonPointerError::Escape));
        assert_eq!("/a~".parse::<JsonPointer>(), Err(JsonPointerError::Escape));
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(pointer in "(/[a-c0-2~]{0,2}){1,3}", body in r#"[\[\]{}a-c"0-2:,]{0,30}"#) {
            let Ok(ours) = pointer.parse::<JsonPointer>() else { return Ok(()) };
            let Ok(value) = serde_json::from_str::<serde_json::Value>(&body) else {
                prop_assert!(ours.read(body.as_bytes()).is_err() );
                return Ok(());
            };
            let expected = value.pointer(&pointer);
            match ours.read(body.as_bytes()) {
                Ok(Some(text)) => {
                    let same = expected.is_some_and(|value| value.as_str() == Some(&text) || value.to_string() == text);
                    prop_assert!(same);
                }
                Ok(None) => prop_assert!(expected.is_none_or(serde_json::Value::is_null)),
                Err(fault) => prop_assert!(matches!(fault, KeyFault::NotScalar | KeyFault::Duplicate)),
            }
        }
    }
}
