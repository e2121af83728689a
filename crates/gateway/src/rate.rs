//! How often callers of a route may ask: before the ledger is, so that a refusal burns no key.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::time::Duration;

use http::Response;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use semel_config::{RATES_MAX, Rate, RateBy};
use semel_core::dialect::Dialect;
use semel_core::headers::number;
use semel_core::policy::pushback::pushback_seconds;
use semel_core::policy::rate_limit::{KEYS_MAX, LimitPolicy, RateLimited, RateLimiter, Reach, Standing};
use semel_core::problem::{Problem, ProblemKind};

use crate::body::ResponseBody;
use crate::clock;
use crate::problem;
use crate::random;

/// What the limits allow (draft-ietf-httpapi-ratelimit-headers-10).
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// How the caller stands with the tightest of them.
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// A route's limits, over all runtimes.
#[derive(Debug)]
pub struct Rates {
    limiter: RateLimiter<RateKey>,
    by: Vec<RateBy>,
    /// Credentials are remembered as a number that only this process can make.
    seed: RandomState,
}

/// Whom a request counts for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum RateKey {
    Everyone,
    Address(IpAddr),
    Credential(u64),
    Header(Option<HeaderValue>),
}

/// A caller that was refused and is not yet back to all that it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitedCaller {
    /// The route's name.
    pub route: String,
    /// The limit's name: whom it counts together.
    pub limit: String,
    /// Who, as far as that may be shown: an address, a mark that stands for a credential, the beginning of a header.
    pub who: String,
    /// Refusals since it last had all of its units.
    pub refused: u32,
    /// Units left.
    pub left: u32,
    /// Until there is one more.
    pub wait: Duration,
}

impl Rates {
    /// For these limits; none where there are none.
    #[must_use]
    pub fn new(rates: &[Rate]) -> Option<Self> {
        if rates.is_empty() {
            return None;
        }
        let policy = |rate: &Rate| LimitPolicy {
            name: rate.by.to_string(),
            quota: rate.quota,
            reach: match rate.by {
                RateBy::Everyone => Reach::Global,
                _ => Reach::PerKey { keys_max: KEYS_MAX },
            },
        };
        let policies = rates.iter().take(RATES_MAX).map(policy).collect();
        let limiter = RateLimiter::new(policies, clock::now(), RandomState::new()).ok()?;
        Some(Self { limiter, by: rates.iter().map(|rate| rate.by.clone()).collect(), seed: RandomState::new() })
    }

    /// Takes one request from every limit, or from none.
    ///
    /// # Errors
    /// Where a limit has nothing left.
    pub fn check(&self, headers: &HeaderMap, peer: IpAddr) -> Result<Standing, RateLimited> {
        let mut keys = [const { RateKey::Everyone }; RATES_MAX];
        for (key, by) in keys.iter_mut().zip(&self.by) {
            *key = self.key(by, headers, peer);
        }
        self.limiter.check_each(clock::now(), 1, |place| &keys[place])
    }

    /// Tells the caller of the limits and how it stands. An upstream's own stay: the fields are lists.
    pub fn tell(&self, standing: &Standing, headers: &mut HeaderMap) {
        headers.append(RATELIMIT_POLICY, self.limiter.policy_field().clone());
        if let Some(field) = self.limiter.field(standing) {
            headers.append(RATELIMIT, field);
        }
    }

    /// The answer to a caller over a limit.
    pub fn refuse(&self, limited: &RateLimited, dialect: &Dialect) -> Response<ResponseBody> {
        let mut response = problem::respond(&Problem::new(ProblemKind::QuotaExceeded), dialect);
        // However long it is: an earlier call would be refused again.
        let seconds = pushback_seconds(limited.0.wait, random::unit());
        response.headers_mut().insert(RETRY_AFTER, number(seconds.into()));
        self.tell(&limited.0, response.headers_mut());
        response
    }

    /// Who is limited on the route of this name, most often refused first, at most `count_max` of them.
    #[must_use]
    pub fn limited(&self, route: &str, count_max: usize) -> Vec<LimitedCaller> {
        let limited = self.limiter.limited(clock::now(), count_max);
        let shown = limited.into_iter().map(|one| LimitedCaller {
            route: route.to_owned(),
            limit: self.by.get(one.standing.limit).map(ToString::to_string).unwrap_or_default(),
            who: one.key.map_or_else(|| "everyone".to_owned(), |key| key.shown()),
            refused: one.refused,
            left: one.standing.left,
            wait: one.standing.wait,
        });
        shown.collect()
    }

    fn key(&self, by: &RateBy, headers: &HeaderMap, peer: IpAddr) -> RateKey {
        match by {
            RateBy::Everyone => RateKey::Everyone,
            RateBy::Address => RateKey::Address(peer.to_canonical()),
            RateBy::Header(name) => RateKey::Header(headers.get(name).cloned()),
            RateBy::Caller => match headers.get(AUTHORIZATION) {
                Some(credential) => RateKey::Credential(self.seed.hash_one(credential)),
                None => RateKey::Address(peer.to_canonical()),
            },
        }
    }
}

impl RateKey {
    fn shown(&self) -> String {
        /// A header may be a secret: that much of it tells callers apart.
        const SHOWN: usize = 8;
        match self {
            Self::Everyone => "everyone".to_owned(),
            Self::Address(address) => address.to_string(),
            Self::Credential(mark) => format!("credential {mark:016x}"),
            Self::Header(None) => "without it".to_owned(),
            Self::Header(Some(value)) => match value.to_str() {
                Ok(text) if text.len() <= SHOWN => text.to_owned(),
                Ok(text) => format!("{}…", &text[..SHOWN]),
                Err(_) => "(not text)".to_owned(),
            },
        }
    }
}
