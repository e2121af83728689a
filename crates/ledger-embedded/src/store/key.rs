//! Keys, without an allocation of their own.

use std::{borrow::Borrow, cmp::Ordering, fmt, hash};

/// A key: 1 to [`Key::LEN_MAX`] bytes. The first byte is the key space (see [`crate::store::space`]).
#[derive(Clone, Copy)]
pub struct Key {
    len: u8,
    bytes: [u8; Self::LEN_MAX],
}

impl Key {
    /// The longest key, in bytes.
    pub const LEN_MAX: usize = 47;

    /// A key of these bytes; `None` if there are none or too many.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        Self::from_parts(&[bytes])
    }

    /// A key of these bytes one after the other; `None` if there are none or too many.
    #[must_use]
    pub fn from_parts(parts: &[&[u8]]) -> Option<Self> {
        let mut key = Self { len: 0, bytes: [0; Self::LEN_MAX] };
        for part in parts {
            let from = usize::from(key.len);
            key.bytes.get_mut(from..from + part.len())?.copy_from_slice(part);
            key.len = u8::try_from(from + part.len()).ok()?;
        }
        (key.len > 0).then_some(key)
    }

    pub(crate) fn len_u8(&self) -> u8 {
        self.len
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.as_ref()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_ref() == other.as_ref()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_ref().cmp(other.as_ref())
    }
}

impl hash::Hash for Key {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.as_ref().hash(state);
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_ref().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_compared_by_their_bytes_alone() {
        assert_eq!(Key::new(b"ab"), Key::from_parts(&[b"a", b"b"]));
        assert!(Key::new(b"ab").unwrap() < Key::new(b"b").unwrap());
        assert_eq!(Key::new(b""), None);
        assert!(Key::new(&[1; 47]).is_some());
        assert_eq!(Key::new(&[1; 48]), None);
    }
}
