//! Every layer keeps the contract of a tower service, alone and with others.

mod inner;
mod losers;
mod storm;
mod suite;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use semel_core::policy::{
    admission::{AdmissionPolicy, Concurrency},
    breaker::BreakerPolicy,
    fault::FaultPolicy,
    hedge::HedgePolicy,
    rate_limit::{LimitPolicy, Quota, Reach},
    retry::RetryPolicy,
    throttle::ThrottlePolicy,
};
use semel_tower::policy::{
    AdmissionLayer, Balance, BreakerLayer, BulkheadLayer, ByStatus, DeadlineLayer, FaultLayer, HedgeLayer, HttpRepeat,
    Policies, ProblemLayer, RateLimitLayer, RetryLayer, ThrottleLayer, TimeoutLayer,
};
use tower::{Layer, layer::layer_fn};

use crate::{
    inner::{Inner, Req},
    suite::{Held, Subject, Suite},
};

const S: fn(u64) -> Duration = Duration::from_secs;

/// A layer that holds no places.
macro_rules! plain {
    ($name:ident, $layer:expr) => {
        suite!($name, Suite { make: || ($layer, Box::new(|| 0)), places: 0, fails: true, waits_in_call: false });
    };
}

macro_rules! suite {
    ($name:ident, $suite:expr) => {
        mod $name {
            use super::*;

            #[tokio::test(start_paused = true)]
            async fn keeps_the_contract() {
                $suite.run().await;
            }

            #[test]
            fn weathers_a_storm() {
                $suite.weathers_a_storm();
            }
        }
    };
}

plain!(breaker, BreakerLayer::<ByStatus>::from(BreakerPolicy::default()));
plain!(throttle, ThrottleLayer::<ByStatus>::from(ThrottlePolicy::default()));
plain!(retry, RetryLayer::http(RetryPolicy::default()));
plain!(hedge, hedge_layer());
plain!(timeout, TimeoutLayer::new(S(1)));
plain!(deadline, DeadlineLayer::new(S(1)));
plain!(rate_limit, rate_limit_layer());
plain!(fault, FaultLayer::new(FaultPolicy::default()));
suite!(
    problem,
    Suite { make: || (ProblemLayer::default(), Box::new(|| 0)), places: 0, fails: false, waits_in_call: false }
);
suite!(bulkhead, Suite { make: bulkhead_layer, places: 1, fails: true, waits_in_call: false });
suite!(
    admission,
    Suite { make: || admission_layer(Concurrency::Fixed(1)), places: 1, fails: true, waits_in_call: false }
);
suite!(
    adaptive_admission,
    Suite { make: || admission_layer(Concurrency::default()), places: 1, fails: true, waits_in_call: false }
);

suite!(everything, Suite { make: everything_layer, places: 2, fails: true, waits_in_call: false });
suite!(everything_of_a_server, Suite { make: server_layer, places: 1, fails: false, waits_in_call: false });

suite!(balance, Suite { make: balanced, places: 1, fails: true, waits_in_call: true });

/// Two endpoints, which are the same service.
fn balanced() -> (impl Layer<Inner, Service: Subject>, Held) {
    let made = Arc::new(OnceLock::<Balance<Inner>>::new());
    let watched = Arc::clone(&made);
    let in_flight = |balance: &Balance<_>| balance.endpoints().iter().map(|endpoint| endpoint.load().in_flight()).sum();
    let layer = layer_fn(move |inner: Inner| made.get_or_init(|| Balance::http([inner.clone(), inner])).clone());
    (layer, Box::new(move || watched.get().map_or(0, in_flight)))
}

/// All that stands together in a client.
fn everything_layer() -> (impl Layer<Inner, Service: Subject>, Held) {
    let ((bulkhead, taken), (admission, admitted)) = (bulkhead_layer(), admission_layer(Concurrency::Fixed(2)));
    let policies = Policies::http()
        .deadline(S(60))
        .rate_limit(rate_limit_layer())
        .admission_by(admission)
        .total_timeout(S(30))
        .retry(RetryPolicy::default())
        .hedge(HedgePolicy { samples_min: 1, ..HedgePolicy::default() })
        .attempt_timeout(S(1))
        .fault(FaultPolicy::default())
        .throttle(ThrottlePolicy::default())
        .breaker(BreakerPolicy::default())
        .bulkhead(bulkhead);
    (policies, Box::new(move || taken() + admitted()))
}

/// And in a server.
fn server_layer() -> (impl Layer<Inner, Service: Subject>, Held) {
    let (admission, admitted) = admission_layer(Concurrency::Fixed(2));
    let policies = Policies::http().answering().deadline(S(60)).rate_limit(rate_limit_layer()).admission_by(admission);
    (policies, admitted)
}

fn bulkhead_layer() -> (BulkheadLayer, Held) {
    let layer = BulkheadLayer::new(2);
    let bulkhead = Arc::clone(layer.bulkhead());
    (layer, Box::new(move || bulkhead.taken()))
}

fn admission_layer(concurrency: Concurrency) -> (AdmissionLayer, Held) {
    let layer = AdmissionLayer::new(AdmissionPolicy { concurrency, ..AdmissionPolicy::default() });
    let watched = layer.clone();
    (layer, Box::new(move || watched.state().in_flight + watched.state().queued as u32))
}

fn rate_limit_layer() -> RateLimitLayer<(), fn(&Req)> {
    let quota = Quota::bucket(1_000, S(1), 100).unwrap();
    let all = LimitPolicy { name: "all".to_owned(), quota, reach: Reach::Global };
    RateLimitLayer::new(vec![all], (|_| ()) as fn(&Req)).unwrap()
}

/// One that knows latencies, so that it hedges what takes longer than 10 ms.
fn hedge_layer() -> HedgeLayer<HttpRepeat> {
    let policy = HedgePolicy { samples_min: 1, window: suite::LONG, ..HedgePolicy::default() };
    let layer = HedgeLayer::http(policy);
    let latencies = layer.latencies();
    losers::fill(latencies);
    layer
}
