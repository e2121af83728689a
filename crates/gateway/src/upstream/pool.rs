//! Idle connections, the bound on open ones, and the bounded queue of those who wait for one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::connection::Connection;
use crate::clock;

/// How often idle connections are looked through.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// The connections to one endpoint, of one runtime.
///
/// The mutex is only ever taken by the threads of that runtime (one, in the gateway), so it is not contended.
#[derive(Debug)]
pub(super) struct Pool {
    state: Mutex<State>,
    connections_max: usize,
    waiting_max: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Last used last: the busiest connections stay warm, the others grow old and are closed.
    #[expect(clippy::vec_box, reason = "connections move in and out: a pointer, not a kilobyte")]
    idle: Vec<Box<Connection>>,
    /// Connections that exist or are being made, idle ones included.
    open: usize,
    waiting: VecDeque<oneshot::Sender<Grant>>,
    sweeping: bool,
}

/// What a caller gets from the pool.
#[derive(Debug)]
pub(super) enum Grant {
    /// An idle connection.
    Connection(Box<Connection>),
    /// The right to open one.
    Slot(Slot),
}

/// A grant, or a ticket in the queue for one.
pub(super) type Taken = Result<Result<Grant, oneshot::Receiver<Grant>>, QueueFull>;

/// One place under `connections_max`. Dropping it gives the place to the next in the queue.
#[derive(Debug)]
pub(super) struct Slot(Option<Arc<Pool>>);

/// The queue for a connection is full.
#[derive(Debug)]
pub(super) struct QueueFull;

impl Slot {
    /// The pool this place belongs to; none while its connection lies idle in the pool.
    fn vacate(&mut self) -> Option<Arc<Pool>> {
        self.0.take()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(pool) = self.0.take() {
            pool.freed();
        }
    }
}

impl Pool {
    pub(super) fn new(connections_max: usize, waiting_max: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), connections_max, waiting_max })
    }

    /// The bound on open connections.
    pub(super) fn connections_max(&self) -> usize {
        self.connections_max
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves the state whole; a panic elsewhere must not take the pool with it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An idle connection, a place for a new one, or a ticket in the queue.
    pub(super) fn take(self: &Arc<Self>, now: Instant) -> Taken {
        let mut expired = None;
        let mut state = self.lock();
        if let Some(mut connection) = state.idle.pop() {
            if connection.is_fresh(now) {
                connection.slot = Slot(Some(Arc::clone(self)));
                return Ok(Ok(Grant::Connection(connection)));
            }
            // The last used one is too old, so all are.
            state.open -= 1 + state.idle.len();
            expired = Some((connection, std::mem::take(&mut state.idle)));
        }
        let taken = if state.open < self.connections_max {
            state.open += 1;
            Ok(Ok(Grant::Slot(Slot(Some(Arc::clone(self))))))
        } else {
            state.waiting.retain(|waiter| !waiter.is_closed());
            if state.waiting.len() < self.waiting_max {
                let (sender, receiver) = oneshot::channel();
                state.waiting.push_back(sender);
                Ok(Err(receiver))
            } else {
                Err(QueueFull)
            }
        };
        drop(state);
        drop(expired);
        taken
    }

    /// Takes back a connection that is ready for another request.
    pub(super) fn put(mut connection: Box<Connection>, now: Instant) {
        let Some(pool) = connection.slot.vacate() else { return };
        connection.idle_since = now;
        let mut state = pool.lock();
        while let Some(waiter) = state.waiting.pop_front() {
            connection.slot = Slot(Some(Arc::clone(&pool)));
            match waiter.send(Grant::Connection(connection)) {
                Ok(()) => return,
                Err(Grant::Connection(back)) => connection = back,
                Err(Grant::Slot(_)) => return,
            }
            connection.slot.vacate();
        }
        state.idle.push(connection);
        let sweep = !std::mem::replace(&mut state.sweeping, true);
        drop(state);
        if sweep {
            tokio::spawn(sweep_while_used(Arc::downgrade(&pool)));
        }
    }

    /// A connection is gone: its place goes to the next in the queue.
    fn freed(self: Arc<Self>) {
        let mut state = self.lock();
        while let Some(waiter) = state.waiting.pop_front() {
            match waiter.send(Grant::Slot(Slot(Some(Arc::clone(&self))))) {
                Ok(()) => return,
                // Defused, or its drop would come back here with the lock held.
                Err(Grant::Slot(mut slot)) => drop(slot.vacate()),
                Err(Grant::Connection(_)) => return,
            }
        }
        state.open -= 1;
    }

    /// Closes idle connections that are too old or that the upstream has closed. False when none is left.
    fn sweep(&self, now: Instant) -> bool {
        let mut gone = Vec::new();
        let mut state = self.lock();
        let mut at = 0;
        while at < state.idle.len() {
            if state.idle[at].is_fresh(now) && state.idle[at].is_quiet() {
                at += 1;
            } else {
                gone.push(state.idle.remove(at));
            }
        }
        state.open -= gone.len();
        state.sweeping = !state.idle.is_empty();
        let more = state.sweeping;
        drop(state);
        drop(gone);
        more
    }

    /// Connections that exist or are being made, and of these the idle ones.
    pub(super) fn counts(&self) -> (usize, usize) {
        let state = self.lock();
        (state.open, state.idle.len())
    }
}

async fn sweep_while_used(pool: std::sync::Weak<Pool>) {
    let mut tick = tokio::time::interval(SWEEP_EVERY);
    tick.tick().await;
    loop {
        tick.tick().await;
        let Some(pool) = pool.upgrade() else { return };
        if !pool.sweep(clock::now()) {
            return;
        }
    }
}
