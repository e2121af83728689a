//! Values as they are stored: with their expiry and with a check over key, expiry and body.
//!
//! `[check 8][expires_at_ms 8][body]`. The check is made when the value enters a batch and verified whenever it is
//! read, wherever it lived in between: in the log, in memory or in a table.

use super::key::Key;
use crate::log::{hash, u64_at};
use bytes::Bytes;

const HEAD: usize = 16;
const NEVER: u64 = u64::MAX;

/// A value read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// When it may vanish, in milliseconds since the Unix epoch by the store's clock; `None`: never.
    pub expires_at_ms: Option<u64>,
    /// The bytes that were put.
    pub body: Bytes,
}

/// Appends a value to `out`; `write` appends the body.
pub(crate) fn encode(out: &mut Vec<u8>, key: &Key, expires_at_ms: Option<u64>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&expires_at_ms.unwrap_or(NEVER).to_le_bytes());
    write(out);
    let check = check(key.as_ref(), &out[start + 8..]);
    out[start..start + 8].copy_from_slice(&check.to_le_bytes());
}

/// Reads a value of `key` back; `None` if it is not what was written for this key.
pub(crate) fn decode(key: &[u8], stored: Bytes) -> Option<Value> {
    if !is_whole(key, &stored) {
        return None;
    }
    let expires_at_ms = expiry(&stored);
    let mut body = stored;
    bytes::Buf::advance(&mut body, HEAD);
    Some(Value { expires_at_ms, body })
}

/// Whether `stored` is what was written for `key`.
pub(crate) fn is_whole(key: &[u8], stored: &[u8]) -> bool {
    stored.len() >= HEAD && u64_at(stored, 0) == check(key, &stored[8..])
}

/// The expiry of a stored value, unverified.
pub(crate) fn expiry(stored: &[u8]) -> Option<u64> {
    Some(u64_at(stored, 8)).filter(|&at| at != NEVER)
}

fn check(key: &[u8], rest: &[u8]) -> u64 {
    hash(rest, hash(key, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_reads_back_only_for_its_own_key_and_whole() {
        let (key, other) = (Key::new(b"k1").unwrap(), Key::new(b"k2").unwrap());
        let mut out = b"before".to_vec();
        encode(&mut out, &key, Some(77), |out| out.extend_from_slice(b"body"));
        let stored = Bytes::from(out).slice(6..);
        let value = decode(key.as_ref(), stored.clone()).unwrap();
        assert_eq!((value.expires_at_ms, &value.body[..]), (Some(77), &b"body"[..]));
        assert_eq!(decode(other.as_ref(), stored.clone()), None);
        for at in 0..stored.len() {
            let mut flipped = stored.to_vec();
            flipped[at] ^= 1;
            assert_eq!(decode(key.as_ref(), flipped.into()), None, "flip at {at}");
        }
        assert_eq!(decode(key.as_ref(), stored.slice(..stored.len() - 1)), None);
        assert_eq!(decode(key.as_ref(), Bytes::new()), None);
    }
}
