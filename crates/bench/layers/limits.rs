//! The layers that bound how much is taken on.

use std::{convert::Infallible, num::NonZero, sync::Arc, time::Duration};

use divan::Bencher;
use governor::{DefaultKeyedRateLimiter, Quota as Cells, RateLimiter as Governor};
use semel_core::policy::{
    admission::{AdmissionPolicy, Concurrency},
    rate_limit::{KEYS_MAX, LimitPolicy, Quota, Reach},
};
use semel_tower::policy::{AdmissionLayer, BulkheadLayer, RateLimitLayer};
use tower::{Layer as _, limit::ConcurrencyLimitLayer, limit::RateLimitLayer as TowerRateLimitLayer, service_fn};

use crate::harness::{AtOnce, calls};

#[divan::bench_group]
mod rate_limit {
    use super::*;

    fn limit(reach: Reach, quota: Quota) -> LimitPolicy {
        LimitPolicy { name: "limit".to_owned(), quota, reach }
    }

    fn bucket() -> Quota {
        Quota::bucket(1_000_000_000, Duration::from_secs(1), 1_000_000_000).expect("a quota")
    }

    fn of(limits: Vec<LimitPolicy>) -> RateLimitLayer<u64, fn(&u64) -> u64> {
        RateLimitLayer::new(limits, (|key| *key) as fn(&u64) -> u64).expect("limits")
    }

    #[divan::bench]
    fn semel_keyed(bencher: Bencher<'_, '_>) {
        calls(bencher, of(vec![limit(Reach::PerKey { keys_max: KEYS_MAX }, bucket())]).layer(AtOnce));
    }

    #[divan::bench]
    fn semel_keyed_window(bencher: Bencher<'_, '_>) {
        let window = Quota::window(1_000_000_000, Duration::from_secs(1)).expect("a quota");
        calls(bencher, of(vec![limit(Reach::PerKey { keys_max: KEYS_MAX }, window)]).layer(AtOnce));
    }

    #[divan::bench]
    fn semel_keyed_and_global(bencher: Bencher<'_, '_>) {
        let limits = vec![limit(Reach::PerKey { keys_max: KEYS_MAX }, bucket()), limit(Reach::Global, bucket())];
        calls(bencher, of(limits).layer(AtOnce));
    }

    #[divan::bench]
    fn semel_global(bencher: Bencher<'_, '_>) {
        calls(bencher, of(vec![limit(Reach::Global, bucket())]).layer(AtOnce));
    }

    /// The least that a service around governor's keyed limiter does.
    #[divan::bench]
    fn governor_keyed(bencher: Bencher<'_, '_>) {
        let limiter: Arc<DefaultKeyedRateLimiter<u64>> =
            Arc::new(Governor::keyed(Cells::per_second(NonZero::<u32>::MAX)));
        let service = service_fn(move |key: u64| {
            let is_refused = limiter.check_key(&key).is_err();
            assert!(!is_refused, "the quota is large");
            std::future::ready(Ok::<_, Infallible>(key))
        });
        calls(bencher, service);
    }

    /// On the clock that we read, too.
    #[divan::bench]
    fn governor_keyed_std_clock(bencher: Bencher<'_, '_>) {
        let quota = Cells::per_second(NonZero::<u32>::MAX);
        let state = governor::state::keyed::DashMapStateStore::<u64>::default();
        type Plain = governor::middleware::NoOpMiddleware<std::time::Instant>;
        let limiter = Arc::new(Governor::<_, _, _, Plain>::new(quota, state, governor::clock::MonotonicClock));
        let service = service_fn(move |key: u64| {
            let is_refused = limiter.check_key(&key).is_err();
            assert!(!is_refused, "the quota is large");
            std::future::ready(Ok::<_, Infallible>(key))
        });
        calls(bencher, service);
    }

    /// Not keyed.
    #[divan::bench]
    fn tower_resilience(bencher: Bencher<'_, '_>) {
        let layer = tower_resilience_ratelimiter::RateLimiterLayer::builder()
            .limit_for_period(1_000_000_000)
            .refresh_period(Duration::from_secs(1))
            .build()
            .expect("a limit");
        calls(bencher, layer.layer(AtOnce));
    }

    /// Neither keyed nor shared: each clone has a limit of its own.
    #[divan::bench]
    fn tower(bencher: Bencher<'_, '_>) {
        calls(bencher, TowerRateLimitLayer::new(u64::MAX, Duration::from_secs(3_600)).layer(AtOnce));
    }
}

#[divan::bench_group]
mod concurrency {
    use super::*;

    fn admission(concurrency: Concurrency) -> AdmissionLayer {
        AdmissionLayer::new(AdmissionPolicy { concurrency, ..AdmissionPolicy::default() })
    }

    #[divan::bench]
    fn semel_bulkhead(bencher: Bencher<'_, '_>) {
        calls(bencher, BulkheadLayer::new(100).until_answer().layer(AtOnce));
    }

    #[divan::bench]
    fn semel_admission_fixed(bencher: Bencher<'_, '_>) {
        calls(bencher, admission(Concurrency::Fixed(100)).until_answer().layer(AtOnce));
    }

    #[divan::bench]
    fn semel_admission_adaptive(bencher: Bencher<'_, '_>) {
        calls(bencher, admission(Concurrency::default()).until_answer().layer(AtOnce));
    }

    #[divan::bench]
    fn tower(bencher: Bencher<'_, '_>) {
        calls(bencher, ConcurrencyLimitLayer::new(100).layer(AtOnce));
    }
    #[divan::bench]
    fn tower_resilience(bencher: Bencher<'_, '_>) {
        let layer = tower_resilience_bulkhead::BulkheadLayer::builder().max_concurrent_calls(100).build();
        calls(bencher, layer.expect("a bulkhead").layer(AtOnce));
    }
}
