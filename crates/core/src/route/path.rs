//! One spelling per path, or a refusal.

use std::borrow::Cow;

use thiserror::Error;

/// Why a path is refused rather than matched: gateway and upstream could read it differently, and a guarded effect
/// could be reached by a path that no guard matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    /// The path does not start with `/`.
    #[error("the path does not start with a slash")]
    NotAbsolute,
    /// `%` without two hexadecimal digits.
    #[error("a percent sign is not followed by two hexadecimal digits")]
    BadEscape,
    /// `%2F`, `%5C` or a backslash: is it a separator?
    #[error("an encoded slash or a backslash is ambiguous")]
    HiddenSeparator,
    /// `.` or `..` as a segment, also encoded.
    #[error("a dot segment is ambiguous")]
    DotSegment,
    /// `//`: some upstreams merge slashes, some do not.
    #[error("an empty segment (two slashes) is ambiguous")]
    EmptySegment,
    /// A byte outside visible ASCII, or an encoded control character.
    #[error("a control character or a byte outside ASCII stands in the path")]
    ForbiddenByte,
}

/// The one spelling of `path` (no query) under which routes are matched and which is sent upstream: escapes of
/// unreserved characters decoded, the remaining escapes in upper case (RFC 3986, 6.2.2.1 and 6.2.2.2).
///
/// Borrows when the path already has that spelling.
///
/// # Errors
/// [`PathError`] where two readers could disagree about the path.
pub fn normalise(path: &str) -> Result<Cow<'_, str>, PathError> {
    if !path.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    let mut suspicious = false;
    let mut previous = 0u8;
    for &b in path.as_bytes() {
        match b {
            b'%' => suspicious = true,
            b'\\' => return Err(PathError::HiddenSeparator),
            0..=0x20 | 0x7f.. => return Err(PathError::ForbiddenByte),
            b'/' if previous == b'/' => return Err(PathError::EmptySegment),
            b'.' if previous == b'/' => suspicious = true,
            _ => {}
        }
        previous = b;
    }
    if !suspicious {
        return Ok(Cow::Borrowed(path));
    }
    let normal = if path.contains('%') { Cow::Owned(decode(path)?) } else { Cow::Borrowed(path) };
    if normal.split('/').any(|segment| segment == "." || segment == "..") {
        return Err(PathError::DotSegment);
    }
    Ok(normal)
}

fn decode(path: &str) -> Result<String, PathError> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let digits = rest.as_bytes().get(at + 1..at + 3).ok_or(PathError::BadEscape)?;
        let byte = hex(digits[0])? << 4 | hex(digits[1])?;
        match byte {
            b'/' | b'\\' => return Err(PathError::HiddenSeparator),
            0..0x20 | 0x7f => return Err(PathError::ForbiddenByte),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => {
                out.push('%');
                out.push(char::from(digits[0].to_ascii_uppercase()));
                out.push(char::from(digits[1].to_ascii_uppercase()));
            }
        }
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    Ok(out)
}

const fn hex(digit: u8) -> Result<u8, PathError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(PathError::BadEscape),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spells_one_way() {
        for (given, want) in [
            ("/", "/"),
            ("/v1/payments", "/v1/payments"),
            ("/v1/payments/", "/v1/payments/"),
            ("/v1/%70ayments", "/v1/payments"),
            ("/v1/a%3ab", "/v1/a%3Ab"),
            ("/v1/%7e%2d", "/v1/~-"),
            ("/a/.well-known/x", "/a/.well-known/x"),
            ("/a/...", "/a/..."),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/V1/Payments", "/V1/Payments"),
        ] {
            assert_eq!(normalise(given).as_deref(), Ok(want), "{given}");
        }
        assert!(matches!(normalise("/v1/payments"), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn refuses_what_two_readers_read_differently() {
        use PathError::*;
        for (given, want) in [
            ("", NotAbsolute),
            ("*", NotAbsolute),
            ("v1", NotAbsolute),
            ("/a%2fb", HiddenSeparator),
            ("/a%2Fb", HiddenSeparator),
            ("/a%5cb", HiddenSeparator),
            ("/a\\b", HiddenSeparator),
            ("/a//b", EmptySegment),
            ("//", EmptySegment),
            ("/a/../b", DotSegment),
            ("/a/.", DotSegment),
            ("/.", DotSegment),
            ("/a/%2e%2E/b", DotSegment),
            ("/a/%2e/b", DotSegment),
            ("/a%", BadEscape),
            ("/a%4", BadEscape),
            ("/a%zz", BadEscape),
            ("/a%00", ForbiddenByte),
            ("/a b", ForbiddenByte),
            ("/é", ForbiddenByte),
        ] {
            assert_eq!(normalise(given), Err(want), "{given}");
        }
    }

    proptest! {
        /// What comes out is a fixed point, and encoding any unreserved character changes nothing.
        #[test]
        fn is_idempotent_and_blind_to_encoding(path in "(/[a-z0-9~%:@._-]{1,5}){1,5}/?") {
            if let Ok(normal) = normalise(&path) {
                prop_assert_eq!(normalise(&normal), Ok(normal.clone()));
                let encoded: String = normal
                    .bytes()
                    .map(|b| if b.is_ascii_alphanumeric() && !normal.contains('%') { format!("%{b:02x}") } else { char::from(b).to_string() })
                    .collect();
                prop_assert_eq!(normalise(&encoded), Ok(normal.clone()));
            }
        }
    }
}
