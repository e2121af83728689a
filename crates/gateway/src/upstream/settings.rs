//! What can be set about an upstream.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::HeaderValue;
use semel_core::policy::admission::AdmissionPolicy;
use semel_core::policy::balance::BalancePolicy;
use semel_core::policy::breaker::BreakerPolicy;
use semel_core::policy::outlier::OutlierPolicy;
use semel_core::policy::throttle::ThrottlePolicy;

/// The most endpoints an upstream can have: which ones were tried is kept in one word.
pub const ENDPOINTS_MAX: usize = 64;

/// One upstream: its endpoints and the limits of its connections.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamSettings {
    /// Where to send; 1 to [`ENDPOINTS_MAX`].
    pub endpoints: Vec<Endpoint>,
    /// Which `Host` the upstream sees.
    pub host: HostPolicy,
    /// The longest time to connect, name resolution included (default 2 s).
    pub connect_timeout: Duration,
    /// The longest wait for a connection when all are busy (default 1 s).
    pub pool_wait: Duration,
    /// How many may wait for a connection, for each endpoint and runtime (default 1,024).
    pub waiting_max: usize,
    /// Open connections to each endpoint, over all runtimes (default 256). Each runtime gets an equal share, at least one.
    pub connections_max: usize,
    /// How long a connection may lie idle if the upstream does not say it (default 4 s: Node.js closes after 5 s, the
    /// shortest of the common servers).
    pub idle_timeout: Duration,
    /// Whether connections are used again (default true).
    pub keep_alive: bool,
    /// The longest pause in a streamed answer (default 30 s).
    pub body_idle_timeout: Duration,
    /// How long to hold back a body whose sender waits for `100 Continue` (default 1 s, as curl does).
    pub continue_timeout: Duration,
    /// The longest head of an answer in bytes (default 64 KiB).
    pub head_bytes_max: usize,
    /// The most header lines in an answer (default 100).
    pub headers_max: usize,
    /// When an endpoint that fails is no longer asked (default: never).
    pub breaker: Option<BreakerPolicy>,
    /// When an endpoint that does worse than its peers is left out (default: never).
    pub outlier: Option<OutlierPolicy>,
    /// How attempts are spread over endpoints.
    pub balance: BalancePolicy,
    /// How many calls are in flight, over all runtimes, and how long others wait (default: unlimited).
    pub admission: Option<AdmissionPolicy>,
    /// When attempts that the upstream would refuse are refused here (default: never).
    pub throttle: Option<ThrottlePolicy>,
}

impl UpstreamSettings {
    /// The default settings for these endpoints.
    #[must_use]
    pub fn new(endpoints: Vec<Endpoint>) -> Self {
        Self {
            endpoints,
            host: HostPolicy::Preserve,
            connect_timeout: Duration::from_secs(2),
            pool_wait: Duration::from_secs(1),
            waiting_max: 1024,
            connections_max: 256,
            idle_timeout: Duration::from_secs(4),
            keep_alive: true,
            body_idle_timeout: Duration::from_secs(30),
            continue_timeout: Duration::from_secs(1),
            head_bytes_max: 64 * 1024,
            headers_max: 100,
            breaker: None,
            outlier: None,
            balance: BalancePolicy::default(),
            admission: None,
            throttle: None,
        }
    }

    /// hyper's buffers must hold a whole head; beyond that, small buffers keep backpressure tight.
    pub(super) fn buffer_bytes_max(&self) -> usize {
        self.head_bytes_max.max(64 * 1024)
    }
}

/// Which `Host` header the upstream sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostPolicy {
    /// The caller's.
    #[default]
    Preserve,
    /// The endpoint's own authority.
    Endpoint,
}

/// One address of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub(super) host: Box<str>,
    pub(super) ip: Option<IpAddr>,
    pub(super) port: u16,
    pub(super) authority: HeaderValue,
}

impl Endpoint {
    /// The endpoint at a host (a name or an address, IPv6 without brackets) and a port.
    #[must_use]
    pub fn new(host: &str, port: u16) -> Self {
        let ip = host.parse().ok();
        let authority = match ip {
            Some(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
            _ => format!("{host}:{port}"),
        };
        // A host that is no header value resolves to nothing either.
        let authority = HeaderValue::from_str(&authority).unwrap_or(HeaderValue::from_static("invalid"));
        Self { host: host.into(), ip, port, authority }
    }

    /// This endpoint's name at one of its addresses.
    #[must_use]
    pub fn at(&self, ip: IpAddr) -> Self {
        Self { ip: Some(ip), ..self.clone() }
    }

    /// The name that stands for its addresses; none where it is an address itself.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.host.parse::<IpAddr>().is_err().then_some(&*self.host)
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::new(&address.ip().to_string(), address.port())
    }
}

impl From<&semel_config::Endpoint> for Endpoint {
    fn from(endpoint: &semel_config::Endpoint) -> Self {
        Self::new(&endpoint.host, endpoint.port)
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.ip {
            // What a name stands for has names of its own in metrics and logs.
            Some(ip) => write!(f, "http://{}", SocketAddr::new(ip, self.port)),
            None => write!(f, "http://{}", self.authority.to_str().unwrap_or_default()),
        }
    }
}

impl From<&semel_config::Upstream> for UpstreamSettings {
    fn from(upstream: &semel_config::Upstream) -> Self {
        let endpoints = upstream.endpoints.iter().map(Endpoint::from).collect();
        Self {
            host: if upstream.preserve_host { HostPolicy::Preserve } else { HostPolicy::Endpoint },
            connect_timeout: upstream.connect_timeout,
            connections_max: upstream.connections_max,
            idle_timeout: upstream.idle_timeout,
            keep_alive: upstream.keep_alive,
            breaker: upstream.breaker,
            outlier: upstream.outlier,
            balance: upstream.balance,
            admission: upstream.admission,
            throttle: upstream.throttle,
            ..Self::new(endpoints)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities() {
        assert_eq!(Endpoint::new("127.0.0.1", 9000).to_string(), "http://127.0.0.1:9000");
        assert_eq!(Endpoint::new("::1", 80).to_string(), "http://[::1]:80");
        assert_eq!(Endpoint::new("::1", 80).ip, Some(std::net::Ipv6Addr::LOCALHOST.into()));
        let named = Endpoint::new("pay.internal", 80);
        assert_eq!(named.at([10, 0, 0, 1].into()).to_string(), "http://10.0.0.1:80");
        assert_eq!((named.name(), Endpoint::new("10.0.0.1", 80).name()), (Some("pay.internal"), None));
        assert_eq!(Endpoint::new("pay.internal", 80), Endpoint { ip: None, ..Endpoint::new("pay.internal", 80) });
    }
}
