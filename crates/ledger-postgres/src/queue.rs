//! What waits for a lane: in order, bounded, taken many at a time.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// How much a lane takes at once: enough to make a flush worth its while, little enough to answer the first soon.
pub(crate) const BATCH_LEN_MAX: usize = 256;
/// Bytes of answers that a lane takes at once.
pub(crate) const BATCH_BYTES_MAX: usize = 4 << 20;

/// A queue that several lanes serve. Its users bound it, by a permit for each item.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    items: Mutex<VecDeque<T>>,
    ready: Notify,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { items: Mutex::default(), ready: Notify::new() }
    }
}

impl<T> Queue<T> {
    /// Adds one.
    pub(crate) fn push(&self, item: T) {
        self.lock().push_back(item);
        self.ready.notify_one();
    }

    /// Gives back what could not be done, in its old order before all others.
    pub(crate) fn give_back(&self, items: impl DoubleEndedIterator<Item = T>) {
        let mut queue = self.lock();
        for item in items.rev() {
            queue.push_front(item);
        }
        drop(queue);
        self.ready.notify_one();
    }

    /// Takes what waits; waits for the first.
    pub(crate) async fn take(&self, weight: impl Fn(&T) -> usize) -> Vec<T> {
        loop {
            let taken = self.take_now(BATCH_LEN_MAX, &weight);
            if !taken.is_empty() {
                return taken;
            }
            self.ready.notified().await;
        }
    }

    /// Takes what waits, at most `len`; perhaps nothing.
    pub(crate) fn take_now(&self, len: usize, weight: impl Fn(&T) -> usize) -> Vec<T> {
        let mut items = self.lock();
        let mut bytes = 0;
        let mut taken = 0;
        for item in items.iter().take(len) {
            bytes += weight(item);
            if taken > 0 && bytes > BATCH_BYTES_MAX {
                break;
            }
            taken += 1;
        }
        let batch = items.drain(..taken).collect();
        if !items.is_empty() {
            // Another lane may be free for the rest.
            self.ready.notify_one();
        }
        batch
    }

    /// Takes those out for which `which` says so.
    pub(crate) fn take_those(&self, which: impl Fn(&T) -> bool) -> Vec<T> {
        let mut items = self.lock();
        let (mut taken, mut left) = (Vec::new(), VecDeque::with_capacity(items.len()));
        for item in items.drain(..) {
            if which(&item) { taken.push(item) } else { left.push_back(item) }
        }
        *items = left;
        taken
    }

    /// Shows every one to `keep` and removes those for which it says no.
    pub(crate) fn retain(&self, keep: impl FnMut(&mut T) -> bool) {
        self.lock().retain_mut(keep);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<T>> {
        // Every section leaves the queue whole, also when it panics.
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_taken_in_order_and_in_bounded_batches() {
        let queue = Queue::default();
        for n in 0..BATCH_LEN_MAX + 3 {
            queue.push(n);
        }
        let first = queue.take(|_| 1).await;
        assert_eq!((first.len(), first[0]), (BATCH_LEN_MAX, 0));
        queue.give_back(first.into_iter().skip(BATCH_LEN_MAX - 2));
        assert_eq!(queue.take(|_| 1).await, (BATCH_LEN_MAX - 2..BATCH_LEN_MAX + 3).collect::<Vec<_>>());
        assert_eq!(queue.take_now(8, |_| 1), [0; 0]);
        for n in 0..3 {
            queue.push(n);
        }
        assert_eq!(queue.take(|_| BATCH_BYTES_MAX).await, [0], "one is always taken");
        queue.push(3);
        queue.retain(|n| *n < 3);
        assert_eq!(queue.take_those(|n| *n == 1), [1]);
        assert_eq!(queue.take_now(8, |_| 1), [2]);
    }
}
