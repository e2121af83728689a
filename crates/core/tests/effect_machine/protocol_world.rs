//! Two owners, an operator, a status resource and an upstream on one key, as a state whose successors can be listed.

use std::{sync::Arc, time::Duration};

use semel_core::{
    effect::{
        Authority, Claim, Command, FOREVER_MS, Fence, Moment, OnUnknown, Outcome, Owner, Phase, Record, Reply, State,
        Terms, UnknownReason,
    },
    scope::Principal,
    time::Timestamp,
};

use crate::{
    alphabet::{ID, TICK, answer, fingerprint, operator, terms},
    law::lawful_step,
};

const EPOCH: u64 = 100;
const LEASE: u64 = 1;
const UPSTREAM_KEEP: u64 = 2;

/// What is explored.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) on_unknown: OnUnknown,
    pub(crate) ticks: u64,
    pub(crate) claims: u64,
    pub(crate) on_the_wire: usize,
    /// The operator releases without asking the upstream; a control that must be found out.
    pub(crate) operator_guesses: bool,
    /// The upstream executes a key as often as it comes; a control that must be found out.
    pub(crate) upstream_forgets: bool,
}

/// One process, as far as it holds the effect.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Holder {
    Idle,
    /// It holds a claim and has nothing on the wire.
    Claimed {
        fence: u64,
        until: u64,
        unknown: bool,
    },
    /// It waits for an answer.
    Waiting {
        fence: u64,
        until: u64,
        unknown: bool,
    },
}

/// Somebody who asks the upstream about an unknown effect, then acts on what it heard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Asker {
    Idle,
    Knows { fence: u64, executed: bool },
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Message {
    pub(crate) owner: usize,
    pub(crate) fence: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Answer {
    owner: usize,
    fence: u64,
    executed: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) given: u64,
    pub(crate) record: Option<Record>,
    pub(crate) holders: [Holder; 2],
    pub(crate) lives: [u64; 2],
    /// The status resource, then the operator.
    pub(crate) askers: [Asker; 2],
    pub(crate) wire: Vec<Message>,
    pub(crate) answers: Vec<Answer>,
    /// The claims under which it was executed.
    pub(crate) executed: Vec<u64>,
    pub(crate) first_at: Option<u64>,
    /// The upstream executes nothing under this claim or an older one.
    pub(crate) refuses_to: u64,
}

/// What happened on the way to a world, in a word.
pub(crate) type Event = &'static str;

impl World {
    pub(crate) fn start() -> Self {
        Self {
            now: 0,
            given: 0,
            record: None,
            holders: [Holder::Idle; 2],
            lives: [0; 2],
            askers: [Asker::Idle; 2],
            wire: Vec::new(),
            answers: Vec::new(),
            executed: Vec::new(),
            first_at: None,
            refuses_to: 0,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.record.as_ref().map_or(Phase::Absent, |record| record.phase(self.clock()))
    }

    /// Two worlds with the same key are the same world.
    pub(crate) fn key(&self) -> Vec<u8> {
        let small = |number: u64| u8::try_from(number).unwrap();
        let mut key = Vec::with_capacity(128);
        key.extend([self.now, self.given, self.refuses_to, self.lives[0], self.lives[1]].map(small));
        key.push(self.first_at.map_or(u8::MAX, small));
        for holder in self.holders {
            match holder {
                Holder::Idle => key.push(0),
                Holder::Claimed { fence, until, unknown } => {
                    key.extend([1, small(fence), small(until), u8::from(unknown)]);
                }
                Holder::Waiting { fence, until, unknown } => {
                    key.extend([2, small(fence), small(until), u8::from(unknown)]);
                }
            }
        }
        for asker in self.askers {
            match asker {
                Asker::Idle => key.push(0),
                Asker::Knows { fence, executed } => key.extend([1 + u8::from(executed), small(fence)]),
            }
        }
        key.push(small(self.wire.len() as u64));
        for Message { owner, fence } in &self.wire {
            key.extend([small(*owner as u64), small(*fence)]);
        }
        key.push(small(self.answers.len() as u64));
        for Answer { owner, fence, executed } in &self.answers {
            key.extend([small(*owner as u64), small(*fence), u8::from(*executed)]);
        }
        key.push(small(self.executed.len() as u64));
        key.extend(self.executed.iter().map(|fence| small(*fence)));
        self.record_key(&mut key);
        key
    }

    /// What of the record can differ between worlds of one exploration.
    fn record_key(&self, key: &mut Vec<u8>) {
        let Some(record) = &self.record else { return key.push(0) };
        let small = |at: Timestamp| u8::try_from(at.as_millis() - EPOCH).unwrap();
        key.extend([small(record.claimed_at), record.fence.0 as u8, u8::from(record.was_unknown)]);
        match &record.state {
            State::Open { owner, lease_until } => key.extend([1, owner.0 as u8, small(*lease_until)]),
            // Since when and why changes nothing that follows.
            State::Unknown { .. } => key.push(2),
            State::Settled { .. } => key.push(3),
            other => panic!("nobody makes it so: {other:?}"),
        }
    }

    /// Every world that can be next.
    pub(crate) fn successors(&self, bounds: &Bounds) -> Vec<(Event, Self)> {
        let mut next = Vec::new();
        if self.is_over() {
            return next;
        }
        if self.now < bounds.ticks {
            next.push(("tick", self.after_a_tick(bounds)));
        }
        for owner in 0..2 {
            self.owner_acts(owner, bounds, &mut next);
        }
        for at in 0..self.wire.len() {
            self.upstream_gets(at, bounds, &mut next);
        }
        for at in 0..self.answers.len() {
            self.answer_comes(at, &mut next);
        }
        if bounds.on_unknown == OnUnknown::Probe {
            self.somebody_asks(0, &Authority::Probe, false, &mut next);
        }
        self.somebody_asks(1, &operator(), bounds.operator_guesses, &mut next);
        for fence in &self.executed {
            self.settle(*fence, Authority::Upstream, "the upstream settles", &mut next);
        }
        for (_, world) in &mut next {
            world.wire.sort_unstable();
            world.answers.sort_unstable();
        }
        next
    }

    /// Settled, and nothing can reach the upstream any more.
    fn is_over(&self) -> bool {
        self.phase() == Phase::Settled && self.wire.is_empty() && self.holders == [Holder::Idle; 2]
    }

    fn clock(&self) -> Timestamp {
        Timestamp::from_millis(EPOCH + self.now)
    }

    fn apply(&mut self, command: &Command) -> Reply {
        let moment = Moment { now: self.clock(), fence: Fence(self.given + 1) };
        let (step, record) = lawful_step(ID, self.record.as_ref(), command, moment);
        self.record = record;
        if step.reply == Reply::Applied && matches!(command, Command::Claim(_) | Command::Reopen { .. }) {
            self.given += 1;
        }
        step.reply
    }

    fn after_a_tick(&self, bounds: &Bounds) -> Self {
        let mut world = Self { now: self.now + 1, ..self.clone() };
        // Where the upstream's memory decides, what is on its way arrives before it can forget.
        if bounds.on_unknown == OnUnknown::Retry {
            world.wire.clear();
        }
        world
    }

    fn owner_acts(&self, owner: usize, bounds: &Bounds, next: &mut Vec<(Event, Self)>) {
        match self.holders[owner] {
            Holder::Idle => self.call_comes(owner, bounds, next),
            Holder::Claimed { fence, until, unknown } => {
                let in_time = bounds.on_unknown != OnUnknown::Retry || self.upstream_remembers_a_send();
                if self.now < until && in_time && self.wire.len() < bounds.on_the_wire {
                    let mut world = self.clone();
                    world.wire.push(Message { owner, fence });
                    world.holders[owner] = Holder::Waiting { fence, until, unknown };
                    next.push(("sent", world));
                }
                let command = if unknown { give_up(fence) } else { release(fence, Authority::Owner) };
                self.owner_ends(owner, &command, "gave back unsent", next);
                self.renew(owner, fence, next);
            }
            Holder::Waiting { fence, until, .. } => {
                self.owner_ends(owner, &give_up(fence), "gave up", next);
                if bounds.on_unknown == OnUnknown::Retry {
                    let mut world = self.clone();
                    world.holders[owner] = Holder::Claimed { fence, until, unknown: true };
                    next.push(("attempts again", world));
                }
                self.renew(owner, fence, next);
            }
        }
        // One crash is enough to see what it leaves; the other process stays.
        if owner == 0 && self.holders[0] != Holder::Idle && self.lives[0] == 0 {
            let mut world = self.clone();
            world.holders[owner] = Holder::Idle;
            world.lives[owner] += 1;
            world.answers.retain(|answer| answer.owner != owner);
            next.push(("crashed", world.clone()));
            world.apply(&Command::Orphan { survivor: world.name(1 - owner) });
            next.push(("crashed and orphaned", world));
        }
    }

    fn name(&self, owner: usize) -> Owner {
        Owner(10 * self.lives[owner] + owner as u64)
    }

    /// A caller's request reaches this process, which does what the record says.
    fn call_comes(&self, owner: usize, bounds: &Bounds, next: &mut Vec<(Event, Self)>) {
        let lease = u32::try_from(LEASE).unwrap() * TICK;
        let command = match (self.phase(), &self.record) {
            (Phase::Absent, _) if self.given < bounds.claims => Command::Claim(Claim {
                owner: self.name(owner),
                lease,
                fingerprint: fingerprint(b"a"),
                proof: Principal::anyone().proof(),
                terms: Arc::new(Terms {
                    upstream_keep_ms: UPSTREAM_KEEP,
                    keep_ms: FOREVER_MS,
                    ..terms(bounds.on_unknown)
                }),
            }),
            (Phase::Lapsed, _) => Command::Lapse,
            (Phase::Unknown, Some(record)) if self.given < bounds.claims => {
                let fingerprint = fingerprint(b"a");
                Command::Reopen { fence: record.fence, owner: self.name(owner), lease, fingerprint }
            }
            _ => return,
        };
        let mut world = self.clone();
        let unknown = matches!(command, Command::Reopen { .. });
        if world.apply(&command) == Reply::Applied && command != Command::Lapse {
            world.holders[owner] = Holder::Claimed { fence: world.given, until: self.now + LEASE, unknown };
        }
        next.push((if unknown { "reopened" } else { "claimed" }, world));
    }

    /// Whether a send now is one that the upstream promised to recognise.
    fn upstream_remembers_a_send(&self) -> bool {
        let first = self.record.as_ref().map(|record| record.claimed_at);
        first.is_some_and(|first| self.clock() < first.plus(Duration::from_millis(UPSTREAM_KEEP)))
    }

    fn renew(&self, owner: usize, fence: u64, next: &mut Vec<(Event, Self)>) {
        let mut world = self.clone();
        let lease = u32::try_from(LEASE).unwrap() * TICK;
        let renewed = world.apply(&Command::Renew { fence: Fence(fence), lease }) == Reply::Applied;
        let now = self.now;
        match &mut world.holders[owner] {
            Holder::Claimed { until, .. } | Holder::Waiting { until, .. } => {
                *until = if renewed { now + LEASE } else { 0 };
            }
            Holder::Idle => {}
        }
        next.push(("renewed", world));
    }

    fn owner_ends(&self, owner: usize, command: &Command, event: Event, next: &mut Vec<(Event, Self)>) {
        let mut world = self.clone();
        world.apply(command);
        world.holders[owner] = Holder::Idle;
        next.push((event, world));
    }

    /// The upstream executes, refuses, or never sees it; its answer arrives or not.
    fn upstream_gets(&self, at: usize, bounds: &Bounds, next: &mut Vec<(Event, Self)>) {
        let mut world = self.clone();
        let message = world.wire.remove(at);
        next.push(("lost on its way", world.clone()));
        let Message { owner, fence, .. } = message;
        let answer = |mut world: Self, executed| {
            let answer = Answer { owner, fence, executed };
            let reaches = world.lives[owner] == 0 || world.holders[owner] != Holder::Idle;
            if reaches && !world.answers.contains(&answer) && world.answers.len() < bounds.on_the_wire {
                world.answers.push(answer);
            }
            world
        };
        next.push(("refused", answer(world.clone(), false)));
        if fence <= self.refuses_to {
            return;
        }
        let remembers = bounds.on_unknown == OnUnknown::Retry
            && !bounds.upstream_forgets
            && self.first_at.is_some_and(|first| self.now < first + UPSTREAM_KEEP);
        if !remembers {
            world.executed.push(fence);
            world.first_at.get_or_insert(self.now);
        }
        next.push(("executed, answer lost", world.clone()));
        next.push(("executed", answer(world, true)));
    }

    /// An answer reaches its process, in time or late: the attempt under way is never cancelled.
    fn answer_comes(&self, at: usize, next: &mut Vec<(Event, Self)>) {
        let mut world = self.clone();
        let Answer { owner, fence, executed } = world.answers.remove(at);
        let waits = match world.holders[owner] {
            Holder::Waiting { fence: held, unknown, .. } if held == fence => Some(unknown),
            _ => None,
        };
        match (executed, waits) {
            (true, _) => {
                if waits.is_some() {
                    world.holders[owner] = Holder::Idle;
                }
                world.settle(fence, Authority::Owner, "answered", next);
            }
            (false, Some(unknown)) => {
                let command = if unknown { give_up(fence) } else { release(fence, Authority::Owner) };
                world.owner_ends(owner, &command, "told no", next);
            }
            // What comes after the process gave up proves nothing that it could still use.
            (false, None) => next.push(("told no, late", world)),
        }
    }

    fn settle(&self, fence: u64, by: Authority, event: Event, next: &mut Vec<(Event, Self)>) {
        let mut world = self.clone();
        let outcome = Outcome::Settled(answer(201));
        world.apply(&Command::Settle { fence: Fence(fence), outcome, by, attempts: 0 });
        next.push((event, world));
    }

    /// Asks the upstream, which says executed or promises never to; then acts, perhaps much later.
    fn somebody_asks(&self, who: usize, by: &Authority, guesses: bool, next: &mut Vec<(Event, Self)>) {
        let mut world = self.clone();
        match self.askers[who] {
            Asker::Idle => {
                let Some(Record { state: State::Unknown { .. }, fence: Fence(fence), .. }) = self.record else {
                    return;
                };
                let executed = !self.executed.is_empty() && !guesses;
                if !executed && !guesses {
                    world.refuses_to = world.refuses_to.max(fence);
                }
                world.askers[who] = Asker::Knows { fence, executed };
                next.push(("asked", world));
            }
            Asker::Knows { fence, executed: true } => {
                world.askers[who] = Asker::Idle;
                world.settle(fence, by.clone(), "settled by who asked", next);
            }
            Asker::Knows { fence, executed: false } => {
                world.askers[who] = Asker::Idle;
                let reply = world.apply(&release(fence, by.clone()));
                next.push((if reply == Reply::Applied { "released by who asked" } else { "asked in vain" }, world));
            }
        }
    }
}

fn give_up(fence: u64) -> Command {
    Command::GiveUp { fence: Fence(fence), reason: UnknownReason::ConnectionLost, attempts: 0 }
}

fn release(fence: u64, by: Authority) -> Command {
    Command::Release { fence: Fence(fence), by }
}
