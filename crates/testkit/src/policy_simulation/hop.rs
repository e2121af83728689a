//! One call at one hop: its attempts, as the gateway and the layers make them.

use std::{sync::Arc, time::Duration};

use semel_core::{
    evidence::{AnswerRules, AttemptEnd, Lost, NotSent},
    policy::{
        admission::{Permit, Ticket},
        endpoint::{Endpoint, EndpointLease},
        hedge::{Hedge, HedgeStep, Leg},
        response_class::ResponseClass,
        retry::{Ended, Pushback, Repeatable, Retries, RetryDecision, StopReason},
        throttle::{Throttle, ThrottlePermit},
    },
};

use super::{
    clock::{At, nanos},
    service::Job,
    world::{Event, World, status},
};

/// Who a call came from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
    Caller {
        group: usize,
        client: u32,
        begun: At,
    },
    /// An attempt of a call one hop before; `root` is the first hop's.
    Attempt {
        call: usize,
        attempt: usize,
        root: usize,
    },
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Outcome {
    Answered,
    Failed,
    /// The same, and everybody retries enough.
    GivenUp,
    TimedOut,
    /// Not sent; there may be room after this time.
    Refused(Duration),
}

/// A call at a hop.
pub(super) struct Call {
    pub(super) origin: Origin,
    pub(super) hop: usize,
    pub(super) permit: Option<Permit>,
    pub(super) ticket: Option<Ticket>,
    deadline: At,
    /// Attempts that some hop before this one makes of it.
    attempts_before: u32,
    retries: Retries,
    /// Of the attempt that is under way, and its number from 0.
    hedge: Option<Hedge>,
    round: usize,
    attempts: Vec<Attempt>,
    /// Endpoints, one bit each.
    tried: u64,
}

/// One attempt, or its hedge.
struct Attempt {
    leg: Leg,
    endpoint: usize,
    state: State,
}

enum State {
    Over,
    Out { lease: Option<EndpointLease<Arc<Endpoint>>>, throttle: Option<ThrottlePermit<Arc<Throttle>>> },
}

impl Outcome {
    /// What the hop before sees.
    pub(super) fn as_attempt(self) -> (AttemptEnd, Pushback) {
        match self {
            Self::Answered => (status(200), Pushback::Unsaid),
            Self::Failed => (status(502), Pushback::Unsaid),
            Self::GivenUp => (status(502), Pushback::Never),
            Self::TimedOut => (status(504), Pushback::Unsaid),
            Self::Refused(wait) => (status(503), Pushback::After(wait.max(Duration::from_secs(1)))),
        }
    }
}

impl Call {
    pub(super) const fn new(origin: Origin, hop: usize, deadline: At, attempts_before: u32, retries: Retries) -> Self {
        Self {
            origin,
            hop,
            permit: None,
            ticket: None,
            deadline,
            attempts_before,
            retries,
            hedge: None,
            round: 0,
            attempts: Vec::new(),
            tried: 0,
        }
    }

    /// Attempts begun, a hedge not counted.
    pub(super) const fn rounds(&self) -> usize {
        self.round
    }
}

impl World {
    /// The next attempt of a call.
    pub(super) fn round(&mut self, call: usize) {
        let Some(Call { hop, .. }) = self.calls[call].as_deref() else { return };
        let (hop, now) = (*hop, self.instant());
        let hedge = self.hops[hop].semel.as_ref().map(|semel| {
            let may = if semel.hedges { Repeatable::Always } else { Repeatable::IfNotExecuted };
            Hedge::begin(&semel.hedge, &semel.latencies, may, now)
        });
        let fires_at = hedge.as_ref().and_then(Hedge::fires_at).map(|at| self.agenda.at(at));
        let under_way = self.call(call);
        under_way.hedge = hedge;
        under_way.round += 1;
        let round = under_way.round;
        if let Some(at) = fires_at {
            self.agenda.plan(at, Event::Hedge { call, round });
        }
        self.send(call, Leg::First);
    }

    /// The extra attempt of a call is due, unless the first is over.
    pub(super) fn hedge(&mut self, call: usize, round: usize) {
        let now = self.instant();
        let Some(Call { hop, hedge: Some(hedge), round: current, attempts, .. }) = self.calls[call].as_deref_mut()
        else {
            return;
        };
        let is_out = attempts.iter().any(|attempt| matches!(attempt.state, State::Out { .. }));
        if *current == round && is_out && hedge.fires_at().is_some() && hedge.fire(&self.hops[*hop].budget, now) {
            self.send(call, Leg::Extra);
        }
    }

    fn send(&mut self, call: usize, leg: Leg) {
        let attempt = self.call(call).attempts.len();
        let (hop, deadline, tried) = {
            let Call { hop, deadline, tried, attempts, .. } = self.call(call);
            // Where the first leg is does not go the second.
            let out = attempts.iter().filter(|attempt| matches!(attempt.state, State::Out { .. }));
            (*hop, *deadline, out.fold(*tried, |tried, attempt| tried | 1 << attempt.endpoint))
        };
        let (now, rand, bits) = (self.instant(), self.chance.unit(), self.chance.bits());
        let sent = self.hops[hop].choose(now, tried, rand, bits);
        let Some((endpoint, lease, throttle)) = sent else {
            let refused = Attempt { leg, endpoint: 0, state: State::Out { lease: None, throttle: None } };
            self.call(call).attempts.push(refused);
            let (end, pushback) = (AttemptEnd::NotSent(NotSent::RefusedHere), Pushback::Unsaid);
            return self.attempt_ended(call, attempt, end, pushback);
        };
        self.call(call).attempts.push(Attempt { leg, endpoint, state: State::Out { lease, throttle } });
        let stack = &self.hops[hop];
        let mut timeout = stack.settings.attempt_timeout;
        let is_told = stack.semel.is_some();
        if is_told {
            timeout = timeout.min(self.until(deadline));
        }
        let until = self.agenda.now() + nanos(timeout);
        self.agenda.plan(until, Event::TimedOut { call, attempt });
        if hop + 1 == self.hops.len() {
            return self.serve(endpoint, Job { call, attempt });
        }
        let Call { origin, retries, attempts_before, .. } = self.call(call);
        let root = if let Origin::Attempt { root, .. } = *origin { root } else { call };
        // The mark of a hop before goes on as it came: 1/1 would say that nobody retries.
        let attempts_max = retries.mark().max().max(*attempts_before);
        let origin = Origin::Attempt { call, attempt, root };
        let now = self.agenda.now();
        self.agenda.plan(now, Event::Arrives { origin, hop: hop + 1, deadline: until, attempts_max });
    }

    /// An attempt has ended, unless it had been given up.
    pub(super) fn attempt_ended(&mut self, call: usize, attempt: usize, end: AttemptEnd, pushback: Pushback) {
        let now = self.instant();
        let Some(Call { hop, attempts, .. }) = self.calls[call].as_deref_mut() else { return };
        let Attempt { leg, endpoint, state } = &mut attempts[attempt];
        let State::Out { lease, throttle } = std::mem::replace(state, State::Over) else { return };
        let (hop, leg, endpoint) = (*hop, *leg, *endpoint);
        let class = ResponseClass::of(&end);
        if let Some(mut lease) = lease {
            lease.record(class, pushback, now);
        }
        if let Some(throttle) = throttle {
            throttle.record(class, now);
        }
        self.hops[hop].left(endpoint);
        self.call(call).tried |= 1 << endpoint;
        let stack = &self.hops[hop];
        let Some(Call { hedge: Some(hedge), .. }) = self.calls[call].as_deref_mut() else {
            return self.round_ended(call, end, pushback);
        };
        match hedge.ended(leg, class, pushback, &stack.budget, now) {
            HedgeStep::Wait => {}
            HedgeStep::Fire => self.send(call, Leg::Extra),
            HedgeStep::Finish => {
                if let (Some(sample), Some(semel)) = (hedge.sample(now), &stack.semel) {
                    semel.latencies.record(sample, now);
                }
                self.give_up_attempts(call, AttemptEnd::NotSent(NotSent::RefusedHere));
                self.round_ended(call, end, pushback);
            }
        }
    }

    fn round_ended(&mut self, call: usize, end: AttemptEnd, pushback: Pushback) {
        let (now, rand) = (self.instant(), self.chance.unit());
        let hop = self.call(call).hop;
        let stack = &self.hops[hop];
        let Some(under_way) = self.calls[call].as_deref_mut() else { return };
        // What a plain retry cannot tell from any other failure.
        let seen = match end {
            AttemptEnd::NotSent(_) if stack.semel.is_none() => status(502),
            end => end,
        };
        let verdict = AnswerRules::default().verdict(&seen);
        let ended = Ended { end: &seen, verdict, pushback, is_forwarded: false };
        let outcome = match (under_way.retries.after(ended, &stack.budget, now, rand), end) {
            (RetryDecision::Repeat { wait }, _) => {
                let at = self.agenda.now() + nanos(wait);
                self.note_repeat(hop);
                return self.agenda.plan(at, Event::Round { call });
            }
            (RetryDecision::Stop(_), AttemptEnd::Answered { status, .. }) if status.is_success() => Outcome::Answered,
            (RetryDecision::Stop(StopReason::RefusedHere), _) => Outcome::Refused(Duration::ZERO),
            (RetryDecision::Stop(StopReason::BudgetSpent | StopReason::PushedBack), _) => Outcome::GivenUp,
            (RetryDecision::Stop(_), AttemptEnd::Lost(Lost::Timeout)) => Outcome::TimedOut,
            (RetryDecision::Stop(_), _) => Outcome::Failed,
        };
        self.end(call, outcome);
    }

    /// Attempts that are still out are cancelled. Those that ran out of time are recorded as that; the loser of a hedge was
    /// at least so slow.
    pub(super) fn give_up_attempts(&mut self, call: usize, end: AttemptEnd) {
        let now = self.instant();
        let Some(Call { hop, attempts, .. }) = self.calls[call].as_deref_mut() else { return };
        for Attempt { endpoint, state, .. } in attempts {
            let State::Out { lease, throttle } = std::mem::replace(state, State::Over) else { continue };
            self.hops[*hop].left(*endpoint);
            if end == AttemptEnd::NotSent(NotSent::RefusedHere) {
                lease.into_iter().for_each(|lease| lease.abandon(now));
                continue;
            }
            let class = ResponseClass::of(&end);
            if let Some(mut lease) = lease {
                lease.record(class, Pushback::Unsaid, now);
            }
            if let Some(throttle) = throttle {
                throttle.record(class, now);
            }
        }
    }
}
