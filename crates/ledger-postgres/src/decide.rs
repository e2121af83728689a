//! What a command does to what was loaded: decided by the core, written if it still stands.

use semel_core::effect::{
    AuditEvent, Authority, Command, Fence, Moment, Next, Phase, Record, Reply, State, UnknownReason, step,
};
use semel_core::time::Timestamp;
use semel_ledger::{LedgerError, codec};

use crate::client::Writes;
use crate::command::Apply;
use crate::row::{Live, Stored};
use crate::sql::{Id, bigint, millis, number};

/// Stands for the fence that the database will give.
const TO_BE_GIVEN: Fence = Fence(0);

/// What becomes of a command that was loaded.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Nothing is written.
    Answer(Reply, Option<Box<Record>>),
    /// This is written, if it still holds.
    Write(Box<Decision>),
    /// The key is absent: the database decides.
    Call,
    /// There is nothing to take back.
    Forget,
}

/// A write, and what is told once it is made.
#[derive(Debug)]
pub(crate) struct Decision {
    action: Action,
    /// The fence and revision of the row that it was decided on.
    on: (Fence, Live),
    /// The decision was right at the moment of the load; from this moment on it might not be.
    holds_until: Timestamp,
    audit: Option<AuditEvent>,
    pub(crate) reply: Reply,
    /// What stands afterwards.
    pub(crate) record: Option<Record>,
}

/// What is written. The numbers are those of the schema's `write`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Note = 0,
    Put = 1,
    PutAnew = 2,
    Settle = 3,
    Release = 4,
    Touch = 5,
    Import = 6,
}

/// Decides `command` on the rows found under its id at the store's `now`.
///
/// # Errors
/// When the record cannot be read back.
pub(crate) fn decide(apply: &Apply, rows: &[Stored], now: Timestamp) -> Result<Verdict, LedgerError> {
    let current = rows.iter().cloned().reduce(Stored::newer);
    let record = match &current {
        Some(stored) => stored.standing(now)?,
        None => None,
    };
    let on = current.as_ref().map_or((Fence(0), NOWHERE), |stored| (stored.fence, stored.live.unwrap_or(NOWHERE)));
    if apply.take_back {
        return Ok(take_back(apply, record, on, now));
    }
    if apply.doubt
        && let Some(decision) = own_trace(apply, rows, record.as_ref(), on, now)
    {
        return Ok(Verdict::Write(Box::new(decision)));
    }
    if record.is_none() && matches!(apply.command, Command::Claim(_)) {
        return Ok(Verdict::Call);
    }
    Ok(decide_on(apply, &apply.command, record, on, now))
}

/// The place of what is in no live row.
const NOWHERE: Live = Live { revision: -1, token: 0 };

fn decide_on(apply: &Apply, command: &Command, record: Option<Record>, on: (Fence, Live), now: Timestamp) -> Verdict {
    let step = step(apply.id, record.as_ref(), command, Moment { now, fence: TO_BE_GIVEN });
    let holds_until = holds_until(command, record.as_ref(), now);
    let (action, after) = match step.next {
        // What was repeated because its answer was lost must be durable before it is answered.
        Next::Keep if apply.doubt && step.reply == Reply::Unchanged => (Action::Touch, record),
        Next::Keep if step.audit.is_none() => return Verdict::Answer(step.reply, record.map(Box::new)),
        Next::Keep => (Action::Note, record),
        Next::Put(put) if matches!(command, Command::Import(_)) => (Action::Import, Some(*put)),
        Next::Put(put) if !put.is_live() => (Action::Settle, Some(*put)),
        Next::Put(put) if put.fence == TO_BE_GIVEN => (Action::PutAnew, Some(*put)),
        Next::Put(put) => (Action::Put, Some(*put)),
        Next::Delete => (Action::Release, None),
    };
    let holds_until = if matches!(action, Action::Note | Action::Touch) { Timestamp::NEVER } else { holds_until };
    let decision = Decision { action, on, holds_until, audit: step.audit, reply: step.reply, record: after };
    Verdict::Write(Box::new(decision))
}

/// Until when time alone does not change what the command would do.
fn holds_until(command: &Command, record: Option<&Record>, now: Timestamp) -> Timestamp {
    let Some(record) = record else { return Timestamp::NEVER };
    match (&record.state, command) {
        (State::Open { lease_until, .. }, _) if *lease_until > now => *lease_until,
        (State::Unknown { .. }, Command::Reopen { .. }) => {
            record.claimed_at.plus(std::time::Duration::from_millis(record.terms.upstream_keep_ms))
        }
        _ => Timestamp::NEVER,
    }
}

/// What this very command did when its answer was lost, if that can be seen. It is answered after one more commit, which
/// is acknowledged only when everything before it is as durable.
fn own_trace(
    apply: &Apply,
    rows: &[Stored],
    record: Option<&Record>,
    on: (Fence, Live),
    now: Timestamp,
) -> Option<Decision> {
    let holds_until = match (&apply.command, record) {
        (Command::Claim(_) | Command::Reopen { .. }, Some(record))
            if on.1.token == apply.token && record.phase(now) == Phase::Open =>
        {
            holds_until(&apply.command, Some(record), now)
        }
        (Command::Release { fence, .. }, _)
            if rows.iter().any(|row| row.live.is_none() && row.fence == *fence && row.record.is_none()) =>
        {
            Timestamp::NEVER
        }
        _ => return None,
    };
    let record = record.cloned();
    Some(Decision { action: Action::Touch, on, holds_until, audit: None, reply: Reply::Applied, record })
}

/// A claim that nobody was told of: nothing was sent under it.
fn take_back(apply: &Apply, record: Option<Record>, on: (Fence, Live), now: Timestamp) -> Verdict {
    let Some(record) = record.filter(|record| on.1.token == apply.token && record.phase(now) == Phase::Open) else {
        return Verdict::Forget;
    };
    let fence = record.fence;
    // What was unknown before this claim is so again; nothing was added to it.
    let command = if record.was_unknown {
        Command::GiveUp { fence, reason: UnknownReason::Abandoned, attempts: 0 }
    } else {
        Command::Release { fence, by: Authority::Owner }
    };
    decide_on(apply, &command, Some(record), on, now)
}

impl Decision {
    /// Adds it to the arguments of a write.
    pub(crate) fn add_to(&self, writes: &mut Writes, apply: &Apply) {
        let record = self.record.as_ref();
        let state = record.map(|record| &record.state);
        let (mut lease_until, mut times, mut encoded, mut outcome) = (None, [None; 3], None, None);
        match (self.action, record, state) {
            (Action::Put | Action::PutAnew, Some(record), _) => {
                if let State::Open { lease_until: until, .. } = record.state {
                    lease_until = Some(millis(until));
                }
                encoded = Some(codec::encode_record(record));
            }
            (
                Action::Settle,
                Some(record),
                Some(
                    state @ (State::Settled { at, until, marker_until, .. }
                    | State::Consumed { at, until, marker_until, .. }),
                ),
            ) => {
                times = [*at, *until, *marker_until].map(|at| Some(millis(at)));
                outcome = Some(codec::encode_state(state));
                // The answer stands beside it.
                encoded = Some(codec::encode_record(&record.without_state()));
            }
            (Action::Import, Some(record), Some(state)) => match state {
                State::Open { .. } | State::Unknown { .. } => {
                    if let State::Open { lease_until: until, .. } = state {
                        lease_until = Some(millis(*until));
                    }
                    encoded = Some(codec::encode_record(record));
                }
                State::Settled { at, until, marker_until, .. } | State::Consumed { at, until, marker_until, .. } => {
                    times = [*at, *until, *marker_until].map(|at| Some(millis(at)));
                    outcome = Some(codec::encode_state(state));
                    encoded = Some(codec::encode_record(&record.without_state()));
                }
                State::Expired { marker_until } => {
                    times = [record.claimed_at, record.claimed_at, *marker_until].map(|at| Some(millis(at)));
                    encoded = Some(codec::encode_record(record));
                }
            },
            _ => {}
        }
        let (fence, Live { revision, .. }) = self.on;
        writes.ids.push(Id(apply.id));
        writes.actions.push(self.action as i32);
        writes.fences.push(number(fence));
        writes.revisions.push(revision);
        writes.holds_until.push(millis(self.holds_until));
        writes.tokens.push((self.action == Action::PutAnew).then_some(apply.token));
        writes.leases_until.push(lease_until);
        let [at, until, marker_until] = times;
        writes.ats.push(at);
        writes.untils.push(until);
        writes.markers_until.push(marker_until);
        writes.records.push(encoded);
        writes.outcomes.push(outcome);
        let imported = record.filter(|_| self.action == Action::Import);
        writes.imported_fences.push(imported.map(|record| number(record.fence)));
        writes.claimed_ats.push(imported.map(|record| millis(record.claimed_at)));
        writes.keeps.push(imported.map(|record| bigint(record.terms.keep_ms)));
        writes.markers.push(imported.map(|record| bigint(record.terms.marker_ms)));
        writes.audits.push(self.audit.as_ref().map(codec::encode_audit));
    }

    /// Whether those who wait for the effect have something to see.
    pub(crate) fn wakes(&self) -> bool {
        match self.action {
            Action::Note | Action::Touch | Action::PutAnew => false,
            Action::Settle | Action::Release | Action::Import => true,
            Action::Put => self.record.as_ref().is_some_and(|record| matches!(record.state, State::Unknown { .. })),
        }
    }
}
