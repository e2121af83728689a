//! A gateway at work: one runtime per core, one configuration at a time.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use semel_config::Config;
use semel_tower::Effects;

use crate::fleet::Fleet;
use crate::keeper::Keeper;
use crate::listener::{ListenError, Listener, ListenerSettings, Running};
use crate::metrics::Metrics;
use crate::rate::LimitedCaller;
use crate::resolver::{Resolve, ResolveFuture, SystemResolver};

pub use crate::fleet::Observers;

/// A gateway that listens.
pub struct Serving {
    fleet: Arc<Fleet>,
    keeper: Keeper,
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
    /// Listens and serves. Names of upstreams are resolved by the machine's own settings.
    ///
    /// # Errors
    /// If the address cannot be listened on, or a thread cannot be made.
    pub fn start(config: Arc<Config>, effects: Effects, observers: Observers) -> Result<Self, ServeError> {
        let resolver: Arc<dyn Resolve> = match SystemResolver::new() {
            Ok(resolver) => Arc::new(resolver),
            Err(why) => {
                tracing::debug!(why, "names are resolved only when a connection is made");
                Arc::new(NoResolver(why))
            }
        };
        Self::start_with(config, effects, observers, resolver)
    }

    /// As [`start`](Self::start), with names resolved by `resolver`.
    ///
    /// # Errors
    /// As there.
    pub fn start_with(
        config: Arc<Config>,
        effects: Effects,
        observers: Observers,
        resolver: Arc<dyn Resolve>,
    ) -> Result<Self, ServeError> {
        let settings = ListenerSettings::from(&*config);
        let runtimes = settings.runtimes.max(1);
        let listener = Listener::bind(settings)?;
        let fleet = Arc::new(Fleet::new(Arc::clone(&config), effects, observers, runtimes));
        let gateways = Arc::clone(&fleet);
        let running =
            listener.start(move |number| Arc::clone(gateways.gateway(number))).map_err(ServeError::Runtime)?;
        fleet.metrics().watch_listener(Arc::clone(running.counts()));
        let keeper = Keeper::start(Arc::clone(&fleet), config, resolver).map_err(ServeError::Runtime)?;
        Ok(Self { fleet, keeper, running })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.running.address()
    }

    /// What it counts: to be registered as a collector with the process's registry.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        self.fleet.metrics()
    }

    /// Open connections of callers.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.running.counts().open()
    }

    /// Callers over a rate limit, most often refused first, at most `count_max` of them.
    #[must_use]
    pub fn limited(&self, count_max: usize) -> Vec<LimitedCaller> {
        self.fleet.shared().limited(count_max)
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.fleet.shared().config)
    }

    /// Serves `config` from now on: routes, policies and upstreams. Addresses and the bounds of connections stay what
    /// they were when it started. No request is dropped, and upstreams that did not change keep their connections.
    pub fn reload(&self, config: Arc<Config>) {
        self.fleet.reload(Arc::clone(&config));
        self.keeper.reload(config);
    }

    /// Begins to drain: no new connections, idle ones closed, requests and effects finished.
    pub fn drain(&self) {
        self.running.drain();
    }

    /// Drains and waits, no longer than the configured bound; blocks the calling thread. False if a runtime panicked.
    pub fn stop(self) -> bool {
        let Self { keeper, running, .. } = self;
        let all_ended = running.stop();
        drop(keeper);
        all_ended
    }
}

/// Where the machine's settings cannot be read.
struct NoResolver(String);

impl Resolve for NoResolver {
    fn resolve<'a>(&'a self, _: &'a str) -> ResolveFuture<'a> {
        Box::pin(std::future::ready(Err(self.0.clone())))
    }
}
