//! Checks of the tree's own files that the tree does not make itself.
//!
//! lsm-tree checks every block and every table of contents it reads, but trusts two things: the version file (the list
//! of tables) against the checksum in `current`, and the length that stands in a table of contents before its checksum
//! was computed. Both are checked here before the tree is opened. And a missing `current` it would take for a new tree.

use crate::{
    disk::{self, File},
    error::Error,
    log::{u32_at, u64_at},
};
use std::path::Path;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

const CURRENT: &str = "current";
const CURRENT_LEN: usize = 8 + 16 + 1;
const TRAILER: &[u8] = b"SFA!\x01\x00";
const TRAILER_LEN: usize = 6 + 16 + 8 + 8;
const TOC_LEN_MAX: u64 = 1 << 20;

/// A table that the current version consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TableFile {
    pub(crate) id: u64,
    /// xxh3 (128 bits) of the whole file.
    pub(crate) checksum: u128,
}

/// Checks `current`, the version file and every table's table of contents; lists the tables.
pub(crate) fn check(dir: &Path) -> Result<Vec<TableFile>, Error> {
    let tables = list(dir)?;
    for table in &tables {
        check_contents(&table_path(dir, table.id))?;
    }
    Ok(tables)
}

pub(crate) fn table_path(dir: &Path, id: u64) -> std::path::PathBuf {
    dir.join("tables").join(id.to_string())
}

/// Reads a whole table and compares it with the checksum that the version holds.
pub(crate) fn check_whole(dir: &Path, table: &TableFile) -> Result<(), Error> {
    let path = table_path(dir, table.id);
    let file = File::open_read(&path)?;
    let mut hasher = Xxh3Default::new();
    let mut buf = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let n = file.read_at(&mut buf, at)?;
        if n == 0 {
            break;
        }
        hasher.update(&buf[..n]);
        at += n as u64;
    }
    if hasher.digest128() == table.checksum {
        Ok(())
    } else {
        Err(Error::damaged(path, "the table differs from its checksum"))
    }
}

/// The tables of the current version.
pub(crate) fn list(dir: &Path) -> Result<Vec<TableFile>, Error> {
    let path = dir.join(CURRENT);
    let current = disk::read(&path)?.ok_or_else(|| Error::damaged(&path, "the list of tables is missing"))?;
    if current.len() != CURRENT_LEN || current.last() != Some(&0) {
        return Err(Error::damaged(&path, "the pointer to the list of tables is malformed"));
    }
    let path = dir.join(format!("v{}", u64_at(&current, 0)));
    let version = disk::read(&path)?.ok_or_else(|| Error::damaged(&path, "the list of tables is missing"))?;
    if xxh3_128(&version) != u128_at(&current, 8) {
        return Err(Error::damaged(&path, "the list of tables differs from its checksum"));
    }
    let tables = section(&version, b"tables").and_then(parse_tables);
    tables.ok_or_else(|| Error::damaged(&path, "the list of tables does not parse"))
}

/// The section of a whole archive in memory, whose checksum was verified before.
fn section<'a>(archive: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let trailer = archive.get(archive.len().checked_sub(TRAILER_LEN)?..)?;
    let toc = archive.get(usize::try_from(u64_at(trailer, 22)).ok()?..)?;
    let mut at = 8;
    for _ in 0..u32_at(toc, 4) {
        let (from, len) = (usize::try_from(u64_at(toc, at)).ok()?, usize::try_from(u64_at(toc, at + 8)).ok()?);
        let name_len = usize::from(u16::from_le_bytes(toc.get(at + 16..at + 18)?.try_into().ok()?));
        let this = toc.get(at + 18..at + 18 + name_len)?;
        if this == name {
            return archive.get(from..from.checked_add(len)?);
        }
        at += 18 + name_len;
    }
    None
}

fn parse_tables(section: &[u8]) -> Option<Vec<TableFile>> {
    const ENTRY: usize = 8 + 1 + 16 + 8;
    let mut tables = Vec::new();
    let mut at = 1;
    for _ in 0..*section.first()? {
        let runs = *section.get(at)?;
        at += 1;
        for _ in 0..runs {
            let count = u32_at(section.get(at..at + 4)?, 0);
            at += 4;
            for _ in 0..count {
                let entry = section.get(at..at + ENTRY)?;
                tables.push(TableFile { id: u64_at(entry, 0), checksum: u128_at(entry, 9) });
                at += ENTRY;
            }
        }
    }
    Some(tables)
}

/// Checks the trailer and the table of contents at the end of a table.
pub(crate) fn check_contents(path: &Path) -> Result<(), Error> {
    let damaged = |what: &str| Error::damaged(path, what);
    let file = match File::open_read(path) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Err(damaged("a table is missing"));
        }
        opened => opened?,
    };
    let len = file.len()?;
    let trailer_at = len.checked_sub(TRAILER_LEN as u64).ok_or_else(|| damaged("a table was cut"))?;
    let mut trailer = [0; TRAILER_LEN];
    file.read_at(&mut trailer, trailer_at)?;
    let toc_at = u64_at(&trailer, 22);
    let toc_len = trailer_at.checked_sub(toc_at).filter(|&len| len <= TOC_LEN_MAX);
    let (true, Some(toc_len)) = (trailer.starts_with(TRAILER), toc_len) else {
        return Err(damaged("a table's trailer is malformed"));
    };
    let mut toc = vec![0; usize::try_from(toc_len).unwrap_or(0)];
    file.read_at(&mut toc, toc_at)?;
    if xxh3_128(&toc) != u128_at(&trailer, 6) {
        return Err(damaged("a table's contents list differs from its checksum"));
    }
    Ok(())
}

fn u128_at(bytes: &[u8], at: usize) -> u128 {
    bytes.get(at..at + 16).map_or(0, |b| u128::from_le_bytes(b.try_into().unwrap_or_default()))
}
