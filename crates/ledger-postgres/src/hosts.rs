//! The servers of a URL, one by one.
//!
//! The client library tries them in their order and waits for each as long as it takes: behind one that is frozen, the
//! others would never be asked.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_postgres::Config;
use tokio_postgres::config::Host;

use crate::Error;

/// The servers that may hold the ledger, and which of them did last.
#[derive(Debug)]
pub(crate) struct Hosts {
    each: Vec<Config>,
    last: AtomicUsize,
}

impl Hosts {
    /// # Errors
    /// When the URL names no host, or numbers of hosts, addresses and ports that do not fit together.
    pub(crate) fn of(config: &Config) -> Result<Self, Error> {
        let (names, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
        let len = names.len().max(addresses.len());
        let fits = |n: usize| n == 0 || n == len;
        if len == 0 {
            return Err(Error::Options("the URL names no host".to_owned()));
        }
        if !fits(names.len()) || !fits(addresses.len()) || !(fits(ports.len()) || ports.len() == 1) {
            return Err(Error::Options("the URL names different numbers of hosts, addresses and ports".to_owned()));
        }
        let each = (0..len).map(|at| {
            let mut one = without_hosts(config);
            match names.get(at) {
                Some(Host::Tcp(name)) => drop(one.host(name)),
                Some(Host::Unix(path)) => drop(one.host_path(path)),
                None => {}
            }
            if let Some(address) = addresses.get(at) {
                one.hostaddr(*address);
            }
            if let Some(port) = ports.get(at).or(ports.first()) {
                one.port(*port);
            }
            one
        });
        Ok(Self { each: each.collect(), last: AtomicUsize::new(0) })
    }

    /// All of them, the one that served last first.
    pub(crate) fn in_turn(&self) -> impl Iterator<Item = (usize, &Config)> {
        let first = self.last.load(Ordering::Relaxed);
        (0..self.each.len()).map(move |n| (first + n) % self.each.len()).map(|at| (at, &self.each[at]))
    }

    /// This one serves.
    pub(crate) fn serves(&self, at: usize) {
        self.last.store(at, Ordering::Relaxed);
    }

    /// The one that served does not answer: the others are asked first.
    pub(crate) fn is_silent(&self) {
        let next = (self.last.load(Ordering::Relaxed) + 1) % self.each.len();
        self.last.store(next, Ordering::Relaxed);
    }
}

/// Its name in errors.
pub(crate) fn name(host: &Config) -> String {
    let port = host.get_ports().first().map_or_else(String::new, |port| format!(":{port}"));
    match (host.get_hosts().first(), host.get_hostaddrs().first()) {
        (Some(Host::Tcp(name)), _) => format!("{name}{port}"),
        (Some(Host::Unix(path)), _) => path.display().to_string(),
        (None, Some(address)) => format!("{address}{port}"),
        (None, None) => String::new(),
    }
}

fn without_hosts(from: &Config) -> Config {
    let mut to = Config::new();
    to.ssl_mode(from.get_ssl_mode()).ssl_negotiation(from.get_ssl_negotiation());
    to.channel_binding(from.get_channel_binding()).target_session_attrs(from.get_target_session_attrs());
    to.load_balance_hosts(from.get_load_balance_hosts());
    to.keepalives(from.get_keepalives()).keepalives_idle(from.get_keepalives_idle());
    from.get_user().map(|user| to.user(user));
    from.get_password().map(|password| to.password(password));
    from.get_dbname().map(|name| to.dbname(name));
    from.get_options().map(|options| to.options(options));
    from.get_application_name().map(|name| to.application_name(name));
    from.get_connect_timeout().map(|within| to.connect_timeout(*within));
    from.get_tcp_user_timeout().map(|within| to.tcp_user_timeout(*within));
    from.get_keepalives_interval().map(|interval| to.keepalives_interval(interval));
    from.get_keepalives_retries().map(|retries| to.keepalives_retries(retries));
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(url: &str) -> Result<Hosts, Error> {
        Hosts::of(&url.parse().unwrap())
    }

    #[test]
    fn each_host_keeps_its_port_and_everything_else() {
        let all = "postgres://me:pw@a:1,b:2/db?sslmode=require&connect_timeout=7&options=-cx%3D1&keepalives_idle=9";
        let split = hosts(all).unwrap();
        let alone = ["a:1", "b:2"].map(|host| all.replace("a:1,b:2", host).parse::<Config>().unwrap());
        assert_eq!(split.each, alone);
        assert_eq!(split.each.iter().map(name).collect::<Vec<_>>(), ["a:1", "b:2"]);
        let shared: Vec<u16> = hosts("host=a,b port=7").unwrap().each.iter().map(|h| h.get_ports()[0]).collect();
        assert_eq!(shared, [7, 7]);
        for odd in ["user=me", "host=a,b,c port=1,2", "host=a,b hostaddr=127.0.0.1"] {
            assert!(hosts(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn the_last_that_served_is_asked_first_unless_it_is_silent() {
        let hosts = hosts("postgres://a,b,c/db").unwrap();
        let order = || hosts.in_turn().map(|(at, _)| at).collect::<Vec<_>>();
        assert_eq!(order(), [0, 1, 2]);
        hosts.serves(2);
        assert_eq!(order(), [2, 0, 1]);
        hosts.is_silent();
        assert_eq!(order(), [0, 1, 2]);
    }
}
