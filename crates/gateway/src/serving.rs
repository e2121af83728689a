//! A gateway at work: one runtime per core, one configuration at a time.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use semel_config::{Config, Route};
use semel_tower::{Effects, Observe};

use crate::listener::{ListenError, Listener, ListenerSettings, Running};
use crate::metrics::Metrics;
use crate::rate::LimitedCaller;
use crate::site::{Shared, Site};
use crate::stack::Gateway;

/// Makes who is told what became of a route's effects.
pub type Observers = Arc<dyn Fn(&Route) -> Arc<dyn Observe> + Send + Sync>;

/// A gateway that listens.
pub struct Serving {
    gateways: Vec<Arc<Gateway>>,
    effects: Effects,
    observers: Observers,
    metrics: Arc<Metrics>,
    config: Mutex<Arc<Config>>,
    running: Running,
}

/// Why a gateway cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Its address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A thread or its runtime could not be made.
    #[error("a runtime cannot be started")]
    Runtime(#[source] io::Error),
}

impl Serving {
    /// Listens and serves.
    ///
    /// # Errors
    /// If the address cannot be listened on, or a thread cannot be made.
    pub fn start(config: Arc<Config>, effects: Effects, observers: Observers) -> Result<Self, ServeError> {
        let settings = ListenerSettings::from(&*config);
        let runtimes = settings.runtimes.max(1);
        let listener = Listener::bind(settings)?;
        let metrics = Arc::new(Metrics::default());
        let shared = Arc::new(Shared::new(Arc::clone(&config), Arc::clone(&metrics), &*observers));
        let gateways: Vec<_> = (0..runtimes)
            .map(|runtime| {
                let site = Site::new(Arc::clone(&shared), &effects, runtime, runtimes, None);
                Arc::new(Gateway::new(site, effects.clone()))
            })
            .collect();
        let handlers = gateways.clone();
        let running = listener.start(move |number| Arc::clone(&handlers[number])).map_err(ServeError::Runtime)?;
        metrics.watch_listener(Arc::clone(running.counts()));
        Ok(Self { gateways, effects, observers, metrics, config: Mutex::new(config), running })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.running.address()
    }

    /// What it counts: to be registered as a collector with the process's registry.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Open connections of callers.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.running.counts().open()
    }

    /// Callers over a rate limit, most often refused first, at most `count_max` of them.
    #[must_use]
    pub fn limited(&self, count_max: usize) -> Vec<LimitedCaller> {
        self.gateways.first().map(|gateway| gateway.site().shared.limited(count_max)).unwrap_or_default()
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Serves `config` from now on: routes, policies and upstreams. Addresses and the bounds of connections stay what
    /// they were when it started. No request is dropped, and upstreams that did not change keep their connections.
    pub fn reload(&self, config: Arc<Config>) {
        // Held to the end, so that of two reloads all runtimes get the same one last.
        let mut current = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = Arc::new(Shared::new(Arc::clone(&config), Arc::clone(&self.metrics), &*self.observers));
        for (runtime, gateway) in self.gateways.iter().enumerate() {
            let former = gateway.site();
            let site = Site::new(Arc::clone(&shared), &self.effects, runtime, self.gateways.len(), Some(&former));
            gateway.replace(site);
        }
        *current = config;
    }

    /// Begins to drain: no new connections, idle ones closed, requests and effects finished.
    pub fn drain(&self) {
        self.running.drain();
    }

    /// Drains and waits, no longer than the configured bound; blocks the calling thread. False if a runtime panicked.
    pub fn stop(self) -> bool {
        self.running.stop()
    }
}
