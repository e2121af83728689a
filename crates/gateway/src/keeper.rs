//! What goes on beside the requests: names are resolved again when their time is over, endpoints are asked how they are.

mod check;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use semel_config::{Config, Upstream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::clock;
use crate::fleet::Fleet;
use crate::resolver::{Addresses, Resolve};
use crate::upstream::{ENDPOINTS_MAX, Endpoint};

/// A name is not asked for more often, whatever its records say.
const AGAIN_MIN: Duration = Duration::from_secs(1);
/// Nor less often: a record that holds for a day is changed in an emergency, too.
const AGAIN_MAX: Duration = Duration::from_secs(300);
/// After a name that could not be resolved.
const AGAIN_AFTER_FAILURE: Duration = Duration::from_secs(5);

/// A thread of its own for it; ended when dropped.
pub(crate) struct Keeper {
    config: watch::Sender<Option<Arc<Config>>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    pub(crate) fn start(fleet: Arc<Fleet>, config: Arc<Config>, resolver: Arc<dyn Resolve>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (config, configs) = watch::channel(Some(config));
        let thread = std::thread::Builder::new().name("semel-keeper".to_owned());
        let thread = thread.spawn(move || {
            runtime.block_on(keep(fleet, resolver, configs));
            // The system's resolver cannot be interrupted: nobody waits for it.
            runtime.shutdown_background();
        })?;
        Ok(Self { config, thread: Some(thread) })
    }

    /// Another configuration is in force.
    pub(crate) fn reload(&self, config: Arc<Config>) {
        self.config.send_replace(Some(config));
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.config.send_replace(None);
        // It waits for nothing that it does not leave at once.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

async fn keep(fleet: Arc<Fleet>, resolver: Arc<dyn Resolve>, mut configs: watch::Receiver<Option<Arc<Config>>>) {
    loop {
        let Some(config) = configs.borrow_and_update().clone() else { return };
        let mut tasks = JoinSet::new();
        for upstream in &config.upstreams {
            if upstream.endpoints.iter().any(|endpoint| Endpoint::from(endpoint).name().is_some()) {
                let (fleet, resolver) = (Arc::clone(&fleet), Arc::clone(&resolver));
                tasks.spawn(follow(fleet, resolver, Arc::clone(&config), Arc::clone(upstream)));
            }
            if let Some(health) = &upstream.health {
                tasks.spawn(check::watch(Arc::clone(&fleet), upstream.name.clone(), health.clone()));
            }
        }
        // What is under way for the old configuration ends with its tasks.
        if configs.changed().await.is_err() {
            return;
        }
    }
}

/// Follows the names of an upstream's urls to wherever they lead.
async fn follow(fleet: Arc<Fleet>, resolver: Arc<dyn Resolve>, config: Arc<Config>, upstream: Arc<Upstream>) {
    let urls: Vec<_> = upstream.endpoints.iter().map(Endpoint::from).collect();
    let mut known: HashMap<String, Addresses> = HashMap::new();
    let mut last = Vec::new();
    loop {
        for name in urls.iter().filter_map(Endpoint::name) {
            if known.get(name).is_none_or(|addresses| addresses.until <= clock::now()) {
                look_up(&*resolver, &upstream.name, name, &mut known).await;
            }
        }
        let endpoints = lead_to(&urls, &known);
        if endpoints != last && !endpoints.is_empty() {
            let shown = || endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            tracing::info!(upstream = upstream.name, endpoints = shown(), "names lead to these endpoints now");
            fleet.lead(&config, &upstream.name, endpoints.clone());
            last = endpoints;
        }
        let next = known.values().map(|addresses| addresses.until).min();
        let next = next.unwrap_or_else(|| clock::now() + AGAIN_AFTER_FAILURE);
        tokio::time::sleep_until(next.max(clock::now() + AGAIN_MIN).into()).await;
    }
}

/// Resolves a name, or keeps what was known of it.
async fn look_up(resolver: &dyn Resolve, upstream: &str, name: &str, known: &mut HashMap<String, Addresses>) {
    let now = clock::now();
    let addresses = match resolver.resolve(name).await {
        Ok(Addresses { mut ips, until }) if !ips.is_empty() => {
            ips.sort_unstable();
            ips.dedup();
            Addresses { ips, until: until.min(now + AGAIN_MAX) }
        }
        failed => {
            let why = failed.err().unwrap_or_else(|| "it has no address".to_owned());
            tracing::warn!(upstream, name, why, "a name cannot be resolved; what is known of it stays");
            let ips = known.remove(name).map(|addresses| addresses.ips).unwrap_or_default();
            Addresses { ips, until: now + AGAIN_AFTER_FAILURE }
        }
    };
    known.insert(name.to_owned(), addresses);
}

/// An endpoint for each address. A name of which nothing is known stays a name: whoever connects to it looks again.
fn lead_to(urls: &[Endpoint], known: &HashMap<String, Addresses>) -> Vec<Endpoint> {
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for url in urls {
        let addresses = url.name().and_then(|name| known.get(name)).map(|known| &*known.ips).unwrap_or_default();
        let of_url: Vec<_> = match addresses {
            [] => vec![url.clone()],
            addresses => addresses.iter().map(|ip| url.at(*ip)).collect(),
        };
        for endpoint in of_url {
            if endpoints.len() < ENDPOINTS_MAX && !endpoints.contains(&endpoint) {
                endpoints.push(endpoint);
            }
        }
    }
    endpoints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(last: &[u8]) -> Addresses {
        Addresses { ips: last.iter().map(|n| [10, 0, 0, *n].into()).collect(), until: clock::now() }
    }

    #[test]
    fn a_name_becomes_its_addresses_and_an_address_stays() {
        let urls =
            [Endpoint::new("pay.internal", 80), Endpoint::new("10.9.9.9", 81), Endpoint::new("gone.internal", 80)];
        let known = HashMap::from([("pay.internal".to_owned(), addresses(&[1, 2]))]);
        let shown: Vec<_> = lead_to(&urls, &known).iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            ["http://10.0.0.1:80", "http://10.0.0.2:80", "http://10.9.9.9:81", "http://gone.internal:80"]
        );
    }

    #[test]
    fn there_are_never_more_endpoints_than_an_upstream_can_have() {
        let known = HashMap::from([("many".to_owned(), addresses(&(0..100).collect::<Vec<_>>()))]);
        assert_eq!(lead_to(&[Endpoint::new("many", 80)], &known).len(), ENDPOINTS_MAX);
    }
}
