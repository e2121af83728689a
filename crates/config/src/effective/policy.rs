//! The values of a route's policies.

use std::time::Duration;

use http::{HeaderName, StatusCode};
use semel_core::answer::HeaderAllowList;
use semel_core::key::KeySpec;
use semel_core::policy::backoff::Jitter;
use semel_core::policy::rate_limit::Quota;
use semel_core::scope::PrincipalSource;

/// `idempotency = { … }`: the contract of one effect (design: effects.md).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// Where the key comes from; several parts are joined. Default: the `idempotency-key` header
    /// (IETF draft-ietf-httpapi-idempotency-key-header).
    pub key: KeySpec,
    /// Whether a request without a key is refused (400). Otherwise it is passed as [`super::Effect::Forward`] would.
    /// Default: true.
    pub required: bool,
    /// Who may share a key. Default: [`PrincipalSource::Credential`].
    pub principal: PrincipalSource,
    /// How long a settled answer is replayed. Default: 24 h (Stripe's window); `forever` for keys without a header.
    pub keep: Keep,
    /// How long an expired key is still refused rather than run again. Default: 7 days.
    pub marker: Duration,
    /// What may be done about an effect whose outcome nobody knows. Default: [`OnUnknown::Hold`].
    pub on_unknown: OnUnknown,
    /// The upstream's status URL; present whenever `on_unknown` is `probe`.
    pub probe: Option<Probe>,
    /// How long a claim stands without renewal by its gateway: that long after a gateway died its open effects become
    /// unknown. 1 s to 10 min, default 30 s.
    pub lease: Duration,
    /// How long a duplicate waits for the first's answer. Default: 5 s.
    pub join: Duration,
    /// How many duplicates may wait on one key at a time. Default: 128.
    pub waiters_max: usize,
    /// The statuses and words of the gateway's own answers. Default: [`Dialect::Ietf`].
    pub dialect: Dialect,
    /// How the upstream sees the key. Default: [`ForwardKey::Hmac`].
    pub forward_key: ForwardKey,
    /// The header that carries the key upstream. Default: `idempotency-key`.
    pub forward_header: HeaderName,
    /// When the caller gets its answer. Default: [`Ack::Settled`].
    pub ack: Ack,
    /// Response headers kept for replay: the standard allow-list and the route's own choice.
    pub store_headers: HeaderAllowList,
    /// Statuses believed to prove that nothing was executed: an assumption about the upstream.
    /// Default: 401, 403, 425, 429.
    pub not_executed: Vec<StatusCode>,
    /// Statuses that settle the effect although they would not by themselves (some 5xx, 408).
    pub final_statuses: Vec<StatusCode>,
    /// Whether answers are kept whole; otherwise only a tombstone is. Default: true.
    pub store_body: bool,
    /// The largest answer kept for replay, in bytes. Default: 1 MiB.
    pub response_cap_bytes: u64,
    /// What happens while the ledger cannot be reached. Default: [`OnLedgerDown::Closed`].
    pub on_ledger_down: OnLedgerDown,
}

/// How long something is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// For this long.
    For(Duration),
    /// Without end.
    Forever,
}

/// What may be done about an unknown outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnknown {
    /// Wait for the upstream or an operator.
    Hold,
    /// Attempt again with the same forwarded key.
    Retry {
        /// How long after the first send the upstream still remembers a key.
        upstream_keep: Duration,
    },
    /// Ask the status URL ([`Idempotency::probe`]) first.
    Probe,
}

/// A status URL at the upstream. Its host is from the file, never from a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// An absolute `http://` URL with exactly one `{key}`, which is replaced by the forwarded key, percent-encoded.
    pub url: String,
    /// Time for one question and its answer. Default: 2 s.
    pub timeout: Duration,
}

/// Statuses and words of the gateway's own answers, as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// draft-ietf-httpapi-idempotency-key-header.
    Ietf,
    /// Stripe's API, as its official SDKs expect it.
    Stripe,
}

/// How the upstream sees the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardKey {
    /// HMAC(scope, key): nobody upstream learns or collides with the caller's key.
    Hmac,
    /// The caller's key, unchanged.
    AsIs,
}

/// When the caller gets the upstream's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// After the settlement is durable.
    Settled,
    /// At once; a crash in between leaves the effect unknown, never doubled.
    Early,
}

/// What happens to a keyed request while the ledger cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLedgerDown {
    /// 503, nothing is sent.
    Closed,
    /// Sent without protection, loudly logged.
    Open,
}

/// `timeout = { … }`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout {
    /// For the whole call with all its attempts; where the answer is streamed, until its head. Default: 30 s.
    pub total: Duration,
    /// For one attempt, likewise. Default: 10 s, or `total` where that is shorter or nothing is repeated.
    pub attempt: Duration,
}

/// `retry = { … }`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    /// Attempts in all; 1 = never repeated. Default: 3 (1 on a `forward` route).
    pub attempts: u32,
    /// The wait between attempts.
    pub backoff: Backoff,
    /// How waits are spread. Default: full.
    pub jitter: Jitter,
    /// How many extra attempts all calls together may make. Default: 20 %.
    pub budget: Budget,
}

/// How many extra attempts all calls of a route together may make.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// So many for each request of the last ten seconds, and ten a second.
    Ratio(f64),
    /// The AWS SDKs' quota: 500 tokens, of which a retry costs 14 (5 after throttling) and a first success returns one.
    Quota,
}

/// Bounds of a wait: with full jitter it is `rand(0,1) * min(base * 2^i, cap)` (AWS Architecture Blog, "Exponential Backoff
/// And Jitter").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Default: 50 ms.
    pub base: Duration,
    /// Default: 20 s.
    pub cap: Duration,
}

/// The most limits of one route.
pub const RATES_MAX: usize = 4;

/// One of `rate = { … }`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many requests, and how they come back.
    pub quota: Quota,
    /// Whom it counts together.
    pub by: RateBy,
}

/// Whom a rate limit counts together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RateBy {
    /// Each credential; callers without one by their address.
    Caller,
    /// Each address that connects: behind a proxy that is the proxy's.
    Address,
    /// All callers.
    Everyone,
    /// Each value of this header; requests without it together.
    Header(HeaderName),
}

impl std::fmt::Display for RateBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Caller => f.write_str("caller"),
            Self::Address => f.write_str("address"),
            Self::Everyone => f.write_str("everyone"),
            Self::Header(name) => write!(f, "header:{name}"),
        }
    }
}

/// `cors = { … }`: computed by the gateway for the current Origin, also on problems and replays (Fetch standard, CORS).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Exact origins, or the single `*`.
    pub origins: Vec<String>,
    /// Request headers a browser may send, beside the key's own header.
    pub allow_headers: Vec<HeaderName>,
    /// Response headers a script may read, beside semel's own.
    pub expose_headers: Vec<HeaderName>,
    /// Whether cookies and credentials may be sent. Never with `*`.
    pub credentials: bool,
    /// How long a preflight may be remembered. Default: 10 min.
    pub max_age: Duration,
}
