//! The effect oracle: it sees every call and every execution, and says whether the contract was kept.
//!
//! A history is what an outside observer can know: when a call was sent, how it ended for its caller, when the gateway
//! was down, and what the upstream's own journal says. A call without an answer is *unknown* to the oracle: it proves
//! nothing and accuses nobody. Each rule of the contract is one function in [`INVARIANTS`]; each names the seed and the
//! key's whole history when it is broken, and each is shown by the tests of this module to be able to fail.

mod invariants;
mod reading;

use crate::client::End;
use crate::clock::Stopwatch;
use crate::upstream::Entry;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

pub use invariants::INVARIANTS;
pub use reading::{Reading, Source};

/// What the gateway was configured to do, as far as a rule depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// What happens to an unknown outcome.
    pub on_unknown: OnUnknown,
    /// Attempts that one call may make.
    pub attempts: usize,
}

/// What the gateway may do with an unknown outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnknown {
    /// Nothing.
    Hold,
    /// Attempt again: the upstream honours the forwarded key.
    Retry,
}

/// One call of a client.
#[derive(Clone, Debug)]
pub struct Call {
    /// The key it was made with.
    pub key: String,
    /// Its body.
    pub payload: String,
    /// When its first byte may have left, in microseconds.
    pub sent_us: u64,
    /// When its end was known to the client, in microseconds.
    pub ended_us: u64,
    /// How it ended.
    pub end: End,
}

/// A time in which a gateway or the ledger's engine was killed, stopped or starting, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// Before the fault was injected.
    pub from_us: u64,
    /// After everything was ready again.
    pub to_us: u64,
}

/// Everything that happened in one run.
#[derive(Clone, Debug)]
pub struct History {
    /// The run's seed, for its messages.
    pub seed: u64,
    /// What was configured.
    pub rules: Rules,
    /// All calls, in any order.
    pub calls: Vec<Call>,
    /// The upstream's journal.
    pub journal: Vec<Entry>,
    /// When a gateway or the ledger's engine was down.
    pub outages: Vec<Outage>,
    /// From here on all faults are over and every lease has lapsed, in microseconds.
    pub healed_us: u64,
}

/// What happened to one key.
#[derive(Clone, Debug)]
pub struct KeyHistory<'a> {
    /// The key.
    pub key: &'a str,
    /// Its calls by the time they were sent.
    pub calls: Vec<&'a Call>,
    /// Its arrivals at the upstream, in order.
    pub arrivals: Vec<&'a Entry>,
    /// Its executions, in order.
    pub executions: Vec<&'a Entry>,
}

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule's name.
    pub invariant: &'static str,
    /// The key.
    pub key: String,
    /// What was expected and what was found.
    pub message: String,
}

/// Gathers a history while it happens.
#[derive(Debug)]
pub struct Oracle {
    seed: u64,
    rules: Rules,
    clock: Stopwatch,
    events: Mutex<Events>,
}

#[derive(Debug, Default)]
struct Events {
    calls: Vec<Call>,
    outages: Vec<Outage>,
    healed_us: Option<u64>,
}

impl Oracle {
    /// An oracle whose clock is also the upstream's.
    #[must_use]
    pub fn new(seed: u64, rules: Rules, clock: Stopwatch) -> Self {
        Self { seed, rules, clock, events: Mutex::default() }
    }

    /// The history's clock.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.clock.micros()
    }

    /// A call that was sent at `sent_us` has ended.
    pub fn ended(&self, key: &str, payload: &str, sent_us: u64, end: End) {
        let ended_us = self.now_us();
        let call = Call { key: key.to_owned(), payload: payload.to_owned(), sent_us, ended_us, end };
        self.events().calls.push(call);
    }

    /// A gateway or the ledger's engine was down since `from_us`, and is ready again.
    pub fn was_down(&self, from_us: u64) {
        let to_us = self.now_us();
        self.events().outages.push(Outage { from_us, to_us });
    }

    /// From now on nothing is injected, and every lease of before has lapsed.
    pub fn healed(&self) {
        let now_us = self.now_us();
        self.events().healed_us.get_or_insert(now_us);
    }

    /// The history, with the upstream's journal.
    #[must_use]
    pub fn history(&self, journal: Vec<Entry>) -> History {
        let events = self.events();
        History {
            seed: self.seed,
            rules: self.rules,
            calls: events.calls.clone(),
            journal,
            outages: events.outages.clone(),
            healed_us: events.healed_us.unwrap_or(u64::MAX),
        }
    }

    fn events(&self) -> std::sync::MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl History {
    /// Checks every rule on every key.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        let keys = self.keys();
        let of_key = |key: &KeyHistory<'_>| {
            let found = INVARIANTS.iter().filter_map(|(invariant, broken)| {
                let message = broken(self, key)?;
                Some(Violation { invariant, key: key.key.to_owned(), message })
            });
            found.collect::<Vec<_>>()
        };
        let mut violations: Vec<Violation> = keys.values().flat_map(of_key).collect();
        violations.extend(invariants::ids_are_of_one_key(&keys));
        violations
    }

    /// Checks every rule.
    ///
    /// # Panics
    /// When one is broken: with the seed, up to five violations, and each one's history.
    pub fn assert_kept(&self) {
        let violations = self.violations();
        if violations.is_empty() {
            return;
        }
        let keys = self.keys();
        let mut text = format!("{} violations of the contract, seed {}\n", violations.len(), self.seed);
        for violation in violations.iter().take(5) {
            text += &format!("\n{} broken for {}: {}\n", violation.invariant, violation.key, violation.message);
            if let Some(key) = keys.get(violation.key.as_str()) {
                text += &self.story(key);
            }
        }
        panic!("{text}");
    }

    /// Everything by key.
    #[must_use]
    pub fn keys(&self) -> BTreeMap<&str, KeyHistory<'_>> {
        let mut keys: BTreeMap<&str, KeyHistory<'_>> = BTreeMap::new();
        fn entry<'a, 'm>(keys: &'m mut BTreeMap<&'a str, KeyHistory<'a>>, key: &'a str) -> &'m mut KeyHistory<'a> {
            let new = || KeyHistory { key, calls: Vec::new(), arrivals: Vec::new(), executions: Vec::new() };
            keys.entry(key).or_insert_with(new)
        }
        for call in &self.calls {
            entry(&mut keys, &call.key).calls.push(call);
        }
        for line in &self.journal {
            match line {
                Entry::Arrived { key, .. } => entry(&mut keys, key).arrivals.push(line),
                Entry::Executed { key, .. } => entry(&mut keys, key).executions.push(line),
            }
        }
        for key in keys.values_mut() {
            key.calls.sort_by_key(|call| call.sent_us);
        }
        keys
    }

    /// Whether something was down while this call was under way.
    fn was_down_in(&self, call: &Call) -> bool {
        self.outages.iter().any(|outage| outage.to_us >= call.sent_us && outage.from_us <= call.ended_us)
    }

    /// A key's history in words, one line an event, in order of time.
    #[must_use]
    pub fn story(&self, key: &KeyHistory<'_>) -> String {
        let mut lines: Vec<(u64, String)> = Vec::new();
        for call in &key.calls {
            lines.push((call.sent_us, format!("sent      {}", call.payload)));
            lines.push((call.ended_us, format!("ended     (sent at {}) {}", call.sent_us, Reading::of(&call.end))));
        }
        for entry in key.arrivals.iter().chain(&key.executions) {
            match entry {
                Entry::Arrived { at_us, arrival, act, attempt, .. } => {
                    let attempt = attempt.as_deref().unwrap_or("-");
                    lines.push((*at_us, format!("upstream  arrival {arrival}: {act:?} (semel-attempt {attempt})")));
                }
                Entry::Executed { at_us, execution, .. } => {
                    lines.push((*at_us, format!("upstream  EXECUTED as {execution}")));
                }
            }
        }
        let span = key.calls.first().map_or(0, |call| call.sent_us)..=key.calls.last().map_or(0, |call| call.ended_us);
        for outage in self.outages.iter().filter(|o| o.to_us >= *span.start() && o.from_us <= *span.end()) {
            lines.push((outage.from_us, "gateway   down".to_owned()));
            lines.push((outage.to_us, "gateway   ready".to_owned()));
        }
        lines.sort_by_key(|(at_us, _)| *at_us);
        lines.into_iter().map(|(at_us, line)| format!("  {at_us:>12} us  {line}\n")).collect()
    }

    /// What the run exercised, so that a proof that proved nothing is seen.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let mut summary = Summary { keys: self.keys().len(), outages: self.outages.len(), ..Summary::default() };
        for call in &self.calls {
            let reading = Reading::of(&call.end);
            summary.calls += 1;
            *summary.ends.entry(reading.word()).or_default() += 1;
        }
        for entry in &self.journal {
            match entry {
                Entry::Arrived { act, .. } => *summary.acts.entry(format!("{act:?}")).or_default() += 1,
                Entry::Executed { .. } => summary.executions += 1,
            }
        }
        summary
    }
}

/// What a run exercised.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Keys used.
    pub keys: usize,
    /// Calls made.
    pub calls: usize,
    /// Effects executed.
    pub executions: usize,
    /// Times the gateway was down.
    pub outages: usize,
    /// Ends of calls by kind.
    pub ends: BTreeMap<String, usize>,
    /// Acts of the upstream by name.
    pub acts: BTreeMap<String, usize>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keys, calls, executions, outages, ends, acts } = self;
        writeln!(f, "{calls} calls on {keys} keys, {executions} executions, {outages} outages")?;
        writeln!(f, "  ends: {ends:?}")?;
        write!(f, "  acts: {acts:?}")
    }
}

#[cfg(test)]
mod tests;
