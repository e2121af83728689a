//! Opening a store: whose folder is it, is everything there, and what does the log add to the table.

use super::{
    Machine, Options, Shared, StopOnPanic, Store, View,
    committer::Committer,
    identity::{self, Identity},
    keeper,
    memory::{Generation, Memory},
    reply::Wakes,
    transaction::Batch,
};
use crate::{
    disk::{self, BLOCK, Lock},
    error::Error,
    log::{
        Log, Mark, Pool, Segment, batch,
        scan::{self, Found, Place, Verdict},
        segments,
    },
    table::Table,
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

/// A folder that is ours alone, with its log looked through. The table is not open yet.
pub(crate) struct Folder {
    pub(crate) lock: Lock,
    pub(crate) layout: Layout,
    pub(crate) identity: Identity,
    pub(crate) segments: Vec<Segment>,
    pub(crate) found: Found,
}

impl Folder {
    /// The high-water mark.
    pub(crate) fn mark(&self) -> Result<u64, Error> {
        Ok(Mark::open(&self.layout.mark(), self.identity.salt)?.1)
    }

    fn segment(&self, place: &Place) -> &Segment {
        &self.segments[place.segment]
    }
}

impl<M: Machine> Store<M> {
    /// Opens the store in `options.dir`, creating it if the folder is missing or empty.
    ///
    /// # Errors
    /// [`Error::Locked`] if somebody else has it open; [`Error::Damaged`] if acknowledged data is missing or
    /// unreadable: the store refuses to start then, see `semel ledger repair`.
    pub fn open(options: &Options, machine: M) -> Result<Self, Error> {
        let folder = lock_folder(options)?;
        let (mark, marked) = Mark::open(&folder.layout.mark(), folder.identity.salt)?;
        let table = Table::open(&folder.layout.table(), false, options.sizes(), options.sweeper.clone())?;
        let applied = table.applied()?;
        let verdict =
            scan::judge(&folder.found, applied, marked).map_err(|what| Error::damaged(folder.layout.log(), what))?;
        recover(folder, mark, table, applied, &verdict)?.start(options, machine)
    }
}

/// Locks the folder, creates what a new ledger needs, and looks through the log.
pub(crate) fn lock_folder(options: &Options) -> Result<Folder, Error> {
    let layout = Layout { dir: options.dir.clone() };
    disk::create_dir(&layout.dir)?;
    let lock = Lock::try_take(&layout.lock())?.ok_or_else(|| Error::Locked { path: layout.dir.clone() })?;
    let identity = match Identity::read(&layout.identity())? {
        Some(identity) => identity,
        None => create(&layout, options)?,
    };
    let mut segments = segments::open_all(&layout.log())?;
    let found = segments::scan_all(&mut segments, identity.salt)?;
    Ok(Folder { lock, layout, identity, segments, found })
}

/// What may stand in a folder before it is a ledger: our lock, and the gateway's token for its operators.
const BEFORE_THE_LEDGER: [&str; 2] = ["LOCK", "admin.token"];

/// Makes a new ledger. The identity gets its name last: a folder without one holds nothing that was acknowledged.
fn create(layout: &Layout, options: &Options) -> Result<Identity, Error> {
    let names = disk::list(&layout.dir)?;
    let interrupted = names.iter().any(|name| name == identity::NAME_NEW);
    if !interrupted && names.iter().any(|name| !BEFORE_THE_LEDGER.iter().any(|ours| name == ours)) {
        let ours = ["log", "table", "MARK"].iter().any(|ours| names.iter().any(|name| name == ours));
        return Err(if ours {
            Error::damaged(layout.identity(), "the ledger's identity is missing")
        } else {
            Error::NotALedger { path: layout.dir.clone() }
        });
    }
    let mut identity = Identity::generate()?;
    identity.secret = options.secret.unwrap_or(identity.secret);
    identity.write(&layout.identity_new())?;
    disk::remove_dir_all(&layout.log())?;
    disk::remove_dir_all(&layout.table())?;
    disk::create_dir(&layout.log())?;
    disk::sync_dir(&layout.log())?;
    Mark::create(&layout.mark(), identity.salt)?;
    drop(Table::open(&layout.table(), true, options.sizes(), options.sweeper.clone())?);
    disk::rename(&layout.identity_new(), &layout.identity())?;
    disk::sync_dir(&layout.dir)?;
    Ok(identity)
}

/// A folder whose log was replayed.
struct Recovered {
    folder: Folder,
    mark: Mark,
    table: Table,
    applied: u64,
    active: Generation,
    current: Option<(Segment, u64)>,
    last: u64,
}

/// Replays what the table does not cover, repairs a torn tail, and makes the newest batch durable once more.
fn recover(mut folder: Folder, mark: Mark, table: Table, applied: u64, verdict: &Verdict) -> Result<Recovered, Error> {
    if let Some(torn) = verdict.torn {
        remove_torn(&mut folder, torn)?;
    }
    let active = replay(&folder, applied, verdict.last)?;
    let mut current = None;
    if verdict.last > applied {
        let place = folder.found.batches[&verdict.last];
        resync(&folder, &place)?;
        mark.advance(verdict.last)?;
        let segment = folder.segments.remove(place.segment);
        current = Some((segment, place.at + place.header.disk_len()));
    }
    tracing::info!(applied, last = verdict.last, "ledger recovered");
    Ok(Recovered { folder, mark, table, applied, active, current, last: verdict.last })
}

/// The batches after `applied` up to `last`, in memory.
pub(crate) fn replay(folder: &Folder, applied: u64, last: u64) -> Result<Generation, Error> {
    let mut generation = Generation::default();
    for number in applied + 1..=last {
        let place = &folder.found.batches[&number];
        let file = &folder.segment(place).file;
        let bytes = scan::read_batch(file, place, folder.identity.salt)?;
        let len = bytes.len();
        let entries = batch::entries(&bytes, place.header.entries)
            .ok_or_else(|| Error::damaged(file.path(), format!("batch {number} does not parse")))?;
        generation.replay(number, len, entries);
    }
    Ok(generation)
}

/// A batch may have been read from the page cache after its flush failed. Written and flushed again, it is durable
/// before anything is built on it. Earlier batches were flushed before their successors were written.
fn resync(folder: &Folder, place: &Place) -> Result<(), Error> {
    let file = &folder.segment(place).file;
    let bytes: Bytes = scan::read_batch(file, place, folder.identity.salt)?;
    file.write_block_at(&bytes, place.at).map_err(|e| Error::io("write", file.path(), e))?;
    file.sync_data().map_err(|e| Error::io("sync", file.path(), e))
}

/// Keeps a copy of a torn, unacknowledged batch and takes it out of the log.
fn remove_torn(folder: &mut Folder, number: u64) -> Result<(), Error> {
    let Some(place) = folder.found.batches.remove(&number) else { return Ok(()) };
    let copy = folder.layout.dir.join(format!("torn-batch-{number}"));
    let segment = &mut folder.segments[place.segment];
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
    fn start<M: Machine>(self, options: &Options, mut machine: M) -> Result<Store<M>, Error> {
        let Self { folder, mark, table, applied, active, current, last } = self;
        let limits = options.limits();
        let ids = folder.segments.iter().chain(current.as_ref().map(|(segment, _)| segment)).map(|segment| segment.id);
        let next_id = ids.max().unwrap_or(0) + 1;
        let (full, free) = folder.segments.into_iter().partition(|segment| segment.last > applied);
        let log_dir = folder.layout.log();
        let pool = Arc::new(Pool::new(log_dir, options.segment_bytes, limits.segments_max, next_id, free, full));
        pool.provide(1)?;
        let shared = Arc::new(Shared {
            dir: options.dir.clone(),
            secret: folder.identity.secret,
            memory: Memory::new(active),
            table,
            pool: pool.clone(),
            limits,
            sweeper: options.sweeper.clone(),
            disk_low: AtomicBool::new(false),
            checkpoint_failing: AtomicBool::new(false),
            compaction_failing: AtomicBool::new(false),
            stopped: OnceLock::new(),
            closing: Mutex::new(false),
            signalled: Condvar::new(),
        });
        shared.look_at_disk();
        let mark = Arc::new(mark);
        let first = machine.recover(&View(shared.clone()))?;
        let (queue, requests) = mpsc::channel(options.queue_len);
        let mut committer = Committer {
            machine,
            shared: shared.clone(),
            log: Log::new(pool, folder.identity.salt, current, last),
            mark: mark.clone(),
            queue: requests,
            batch: Batch::default(),
            wakes: Wakes::default(),
        };
        committer.run_first(first)?;
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let spawned = thread::Builder::new().name(name.into()).spawn(run);
            spawned.map_err(|e| Error::io("start a thread for", &options.dir, e))
        };
        let keepers = vec![
            spawn("semel-keep", {
                let shared = shared.clone();
                let guard = StopOnPanic(shared.clone());
                Box::new(move || {
                    let _guard = guard;
                    keeper::keep(&shared, &mark);
                })
            })?,
            spawn("semel-compact", {
                let shared = shared.clone();
                let guard = StopOnPanic(shared.clone());
                Box::new(move || {
                    let _guard = guard;
                    keeper::compact(&shared);
                })
            })?,
        ];
        let committer = spawn("semel-commit", Box::new(move || committer.run()))?;
        Ok(Store { shared, queue: Some(queue), committer: Some(committer), keepers, _lock: folder.lock })
    }
}
