//! What can be set about an upstream.

use std::net::IpAddr;
use std::time::Duration;

use http::HeaderValue;
use http::uri::{Authority, Scheme, Uri};

/// The most endpoints an upstream can have: which ones were tried is kept in one word.
pub const ENDPOINTS_MAX: usize = 64;

/// One upstream: its endpoints and the limits of its connections.
#[derive(Clone, Debug)]
pub struct UpstreamSettings {
    /// Where to send: one url for each endpoint.
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
    /// The longest pause in a streamed answer (default 30 s).
    pub body_idle_timeout: Duration,
    /// How long to hold back a body whose sender waits for `100 Continue` (default 1 s, as curl does).
    pub continue_timeout: Duration,
    /// The longest head of an answer in bytes (default 64 KiB).
    pub head_bytes_max: usize,
    /// The most header lines in an answer (default 100).
    pub headers_max: usize,
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
            body_idle_timeout: Duration::from_secs(30),
            continue_timeout: Duration::from_secs(1),
            head_bytes_max: 64 * 1024,
            headers_max: 100,
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
    /// Put before the path of each request; never ends in a slash.
    pub(super) base_path: Box<str>,
    pub(super) authority: HeaderValue,
}

/// Why a url cannot be an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Not a url.
    #[error("{0:?} is not a url; write it as http://host:port")]
    NotAUrl(String),
    /// Only plain HTTP is spoken to upstreams.
    #[error("{0:?}: only http:// upstreams are supported")]
    Scheme(String),
    /// The url has a part that has no meaning here.
    #[error("{0:?}: an upstream's url has no user, query or fragment")]
    ExtraPart(String),
}

impl std::str::FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(url: &str) -> Result<Self, EndpointError> {
        let uri: Uri = url.parse().map_err(|_| EndpointError::NotAUrl(url.to_owned()))?;
        match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => {}
            Some(_) => return Err(EndpointError::Scheme(url.to_owned())),
            None => return Err(EndpointError::NotAUrl(url.to_owned())),
        }
        let authority = uri.authority().ok_or_else(|| EndpointError::NotAUrl(url.to_owned()))?;
        if authority.as_str().contains('@') || uri.query().is_some() || url.contains('#') {
            return Err(EndpointError::ExtraPart(url.to_owned()));
        }
        let header = HeaderValue::from_str(authority.as_str()).map_err(|_| EndpointError::NotAUrl(url.to_owned()))?;
        let host = bare_host(authority);
        Ok(Self {
            ip: host.parse().ok(),
            host,
            port: authority.port_u16().unwrap_or(80),
            base_path: uri.path().trim_end_matches('/').into(),
            authority: header,
        })
    }
}

/// The host without the brackets of an IPv6 literal.
fn bare_host(authority: &Authority) -> Box<str> {
    authority.host().trim_start_matches('[').trim_end_matches(']').into()
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}{}", self.authority.to_str().unwrap_or_default(), self.base_path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_urls() {
        let endpoint: Endpoint = "http://127.0.0.1:9000".parse().unwrap();
        assert_eq!((endpoint.ip, endpoint.port), (Some([127, 0, 0, 1].into()), 9000));
        assert_eq!(endpoint.to_string(), "http://127.0.0.1:9000");
        let endpoint: Endpoint = "http://pay.internal/api/".parse().unwrap();
        assert_eq!((&*endpoint.host, endpoint.port, &*endpoint.base_path), ("pay.internal", 80, "/api"));
        let endpoint: Endpoint = "http://[::1]:80".parse().unwrap();
        assert_eq!(endpoint.ip, Some(std::net::Ipv6Addr::LOCALHOST.into()));
    }

    #[test]
    fn says_what_is_wrong_with_a_url() {
        let error = |url: &str| url.parse::<Endpoint>().unwrap_err();
        assert!(matches!(error("https://a"), EndpointError::Scheme(_)));
        assert!(matches!(error("localhost:9000"), EndpointError::NotAUrl(_) | EndpointError::Scheme(_)));
        assert!(matches!(error("http://u@a"), EndpointError::ExtraPart(_)));
        assert!(matches!(error("http://a/?q=1"), EndpointError::ExtraPart(_)));
        assert!(matches!(error(""), EndpointError::NotAUrl(_)));
    }
}
