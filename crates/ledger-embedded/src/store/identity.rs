//! The file that makes a folder a ledger: its random id and the salt of its checksums.

use crate::{
    disk::{self, BLOCK},
    error::Error,
    log::{hash, u64_at},
};
use std::path::Path;

pub(crate) const NAME: &str = "IDENTITY";
/// Its name until everything else is there.
pub(crate) const NAME_NEW: &str = "IDENTITY.new";
const MAGIC: &[u8; 8] = b"SEMEL\0\x01\0";
const COPY: usize = 8 + 8 + 16 + 8;

/// Who this ledger is. Two copies stand in the file, because nothing in the log can be read without the salt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) salt: u64,
    pub(crate) id: [u8; 16],
}

impl Identity {
    pub(crate) fn generate() -> Result<Self, Error> {
        let mut random = [0; 24];
        getrandom::fill(&mut random).map_err(|e| Error::io("draw random numbers for", "", std::io::Error::other(e)))?;
        let mut id = [0; 16];
        id.copy_from_slice(&random[8..]);
        Ok(Self { salt: u64_at(&random, 0), id })
    }

    /// Reads either whole copy. `None` if there is no such file.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, Error> {
        let Some(bytes) = disk::read(path)? else { return Ok(None) };
        let copy = [0, BLOCK].into_iter().find_map(|at| parse(bytes.get(at..at + COPY)?));
        copy.map(Some).ok_or_else(|| Error::damaged(path, "both copies of the ledger's identity are unreadable"))
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), Error> {
        let mut copy = MAGIC.to_vec();
        copy.extend_from_slice(&self.salt.to_le_bytes());
        copy.extend_from_slice(&self.id);
        let check = hash(&copy, 0);
        copy.extend_from_slice(&check.to_le_bytes());
        let mut bytes = copy.clone();
        bytes.resize(BLOCK, 0);
        bytes.extend_from_slice(&copy);
        disk::write_durably(path, &bytes)
    }
}

fn parse(copy: &[u8]) -> Option<Identity> {
    let valid = copy.starts_with(MAGIC) && u64_at(copy, 32) == hash(copy.get(..32)?, 0);
    let id = copy.get(16..32)?.try_into().ok()?;
    valid.then(|| Identity { salt: u64_at(copy, 8), id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_whole_copy_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        assert_eq!(Identity::read(&path).unwrap(), None);
        let identity = Identity::generate().unwrap();
        identity.write(&path).unwrap();
        let bytes = disk::read(&path).unwrap().unwrap();
        for at in (0..COPY).chain(BLOCK..BLOCK + COPY) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            disk::write_durably(&path, &flipped).unwrap();
            assert_eq!(Identity::read(&path).unwrap(), Some(identity));
        }
        disk::write_durably(&path, b"short").unwrap();
        assert!(Identity::read(&path).unwrap_err().is_damage());
    }
}
