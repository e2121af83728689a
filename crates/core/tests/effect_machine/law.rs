//! What must hold of every single step, said without looking at how `step` decides.

use std::{sync::Arc, time::Duration};

use semel_core::{
    effect::{
        AuditKind, Authority, Command, Fence, Moment, Next, OnUnknown, Outcome, Phase, Record, Refusal, Reply, State,
        Step, UnknownReason, step,
    },
    scope::EffectId,
    time::Timestamp,
};

/// Takes a step, checks it against the laws, and returns it with what stands afterwards.
pub(crate) fn lawful_step(
    id: EffectId,
    before: Option<&Record>,
    command: &Command,
    moment: Moment,
) -> (Step, Option<Record>) {
    let step = step(id, before, command, moment);
    let after = match &step.next {
        Next::Keep => before.cloned(),
        Next::Put(record) => Some((**record).clone()),
        Next::Delete => None,
    };
    let taken = Taken { id, before: standing(before, moment.now), command, moment, step: &step, after: after.as_ref() };
    taken.check();
    (step, after)
}

/// The record, if it means anything at this moment.
fn standing(record: Option<&Record>, now: Timestamp) -> Option<&Record> {
    record.filter(|record| record.phase(now) != Phase::Absent)
}

struct Taken<'a> {
    id: EffectId,
    before: Option<&'a Record>,
    command: &'a Command,
    moment: Moment,
    step: &'a Step,
    after: Option<&'a Record>,
}

impl Taken<'_> {
    fn check(&self) {
        self.replies_by_the_table();
        self.changes_only_what_it_may();
        self.keeps_what_is_settled();
        self.leaves_unknown_by_its_exits_only();
        self.moves_forward();
        self.writes_what_was_asked();
        self.leaves_a_trace();
    }

    fn replies_by_the_table(&self) {
        let expected = match self.before {
            Some(record) => expected(record, self.command, self.moment.now),
            None => match self.command {
                Command::Claim(_) => Reply::Applied,
                Command::Lapse | Command::Orphan { .. } => Reply::Unchanged,
                _ => Reply::Refused(Refusal::Absent),
            },
        };
        assert_eq!(self.step.reply, expected, "{self}");
    }

    /// What is refused or already so leaves the record, except for writing down that its lease is over.
    fn changes_only_what_it_may(&self) {
        if self.step.reply == Reply::Applied {
            assert_ne!(self.step.next, Next::Keep, "{self}");
            return;
        }
        if self.phase() == Phase::Lapsed {
            assert_eq!(self.after, Some(&self.lapsed()), "{self}");
        } else {
            assert_eq!(self.step.next, Next::Keep, "{self}");
        }
    }

    /// Settled, consumed or expired: no command changes it. Only time does.
    fn keeps_what_is_settled(&self) {
        if matches!(self.phase(), Phase::Settled | Phase::Consumed | Phase::Expired) {
            assert_eq!(self.after, self.before, "{self}");
        }
    }

    fn leaves_unknown_by_its_exits_only(&self) {
        let (Phase::Unknown | Phase::Lapsed, Some(before)) = (self.phase(), self.before) else { return };
        let current = fence_of(self.command) == Some(before.fence);
        match self.after.map(|after| &after.state) {
            Some(State::Unknown { .. }) => {}
            Some(State::Settled { .. } | State::Consumed { .. }) => {
                assert!(current && matches!(self.command, Command::Settle { .. }), "{self}");
            }
            Some(State::Open { .. }) => {
                let Command::Reopen { fingerprint, .. } = self.command else { panic!("{self}") };
                assert!(current && before.terms.on_unknown == OnUnknown::Retry, "{self}");
                assert_eq!(*fingerprint, before.fingerprint, "{self}");
                let upstream_keep = Duration::from_millis(before.terms.upstream_keep_ms);
                assert!(self.moment.now < before.claimed_at.plus(upstream_keep), "{self}");
                assert!(self.moment.now >= before.claimed_at, "{self}");
            }
            None => {
                let by = Command::Release { fence: before.fence, by: Authority::Probe };
                let released = matches!(self.command, Command::Release { by: Authority::Operator { .. }, .. });
                assert!(current && (released || *self.command == by), "{self}");
            }
            Some(State::Expired { .. }) => panic!("{self}"),
        }
    }

    /// Fences ascend, doubt is never forgotten, a request's identity never changes, a lapsed lease is never renewed.
    fn moves_forward(&self) {
        if let Some(after) = self.after.filter(|_| self.step.reply == Reply::Applied) {
            assert_eq!(after.id, self.id, "{self}");
            let opens = matches!(self.command, Command::Claim(_) | Command::Reopen { .. });
            assert_eq!(after.fence == self.moment.fence, opens, "{self}");
            assert_eq!(
                matches!(after.state, State::Open { .. }),
                opens || matches!(self.command, Command::Renew { .. })
            );
        }
        let Some(before) = self.before else { return };
        match self.after {
            Some(after) => {
                assert!(after.fence >= before.fence, "{self}");
                assert!(after.was_unknown || !before.was_unknown, "{self}");
                assert!(after.was_unknown || !matches!(after.state, State::Unknown { .. }), "{self}");
                assert!(after.attempts >= before.attempts, "{self}");
                assert_eq!((after.fingerprint, after.proof), (before.fingerprint, before.proof), "{self}");
                assert_eq!((after.claimed_at, &after.terms), (before.claimed_at, &before.terms), "{self}");
            }
            None => {
                // An owner takes back only what it has held without a doubt, and still holds.
                let Command::Release { by, .. } = self.command else { panic!("{self}") };
                if *by == Authority::Owner {
                    assert!(self.phase() == Phase::Open && !before.was_unknown, "{self}");
                }
            }
        }
        if self.phase() == Phase::Lapsed && matches!(self.command, Command::Renew { .. }) {
            assert!(matches!(self.after.unwrap().state, State::Unknown { .. }), "{self}");
        }
        let named = fence_of(self.command);
        if named.is_some_and(|fence| fence != before.fence) {
            let unmoved = self.after == self.before || self.after == Some(&self.lapsed());
            assert!(unmoved, "an old fence moved it: {self}");
        }
    }

    fn writes_what_was_asked(&self) {
        if self.step.reply != Reply::Applied {
            return;
        }
        let now = self.moment.now;
        let Some(after) = self.after else { return };
        match self.command {
            Command::Claim(claim) => {
                let state = State::Open { owner: claim.owner, lease_until: now.plus(claim.lease) };
                let claimed = Record {
                    id: self.id,
                    state,
                    fence: self.moment.fence,
                    fingerprint: claim.fingerprint,
                    proof: claim.proof,
                    terms: Arc::clone(&claim.terms),
                    claimed_at: now,
                    attempts: 0,
                    was_unknown: false,
                };
                assert_eq!(*after, claimed, "{self}");
            }
            Command::Reopen { owner, lease, .. } => {
                assert_eq!(after.state, State::Open { owner: *owner, lease_until: now.plus(*lease) }, "{self}");
                assert!(after.was_unknown, "{self}");
            }
            Command::Renew { lease, .. } => {
                let Some(Record { state: State::Open { owner, lease_until }, .. }) = self.before else {
                    panic!("{self}")
                };
                let lease_until = now.plus(*lease).max(*lease_until);
                assert_eq!(after.state, State::Open { owner: *owner, lease_until }, "{self}");
            }
            Command::Settle { outcome, by, attempts, .. } => {
                let until = now.plus(Duration::from_millis(after.terms.keep_ms));
                let marker_until = until.plus(Duration::from_millis(after.terms.marker_ms));
                let (by, at) = (by.clone(), now);
                let state = match outcome.clone() {
                    Outcome::Settled(answer) => State::Settled { answer, by, at, until, marker_until },
                    Outcome::Consumed(tombstone) => State::Consumed { tombstone, by, at, until, marker_until },
                };
                assert_eq!(after.state, state, "{self}");
                assert_eq!(after.attempts, self.before.unwrap().attempts.saturating_add(*attempts), "{self}");
            }
            Command::Import(record) => assert_eq!(Some(after), record.compacted(now).as_ref(), "{self}"),
            Command::GiveUp { reason, attempts, .. } => {
                assert_eq!(after.state, State::Unknown { since: now, reason: *reason }, "{self}");
                assert_eq!(after.attempts, self.before.unwrap().attempts.saturating_add(*attempts), "{self}");
            }
            Command::Lapse => assert_eq!(*after, self.lapsed(), "{self}"),
            Command::Orphan { .. } => assert!(matches!(after.state, State::Unknown { .. }), "{self}"),
            Command::Release { .. } => panic!("{self}"),
        }
    }

    /// What others than the owner do, and what contradicts the record, is on the audit log; nothing else is.
    fn leaves_a_trace(&self) {
        let kind = self.step.audit.as_ref().map(|event| event.kind);
        let expected = match (self.command, self.step.reply) {
            (Command::Settle { by, .. }, Reply::Applied) if *by != Authority::Owner => Some(AuditKind::Settled),
            (Command::Release { by, .. }, Reply::Applied) if *by != Authority::Owner => Some(AuditKind::Released),
            (Command::Settle { .. }, Reply::Refused(Refusal::Fenced)) => Some(AuditKind::Fenced),
            // It may run again, and somebody says that it did run.
            (Command::Settle { .. }, Reply::Refused(Refusal::Absent)) => Some(AuditKind::Contradicted),
            (Command::Settle { .. }, Reply::Refused(Refusal::NotFrom(_)))
                if self
                    .before
                    .is_some_and(|record| matches!(record.state, State::Settled { .. } | State::Consumed { .. })) =>
            {
                Some(AuditKind::Contradicted)
            }
            _ => None,
        };
        assert_eq!(kind, expected, "{self}");
        if let Some(event) = &self.step.audit {
            assert_eq!((event.id, Some(event.fence)), (Some(self.id), fence_of(self.command)), "{self}");
            assert_eq!(event.at, self.moment.now, "{self}");
        }
    }

    fn phase(&self) -> Phase {
        self.before.map_or(Phase::Absent, |record| record.phase(self.moment.now))
    }

    /// The record with its lapse written down.
    fn lapsed(&self) -> Record {
        let state = State::Unknown { since: self.moment.now, reason: UnknownReason::LeaseLapsed };
        Record { state, was_unknown: true, ..self.before.unwrap().clone() }
    }
}

impl std::fmt::Display for Taken<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?} on {:?} at {:?} came to {:?} and left {:?}",
            self.command, self.before, self.moment, self.step.reply, self.after
        )
    }
}

/// The claim that a command speaks for.
pub(crate) fn fence_of(command: &Command) -> Option<Fence> {
    match command {
        Command::Reopen { fence, .. }
        | Command::Renew { fence, .. }
        | Command::Settle { fence, .. }
        | Command::Release { fence, .. }
        | Command::GiveUp { fence, .. } => Some(*fence),
        Command::Claim(_) | Command::Import(_) | Command::Lapse | Command::Orphan { .. } => None,
    }
}

/// The contract's table of replies, for a record that stands.
fn expected(record: &Record, command: &Command, now: Timestamp) -> Reply {
    use Authority::{Operator, Owner, Probe, Upstream};
    use Phase::{Consumed, Expired, Lapsed, Open, Settled, Unknown};
    let phase = record.phase(now);
    // To who speaks for it, a lapsed claim is an unknown one.
    let seen = if phase == Lapsed { Unknown } else { phase };
    let refused = Reply::Refused;
    if fence_of(command).is_some_and(|fence| fence != record.fence) {
        return refused(Refusal::Fenced);
    }
    let kept = |outcome: &Outcome| match (&record.state, outcome) {
        (State::Settled { answer, .. }, Outcome::Settled(other)) => answer == other,
        (State::Consumed { tombstone, .. }, Outcome::Consumed(other)) => tombstone == other,
        _ => false,
    };
    match (command, seen) {
        (Command::Claim(_), _) => refused(Refusal::Exists),
        (Command::Import(_), _) => unreachable!("nothing is taken over in these histories"),
        (Command::Lapse, _) if phase == Lapsed => Reply::Applied,
        (Command::Orphan { .. }, _) if phase == Lapsed => Reply::Applied,
        (Command::Orphan { survivor }, Open) => match record.state {
            State::Open { owner, .. } if owner != *survivor => Reply::Applied,
            _ => Reply::Unchanged,
        },
        (Command::Lapse | Command::Orphan { .. }, _) => Reply::Unchanged,
        (Command::Renew { .. }, Open) => Reply::Applied,
        (Command::GiveUp { .. }, Open) => Reply::Applied,
        (Command::GiveUp { .. }, Unknown) => Reply::Unchanged,
        (Command::Settle { by: Owner | Upstream, .. }, Open) => Reply::Applied,
        (Command::Settle { .. }, Unknown) => Reply::Applied,
        (Command::Settle { outcome, .. }, Settled | Consumed | Expired) if kept(outcome) => Reply::Unchanged,
        (Command::Release { by: Owner, .. }, Open) if record.was_unknown => refused(Refusal::WasUnknown),
        (Command::Release { by: Owner, .. }, Open) => Reply::Applied,
        (Command::Release { by: Probe | Operator { .. }, .. }, Unknown) => Reply::Applied,
        (Command::Reopen { fingerprint, .. }, Unknown) => {
            // Exact, where times saturate: an upstream that remembers for ever has no last moment.
            let [now_ms, claimed_ms, keep_ms] =
                [now.as_millis(), record.claimed_at.as_millis(), record.terms.upstream_keep_ms].map(u128::from);
            if record.terms.on_unknown != OnUnknown::Retry {
                refused(Refusal::NotRetryable)
            } else if *fingerprint != record.fingerprint {
                refused(Refusal::OtherRequest)
            } else if now_ms < claimed_ms || now_ms >= claimed_ms + keep_ms {
                refused(Refusal::UpstreamForgot)
            } else {
                Reply::Applied
            }
        }
        _ => refused(Refusal::NotFrom(seen)),
    }
}
