//! The rules: each takes a key's history and says what is wrong with it, or nothing.

use super::{Call, History, KeyHistory, OnUnknown, Reading, Source, Violation};
use crate::plan::Leaves;
use crate::upstream::{Entry, execution_of};
use semel_core::evidence::EffectMark;
use std::collections::BTreeMap;

/// A rule: what is wrong with this key's history, if anything.
pub type Invariant = fn(&History, &KeyHistory<'_>) -> Option<String>;

/// Every rule that can be judged key by key, with its name.
pub const INVARIANTS: &[(&str, Invariant)] = &[
    ("executes_once", executes_once),
    ("never_sent_again_under_hold", never_sent_again_under_hold),
    ("settled_is_replayed", settled_is_replayed),
    ("answers_are_true", answers_are_true),
    ("answers_belong_to_their_call", answers_belong_to_their_call),
    ("unknown_is_explained", unknown_is_explained),
    ("faultless_keys_settle", faultless_keys_settle),
    ("refusals_that_heal_succeed", refusals_that_heal_succeed),
    ("nothing_stays_open", nothing_stays_open),
    ("retry_succeeds_in_the_end", retry_succeeds_in_the_end),
    ("reuse_is_refused", reuse_is_refused),
    ("one_forwarded_key", one_forwarded_key),
    ("one_effect_id", one_effect_id),
    ("headers_are_whole", headers_are_whole),
];

/// Answer headers that are stored and must come back the same (those that the flaky upstream sends).
const STORED: [&str; 3] = ["content-type", "location", "etag"];

/// Problems that speak of the request rather than of the effect.
const OF_THE_REQUEST: [&str; 4] = ["key-reused", "key-missing", "key-malformed", "body-too-large"];

/// What a caller may be told instead of what the ledger knows, as long as the ledger cannot be asked.
const UNASKED: [&str; 2] = ["ledger-unavailable", "deadline-exceeded"];

fn executes_once(_: &History, key: &KeyHistory<'_>) -> Option<String> {
    let times = key.executions.len();
    (times > 1).then(|| format!("it was executed {times} times"))
}

/// Stronger than once: after an arrival that may have executed, the upstream must not even see the key again.
fn never_sent_again_under_hold(history: &History, key: &KeyHistory<'_>) -> Option<String> {
    if history.rules.on_unknown != OnUnknown::Hold {
        return None;
    }
    let mut acts = key.arrivals.iter().filter_map(|entry| act(entry));
    let doubtful = acts.by_ref().find(|act| act.leaves() != Leaves::NotExecuted)?;
    let again = acts.next()?;
    Some(format!("after {doubtful:?} it was sent again ({again:?}), although the route holds unknown effects"))
}

fn settled_is_replayed(history: &History, key: &KeyHistory<'_>) -> Option<String> {
    let settled = key.calls.iter().filter(|call| Reading::of(&call.end).settled());
    let first = settled.clone().min_by_key(|call| call.ended_us)?;
    let recorded = Reading::of(&first.end).answer?;
    for call in settled {
        let answer = Reading::of(&call.end).answer?;
        if (answer.status(), &answer.body) != (recorded.status(), &recorded.body) {
            return Some(format!("two settled answers differ: {} and {}", answer.status(), recorded.status()));
        }
        let header = STORED.iter().find(|header| answer.header(header) != recorded.header(header));
        if let Some(header) = header {
            let (a, b) = (answer.header(header), recorded.header(header));
            return Some(format!("the header {header} of two settled answers differs: {a:?} and {b:?}"));
        }
    }
    let later = key.calls.iter().filter(|call| call.sent_us > first.ended_us && call.payload == first.payload);
    for call in later {
        let reading = Reading::of(&call.end);
        let replayed = reading.settled() && reading.replayed;
        if reading.answer.is_some() && !replayed && !unasked(history, call, &reading) {
            return Some(format!(
                "settled at {} us, but the call sent at {} us got {reading}",
                first.ended_us, call.sent_us
            ));
        }
    }
    None
}

fn answers_are_true(history: &History, key: &KeyHistory<'_>) -> Option<String> {
    let executed_us = key.executions.first().map(|entry| at_us(entry));
    for call in &key.calls {
        let reading = Reading::of(&call.end);
        let of_the_request = reading.problem.as_deref().is_some_and(|problem| OF_THE_REQUEST.contains(&problem));
        let alone = !key.calls.iter().any(|other| !std::ptr::eq(*other, *call) && other.sent_us <= call.ended_us);
        match reading.effect {
            Some(EffectMark::Committed) if executed_us.is_none_or(|executed| executed > call.ended_us) => {
                return Some(format!("the call sent at {} us was told committed; nothing was executed", call.sent_us));
            }
            // A release may be followed by another call's execution; but what was executed before this call was sent,
            // or could only be executed by this call, makes its `none` a lie.
            Some(EffectMark::None) if !of_the_request && !unasked(history, call, &reading) => {
                let known = executed_us.filter(|executed| *executed < call.sent_us || alone);
                if known.is_some_and(|executed| executed <= call.ended_us) {
                    return Some(format!("the call sent at {} us was told none; it was executed", call.sent_us));
                }
            }
            _ => {}
        }
    }
    None
}

fn answers_belong_to_their_call(_: &History, key: &KeyHistory<'_>) -> Option<String> {
    for call in &key.calls {
        let reading = Reading::of(&call.end);
        if !reading.settled() {
            continue;
        }
        let answer = reading.answer?;
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if body["key"] != key.key {
            return Some(format!("the call sent at {} us got the answer of {}", call.sent_us, body["key"]));
        }
        let execution = execution_of(answer);
        let own = key.executions.iter().find_map(|entry| match entry {
            Entry::Executed { execution: number, payload, .. } if Some(*number) == execution => Some(payload),
            _ => None,
        });
        match own {
            None => {
                return Some(format!("the call sent at {} us got execution {execution:?}, not its own", call.sent_us));
            }
            Some(payload) if *payload != call.payload => {
                return Some(format!("the call sent at {} us got the answer to another body: {payload}", call.sent_us));
            }
            Some(_) => {}
        }
    }
    None
}

fn unknown_is_explained(history: &History, key: &KeyHistory<'_>) -> Option<String> {
    let call = key.calls.iter().find(|call| Reading::of(&call.end).unknown())?;
    let by_upstream = key
        .arrivals
        .iter()
        .any(|entry| at_us(entry) <= call.ended_us && act(entry).is_some_and(|act| act.leaves() == Leaves::Unknown));
    let explained = by_upstream || interrupted(history, key, call.ended_us);
    (!explained).then(|| format!("the call sent at {} us was told unknown, and no fault was injected", call.sent_us))
}

fn faultless_keys_settle(history: &History, key: &KeyHistory<'_>) -> Option<String> {
    let faultless = key.arrivals.iter().all(|entry| act(entry).is_none_or(|act| act.leaves() == Leaves::Executed));
    if faultless { not_settled(history, key, "nothing went wrong") } else { None }
}

fn refusals_that_heal_succeed(history: &History, key: &KeyHistory<'_>) -> Option<String> {
    let leaves: Vec<Leaves> = key.arrivals.iter().filter_map(|entry| act(entry)).map(|act| act.leaves()).collect();
    let refusals = leaves.iter().filter(|leaves| **leaves == Leaves::NotExecuted).count();
    let known = !leaves.contains(&Leaves::Unknown);
    let heals = (1..history.rules.attempts).contains(&refusals);
    if known && heals { not_settled(history, key, "the refusals healed in time") } else { None }
}

/// A key on which every call of the first payload must be answered with the recorded answer, unless it raced.
fn not_settled(history: &History, key: &KeyHistory<'_>, because: &str) -> Option<String> {
    let payload = &key.calls.first()?.payload;
    let alike: Vec<&Call> = key.calls.iter().copied().filter(|call| call.payload == *payload).collect();
    let last_us = alike.iter().map(|call| call.ended_us).max()?;
    if alike.len() != key.calls.len() || interrupted(history, key, last_us) {
        return None;
    }
    for call in alike {
        let reading = Reading::of(&call.end);
        if reading.answer.is_some() && !reading.settled() && !reading.open() {
            return Some(format!("{because}, but the call sent at {} us got {reading}", call.sent_us));
        }
    }
    None
}

fn nothing_stays_open(history: &History, key: &KeyHistory<'_>) -> Option<String> {
    let late = key.calls.iter().filter(|call| call.sent_us >= history.healed_us);
    let open = late.map(|call| (call, Reading::of(&call.end))).find(|(_, reading)| reading.open())?;
    Some(format!("every lease has lapsed, but the call sent at {} us got {}", open.0.sent_us, open.1))
}

fn retry_succeeds_in_the_end(history: &History, key: &KeyHistory<'_>) -> Option<String> {
    let last = key.calls.last()?;
    if history.rules.on_unknown != OnUnknown::Retry || last.sent_us < history.healed_us {
        return None;
    }
    let reading = Reading::of(&last.end);
    let reused = reading.problem.as_deref() == Some("key-reused");
    (!reading.settled() && !reused).then(|| format!("all faults are over, but the last call got {reading}"))
}

fn reuse_is_refused(history: &History, key: &KeyHistory<'_>) -> Option<String> {
    let settled = key.calls.iter().filter(|call| Reading::of(&call.end).settled());
    let first = settled.min_by_key(|call| call.ended_us)?;
    let others = key.calls.iter().filter(|call| call.payload != first.payload && call.sent_us > first.ended_us);
    for call in others {
        let reading = Reading::of(&call.end);
        let refused = reading.problem.as_deref() == Some("key-reused") || unasked(history, call, &reading);
        if reading.answer.is_some() && !refused {
            return Some(format!("another body under a settled key got {reading}"));
        }
    }
    None
}

fn one_forwarded_key(_: &History, key: &KeyHistory<'_>) -> Option<String> {
    let mut forwarded = key.arrivals.iter().map(|entry| forwarded(entry));
    let first = forwarded.next()?;
    let Some(first) = first else { return Some("it was sent upstream without a key".to_owned()) };
    let other = forwarded.find(|other| *other != Some(first))?;
    Some(format!("it was sent upstream as {first:?} and as {other:?}"))
}

fn one_effect_id(_: &History, key: &KeyHistory<'_>) -> Option<String> {
    let mut ids = effect_ids(key);
    let first = ids.next()?;
    let other = ids.find(|id| *id != first)?;
    Some(format!("its Semel-Effect-Id was {first} and {other}"))
}

/// Two keys never share an effect id or a forwarded key: only to be seen across keys.
pub(super) fn ids_are_of_one_key(keys: &BTreeMap<&str, KeyHistory<'_>>) -> Vec<Violation> {
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    let mut violations = Vec::new();
    for (name, key) in keys {
        let sent = key.arrivals.iter().filter_map(|entry| forwarded(entry));
        for id in effect_ids(key).chain(sent) {
            let owner = owners.entry(id).or_insert(name);
            if owner != name {
                let message = format!("{id} is also the id of {owner}");
                violations.push(Violation { invariant: "ids_are_of_one_key", key: (*name).to_owned(), message });
            }
        }
    }
    violations
}

fn headers_are_whole(_: &History, key: &KeyHistory<'_>) -> Option<String> {
    for call in &key.calls {
        let reading = Reading::of(&call.end);
        let Some(answer) = reading.answer else { continue };
        let required = ["semel-effect-id", "semel-source", "semel-effect", "idempotency-key", "idempotency-window"];
        let of_problem: &[&str] =
            if reading.problem.is_some() { &["x-should-retry", "stripe-should-retry"] } else { &[] };
        let missing = required.iter().chain(of_problem).find(|header| answer.header(header).is_none());
        if let Some(header) = missing {
            return Some(format!("the call sent at {} us got no {header}: {reading}", call.sent_us));
        }
        if answer.header("idempotency-key") != Some(key.key) {
            return Some(format!("the echoed key is {:?}", answer.header("idempotency-key")));
        }
        if reading.replayed && answer.header("set-cookie").is_some() {
            return Some(format!("the call sent at {} us got a replayed Set-Cookie", call.sent_us));
        }
        let retry_after_s = answer.header("retry-after").and_then(|seconds| seconds.parse::<u64>().ok());
        if reading.source == Source::Gateway && retry_after_s.is_some_and(|seconds| seconds > 60) {
            return Some(format!("a Retry-After of {retry_after_s:?} s"));
        }
    }
    None
}

/// Whether the ledger could not be asked in this call, and its caller was told nothing but that.
fn unasked(history: &History, call: &Call, reading: &Reading<'_>) -> bool {
    reading.problem.as_deref().is_some_and(|problem| UNASKED.contains(&problem)) && history.was_down_in(call)
}

/// Whether something was down at a moment that could have cost this key its outcome.
fn interrupted(history: &History, key: &KeyHistory<'_>, until_us: u64) -> bool {
    let since_us = key.calls.first().map_or(0, |call| call.sent_us);
    history.outages.iter().any(|outage| outage.to_us >= since_us && outage.from_us <= until_us)
}

fn at_us(entry: &Entry) -> u64 {
    match entry {
        Entry::Arrived { at_us, .. } | Entry::Executed { at_us, .. } => *at_us,
    }
}

fn act(entry: &Entry) -> Option<crate::plan::Act> {
    if let Entry::Arrived { act, .. } = entry { Some(*act) } else { None }
}

fn forwarded(entry: &Entry) -> Option<&str> {
    if let Entry::Arrived { forwarded, .. } = entry { forwarded.as_deref() } else { None }
}

fn effect_ids<'a>(key: &KeyHistory<'a>) -> impl Iterator<Item = &'a str> {
    key.calls.iter().copied().filter_map(|call| Reading::of(&call.end).answer?.header("semel-effect-id"))
}
