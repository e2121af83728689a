//! A fixed bound on calls in flight, so that one slow upstream does not take what all of them need.

use std::sync::atomic::{AtomicU32, Ordering};

/// So many calls at a time, no queue (Nygard, *Release It!*, 2007, "Bulkheads"; Hystrix' semaphore isolation).
///
/// Lock-free. Who takes a place must give it back, whatever happens to the call.
#[derive(Debug)]
pub struct Bulkhead {
    places: u32,
    taken: AtomicU32,
}

/// All places are taken: the caller is told `reduced-capacity`, 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("as many calls as allowed are already in flight")]
pub struct BulkheadFull;

impl Bulkhead {
    /// A bulkhead with so many places.
    #[must_use]
    pub const fn new(places: u32) -> Self {
        Self { places, taken: AtomicU32::new(0) }
    }

    /// Takes a place.
    ///
    /// # Errors
    /// Where all are taken.
    pub fn try_take(&self) -> Result<(), BulkheadFull> {
        let one_more = |taken: u32| (taken < self.places).then(|| taken + 1);
        self.taken.fetch_update(Ordering::Acquire, Ordering::Relaxed, one_more).map_or(Err(BulkheadFull), |_| Ok(()))
    }

    /// Gives a place back. One that was not taken is not given back.
    pub fn give_back(&self) {
        let one_less = |taken: u32| taken.checked_sub(1);
        let _ = self.taken.fetch_update(Ordering::Release, Ordering::Relaxed, one_less);
    }

    /// Places that are taken.
    #[must_use]
    pub fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }

    /// All places.
    #[must_use]
    pub const fn places(&self) -> u32 {
        self.places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_there_are() {
        let bulkhead = Bulkhead::new(2);
        assert_eq!(
            [bulkhead.try_take(), bulkhead.try_take(), bulkhead.try_take()],
            [Ok(()), Ok(()), Err(BulkheadFull)]
        );
        bulkhead.give_back();
        assert_eq!((bulkhead.taken(), bulkhead.try_take()), (1, Ok(())));
        (0..9).for_each(|_| bulkhead.give_back());
        assert_eq!(bulkhead.taken(), 0, "nothing is given back twice");
        assert_eq!(Bulkhead::new(0).try_take(), Err(BulkheadFull));
    }

    #[test]
    fn threads_share_places() {
        let (bulkhead, most) = (Bulkhead::new(3), AtomicU32::new(0));
        let inside = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        if bulkhead.try_take().is_ok() {
                            most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            inside.fetch_sub(1, Ordering::SeqCst);
                            bulkhead.give_back();
                        }
                    }
                });
            }
        });
        assert!(most.into_inner() <= 3 && bulkhead.taken() == 0);
    }
}
