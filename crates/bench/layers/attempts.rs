//! The layers of the attempt side.

use std::{convert::Infallible, sync::Arc, time::Duration};

use divan::Bencher;
use semel_core::policy::{breaker::BreakerPolicy, hedge::HedgePolicy, retry::RetryPolicy, throttle::ThrottlePolicy};
use semel_tower::policy::{BreakerLayer, HedgeLayer, RetryLayer, ThrottleLayer, TimeoutLayer};
use tower::{Layer as _, retry::budget::Budget as _};

use crate::harness::{AtOnce, Waits, calls};

const LONG: Duration = Duration::from_secs(60);

#[divan::bench]
fn nothing(bencher: Bencher<'_, '_>) {
    calls(bencher, AtOnce);
}

#[divan::bench]
fn nothing_waits(bencher: Bencher<'_, '_>) {
    calls(bencher, Waits);
}

#[divan::bench_group]
mod breaker {
    use super::*;

    #[divan::bench]
    fn semel(bencher: Bencher<'_, '_>) {
        calls(bencher, BreakerLayer::with_policy(BreakerPolicy::default()).layer(AtOnce));
    }

    #[divan::bench]
    fn tower_resilience(bencher: Bencher<'_, '_>) {
        let layer = tower_resilience_circuitbreaker::CircuitBreakerLayer::builder().build().expect("a breaker");
        calls(bencher, layer.layer(AtOnce));
    }
}

#[divan::bench_group]
mod timeout {
    use super::*;

    #[divan::bench]
    fn semel(bencher: Bencher<'_, '_>) {
        calls(bencher, TimeoutLayer::new(LONG).layer(AtOnce));
    }

    #[divan::bench]
    fn tower(bencher: Bencher<'_, '_>) {
        calls(bencher, ::tower::timeout::TimeoutLayer::new(LONG).layer(AtOnce));
    }

    #[divan::bench]
    fn tower_resilience(bencher: Bencher<'_, '_>) {
        let layer = tower_resilience_timelimiter::TimeLimiterLayer::builder().timeout_duration(LONG).build();
        calls(bencher, layer.layer(AtOnce));
    }

    #[divan::bench]
    fn tower_resilience_waits(bencher: Bencher<'_, '_>) {
        let layer = tower_resilience_timelimiter::TimeLimiterLayer::builder().timeout_duration(LONG).build();
        calls(bencher, layer.layer(Waits));
    }

    #[divan::bench]
    fn semel_waits(bencher: Bencher<'_, '_>) {
        calls(bencher, TimeoutLayer::new(LONG).layer(Waits));
    }

    #[divan::bench]
    fn tower_waits(bencher: Bencher<'_, '_>) {
        calls(bencher, ::tower::timeout::TimeoutLayer::new(LONG).layer(Waits));
    }
}

#[divan::bench_group]
mod hedge {
    use super::*;

    #[derive(Clone)]
    struct Always;

    impl ::tower::hedge::Policy<u64> for Always {
        fn clone_request(&self, request: &u64) -> Option<u64> {
            Some(*request)
        }

        fn can_retry(&self, _: &u64) -> bool {
            true
        }
    }

    #[divan::bench]
    fn semel(bencher: Bencher<'_, '_>) {
        calls(bencher, HedgeLayer::with_policy(HedgePolicy::default()).layer(AtOnce));
    }

    #[divan::bench]
    fn semel_waits(bencher: Bencher<'_, '_>) {
        calls(bencher, HedgeLayer::with_policy(HedgePolicy::default()).layer(Waits));
    }

    #[divan::bench]
    fn tower(bencher: Bencher<'_, '_>) {
        calls(bencher, ::tower::hedge::Hedge::new(AtOnce, Always, 100, 0.95, Duration::from_secs(30)));
    }

    #[divan::bench]
    fn tower_resilience(bencher: Bencher<'_, '_>) {
        let layer = tower_resilience_hedge::HedgeLayer::builder().delay(LONG).max_hedged_attempts(2).build();
        calls(bencher, layer.layer(AtOnce));
    }

    #[divan::bench]
    fn tower_waits(bencher: Bencher<'_, '_>) {
        calls(bencher, ::tower::hedge::Hedge::new(Waits, Always, 100, 0.95, Duration::from_secs(30)));
    }
}

#[divan::bench_group]
mod retry {
    use super::*;

    /// A policy that does as little as ours must at least: a budget.
    #[derive(Clone)]
    struct Budgeted(Arc<::tower::retry::budget::TpsBudget>);

    impl ::tower::retry::Policy<u64, u64, Infallible> for Budgeted {
        type Future = std::future::Ready<()>;

        fn retry(&mut self, _: &mut u64, result: &mut Result<u64, Infallible>) -> Option<Self::Future> {
            match result {
                Ok(_) => self.0.deposit(),
                Err(error) => match *error {},
            }
            None
        }

        fn clone_request(&mut self, request: &u64) -> Option<u64> {
            Some(*request)
        }
    }

    #[divan::bench]
    fn semel(bencher: Bencher<'_, '_>) {
        calls(bencher, RetryLayer::with_policy(RetryPolicy::default()).layer(AtOnce));
    }

    #[divan::bench]
    fn tower(bencher: Bencher<'_, '_>) {
        let policy = Budgeted(Arc::new(::tower::retry::budget::TpsBudget::default()));
        calls(bencher, ::tower::retry::RetryLayer::new(policy).layer(AtOnce));
    }
}

#[divan::bench]
fn throttle(bencher: Bencher<'_, '_>) {
    calls(bencher, ThrottleLayer::with_policy(ThrottlePolicy::default()).layer(AtOnce));
}
