//! What a command does to what stands: decided by the core, published if it still stands.

use std::time::Duration;

use semel_core::effect::{
    AuditEvent, Authority, Command, Fence, Moment, Next, Phase, Record, Reply, UnknownReason, step,
};
use semel_core::scope::EffectId;
use semel_core::time::Timestamp;

use crate::entry::{Entry, Held, OWN_NUMBER};

/// What becomes of a command.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Nothing is written.
    Answer(Reply, Option<Box<Record>>),
    /// This is published, if nothing else was meanwhile.
    Write(Box<Decision>),
}

/// A publication, and what is told once the stream has taken it.
#[derive(Debug)]
pub(crate) struct Decision {
    /// The number of the message that it was decided on; 0 for none.
    pub(crate) on: u64,
    pub(crate) write: Write,
    pub(crate) audit: Option<AuditEvent>,
    pub(crate) reply: Reply,
    /// Nothing may be sent under what it opens anew if the stream took it later than this.
    pub(crate) holds_until: Timestamp,
}

#[derive(Debug)]
pub(crate) enum Write {
    /// The audit line alone: this record, if any, goes on standing.
    Note(Option<Box<Record>>),
    Put(Box<Record>),
    Release(Fence),
}

/// Decides `command` on what stands under `id` at the store's `now`.
pub(crate) fn decide(id: EffectId, command: &Command, standing: Option<&Entry>, now: Timestamp) -> Verdict {
    let on = standing.map_or(0, |entry| entry.revision);
    let record = standing.and_then(record_of);
    let step = step(id, record, command, Moment { now, fence: OWN_NUMBER });
    let left = || record.filter(|record| record.compacted(now).is_some()).cloned().map(Box::new);
    let holds_until = holds_until(command, record);
    let write = match step.next {
        Next::Keep if step.audit.is_none() => return Verdict::Answer(step.reply, left()),
        Next::Keep => Write::Note(left()),
        Next::Put(record) => Write::Put(record),
        Next::Delete => Write::Release(record.map_or(OWN_NUMBER, |record| record.fence)),
    };
    Verdict::Write(Box::new(Decision { on, write, audit: step.audit, reply: step.reply, holds_until }))
}

/// What takes a claim back that nobody was told of, and under which nothing was sent; none when it does not stand.
pub(crate) fn take_back(standing: &Entry, token: u64, now: Timestamp) -> Option<Command> {
    let record = record_of(standing).filter(|record| standing.token == token && record.phase(now) == Phase::Open)?;
    let fence = record.fence;
    // What was unknown before this claim is so again; nothing was added to it.
    Some(if record.was_unknown {
        Command::GiveUp { fence, reason: UnknownReason::Abandoned, attempts: 0 }
    } else {
        Command::Release { fence, by: Authority::Owner }
    })
}

/// The record that an entry holds. One whose answer stands elsewhere shows as its marker: a read fetches the answer as
/// long as it counts.
pub(crate) fn record_of(entry: &Entry) -> Option<&Record> {
    match &entry.held {
        Held::Released(_) => None,
        Held::Record(record) | Held::Parted(record, ..) => Some(record),
    }
}

/// Until when time alone does not forbid it: only re-opening has an end that is not the lease's own.
fn holds_until(command: &Command, record: Option<&Record>) -> Timestamp {
    match (command, record) {
        (Command::Reopen { .. }, Some(record)) => {
            record.claimed_at.plus(Duration::from_millis(record.terms.upstream_keep_ms))
        }
        _ => Timestamp::NEVER,
    }
}
