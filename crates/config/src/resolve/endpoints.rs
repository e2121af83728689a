//! How much an upstream is given, and which of its endpoints. Nothing given, nothing is held back or left out.

use std::time::Duration;

use semel_core::policy::admission::adaptive::AdaptivePolicy;
use semel_core::policy::admission::{AdmissionPolicy, Concurrency, QueuePolicy};
use semel_core::policy::balance::BalancePolicy;
use semel_core::policy::breaker::BreakerPolicy;
use semel_core::policy::outlier::OutlierPolicy;
use semel_core::policy::throttle::ThrottlePolicy;

use super::values::Values;
use crate::effective::HealthCheck;
use crate::raw;
use crate::raw::policy::InFlightLimit;
use crate::raw::reader::At;
use crate::raw::value::{MaybeZero, Percent};

pub(super) fn breaker(raw: &raw::Breaker, values: &mut Values<'_>) -> BreakerPolicy {
    let d = BreakerPolicy::default();
    let open: Duration = values.choose("breaker.open", raw.open.as_ref(), d.open);
    BreakerPolicy {
        failure_rate: values.choose("breaker.failure_rate", raw.failure_rate.as_ref(), Percent(d.failure_rate)).0,
        window: values.choose("breaker.window", raw.window.as_ref(), d.window),
        requests_min: count(values, "breaker.min_calls", raw.min_calls.as_ref(), Some(d.requests_min)),
        consecutive_failures: Some(count(
            values,
            "breaker.consecutive",
            raw.consecutive.as_ref(),
            d.consecutive_failures,
        )),
        open,
        open_max: values.choose("breaker.open_max", raw.open_max.as_ref(), d.open_max).max(open),
        ..d
    }
}

pub(super) fn outlier(raw: &raw::Outlier, values: &mut Values<'_>) -> OutlierPolicy {
    let d = OutlierPolicy::default();
    let ejection = values.choose("outlier.ejection", raw.ejection.as_ref(), d.ejection);
    let share = Percent(d.ejected_share_max);
    OutlierPolicy {
        interval: values.choose("outlier.interval", raw.interval.as_ref(), d.interval),
        ejection,
        ejection_max: values.choose("outlier.ejection_max", raw.ejection_max.as_ref(), d.ejection_max).max(ejection),
        ejected_share_max: values.choose("outlier.max_ejected", raw.max_ejected.as_ref(), share).0,
        consecutive_failures: Some(count(
            values,
            "outlier.consecutive",
            raw.consecutive.as_ref(),
            d.consecutive_failures,
        )),
        requests_min: count(values, "outlier.min_calls", raw.min_calls.as_ref(), Some(d.requests_min)),
        hosts_min: values.choose("outlier.min_endpoints", raw.min_endpoints.as_ref(), d.hosts_min),
        ..d
    }
}

pub(super) fn balance(raw: Option<&raw::Balance>, values: &mut Values<'_>) -> BalancePolicy {
    let d = BalancePolicy::default();
    let slow_start = raw.and_then(|b| b.slow_start.as_ref());
    let panic = raw.and_then(|b| b.panic.as_ref());
    BalancePolicy {
        slow_start: values.choose("balance.slow_start", slow_start, MaybeZero(d.slow_start)).0,
        panic_threshold: values.choose("balance.panic", panic, Percent(d.panic_threshold)).0,
    }
}

pub(super) fn admission(raw: &raw::Admission, values: &mut Values<'_>) -> AdmissionPolicy {
    let (adaptive, queue) = (AdaptivePolicy::default(), QueuePolicy::default());
    let limit = values.choose("admission.limit", raw.limit.as_ref(), InFlightLimit::Adaptive);
    let wait = values.choose("admission.wait", raw.wait.as_ref(), MaybeZero(queue.wait_max)).0;
    let concurrency = match limit {
        InFlightLimit::Fixed(limit) => Concurrency::Fixed(limit),
        InFlightLimit::Adaptive => {
            let limit_max = count(values, "admission.limit_max", raw.limit_max.as_ref(), Some(adaptive.limit_max));
            let healthy = raw.healthy_latency.as_ref();
            Concurrency::Adaptive(AdaptivePolicy {
                limit_max,
                limit_initial: adaptive.limit_initial.min(limit_max),
                max_healthy_rtt: healthy.map(|at| values.choose("admission.healthy_latency", Some(at), at.value)),
                ..adaptive
            })
        }
    };
    let queue = QueuePolicy {
        wait_max: wait,
        standing_wait_max: queue.standing_wait_max.min(wait),
        // Nobody waits for no time.
        shed_from: if wait.is_zero() { 0.0 } else { queue.shed_from },
        shed_all: if wait.is_zero() { 0.0 } else { queue.shed_all },
    };
    AdmissionPolicy { concurrency, queue }
}

pub(super) fn throttle(raw: &raw::Throttle, values: &mut Values<'_>) -> ThrottlePolicy {
    let d = ThrottlePolicy::default();
    ThrottlePolicy {
        accept_rate: values.choose("throttle.accept_rate", raw.accept_rate.as_ref(), Percent(d.accept_rate)).0,
        window: values.choose("throttle.window", raw.window.as_ref(), d.window),
        rejection_max: values.choose("throttle.max_refused", raw.max_refused.as_ref(), Percent(d.rejection_max)).0,
        requests_min: count(values, "throttle.min_calls", raw.min_calls.as_ref(), Some(d.requests_min)),
        ..d
    }
}

pub(super) fn health(raw: &raw::Health, values: &mut Values<'_>) -> Option<HealthCheck> {
    let path = raw.path.as_ref()?;
    Some(HealthCheck {
        path: values.choose("health.path", Some(path), path.value.clone()).0,
        interval: values.choose("health.interval", raw.interval.as_ref(), Duration::from_secs(5)),
        timeout: values.choose("health.timeout", raw.timeout.as_ref(), Duration::from_secs(1)),
        healthy: values.choose("health.healthy", raw.healthy.as_ref(), 2),
        unhealthy: values.choose("health.unhealthy", raw.unhealthy.as_ref(), 3),
    })
}

fn count(values: &mut Values<'_>, key: &'static str, raw: Option<&At<usize>>, default: Option<u32>) -> u32 {
    let default = default.and_then(|count| count.try_into().ok()).unwrap_or(usize::MAX);
    values.choose(key, raw, default).try_into().unwrap_or(u32::MAX)
}
