//! What stands between callers and a service: nothing, a plain retry, or semel's policies.

use std::{
    hash::{BuildHasherDefault, DefaultHasher},
    sync::Arc,
    time::{Duration, Instant},
};

use http::HeaderMap;
use semel_core::headers::SEMEL_ATTEMPT;
use semel_core::policy::{
    admission::{Admission, AdmissionPolicy},
    backoff::{Backoff, Jitter},
    balance::{BalancePolicy, Balancer},
    breaker::BreakerPolicy,
    budget::{QuotaBudget, RetryBudget, WindowBudget},
    deadline::Deadline,
    endpoint::{Endpoint, EndpointLease},
    hedge::{HedgePolicy, Latencies},
    outlier::OutlierPolicy,
    ownership::{AttemptMark, attempts_here},
    rate_limit::{LimitPolicy, RateLimiter},
    retry::{Repeatable, Retries, RetryPolicy},
    throttle::{Throttle, ThrottlePermit, ThrottlePolicy},
};

use super::clock::Chance;

/// One of the three that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One attempt and a timeout.
    Nothing,
    /// What is usually built first: three attempts, 100 ms and 200 ms apart.
    PlainRetry,
    /// All of semel's policies.
    Semel,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Nothing, Self::PlainRetry, Self::Semel];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "no policy",
            Self::PlainRetry => "plain retry",
            Self::Semel => "semel",
        }
    }
}

/// How the two simple stacks choose an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SimpleBalance {
    RoundRobin,
    /// Whoever has the fewest calls under way.
    LeastBusy,
}

/// The values of a stack.
#[derive(Clone)]
pub(super) struct Settings {
    /// After which an attempt is given up.
    pub(super) attempt_timeout: Duration,
    /// After which a call is, by its caller.
    pub(super) total_timeout: Duration,
    pub(super) simple_balance: SimpleBalance,
    /// semel's only.
    pub(super) limits: Vec<LimitPolicy>,
    /// Whether semel's stack hedges.
    pub(super) hedges: bool,
    /// Whether semel's stack has a client throttle.
    pub(super) throttles: bool,
    /// Whether it has breakers and outlier ejection.
    pub(super) breaks: bool,
    /// Whether its budget is the AWS SDKs' quota, not a share of the calls.
    pub(super) has_quota: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            attempt_timeout: Duration::from_secs(1),
            total_timeout: Duration::from_secs(3),
            simple_balance: SimpleBalance::RoundRobin,
            limits: Vec::new(),
            hedges: false,
            throttles: false,
            breaks: true,
            has_quota: false,
        }
    }
}

/// Seeded by nothing: runs are to be repeated.
pub(super) type FixedHasher = BuildHasherDefault<DefaultHasher>;

/// A stack at work.
pub(super) struct Stack {
    pub(super) settings: Settings,
    pub(super) budget: RetryBudget,
    pub(super) semel: Option<Semel>,
    retry: RetryPolicy,
    endpoints: Vec<Arc<Endpoint>>,
    /// Of the simple stacks: whose turn it is, and how many calls are under way at each endpoint.
    turn: usize,
    under_way: Vec<usize>,
}

/// An endpoint that was chosen, and what is to be told how it went.
pub(super) type Chosen = (usize, Option<EndpointLease<Arc<Endpoint>>>, Option<ThrottlePermit<Arc<Throttle>>>);

/// What only semel's stack has.
pub(super) struct Semel {
    pub(super) limiter: Option<RateLimiter<u32, FixedHasher>>,
    pub(super) admission: Admission<usize>,
    pub(super) hedges: bool,
    pub(super) hedge: HedgePolicy,
    pub(super) latencies: Latencies,
    throttle: Option<Arc<Throttle>>,
    balancer: Balancer,
}

impl Stack {
    pub(super) fn new(kind: Kind, settings: Settings, endpoints: usize, start: Instant, chance: &mut Chance) -> Self {
        let (breaker, outlier) = if settings.breaks {
            (BreakerPolicy::default(), OutlierPolicy::default())
        } else {
            let never =
                BreakerPolicy { requests_min: u32::MAX, consecutive_failures: None, ..BreakerPolicy::default() };
            (never, OutlierPolicy { consecutive_failures: None, hosts_min: usize::MAX, ..OutlierPolicy::default() })
        };
        let mut endpoint = || Arc::new(Endpoint::new(breaker, &outlier, start, chance.bits()));
        let plain = Backoff {
            base: Duration::from_millis(100),
            base_throttled: Duration::from_millis(100),
            jitter: Jitter::Fixed,
            ..Backoff::default()
        };
        let unlimited = RetryBudget::Window(WindowBudget::new(start, 10.0, 1_000_000));
        let (retry, budget, semel) = match kind {
            Kind::Nothing => (RetryPolicy { attempts_max: 1, backoff: plain }, unlimited, None),
            Kind::PlainRetry => (RetryPolicy { attempts_max: 3, backoff: plain }, unlimited, None),
            Kind::Semel => {
                let share = WindowBudget::new(start, WindowBudget::RATIO, WindowBudget::RETRIES_PER_SECOND_MIN);
                let quota = || RetryBudget::Quota(QuotaBudget::full());
                let budget = if settings.has_quota { quota() } else { RetryBudget::Window(share) };
                (RetryPolicy::default(), budget, Some(Semel::new(&settings, outlier, start)))
            }
        };
        Self {
            retry,
            budget,
            endpoints: (0..endpoints).map(|_| endpoint()).collect(),
            semel,
            turn: 0,
            under_way: vec![0; endpoints],
            settings,
        }
    }

    /// The retries of a call that is given up at `deadline`, and whose caller makes up to `attempts_max` of it.
    pub(super) fn retries(&self, deadline: Instant, attempts_max: u32) -> Retries {
        let mut policy = self.retry;
        if self.semel.is_some() {
            let mut headers = HeaderMap::new();
            headers.insert(SEMEL_ATTEMPT, AttemptMark::new(1, attempts_max).to_header_value());
            policy.attempts_max = attempts_here(&headers, policy.attempts_max);
        }
        Retries::new(policy, Repeatable::Always, true, Deadline::at(deadline))
    }

    /// Where an attempt goes, if anywhere; `tried` has a bit for each endpoint.
    pub(super) fn choose(&mut self, now: Instant, tried: u64, rand: f64, bits: u64) -> Option<Chosen> {
        if let Some(semel) = &self.semel {
            let throttle = match &semel.throttle {
                Some(throttle) => Some(Throttle::try_acquire(Arc::clone(throttle), now, rand).ok()?),
                None => None,
            };
            let was_tried = |endpoint| tried >> endpoint & 1 == 1;
            let picked = semel.balancer.pick(&self.endpoints, was_tried, now, bits).ok()?;
            return Some((picked.index, Some(picked.lease), throttle));
        }
        let endpoint = match self.settings.simple_balance {
            SimpleBalance::RoundRobin => self.turn,
            SimpleBalance::LeastBusy => {
                let from_turn = (self.turn..).take(self.under_way.len()).map(|at| at % self.under_way.len());
                from_turn.min_by_key(|at| self.under_way[*at])?
            }
        };
        self.turn = (self.turn + 1) % self.under_way.len();
        self.under_way[endpoint] += 1;
        Some((endpoint, None, None))
    }

    /// An attempt is no longer under way there.
    pub(super) fn left(&mut self, endpoint: usize) {
        if self.semel.is_none() {
            self.under_way[endpoint] -= 1;
        }
    }
}

impl Semel {
    fn new(settings: &Settings, outlier: OutlierPolicy, start: Instant) -> Self {
        let limits = settings.limits.clone();
        let limiter = (!limits.is_empty()).then(|| RateLimiter::new(limits, start, FixedHasher::default()));
        let hedge = HedgePolicy::default();
        Self {
            limiter: limiter.transpose().expect("the scenarios' limits are limits"),
            admission: Admission::new(AdmissionPolicy::default(), start),
            throttle: settings.throttles.then(|| Arc::new(Throttle::new(ThrottlePolicy::default(), start))),
            balancer: Balancer::new(BalancePolicy::default(), outlier, start),
            latencies: Latencies::new(start, hedge.window),
            hedges: settings.hedges,
            hedge,
        }
    }
}
