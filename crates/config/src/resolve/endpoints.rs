//! How an upstream's endpoints are chosen and left out. Nothing given, nothing is left out.

use std::time::Duration;

use semel_core::policy::balance::BalancePolicy;
use semel_core::policy::breaker::BreakerPolicy;
use semel_core::policy::outlier::OutlierPolicy;

use super::values::Values;
use crate::raw;
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

fn count(values: &mut Values<'_>, key: &'static str, raw: Option<&At<usize>>, default: Option<u32>) -> u32 {
    let default = default.and_then(|count| count.try_into().ok()).unwrap_or(usize::MAX);
    values.choose(key, raw, default).try_into().unwrap_or(u32::MAX)
}
