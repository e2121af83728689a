//! Opening a store: whose folder is it, is everything there, and what does the log add to the table.

use super::{
    Machine, Options, Shared, Store,
    committer::Committer,
    identity::{self, Identity},
    keeper,
    memory::{Generation, Memory},
    transaction::Batch,
};
use crate::{
    disk::{self, BLOCK, File},
    error::Error,
    log::{
        Log, Mark, Pool, Segment, batch,
        scan::{self, Found, Place, Verdict},
        segments,
    },
    table::{Table, manifest},
};
use bytes::Bytes;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, OnceLock, atomic::AtomicBool},
    thread,
};
use tokio::sync::mpsc;

/// The names in a ledger folder.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) dir: PathBuf,
}

impl Layout {
    pub(crate) fn identity(&self) -> PathBuf {
        self.dir.join(identity::NAME)
    }
    fn identity_new(&self) -> PathBuf {
        self.dir.join(identity::NAME_NEW)
    }
    pub(crate) fn mark(&self) -> PathBuf {
        self.dir.join("MARK")
    }
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("log")
    }
    pub(crate) fn table(&self) -> PathBuf {
        self.dir.join("table")
    }
    fn lock(&self) -> PathBuf {
        self.dir.join("LOCK")
    }
}

/// A folder that is ours alone, with everything read that the log and the table say of each other.
pub(crate) struct Opened {
    pub(crate) lock: File,
    pub(crate) mark: Mark,
    pub(crate) salt: u64,
    pub(crate) table: Table,
    pub(crate) segments: Vec<Segment>,
    pub(crate) found: Found,
    pub(crate) applied: u64,
    pub(crate) marked: u64,
}

impl<M: Machine> Store<M> {
    /// Opens the store in `options.dir`, creating it if the folder is missing or empty.
    ///
    /// # Errors
    /// [`Error::Locked`] if somebody else has it open; [`Error::Damaged`] if acknowledged data is missing or
    /// unreadable: the store refuses to start then, see [`crate::repair`].
    pub fn open(options: &Options, machine: M) -> Result<Self, Error> {
        let opened = open_folder(options)?;
        let verdict = scan::judge(&opened.found, opened.applied, opened.marked)
            .map_err(|what| Error::damaged(options.dir.join("log"), what))?;
        recover(options, opened, &verdict)?.start(options, machine)
    }
}

/// Locks the folder, creates what a new ledger needs, and reads log, mark and table.
pub(crate) fn open_folder(options: &Options) -> Result<Opened, Error> {
    let layout = Layout { dir: options.dir.clone() };
    disk::create_dir(&layout.dir)?;
    let lock = lock(&layout)?;
    let identity = match Identity::read(&layout.identity())? {
        Some(identity) => identity,
        None => create(&layout, options)?,
    };
    let (mark, marked) = Mark::open(&layout.mark(), identity.salt)?;
    if !manifest::exists(&layout.table())? {
        return Err(Error::damaged(layout.table(), "the table is missing"));
    }
    let table = Table::open(&layout.table(), false, options.sizes(), options.sweep_now.clone())?;
    let applied = table.applied()?;
    let mut segments = segments::open_all(&layout.log())?;
    let found = segments::scan_all(&mut segments, identity.salt)?;
    Ok(Opened { lock, mark, salt: identity.salt, table, segments, found, applied, marked })
}

fn lock(layout: &Layout) -> Result<File, Error> {
    let path = layout.lock();
    let file = if disk::read(&path)?.is_some() { File::open(&path)? } else { File::create(&path)? };
    if file.try_lock()? { Ok(file) } else { Err(Error::Locked { path: layout.dir.clone() }) }
}

/// Makes a new ledger. The identity gets its name last: a folder without one holds nothing that was acknowledged.
fn create(layout: &Layout, options: &Options) -> Result<Identity, Error> {
    let names = disk::list(&layout.dir)?;
    let interrupted = names.iter().any(|name| name == identity::NAME_NEW);
    if !interrupted && names.iter().any(|name| name != "LOCK") {
        let ours = ["log", "table", "MARK"].iter().any(|ours| names.iter().any(|name| name == ours));
        return Err(if ours {
            Error::damaged(layout.identity(), "the ledger's identity is missing")
        } else {
            Error::NotALedger { path: layout.dir.clone() }
        });
    }
    let identity = Identity::generate()?;
    identity.write(&layout.identity_new())?;
    disk::remove_dir_all(&layout.log())?;
    disk::remove_dir_all(&layout.table())?;
    disk::create_dir(&layout.log())?;
    disk::sync_dir(&layout.log())?;
    Mark::create(&layout.mark(), identity.salt)?;
    drop(Table::open(&layout.table(), true, options.sizes(), options.sweep_now.clone())?);
    disk::rename(&layout.identity_new(), &layout.identity())?;
    disk::sync_dir(&layout.dir)?;
    Ok(identity)
}

/// A folder whose log was replayed.
pub(crate) struct Recovered {
    opened: Opened,
    active: Generation,
    current: Option<(Segment, u64)>,
    last: u64,
}

/// Replays what the table does not cover, repairs a torn tail, and makes the newest batch durable once more.
pub(crate) fn recover(options: &Options, mut opened: Opened, verdict: &Verdict) -> Result<Recovered, Error> {
    if let Some(torn) = verdict.torn {
        remove_torn(options, &mut opened, torn)?;
    }
    let mut active = Generation::default();
    for number in opened.applied + 1..=verdict.last {
        let place = &opened.found.batches[&number];
        let file = &opened.segments[place.segment].file;
        let bytes = scan::read_batch(file, place, opened.salt)?;
        let len = bytes.len();
        let entries = batch::entries(&bytes, place.header.entries)
            .ok_or_else(|| Error::damaged(file.path(), format!("batch {number} does not parse")))?;
        active.replay(number, len, entries);
    }
    let mut current = None;
    if verdict.last > opened.applied {
        let place = opened.found.batches[&verdict.last];
        resync(&opened, &place)?;
        opened.mark.advance(verdict.last)?;
        let segment = opened.segments.remove(place.segment);
        current = Some((segment, place.at + place.header.disk_len()));
    }
    tracing::info!(applied = opened.applied, last = verdict.last, "ledger recovered");
    Ok(Recovered { opened, active, current, last: verdict.last })
}

/// A batch may have been read from the page cache after its flush failed. Written and flushed again, it is durable
/// before anything is built on it. Earlier batches were flushed before their successors were written.
fn resync(opened: &Opened, place: &Place) -> Result<(), Error> {
    let file = &opened.segments[place.segment].file;
    let bytes: Bytes = scan::read_batch(file, place, opened.salt)?;
    file.write_block_at(&bytes, place.at).map_err(|e| Error::io("write", file.path(), e))?;
    file.sync_data().map_err(|e| Error::io("sync", file.path(), e))
}

/// Keeps a copy of a torn, unacknowledged batch and takes it out of the log.
fn remove_torn(options: &Options, opened: &mut Opened, number: u64) -> Result<(), Error> {
    let Some(place) = opened.found.batches.remove(&number) else { return Ok(()) };
    let segment = &mut opened.segments[place.segment];
    let copy = options.dir.join(format!("torn-batch-{number}"));
    take_out(segment, &place, &copy)?;
    segment.last = segment.last.min(number - 1);
    tracing::warn!(
        batch = number,
        copy = %copy.display(),
        "a batch was being written when the process or the machine stopped; nobody was told of it, it is taken out"
    );
    Ok(())
}

/// Copies the bytes of a batch to a file and zeroes its header.
pub(crate) fn take_out(segment: &Segment, place: &Place, copy: &Path) -> Result<(), Error> {
    let len = place.header.disk_len().min(segment.bytes.saturating_sub(place.at)).max(BLOCK as u64);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(BLOCK)];
    segment.file.read_at(&mut bytes, place.at)?;
    disk::write_durably(copy, &bytes)?;
    let zero = segment.file.write_block_at(&[0], place.at).and_then(|()| segment.file.sync_data());
    zero.map_err(|e| Error::io("write", segment.file.path(), e))
}

impl Recovered {
    fn start<M: Machine>(self, options: &Options, machine: M) -> Result<Store<M>, Error> {
        let Self { opened, active, current, last } = self;
        let limits = options.limits();
        let ids = opened.segments.iter().chain(current.as_ref().map(|(segment, _)| segment)).map(|segment| segment.id);
        let next_id = ids.max().unwrap_or(0) + 1;
        let (full, free) = opened.segments.into_iter().partition(|segment| segment.last > opened.applied);
        let log_dir = Layout { dir: options.dir.clone() }.log();
        let pool = Arc::new(Pool::new(log_dir, options.segment_bytes, limits.segments_max, next_id, free, full));
        pool.provide(1)?;
        let shared = Arc::new(Shared {
            dir: options.dir.clone(),
            memory: Memory::new(active),
            table: opened.table,
            pool: pool.clone(),
            limits,
            sweep_now: options.sweep_now.clone(),
            disk_low: AtomicBool::new(false),
            checkpoint_failing: AtomicBool::new(false),
            stopped: OnceLock::new(),
            closing: Mutex::new(false),
            signalled: Condvar::new(),
        });
        shared.look_at_disk();
        let mark = Arc::new(opened.mark);
        let (queue, requests) = mpsc::channel(options.queue_len);
        let committer = Committer {
            machine,
            shared: shared.clone(),
            log: Log::new(pool, opened.salt, current, last),
            mark: mark.clone(),
            queue: requests,
            batch: Batch::default(),
        };
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let spawned = thread::Builder::new().name(name.into()).spawn(run);
            spawned.map_err(|e| Error::io("start a thread for", &options.dir, e))
        };
        let keepers = vec![
            spawn("semel-keep", {
                let shared = shared.clone();
                Box::new(move || keeper::keep(&shared, &mark))
            })?,
            spawn("semel-compact", {
                let shared = shared.clone();
                Box::new(move || keeper::compact(&shared))
            })?,
        ];
        let committer = spawn("semel-commit", Box::new(move || committer.run()))?;
        Ok(Store { shared, queue: Some(queue), committer: Some(committer), keepers, _lock: opened.lock })
    }
}
