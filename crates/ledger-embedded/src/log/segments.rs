//! The segments: who writes which, and when one may be written again.

use super::{
    batch::BatchBuffer,
    scan::{self, Found},
};
use semel_ledger::failpoint;

use crate::{disk, disk::File, error::Error};
use bytes::Bytes;
use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// One file of the log.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) id: u64,
    pub(crate) file: File,
    /// The length of the file, in whole blocks.
    pub(crate) bytes: u64,
    /// The highest batch number that was ever written to it; 0 for none.
    pub(crate) last: u64,
}

/// The segments that nobody is writing, shared between the committer (who takes free ones and hands over full ones)
/// and the keeper (who recycles and creates).
#[derive(Debug)]
pub(crate) struct Pool {
    dir: PathBuf,
    segment_bytes: u64,
    segments_max: usize,
    state: Mutex<PoolState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct PoolState {
    free: Vec<Segment>,
    full: VecDeque<Segment>,
    next_id: u64,
    /// Why no segment could be created; cleared by the next success.
    failure: Option<Error>,
}

/// Opens every segment of a log folder, in the order of their names.
pub(crate) fn open_all(dir: &Path) -> Result<Vec<Segment>, Error> {
    let mut segments = Vec::new();
    for name in disk::list(dir)? {
        let Some(id) = name.strip_suffix(".seg").and_then(|id| id.parse().ok()) else { continue };
        let file = File::open(&dir.join(&name))?;
        let bytes = file.len()? / disk::BLOCK as u64 * disk::BLOCK as u64;
        segments.push(Segment { id, file, bytes, last: 0 });
    }
    Ok(segments)
}

/// Looks through all segments and notes in each the last batch it holds.
pub(crate) fn scan_all(segments: &mut [Segment], salt: u64) -> Result<Found, Error> {
    let mut found = Found::default();
    for (index, segment) in segments.iter().enumerate() {
        scan::scan_segment(&mut found, index, &segment.file, salt)?;
    }
    for place in found.batches.values() {
        let segment = &mut segments[place.segment];
        segment.last = segment.last.max(place.header.number);
    }
    Ok(found)
}

impl Pool {
    pub(crate) fn new(
        dir: PathBuf,
        segment_bytes: u64,
        segments_max: usize,
        next_id: u64,
        free: Vec<Segment>,
        full: Vec<Segment>,
    ) -> Self {
        let mut full = full;
        full.sort_by_key(|segment| segment.last);
        let state = PoolState { free: Vec::new(), full: full.into(), next_id, failure: None };
        let pool = Self { dir, segment_bytes, segments_max, state: Mutex::new(state), changed: Condvar::new() };
        let free = free.into_iter().filter(|segment| pool.is_usable(segment)).collect();
        pool.lock().free = free;
        pool
    }

    /// Whether a covered segment has the configured size. One that was cut, or made under another setting, goes.
    fn is_usable(&self, segment: &Segment) -> bool {
        let usable = segment.bytes == self.segment_bytes;
        if !usable && let Err(e) = disk::remove(segment.file.path()) {
            tracing::warn!(error = %e, "cannot remove an odd-sized log segment");
        }
        usable
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes segments whose batches the table covers writable again.
    pub(crate) fn recycle(&self, applied: u64) {
        let mut state = self.lock();
        while state.full.front().is_some_and(|segment| segment.last <= applied) {
            let segment = state.full.pop_front();
            state.free.extend(segment.filter(|segment| self.is_usable(segment)));
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Creates segments until `spares` are free. Slow: called by the keeper, off the path of commits.
    pub(crate) fn provide(&self, spares: usize) -> Result<(), Error> {
        loop {
            let id = {
                let mut state = self.lock();
                if state.free.len() >= spares || state.free.len() + state.full.len() >= self.segments_max {
                    state.failure = None;
                    return Ok(());
                }
                state.next_id += 1;
                state.next_id - 1
            };
            let created = create(&self.dir, id, self.segment_bytes);
            let mut state = self.lock();
            match created {
                Ok(segment) => state.free.push(segment),
                Err(e) => {
                    state.failure = Some(e.clone());
                    drop(state);
                    self.changed.notify_all();
                    return Err(e);
                }
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Takes a free segment, waiting at most `patience` for the keeper to make one.
    fn take(&self, patience: Duration) -> Result<Segment, Error> {
        let mut state = self.lock();
        let mut waited = Duration::ZERO;
        loop {
            if let Some(segment) = state.free.pop() {
                return Ok(segment);
            }
            if state.failure.is_some() || waited >= patience {
                return Err(Error::DiskFull);
            }
            let step = Duration::from_millis(100);
            state = self.changed.wait_timeout(state, step).unwrap_or_else(PoisonError::into_inner).0;
            waited += step;
        }
    }

    fn retire(&self, segment: Segment) {
        self.lock().full.push_back(segment);
    }

    /// Whether a segment is there to be taken, so that a settlement can still be written when the disk is full.
    pub(crate) fn has_spare(&self) -> bool {
        !self.lock().free.is_empty()
    }

    /// Bytes of all segments but the one being written.
    pub(crate) fn bytes(&self) -> u64 {
        let state = self.lock();
        (state.free.len() + state.full.len()) as u64 * self.segment_bytes
    }
}

/// Creates a segment of zeros, durable before its first use.
fn create(dir: &Path, id: u64, bytes: u64) -> Result<Segment, Error> {
    let path = dir.join(format!("{id:08}.seg"));
    failpoint::hit("segment.create").map_err(|e| Error::io("create", &path, e))?;
    let file = File::create_new(&path)?;
    let fill = || {
        file.write_zeros(0, bytes)?;
        file.sync_data().map_err(|e| Error::io("sync", &path, e))?;
        disk::sync_dir(dir)
    };
    fill().inspect_err(|_| {
        // A half-made segment would take the very room that is missing; at the next start it would be zeros.
        let _ = disk::remove(&path);
    })?;
    Ok(Segment { id, file, bytes, last: 0 })
}

/// The committer's end of the log.
#[derive(Debug)]
pub(crate) struct Log {
    pool: Arc<Pool>,
    salt: u64,
    current: Option<Segment>,
    at: u64,
    next: u64,
}

impl Log {
    /// Continues behind batch `last`, which stands at the end of `current` (if any) before offset `at`.
    pub(crate) fn new(pool: Arc<Pool>, salt: u64, current: Option<(Segment, u64)>, last: u64) -> Self {
        let (current, at) = current.map_or((None, 0), |(segment, at)| (Some(segment), at));
        Self { pool, salt, current, at, next: last + 1 }
    }

    /// The number of the last batch that was appended.
    pub(crate) fn last(&self) -> u64 {
        self.next - 1
    }

    /// Finds room for `len` bytes, in a fresh segment if need be.
    ///
    /// # Errors
    /// [`Error::DiskFull`]: nothing was written, and the log is as it was.
    pub(crate) fn reserve(&mut self, len: usize, patience: Duration) -> Result<(), Error> {
        let len = len.next_multiple_of(disk::BLOCK) as u64;
        if self.current.as_ref().is_some_and(|segment| self.at + len <= segment.bytes) {
            return Ok(());
        }
        let fresh = self.pool.take(patience)?;
        if let Some(full) = self.current.replace(fresh) {
            self.pool.retire(full);
        }
        self.at = 0;
        Ok(())
    }

    /// Writes a batch and makes it durable. The room must have been reserved.
    ///
    /// # Errors
    /// Anything that failed. Whether the batch is on disk is then unknown, and the log must not be used again.
    pub(crate) fn commit(&mut self, buffer: &mut BatchBuffer) -> Result<Bytes, Error> {
        let Some(segment) = self.current.as_mut() else { return Err(Error::DiskFull) };
        let bytes = buffer.seal(self.next, self.salt);
        let failed = |action, e| Error::io(action, segment.file.path(), e);
        failpoint::hit("log.append.before").map_err(|e| failed("append to", e))?;
        segment.file.write_block_at(&bytes, self.at).map_err(|e| failed("append to", e))?;
        failpoint::hit("log.sync.before").map_err(|e| failed("sync", e))?;
        segment.file.sync_data().map_err(|e| failed("sync", e))?;
        failpoint::hit("log.sync.after").map_err(|e| failed("sync", e))?;
        segment.last = self.next;
        self.at += bytes.len().next_multiple_of(disk::BLOCK) as u64;
        self.next += 1;
        Ok(bytes)
    }
}
