//! What the process itself needs: addresses, bounds, admin, logs.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// `listen = { … }`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Callers. Default: `127.0.0.1:8080`.
    pub http: SocketAddr,
    /// Operators, metrics, health. Default: `127.0.0.1:8081`.
    pub admin: SocketAddr,
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// The file (mode 0600) with the token that every mutation needs. Default: `admin.token` in the ledger's folder,
    /// made on first start.
    pub token_file: PathBuf,
    /// Names accepted in Host beside the listen address and localhost (against DNS rebinding). Lower case, no port.
    pub allowed_hosts: Vec<String>,
    /// Origins from which a browser may use the API. Default: none but its own.
    pub allowed_origins: Vec<String>,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A `tracing` filter directive list, e.g. `info` or `semel_gateway=debug,info`. Default: `info`.
    pub filter: String,
    /// Default: [`LogFormat::Auto`].
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// `[limits]`: bounds on what callers may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open client connections; more are answered 503 and closed. Default: 10,000.
    pub connections_max: usize,
    /// A request's head (request line and headers), in bytes. Default: 32 KiB (nginx `large_client_header_buffers`).
    pub header_bytes_max: usize,
    /// Header fields of a request. Default: 100 (hyper's own bound).
    pub header_count_max: usize,
    /// Largest body of any request, in bytes, also where it is streamed. Default: 1 GiB.
    pub body_bytes_max: u64,
    /// Memory, in bytes, for all buffered bodies at a time; more are refused with 503. Default: 256 MiB.
    pub buffered_bytes_max: u64,
    /// Time for a complete request head from its first byte. Default: 10 s.
    pub header_timeout: Duration,
    /// Longest pause between two reads of a request body. Default: 30 s.
    pub body_idle_timeout: Duration,
    /// Longest pause of a caller that does not read its answer. Default: 30 s.
    pub write_idle_timeout: Duration,
    /// How long an idle keep-alive connection stays open. Default: 75 s (nginx `keepalive_timeout`).
    pub keep_alive_timeout: Duration,
    /// How long SIGTERM waits for calls in flight. Default: 30 s (Kubernetes' `terminationGracePeriodSeconds`).
    pub drain_timeout: Duration,
}

/// A network: `10.0.0.0/8`, `::1/128`, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// Whether `ip` lies in this network. An IPv4 address mapped into IPv6 counts as IPv4 (dual-stack listeners).
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.base, ip.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(ip)) => {
                same_prefix(base.to_bits().into(), ip.to_bits().into(), self.prefix, 32)
            }
            (IpAddr::V6(base), IpAddr::V6(ip)) => same_prefix(base.to_bits(), ip.to_bits(), self.prefix, 128),
            _ => false,
        }
    }
}

fn same_prefix(a: u128, b: u128, prefix: u8, width: u8) -> bool {
    let host_bits = u32::from(width - prefix);
    a.checked_shr(host_bits).unwrap_or(0) == b.checked_shr(host_bits).unwrap_or(0)
}

impl FromStr for Cidr {
    type Err = &'static str;

    /// # Errors
    /// When the address or the prefix length is not one, or bits behind the prefix are set (most likely a mistake).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let base: IpAddr = address.parse().map_err(|_| "not an IP address")?;
        let width = if base.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => width,
            Some(p) => p.parse().ok().filter(|p| *p <= width).ok_or("the prefix length is out of range")?,
        };
        let cidr = Self { base, prefix };
        let host_bits = u32::from(width - prefix);
        let bits = match base {
            IpAddr::V4(v4) => v4.to_bits().into(),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        if bits & 1u128.checked_shl(host_bits).map_or(u128::MAX, |b| b - 1) != 0 {
            return Err("bits are set behind the prefix length");
        }
        Ok(cidr)
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_its_addresses_only() {
        let net: Cidr = "10.1.0.0/16".parse().unwrap();
        assert!(net.contains("10.1.2.3".parse().unwrap()));
        assert!(net.contains("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!net.contains("10.2.0.1".parse().unwrap()));
        let all: Cidr = "::/0".parse().unwrap();
        assert!(all.contains("2001:db8::1".parse().unwrap()));
        assert!(!all.contains("10.2.0.1".parse().unwrap()));
        let one: Cidr = "127.0.0.1".parse().unwrap();
        assert!(one.contains("127.0.0.1".parse().unwrap()) && !one.contains("127.0.0.2".parse().unwrap()));
    }

    #[test]
    fn mistakes_are_refused() {
        for bad in ["10.0.0.1/8", "10.0.0.0/33", "ten/8", "::1/129", "10.0.0.0/-1", ""] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
