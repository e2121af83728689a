//! What the ledger keeps about one effect.

use std::{fmt, sync::Arc, time::Duration};

use minicbor::{Decode, Encode};

use crate::{
    answer::{StoredAnswer, Tombstone},
    fingerprint::Fingerprint,
    scope::{EffectId, Proof},
    time::Timestamp,
};

/// A window of this many milliseconds never ends.
pub const FOREVER_MS: u64 = u64::MAX;

/// Everything the ledger knows about one effect. Later decisions use what stands here, not today's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Record {
    /// The key it is stored under, repeated so that a read can be checked against what was asked for.
    #[n(0)]
    pub id: EffectId,
    /// Where it is on its way.
    #[n(1)]
    pub state: State,
    /// The claim whose holder may move it; unique in the ledger, greater for a later claim.
    #[n(2)]
    pub fence: Fence,
    /// What the request was; a duplicate must be the same.
    #[n(3)]
    pub fingerprint: Fingerprint,
    /// Who may see the answer.
    #[n(4)]
    pub proof: Proof,
    /// The route's terms when it was claimed.
    #[cbor(n(5), with = "shared")]
    pub terms: Arc<Terms>,
    /// When it was first claimed: before its first byte was sent, so time since then is at least time since then.
    #[n(6)]
    pub claimed_at: Timestamp,
    /// Attempts made so far under all claims, as far as the ledger was told.
    #[n(7)]
    pub attempts: u32,
    /// Whether this or an earlier claim was ever unknown. Such an effect cannot be released by its owner any more.
    #[n(8)]
    pub was_unknown: bool,
}

impl Record {
    /// A copy without its state, in whose place stands an expired one: an answer is what makes a copy expensive, and engines
    /// keep it elsewhere.
    #[must_use]
    pub fn without_state(&self) -> Self {
        Self {
            id: self.id,
            state: State::Expired { marker_until: Timestamp::EPOCH },
            fence: self.fence,
            fingerprint: self.fingerprint,
            proof: self.proof,
            terms: Arc::clone(&self.terms),
            claimed_at: self.claimed_at,
            attempts: self.attempts,
            was_unknown: self.was_unknown,
        }
    }

    /// What the state means at `now`: leases lapse and windows end without anybody writing it down.
    #[must_use]
    pub fn phase(&self, now: Timestamp) -> Phase {
        match &self.state {
            State::Open { lease_until, .. } if *lease_until <= now => Phase::Lapsed,
            State::Open { .. } => Phase::Open,
            State::Unknown { .. } => Phase::Unknown,
            State::Settled { until, marker_until, .. } => Phase::of_window(Phase::Settled, *until, *marker_until, now),
            State::Consumed { until, marker_until, .. } => {
                Phase::of_window(Phase::Consumed, *until, *marker_until, now)
            }
            State::Expired { marker_until } => Phase::of_window(Phase::Expired, Timestamp::EPOCH, *marker_until, now),
        }
    }

    /// Whether the record must be kept whatever its age: open and unknown effects never expire.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        matches!(self.state, State::Open { .. } | State::Unknown { .. })
    }

    /// The record with its answer dropped once its window is over, or `None` when nothing needs to be kept.
    /// Engines call this while they compact.
    #[must_use]
    pub fn compacted(&self, now: Timestamp) -> Option<Self> {
        match (self.phase(now), &self.state) {
            (Phase::Absent, _) => None,
            (
                Phase::Expired,
                State::Settled { marker_until, .. }
                | State::Consumed { marker_until, .. }
                | State::Expired { marker_until },
            ) => Some(Self { state: State::Expired { marker_until: *marker_until }, ..self.clone() }),
            _ => Some(self.clone()),
        }
    }
}

/// Where an effect is on its way.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum State {
    /// Claimed; its owner is attempting it.
    #[n(0)]
    Open {
        /// The process that attempts it.
        #[n(0)]
        owner: Owner,
        /// When the owner's right ends unless renewed.
        #[n(1)]
        lease_until: Timestamp,
    },
    /// It may or may not have been executed; it waits for somebody who knows.
    #[n(1)]
    Unknown {
        /// Since when nobody knows.
        #[n(0)]
        since: Timestamp,
        /// Why nobody knows.
        #[n(1)]
        reason: UnknownReason,
    },
    /// Executed, and its answer is replayed.
    #[n(2)]
    Settled {
        /// What duplicates get.
        #[n(0)]
        answer: StoredAnswer,
        /// Who settled it.
        #[n(1)]
        by: Authority,
        /// When.
        #[n(2)]
        at: Timestamp,
        /// The end of the window in which the answer is replayed.
        #[n(3)]
        until: Timestamp,
        /// The end of the marker that refuses stale retries.
        #[n(4)]
        marker_until: Timestamp,
    },
    /// Executed, but the answer was not kept.
    #[n(3)]
    Consumed {
        /// What is left of the answer.
        #[n(0)]
        tombstone: Tombstone,
        /// Who settled it.
        #[n(1)]
        by: Authority,
        /// When.
        #[n(2)]
        at: Timestamp,
        /// The end of the window in which duplicates are told so.
        #[n(3)]
        until: Timestamp,
        /// The end of the marker that refuses stale retries.
        #[n(4)]
        marker_until: Timestamp,
    },
    /// A marker: the window is over and the answer is gone, but a stale retry must not run.
    #[n(4)]
    Expired {
        /// The end of the marker.
        #[n(0)]
        marker_until: Timestamp,
    },
}

/// A state at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing is known of this key: it may be claimed.
    Absent,
    /// Being attempted under a valid lease.
    Open,
    /// Open, but its lease is over: its owner is gone or asleep, so the outcome is unknown.
    Lapsed,
    /// Nobody knows.
    Unknown,
    /// The answer is replayed.
    Settled,
    /// Executed, answer not kept.
    Consumed,
    /// Executed, window over.
    Expired,
}

impl Phase {
    fn of_window(within: Self, until: Timestamp, marker_until: Timestamp, now: Timestamp) -> Self {
        if now < until {
            within
        } else if now < marker_until {
            Self::Expired
        } else {
            Self::Absent
        }
    }

    /// The word operators and metrics use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Open => "open",
            Self::Lapsed => "lapsed",
            Self::Unknown => "unknown",
            Self::Settled => "settled",
            Self::Consumed => "consumed",
            Self::Expired => "expired",
        }
    }
}

/// What a route promised when the effect was claimed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Terms {
    /// The route's stable scope id.
    #[n(0)]
    pub scope: Box<str>,
    /// The identity of the upstream that executes it.
    #[n(1)]
    pub upstream: Box<str>,
    /// What to do when nobody knows.
    #[n(2)]
    pub on_unknown: OnUnknown,
    /// How long the upstream remembers a forwarded key, in milliseconds; 0 when it does not.
    #[n(3)]
    pub upstream_keep_ms: u64,
    /// How long the answer is replayed after settlement, in milliseconds ([`FOREVER_MS`] for ever).
    #[n(4)]
    pub keep_ms: u64,
    /// How long a marker refuses stale retries after that, in milliseconds.
    #[n(5)]
    pub marker_ms: u64,
}

impl Terms {
    /// The end of the answer's window and of the marker for a settlement at `at`.
    #[must_use]
    pub fn window_from(&self, at: Timestamp) -> (Timestamp, Timestamp) {
        let until = at.plus(Duration::from_millis(self.keep_ms));
        (until, until.plus(Duration::from_millis(self.marker_ms)))
    }
}

/// What happens to an effect of unknown outcome when a duplicate comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum OnUnknown {
    /// Nothing runs until somebody who knows settles or releases it.
    #[n(0)]
    Hold,
    /// The upstream honours the forwarded key: a duplicate attempts it again.
    #[n(1)]
    Retry,
    /// The upstream's status resource is asked first.
    #[n(2)]
    Probe,
}

impl OnUnknown {
    /// The word of the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Retry => "retry",
            Self::Probe => "probe",
        }
    }
}

/// Why the outcome is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum UnknownReason {
    /// The last attempt's time was over.
    #[n(0)]
    Timeout,
    /// The connection was lost after bytes were written.
    #[n(1)]
    ConnectionLost,
    /// The answer broke off.
    #[n(2)]
    Truncated,
    /// What came back was not an answer.
    #[n(3)]
    Malformed,
    /// The upstream answered with a status that proves nothing.
    #[n(4)]
    Status,
    /// The upstream said that it does not know.
    #[n(5)]
    Marked,
    /// The owner's lease ended.
    #[n(6)]
    LeaseLapsed,
    /// The owner's process is gone.
    #[n(7)]
    OwnerGone,
    /// The owner gave up between claim and conclusion (a drain bound, a defect).
    #[n(8)]
    Abandoned,
}

impl UnknownReason {
    /// The word operators read.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::ConnectionLost => "connection-lost",
            Self::Truncated => "truncated",
            Self::Malformed => "malformed",
            Self::Status => "status",
            Self::Marked => "marked",
            Self::LeaseLapsed => "lease-lapsed",
            Self::OwnerGone => "owner-gone",
            Self::Abandoned => "abandoned",
        }
    }
}

/// A claim's fencing token: whoever holds the current one may move the effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Fence(#[n(0)] pub u64);

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One life of one gateway process: random, new at every start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Owner(#[n(0)] pub u64);

/// Who moves an effect.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Authority {
    /// The claim's owner, by what its attempts proved.
    #[n(0)]
    Owner,
    /// The upstream itself, by the token that it received with the request.
    #[n(1)]
    Upstream,
    /// The configured status resource.
    #[n(2)]
    Probe,
    /// A person.
    #[n(3)]
    Operator {
        /// Who, as the admin API knows them.
        #[n(0)]
        name: Box<str>,
        /// Why, in their words.
        #[n(1)]
        reason: Box<str>,
    },
}

impl Authority {
    /// The word operators read.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Upstream => "upstream",
            Self::Probe => "probe",
            Self::Operator { .. } => "operator",
        }
    }
}

/// How an executed effect is concluded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer is kept and replayed.
    Settled(StoredAnswer),
    /// The answer is not kept.
    Consumed(Tombstone),
}

/// Encodes [`Terms`] behind the `Arc` that all records of a route share.
mod shared {
    use std::sync::Arc;

    use minicbor::{
        Decode, Encode,
        decode::{self, Decoder},
        encode::{self, Encoder, Write},
    };

    use super::Terms;

    pub(super) fn encode<C, W: Write>(
        terms: &Arc<Terms>,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        terms.as_ref().encode(e, ctx)
    }

    pub(super) fn decode<'b, C>(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Arc<Terms>, decode::Error> {
        Terms::decode(d, ctx).map(Arc::new)
    }
}
