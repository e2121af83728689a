//! All runtimes' gateways, which change over to another configuration together.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use semel_config::{Config, Route};
use semel_tower::{Effects, Observe};

use crate::metrics::Metrics;
use crate::site::{Resolved, Shared, Site};
use crate::stack::Gateway;
use crate::upstream::{Endpoint, Intake};

/// Makes who is told what became of a route's effects.
pub type Observers = Arc<dyn Fn(&Route) -> Arc<dyn Observe> + Send + Sync>;

/// One gateway for each runtime, and what they all serve.
pub(crate) struct Fleet {
    gateways: Vec<Arc<Gateway>>,
    effects: Effects,
    observers: Observers,
    metrics: Arc<Metrics>,
    current: Mutex<Current>,
}

struct Current {
    shared: Arc<Shared>,
    resolved: Resolved,
}

impl Fleet {
    pub(crate) fn new(config: Arc<Config>, effects: Effects, observers: Observers, runtimes: usize) -> Self {
        let (metrics, resolved) = (Arc::new(Metrics::default()), Resolved::default());
        let shared = Arc::new(Shared::new(config, Arc::clone(&metrics), &*observers, &resolved, None));
        let gateways = (0..runtimes)
            .map(|runtime| {
                let site = Site::new(Arc::clone(&shared), &effects, runtime, runtimes, None);
                Arc::new(Gateway::new(site, effects.clone()))
            })
            .collect();
        Self { gateways, effects, observers, metrics, current: Mutex::new(Current { shared, resolved }) }
    }

    pub(crate) fn gateway(&self, runtime: usize) -> &Arc<Gateway> {
        &self.gateways[runtime]
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// What all runtimes share now.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.lock().shared)
    }

    /// What all runtimes share now of an upstream.
    pub(crate) fn intake(&self, upstream: &str) -> Option<Arc<Intake>> {
        self.lock().shared.intake(upstream).cloned()
    }

    /// Serves another configuration. Where an upstream's urls stay, so does what its names led to.
    pub(crate) fn reload(&self, config: Arc<Config>) {
        // Held to the end, so that of two changes all runtimes get the same one last.
        let mut current = self.lock();
        let urls = |config: &Config, name: &str| {
            config.upstreams.iter().find(|upstream| upstream.name == name).map(|upstream| upstream.endpoints.clone())
        };
        let old = Arc::clone(&current.shared.config);
        current.resolved.retain(|name, _| urls(&old, name) == urls(&config, name));
        self.change(&mut current, config);
    }

    /// The names of this upstream's urls lead to these endpoints, as long as `config` is in force.
    pub(crate) fn lead(&self, config: &Arc<Config>, upstream: &str, endpoints: Vec<Endpoint>) {
        let mut current = self.lock();
        if Arc::ptr_eq(&current.shared.config, config) {
            current.resolved.insert(upstream.to_owned(), endpoints);
            self.change(&mut current, Arc::clone(config));
        }
    }

    fn change(&self, current: &mut Current, config: Arc<Config>) {
        let (former, metrics) = (Arc::clone(&current.shared), Arc::clone(&self.metrics));
        let shared = Arc::new(Shared::new(config, metrics, &*self.observers, &current.resolved, Some(&former)));
        for (runtime, gateway) in self.gateways.iter().enumerate() {
            let former = gateway.site();
            let site = Site::new(Arc::clone(&shared), &self.effects, runtime, self.gateways.len(), Some(&former));
            gateway.replace(site);
        }
        current.shared = shared;
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
