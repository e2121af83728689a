//! Who asked, as told to the upstream: `Forwarded` (RFC 7239) and the `X-Forwarded-*` it replaces.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use http::header::{FORWARDED, HOST, VIA};
use http::{HeaderMap, HeaderName, HeaderValue};
use semel_config::Cidr;

use super::survey::Survey;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// RFC 9110, 7.6.3: a gateway must add itself to requests.
const VIA_SEMEL: HeaderValue = HeaderValue::from_static("1.1 semel");

/// Which peers are believed when they say who is behind them.
#[derive(Clone, Debug, Default)]
pub struct TrustedPeers(Vec<Cidr>);

impl TrustedPeers {
    /// Trusts these networks.
    #[must_use]
    pub fn new(networks: Vec<Cidr>) -> Self {
        Self(networks)
    }

    /// True if the peer is in one of the networks.
    #[must_use]
    pub fn contains(&self, peer: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(peer))
    }
}

/// Which headers tell the upstream who asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedStyle {
    /// Both kinds.
    #[default]
    Both,
    /// `Forwarded` only.
    Rfc7239,
    /// `X-Forwarded-For`, `-Host` and `-Proto` only.
    XForwarded,
    /// None; what untrusted callers sent is still removed.
    Off,
}

/// The other end of a caller's connection; the same for all its requests, so its header values are made once.
#[derive(Debug)]
pub struct Peer {
    address: SocketAddr,
    trusted: bool,
    ip: HeaderValue,
    /// The `Forwarded` value for the last `Host` seen here.
    last: Mutex<Option<(HeaderValue, HeaderValue)>>,
}

impl Peer {
    /// The peer at `address`.
    #[must_use]
    pub fn new(address: SocketAddr, trusted: &TrustedPeers) -> Self {
        let ip = address.ip().to_canonical();
        let text = HeaderValue::from_str(&ip.to_string()).unwrap_or(HeaderValue::from_static("unknown"));
        Self { address, trusted: trusted.contains(ip), ip: text, last: Mutex::default() }
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// True if it is believed when it says who is behind it (also for `principal = "header:..."`).
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// Writes the forwarding headers of a request. What an untrusted peer claims is replaced, what a trusted one says
    /// is continued.
    pub(crate) fn forward(&self, headers: &mut HeaderMap, seen: Survey, style: ForwardedStyle) {
        if !self.trusted && seen.has(Survey::FORWARDED) {
            for name in [&FORWARDED, &X_FORWARDED_FOR, &X_FORWARDED_HOST, &X_FORWARDED_PORT, &X_FORWARDED_PROTO] {
                headers.remove(name);
            }
            headers.remove(X_REAL_IP);
        }
        headers.append(VIA, VIA_SEMEL);
        let host = headers.get(HOST).cloned();
        if matches!(style, ForwardedStyle::Both | ForwardedStyle::Rfc7239) {
            let value = self.forwarded(host.as_ref());
            headers.append(FORWARDED, value);
        }
        if matches!(style, ForwardedStyle::Both | ForwardedStyle::XForwarded) {
            headers.append(X_FORWARDED_FOR, self.ip.clone());
            // A trusted proxy in front knows what the caller asked for; we only know what the proxy asked for.
            headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
            if let Some(host) = host {
                headers.entry(X_FORWARDED_HOST).or_insert(host);
            }
        }
    }

    fn forwarded(&self, host: Option<&HeaderValue>) -> HeaderValue {
        let Some(host) = host else { return forwarded_value(self.address.ip().to_canonical(), None) };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((for_host, value)) if for_host == host => value.clone(),
            _ => {
                let value = forwarded_value(self.address.ip().to_canonical(), Some(host));
                *last = Some((host.clone(), value.clone()));
                value
            }
        }
    }
}

fn forwarded_value(ip: IpAddr, host: Option<&HeaderValue>) -> HeaderValue {
    let node = if ip.is_ipv4() { ip.to_string() } else { format!("\"[{ip}]\"") };
    let value = match host.map(HeaderValue::to_str) {
        // The host was checked to be one; a quote cannot be in it.
        Some(Ok(host)) if !host.contains(['"', '\\']) => format!("for={node};host=\"{host}\";proto=http"),
        _ => format!("for={node};proto=http"),
    };
    HeaderValue::from_str(&value).unwrap_or(HeaderValue::from_static("for=unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str, trusted: &[&str]) -> Peer {
        let networks = trusted.iter().map(|text| text.parse().unwrap()).collect();
        Peer::new(address.parse().unwrap(), &TrustedPeers::new(networks))
    }

    impl Peer {
        fn forward_all(&self, headers: &mut HeaderMap, style: ForwardedStyle) {
            let seen = Survey::of(headers);
            self.forward(headers, seen, style);
        }
    }

    fn claim() -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("shop.example"));
        headers.insert(FORWARDED, HeaderValue::from_static("for=9.9.9.9"));
        headers.insert(X_FORWARDED_FOR, HeaderValue::from_static("9.9.9.9"));
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
        headers.insert(X_REAL_IP, HeaderValue::from_static("9.9.9.9"));
        headers
    }

    #[test]
    fn strangers_are_not_believed() {
        let mut headers = claim();
        peer("192.0.2.7:4000", &["10.0.0.0/8"]).forward_all(&mut headers, ForwardedStyle::Both);
        assert_eq!(headers[FORWARDED], "for=192.0.2.7;host=\"shop.example\";proto=http");
        assert_eq!(headers.get_all(FORWARDED).iter().count(), 1);
        assert_eq!(headers[X_FORWARDED_FOR], "192.0.2.7");
        assert_eq!(headers[X_FORWARDED_PROTO], "http");
        assert_eq!(headers[X_FORWARDED_HOST], "shop.example");
        assert!(!headers.contains_key(X_REAL_IP));
        assert_eq!(headers[VIA], "1.1 semel");
    }

    #[test]
    fn trusted_peers_are_continued() {
        let mut headers = claim();
        peer("[::ffff:10.1.2.3]:4000", &["10.0.0.0/8"]).forward_all(&mut headers, ForwardedStyle::Both);
        let list: Vec<_> = headers.get_all(X_FORWARDED_FOR).iter().collect();
        assert_eq!(list, ["9.9.9.9", "10.1.2.3"]);
        assert_eq!(headers[X_FORWARDED_PROTO], "https");
        assert_eq!(headers.get_all(FORWARDED).iter().count(), 2);
        assert_eq!(headers[X_REAL_IP], "9.9.9.9");
    }

    #[test]
    fn off_still_removes_claims() {
        let mut headers = claim();
        peer("192.0.2.7:4000", &[]).forward_all(&mut headers, ForwardedStyle::Off);
        assert!(!headers.contains_key(FORWARDED) && !headers.contains_key(X_FORWARDED_FOR));
    }

    #[test]
    fn ipv6_is_quoted() {
        let mut headers = HeaderMap::new();
        peer("[2001:db8::1]:4000", &[]).forward_all(&mut headers, ForwardedStyle::Rfc7239);
        assert_eq!(headers[FORWARDED], "for=\"[2001:db8::1]\";proto=http");
    }
}
