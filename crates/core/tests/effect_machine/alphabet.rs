//! Every command, by everybody, under every fence that was ever given, in every state that can be reached.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use http::StatusCode;
use semel_core::{
    answer::{StoredAnswer, StoredHeaders},
    effect::{
        Authority, Claim, Command, Fence, Moment, OnUnknown, Outcome, Owner, Phase, Record, Reply, Terms, UnknownReason,
    },
    fingerprint::{Fingerprint, FingerprintInput},
    scope::{EffectId, Principal},
    time::Timestamp,
};

use crate::law::lawful_step;

pub(crate) const ID: EffectId = EffectId::from_bytes([9; 16]);
/// One tick of the store's clock.
pub(crate) const TICK: Duration = Duration::from_millis(1);
/// Long enough for a claim to lapse, its window to end and its marker too, and for all of it again.
const TICKS: u64 = 8;
/// A first claim, one after a release or a reopening, and one more.
const CLAIMS: u64 = 3;

/// A ledger with one key.
#[derive(Clone)]
struct Ledger {
    record: Option<Record>,
    now: u64,
    given: u64,
}

pub(crate) fn terms(on_unknown: OnUnknown) -> Terms {
    Terms { scope: "s".into(), upstream: "u".into(), on_unknown, upstream_keep_ms: 3, keep_ms: 2, marker_ms: 2 }
}

pub(crate) fn fingerprint(body: &[u8]) -> Fingerprint {
    let (method, headers) = (http::Method::POST, http::HeaderMap::new());
    Fingerprint::of(&FingerprintInput { method: &method, path: "/", query: None, headers: &headers, body })
}

pub(crate) fn answer(status: u16) -> StoredAnswer {
    let status = StatusCode::from_u16(status).unwrap();
    StoredAnswer { status, headers: StoredHeaders::default(), body: "done".into() }
}

pub(crate) fn operator() -> Authority {
    Authority::Operator { name: "ann".into(), reason: "asked".into() }
}

/// What can be asked of a ledger that has given fences up to `given`.
fn alphabet(terms: &Arc<Terms>, given: u64) -> Vec<Command> {
    let mut commands = vec![Command::Lapse];
    for owner in [Owner(1), Owner(2)] {
        let (fingerprint, proof) = (fingerprint(b"a"), Principal::anyone().proof());
        let claim = Claim { owner, lease: 2 * TICK, fingerprint, proof, terms: Arc::clone(terms) };
        commands.extend([Command::Claim(claim), Command::Orphan { survivor: owner }]);
    }
    for fence in (1..=given).map(Fence) {
        for (owner, body) in [(Owner(1), "a"), (Owner(2), "a"), (Owner(2), "b")] {
            let fingerprint = fingerprint(body.as_bytes());
            commands.push(Command::Reopen { fence, owner, lease: 2 * TICK, fingerprint });
        }
        commands.push(Command::Renew { fence, lease: 2 * TICK });
        commands.push(Command::GiveUp { fence, reason: UnknownReason::Timeout, attempts: 0 });
        for by in [Authority::Owner, Authority::Upstream, Authority::Probe, operator()] {
            commands.push(Command::Release { fence, by: by.clone() });
            let outcomes = [
                Outcome::Settled(answer(201)),
                Outcome::Settled(answer(409)),
                Outcome::Consumed(answer(201).into_tombstone()),
            ];
            let settle = |outcome| Command::Settle { fence, outcome, by: by.clone(), attempts: 0 };
            commands.extend(outcomes.into_iter().map(settle));
        }
    }
    commands
}

impl Ledger {
    fn key(&self) -> Vec<u8> {
        let mut key = vec![self.now as u8, self.given as u8];
        minicbor::encode(&self.record, &mut key).unwrap();
        key
    }

    fn moment(&self) -> Moment {
        Moment { now: Timestamp::from_millis(100 + self.now), fence: Fence(self.given + 1) }
    }

    fn phase(&self) -> Phase {
        self.record.as_ref().map_or(Phase::Absent, |record| record.phase(self.moment().now))
    }

    /// What stands after `command`; none for claims beyond those that are explored.
    fn after(&self, command: &Command) -> Option<Self> {
        let opens = matches!(command, Command::Claim(_) | Command::Reopen { .. });
        if opens && self.given == CLAIMS {
            return None;
        }
        let (step, record) = lawful_step(ID, self.record.as_ref(), command, self.moment());
        self.is_the_same_when_compacted(command, step.reply);
        let given = self.given + u64::from(opens && step.reply == Reply::Applied);
        let after = Self { record, given, ..*self };
        if step.reply == Reply::Applied && !opens {
            // A repeated command is harmless: it is already so, or it is refused, and changes nothing.
            let (again, record) = lawful_step(ID, after.record.as_ref(), command, after.moment());
            let renews = matches!(command, Command::Renew { .. });
            assert!(renews == (again.reply == Reply::Applied), "{command:?} twice");
            assert_eq!(record, after.record, "{command:?} twice");
        }
        Some(after)
    }

    /// An engine may compact at any moment without anybody noticing, except that who settles once more what has
    /// expired is not told any more whether it was the same.
    fn is_the_same_when_compacted(&self, command: &Command, reply: Reply) {
        let compacted = self.record.as_ref().and_then(|record| record.compacted(self.moment().now));
        let (step, _) = lawful_step(ID, compacted.as_ref(), command, self.moment());
        if !(self.phase() == Phase::Expired && matches!(command, Command::Settle { .. })) {
            assert_eq!(step.reply, reply, "{command:?} on the compacted record");
        }
    }
}

/// Breadth first; returns how many states and steps there were, and which phases were seen.
fn explore(on_unknown: OnUnknown) -> (usize, usize, HashSet<Phase>) {
    let terms = Arc::new(terms(on_unknown));
    let alphabets: Vec<_> = (0..=CLAIMS).map(|given| alphabet(&terms, given)).collect();
    let start = Ledger { record: None, now: 0, given: 0 };
    let mut seen = HashSet::from([start.key()]);
    let mut open = VecDeque::from([start]);
    let (mut steps, mut phases) = (0, HashSet::new());
    while let Some(ledger) = open.pop_front() {
        phases.insert(ledger.phase());
        let mut next = Vec::new();
        if ledger.now < TICKS {
            next.push(Ledger { now: ledger.now + 1, ..ledger.clone() });
        }
        next.extend(alphabets[ledger.given as usize].iter().filter_map(|command| ledger.after(command)));
        steps += next.len();
        open.extend(next.into_iter().filter(|ledger| seen.insert(ledger.key())));
    }
    (seen.len(), steps, phases)
}

#[test]
fn every_command_in_every_state_keeps_the_laws() {
    for on_unknown in [OnUnknown::Hold, OnUnknown::Retry, OnUnknown::Probe] {
        let (states, steps, phases) = explore(on_unknown);
        println!("{on_unknown:?}: {states} states, {steps} steps");
        assert_eq!(phases.len(), 7, "every phase is reached: {phases:?}");
        assert!(states > 1_000, "{states}");
    }
}
