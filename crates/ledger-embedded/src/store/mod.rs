//! A durable key-value store that knows nothing of what its records mean.
//!
//! Operations queue up, one thread decides each against the durable state and the batch so far, the batch is committed
//! with one flush, and then all are answered. Readers on any thread see what is durable and nothing else.

mod committer;
mod identity;
mod keeper;
pub(crate) mod key;
pub(crate) mod memory;
pub(crate) mod open;
pub(crate) mod options;
mod reply;
mod scan;
pub mod space;
mod sweep;
mod transaction;
pub(crate) mod value;

pub use key::Key;
pub use options::Options;
pub use scan::{Scan, View};
pub use sweep::{Expired, NoSweep, Sweeper};
pub use transaction::Transaction;
pub use value::Value;

use crate::{disk::Lock, error::Error, log::Pool, table::Table};
use bytes::Bytes;
use committer::Request;
use memory::{Found, Memory};
use options::Limits;
use std::{
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};
use tokio::sync::mpsc;

/// What the store asks to decide an operation. One thread calls it, one operation after the other, so that a
/// compare-and-set needs nothing more than to compare and to set.
pub trait Machine: Send + 'static {
    /// What callers ask for.
    type Operation: Send + 'static;
    /// What they are told, once it is durable.
    type Answer: Send + 'static;

    /// Decides one operation. What it writes counts only if the decision is `Ok`.
    ///
    /// # Errors
    /// Whatever the caller is to be told instead of an answer; nothing of the operation is written then.
    fn decide(&mut self, operation: Self::Operation, transaction: &mut Transaction<'_>) -> Result<Self::Answer, Error>;

    /// Told once for each batch that had something to write, before its callers are answered.
    fn concluded(&mut self, fate: Fate);

    /// Operations to carry out when the store is opened, before any other: `view` shows what is there.
    ///
    /// # Errors
    /// If what must be read cannot be: the store does not open then.
    fn recover(&mut self, view: &View) -> Result<Vec<Self::Operation>, Error>;
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is durable.
    Committed,
    /// Nothing of it was written.
    Discarded,
    /// Its commit failed: it may be there when the store is opened again. The store has stopped.
    Uncertain,
}

/// The open store. Dropping it answers what is queued and stops its threads.
pub struct Store<M: Machine> {
    shared: Arc<Shared>,
    queue: Option<mpsc::Sender<Request<M>>>,
    committer: Option<JoinHandle<()>>,
    keepers: Vec<JoinHandle<()>>,
    // Last, so that the folder stays ours until every thread is gone.
    _lock: Lock,
}

/// Numbers for operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The last batch that is committed.
    pub last_batch: u64,
    /// Bytes of batches held in memory until the next checkpoint.
    pub memory_bytes: u64,
    /// Bytes of the log's segments on disk.
    pub log_bytes: u64,
    /// Bytes of the tables on disk.
    pub table_bytes: u64,
    /// Number of tables.
    pub tables: u64,
    /// Runs that compaction has still to merge.
    pub compaction_backlog: u64,
    /// An upper bound of the number of records: shadowed versions count.
    pub records_max: u64,
    /// Free bytes of the disk.
    pub disk_free_bytes: u64,
    /// Whether claims are refused because the disk is nearly full.
    pub disk_low: bool,
}

/// What the threads share.
pub(crate) struct Shared {
    pub(crate) dir: PathBuf,
    secret: [u8; 32],
    pub(crate) memory: Memory,
    pub(crate) table: Table,
    pub(crate) pool: Arc<Pool>,
    pub(crate) limits: Limits,
    pub(crate) sweeper: Arc<dyn Sweeper>,
    disk_low: AtomicBool,
    checkpoint_failing: AtomicBool,
    compaction_failing: AtomicBool,
    stopped: OnceLock<Error>,
    closing: Mutex<bool>,
    signalled: Condvar,
}

impl<M: Machine> Store<M> {
    /// Puts an operation into the queue and waits for its answer, which comes when it is durable.
    ///
    /// The operation is carried out also if the caller goes away once it is queued.
    ///
    /// # Errors
    /// [`Error::Stopped`] and what [`Machine::decide`] or the commit answered.
    pub async fn call(&self, operation: M::Operation) -> Result<M::Answer, Error> {
        let (reply, answer) = reply::channel();
        let Some(queue) = &self.queue else { return Err(self.shared.gone()) };
        queue.send(Request { operation, reply }).await.map_err(|_| self.shared.gone())?;
        answer.get().await.unwrap_or_else(|| Err(self.shared.gone()))
    }

    /// As [`Store::call`], for a thread that is not part of an async runtime.
    ///
    /// # Errors
    /// As [`Store::call`].
    ///
    /// # Panics
    /// Inside an async runtime.
    pub fn call_blocking(&self, operation: M::Operation) -> Result<M::Answer, Error> {
        let (reply, answer) = reply::channel();
        let Some(queue) = &self.queue else { return Err(self.shared.gone()) };
        queue.blocking_send(Request { operation, reply }).map_err(|_| self.shared.gone())?;
        answer.wait().unwrap_or_else(|| Err(self.shared.gone()))
    }

    /// The durable value of a key. May read from disk.
    ///
    /// # Errors
    /// [`Error::Damaged`] if what is stored cannot be read back whole: the key is unknown then, not absent.
    /// [`Error::Stopped`] after a failed commit.
    pub fn get(&self, key: &Key) -> Result<Option<Value>, Error> {
        self.shared.check_running()?;
        self.shared.get(key)
    }

    /// Random bytes that were made with the ledger and never change. They stand outside log and table, so that no
    /// repair of those can lose them.
    #[must_use]
    pub fn secret(&self) -> [u8; 32] {
        self.shared.secret
    }

    /// Numbers for operators.
    ///
    /// # Errors
    /// If the disk cannot be asked.
    pub fn stats(&self) -> Result<Stats, Error> {
        let shared = &self.shared;
        let (last_batch, memory_bytes) = {
            let generations = shared.memory.read();
            let sealed = generations.sealed.as_ref().map_or(0, |sealed| sealed.bytes);
            let last = generations.active.last.max(generations.sealed.as_ref().map_or(0, |sealed| sealed.last));
            (last, (generations.active.bytes + sealed) as u64)
        };
        Ok(Stats {
            last_batch: last_batch.max(shared.table.applied()?),
            memory_bytes,
            log_bytes: shared.pool.bytes(),
            table_bytes: shared.table.disk_bytes(),
            tables: shared.table.table_count() as u64,
            compaction_backlog: shared.table.backlog() as u64,
            records_max: shared.table.len_max() + shared.memory.read().active.slots.len() as u64,
            disk_free_bytes: crate::disk::free_bytes(&shared.dir)?,
            disk_low: shared.is_disk_low(),
        })
    }

    /// Why the store stopped, if it did. It must be opened again then.
    #[must_use]
    pub fn stopped(&self) -> Option<Error> {
        self.shared.stopped()
    }

    /// Whether only settlements may be written, because the disk is nearly full.
    #[must_use]
    pub fn is_disk_low(&self) -> bool {
        self.shared.is_disk_low()
    }

    /// Rewrites the table in the calling thread, dropping what has expired.
    ///
    /// # Errors
    /// If the table cannot be read or written.
    pub fn rewrite(&self) -> Result<(), Error> {
        self.shared.table.rewrite()
    }

    /// Asks for a checkpoint and waits until memory is in the table, at most `patience`. Returns whether it is.
    pub fn checkpoint(&self, patience: Duration) -> bool {
        self.shared.checkpoint(patience)
    }
}

impl<M: Machine> Drop for Store<M> {
    fn drop(&mut self) {
        // The committer answers what is queued and ends when the last sender is gone.
        self.queue = None;
        if let Some(committer) = self.committer.take() {
            let _ = committer.join();
        }
        *self.shared.closing.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.wake_all();
        for keeper in self.keepers.drain(..) {
            let _ = keeper.join();
        }
    }
}

/// Without one of its threads the store cannot keep its promises: readers, callers and health must know.
pub(crate) struct StopOnPanic(pub(crate) Arc<Shared>);

impl Drop for StopOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let reason = "one of its threads panicked: this is a defect".into();
            self.0.stop(&Error::Stopped { reason });
        }
    }
}

impl Shared {
    pub(crate) fn get(&self, key: &Key) -> Result<Option<Value>, Error> {
        let stored = match self.memory.find(key.as_ref()) {
            Found::Active(slot) | Found::Sealed(slot) => slot.stored,
            Found::Nowhere => self.table.get(key.as_ref())?,
        };
        self.decode(key.as_ref(), stored)
    }

    pub(crate) fn decode(&self, key: &[u8], stored: Option<Bytes>) -> Result<Option<Value>, Error> {
        let Some(stored) = stored else { return Ok(None) };
        match value::decode(key, stored) {
            Some(value) => Ok(Some(value)),
            None => Err(Error::damaged(&self.dir, "a stored value fails its check")),
        }
    }

    pub(crate) fn stopped(&self) -> Option<Error> {
        self.stopped.get().cloned()
    }

    fn check_running(&self) -> Result<(), Error> {
        self.stopped().map_or(Ok(()), Err)
    }

    /// Nothing more is answered after this, until the store is opened again.
    pub(crate) fn stop(&self, cause: &Error) {
        let reason = match cause {
            Error::Stopped { reason } => reason.clone(),
            other => other.to_string().into(),
        };
        let _ = self.stopped.set(Error::Stopped { reason });
        self.wake_all();
    }

    fn gone(&self) -> Error {
        self.stopped().unwrap_or_else(|| Error::Stopped { reason: "the ledger was closed".into() })
    }

    pub(crate) fn is_disk_low(&self) -> bool {
        self.disk_low.load(Ordering::Relaxed)
    }

    /// Returns what was set before.
    pub(crate) fn set_disk_low(&self, low: bool) -> bool {
        self.disk_low.swap(low, Ordering::Relaxed)
    }

    /// Returns what was set before.
    pub(crate) fn set_checkpoint_failing(&self, failing: bool) -> bool {
        let before = self.checkpoint_failing.swap(failing, Ordering::Relaxed);
        self.wake_all();
        before
    }

    /// Returns what was set before.
    pub(crate) fn set_compaction_failing(&self, failing: bool) -> bool {
        let before = self.compaction_failing.swap(failing, Ordering::Relaxed);
        if before != failing {
            self.wake_all();
        }
        before
    }

    /// Whether compaction is so far behind that another checkpoint would slow look-ups down. A compaction that fails
    /// (a damaged table) will not catch up: waiting for it would stop everything.
    fn is_backlogged(&self) -> bool {
        !self.compaction_failing.load(Ordering::Relaxed) && self.table.backlog() >= self.limits.backlog_max
    }

    pub(crate) fn is_closing(&self) -> bool {
        *self.closing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until somebody calls [`Shared::wake_all`], at most `patience`.
    pub(crate) fn wait(&self, patience: Duration) {
        let closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        if !*closing {
            drop(self.signalled.wait_timeout(closing, patience).unwrap_or_else(PoisonError::into_inner));
        }
    }

    pub(crate) fn wake_all(&self) {
        // Taking the lock closes the gap between a waiter's last look and its sleep.
        drop(self.closing.lock().unwrap_or_else(PoisonError::into_inner));
        self.signalled.notify_all();
    }

    /// Called by the committer after each batch: hands a full generation over to the keeper, and holds commits back
    /// while the disk is too far behind.
    pub(crate) fn make_room(&self) {
        let full = |bytes: usize, log_bytes: u64, times: u64| {
            bytes as u64 >= times * self.limits.memory_bytes || log_bytes >= times * self.limits.checkpoint_log_bytes
        };
        loop {
            {
                let generations = self.memory.read();
                let (bytes, log_bytes) = (generations.active.bytes, generations.active.log_bytes);
                if !full(bytes, log_bytes, 1) {
                    return;
                }
                let may_seal = generations.sealed.is_none();
                drop(generations);
                if may_seal && !self.is_backlogged() {
                    self.seal();
                    return;
                }
                // If checkpoints fail, the log goes on filling: it is the log that says when it is full.
                let failing = self.checkpoint_failing.load(Ordering::Relaxed);
                if failing || !full(bytes, log_bytes, 2) || self.stopped.get().is_some() {
                    return;
                }
            }
            self.wait(Duration::from_millis(100));
        }
    }

    /// Makes the active generation the one to checkpoint. Only with none sealed.
    fn seal(&self) {
        {
            let mut generations = self.memory.write();
            if generations.sealed.is_some() || generations.active.last == 0 {
                return;
            }
            let full = std::mem::take(&mut generations.active);
            generations.sealed = Some(Arc::new(full));
        }
        self.wake_all();
    }

    fn checkpoint(&self, patience: Duration) -> bool {
        let step = Duration::from_millis(10);
        let mut waited = Duration::ZERO;
        let mut sealed = false;
        loop {
            let (busy, empty) = {
                let generations = self.memory.read();
                (generations.sealed.is_some(), generations.active.last == 0)
            };
            match (busy, sealed || empty) {
                (false, true) => return true,
                (false, false) => {
                    self.seal();
                    sealed = true;
                }
                (true, _) if waited >= patience => return false,
                (true, _) => {
                    self.wait(step);
                    waited += step;
                }
            }
        }
    }
}
