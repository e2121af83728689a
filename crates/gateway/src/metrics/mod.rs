//! What the gateway counts, for Prometheus.
//!
//! A route's counters are found once, when the route is built; counting is an addition to an atomic of the own runtime.
//! Labels come from the configuration and from fixed lists of words, never from requests, so their number is bounded.

mod histogram;
mod route;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use semel_core::policy::admission::AdmissionState;

pub use self::route::{InFlight, Outcome, RouteMetrics, Stage};

use self::route::RouteSums;
use crate::clock;
use crate::listener::ListenerCounts;
use crate::resend::Resend;
use crate::upstream::{EndpointState, Upstream};

/// Routes that have series of their own, over all configurations since the start; later ones share one.
const ROUTES_MAX: usize = 1_000;
/// The route label of those over the bound.
const OTHER: &str = "other";

/// All counters of the gateway. Register it with a `prometheus_client` registry; it lives as long as the process.
#[derive(Debug, Default)]
pub struct Metrics {
    routes: Mutex<BTreeMap<Box<str>, Vec<Arc<RouteMetrics>>>>,
    upstreams: Mutex<BTreeMap<Box<str>, Vec<Weak<Upstream>>>>,
    budgets: Mutex<BTreeMap<Box<str>, Weak<Resend>>>,
    listener: Mutex<Option<Arc<ListenerCounts>>>,
}

impl Metrics {
    /// The counters of a route in one runtime (counted from 0). The same ones after a reload.
    #[must_use]
    pub fn route(&self, name: &str, runtime: usize) -> Arc<RouteMetrics> {
        let mut routes = lock(&self.routes);
        let name = if routes.contains_key(name) || routes.len() < ROUTES_MAX { name } else { OTHER };
        let parts = routes.entry(name.into()).or_default();
        if parts.len() <= runtime {
            parts.resize_with(runtime + 1, Arc::default);
        }
        Arc::clone(&parts[runtime])
    }

    /// Counts an upstream's connections for as long as it lives.
    pub fn watch_upstream(&self, name: &str, upstream: &Arc<Upstream>) {
        let mut upstreams = lock(&self.upstreams);
        let instances = upstreams.entry(name.into()).or_default();
        instances
            .retain(|instance| instance.strong_count() > 0 && !std::ptr::eq(instance.as_ptr(), &raw const **upstream));
        instances.push(Arc::downgrade(upstream));
    }

    /// Tells a route's retry budget for as long as the route lives.
    pub fn watch_budget(&self, route: &str, resend: &Arc<Resend>) {
        let mut budgets = lock(&self.budgets);
        if budgets.contains_key(route) || budgets.len() < ROUTES_MAX {
            budgets.insert(route.into(), Arc::downgrade(resend));
        }
    }

    /// Counts callers' connections.
    pub fn watch_listener(&self, counts: Arc<ListenerCounts>) {
        *lock(&self.listener) = Some(counts);
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let routes: Vec<_> = lock(&self.routes)
            .iter()
            .map(|(name, parts)| (name.clone(), RouteSums::of(parts.iter().map(|part| &**part))))
            .collect();
        encode_routes(&routes, &mut encoder)?;
        self.encode_budgets(&mut encoder)?;
        self.encode_upstreams(&mut encoder)?;
        let listener = lock(&self.listener).clone();
        listener.map_or(Ok(()), |counts| encode_listener(&counts, &mut encoder))
    }
}

impl Metrics {
    fn encode_budgets(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let mut budgets = lock(&self.budgets);
        budgets.retain(|_, resend| resend.strong_count() > 0);
        let budgets: Vec<_> =
            budgets.iter().filter_map(|(route, resend)| Some((route.clone(), resend.upgrade()?.budget().0))).collect();
        let mut family = Family::gauge(encoder, "semel_retry_budget_left", "Attempts that may be repeated now")?;
        for (route, left) in &budgets {
            family.gauge_value(&[("route", route)], i64::try_from(*left).unwrap_or(i64::MAX))?;
        }
        Ok(())
    }

    fn encode_upstreams(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let upstreams: Vec<(Box<str>, Vec<Arc<Upstream>>)> = {
            let mut upstreams = lock(&self.upstreams);
            upstreams.retain(|_, instances| instances.iter().any(|instance| instance.strong_count() > 0));
            let alive = |instances: &Vec<Weak<Upstream>>| instances.iter().filter_map(Weak::upgrade).collect();
            upstreams.iter().map(|(name, instances)| (name.clone(), alive(instances))).collect()
        };
        let firsts = || upstreams.iter().filter_map(|(name, instances)| Some((&**name, instances.first()?)));
        let now = clock::now();
        let mut family = Family::gauge(encoder, "semel_endpoint_state", "1 for the state that an endpoint is in")?;
        for (name, upstream) in firsts() {
            let states = upstream.intake().health().states(now);
            for (endpoint, state) in upstream.settings().endpoints.iter().zip(states) {
                let endpoint = endpoint.to_string();
                for known in EndpointState::ALL {
                    let labels = [("upstream", name), ("endpoint", &endpoint), ("state", known.as_str())];
                    family.gauge_value(&labels, i64::from(known == state))?;
                }
            }
        }
        type Gauge = (&'static str, &'static str, fn(&AdmissionState) -> i64);
        let gauges: [Gauge; 3] = [
            ("semel_admission_limit", "Calls that may be in flight", |state| state.limit.into()),
            ("semel_admission_in_flight", "Calls in flight", |state| state.in_flight.into()),
            ("semel_admission_queued", "Calls that wait for a place", |state| signed(state.queued)),
        ];
        let states: Vec<_> =
            firsts().filter_map(|(name, upstream)| Some((name, upstream.intake().gate()?.state()))).collect();
        for (metric, help, value) in gauges {
            let mut family = Family::gauge(encoder, metric, help)?;
            for (name, state) in &states {
                family.gauge_value(&[("upstream", name)], value(state))?;
            }
        }
        let help = "Share of attempts that are refused here because the upstream refuses so many, in percent";
        let mut family = Family::gauge(encoder, "semel_throttle_percent", help)?;
        for (name, upstream) in firsts() {
            if let Some(probability) = upstream.intake().rejection_probability() {
                family.gauge_value(&[("upstream", name)], (probability * 100.0).round() as i64)?;
            }
        }
        let mut family = Family::gauge(encoder, "semel_upstream_connections", "Open connections to an upstream")?;
        for (name, instances) in &upstreams {
            let each = instances.iter().map(|upstream| upstream.connections());
            let (open, idle) = each.fold((0, 0), |(open, idle), (o, i)| (open + o, idle + i));
            family.gauge_value(&[("upstream", name), ("state", "busy")], signed(open - idle))?;
            family.gauge_value(&[("upstream", name), ("state", "idle")], signed(idle))?;
        }
        Ok(())
    }
}

fn encode_routes(routes: &[(Box<str>, RouteSums)], encoder: &mut DescriptorEncoder) -> fmt::Result {
    type Words = fn(&RouteSums) -> Vec<(&'static str, u64)>;
    let counters: [(&str, &str, &str, Words); 3] = [
        ("semel_requests", "Requests by what became of them", "outcome", |sums| sums.outcomes().collect()),
        ("semel_responses", "Answers to callers by class of status", "status", |sums| sums.statuses().collect()),
        ("semel_attempts", "Attempts at upstreams by how they ended", "end", |sums| sums.attempts().collect()),
    ];
    for (name, help, label, words) in counters {
        let mut family = Family::counter(encoder, name, help)?;
        for (route, sums) in routes {
            for (word, count) in words(sums) {
                family.counter_value(&[("route", route), (label, word)], count)?;
            }
        }
    }
    let mut family = Family::counter(encoder, "semel_hedges", "Second attempts sent beside a slow first one")?;
    for (route, sums) in routes {
        family.counter_value(&[("route", route)], sums.hedges)?;
    }
    let mut family = Family::gauge(encoder, "semel_requests_in_flight", "Requests being served")?;
    for (route, sums) in routes {
        family.gauge_value(&[("route", route)], sums.in_flight)?;
    }
    let help = "Time of each stage of a request in seconds";
    let mut encoder = encoder.encode_descriptor("semel_stage_seconds", help, None, MetricType::Histogram)?;
    for (route, sums) in routes {
        for (stage, snapshot) in sums.stages() {
            let labels = [("route", &**route), ("stage", stage)];
            encoder.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                snapshot.sum_s(),
                snapshot.count(),
                &snapshot.buckets(),
                None,
            )?;
        }
    }
    Ok(())
}

fn encode_listener(counts: &ListenerCounts, encoder: &mut DescriptorEncoder) -> fmt::Result {
    let mut family = Family::gauge(encoder, "semel_connections", "Open connections of callers")?;
    family.0.encode_gauge(&signed(counts.open()))?;
    let mut family = Family::counter(encoder, "semel_connections_accepted", "Connections of callers accepted")?;
    family.0.encode_counter::<NoLabelSet, _, u64>(&counts.accepted(), None)?;
    let help = "Callers that were cut off or turned away before a request was whole, by reason";
    let mut family = Family::counter(encoder, "semel_connections_refused", help)?;
    for (reason, count) in counts.refused() {
        family.counter_value(&[("reason", reason)], count)?;
    }
    Ok(())
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A metric with labels, being written.
struct Family<'a>(prometheus_client::encoding::MetricEncoder<'a>);

impl<'a> Family<'a> {
    fn counter(encoder: &'a mut DescriptorEncoder, name: &'a str, help: &str) -> Result<Self, fmt::Error> {
        encoder.encode_descriptor(name, help, None, MetricType::Counter).map(Self)
    }

    fn gauge(encoder: &'a mut DescriptorEncoder, name: &'a str, help: &str) -> Result<Self, fmt::Error> {
        encoder.encode_descriptor(name, help, None, MetricType::Gauge).map(Self)
    }

    fn counter_value<const N: usize>(&mut self, labels: &[(&str, &str); N], count: u64) -> fmt::Result {
        self.0.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)
    }

    fn gauge_value<const N: usize>(&mut self, labels: &[(&str, &str); N], count: i64) -> fmt::Result {
        self.0.encode_family(labels)?.encode_gauge(&count)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section leaves the map whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;
    use prometheus_client::registry::Registry;
    use semel_core::evidence::{AttemptEnd, Lost};

    use super::*;

    fn text(metrics: &Arc<Metrics>) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(metrics)));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn runtimes_add_up() {
        let metrics = Arc::new(Metrics::default());
        for runtime in [0, 1, 1] {
            let route = metrics.route("POST /pay", runtime);
            let _in_flight = route.begin();
            route.attempt(&AttemptEnd::Lost(Lost::Timeout));
            route.outcome(Outcome::Failed);
            route.status(StatusCode::GATEWAY_TIMEOUT);
            route.stage(Stage::Total, Duration::from_millis(3));
        }
        metrics.watch_listener(Arc::default());
        let endpoint = std::net::SocketAddr::from(([127, 0, 0, 1], 1)).into();
        let upstream = Arc::new(Upstream::new(crate::upstream::UpstreamSettings::new(vec![endpoint])));
        metrics.watch_upstream("payments", &upstream);
        metrics.watch_upstream("payments", &upstream);
        let held = metrics.route("POST /pay", 0);
        let _in_flight = held.begin();
        let text = text(&metrics);
        for line in [
            "semel_requests_total{route=\"POST /pay\",outcome=\"upstream-failed\"} 3",
            "semel_responses_total{route=\"POST /pay\",status=\"5xx\"} 3",
            "semel_attempts_total{route=\"POST /pay\",end=\"lost-timeout\"} 3",
            "semel_requests_in_flight{route=\"POST /pay\"} 1",
            "semel_connections 0\n",
            "semel_connections_accepted_total 0\n",
            "semel_connections_refused_total{reason=\"malformed\"} 0",
            "semel_upstream_connections{upstream=\"payments\",state=\"idle\"} 0",
            "semel_stage_seconds_count{route=\"POST /pay\",stage=\"total\"} 3",
            "semel_stage_seconds_bucket{le=\"0.005\",route=\"POST /pay\",stage=\"total\"} 3",
            "semel_stage_seconds_bucket{le=\"0.0025\",route=\"POST /pay\",stage=\"total\"} 0",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        assert!(!text.contains("stage=\"claim\""), "stages without observations are left out");
    }

    #[test]
    fn routes_are_bounded() {
        let metrics = Metrics::default();
        for n in 0..ROUTES_MAX + 5 {
            metrics.route(&format!("GET /{n}"), 0).outcome(Outcome::Passed);
        }
        assert_eq!(lock(&metrics.routes).len(), ROUTES_MAX + 1);
    }
}
