//! What a run was like, second by second.

use super::clock::{At, SECOND};

/// One second of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Second {
    /// Calls that came, by group of callers.
    pub(super) offered: [u32; 2],
    /// Those of them that were answered in time.
    pub(super) answered: [u32; 2],
    /// Attempts that reached the last service.
    pub(super) attempts: u32,
    /// Attempts that reached it when the first caller had gone.
    pub(super) late: u32,
    /// Attempts that hops behind the first repeated.
    pub(super) inner_repeats: u32,
    /// Attempts whose work the last service did.
    pub(super) worked: u32,
    /// Those of them whose first caller had gone by then.
    pub(super) wasted: u32,
    /// How long they took that ended, whatever came of them; microseconds.
    pub(super) latencies: Vec<u32>,
}

/// A run.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    seconds: Vec<Second>,
}

impl Report {
    pub(super) fn of(seconds: u64) -> Self {
        Self { seconds: vec![Second::default(); seconds as usize] }
    }

    pub(super) fn second(&mut self, at: At) -> &mut Second {
        &mut self.seconds[(at / SECOND) as usize]
    }

    pub(super) fn between(&self, from: usize, to: usize) -> impl Iterator<Item = &Second> {
        self.seconds[from.min(self.seconds.len())..to.min(self.seconds.len())].iter()
    }

    pub(super) fn share(
        &self,
        from: usize,
        to: usize,
        of: impl Fn(&Second) -> u32,
        all: impl Fn(&Second) -> u32,
    ) -> f64 {
        let sum = |count: &dyn Fn(&Second) -> u32| self.between(from, to).map(|s| u64::from(count(s))).sum::<u64>();
        sum(&of) as f64 / sum(&all).max(1) as f64
    }

    /// Share of calls, of all groups, that were answered in time, in these seconds.
    pub(super) fn success(&self, from: usize, to: usize) -> f64 {
        self.share(from, to, |s| s.answered.iter().sum(), |s| s.offered.iter().sum())
    }

    /// Attempts at the last service for each call that came.
    pub(super) fn load(&self, from: usize, to: usize) -> f64 {
        self.share(from, to, |s| s.attempts, |s| s.offered.iter().sum())
    }

    /// Share of the last service's work whose first caller had gone when it ended.
    pub(super) fn wasted(&self, from: usize, to: usize) -> f64 {
        self.share(from, to, |s| s.wasted, |s| s.worked)
    }

    /// Milliseconds that this share of calls took at most.
    pub(super) fn latency_ms(&self, share: f64, from: usize, to: usize) -> f64 {
        let mut all: Vec<u32> = self.between(from, to).flat_map(|s| s.latencies.iter().copied()).collect();
        if all.is_empty() {
            return 0.0;
        }
        all.sort_unstable();
        f64::from(all[((all.len() - 1) as f64 * share) as usize]) / 1_000.0
    }

    /// Calls that came in each second and were answered in time.
    pub(super) fn goodput(&self) -> Vec<f64> {
        self.seconds.iter().map(|s| f64::from(s.answered.iter().sum::<u32>())).collect()
    }

    /// The same of one group.
    pub(super) fn goodput_of(&self, group: usize) -> Vec<f64> {
        self.seconds.iter().map(|s| f64::from(s.answered[group])).collect()
    }

    pub(super) fn late(&self) -> Vec<f64> {
        self.seconds.iter().map(|s| f64::from(s.late)).collect()
    }

    pub(super) fn wasted_percent(&self) -> Vec<f64> {
        (0..self.seconds.len()).map(|second| 100.0 * self.wasted(second, second + 1)).collect()
    }

    pub(super) fn attempts(&self) -> Vec<f64> {
        self.seconds.iter().map(|s| f64::from(s.attempts)).collect()
    }

    pub(super) fn latencies_ms(&self, share: f64) -> Vec<f64> {
        (0..self.seconds.len()).map(|second| self.latency_ms(share, second, second + 1)).collect()
    }
}
