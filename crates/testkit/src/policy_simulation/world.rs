//! A run: callers, the stacks in their way, and the service at the end of it.

use std::time::{Duration, Instant};

use semel_core::{
    evidence::{AttemptEnd, Lost, NotSent},
    policy::{
        admission::{Arrival, Arriving, Ended as Admitted, Level, Next, Priority},
        retry::Pushback,
    },
};

use super::{
    clock::{Agenda, At, Chance, nanos},
    hop::{Call, Origin, Outcome},
    report::Report,
    service::{Job, Received, Server},
    stack::{Kind, Settings, Stack},
};

/// What is simulated.
pub(super) struct Setup {
    pub(super) seconds: u64,
    pub(super) callers: Vec<Callers>,
    /// Stacks one behind the other; each but the last has the next one as its only endpoint.
    pub(super) hops: usize,
    pub(super) settings: Settings,
    /// The endpoints of the last hop.
    pub(super) servers: Vec<Server>,
}

/// Callers of one kind, who do not know of each other.
pub(super) struct Callers {
    pub(super) clients: u32,
    /// Calls a second of all of them together, from each of these times on.
    pub(super) rates: Vec<(At, f64)>,
}

/// What happens. A call is named by its place in the list of all.
pub(super) enum Event {
    /// Somebody calls.
    Comes { group: usize },
    /// An attempt arrives at the next hop.
    Arrives { origin: Origin, hop: usize, deadline: At, attempts_max: u32 },
    /// A call has waited for its place long enough.
    Waited { call: usize },
    /// A call's next attempt is due.
    Round { call: usize },
    /// A call's extra attempt is due.
    Hedge { call: usize, round: usize },
    /// An attempt has had its time.
    TimedOut { call: usize, attempt: usize },
    /// An attempt has ended.
    Ended { call: usize, attempt: usize, end: AttemptEnd, pushback: Pushback },
    /// A call has had its time.
    Over { call: usize },
    /// A worker has done an attempt's work.
    Worked { server: usize, job: Job, fails: bool },
}

/// A run under way.
pub(super) struct World {
    pub(super) agenda: Agenda<Event>,
    pub(super) chance: Chance,
    pub(super) hops: Vec<Stack>,
    pub(super) calls: Vec<Option<Box<Call>>>,
    callers: Vec<Callers>,
    servers: Vec<Server>,
    report: Report,
}

/// Runs it with one of the stacks that are compared.
pub(super) fn run(setup: Setup, kind: Kind, seed: u64) -> Report {
    let (mut agenda, mut chance) = (Agenda::new(), Chance::seeded(seed));
    for group in 0..setup.callers.len() {
        agenda.plan(0, Event::Comes { group });
    }
    let start = agenda.instant();
    let endpoints = |hop: usize| if hop + 1 == setup.hops { setup.servers.len() } else { 1 };
    let hops = (0..setup.hops)
        .map(|hop| Stack::new(kind, setup.settings.clone(), endpoints(hop), start, &mut chance))
        .collect();
    let Setup { callers, servers, seconds, .. } = setup;
    let mut world = World { agenda, chance, hops, calls: Vec::new(), callers, servers, report: Report::of(seconds) };
    while let Some(event) = world.agenda.next(seconds * super::clock::SECOND) {
        world.step(event);
    }
    world.report
}

impl World {
    fn step(&mut self, event: Event) {
        match event {
            Event::Comes { group } => self.comes(group),
            Event::Arrives { origin, hop, deadline, attempts_max } => self.arrives(origin, hop, deadline, attempts_max),
            Event::Waited { call } => self.waited(call),
            Event::Round { call } => self.round(call),
            Event::Hedge { call, round } => self.hedge(call, round),
            Event::TimedOut { call, attempt } => {
                self.attempt_ended(call, attempt, AttemptEnd::Lost(Lost::Timeout), Pushback::Unsaid);
            }
            Event::Ended { call, attempt, end, pushback } => self.attempt_ended(call, attempt, end, pushback),
            Event::Over { call } => self.over(call),
            Event::Worked { server, job, fails } => self.worked(server, job, fails),
        }
    }

    fn comes(&mut self, group: usize) {
        let now = self.agenda.now();
        let Callers { clients, rates } = &self.callers[group];
        let rate = rates.iter().rev().find(|(from, _)| *from <= now).map_or(0.0, |(_, rate)| *rate);
        // Who rests looks again soon.
        let gap = if rate > 0.0 { self.chance.gap(rate) } else { super::clock::SECOND / 10 };
        let client = group as u32 * 1_000_000 + (self.chance.unit() * f64::from(*clients)) as u32;
        self.agenda.plan(now + gap, Event::Comes { group });
        if rate > 0.0 {
            self.report.second(now).offered[group] += 1;
            let deadline = now + nanos(self.hops[0].settings.total_timeout);
            self.arrives(Origin::Caller { group, client, begun: now }, 0, deadline, 1);
        }
    }

    /// A call comes to a hop, whose caller has gone at `deadline` and makes up to `attempts_max` of them itself.
    fn arrives(&mut self, origin: Origin, hop: usize, deadline: At, attempts_max: u32) {
        let (now, instant) = (self.agenda.now(), self.agenda.instant());
        let stack = &mut self.hops[hop];
        let own = now + nanos(stack.settings.total_timeout);
        let deadline = if stack.semel.is_some() { deadline.min(own) } else { own };
        let call = self.calls.len();
        let retries = stack.retries(self.agenda.instant_at(deadline), attempts_max);
        self.calls.push(Some(Box::new(Call::new(origin, hop, deadline, attempts_max, retries))));
        self.agenda.plan(deadline, Event::Over { call });
        let Some(semel) = &mut stack.semel else { return self.begin(call) };
        if let (Some(limiter), Origin::Caller { client, .. }) = (&semel.limiter, origin)
            && let Err(limited) = limiter.check(instant, &client, 1)
        {
            return self.end(call, Outcome::Refused(limited.0.wait));
        }
        let level = Level::of_share(Priority::Medium, self.chance.unit());
        let arriving = Arriving { level, deadline: Some(self.agenda.instant_at(deadline)), rand: self.chance.unit() };
        match semel.admission.arrive(instant, arriving, || call) {
            Arrival::Admitted(permit) => {
                self.call(call).permit = Some(permit);
                self.begin(call);
            }
            Arrival::Queued { ticket, until } => {
                self.call(call).ticket = Some(ticket);
                self.agenda.plan(self.agenda.at(until), Event::Waited { call });
                self.deliver(hop);
            }
            Arrival::Refused(refusal) => self.end(call, Outcome::Refused(refusal.retry_in)),
        }
    }

    /// Tells those who waited at a hop what became of them.
    pub(super) fn deliver(&mut self, hop: usize) {
        let now = self.agenda.instant();
        while let Some(next) = self.hops[hop].semel.as_mut().and_then(|semel| semel.admission.next(now)) {
            match next {
                Next::Admit(call, permit) => {
                    let waiting = self.call(call);
                    (waiting.permit, waiting.ticket) = (Some(permit), None);
                    self.begin(call);
                }
                Next::Refuse(call, refusal) => {
                    self.call(call).ticket = None;
                    self.end(call, Outcome::Refused(refusal.retry_in));
                }
            }
        }
    }

    fn waited(&mut self, call: usize) {
        let Some(Call { hop, ticket: Some(_), .. }) = self.calls[call].as_deref() else { return };
        let (hop, now) = (*hop, self.agenda.instant());
        let Some(semel) = &self.hops[hop].semel else { return };
        let refusal = semel.admission.refusal(now, semel_core::policy::admission::RefusedWhy::Waited);
        self.end(call, Outcome::Refused(refusal.retry_in));
        self.deliver(hop);
    }

    fn begin(&mut self, call: usize) {
        let hop = self.call(call).hop;
        self.hops[hop].budget.record_call(self.agenda.instant());
        self.round(call);
    }

    fn over(&mut self, call: usize) {
        if self.calls[call].is_none() {
            return;
        }
        self.give_up_attempts(call, AttemptEnd::Lost(Lost::Timeout));
        self.end(call, Outcome::TimedOut);
    }

    /// A call is over: its place is free, and whoever waits for it is told.
    pub(super) fn end(&mut self, call: usize, outcome: Outcome) {
        let Some(over) = self.calls[call].take() else { return };
        let (now, instant) = (self.agenda.now(), self.agenda.instant());
        let ended = measured(outcome, over.rounds());
        if let Some(semel) = &mut self.hops[over.hop].semel {
            if let Some(ticket) = over.ticket {
                semel.admission.withdraw(instant, ticket);
            }
            if let Some(permit) = over.permit {
                semel.admission.finish(instant, permit, ended);
                self.deliver(over.hop);
            }
        }
        match over.origin {
            Origin::Caller { group, begun, .. } => {
                let second = self.report.second(begun);
                second.answered[group] += u32::from(outcome == Outcome::Answered);
                second.latencies.push(u32::try_from((now - begun) / 1_000).unwrap_or(u32::MAX));
            }
            Origin::Attempt { call, attempt, .. } => {
                let (end, pushback) = outcome.as_attempt();
                self.agenda.plan(now, Event::Ended { call, attempt, end, pushback });
            }
        }
    }

    /// An attempt goes to an endpoint of the last hop.
    pub(super) fn serve(&mut self, server: usize, job: Job) {
        let now = self.agenda.now();
        let is_late = self.is_late(job.call);
        let second = self.report.second(now);
        second.attempts += 1;
        second.late += u32::from(is_late);
        let ended = |end| Event::Ended { call: job.call, attempt: job.attempt, end, pushback: Pushback::Unsaid };
        match self.servers[server].receive(job, now, &mut self.chance) {
            Received::Begun { until, fails } => self.agenda.plan(until, Event::Worked { server, job, fails }),
            Received::FailedAtOnce => self.agenda.plan(now, ended(status(500))),
            Received::Refused => self.agenda.plan(now, ended(AttemptEnd::NotSent(NotSent::ConnectFailed))),
            Received::Queued | Received::Swallowed => {}
        }
    }

    pub(super) fn note_repeat(&mut self, hop: usize) {
        let now = self.agenda.now();
        self.report.second(now).inner_repeats += u32::from(hop > 0);
    }

    fn worked(&mut self, server: usize, job: Job, fails: bool) {
        let now = self.agenda.now();
        if let Some((job, Received::Begun { until, fails })) = self.servers[server].next(now, &mut self.chance) {
            self.agenda.plan(until, Event::Worked { server, job, fails });
        }
        let is_late = self.is_late(job.call);
        let second = self.report.second(now);
        second.worked += 1;
        second.wasted += u32::from(is_late);
        self.attempt_ended(job.call, job.attempt, status(if fails { 500 } else { 200 }), Pushback::Unsaid);
    }

    /// Whether the first caller of a chain has gone.
    fn is_late(&self, call: usize) -> bool {
        let root = match self.calls[call].as_ref().map(|call| call.origin) {
            Some(Origin::Caller { .. }) => return false,
            Some(Origin::Attempt { root, .. }) => root,
            None => return true,
        };
        self.calls[root].is_none()
    }

    /// A call that is under way.
    pub(super) fn call(&mut self, call: usize) -> &mut Call {
        self.calls[call].as_mut().expect("who is told of a call knows that it is under way")
    }

    pub(super) fn instant(&self) -> Instant {
        self.agenda.instant()
    }

    /// From now to then.
    pub(super) fn until(&self, at: At) -> Duration {
        Duration::from_nanos(at.saturating_sub(self.agenda.now()))
    }
}

pub(super) fn status(status: u16) -> AttemptEnd {
    let status = http::StatusCode::from_u16(status).expect("the simulation's statuses are statuses");
    AttemptEnd::Answered { status, mark: None }
}

/// What admission learns of a call's end, as in the gateway: what a repeat took includes its wait.
const fn measured(outcome: Outcome, rounds: usize) -> Admitted {
    match outcome {
        Outcome::Answered if rounds == 1 => Admitted::Completed,
        Outcome::TimedOut => Admitted::TimedOut,
        Outcome::Answered | Outcome::Failed | Outcome::Refused(_) | Outcome::GivenUp => Admitted::Cancelled,
    }
}
