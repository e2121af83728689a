//! `[upstream.NAME]`: a service that executes effects.

use std::time::Duration;

use semel_core::policy::admission::AdmissionPolicy;
use semel_core::policy::balance::BalancePolicy;
use semel_core::policy::breaker::BreakerPolicy;
use semel_core::policy::outlier::OutlierPolicy;
use semel_core::policy::throttle::ThrottlePolicy;

use crate::origin::Setting;

/// A service behind the gateway.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Its name in the file.
    pub name: String,
    /// Where it answers. Never empty; more than one are equal replicas that share their memory of keys.
    pub endpoints: Vec<Endpoint>,
    /// What the ledger calls it: stays the same when the upstream is renamed or moved. Default: its name.
    pub identity: String,
    /// Time for a TCP connection. Default: 5 s (Envoy's cluster `connect_timeout`).
    pub connect_timeout: Duration,
    /// How long an unused connection is kept. Must be shorter than the upstream's own. Default: 4 s (a second under
    /// Node.js' `keepAliveTimeout` of 5 s, the shortest common one).
    pub idle_timeout: Duration,
    /// Connections per endpoint at a time. Default: 1024 (Envoy's `max_connections`).
    pub connections_max: usize,
    /// Whether connections are used again. Default: true.
    pub keep_alive: bool,
    /// Whether the upstream sees the caller's Host rather than its own address. Default: true (as Envoy and HAProxy).
    pub preserve_host: bool,
    /// When an endpoint that fails is no longer asked. Default: never.
    pub breaker: Option<BreakerPolicy>,
    /// When an endpoint that does worse than its peers is left out. Default: never.
    pub outlier: Option<OutlierPolicy>,
    /// How attempts are spread over endpoints.
    pub balance: BalancePolicy,
    /// How many calls are in flight, of all routes together, and how long others wait. Default: unlimited.
    pub admission: Option<AdmissionPolicy>,
    /// When calls that the upstream would refuse are refused here. Default: never.
    pub throttle: Option<ThrottlePolicy>,
    /// How endpoints are asked whether they are well. Default: not at all.
    pub health: Option<HealthCheck>,
    /// Every value with its origin, for `explain`.
    pub settings: Vec<Setting>,
}

/// `health = { … }`: asking endpoints whether they are well (defaults: HAProxy's `rise 2`, `fall 3`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked for; any 2xx is well.
    pub path: String,
    /// How often. Default: 5 s.
    pub interval: Duration,
    /// How long one question may take. Default: 1 s.
    pub timeout: Duration,
    /// So many good answers in a row bring an endpoint back. Default: 2.
    pub healthy: u32,
    /// So many bad ones take it out. Default: 3.
    pub unhealthy: u32,
}

/// One address of an upstream, from a `http://host[:port]` URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Host name or IP address; IPv6 without brackets.
    pub host: String,
    /// TCP port; 80 when the URL had none.
    pub port: u16,
}

impl Endpoint {
    /// `host:port` as it stands in a Host header or a socket address; IPv6 in brackets.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}
