//! One round of a lane: whatever its commands need next, as up to three statements that go out together.

use std::collections::HashMap;

use semel_core::effect::{Authority, Command, Moment, Next, Record, Reply, step};
use semel_core::scope::EffectId;
use semel_core::time::Timestamp;
use semel_ledger::{LedgerError, codec};

use super::{Lost, ticking};
use crate::client::{Turn, Turned, Writes, Written};
use crate::command::{Apply, Stage};
use crate::decide::{Verdict, decide};
use crate::error::Failed;
use crate::link::Link;
use crate::row::{self, Stored};
use crate::shared::{Shared, Up};
use crate::sql::{Id, bigint, number};

/// Which of the commands take part, by what they need.
#[derive(Default)]
struct Parts {
    calls: Vec<usize>,
    loads: Vec<usize>,
    writes: Vec<usize>,
}

/// Brings every command one stage further, of each effect the first.
///
/// # Errors
/// When the connection must be given up; commands whose answers are lost know it then.
pub(super) async fn round(shared: &Shared, link: &Link, up: &Up, held: &mut [Apply]) -> Result<(), Lost> {
    let parts = part(held);
    let (turn, ids, writes) = arguments(held, &parts);
    let statements = &shared.connector.statements;
    let not_after = shared.not_after();
    let client = &*link.client;
    let answers = {
        // The library sends them in one piece where it can; the database answers one after the other.
        let asking = async {
            tokio::join!(
                maybe(!turn.is_empty(), statements.turn(client, &turn, not_after)),
                maybe(!ids.is_empty(), statements.look(client, &ids, &[])),
                maybe(!writes.ids.is_empty(), statements.write(client, &writes, not_after)),
            )
        };
        ticking(shared, link, up, asking, || {
            shared.expire();
            let now = shared.clock.now();
            for apply in held.iter_mut().filter(|apply| !matches!(apply.stage, Stage::Done)) {
                apply.expire(now, shared.patience, true);
            }
        })
        .await
    };
    let answers = match answers {
        Ok(answers) => answers,
        Err(lost) => {
            held.iter_mut().for_each(Apply::lose);
            return Err(lost);
        }
    };
    if link.in_doubt() {
        held.iter_mut().for_each(Apply::lose);
        return Err(Lost("a commit was not passed on to the standby".to_owned()));
    }
    let (turned, found, written) = answers;
    let results = [
        turned.map(|answer| settle(shared, held, &parts.calls, answer, taken)),
        found.map(|answer| settle(shared, held, &parts.loads, answer, loaded)),
        written.map(|answer| settle(shared, held, &parts.writes, answer, wrote)),
    ];
    let mut lost = Ok(());
    let mut no_room = false;
    for result in results.into_iter().flatten() {
        match result {
            Ok(room) => no_room |= !room,
            Err(why) => lost = Err(why),
        }
    }
    if no_room && lost.is_ok() {
        make_room(shared, link, held).await;
    }
    lost
}

async fn maybe<T>(wanted: bool, work: impl Future<Output = T>) -> Option<T> {
    if wanted { Some(work.await) } else { None }
}

fn part(held: &mut [Apply]) -> Parts {
    let mut parts = Parts::default();
    let mut before: HashMap<EffectId, bool> = HashMap::with_capacity(held.len());
    for (at, apply) in held.iter_mut().enumerate() {
        // Commands on one effect follow each other, but any number may read at once.
        let reads = matches!(apply.stage, Stage::Load);
        let goes = before.get(&apply.id).is_none_or(|all_read| *all_read && reads);
        before.entry(apply.id).and_modify(|all_read| *all_read &= reads).or_insert(reads);
        match apply.stage {
            Stage::Load if goes => parts.loads.push(at),
            Stage::Call if goes => parts.calls.push(at),
            Stage::Write(_) if goes => parts.writes.push(at),
            // A claim behind another command will hardly find its key absent.
            Stage::Call if matches!(apply.command, Command::Claim(_)) => apply.stage = Stage::Load,
            _ => {}
        }
    }
    // Everybody locks in the same order.
    for part in [&mut parts.calls, &mut parts.writes] {
        part.sort_unstable_by_key(|at| held[*at].id);
    }
    parts
}

fn arguments(held: &[Apply], parts: &Parts) -> (Turn, Vec<Id>, Writes) {
    let (mut turn, mut writes) = (Turn::default(), Writes::default());
    for apply in parts.calls.iter().map(|at| &held[*at]) {
        match &apply.command {
            Command::Claim(claim) => {
                turn.claim_ids.push(Id(apply.id));
                turn.claim_tokens.push(apply.token);
                turn.claim_leases.push(bigint(u64::try_from(claim.lease.as_millis()).unwrap_or(u64::MAX)));
                turn.claim_keeps.push(bigint(claim.terms.keep_ms));
                turn.claim_markers.push(bigint(claim.terms.marker_ms));
                turn.claim_records.push(row::encode_claim(apply.id, claim));
            }
            Command::Settle { fence, outcome, attempts, .. } => {
                turn.settle_ids.push(Id(apply.id));
                turn.settle_fences.push(number(*fence));
                turn.settle_attempts.push(i32::try_from(*attempts).unwrap_or(i32::MAX));
                turn.settle_outcomes.push(codec::encode_state(&row::untimed(outcome.clone())));
            }
            other => unreachable!("{other:?} is loaded first"),
        }
    }
    let mut ids: Vec<Id> = parts.loads.iter().map(|at| Id(held[*at].id)).collect();
    ids.dedup();
    for apply in parts.writes.iter().map(|at| &held[*at]) {
        if let Stage::Write(decision) = &apply.stage {
            decision.add_to(&mut writes, apply);
        }
    }
    (turn, ids, writes)
}

/// Hands an answer to `then`, or an error to the commands it concerns. Returns whether there was room.
fn settle<T>(
    shared: &Shared,
    held: &mut [Apply],
    part: &[usize],
    answer: Result<T, tokio_postgres::Error>,
    then: impl FnOnce(&Shared, &mut [Apply], &[usize], T),
) -> Result<bool, Lost> {
    let error = match answer {
        Ok(answer) => {
            then(shared, held, part, answer);
            return Ok(true);
        }
        Err(error) => Failed::of(&error),
    };
    let mut each = |what: &dyn Fn(&mut Apply)| part.iter().for_each(|at| what(&mut held[*at]));
    match error {
        Failed::Lost(why) => {
            each(&Apply::lose);
            return Err(Lost(why));
        }
        Failed::Demoted(why) => return Err(Lost(why)),
        // Loading tells the time, too.
        Failed::Late => each(&|apply| {
            apply.stage = Stage::Load;
            apply.hinder("its clock runs ahead");
        }),
        Failed::Again(why) => each(&|apply| apply.hinder(&why)),
        Failed::NoRoom => {
            each(&|apply| apply.hinder("a partition is missing and cannot be made"));
            return Ok(false);
        }
        Failed::DiskFull(why) => each(&|apply| {
            let error = if apply.is_claim() { LedgerError::ClaimsPaused } else { LedgerError::Unreachable };
            apply.fail(error(why.clone()));
        }),
        Failed::Refused(why) => {
            tracing::error!("the database refused: {why}");
            each(&|apply| apply.fail(LedgerError::Unreachable(why.clone())));
        }
    }
    Ok(true)
}

/// Makes the partitions that the settlements at hand miss. If that fails, they fail again and say so.
async fn make_room(shared: &Shared, link: &Link, held: &[Apply]) {
    let ids: Vec<Id> = held.iter().map(|apply| Id(apply.id)).collect();
    if let Err(error) = shared.connector.statements.make_room_for(&link.client, &ids).await {
        tracing::error!("partitions of the ledger cannot be made: {}", crate::error::in_words(&error));
    }
}

/// After a turn: what was claimed or settled is answered, what was not must be looked at.
fn taken(shared: &Shared, held: &mut [Apply], part: &[usize], turned: Turned) {
    let now = turned.now;
    shared.heard_time(now);
    let at: HashMap<EffectId, usize> = part.iter().map(|at| (held[*at].id, *at)).collect();
    for at in part {
        held[*at].stage = Stage::Load;
    }
    for (id, fence) in turned.taken {
        let Some(apply) = at.get(&id).map(|at| &mut held[*at]) else { continue };
        let claimed = step(id, None, &apply.command, Moment { now, fence });
        if let Next::Put(record) = claimed.next {
            answer_claim(apply, *record, now);
        }
    }
    for ((id, claimed_at), record) in turned.concluded.into_iter().zip(turned.records) {
        let Some(apply) = at.get(&id).map(|at| &mut held[*at]) else { continue };
        shared.waiters.wake(id);
        let Command::Settle { fence, outcome, by: Authority::Owner, attempts } = &apply.command else { continue };
        match row::settled(id, &record, (*fence, claimed_at, now), outcome.clone(), *attempts) {
            Ok(record) => drop(apply.answer(Reply::Applied, Some(record), now)),
            Err(error) => apply.fail(error),
        }
    }
}

fn answer_claim(apply: &mut Apply, record: Record, now: Timestamp) {
    if !apply.answer(Reply::Applied, Some(record), now) {
        apply.abandon();
    }
}

/// After a load: decides.
fn loaded(shared: &Shared, held: &mut [Apply], part: &[usize], (now, found): (Timestamp, Vec<Stored>)) {
    shared.heard_time(now);
    let mut rows: HashMap<EffectId, Vec<Stored>> = HashMap::new();
    for stored in found {
        rows.entry(stored.id).or_default().push(stored);
    }
    for at in part {
        let apply = &mut held[*at];
        match decide(apply, rows.get(&apply.id).map_or(&[], Vec::as_slice), now) {
            Ok(Verdict::Answer(reply, record)) => drop(apply.answer(reply, record.map(|record| *record), now)),
            Ok(Verdict::Write(decision)) => apply.stage = Stage::Write(decision),
            Ok(Verdict::Call) => {
                apply.stage = Stage::Call;
                apply.hinder("others were quicker too often");
            }
            Ok(Verdict::Forget) => apply.stage = Stage::Done,
            Err(error) => apply.fail(error),
        }
    }
}

/// After a write: what still held is answered, the rest is looked at again.
fn wrote(shared: &Shared, held: &mut [Apply], part: &[usize], written: Written) {
    let now = written.now;
    shared.heard_time(now);
    let Written { done, fences, .. } = written;
    for ((at, done), fence) in part.iter().zip(done).zip(fences) {
        let apply = &mut held[*at];
        let stage = std::mem::replace(&mut apply.stage, Stage::Load);
        let Stage::Write(decision) = stage else { continue };
        if !done {
            apply.hinder("others were quicker too often");
            continue;
        }
        if decision.wakes() {
            shared.waiters.wake(apply.id);
        }
        if apply.take_back {
            apply.stage = Stage::Done;
            continue;
        }
        let mut record = decision.record.clone();
        if let (Some(record), Some(fence)) = (&mut record, fence) {
            record.fence = fence;
        }
        match record {
            Some(record) if apply.is_claim() && decision.reply == Reply::Applied => answer_claim(apply, record, now),
            record => drop(apply.answer(decision.reply, record, now)),
        }
    }
}
