//! The decisions themselves, without a service: what each thread does to state that all share.

use std::{
    num::NonZero,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use divan::{Bencher, black_box};
use semel_core::policy::{
    balance::{BalancePolicy, Balancer},
    breaker::{Breaker, BreakerPolicy},
    budget::WindowBudget,
    endpoint::Endpoint,
    hedge::Latencies,
    outlier::OutlierPolicy,
    response_class::ResponseClass,
    retry::Pushback,
    throttle::{Throttle, ThrottlePolicy},
};

const THREADS: [usize; 2] = [1, 2];

#[expect(clippy::disallowed_methods, reason = "the clock is part of what is measured, and read in this one place")]
fn now() -> Instant {
    Instant::now()
}

#[divan::bench]
fn clock() -> Instant {
    now()
}

#[divan::bench(threads = THREADS)]
fn breaker(bencher: Bencher<'_, '_>) {
    let (breaker, start) = (Breaker::new(BreakerPolicy::default(), now(), 1), now());
    bencher.bench(|| {
        let permit = Breaker::try_acquire(&breaker, black_box(start)).expect("closed");
        permit.record(ResponseClass::Success, black_box(start));
    });
}

#[divan::bench(threads = THREADS)]
fn breaker_with_clock(bencher: Bencher<'_, '_>) {
    let breaker = Breaker::new(BreakerPolicy::default(), now(), 1);
    bencher.bench(|| {
        let permit = Breaker::try_acquire(&breaker, now()).expect("closed");
        permit.record(ResponseClass::Success, now());
    });
}

#[divan::bench(threads = THREADS)]
fn budget_call(bencher: Bencher<'_, '_>) {
    let (budget, start) = (WindowBudget::new(now(), 0.2, 10), now());
    bencher.bench(|| budget.record_call(black_box(start)));
}

#[divan::bench(threads = THREADS)]
fn budget_reserve(bencher: Bencher<'_, '_>) {
    let (budget, start) = (WindowBudget::new(now(), 10.0, u32::MAX), now());
    bencher.bench(|| budget.try_reserve(black_box(start)));
}

#[divan::bench(threads = THREADS)]
fn throttle(bencher: Bencher<'_, '_>) {
    let (throttle, start) = (Throttle::new(ThrottlePolicy::default(), now()), now());
    bencher.bench(|| {
        let permit = Throttle::try_acquire(&throttle, black_box(start), 0.5).expect("let through");
        permit.record(ResponseClass::Success, black_box(start));
    });
}

#[divan::bench(threads = THREADS)]
fn latency(bencher: Bencher<'_, '_>) {
    let (latencies, start) = (Latencies::new(now(), Duration::from_secs(60)), now());
    bencher.bench(|| latencies.record(black_box(Duration::from_millis(7)), black_box(start)));
}

#[divan::bench(args = [1, 3, 10, 100], threads = THREADS)]
fn pick(bencher: Bencher<'_, '_>, count: u64) {
    let start = now();
    let outlier = OutlierPolicy::default();
    let endpoints: Vec<_> =
        (0..count).map(|seed| Endpoint::new(BreakerPolicy::default(), &outlier, start, seed)).collect();
    let endpoints: Vec<_> = endpoints.iter().collect();
    let balancer = Balancer::new(BalancePolicy::default(), outlier, start);
    let (draws, later) = (AtomicU64::new(0), start + Duration::from_secs(5));
    bencher.bench(|| {
        let rand = draws.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut picked = balancer.pick(&endpoints, |_| false, black_box(later), rand).expect("all are well");
        picked.lease.record(ResponseClass::Success, Pushback::Unsaid, black_box(later));
    });
}

#[divan::bench(threads = THREADS)]
fn governor_keyed(bencher: Bencher<'_, '_>) {
    let quota = governor::Quota::per_second(NonZero::<u32>::MAX);
    let limiter = governor::RateLimiter::keyed(quota);
    bencher.bench(|| limiter.check_key(&black_box(7_u64)).is_ok());
}
