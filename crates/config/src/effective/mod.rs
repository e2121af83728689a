//! The effective configuration: every value decided, every reference resolved. The gateway is built from these types.
//!
//! A value here never needs a second look at a default. Where it came from is kept beside it, in [`Setting`].

mod ledger;
mod listener;
mod policy;
mod upstream;

use std::sync::Arc;

use semel_core::contract::ScopeContract;
use semel_core::policy::admission::Priority;
use semel_core::policy::fault::FaultPolicy;
use semel_core::policy::hedge::HedgePolicy;
use semel_core::route::Router;

pub use ledger::{DatabaseUrl, EmbeddedLedger, LedgerConfig, NatsLedger, NatsUrl, PostgresLedger};
pub use listener::{Admin, Cidr, Limits, Listen, Log, LogFormat};
pub use policy::{
    Ack, Backoff, Budget, Cors, Dialect, ForwardKey, Idempotency, Keep, OnLedgerDown, OnUnknown, Probe, RATES_MAX,
    Rate, RateBy, Retry, Timeout,
};
pub use upstream::{Endpoint, HealthCheck, Upstream};

use crate::origin::Setting;

/// A whole, validated configuration. Immutable: a reload makes a new one.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the gateway and the admin API listen.
    pub listen: Listen,
    /// The engine that keeps the truth.
    pub ledger: LedgerConfig,
    /// Every upstream, by name order.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Every route, in file order. Indices are those that [`Config::router`] returns.
    pub routes: Vec<Arc<Route>>,
    /// Finds the route of a request; its indices point into [`Config::routes`].
    pub router: Arc<Router>,
    /// What each ledger scope means; compared with what the ledger remembers before anything is served.
    pub contracts: Vec<ScopeContract>,
    /// The admin API.
    pub admin: Admin,
    /// Logging.
    pub log: Log,
    /// Bounds on connections, headers, bodies and time.
    pub limits: Limits,
    /// Peers whose `Forwarded`/`X-Forwarded-*` and principal headers are believed. Empty: nobody's are.
    pub trusted_proxies: Vec<Cidr>,
    /// The file-wide values with their origins, for `explain`.
    pub settings: Vec<Setting>,
}

/// One `[[route]]`, with its profile applied.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its place in [`Config::routes`].
    pub index: usize,
    /// How people and metrics call it: its first pattern as written, e.g. `POST /v1/payments`.
    pub name: String,
    /// The line of its `[[route]]` in the file; 0 when it was not written in a file.
    pub line: usize,
    /// Where its requests go.
    pub upstream: Arc<Upstream>,
    /// What a request means.
    pub effect: Effect,
    /// The stable id of its keys in the ledger. Set on every route; it only matters under [`Effect::Once`].
    pub scope: String,
    /// The contract of one effect. Present exactly when `effect` is [`Effect::Once`].
    pub idempotency: Option<Idempotency>,
    /// Time bounds.
    pub timeout: Timeout,
    /// How failed attempts are repeated.
    pub retry: Retry,
    /// How often callers may ask; a request passes all of them or takes from none. At most [`RATES_MAX`].
    pub rates: Vec<Rate>,
    /// Who goes first where an upstream takes no more. Default: medium.
    pub priority: Priority,
    /// When a second attempt is sent beside a slow first one. Default: never.
    pub hedge: Option<HedgePolicy>,
    /// Faults on purpose. Default: none.
    pub fault: Option<FaultPolicy>,
    /// The largest request body, in bytes. Under [`Effect::Once`] and [`Effect::Idempotent`] it is buffered whole.
    pub request_cap_bytes: u64,
    /// CORS answered by the gateway; `None` leaves it to the upstream.
    pub cors: Option<Cors>,
    /// Every value of this route with its origin, for `explain`.
    pub settings: Vec<Setting>,
    /// Facts a person should know about the combination of values (assumptions, worst cases), for `explain`.
    pub notes: Vec<String>,
}

/// What a request on a route means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Must happen once: claimed in the ledger before it is sent.
    Once,
    /// Repeating it is harmless by itself (PUT, DELETE): retried, no ledger.
    Idempotent,
    /// Changes nothing (GET): retried, streamed, no ledger.
    Read,
    /// Passed through, streamed both ways; never repeated once a byte may have left.
    Forward,
}

impl Effect {
    /// The word used in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Once => "once",
            Self::Idempotent => "idempotent",
            Self::Read => "read",
            Self::Forward => "forward",
        }
    }
}
