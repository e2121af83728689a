//! What the lanes, the listener and the callers of one ledger share.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use semel_core::scope::EffectId;
use semel_core::time::Timestamp;
use semel_ledger::{Clock, Health, LedgerError, Seen, Waiters};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio_postgres::Client;

use crate::command::Apply;
use crate::link::{Connector, Link};
use crate::queue::Queue;
use crate::{Error, Options};

/// A look-up that somebody waits for.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) id: EffectId,
    /// Mark it: whoever concludes it tells this gateway.
    pub(crate) watch: bool,
    pub(crate) since: Timestamp,
    pub(crate) reply: oneshot::Sender<Result<Seen, LedgerError>>,
    pub(crate) room: OwnedSemaphorePermit,
}

pub(crate) struct Shared {
    pub(crate) connector: Connector,
    pub(crate) clock: Arc<dyn Clock>,
    /// What the store's clock is ahead of this process's, in milliseconds.
    offset_ms: AtomicI64,
    pub(crate) patience: Duration,
    pub(crate) sweep_every: Duration,
    pub(crate) waiters: Waiters,
    pub(crate) writes: Queue<Apply>,
    pub(crate) looks: Queue<Look>,
    /// Room for writes and for look-ups that wait.
    pub(crate) room_to_write: Arc<Semaphore>,
    pub(crate) room_to_look: Arc<Semaphore>,
    links: Mutex<Links>,
    /// The connection that reads, for everything that is not a command.
    pub(crate) reader: watch::Sender<Option<Arc<Client>>>,
}

/// Which connections stand.
struct Links {
    up: usize,
    /// Those of them on which the server does not answer, while no other can be had either.
    silent: usize,
    /// Since when the database cannot be used, on this process's clock.
    down_since: Option<Timestamp>,
    last_error: String,
}

impl Links {
    fn changed(&mut self, up: isize, silent: isize, now: Timestamp) {
        self.up = self.up.saturating_add_signed(up);
        self.silent = self.silent.saturating_add_signed(silent);
        if self.usable() {
            self.down_since = None;
        } else {
            self.down_since.get_or_insert(now);
        }
    }

    const fn usable(&self) -> bool {
        self.up > 0 && self.silent == 0
    }
}

impl Shared {
    pub(crate) fn new(options: &Options, connector: Connector, clock: Arc<dyn Clock>) -> Self {
        Self {
            connector,
            clock,
            offset_ms: AtomicI64::new(0),
            patience: options.patience,
            sweep_every: options.sweep_every,
            waiters: Waiters::default(),
            writes: Queue::default(),
            looks: Queue::default(),
            room_to_write: Arc::new(Semaphore::new(options.queue_len.max(1))),
            room_to_look: Arc::new(Semaphore::new(options.queue_len.max(1))),
            links: Mutex::new(Links {
                up: 0,
                silent: 0,
                down_since: None,
                last_error: "it is not connected yet".to_owned(),
            }),
            reader: watch::channel(None).0,
        }
    }

    /// The store's clock as far as this process knows it.
    pub(crate) fn now(&self) -> Timestamp {
        let local = i128::from(self.clock.now().as_millis());
        let now = local + i128::from(self.offset_ms.load(Ordering::Relaxed));
        Timestamp::from_millis(u64::try_from(now).unwrap_or(0))
    }

    /// The store's clock was read just now.
    pub(crate) fn heard_time(&self, store: Timestamp) {
        let offset = i128::from(store.as_millis()) - i128::from(self.clock.now().as_millis());
        self.offset_ms.store(i64::try_from(offset).unwrap_or(0), Ordering::Relaxed);
    }

    /// The connection that reads, once it stands.
    ///
    /// # Errors
    /// When it does not come back in time.
    pub(crate) async fn client(&self) -> Result<Arc<Client>, LedgerError> {
        let mut reader = self.reader.subscribe();
        let found = tokio::time::timeout(self.patience, reader.wait_for(Option::is_some)).await;
        let client = found.ok().and_then(Result::ok).and_then(|client| client.clone());
        client.ok_or_else(|| LedgerError::Unreachable(self.links().last_error.clone()))
    }

    /// After this moment of the store's clock nobody waits for a call that is made now.
    pub(crate) fn not_after(&self) -> i64 {
        crate::sql::millis(self.now().plus(self.patience))
    }

    /// A connection, counted while the guard lives.
    pub(crate) async fn connect(self: &Arc<Self>) -> Result<(Link, Up), Error> {
        match self.connector.connect().await {
            Ok(link) => {
                self.heard_time(link.opened);
                self.links().changed(1, 0, self.clock.now());
                Ok((link, Up { shared: Arc::clone(self), silent: AtomicBool::new(false) }))
            }
            Err(error) => {
                self.links().last_error = error.to_string();
                Err(error)
            }
        }
    }

    pub(crate) fn health(&self) -> Health {
        let links = self.links();
        if links.usable() { Health::Ready } else { Health::Unreachable(links.last_error.clone()) }
    }

    /// Why nothing is worth waiting for: there has been no connection for longer than anybody waits.
    pub(crate) fn long_down(&self) -> Option<LedgerError> {
        let links = self.links();
        links.down_since.filter(|since| self.clock.now().since(*since) > self.patience)?;
        Some(LedgerError::Unreachable(links.last_error.clone()))
    }

    /// Tells those whose time is over while they wait in the queues.
    pub(crate) fn expire(&self) {
        let now = self.clock.now();
        self.writes.retain(|apply| apply.expire(now, self.patience, false));
        let over = |look: &Look| look.reply.is_closed() || now.since(look.since) >= self.patience;
        for look in self.looks.take_those(over) {
            let why = LedgerError::Unreachable("it did not answer in time".to_owned());
            let _ = look.reply.send(Err(why));
        }
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        // Every section leaves the counts whole.
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that stands.
pub(crate) struct Up {
    shared: Arc<Shared>,
    silent: AtomicBool,
}

impl Up {
    /// The server does not answer on it, nor on a new one.
    pub(crate) fn is_silent(&self, error: &Error) {
        let mut links = self.shared.links();
        links.last_error = error.to_string();
        if !self.silent.swap(true, Ordering::Relaxed) {
            links.changed(0, 1, self.shared.clock.now());
        }
    }

    /// The server has answered.
    pub(crate) fn answers(&self) {
        if self.silent.swap(false, Ordering::Relaxed) {
            self.shared.links().changed(0, -1, self.shared.clock.now());
        }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let silent = isize::from(*self.silent.get_mut());
        self.shared.links().changed(-1, -silent, self.shared.clock.now());
    }
}

/// How long a lane waits before it connects again: from 20 ms doubled up to a second, so that a promotion is found
/// within a second of its end.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(Self::FIRST)
    }
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(20);
    const LAST: Duration = Duration::from_secs(1);

    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(Self::LAST);
    }

    pub(crate) fn reset(&mut self) {
        self.0 = Self::FIRST;
    }
}
