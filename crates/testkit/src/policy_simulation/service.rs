//! A service: endpoints with workers and queues, and what goes wrong with them.

use std::collections::VecDeque;

use super::clock::{At, Chance};

/// An endpoint.
#[derive(Clone)]
pub(super) struct Server {
    workers: usize,
    /// Of one call, on average; each takes between half and one and a half of it.
    service: At,
    busy: usize,
    waiting: VecDeque<Job>,
    ailments: Vec<(At, At, Ailment)>,
}

/// What is wrong with an endpoint for a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Ailment {
    /// This share of calls fails, after as much work as any.
    Failing(f64),
    /// Every call fails, at once and without work.
    FailingFast,
    /// Work takes so many times as long.
    Slow(f64),
    /// Calls are taken and never answered.
    BlackHole,
    /// Connections are refused.
    Down,
}

/// One attempt at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) call: usize,
    pub(super) attempt: usize,
}

/// What an endpoint does with an attempt that comes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Received {
    /// It is at work, until then.
    Begun {
        until: At,
        fails: bool,
    },
    Queued,
    FailedAtOnce,
    Refused,
    Swallowed,
}

impl Server {
    pub(super) const fn new(workers: usize, service: At) -> Self {
        Self { workers, service, busy: 0, waiting: VecDeque::new(), ailments: Vec::new() }
    }

    pub(super) fn suffers(mut self, from: At, to: At, ailment: Ailment) -> Self {
        self.ailments.push((from, to, ailment));
        self
    }

    pub(super) fn receive(&mut self, job: Job, now: At, chance: &mut Chance) -> Received {
        match self.ailment(now) {
            Some(Ailment::Down) => return Received::Refused,
            Some(Ailment::BlackHole) => return Received::Swallowed,
            Some(Ailment::FailingFast) => return Received::FailedAtOnce,
            _ => {}
        }
        if self.busy < self.workers {
            self.begin(now, chance)
        } else {
            self.waiting.push_back(job);
            Received::Queued
        }
    }

    /// A worker is free again: who is next, and what becomes of it.
    pub(super) fn next(&mut self, now: At, chance: &mut Chance) -> Option<(Job, Received)> {
        self.busy -= 1;
        let job = self.waiting.pop_front()?;
        Some((job, self.begin(now, chance)))
    }

    fn begin(&mut self, now: At, chance: &mut Chance) -> Received {
        self.busy += 1;
        let mut service = self.service as f64 * (0.5 + chance.unit());
        let mut fails = false;
        match self.ailment(now) {
            Some(Ailment::Slow(times)) => service *= times,
            Some(Ailment::Failing(share)) => fails = chance.unit() < share,
            _ => {}
        }
        Received::Begun { until: now + service as At, fails }
    }

    fn ailment(&self, now: At) -> Option<Ailment> {
        self.ailments.iter().find(|(from, to, _)| (*from..*to).contains(&now)).map(|(_, _, ailment)| *ailment)
    }
}
