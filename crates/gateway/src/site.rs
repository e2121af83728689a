//! A configuration made ready to serve: upstreams with their pools, routes with their policies.
//!
//! Each runtime has a [`Site`] of its own, because connections never change threads; what a route must count over all
//! runtimes (its retry budget, its metrics) is in [`Shared`] and made once for each configuration.

use std::collections::HashMap;
use std::sync::Arc;

use semel_config::{Config, Effect, Route};
use semel_tower::{Effects, Observe};

use crate::buffer::Memory;
use crate::clock;
use crate::cors::Cors;
use crate::headers::forwarded::TrustedPeers;
use crate::metrics::{Metrics, RouteMetrics};
use crate::once::Once;
use crate::rate::{LimitedCaller, Rates};
use crate::resend::{Resend, Resending};
use crate::upstream::{Endpoint, Intake, Upstream, UpstreamSettings};

/// The route label of requests that found no route.
const UNMATCHED: &str = "unmatched";

/// Where the names of an upstream's urls lead to, by the upstream's name.
pub type Resolved = HashMap<String, Vec<Endpoint>>;

/// What all runtimes have in common under one configuration.
pub struct Shared {
    /// The configuration.
    pub config: Arc<Config>,
    /// Whose forwarding and principal headers are believed.
    pub trusted: TrustedPeers,
    metrics: Arc<Metrics>,
    memory: Memory,
    per_route: Vec<PerRoute>,
    /// What all runtimes share of each upstream.
    intakes: HashMap<String, Arc<Intake>>,
}

/// What all runtimes count together for one route.
struct PerRoute {
    resend: Arc<Resend>,
    observer: Arc<dyn Observe>,
    rates: Option<Arc<Rates>>,
}

/// One runtime's view of a configuration.
pub struct Site {
    /// What it has in common with the others.
    pub shared: Arc<Shared>,
    /// Counts requests that found no route.
    pub unmatched: Arc<RouteMetrics>,
    routes: Vec<RouteStack>,
    upstreams: HashMap<String, Arc<Upstream>>,
}

/// One route, ready.
pub struct RouteStack {
    /// What it does with a request.
    pub path: Path,
    /// How often its callers may ask.
    pub rates: Option<Arc<Rates>>,
    /// How it answers browsers.
    pub cors: Option<Cors>,
    /// The way to its upstream; an OPTIONS that no route names takes it too.
    pub resending: Resending,
    /// What it counts in this runtime.
    pub metrics: Arc<RouteMetrics>,
    /// The route as configured.
    pub config: Arc<Route>,
}

/// The ways through the gateway.
pub enum Path {
    /// Streamed both ways, one attempt, nothing remembered.
    Forward,
    /// Buffered and repeated where that is safe by itself.
    Resend,
    /// Claimed, attempted, settled once.
    Once(Box<Once>),
}

impl Shared {
    /// For this configuration; `observer` makes who else is told what became of a route's effects. What `former` counted
    /// goes on where it still means the same; `resolved` says where upstreams' names lead to.
    #[must_use]
    pub fn new(
        config: Arc<Config>,
        metrics: Arc<Metrics>,
        observer: &dyn Fn(&Route) -> Arc<dyn Observe>,
        resolved: &Resolved,
        former: Option<&Self>,
    ) -> Self {
        let trusted = TrustedPeers::new(config.trusted_proxies.clone());
        let per_route = |route: &Arc<Route>| {
            let former = former.and_then(|former| former.same(route));
            PerRoute {
                // Its budget is what must not begin anew because an address has changed.
                resend: match former {
                    Some((old, per_route)) if attempts_alike(old, route) => Arc::clone(&per_route.resend),
                    _ => Arc::new(Resend::new(route)),
                },
                observer: observer(route),
                rates: match former {
                    Some((old, per_route)) if old.rates == route.rates => per_route.rates.clone(),
                    _ => Rates::new(&route.rates).map(Arc::new),
                },
            }
        };
        let per_route: Vec<_> = config.routes.iter().map(per_route).collect();
        for (route, PerRoute { resend, .. }) in config.routes.iter().zip(&per_route) {
            metrics.watch_budget(&route.name, resend);
        }
        let same_memory = |former: &&Self| former.config.limits.buffered_bytes_max == config.limits.buffered_bytes_max;
        let memory = match former.filter(same_memory) {
            // What calls under way have taken counts.
            Some(former) => former.memory.clone(),
            None => Memory::new(config.limits.buffered_bytes_max),
        };
        let intake = |upstream: &Arc<semel_config::Upstream>| {
            let mut settings = UpstreamSettings::from(&**upstream);
            if let Some(endpoints) = resolved.get(&upstream.name) {
                settings.endpoints.clone_from(endpoints);
            }
            let former = former.and_then(|former| former.intakes.get(&upstream.name));
            let intake = match former {
                Some(former) if *former.settings() == settings => Arc::clone(former),
                _ => Arc::new(Intake::new(settings, former.map(|former| &**former))),
            };
            if upstream.health.is_none() {
                // Nobody asks any more, so nobody would take it back.
                intake.health().endpoints().iter().for_each(|endpoint| endpoint.set_up(true, clock::now()));
            }
            (upstream.name.clone(), intake)
        };
        let intakes = config.upstreams.iter().map(intake).collect();
        Self { config, trusted, metrics, memory, per_route, intakes }
    }

    fn same(&self, route: &Route) -> Option<(&Arc<Route>, &PerRoute)> {
        self.config.routes.iter().zip(&self.per_route).find(|(old, _)| old.name == route.name)
    }

    /// What all runtimes share of this upstream.
    #[must_use]
    pub fn intake(&self, upstream: &str) -> Option<&Arc<Intake>> {
        self.intakes.get(upstream)
    }

    /// Callers over a rate limit, of all routes, most often refused first, at most `count_max` of them.
    #[must_use]
    pub fn limited(&self, count_max: usize) -> Vec<LimitedCaller> {
        let each = self.config.routes.iter().zip(&self.per_route);
        let each =
            each.filter_map(|(route, per_route)| Some(per_route.rates.as_ref()?.limited(&route.name, count_max)));
        let mut limited: Vec<_> = each.flatten().collect();
        limited.sort_by_key(|one| std::cmp::Reverse(one.refused));
        limited.truncate(count_max);
        limited
    }
}

/// Whether a route's attempts are made as they were: its budget and latencies go on then.
fn attempts_alike(old: &Route, new: &Route) -> bool {
    let how = |route: &Route| (route.retry, route.timeout, route.hedge, route.priority);
    how(old) == how(new) && old.fault == new.fault && old.idempotency == new.idempotency
}

impl Site {
    /// The view of runtime number `runtime`, one of `runtimes`. Upstreams that `former` had with the same settings keep their
    /// connections.
    #[must_use]
    pub fn new(shared: Arc<Shared>, effects: &Effects, runtime: usize, runtimes: usize, former: Option<&Self>) -> Self {
        let upstreams: HashMap<_, _> = shared
            .config
            .upstreams
            .iter()
            .map(|config| {
                let intake = &shared.intakes[&config.name];
                let kept = former
                    .and_then(|former| former.upstreams.get(&config.name))
                    .filter(|upstream| Arc::ptr_eq(upstream.intake(), intake));
                let former = former.and_then(|former| former.upstreams.get(&config.name)).map(|former| &**former);
                let upstream =
                    kept.cloned().unwrap_or_else(|| Arc::new(Upstream::sharing(Arc::clone(intake), runtimes, former)));
                shared.metrics.watch_upstream(&config.name, &upstream);
                (config.name.clone(), upstream)
            })
            .collect();
        let routes = shared
            .config
            .routes
            .iter()
            .map(|route| {
                let upstream = Arc::clone(&upstreams[&route.upstream.name]);
                let PerRoute { resend, observer, rates } = &shared.per_route[route.index];
                let resend = Arc::clone(resend);
                let metrics = shared.metrics.route(&route.name, runtime);
                let resending = Resending {
                    resend,
                    upstream,
                    metrics: Arc::clone(&metrics),
                    memory: shared.memory.clone(),
                    stream_bytes_max: shared.config.limits.body_bytes_max,
                };
                let path = match (route.effect, &route.idempotency) {
                    (Effect::Once, Some(idempotency)) => Path::Once(Box::new(Once::new(
                        route,
                        idempotency,
                        resending.clone(),
                        effects.clone(),
                        Arc::clone(observer),
                    ))),
                    (Effect::Idempotent | Effect::Read, _) => Path::Resend,
                    (Effect::Forward | Effect::Once, _) => Path::Forward,
                };
                let key_headers = match &path {
                    Path::Once(once) => once.key_headers(),
                    Path::Resend | Path::Forward => Vec::new(),
                };
                let cors = route.cors.as_ref().map(|cors| Cors::new(cors, &key_headers));
                RouteStack { path, cors, rates: rates.clone(), resending, metrics, config: Arc::clone(route) }
            })
            .collect();
        let unmatched = shared.metrics.route(UNMATCHED, runtime);
        Self { shared, unmatched, routes, upstreams }
    }

    /// The route with this number in the configuration.
    #[must_use]
    pub fn route(&self, index: usize) -> &RouteStack {
        &self.routes[index]
    }
}
