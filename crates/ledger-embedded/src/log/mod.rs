//! The write-ahead log: numbered, checksummed batches in pre-zeroed, recycled segments. It is the truth for
//! everything the table does not hold yet.
//!
//! Layout: `log/00000001.seg`, … each `segment_bytes` long; a batch starts on a 4 KiB boundary and never crosses a
//! segment. Batch numbers rise by one for ever. A segment is written again when the table covers its last batch, so
//! what stands behind the newest batch is zeros or older batches; both are recognised by their numbers.

pub(crate) mod batch;
pub(crate) mod mark;
pub(crate) mod scan;
pub(crate) mod segments;

pub(crate) use batch::{BatchBuffer, Entry};
pub(crate) use mark::Mark;
pub(crate) use segments::{Log, Pool, Segment};

/// Hashes bytes with a seed (xxh3, 64 bits: <https://github.com/Cyan4973/xxHash>).
pub(crate) fn hash(bytes: &[u8], seed: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(bytes, seed)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, |b| u64::from_le_bytes(b.try_into().unwrap_or_default()))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes(b.try_into().unwrap_or_default()))
}
