//! A histogram of durations that costs two additions to observe.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds in microseconds: 100 us to 30 s, about 2.5 times apart.
const BOUNDS_US: [u64; 17] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000,
];

/// Counts of durations by size. prometheus-client's own histogram locks a mutex for each observation.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// The last one is for what is over all bounds.
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// What a histogram has counted, or several together.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    counts: [u64; BOUNDS_US.len() + 1],
    sum_us: u64,
}

impl Histogram {
    pub(super) fn observe(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    pub(super) fn add_to(&self, snapshot: &mut Snapshot) {
        for (sum, count) in snapshot.counts.iter_mut().zip(&self.counts) {
            *sum += count.load(Ordering::Relaxed);
        }
        snapshot.sum_us += self.sum_us.load(Ordering::Relaxed);
    }
}

impl Snapshot {
    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(super) fn sum_s(&self) -> f64 {
        self.sum_us as f64 / 1e6
    }

    /// Each upper bound in seconds with the count under it alone, as prometheus-client wants it.
    pub(super) fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
        bounds.zip(self.counts).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_under_their_bound() {
        let histogram = Histogram::default();
        for us in [0, 100, 101, 2_500, 40_000_000] {
            histogram.observe(Duration::from_micros(us));
        }
        let mut snapshot = Snapshot::default();
        histogram.add_to(&mut snapshot);
        assert_eq!(snapshot.count(), 5);
        assert!((snapshot.sum_s() - 40.002_701).abs() < 1e-9);
        let filled: Vec<_> = snapshot.buckets().into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(0.000_1, 2), (0.000_25, 1), (0.002_5, 1), (f64::INFINITY, 1)]);
    }
}
