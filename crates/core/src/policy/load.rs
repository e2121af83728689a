//! How loaded an endpoint is, as its callers feel it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Peak EWMA of an endpoint's latency, and the calls that are under way there (Finagle's `PeakEwma`): a slow answer
/// counts at once, a quick one by and by, and what is long past not at all. Lock-free, without allocation.
#[derive(Debug)]
pub struct Load {
    start: Instant,
    /// Seconds, after which an old answer's weight has sunk to 1/e.
    decay_s: f32,
    /// Latency in seconds as an `f32` in the upper half; in the lower, the time of the last answer in [`UNIT_NS`].
    latency: AtomicU64,
    in_flight: AtomicU32,
}

/// 131 us: 32 bits of it are six days, and an endpoint that was idle for so long is as good as new either way.
const UNIT_NS: u64 = 1 << 17;

/// The cost of an endpoint that has calls under way and has never answered: whoever has answered goes first.
const NEVER_ANSWERED: f32 = 1e9;

impl Load {
    /// How long an answer is remembered, if not told otherwise.
    pub const DECAY: Duration = Duration::from_secs(10);
    /// The least that a failure counts as: so that an endpoint that fails quickly does not attract calls.
    pub const FAILURE: Duration = Duration::from_secs(5);

    /// Of an endpoint that was never asked.
    #[must_use]
    pub fn new(start: Instant, decay: Duration) -> Self {
        let decay_s = decay.as_secs_f32().max(0.001);
        Self { start, decay_s, latency: AtomicU64::new(0), in_flight: AtomicU32::new(0) }
    }

    /// A call begins.
    pub fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// A call that began is over, whatever came of it.
    pub fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Calls that are under way.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Takes an answer's latency into account.
    pub fn observe(&self, latency: Duration, now: Instant) {
        let (seen_s, unit) = (latency.as_secs_f32(), self.unit(now));
        let update = |packed: u64| {
            let (known_s, at) = unpack(packed);
            if seen_s >= known_s {
                return Some(pack(seen_s, unit));
            }
            let age = age(unit, at);
            // Too little time for a weight: one answer in 131 us stands for all.
            let weight = (age > 0.0).then(|| (-age / self.decay_s).exp())?;
            Some(pack(known_s * weight + seen_s * (1.0 - weight), unit))
        };
        let _ = self.latency.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
    }

    /// Forgets what came before: the endpoint is back, and this is how long it took.
    pub fn restart(&self, latency: Duration, now: Instant) {
        self.latency.store(pack(latency.as_secs_f32(), self.unit(now)), Ordering::Relaxed);
    }

    /// The latency that the next call may expect; zero for an endpoint that has not answered for long.
    #[must_use]
    pub fn latency(&self, now: Instant) -> Duration {
        Duration::try_from_secs_f32(self.decayed(now)).unwrap_or(Duration::MAX)
    }

    /// What one call more would meet: the latency, times the calls it shares it with.
    #[must_use]
    pub fn cost(&self, now: Instant) -> f32 {
        let in_flight = self.in_flight() as f32;
        let latency = self.decayed(now);
        if latency <= 0.0 && in_flight > 0.0 { NEVER_ANSWERED + in_flight } else { latency * (in_flight + 1.0) }
    }

    fn decayed(&self, now: Instant) -> f32 {
        let (known_s, at) = unpack(self.latency.load(Ordering::Relaxed));
        if known_s <= 0.0 { 0.0 } else { known_s * (-age(self.unit(now), at) / self.decay_s).exp() }
    }

    fn unit(&self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.start);
        let ns = since.as_secs().wrapping_mul(1_000_000_000).wrapping_add(u64::from(since.subsec_nanos()));
        (ns / UNIT_NS) as u32
    }
}

/// Seconds between two times. One that lies ahead, read by a thread whose clock was a moment before or from before the
/// clock stepped back, is now.
fn age(now: u32, at: u32) -> f32 {
    let units = now.wrapping_sub(at);
    if units > u32::MAX / 2 { 0.0 } else { units as f32 * (UNIT_NS as f32 * 1e-9) }
}

fn pack(latency_s: f32, unit: u32) -> u64 {
    u64::from(latency_s.to_bits()) << 32 | u64::from(unit)
}

fn unpack(packed: u64) -> (f32, u32) {
    (f32::from_bits((packed >> 32) as u32), packed as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::clock::some_instant;
    use proptest::prelude::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn near(load: &Load, now: Instant, ms: f64) {
        let latency = load.latency(now).as_secs_f64() * 1_000.0;
        assert!((latency - ms).abs() < ms * 0.02 + 0.01, "{latency} ms, not {ms}");
    }

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let mut now = some_instant();
        let load = Load::new(now, Load::DECAY);
        load.observe(MS(10), now);
        load.observe(MS(1_000), now);
        near(&load, now, 1_000.0);
        now += MS(10_000);
        near(&load, now, 1_000.0 / std::f64::consts::E);
        load.observe(MS(10), now);
        near(&load, now, 1_000.0 / std::f64::consts::E + 10.0 * (1.0 - 1.0 / std::f64::consts::E));
    }

    #[test]
    fn calls_under_way_add_up() {
        let now = some_instant();
        let load = Load::new(now, Load::DECAY);
        load.observe(MS(10), now);
        (0..4).for_each(|_| load.begin());
        assert!((load.cost(now) - 0.05).abs() < 1e-4);
        (0..4).for_each(|_| load.end());
        assert!((load.cost(now) - 0.01).abs() < 1e-4);
        let new = Load::new(now, Load::DECAY);
        assert!(new.cost(now) <= 0.0, "a new one is asked");
        new.begin();
        assert!(new.cost(now) > load.cost(now) * 1_000.0, "once, until it answers");
    }

    #[test]
    fn many_quick_answers_in_no_time_count_as_one() {
        let mut now = some_instant();
        let load = Load::new(now, Load::DECAY);
        load.observe(MS(100), now);
        for _ in 0..100_000 {
            now += Duration::from_micros(100);
            load.observe(MS(1), now);
        }
        // Ten seconds of them: one time constant.
        near(&load, now, 100.0 / std::f64::consts::E + (1.0 - 1.0 / std::f64::consts::E));
    }

    #[test]
    fn a_clock_that_steps_back_is_now() {
        let start = some_instant();
        let load = Load::new(start, Load::DECAY);
        load.observe(MS(100), start + Duration::from_secs(3_600));
        near(&load, start, 100.0);
        load.observe(MS(1), start);
        load.observe(MS(200), start);
        near(&load, start + Duration::from_secs(10), 200.0 / std::f64::consts::E);
    }

    proptest! {
        /// Always between nothing and the slowest answer.
        #[test]
        fn bounded_by_what_was_seen(steps in proptest::collection::vec((0_u64..10_000, 0_u64..20_000_000), 1..100)) {
            let mut now = some_instant();
            let load = Load::new(now, Load::DECAY);
            let mut slowest = Duration::ZERO;
            for (ms, wait_us) in steps {
                now += Duration::from_micros(wait_us);
                load.observe(MS(ms), now);
                slowest = slowest.max(MS(ms));
                prop_assert!(load.latency(now) <= slowest + slowest / 1_000);
            }
        }
    }
}
