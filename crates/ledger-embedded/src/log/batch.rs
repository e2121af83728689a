//! One batch: the unit of commitment.

use super::{hash, u32_at, u64_at};
use crate::store::key::Key;
use bytes::Bytes;

/// Bytes of the header before the entries.
pub(crate) const HEADER: usize = 64;
const MAGIC: u32 = u32::from_le_bytes(*b"SMLB");
const FORMAT: u32 = 1;

/// The header of a batch.
///
/// | at | field |
/// |---|---|
/// | 0 | magic `SMLB` |
/// | 4 | format version |
/// | 8 | batch number |
/// | 16 | bytes of entries |
/// | 20 | number of entries |
/// | 24 | hash of the entries, seeded by salt and number |
/// | 32 | zeros |
/// | 56 | hash of the above, seeded by the salt |
///
/// The salt is the ledger's own random number: bytes that a caller smuggled into a body cannot pass for a batch, and a
/// segment of another ledger is no part of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) number: u64,
    pub(crate) payload_len: u32,
    pub(crate) entries: u32,
    payload_hash: u64,
}

impl Header {
    /// Reads a header, if these bytes are one of this ledger.
    pub(crate) fn parse(bytes: &[u8], salt: u64) -> Option<Self> {
        let header = bytes.get(..HEADER)?;
        let valid = u32_at(header, 0) == MAGIC
            && u32_at(header, 4) == FORMAT
            && u64_at(header, 56) == hash(&header[..56], salt);
        valid.then(|| Self {
            number: u64_at(header, 8),
            payload_len: u32_at(header, 16),
            entries: u32_at(header, 20),
            payload_hash: u64_at(header, 24),
        })
    }

    /// Whether `payload` is what this header was written for.
    pub(crate) fn vouches_for(&self, payload: &[u8], salt: u64) -> bool {
        payload.len() == self.payload_len as usize && hash(payload, salt ^ self.number) == self.payload_hash
    }

    /// Bytes of the whole batch on disk, padding included.
    pub(crate) fn disk_len(&self) -> u64 {
        (HEADER as u64 + u64::from(self.payload_len)).next_multiple_of(crate::disk::BLOCK as u64)
    }
}

const PUT: u8 = 1;
const DELETE: u8 = 2;

/// A batch under construction.
#[derive(Debug, Default)]
pub(crate) struct BatchBuffer {
    bytes: Vec<u8>,
    entries: u32,
}

/// A place in a [`BatchBuffer`] to go back to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Savepoint {
    len: usize,
    entries: u32,
}

impl Savepoint {
    pub(crate) fn len(self) -> usize {
        self.len.max(HEADER)
    }
}

/// Where a value stands in its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl BatchBuffer {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len().max(HEADER)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    pub(crate) fn savepoint(&self) -> Savepoint {
        Savepoint { len: self.bytes.len(), entries: self.entries }
    }

    pub(crate) fn rollback(&mut self, to: Savepoint) {
        self.bytes.truncate(to.len);
        self.entries = to.entries;
    }

    pub(crate) fn get(&self, span: Span) -> &[u8] {
        self.bytes.get(span.start..span.end).unwrap_or_default()
    }

    /// Appends a put whose value `write` appends to the buffer. Returns where the value stands.
    pub(crate) fn put(&mut self, key: &Key, write: impl FnOnce(&mut Vec<u8>)) -> Span {
        self.entry(PUT, key);
        let len_at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        let start = self.bytes.len();
        write(&mut self.bytes);
        let end = self.bytes.len();
        let len = u32::try_from(end - start).unwrap_or(u32::MAX);
        self.bytes[len_at..start].copy_from_slice(&len.to_le_bytes());
        Span { start, end }
    }

    pub(crate) fn delete(&mut self, key: &Key) {
        self.entry(DELETE, key);
    }

    fn entry(&mut self, tag: u8, key: &Key) {
        if self.bytes.is_empty() {
            self.bytes.resize(HEADER, 0);
        }
        self.entries += 1;
        self.bytes.push(tag);
        self.bytes.push(key.len_u8());
        self.bytes.extend_from_slice(key.as_ref());
    }

    /// Writes the header and hands the finished bytes out; the buffer is empty again.
    pub(crate) fn seal(&mut self, number: u64, salt: u64) -> Bytes {
        let capacity = self.bytes.len();
        let mut bytes = std::mem::replace(&mut self.bytes, Vec::with_capacity(capacity));
        let entries = std::mem::take(&mut self.entries);
        let payload_len = u32::try_from(bytes.len() - HEADER).unwrap_or(u32::MAX);
        let payload_hash = hash(&bytes[HEADER..], salt ^ number);
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[8..16].copy_from_slice(&number.to_le_bytes());
        bytes[16..20].copy_from_slice(&payload_len.to_le_bytes());
        bytes[20..24].copy_from_slice(&entries.to_le_bytes());
        bytes[24..32].copy_from_slice(&payload_hash.to_le_bytes());
        let header_hash = hash(&bytes[..56], salt);
        bytes[56..64].copy_from_slice(&header_hash.to_le_bytes());
        // What the buffer grew beyond the batch would stay resident as long as any of its values.
        bytes.shrink_to_fit();
        Bytes::from(bytes)
    }
}

/// One entry of a batch read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    Put(Key, Bytes),
    Delete(Key),
}

/// The entries of a whole batch (header included), or `None` if they do not parse.
pub(crate) fn entries(batch: &Bytes, count: u32) -> Option<Vec<Entry>> {
    let mut at = HEADER;
    let mut entries = Vec::with_capacity(count.min(1 << 16) as usize);
    for _ in 0..count {
        let (tag, key_len) = (*batch.get(at)?, usize::from(*batch.get(at + 1)?));
        let key = Key::new(batch.get(at + 2..at + 2 + key_len)?)?;
        at += 2 + key_len;
        if tag == DELETE {
            entries.push(Entry::Delete(key));
            continue;
        }
        let len = u32_at(batch.get(at..at + 4)?, 0) as usize;
        at += 4;
        batch.get(at..at + len)?;
        entries.push(Entry::Put(key, batch.slice(at..at + len)));
        at += len;
        if tag != PUT {
            return None;
        }
    }
    (at == batch.len()).then_some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_reads_back_and_any_flipped_byte_is_noticed() {
        let key = Key::new(b"\x02abc").unwrap();
        let mut buffer = BatchBuffer::default();
        let span = buffer.put(&key, |out| out.extend_from_slice(b"value"));
        assert_eq!(buffer.get(span), b"value");
        buffer.delete(&key);
        let bytes = buffer.seal(7, 99);
        let header = Header::parse(&bytes, 99).unwrap();
        assert_eq!((header.number, header.entries), (7, 2));
        assert!(header.vouches_for(&bytes[HEADER..], 99));
        assert_eq!(entries(&bytes, 2).unwrap(), [Entry::Put(key, Bytes::from_static(b"value")), Entry::Delete(key)]);
        assert_eq!(Header::parse(&bytes, 98), None, "another ledger's batch is none of ours");
        for at in 0..bytes.len() {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 0x10;
            let caught = Header::parse(&flipped, 99).is_none_or(|h| !h.vouches_for(&flipped[HEADER..], 99));
            assert!(caught, "flip at {at}");
        }
    }
}
