//! Which endpoint is tried next.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::attempt::{EndpointIndex, Tried};

/// Round robin over the endpoints that this call has not tried; over all of them once it has tried every one.
#[derive(Debug, Default)]
pub(super) struct RoundRobin {
    next: AtomicUsize,
}

impl RoundRobin {
    /// The next of `count` endpoints; `count` is at least one.
    pub(super) fn pick(&self, count: usize, tried: Tried) -> EndpointIndex {
        if count == 1 {
            return EndpointIndex(0);
        }
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let mut candidates = (0..count).map(|step| index(start.wrapping_add(step) % count));
        candidates.find(|candidate| !tried.contains(*candidate)).unwrap_or_else(|| index(start % count))
    }
}

fn index(at: usize) -> EndpointIndex {
    EndpointIndex(u8::try_from(at).expect("at most ENDPOINTS_MAX endpoints"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_round() {
        let robin = RoundRobin::default();
        let picks: Vec<_> = (0..4).map(|_| robin.pick(3, Tried::default()).get()).collect();
        assert_eq!(picks, [0, 1, 2, 0]);
    }

    #[test]
    fn leaves_out_the_tried_until_all_are() {
        let robin = RoundRobin::default();
        let mut tried = Tried::default();
        for _ in 0..3 {
            let pick = robin.pick(3, tried);
            assert!(!tried.contains(pick));
            tried.insert(pick);
        }
        assert!(robin.pick(3, tried).get() < 3);
    }
}
