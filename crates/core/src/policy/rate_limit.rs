//! How often a caller may ask, and all of them together.
//!
//! A [`RateLimiter`] holds several limits and a call passes all of them or takes from none: a limit that refuses must
//! not cost the caller, or everybody, what another one would have given (Envoy's rate limit service charges every
//! descriptor of a request although one of them is over its limit; one runaway client then drains the global limit).

mod bucket;
mod fields;
mod quota;
mod table;
mod window;

pub use quota::{Quota, QuotaError, Shape};

use self::bucket::Bucket;
use self::quota::{Meter, Rule, Ticks};
use self::table::KeyTable;
use self::window::Window;
use http::header::HeaderValue;
use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitPolicy {
    /// What it is called in headers and listings; printable ASCII.
    pub name: String,
    /// What it allows.
    pub quota: Quota,
    /// Whom it counts together.
    pub reach: Reach,
}

/// Whom a limit counts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Everybody.
    Global,
    /// Each key for itself.
    PerKey {
        /// Keys that are remembered at a time; [`KEYS_MAX`] suits most. A key takes 50 to 150 bytes and its own length
        /// while it is remembered. With more keys *in use*, newcomers share what others have used: limits get stricter,
        /// never looser.
        keys_max: usize,
    },
}

/// Keys that a limit remembers unless told otherwise.
pub const KEYS_MAX: usize = 65_536;

/// Several limits that a call must pass together.
///
/// Each limit has its own locks, held for the time of some arithmetic; a call takes those of its limits in their
/// order. A call with a known key allocates nothing.
#[derive(Debug)]
pub struct RateLimiter<K, S = RandomState> {
    start: Instant,
    hasher: S,
    limits: Box<[Limit<K>]>,
    policy_field: HeaderValue,
}

/// How a caller stands with one limit: the one with the fewest units left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which limit, by its place in [`RateLimiter::policies`].
    pub limit: usize,
    /// Units left.
    pub left: u32,
    /// Until there is one more; zero where all are there. Of a refusal: until the call would pass.
    pub wait: Duration,
}

impl Standing {
    /// Where no limit stands.
    const UNLIMITED: Self = Self { limit: 0, left: u32::MAX, wait: Duration::ZERO };
}

/// A call over a limit: the caller is told `quota-exceeded`, 429. Where several refuse, the one that does longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("over the rate limit; there is room again in {:?}", .0.wait)]
pub struct RateLimited(pub Standing);

/// Somebody who has been refused and is not yet back to all of its units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limited<K> {
    /// Who; `None` for everybody together.
    pub key: Option<K>,
    /// How it stands.
    pub standing: Standing,
    /// How often it was refused since it last had all of its units.
    pub refused: u32,
}

#[derive(Debug)]
struct Limit<K> {
    policy: LimitPolicy,
    field_prefix: Box<str>,
    meters: Meters<K>,
}

/// The rule of a limit, and what has been used.
#[derive(Debug)]
enum Meters<K> {
    GlobalBucket(bucket::BucketRule, Mutex<(Bucket, u32)>),
    GlobalWindow(window::WindowRule, Mutex<(Window, u32)>),
    KeyedBucket(bucket::BucketRule, KeyTable<K, Bucket>),
    KeyedWindow(window::WindowRule, KeyTable<K, Window>),
}

/// A call on its way through the limits.
struct Call<F> {
    at: Ticks,
    cost: u32,
    key_of: F,
}

impl<K, S: BuildHasher> RateLimiter<K, S> {
    /// A limiter whose hasher is `S`: seeded by something that callers cannot know, as `RandomState` is.
    ///
    /// # Errors
    /// Where a name cannot stand in a header, or there is no limit.
    pub fn new(policies: Vec<LimitPolicy>, start: Instant, hasher: S) -> Result<Self, QuotaError> {
        let policy_field = fields::policy(policies.iter())?;
        let limit = |policy: LimitPolicy| {
            let field_prefix = fields::standing_prefix(&policy)?;
            Ok(Limit { field_prefix, meters: Meters::new(&policy), policy })
        };
        let limits = policies.into_iter().map(limit).collect::<Result<_, QuotaError>>()?;
        Ok(Self { start, hasher, limits, policy_field })
    }

    /// Takes `cost` units of every limit, those of `key` where a limit is per key; or none of any.
    ///
    /// # Errors
    /// Where a limit has not as many left.
    pub fn check<Q>(&self, now: Instant, key: &Q, cost: u32) -> Result<Standing, RateLimited>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.check_each(now, cost, |_| key)
    }

    /// The same for those who do not ask how they stand.
    ///
    /// # Errors
    /// Where a limit has not as many left.
    pub fn admit<Q>(&self, now: Instant, key: &Q, cost: u32) -> Result<(), RateLimited>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.pass::<false, _, _>(0, &Call { at: self.ticks(now), cost, key_of: |_| key }, None).map(drop)
    }

    /// The same where limits have keys of their own (tenant, user, address): `key_of` is asked by the limit's place.
    ///
    /// # Errors
    /// Where a limit has not as many left.
    pub fn check_each<'q, Q>(
        &self,
        now: Instant,
        cost: u32,
        key_of: impl Fn(usize) -> &'q Q,
    ) -> Result<Standing, RateLimited>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized + 'q,
    {
        self.pass::<true, _, _>(0, &Call { at: self.ticks(now), cost, key_of }, None)
    }

    /// Passes the limits from `place` on. Each level holds its limit's lock while the rest decides, so that what was
    /// found is still there when it is taken.
    ///
    /// Not `TOLD`, the standing of a call that passes is not worked out.
    fn pass<'q, const TOLD: bool, Q, F>(
        &self,
        place: usize,
        call: &Call<F>,
        refusal: Option<Standing>,
    ) -> Result<Standing, RateLimited>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized + 'q,
        F: Fn(usize) -> &'q Q,
    {
        let Some(limit) = self.limits.get(place) else {
            return refusal.map_or(Ok(Standing::UNLIMITED), |refusal| Err(RateLimited(refusal)));
        };
        let hashed = || {
            let key = (call.key_of)(place);
            (self.hasher.hash_one(key), key)
        };
        match &limit.meters {
            Meters::GlobalBucket(rule, meter) => {
                let (meter, refused) = &mut *meter.lock().unwrap_or_else(PoisonError::into_inner);
                self.meet::<TOLD, _, _, _>(place, (rule, meter, refused), call, refusal)
            }
            Meters::GlobalWindow(rule, meter) => {
                let (meter, refused) = &mut *meter.lock().unwrap_or_else(PoisonError::into_inner);
                self.meet::<TOLD, _, _, _>(place, (rule, meter, refused), call, refusal)
            }
            Meters::KeyedBucket(rule, table) => table.with(rule, call.at, hashed(), |entry| {
                self.meet::<TOLD, _, _, _>(place, (rule, &mut entry.meter, &mut entry.refused), call, refusal)
            }),
            Meters::KeyedWindow(rule, table) => table.with(rule, call.at, hashed(), |entry| {
                self.meet::<TOLD, _, _, _>(place, (rule, &mut entry.meter, &mut entry.refused), call, refusal)
            }),
        }
    }

    /// Peeks at one meter, asks the rest, and takes only if nobody refused.
    // Each `pass` is one function then; what calls each other is not inlined otherwise. Worth a tenth of a call.
    #[inline(always)]
    fn meet<'q, const TOLD: bool, Q, F, M: Meter>(
        &self,
        place: usize,
        (rule, meter, refused): (&M::Rule, &mut M, &mut u32),
        call: &Call<F>,
        refusal: Option<Standing>,
    ) -> Result<Standing, RateLimited>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized + 'q,
        F: Fn(usize) -> &'q Q,
    {
        if let Err(wait) = meter.peek(rule, call.at, call.cost) {
            *refused = refused.saturating_add(1);
            let own = Standing { limit: place, left: meter.left(rule, call.at).0, wait: quota::duration(wait) };
            let longest = refusal.filter(|other| other.wait >= own.wait).unwrap_or(own);
            return self.pass::<TOLD, _, _>(place + 1, call, Some(longest));
        }
        // Most have one limit: it need not call itself to find that out.
        let tightest = match refusal {
            None if place + 1 == self.limits.len() => Standing::UNLIMITED,
            refusal => self.pass::<TOLD, _, _>(place + 1, call, refusal)?,
        };
        if *refused > 0 && meter.idle_in(rule, call.at) == 0 {
            *refused = 0;
        }
        meter.take(rule, call.at, call.cost);
        if !TOLD {
            return Ok(Standing::UNLIMITED);
        }
        let (left, wait) = meter.left(rule, call.at);
        if left > tightest.left {
            return Ok(tightest);
        }
        Ok(Standing { limit: place, left, wait: quota::duration(wait) })
    }

    fn ticks(&self, now: Instant) -> Ticks {
        quota::ticks(now.saturating_duration_since(self.start))
    }
}

impl<K, S> RateLimiter<K, S> {
    /// The limits, in their order.
    pub fn policies(&self) -> impl ExactSizeIterator<Item = &LimitPolicy> {
        self.limits.iter().map(|limit| &limit.policy)
    }

    /// The value of `RateLimit-Policy`: all limits, the same on every answer.
    #[must_use]
    pub const fn policy_field(&self) -> &HeaderValue {
        &self.policy_field
    }

    /// The value of `RateLimit`: how the caller stands, as [`check`](RateLimiter::check) said.
    #[must_use]
    pub fn field(&self, standing: &Standing) -> Option<HeaderValue> {
        fields::standing(&self.limits.get(standing.limit)?.field_prefix, standing.left, standing.wait)
    }
}

impl<K: Clone, S: BuildHasher> RateLimiter<K, S> {
    /// Who is limited, most often refused first, at most `count_max` of them. Looks at every key, holding up no call for
    /// longer than eight keys take.
    #[must_use]
    pub fn limited(&self, now: Instant, count_max: usize) -> Vec<Limited<K>> {
        let (at, mut found) = (self.ticks(now), Vec::new());
        for (place, limit) in self.limits.iter().enumerate() {
            let mut note = |one: Option<Limited<K>>| {
                found.extend(one);
                // Cut down now and then, so that this, too, is bounded by what was asked for.
                if found.len() > 2 * count_max.max(32) {
                    keep_most_refused(&mut found, count_max);
                }
            };
            match &limit.meters {
                Meters::GlobalBucket(rule, meter) => note(global(place, rule, meter, at)),
                Meters::GlobalWindow(rule, meter) => note(global(place, rule, meter, at)),
                Meters::KeyedBucket(rule, table) => table.for_each(|entry| {
                    note(listed(place, Some(&entry.key), (rule, &mut entry.meter, entry.refused), at));
                }),
                Meters::KeyedWindow(rule, table) => table.for_each(|entry| {
                    note(listed(place, Some(&entry.key), (rule, &mut entry.meter, entry.refused), at));
                }),
            }
        }
        keep_most_refused(&mut found, count_max);
        found
    }
}

fn keep_most_refused<K>(found: &mut Vec<Limited<K>>, count_max: usize) {
    found.sort_by_key(|one| std::cmp::Reverse(one.refused));
    found.truncate(count_max);
}

fn global<K, M: Meter>(place: usize, rule: &M::Rule, meter: &Mutex<(M, u32)>, at: Ticks) -> Option<Limited<K>>
where
    K: Clone,
{
    let (meter, refused) = &mut *meter.lock().unwrap_or_else(PoisonError::into_inner);
    listed(place, None, (rule, meter, *refused), at)
}

fn listed<K: Clone, M: Meter>(
    limit: usize,
    key: Option<&K>,
    (rule, meter, refused): (&M::Rule, &mut M, u32),
    at: Ticks,
) -> Option<Limited<K>> {
    if refused == 0 || meter.idle_in(rule, at) == 0 {
        return None;
    }
    let (left, wait) = meter.left(rule, at);
    Some(Limited { key: key.cloned(), standing: Standing { limit, left, wait: quota::duration(wait) }, refused })
}

impl<K> Meters<K> {
    fn new(policy: &LimitPolicy) -> Self {
        match (policy.quota.rule(), policy.reach) {
            (Rule::Bucket(rule), Reach::Global) => Self::GlobalBucket(rule, Mutex::new((Bucket::fresh(), 0))),
            (Rule::Window(rule), Reach::Global) => Self::GlobalWindow(rule, Mutex::new((Window::fresh(), 0))),
            (Rule::Bucket(rule), Reach::PerKey { keys_max }) => Self::KeyedBucket(rule, KeyTable::new(keys_max)),
            (Rule::Window(rule), Reach::PerKey { keys_max }) => Self::KeyedWindow(rule, KeyTable::new(keys_max)),
        }
    }
}

#[cfg(test)]
mod tests;
