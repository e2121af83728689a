//! Leaving out an endpoint that does worse than its peers.

use super::breaker::streak_min;
use super::response_class::ResponseClass;
use super::window::millis;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, TryLockError};
use std::time::{Duration, Instant};

/// When endpoints are ejected. The defaults are those of Envoy's outlier detection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutlierPolicy {
    /// How often success rates are compared. Default: 10 s.
    pub interval: Duration,
    /// The first ejection's length; the n-th in a row is n times as long. Default: 30 s.
    pub ejection: Duration,
    /// The longest ejection. Default: 300 s.
    pub ejection_max: Duration,
    /// Share of the endpoints that may be ejected at a time; one of two or more always may. Default: 0.1.
    pub ejected_share_max: f64,
    /// Failures in a row that eject. Default: 5.
    pub consecutive_failures: Option<u32>,
    /// How many standard deviations below the mean success rate eject. Default: 1.9.
    pub sigmas: f64,
    /// Endpoints with enough calls below which their rates say nothing. Default: 5.
    pub hosts_min: usize,
    /// Calls in an interval below which an endpoint's rate says nothing. Default: 100.
    pub requests_min: u32,
}

impl OutlierPolicy {
    /// Envoy's defaults.
    #[must_use]
    pub const fn envoy() -> Self {
        Self {
            interval: Duration::from_secs(10),
            ejection: Duration::from_secs(30),
            ejection_max: Duration::from_secs(300),
            ejected_share_max: 0.1,
            consecutive_failures: Some(5),
            sigmas: 1.9,
            hosts_min: 5,
            requests_min: 100,
        }
    }
}

impl Default for OutlierPolicy {
    fn default() -> Self {
        Self::envoy()
    }
}

/// What is known of one endpoint: lock-free, without allocation.
#[derive(Debug)]
pub struct OutlierRecord {
    /// The policy's `consecutive_failures`.
    streak_min: Option<u32>,
    /// Calls in the upper half, failures in the lower, since the interval began.
    counts: AtomicU64,
    /// Failures since the last success.
    streak: AtomicU32,
    /// Ejections in a row.
    ejections: AtomicU32,
    /// Milliseconds from the detector's start until when it is ejected; [`SUSPECT`] while its case is to be heard.
    until_ms: AtomicU64,
}

/// Failed often enough in a row; whether it is ejected depends on the others.
const SUSPECT: u64 = u64::MAX;

/// How an endpoint stands with its detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It was never ejected.
    Never,
    /// It is, for that much longer.
    Ejected(Duration),
    /// It was, and is back for so long.
    Back(Duration),
}

/// Compares the endpoints of one upstream.
#[derive(Debug)]
pub struct OutlierDetector {
    policy: OutlierPolicy,
    start: Instant,
    /// When rates are compared next, in milliseconds from the start.
    next_ms: AtomicU64,
    /// Whoever compares; the others go on with what was found before.
    comparing: Mutex<()>,
}

impl OutlierRecord {
    /// Of an endpoint that was never asked.
    #[must_use]
    pub const fn new(policy: &OutlierPolicy) -> Self {
        Self {
            streak_min: policy.consecutive_failures,
            counts: AtomicU64::new(0),
            streak: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            until_ms: AtomicU64::new(0),
        }
    }

    /// Counts how a call ended.
    pub fn record(&self, class: ResponseClass) {
        match class {
            ResponseClass::Ignored => {}
            ResponseClass::Success | ResponseClass::Throttled => {
                self.counts.fetch_add(1 << 32, Ordering::Relaxed);
                if self.streak.load(Ordering::Relaxed) != 0 {
                    self.streak.store(0, Ordering::Relaxed);
                }
            }
            ResponseClass::Failure => {
                let calls = (self.counts.fetch_add(1 << 32 | 1, Ordering::Relaxed) >> 32) + 1;
                let streak = u64::from(self.streak.fetch_add(1, Ordering::Relaxed)) + 1;
                // Half is what a failure rate may be before it is the business of `sigmas`.
                if self.streak_min.is_some_and(|least| streak >= streak_min(least, calls, 0.5)) {
                    self.until_ms.store(SUSPECT, Ordering::Relaxed);
                }
            }
        }
    }

    /// Until when it is ejected, in milliseconds from the detector's start; that may be past.
    fn until_ms(&self) -> Option<u64> {
        Some(self.until_ms.load(Ordering::Relaxed)).filter(|until| *until != SUSPECT)
    }

    fn eject(&self, policy: &OutlierPolicy, now_ms: u64) {
        let ejections = self.ejections.load(Ordering::Relaxed).saturating_add(1);
        self.ejections.store(ejections, Ordering::Relaxed);
        let length = policy.ejection.saturating_mul(ejections).min(policy.ejection_max);
        let length_ms = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        self.acquit(now_ms.saturating_add(length_ms).min(SUSPECT - 1));
    }

    fn acquit(&self, until_ms: u64) {
        self.streak.store(0, Ordering::Relaxed);
        self.until_ms.store(until_ms, Ordering::Relaxed);
    }
}

impl OutlierDetector {
    /// For endpoints of which nothing is known yet.
    #[must_use]
    pub fn new(policy: OutlierPolicy, start: Instant) -> Self {
        Self { policy, start, next_ms: AtomicU64::new(interval_ms(&policy)), comparing: Mutex::new(()) }
    }

    /// The values it works by.
    #[must_use]
    pub const fn policy(&self) -> &OutlierPolicy {
        &self.policy
    }

    /// For how much longer an endpoint is ejected, if it is.
    #[must_use]
    pub fn ejected_for(&self, record: &OutlierRecord, now: Instant) -> Option<Duration> {
        match self.standing(record, now) {
            Standing::Ejected(left) => Some(left),
            Standing::Never | Standing::Back(_) => None,
        }
    }

    pub(super) fn standing(&self, record: &OutlierRecord, now: Instant) -> Standing {
        let Some(until_ms) = record.until_ms().filter(|until_ms| *until_ms != 0) else { return Standing::Never };
        let now_ms = millis(self.start, now);
        if self.holds(until_ms, now_ms) {
            return Standing::Ejected(Duration::from_millis(until_ms - now_ms));
        }
        Standing::Back(Duration::from_millis(now_ms.saturating_sub(until_ms)))
    }

    /// Whether an ejection until then holds. A clock that stepped back must not prolong it: a time further away than
    /// any ejection is over.
    fn holds(&self, until_ms: u64, now_ms: u64) -> bool {
        let longest = self.policy.ejection_max.max(self.policy.ejection);
        until_ms > now_ms && u128::from(until_ms - now_ms) <= longest.as_millis() + 1_000
    }

    /// Compares the endpoints of the upstream, where it is time to or one of them is suspect: to be called before one
    /// of them is picked. Costs one load an endpoint otherwise.
    pub fn compare<'a>(&self, endpoints: impl Iterator<Item = &'a OutlierRecord> + Clone, now: Instant) {
        let now_ms = millis(self.start, now);
        let next_ms = self.next_ms.load(Ordering::Relaxed);
        let interval_ms = interval_ms(&self.policy);
        // Or the clock stepped back.
        let is_due = now_ms >= next_ms || next_ms - now_ms > interval_ms;
        if !is_due && !endpoints.clone().any(OutlierRecord::is_suspect) {
            return;
        }
        let _comparing = match self.comparing.try_lock() {
            Err(TryLockError::WouldBlock) => return,
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
        };
        if is_due {
            self.next_ms.store(now_ms.saturating_add(interval_ms), Ordering::Relaxed);
            self.compare_rates(endpoints.clone(), now_ms);
        }
        let hosts = endpoints.clone().count();
        let is_ejected =
            |record: &&OutlierRecord| record.until_ms().is_some_and(|until_ms| self.holds(until_ms, now_ms));
        let mut ejected = endpoints.clone().filter(is_ejected).count();
        for suspect in endpoints.filter(|record| record.is_suspect()) {
            if self.may_eject(ejected, hosts) {
                suspect.eject(&self.policy, now_ms);
                ejected += 1;
            } else {
                suspect.acquit(0);
            }
        }
    }

    /// A share of a small pool is less than one endpoint: one of several always may go.
    fn may_eject(&self, ejected: usize, hosts: usize) -> bool {
        hosts >= 2 && (ejected == 0 || self.may_be_ejected(ejected + 1, hosts))
    }

    /// Whether `count` of so many are within the share that may be ejected at a time.
    pub(super) fn may_be_ejected(&self, count: usize, hosts: usize) -> bool {
        count as f64 <= self.policy.ejected_share_max * hosts as f64
    }

    /// Ends the interval: suspects whose success rate is too far below the mean.
    fn compare_rates<'a>(&self, endpoints: impl Iterator<Item = &'a OutlierRecord> + Clone, now_ms: u64) {
        let policy = &self.policy;
        let serving = endpoints.filter(|record| record.until_ms().is_none_or(|until| !self.holds(until, now_ms)));
        let rated = serving.clone().filter_map(|record| {
            let (calls, failures) = record.counts();
            (calls > 0 && calls >= policy.requests_min).then(|| 1.0 - f64::from(failures) / f64::from(calls))
        });
        let hosts = rated.clone().count();
        let mean = rated.clone().sum::<f64>() / hosts as f64;
        let variance = rated.map(|rate| (rate - mean).powi(2)).sum::<f64>() / hosts as f64;
        for record in serving {
            let (calls, failures) = record.counts();
            record.counts.store(0, Ordering::Relaxed);
            let rate = 1.0 - f64::from(failures) / f64::from(calls.max(1));
            // Rates that hardly differ have a small deviation too. What chance brings is no difference: three
            // standard errors of a share of so many calls.
            let chance = 3.0 * (mean * (1.0 - mean) / f64::from(calls.max(1))).sqrt();
            let is_outlier = calls >= policy.requests_min
                && hosts >= policy.hosts_min
                && rate < mean - (policy.sigmas * variance.sqrt()).max(chance);
            if is_outlier {
                record.until_ms.store(SUSPECT, Ordering::Relaxed);
            } else if !record.is_suspect() {
                // A quiet interval takes one ejection back.
                let ejections = record.ejections.load(Ordering::Relaxed);
                record.ejections.store(ejections.saturating_sub(1), Ordering::Relaxed);
            }
        }
    }
}

impl OutlierRecord {
    fn is_suspect(&self) -> bool {
        self.until_ms.load(Ordering::Relaxed) == SUSPECT
    }

    fn counts(&self) -> (u32, u32) {
        let packed = self.counts.load(Ordering::Relaxed);
        ((packed >> 32) as u32, packed as u32)
    }
}

fn interval_ms(policy: &OutlierPolicy) -> u64 {
    u64::try_from(policy.interval.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::clock::some_instant;
    use proptest::prelude::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    struct Pool {
        detector: OutlierDetector,
        records: Vec<OutlierRecord>,
        now: Instant,
    }

    impl Pool {
        fn of(hosts: usize) -> Self {
            let now = some_instant();
            let records = (0..hosts).map(|_| OutlierRecord::new(&OutlierPolicy::default())).collect();
            Self { detector: OutlierDetector::new(OutlierPolicy::default(), now), records, now }
        }

        /// Lets an endpoint answer `calls` times, the first `failures` of them badly, never five in a row.
        fn answer(&self, at: usize, calls: u32, failures: u32) {
            for call in 0..calls {
                let class = if call < failures { ResponseClass::Failure } else { ResponseClass::Success };
                self.records[at].record(class);
                self.records[at].streak.store(0, Ordering::Relaxed);
            }
        }

        fn fail_in_a_row(&self, at: usize) {
            (0..5).for_each(|_| self.records[at].record(ResponseClass::Failure));
        }

        /// The places of those that are ejected now.
        fn ejected(&self) -> Vec<usize> {
            self.detector.compare(self.records.iter(), self.now);
            let is_ejected = |at: &usize| self.detector.ejected_for(&self.records[*at], self.now).is_some();
            (0..self.records.len()).filter(is_ejected).collect()
        }
    }

    #[test]
    fn five_failures_in_a_row_eject() {
        let mut pool = Pool::of(3);
        pool.fail_in_a_row(1);
        assert_eq!(pool.ejected(), [1]);
        pool.now += S(29);
        assert_eq!(pool.ejected(), [1]);
        pool.now += S(1);
        assert_eq!(pool.ejected(), [0; 0]);
    }

    #[test]
    fn one_of_two_may_go_and_the_last_one_never() {
        // The known trap: a tenth of two endpoints is none, and ejection does nothing on small pools.
        let pool = Pool::of(2);
        pool.fail_in_a_row(0);
        assert_eq!(pool.ejected(), [0]);
        pool.fail_in_a_row(1);
        assert_eq!(pool.ejected(), [0]);
        let alone = Pool::of(1);
        alone.fail_in_a_row(0);
        assert_eq!(alone.ejected(), [0; 0]);
    }

    #[test]
    fn at_most_a_tenth() {
        let pool = Pool::of(30);
        (0..30).for_each(|at| pool.fail_in_a_row(at));
        assert_eq!(pool.ejected(), [0, 1, 2]);
        let pool = Pool::of(19);
        (0..19).for_each(|at| pool.fail_in_a_row(at));
        assert_eq!(pool.ejected(), [0]);
    }

    #[test]
    fn ejections_get_longer_and_shorter_again() {
        let mut pool = Pool::of(2);
        let eject = |pool: &mut Pool, length| {
            pool.fail_in_a_row(0);
            assert_eq!(pool.ejected(), [0]);
            assert_eq!(pool.detector.ejected_for(&pool.records[0], pool.now), Some(S(length)));
            pool.now += S(length);
        };
        for length in [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300] {
            eject(&mut pool, length);
        }
        // Ten quiet intervals take ten of the twelve back.
        for _ in 0..10 {
            assert_eq!(pool.ejected(), [0; 0]);
            pool.now += S(10);
        }
        eject(&mut pool, 90);
    }

    #[test]
    fn who_does_worse_than_its_peers_is_ejected() {
        let mut pool = Pool::of(5);
        (0..4).for_each(|at| pool.answer(at, 200, 2));
        pool.answer(4, 200, 60);
        assert_eq!(pool.ejected(), [0; 0], "not before the interval is over");
        pool.now += S(10);
        assert_eq!(pool.ejected(), [4]);
    }

    #[test]
    fn few_hosts_few_calls_and_chance_say_nothing() {
        for (hosts, calls, failures) in [(4, 200, 60), (5, 99, 60), (5, 200, 5)] {
            let mut pool = Pool::of(hosts);
            (0..hosts - 1).for_each(|at| pool.answer(at, calls, 2));
            pool.answer(hosts - 1, calls, failures);
            pool.now += S(10);
            assert_eq!(pool.ejected(), [0; 0], "{hosts} hosts, {calls} calls, {failures} failures");
        }
        // All do badly: none of them is an outlier.
        let mut pool = Pool::of(6);
        (0..6).for_each(|at| pool.answer(at, 200, 150));
        pool.now += S(10);
        assert_eq!(pool.ejected(), [0; 0]);
    }

    #[test]
    fn a_clock_that_steps_back_prolongs_nothing() {
        let mut pool = Pool::of(2);
        let start = pool.now;
        pool.now += S(86_400);
        pool.fail_in_a_row(0);
        assert_eq!(pool.ejected(), [0]);
        pool.now = start + S(60);
        assert_eq!(pool.ejected(), [0; 0]);
        pool.fail_in_a_row(1);
        assert_eq!(pool.ejected(), [1]);
    }

    proptest! {
        /// Never more than the share, and never all.
        #[test]
        fn some_always_remain(
            hosts in 1_usize..40,
            steps in proptest::collection::vec((0_usize..40, 0_u64..40, any::<bool>()), 0..200),
        ) {
            let mut pool = Pool::of(hosts);
            for (at, seconds, row) in steps {
                let at = at % hosts;
                if row { pool.fail_in_a_row(at) } else { pool.answer(at, 150, 100) }
                pool.now += S(seconds / 10);
                let ejected = pool.ejected().len();
                prop_assert!(ejected < hosts);
                prop_assert!(ejected <= 1 || ejected * 10 <= hosts);
            }
            pool.now += S(300);
            prop_assert!(pool.ejected().is_empty() || hosts >= 2);
        }
    }
}
