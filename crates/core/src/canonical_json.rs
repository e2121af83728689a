//! JSON in its one canonical form (RFC 8785), so that a request means the same however its members are ordered,
//! spaced, escaped and numbered.
//!
//! What has no canonical form is told apart instead of being guessed: names that stand twice, numbers that a double
//! cannot hold, lone surrogates, nesting over 127. Such a body still counts, byte by byte.

mod number;
mod order;

use order::Order;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;

/// Why a body has no canonical form.
#[derive(Debug, thiserror::Error)]
pub enum NotCanonical {
    /// It is no I-JSON (RFC 7493): no JSON at all, a lone surrogate, a name twice, or nested deeper than 127.
    #[error("the body is no I-JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A number changes on its way through a double, as 9007199254740993 does.
    #[error("a number at byte {at} of the body changes on its way through a double")]
    Number {
        /// Offset of the number's first byte.
        at: usize,
    },
}

/// The canonical form of `body`, by RFC 8785: no spaces, members sorted by UTF-16 code units, minimal escapes, numbers
/// as ECMAScript prints them.
///
/// Stricter than the RFC in one point: a number that a double only approximates is refused, not rounded, so that two
/// requests with different amounts never share a form.
///
/// Builds no tree: values are written to one buffer as they are read; where members came out of order, one pass over it
/// puts them right. Takes time in proportion to the body, however it is nested.
///
/// # Errors
/// Where there is no canonical form; see [`NotCanonical`].
///
/// ```
/// use semel_core::canonical_json::canonicalise;
/// assert_eq!(canonicalise(br#"{ "b": 1.0, "a": "\u0041" }"#).unwrap(), br#"{"a":"A","b":1}"#);
/// assert!(canonicalise(b"9007199254740993").is_err());
/// ```
pub fn canonicalise(body: &[u8]) -> Result<Vec<u8>, NotCanonical> {
    let canonical = rfc_8785(body)?;
    // Only now is it known to be JSON, which is what the scan for numbers rests on.
    match number::first_inexact(body) {
        Some(at) => Err(NotCanonical::Number { at }),
        None => Ok(canonical),
    }
}

/// The canonical form, with numbers rounded as RFC 8785 does.
fn rfc_8785(body: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    let mut writer = Writer { out: Vec::with_capacity(body.len()), members: Vec::new(), order: Order::default() };
    let mut json = serde_json::Deserializer::from_slice(body);
    Value(&mut writer).deserialize(&mut json)?;
    json.end()?;
    Ok(writer.order.apply(writer.out))
}

/// The integers up to here are doubles, and ECMAScript prints them as they are.
const INTEGER_MAX: u64 = 1 << 53;

struct Writer<'de> {
    out: Vec<u8>,
    /// A stack: the members of all objects that are being read, innermost last.
    members: Vec<Member<'de>>,
    order: Order,
}

/// A member, and where it was written, without the comma before it.
struct Member<'de> {
    name: Cow<'de, str>,
    span: Range<usize>,
}

impl Writer<'_> {
    fn string(&mut self, text: &str) {
        self.out.push(b'"');
        // Without a way out of the loop it is done many bytes at a time; most strings need no escape.
        if !text.bytes().fold(false, |any, byte| any | needs_escape(byte)) {
            self.out.extend_from_slice(text.as_bytes());
            return self.out.push(b'"');
        }
        let mut plain = 0;
        for (at, &byte) in text.as_bytes().iter().enumerate() {
            if !needs_escape(byte) {
                continue;
            }
            self.out.extend_from_slice(&text.as_bytes()[plain..at]);
            plain = at + 1;
            self.escape(byte);
        }
        self.out.extend_from_slice(&text.as_bytes()[plain..]);
        self.out.push(b'"');
    }

    /// RFC 8785 section 3.2.2.2: the two-character escapes where there are, else `\u00xx` in lower case.
    fn escape(&mut self, byte: u8) {
        let short = match byte {
            b'"' | b'\\' => byte,
            0x08 => b'b',
            0x09 => b't',
            0x0a => b'n',
            0x0c => b'f',
            0x0d => b'r',
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
                self.out.extend_from_slice(b"\\u00");
                return self.out.extend_from_slice(&digits);
            }
        };
        self.out.extend_from_slice(&[b'\\', short]);
    }

    fn number(&mut self, number: f64) {
        // Finite: serde_json refuses what overflows.
        self.out.extend_from_slice(ryu_js::Buffer::new().format_finite(number).as_bytes());
    }

    /// Closes the object whose members were written to `out[start..]`: sorts and forgets the members from `first` on.
    ///
    /// Returns false where a name stands twice.
    fn close_object(&mut self, first: usize, start: usize) -> bool {
        let members = &mut self.members[first..];
        if !members.is_sorted_by(|a, b| utf16_order(&a.name, &b.name) == Ordering::Less) {
            members.sort_unstable_by(|a, b| utf16_order(&a.name, &b.name));
            if members.windows(2).any(|pair| pair[0].name == pair[1].name) {
                return false;
            }
            self.order.rearrange(start..self.out.len(), members.iter().map(|member| member.span.clone()));
        }
        self.members.truncate(first);
        self.out.push(b'}');
        true
    }
}

const fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// The order of UTF-16 code units (RFC 8785 section 3.2.3), decided on UTF-8.
///
/// The two differ only where one text has a character from U+E000 to U+FFFF (first byte 0xEE or 0xEF) and the other
/// one beyond (0xF0 and up), whose surrogates sort lower.
fn utf16_order(a: &str, b: &str) -> Ordering {
    let rank = |byte: u8| if matches!(byte, 0xee | 0xef) { byte + 0x10 } else { byte };
    let differing = a.bytes().zip(b.bytes()).find(|(a, b)| a != b);
    differing.map_or_else(|| a.len().cmp(&b.len()), |(a, b)| rank(a).cmp(&rank(b)))
}

/// Reads one value and writes it.
struct Value<'w, 'de>(&'w mut Writer<'de>);

impl<'de> DeserializeSeed<'de> for Value<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.0.out.extend_from_slice(b"null");
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.0.out.extend_from_slice(if value { b"true" } else { b"false" });
        Ok(())
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<(), E> {
        match i64::try_from(number) {
            Ok(number) => self.visit_i64(number),
            Err(_) => self.visit_f64(number as f64),
        }
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<(), E> {
        if number.unsigned_abs() > INTEGER_MAX {
            return self.visit_f64(number as f64);
        }
        self.0.out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        Ok(())
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        self.0.number(number);
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.string(text);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.0.out.push(b'[');
        let start = self.0.out.len();
        loop {
            let before = self.0.out.len();
            if before > start {
                self.0.out.push(b',');
            }
            if items.next_element_seed(Value(&mut *self.0))?.is_none() {
                self.0.out.truncate(before);
                self.0.out.push(b']');
                return Ok(());
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let writer = self.0;
        writer.out.push(b'{');
        let start = writer.out.len();
        let first = writer.members.len();
        while let Some(name) = members.next_key_seed(Name)? {
            if writer.members.len() > first {
                writer.out.push(b',');
            }
            let begin = writer.out.len();
            writer.string(&name);
            writer.out.push(b':');
            members.next_value_seed(Value(&mut *writer))?;
            writer.members.push(Member { name, span: begin..writer.out.len() });
        }
        if writer.close_object(first, start) {
            Ok(())
        } else {
            Err(A::Error::custom("a member name stands twice in one object"))
        }
    }
}

/// Reads a member name, borrowed where it has no escapes.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

#[cfg(test)]
mod tests;
