use super::*;
use crate::policy::clock::some_instant;
use proptest::prelude::*;

/// An upstream with so many workers, each busy for `service` with a call; what is more waits inside it.
#[derive(Clone, Copy)]
struct Upstream {
    workers: f64,
    service: f64,
    /// Relative noise of a call's time.
    noise: f64,
}

impl Upstream {
    fn rtt(self, inflight: u32, rand: f64) -> Duration {
        let queued = (f64::from(inflight) / self.workers).max(1.0);
        Duration::from_secs_f64(self.service * queued * (1.0 + self.noise * (rand - 0.5)))
    }
}

/// A caller and its limiter: `demand` calls would be in flight if all were let in.
struct World {
    limiter: AdaptiveLimit,
    now: Instant,
    seed: u64,
}

impl World {
    fn new(policy: AdaptivePolicy) -> Self {
        let now = some_instant();
        Self { limiter: AdaptiveLimit::new(policy, now), now, seed: 7 }
    }

    fn rand(&mut self) -> f64 {
        // Marsaglia's xorshift: any stream of numbers will do.
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Runs for a while; tells the lowest and the highest limit of the last half.
    fn run(&mut self, upstream: Upstream, demand: u32, seconds: u32) -> (u32, u32) {
        let (mut lowest, mut highest, until) = (u32::MAX, 0, self.now + Duration::from_secs(seconds.into()));
        let half = self.now + Duration::from_secs(u64::from(seconds) / 2);
        while self.now < until {
            let inflight = demand.min(self.limiter.limit());
            let rtt = upstream.rtt(inflight, self.rand());
            self.now += rtt / inflight;
            self.limiter.record(self.now, rtt, inflight);
            if self.now > half {
                let limit = self.limiter.limit();
                (lowest, highest) = (lowest.min(limit), highest.max(limit));
            }
        }
        (lowest, highest)
    }
}

const UPSTREAM: Upstream = Upstream { workers: 40.0, service: 0.05, noise: 0.2 };

/// The trap: a baseline that follows the queue lets the limit, and so the queue, grow for as long as the overload lasts.
#[test]
fn steady_overload_does_not_drift_up() {
    let mut world = World::new(AdaptivePolicy { limit_max: 2_000, ..AdaptivePolicy::default() });
    // Learn the baseline, then an hour of ten times what the upstream can do.
    world.run(UPSTREAM, 15, 60);
    let (lowest, highest) = world.run(UPSTREAM, 10_000, 3_600);
    assert!(lowest >= 40 && highest <= 60, "{lowest} to {highest} for 40 workers");
}

#[test]
fn overload_from_the_first_call_is_found_out_too() {
    // No window without a queue was ever seen: throughput must tell, and a probe find what calls take without one.
    let mut world = World::new(AdaptivePolicy { limit_max: 2_000, ..AdaptivePolicy::default() });
    let few = Upstream { workers: 8.0, ..UPSTREAM };
    let (lowest, highest) = world.run(few, 10_000, 600);
    assert!(lowest >= 8 && highest <= 16, "{lowest} to {highest} for 8 workers");
}

#[test]
fn grows_to_what_the_upstream_can_do() {
    let mut world = World::new(AdaptivePolicy::default());
    let (lowest, highest) = world.run(Upstream { workers: 150.0, ..UPSTREAM }, 10_000, 600);
    assert!(lowest >= 120 && highest <= 200, "{lowest} to {highest} for 150 workers");
    let mut world = World::new(AdaptivePolicy::default());
    world.run(Upstream { workers: 150.0, ..UPSTREAM }, 10_000, 30);
    let limit = world.limiter.limit();
    assert!(limit >= 120, "{limit} after half a minute");
}

#[test]
fn an_unused_limit_is_headroom_and_no_more() {
    let mut world = World::new(AdaptivePolicy { limit_initial: 150, ..AdaptivePolicy::default() });
    world.run(UPSTREAM, 4, 600);
    assert_eq!(world.limiter.limit(), 20, "five times what is in flight");
}

#[test]
fn recovers_from_a_slow_spell() {
    let mut world = World::new(AdaptivePolicy::default());
    world.run(UPSTREAM, 10_000, 300);
    let before = world.limiter.limit();
    let slow = Upstream { workers: 4.0, ..UPSTREAM };
    world.run(slow, 10_000, 120);
    assert!(world.limiter.limit() <= 20, "{} for 4 workers", world.limiter.limit());
    world.run(UPSTREAM, 10_000, 120);
    assert!(world.limiter.limit() * 10 >= before * 8, "{} after, {before} before", world.limiter.limit());
}

#[test]
fn a_slower_upstream_is_no_overload_for_ever() {
    // Each call takes four times as long for good, and there is as much room as ever.
    let mut world = World::new(AdaptivePolicy::default());
    world.run(UPSTREAM, 10_000, 300);
    world.run(Upstream { service: 0.2, ..UPSTREAM }, 10_000, 900);
    let limit = world.limiter.limit();
    assert!((30..=70).contains(&limit), "{limit} for 40 workers");
}

#[test]
fn longer_than_healthy_is_overload_whatever_the_baseline_says() {
    let healthy = AdaptivePolicy { max_healthy_rtt: Some(Duration::from_millis(60)), ..AdaptivePolicy::default() };
    let mut world = World::new(healthy);
    // Overloaded from the first call: 200 ms is all that was ever seen.
    let few = Upstream { workers: 5.0, ..UPSTREAM };
    world.run(few, 10_000, 60);
    assert!(world.limiter.baseline().unwrap() <= Duration::from_millis(60));
    let (lowest, highest) = world.run(few, 10_000, 120);
    assert!(lowest >= 4 && highest <= 7, "{lowest} to {highest} for 5 workers");
}

#[test]
fn the_clock_may_step() {
    let mut world = World::new(AdaptivePolicy::default());
    world.now += Duration::from_secs(86_400);
    world.run(UPSTREAM, 10_000, 120);
    let before = world.limiter.limit();
    world.now -= Duration::from_secs(80_000);
    world.run(Upstream { workers: 4.0, ..UPSTREAM }, 10_000, 120);
    assert!(world.limiter.limit() < before / 2, "it still adjusts: {} was {before}", world.limiter.limit());
    world.now += Duration::from_secs(80_000);
    world.run(UPSTREAM, 10_000, 120);
    assert!(world.limiter.limit() > before / 2);
}

#[test]
fn bounds_are_made_sense_of() {
    let odd = AdaptivePolicy { limit_min: 0, limit_initial: 0, limit_max: 0, max_healthy_rtt: None };
    assert_eq!(AdaptiveLimit::new(odd, some_instant()).limit(), 1);
}

proptest! {
    #[test]
    fn stays_within_bounds(
        calls in proptest::collection::vec((0_u64..3_000, 0_u64..2_000_000, 0_u32..300), 0..2_000),
        limit_min in 0_u32..10,
        limit_max in 10_u32..100,
    ) {
        let mut now = some_instant();
        let policy = AdaptivePolicy { limit_min, limit_max, ..AdaptivePolicy::default() };
        let mut limiter = AdaptiveLimit::new(policy, now);
        for (pause_ms, rtt_us, inflight) in calls {
            now += Duration::from_millis(pause_ms);
            limiter.record(now, Duration::from_micros(rtt_us), inflight);
            prop_assert!((limit_min.max(1)..=limit_max).contains(&limiter.limit()));
        }
    }
}

impl World {
    /// The same where callers give up after a second; tells how many calls were answered.
    fn run_with_timeout(&mut self, upstream: Upstream, demand: u32, seconds: u32) -> u32 {
        let (mut answered, until) = (0, self.now + Duration::from_secs(seconds.into()));
        while self.now < until {
            let inflight = demand.min(self.limiter.limit());
            let rtt = upstream.rtt(inflight, self.rand()).min(Duration::from_secs(1));
            self.now += rtt / inflight;
            if rtt < Duration::from_secs(1) {
                self.limiter.record(self.now, rtt, inflight);
                answered += 1;
            } else {
                self.limiter.record_timeout(self.now, rtt);
            }
        }
        answered
    }
}

#[test]
fn calls_that_run_out_of_time_halve_the_limit() {
    // The trap: where all calls run out of time no time is ever measured, and the limit stays where that is so.
    let mut world = World::new(AdaptivePolicy::default());
    world.run_with_timeout(UPSTREAM, 10_000, 60);
    let before = world.limiter.limit();
    assert!(before >= 40, "{before}");
    let slow = Upstream { workers: 4.0, service: 0.5, ..UPSTREAM };
    world.run_with_timeout(slow, 10_000, 10);
    let answered = world.run_with_timeout(slow, 10_000, 60);
    assert!(answered >= 60 * 4, "{answered} of the 480 that it can do; limit {}", world.limiter.limit());
}

#[test]
fn after_a_short_collapse_the_limit_is_soon_back() {
    let mut world = World::new(AdaptivePolicy::default());
    world.run_with_timeout(UPSTREAM, 10_000, 60);
    let before = world.limiter.limit();
    world.run_with_timeout(Upstream { workers: 1.0, service: 2.0, ..UPSTREAM }, 10_000, 10);
    let low = world.limiter.limit();
    assert!(low <= before / 8, "{low} after {before}");
    // Step by step it would be a second for each call more.
    world.run_with_timeout(UPSTREAM, 10_000, 6);
    assert!(world.limiter.limit() >= before / 2, "{low}, {} after {before}", world.limiter.limit());
}

#[test]
fn callers_in_a_hurry_take_nobody_elses_places() {
    let mut world = World::new(AdaptivePolicy::default());
    world.run(UPSTREAM, 30, 60);
    let before = world.limiter.limit();
    for _ in 0..60_000 {
        world.now += Duration::from_millis(1);
        world.limiter.record_timeout(world.now, Duration::from_millis(1));
    }
    assert_eq!(world.limiter.limit(), before);
}

#[test]
fn a_few_timeouts_change_nothing() {
    let mut world = World::new(AdaptivePolicy::default());
    world.run(UPSTREAM, 30, 60);
    let before = world.limiter.limit();
    for _ in 0..200 {
        world.run(UPSTREAM, 30, 1);
        (0..10).for_each(|_| world.limiter.record_timeout(world.now, Duration::from_secs(1)));
    }
    assert!(world.limiter.limit() >= before, "{} after {before}", world.limiter.limit());
}
