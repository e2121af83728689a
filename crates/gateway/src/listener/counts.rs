//! What the listener counts.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::socket::CutOff;

/// Why callers are refused before they have sent a request.
const REASONS: [&str; 5] = ["too-many-connections", "malformed", "slow-head", "slow-body", "slow-reader"];

/// Counters of one listener, over all its runtimes: connections come and go far more seldom than requests.
#[derive(Debug, Default)]
pub struct ListenerCounts {
    open: AtomicUsize,
    accepted: AtomicU64,
    refused: [AtomicU64; REASONS.len()],
}

impl ListenerCounts {
    /// Connections open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections accepted since the start.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Callers cut off or turned away since the start, by reason.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        REASONS.into_iter().zip(self.refused.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Takes one of `max` places for a connection; false if there is none.
    pub(super) fn open_one(&self, max: usize) -> bool {
        if self.open.fetch_add(1, Ordering::Relaxed) < max {
            self.accepted.fetch_add(1, Ordering::Relaxed);
            true
        } else {
            self.open.fetch_sub(1, Ordering::Relaxed);
            self.refused[0].fetch_add(1, Ordering::Relaxed);
            false
        }
    }

    pub(super) fn close_one(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn cut_off(&self, why: CutOff) {
        let reason = match why {
            CutOff::Framing(_) => 1,
            CutOff::SlowHead => 2,
            CutOff::SlowBody => 3,
            CutOff::SlowReader => 4,
        };
        self.refused[reason].fetch_add(1, Ordering::Relaxed);
    }
}
