//! The high-water mark: the number of the last committed batch, in a file of its own beside the log.
//!
//! It is written plainly after each commit has returned and flushed lazily, so it never runs ahead of durable data.
//! Recovery below it means that acknowledged batches are gone: the ledger refuses to start. Two alternating slots: a
//! torn write leaves the other one.

use super::{hash, u64_at};
use crate::{
    disk::{BLOCK, File},
    error::Error,
};
use std::path::Path;

const SLOT: usize = 24;
const MAGIC: u64 = u64::from_le_bytes(*b"SMLMARK1");

/// The open mark file.
#[derive(Debug)]
pub(crate) struct Mark {
    file: File,
    salt: u64,
}

impl Mark {
    /// Creates the file with both slots at zero, durably.
    pub(crate) fn create(path: &Path, salt: u64) -> Result<(), Error> {
        let mut bytes = vec![0; BLOCK + SLOT];
        bytes[..SLOT].copy_from_slice(&slot(0, salt));
        bytes[BLOCK..].copy_from_slice(&slot(0, salt));
        crate::disk::write_durably(path, &bytes)
    }

    /// Opens the file and reads the highest number it holds.
    pub(crate) fn open(path: &Path, salt: u64) -> Result<(Self, u64), Error> {
        let missing = || Error::damaged(path, "the high-water mark is missing");
        let bytes = crate::disk::read(path)?.ok_or_else(missing)?;
        let number = [0, BLOCK].into_iter().filter_map(|at| parse(bytes.get(at..at + SLOT)?, salt)).max();
        let number = number.ok_or_else(|| Error::damaged(path, "the high-water mark is unreadable"))?;
        Ok((Self { file: File::open(path)?, salt }, number))
    }

    /// Notes that `number` is committed.
    pub(crate) fn advance(&self, number: u64) -> Result<(), Error> {
        let at = if number.is_multiple_of(2) { 0 } else { BLOCK as u64 };
        self.file.write_block_at(&slot(number, self.salt), at).map_err(|e| Error::io("write", self.file.path(), e))
    }

    /// Makes the mark durable. Never needed for safety; it narrows what a power loss can hide.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(|e| Error::io("sync", self.file.path(), e))
    }
}

fn slot(number: u64, salt: u64) -> [u8; SLOT] {
    let mut bytes = [0; SLOT];
    bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    let check = hash(&bytes[..16], salt);
    bytes[16..].copy_from_slice(&check.to_le_bytes());
    bytes
}

fn parse(bytes: &[u8], salt: u64) -> Option<u64> {
    let valid = u64_at(bytes, 0) == MAGIC && u64_at(bytes, 16) == hash(bytes.get(..16)?, salt);
    valid.then(|| u64_at(bytes, 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_survives_one_torn_slot_and_never_reads_too_high() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mark");
        Mark::create(&path, 5).unwrap();
        let (mark, number) = Mark::open(&path, 5).unwrap();
        assert_eq!(number, 0);
        mark.advance(8).unwrap();
        mark.advance(9).unwrap();
        assert_eq!(Mark::open(&path, 5).unwrap().1, 9);
        mark.file.write_block_at(b"torn", BLOCK as u64).unwrap();
        assert_eq!(Mark::open(&path, 5).unwrap().1, 8);
        mark.file.write_block_at(b"torn", 0).unwrap();
        assert!(Mark::open(&path, 5).unwrap_err().is_damage());
    }
}
