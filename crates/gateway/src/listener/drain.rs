//! Stopping: no new connections, idle ones closed, busy ones finished.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Tells every connection of one runtime that it is time to finish, and knows how many are left.
#[derive(Debug, Default)]
pub(super) struct Drain {
    begun: AtomicBool,
    begin: Notify,
    open: AtomicUsize,
    closed: Notify,
}

impl Drain {
    /// Asks everybody to finish.
    pub(super) fn start(&self) {
        self.begun.store(true, Ordering::Release);
        self.begin.notify_waiters();
        self.closed.notify_one();
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Ready when [`Drain::start`] is called, or was.
    pub(super) async fn begun(&self) {
        let mut begin = std::pin::pin!(self.begin.notified());
        // Registered before looking, so that a start in between is not missed.
        begin.as_mut().enable();
        if !self.has_begun() {
            begin.await;
        }
    }

    pub(super) fn opened(&self) {
        self.open.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn closed(&self) {
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.closed.notify_one();
        }
    }

    /// Ready when the last connection has closed after the start.
    pub(super) async fn finished(&self) {
        while !self.has_begun() || self.open.load(Ordering::Acquire) > 0 {
            self.closed.notified().await;
        }
    }
}
