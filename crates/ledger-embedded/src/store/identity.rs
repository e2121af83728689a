//! The file that makes a folder a ledger: its random id, the salt of its checksums, and its secret.

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
const COPY: usize = 8 + 8 + 16 + 32 + 8;

/// Who this ledger is. Two copies stand in the file: without the salt nothing in the log can be read, and without the
/// secret no key can be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) salt: u64,
    pub(crate) id: [u8; 16],
    /// Random bytes for the store's user: made with the ledger, never changed.
    pub(crate) secret: [u8; 32],
}

impl Identity {
    pub(crate) fn generate() -> Result<Self, Error> {
        let mut random = [0; 8 + 16 + 32];
        getrandom::fill(&mut random)
            .map_err(|e| Error::io("draw random numbers for", "a new ledger", std::io::Error::other(e)))?;
        Ok(Self::from_bytes(&random))
    }

    fn from_bytes(bytes: &[u8; 56]) -> Self {
        let (mut id, mut secret) = ([0; 16], [0; 32]);
        id.copy_from_slice(&bytes[8..24]);
        secret.copy_from_slice(&bytes[24..]);
        Self { salt: u64_at(bytes, 0), id, secret }
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
        copy.extend_from_slice(&self.secret);
        let check = hash(&copy, 0);
        copy.extend_from_slice(&check.to_le_bytes());
        let mut bytes = copy.clone();
        bytes.resize(BLOCK, 0);
        bytes.extend_from_slice(&copy);
        disk::write_durably(path, &bytes)
    }
}

fn parse(copy: &[u8]) -> Option<Identity> {
    let valid = copy.starts_with(MAGIC) && u64_at(copy, 64) == hash(copy.get(..64)?, 0);
    valid.then(|| copy.get(8..64)?.try_into().ok().map(Identity::from_bytes)).flatten()
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
