//! Building a new table from whatever can still be read of a damaged one.
//!
//! Every data block of a table file carries its own checksum, so a damaged block costs its own records and no others.
//! The walk over the blocks is ours; decoding a run of whole blocks is the tree's own scanner's.

use super::{APPLIED, Sizes, config, failed, manifest};
use crate::{
    disk,
    error::Error,
    log::u32_at,
    store::{NoSweep, value},
};
use lsm_tree::{AbstractTree, CompressionType, InternalValue, SeqNo, SequenceNumberCounter, table::Scanner};
use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};
use xxhash_rust::xxh3::xxh3_128;

const MAGIC: &[u8] = b"LSM\x03";
/// Magic, type, checksum of the data, its length, its length uncompressed, checksum of the header.
const HEADER: usize = 4 + 1 + 16 + 4 + 4 + 4;
const DATA: u8 = 0;
/// Bytes of records held in memory before they are written.
const MEMORY_BYTES: u64 = 32 << 20;

/// What was saved and what was not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Salvaged {
    /// Versions of records that were read back whole.
    pub(crate) records: u64,
    /// Bytes that no whole block covers, in files that were not whole.
    pub(crate) lost_bytes: u64,
    /// Table files that were not whole.
    pub(crate) damaged_tables: u64,
}

/// Reads all tables in `from` and writes a new tree in `to`, which must not exist.
pub(crate) fn rebuild(from: &Path, to: &Path, sizes: Sizes) -> Result<Salvaged, Error> {
    let mut salvaged = Salvaged::default();
    let seqno = SequenceNumberCounter::default();
    let tree = config(to, &seqno, &SequenceNumberCounter::default(), sizes, Arc::new(NoSweep))
        .open()
        .map_err(|e| failed("create", to, e))?;
    let scratch = to.join("scratch");
    let mut highest = 0;
    for path in table_files(from)? {
        let bytes = disk::read(&path)?.unwrap_or_default();
        let runs = whole_runs(&bytes);
        let end = runs.last().map_or(0, |run| run.bytes.end);
        let lost = end - runs.iter().map(|run| run.bytes.len()).sum::<usize>();
        if lost > 0 || manifest::check_contents(&path).is_err() {
            salvaged.damaged_tables += 1;
            salvaged.lost_bytes += lost as u64;
        }
        for run in runs {
            disk::write_durably(&scratch, &bytes[run.bytes])?;
            let items = Scanner::new(&scratch, run.blocks, CompressionType::None, 0);
            for item in items.map_err(|e| failed("read", &path, e))? {
                let item = item.map_err(|e| failed("read", &path, e))?;
                highest = highest.max(item.key.seqno);
                salvaged.records += u64::from(insert(&tree, item));
            }
            if tree.active_memtable().size() >= MEMORY_BYTES {
                flush(&tree, to)?;
            }
        }
    }
    disk::remove(&scratch)?;
    seqno.fetch_max(highest + 1);
    flush(&tree, to)?;
    tree.major_compact(sizes.table_bytes, seqno.get()).map_err(|e| failed("compact", to, e))?;
    Ok(salvaged)
}

/// The tables of the current version; if that cannot be read, every table there is. Then what was merged already may
/// be there once more: older versions lose against newer ones, and a deleted live record that comes back is unknown,
/// not absent.
fn table_files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    match manifest::list(dir) {
        Ok(tables) => Ok(tables.iter().map(|table| manifest::table_path(dir, table.id)).collect()),
        Err(e) if e.is_damage() => {
            let folder = dir.join("tables");
            Ok(disk::list(&folder)?.iter().map(|name| folder.join(name)).collect())
        }
        Err(e) => Err(e),
    }
}

/// Keeps a version of a record if it is whole, under its own sequence number. Returns whether it did.
fn insert(tree: &lsm_tree::AnyTree, item: InternalValue) -> bool {
    let (key, seqno): (_, SeqNo) = (item.key.user_key, item.key.seqno);
    if item.key.value_type.is_tombstone() {
        tree.remove(key, seqno);
        return false;
    }
    let whole = value::is_whole(&key, &item.value);
    if whole {
        tree.insert(key.clone(), item.value, seqno);
    }
    whole && key != APPLIED
}

fn flush(tree: &lsm_tree::AnyTree, dir: &Path) -> Result<(), Error> {
    tree.rotate_memtable();
    tree.flush(&tree.get_flush_lock(), 0).map(|_| ()).map_err(|e| failed("write", dir, e))
}

struct Run {
    bytes: Range<usize>,
    blocks: usize,
}

/// The runs of adjoining whole data blocks.
fn whole_runs(bytes: &[u8]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match whole_block(&bytes[at..]) {
            Some((DATA, len)) => {
                match runs.last_mut().filter(|run| run.bytes.end == at) {
                    Some(run) => (run.bytes.end, run.blocks) = (at + len, run.blocks + 1),
                    None => runs.push(Run { bytes: at..at + len, blocks: 1 }),
                }
                at += len;
            }
            Some((_, len)) => at += len,
            None => {
                let next = bytes[at + 1..].windows(MAGIC.len()).position(|window| window == MAGIC);
                at = next.map_or(bytes.len(), |distance| at + 1 + distance);
            }
        }
    }
    runs
}

/// The type and length of the block at the start of `bytes`, if it is whole.
fn whole_block(bytes: &[u8]) -> Option<(u8, usize)> {
    let header = bytes.get(..HEADER)?;
    let check = u32_at(&xxh3_128(&header[..HEADER - 4]).to_le_bytes(), 0);
    if !header.starts_with(MAGIC) || u32_at(header, HEADER - 4) != check {
        return None;
    }
    let len = HEADER + u32_at(header, 21) as usize;
    let whole = xxh3_128(bytes.get(HEADER..len)?).to_le_bytes() == header[5..21];
    whole.then_some((header[4], len))
}
