//! Whether a run kept its promises.

use std::{collections::BTreeMap, ops::AddAssign, time::Duration};

use semel_core::{
    effect::{OnUnknown, Phase},
    scope::EffectId,
};
use semel_tower::Refused;

use crate::{
    history::{Call, History, Told},
    run::{FOUND, Setting},
    upstream::{ATTEMPT_TIMEOUT, REFUSED, REFUSED_FOR_LONG, SLOW},
};

/// What happened in all runs together, so that nobody takes silence for proof.
#[derive(Debug, Default)]
pub(crate) struct Sum(BTreeMap<&'static str, usize>);

impl Sum {
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&'static str, usize)> + '_ {
        self.0.iter().map(|(what, count)| (*what, *count))
    }

    fn add(&mut self, what: &'static str, count: usize) {
        *self.0.entry(what).or_default() += count;
    }
}

impl AddAssign for Sum {
    fn add_assign(&mut self, other: Self) {
        other.0.into_iter().for_each(|(what, count)| self.add(what, count));
    }
}

/// What a call may take beyond the caller's patience, to tell of a conclusion under way, and a millisecond: timers have no finer one.
const GRACE: Duration = Duration::from_millis(251);

type Judged = Result<(), String>;
type Rule = fn(&Setting, &History, EffectId) -> Judged;

const RULES: [(&str, Rule); 10] = [
    ("an effect happens once", once),
    ("what was acknowledged stays", acknowledged_stays),
    ("an answer is the answer to its own request", own_answer),
    ("not executed means not executed", not_executed),
    ("nobody waits longer than they said", in_time),
    ("an unknown outcome has a cause", unknown_has_a_cause),
    ("without a fault every call is answered", faultless_calls_are_answered),
    ("refusals that heal are survived", refusals_heal),
    ("nothing stays open", nothing_stays_open),
    ("everything heals", everything_heals),
];

/// Whether the run kept its promises, and what happened in it.
pub(crate) fn judge(setting: &Setting, history: &History) -> Result<Sum, String> {
    for id in history.at_the_end.keys() {
        for (name, rule) in RULES {
            rule(setting, history, *id).map_err(|what| format!("{name}: {what}\n{}", story(history, *id)))?;
        }
    }
    Ok(count(history))
}

fn count(history: &History) -> Sum {
    let mut sum = Sum::default();
    let told = |wanted: fn(&Told) -> bool| history.calls.iter().filter(|call| wanted(&call.told)).count();
    sum.add("executed and told", told(|told| matches!(told, Told::Fresh(_))));
    sum.add("replayed", told(|told| matches!(told, Told::Recorded(_))));
    sum.add("not executed", told(|told| *told == Told::NotExecuted));
    sum.add("told unknown", told(|told| *told == Told::Unknown));
    sum.add("hung up or cut off", told(|told| *told == Told::Nothing));
    sum.add("refused: in flight", told(|told| *told == Told::Refused(Refused::InFlight)));
    sum.add("refused: unknown", told(|told| *told == Told::Refused(Refused::OutcomeUnknown)));
    sum.add("refused: reused", told(|told| *told == Told::Refused(Refused::KeyReused)));
    sum.add("refused: ledger", told(|told| *told == Told::Refused(Refused::LedgerUnavailable)));
    sum.add("unknown before healing", history.before_healing.values().filter(|p| **p == Phase::Unknown).count());
    sum.add("decided by the operator", history.decided);
    sum.add("executed", history.executions.len());
    for fault in history.faults.values().flatten() {
        sum.add(fault, 1);
    }
    sum
}

fn calls(history: &History, id: EffectId) -> impl Iterator<Item = &Call> {
    history.calls.iter().filter(move |call| call.id == id)
}

fn once(_: &Setting, history: &History, id: EffectId) -> Judged {
    match history.executions.iter().filter(|execution| execution.id == id).count() {
        0 | 1 => Ok(()),
        count => Err(format!("{count} executions")),
    }
}

/// Whoever asks after an answer was given gets that answer, whatever crashed in between; only the way to it may fail.
fn acknowledged_stays(_: &Setting, history: &History, id: EffectId) -> Judged {
    let Some(first) = calls(history, id).filter(|call| call.told.answer().is_some()).min_by_key(|call| call.ended)
    else {
        return Ok(());
    };
    for call in calls(history, id).filter(|call| call.began >= first.ended) {
        let kept = match &call.told {
            Told::Recorded(answer) => Some(&**answer) == first.told.answer(),
            Told::Refused(why) => match why {
                Refused::KeyReused => call.request != first.request,
                Refused::LedgerUnavailable | Refused::DeadlineExceeded => true,
                _ => false,
            },
            Told::Nothing => true,
            Told::Fresh(_) | Told::NotExecuted | Told::Unknown => false,
        };
        if !kept {
            return Err(format!("after {:?} at {:?} came {call:?}", first.told, first.ended));
        }
    }
    Ok(())
}

fn own_answer(_: &Setting, history: &History, id: EffectId) -> Judged {
    for call in calls(history, id) {
        let Some(answer) = call.told.answer() else { continue };
        let answer = answer.strip_prefix(FOUND).unwrap_or(answer);
        let executed = history.executions.iter().any(|execution| execution.id == id && execution.answer == answer);
        if !executed || !answer.ends_with(&call.request) {
            return Err(format!("{call:?}"));
        }
    }
    Ok(())
}

fn not_executed(_: &Setting, history: &History, id: EffectId) -> Judged {
    let Some(executed) = history.executions.iter().find(|execution| execution.id == id) else { return Ok(()) };
    // Another call may execute it between this one's release and its answer.
    match calls(history, id).find(|call| call.told == Told::NotExecuted && call.began > executed.at) {
        Some(call) => Err(format!("{call:?}")),
        None => Ok(()),
    }
}

fn in_time(_: &Setting, history: &History, id: EffectId) -> Judged {
    match calls(history, id).find(|call| call.ended - call.began > call.patience + GRACE) {
        Some(call) => Err(format!("{call:?}")),
        None => Ok(()),
    }
}

fn unknown_has_a_cause(_: &Setting, history: &History, id: EffectId) -> Judged {
    let faults = history.faults.get(&id);
    let any_but = |known: &[&str]| faults.is_some_and(|faults| faults.iter().any(|fault| !known.contains(fault)));
    let unknown = history.before_healing[&id] == Phase::Unknown
        || calls(history, id).any(|call| call.told == Told::Refused(Refused::OutcomeUnknown));
    let told = calls(history, id).any(|call| call.told == Told::Unknown);
    match () {
        () if unknown && !any_but(&[REFUSED, REFUSED_FOR_LONG, SLOW]) => Err("no fault touched it".into()),
        // The answer came after the caller's deadline.
        () if told && !any_but(&[REFUSED, REFUSED_FOR_LONG]) => Err("told, and no fault touched it".into()),
        () => Ok(()),
    }
}

fn faultless_calls_are_answered(_: &Setting, history: &History, id: EffectId) -> Judged {
    if history.faults.contains_key(&id) {
        return Ok(());
    }
    // An attempt at most, and the join of another's.
    patient_calls_are_answered(history, id, Duration::from_secs(1))
}

/// Fewer refusals in a row than attempts of a call, and answers that take their time.
fn refusals_heal(_: &Setting, history: &History, id: EffectId) -> Judged {
    match history.faults.get(&id) {
        Some(faults) if faults.iter().all(|fault| [REFUSED, SLOW].contains(fault)) => {
            let patience = if faults.contains(SLOW) { ATTEMPT_TIMEOUT * 3 } else { Duration::from_secs(2) };
            patient_calls_are_answered(history, id, patience)
        }
        _ => Ok(()),
    }
}

fn patient_calls_are_answered(history: &History, id: EffectId, patience: Duration) -> Judged {
    // A duplicate is not made to wait for an answer that takes longer than its join.
    let takes_longer = history.faults.get(&id).is_some_and(|faults| faults.contains(SLOW));
    for call in calls(history, id).filter(|call| call.patience >= patience) {
        let met_an_outage = history.outages.iter().any(|(from, to)| call.began <= *to && *from <= call.ended);
        let answered = match &call.told {
            Told::Fresh(_) | Told::Recorded(_) | Told::Nothing => true,
            Told::Refused(Refused::KeyReused) => true,
            Told::Refused(Refused::InFlight) => takes_longer,
            Told::Refused(Refused::LedgerUnavailable) => met_an_outage,
            _ => false,
        };
        if !answered {
            return Err(format!("{call:?}"));
        }
    }
    Ok(())
}

/// What lapsed may still stand so: nobody may have asked since, and the next call writes it down.
fn nothing_stays_open(_: &Setting, history: &History, id: EffectId) -> Judged {
    match history.before_healing[&id] {
        Phase::Open => Err("open after all leases are over".into()),
        _ => Ok(()),
    }
}

/// Once nothing fails any more, one call (or one decision) is enough, and every process then says the same.
fn everything_heals(setting: &Setting, history: &History, id: EffectId) -> Judged {
    if history.at_the_end[&id] != Phase::Settled {
        return Err(format!("{:?} at the end", history.at_the_end[&id]));
    }
    let healing = calls(history, id).filter(|call| call.healing);
    let held = setting.on_unknown == OnUnknown::Hold && history.before_healing[&id] != Phase::Absent;
    for (at, call) in healing.enumerate() {
        let held = at == 0 && held && call.told == Told::Refused(Refused::OutcomeUnknown);
        if call.told.answer().is_none() && !held {
            return Err(format!("{call:?}"));
        }
    }
    Ok(())
}

/// All that is known of one effect, in order.
fn story(history: &History, id: EffectId) -> String {
    let mut lines: Vec<(Duration, String)> = Vec::new();
    for call in calls(history, id) {
        let what = format!("{:?} .. {:?} {} -> {:?}", call.began, call.ended, call.request, call.told);
        lines.push((call.began, what));
    }
    for execution in history.executions.iter().filter(|execution| execution.id == id) {
        let what = format!("{:?} executed under claim {}: {}", execution.at, execution.fence, execution.answer);
        lines.push((execution.at, what));
    }
    for (from, to) in &history.outages {
        lines.push((*from, format!("{from:?} .. {to:?} the ledger was down")));
    }
    lines.sort();
    let faults = history.faults.get(&id);
    let lines: Vec<_> = lines.into_iter().map(|(_, what)| what).collect();
    format!(
        "{id}: faults {faults:?}, before healing {:?}, at the end {:?}\n  {}",
        history.before_healing[&id],
        history.at_the_end[&id],
        lines.join("\n  ")
    )
}
