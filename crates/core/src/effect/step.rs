//! Who may move an effect where.

use std::{sync::Arc, time::Duration};

use minicbor::{Decode, Encode};

use super::{Authority, Fence, OnUnknown, Outcome, Owner, Phase, Record, State, Terms, UnknownReason};
use crate::{
    fingerprint::Fingerprint,
    scope::{EffectId, Proof},
    time::Timestamp,
};

/// Something somebody wants to do to an effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Take an absent key.
    Claim(Claim),
    /// Take an unknown effect to attempt it again, because its upstream honours the key.
    Reopen {
        /// The claim that ended unknown.
        fence: Fence,
        /// Who attempts it now.
        owner: Owner,
        /// For how long unless renewed.
        lease: Duration,
        /// What the duplicate asks for; it must be the same request.
        fingerprint: Fingerprint,
    },
    /// Keep the lease of an open effect.
    Renew {
        /// The claim.
        fence: Fence,
        /// For how long from now.
        lease: Duration,
    },
    /// Conclude: it was executed.
    Settle {
        /// The claim under which it was executed.
        fence: Fence,
        /// The answer, or what is left of it.
        outcome: Outcome,
        /// Who says so.
        by: Authority,
        /// Attempts to add to the record.
        attempts: u32,
    },
    /// Conclude: it was surely not executed, the key is usable again.
    Release {
        /// The claim under which it was not executed.
        fence: Fence,
        /// Who says so.
        by: Authority,
    },
    /// Conclude: nobody knows.
    GiveUp {
        /// The claim.
        fence: Fence,
        /// Why.
        reason: UnknownReason,
        /// Attempts to add to the record.
        attempts: u32,
    },
    /// Write down that the lease is over, if it is.
    Lapse,
    /// Write down that an owner other than this one is gone. Only for engines that can prove it: a lock that one
    /// process at a time can hold.
    Orphan {
        /// The owner that holds the lock now.
        survivor: Owner,
    },
    /// Take a record over from another ledger, as it is there. What stands here under a later claim, or further on
    /// under the same, is kept.
    Import(Box<Record>),
}

/// What a claim puts down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Who will attempt it.
    pub owner: Owner,
    /// For how long unless renewed.
    pub lease: Duration,
    /// What the request is.
    pub fingerprint: Fingerprint,
    /// Who may see the answer.
    pub proof: Proof,
    /// The route's terms.
    pub terms: Arc<Terms>,
}

/// The moment of a step, as the store sees it.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The store's clock.
    pub now: Timestamp,
    /// A fencing token never given before in this ledger, greater than all that were.
    pub fence: Fence,
}

/// What a command does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What to tell who asked.
    pub reply: Reply,
    /// What to write, if the record is still the one that was loaded.
    pub next: Next,
    /// What to add to the audit log in the same write.
    pub audit: Option<AuditEvent>,
}

/// The write that carries a step out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing changes.
    Keep,
    /// This record stands from now on.
    Put(Box<Record>),
    /// The key is absent from now on.
    Delete,
}

/// What a command came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Done.
    Applied,
    /// It already was so: a repeated command is harmless.
    Unchanged,
    /// Not done.
    Refused(Refusal),
}

/// Why a command was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The key is not absent: the record tells what it is.
    Exists,
    /// There is no such effect.
    Absent,
    /// A later claim holds it.
    Fenced,
    /// Not from this state, or not by this authority.
    NotFrom(Phase),
    /// The effect was unknown before, so its owner cannot take it back.
    WasUnknown,
    /// Its terms do not allow attempting it again.
    NotRetryable,
    /// The upstream may have forgotten the key by now.
    UpstreamForgot,
    /// The request is not the same.
    OtherRequest,
}

/// A line of the audit log: what was done by others than the owner, and what contradicts the record.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AuditEvent {
    /// When, on the store's clock.
    #[n(0)]
    pub at: Timestamp,
    /// To which effect; none for what concerns the whole ledger.
    #[n(1)]
    pub id: Option<EffectId>,
    /// Under which claim; 0 for what concerns the whole ledger.
    #[n(2)]
    pub fence: Fence,
    /// What.
    #[n(3)]
    pub kind: AuditKind,
    /// By whom.
    #[n(4)]
    pub by: Authority,
    /// What a reader needs to know beyond that; never a body or a key.
    #[n(5)]
    pub detail: Box<str>,
}

/// What an audit line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum AuditKind {
    /// Settled by somebody other than its owner.
    #[n(0)]
    Settled,
    /// Released by somebody other than its owner.
    #[n(1)]
    Released,
    /// A settlement that differs from what stands: the first one, or that the effect is absent.
    #[n(2)]
    Contradicted,
    /// A settlement under a claim that was taken over since.
    #[n(3)]
    Fenced,
    /// A scope's contract was changed by an operator.
    #[n(4)]
    Migrated,
    /// The ledger was repaired and lost something.
    #[n(5)]
    Repaired,
}

impl AuditKind {
    /// The word operators read.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Released => "released",
            Self::Contradicted => "contradicted",
            Self::Fenced => "fenced",
            Self::Migrated => "migrated",
            Self::Repaired => "repaired",
        }
    }
}

/// Decides what `command` does to the effect `id` that stands as `current`.
///
/// A lapsed lease counts as unknown for every command, and the step writes that down even when it refuses.
#[must_use]
pub fn step(id: EffectId, current: Option<&Record>, command: &Command, moment: Moment) -> Step {
    if let Command::Import(record) = command {
        return import(id, current, record, moment.now);
    }
    let Some(record) = current.filter(|r| r.phase(moment.now) != Phase::Absent) else {
        return match command {
            Command::Claim(claim) => Step::put(open(id, claim, moment)),
            Command::Lapse | Command::Orphan { .. } => Step::unchanged(),
            // Released by mistake, perhaps: somebody says that what may run again did run.
            Command::Settle { fence, outcome, by, .. } => {
                let detail = format!("{}, but the effect is absent", summary(outcome));
                let step = Step::refuse(Refusal::Absent);
                step.noting(id, *fence, AuditKind::Contradicted, by, moment.now, &detail)
            }
            _ => Step::refuse(Refusal::Absent),
        };
    };
    if record.phase(moment.now) == Phase::Lapsed {
        let lapsed = unknown(record, UnknownReason::LeaseLapsed, 0, moment.now);
        if matches!(command, Command::Lapse | Command::Orphan { .. }) {
            return Step::put(lapsed);
        }
        let step = step_standing(&lapsed, command, moment);
        return match step.next {
            Next::Keep => Step { next: Next::Put(Box::new(lapsed)), ..step },
            _ => step,
        };
    }
    step_standing(record, command, moment)
}

fn step_standing(record: &Record, command: &Command, moment: Moment) -> Step {
    match command {
        Command::Claim(_) => Step::refuse(Refusal::Exists),
        Command::Reopen { fence, owner, lease, fingerprint } => {
            reopen(record, *fence, *owner, *lease, fingerprint, moment)
        }
        Command::Renew { fence, lease } => renew(record, *fence, *lease, moment.now),
        Command::Settle { fence, outcome, by, attempts } => settle(record, *fence, outcome, by, *attempts, moment.now),
        Command::Release { fence, by } => release(record, *fence, by, moment.now),
        Command::GiveUp { fence, reason, attempts } => match record.state {
            _ if *fence != record.fence => Step::refuse(Refusal::Fenced),
            State::Open { .. } => Step::put(unknown(record, *reason, *attempts, moment.now)),
            State::Unknown { .. } => Step::unchanged(),
            _ => Step::refuse(Refusal::NotFrom(record.phase(moment.now))),
        },
        Command::Lapse => Step::unchanged(),
        Command::Orphan { survivor } => match record.state {
            State::Open { owner, .. } if owner != *survivor => {
                Step::put(unknown(record, UnknownReason::OwnerGone, 0, moment.now))
            }
            _ => Step::unchanged(),
        },
        // Decided before anything else: it is not about what stands here.
        Command::Import(_) => Step::refuse(Refusal::Exists),
    }
}

fn import(id: EffectId, current: Option<&Record>, record: &Record, now: Timestamp) -> Step {
    if record.id != id {
        return Step::refuse(Refusal::OtherRequest);
    }
    let Some(record) = record.compacted(now) else { return Step::unchanged() };
    let Some(current) = current.and_then(|current| current.compacted(now)) else { return Step::put(record) };
    let rank = |record: &Record| {
        let further = match record.state {
            State::Open { .. } => 0,
            State::Unknown { .. } => 1,
            State::Settled { .. } | State::Consumed { .. } | State::Expired { .. } => 2,
        };
        (record.fence, further)
    };
    match rank(&current).cmp(&rank(&record)) {
        _ if current == record => Step::unchanged(),
        std::cmp::Ordering::Less => Step::put(record),
        // A renewed lease, or one reason for another.
        std::cmp::Ordering::Equal if record.is_live() => Step::put(record),
        _ => Step::refuse(Refusal::Exists),
    }
}

fn open(id: EffectId, claim: &Claim, moment: Moment) -> Record {
    Record {
        id,
        state: State::Open { owner: claim.owner, lease_until: moment.now.plus(claim.lease) },
        fence: moment.fence,
        fingerprint: claim.fingerprint,
        proof: claim.proof,
        terms: Arc::clone(&claim.terms),
        claimed_at: moment.now,
        attempts: 0,
        was_unknown: false,
    }
}

fn unknown(record: &Record, reason: UnknownReason, attempts: u32, now: Timestamp) -> Record {
    Record {
        state: State::Unknown { since: now, reason },
        attempts: record.attempts.saturating_add(attempts),
        was_unknown: true,
        ..record.clone()
    }
}

fn reopen(
    record: &Record,
    fence: Fence,
    owner: Owner,
    lease: Duration,
    fingerprint: &Fingerprint,
    moment: Moment,
) -> Step {
    let refusal = if fence != record.fence {
        Some(Refusal::Fenced)
    } else if !matches!(record.state, State::Unknown { .. }) {
        Some(Refusal::NotFrom(record.phase(moment.now)))
    } else if record.terms.on_unknown != OnUnknown::Retry {
        Some(Refusal::NotRetryable)
    } else if *fingerprint != record.fingerprint {
        Some(Refusal::OtherRequest)
    } else if moment.now.since(record.claimed_at) >= Duration::from_millis(record.terms.upstream_keep_ms)
        || moment.now < record.claimed_at
    {
        // A clock that went back says nothing about how long ago the first byte was sent.
        Some(Refusal::UpstreamForgot)
    } else {
        None
    };
    if let Some(refusal) = refusal {
        return Step::refuse(refusal);
    }
    Step::put(Record {
        state: State::Open { owner, lease_until: moment.now.plus(lease) },
        fence: moment.fence,
        was_unknown: true,
        ..record.clone()
    })
}

fn renew(record: &Record, fence: Fence, lease: Duration, now: Timestamp) -> Step {
    match record.state {
        _ if fence != record.fence => Step::refuse(Refusal::Fenced),
        State::Open { owner, lease_until } => {
            let lease_until = lease_until.max(now.plus(lease));
            Step::put(Record { state: State::Open { owner, lease_until }, ..record.clone() })
        }
        _ => Step::refuse(Refusal::NotFrom(record.phase(now))),
    }
}

fn settle(record: &Record, fence: Fence, outcome: &Outcome, by: &Authority, attempts: u32, now: Timestamp) -> Step {
    if fence != record.fence {
        return Step::refuse(Refusal::Fenced).noting(record.id, fence, AuditKind::Fenced, by, now, "");
    }
    let allowed = match (&record.state, by) {
        (State::Open { .. } | State::Unknown { .. }, Authority::Owner | Authority::Upstream) => true,
        (State::Unknown { .. }, Authority::Probe | Authority::Operator { .. }) => true,
        (State::Settled { .. } | State::Consumed { .. }, _) if stands(&record.state, outcome) => {
            return Step::unchanged();
        }
        (State::Settled { .. } | State::Consumed { .. }, _) => {
            let step = Step::refuse(Refusal::NotFrom(record.phase(now)));
            return step.noting(record.id, fence, AuditKind::Contradicted, by, now, &summary(outcome));
        }
        _ => false,
    };
    if !allowed {
        return Step::refuse(Refusal::NotFrom(record.phase(now)));
    }
    let (until, marker_until) = record.terms.window_from(now);
    let state = match outcome.clone() {
        Outcome::Settled(answer) => State::Settled { answer, by: by.clone(), at: now, until, marker_until },
        Outcome::Consumed(tombstone) => State::Consumed { tombstone, by: by.clone(), at: now, until, marker_until },
    };
    let settled = Record { state, attempts: record.attempts.saturating_add(attempts), ..record.clone() };
    let step = Step::put(settled);
    match by {
        Authority::Owner => step,
        _ => step.noting(record.id, fence, AuditKind::Settled, by, now, &summary(outcome)),
    }
}

fn release(record: &Record, fence: Fence, by: &Authority, now: Timestamp) -> Step {
    let refusal = match (&record.state, by) {
        _ if fence != record.fence => Some(Refusal::Fenced),
        (State::Open { .. }, Authority::Owner) if record.was_unknown => Some(Refusal::WasUnknown),
        (State::Open { .. }, Authority::Owner) => None,
        (State::Unknown { .. }, Authority::Probe | Authority::Operator { .. }) => None,
        _ => Some(Refusal::NotFrom(record.phase(now))),
    };
    if let Some(refusal) = refusal {
        return Step::refuse(refusal);
    }
    let step = Step { reply: Reply::Applied, next: Next::Delete, audit: None };
    match by {
        Authority::Owner => step,
        _ => step.noting(record.id, fence, AuditKind::Released, by, now, ""),
    }
}

fn stands(state: &State, outcome: &Outcome) -> bool {
    match (state, outcome) {
        (State::Settled { answer, .. }, Outcome::Settled(other)) => answer == other,
        (State::Consumed { tombstone, .. }, Outcome::Consumed(other)) => tombstone == other,
        _ => false,
    }
}

fn summary(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Settled(answer) => format!("status {}", answer.status),
        Outcome::Consumed(tombstone) => format!("status {}, answer not kept", tombstone.status),
    }
}

impl Step {
    fn put(record: Record) -> Self {
        Self { reply: Reply::Applied, next: Next::Put(Box::new(record)), audit: None }
    }

    fn unchanged() -> Self {
        Self { reply: Reply::Unchanged, next: Next::Keep, audit: None }
    }

    fn refuse(refusal: Refusal) -> Self {
        Self { reply: Reply::Refused(refusal), next: Next::Keep, audit: None }
    }

    fn noting(self, id: EffectId, fence: Fence, kind: AuditKind, by: &Authority, at: Timestamp, detail: &str) -> Self {
        let audit = AuditEvent { at, id: Some(id), fence, kind, by: by.clone(), detail: detail.into() };
        Self { audit: Some(audit), ..self }
    }
}
