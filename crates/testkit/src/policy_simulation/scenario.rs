//! What goes wrong.

use std::time::Duration;

use semel_core::policy::rate_limit::{KEYS_MAX, LimitPolicy, Quota, Reach};

use super::{
    clock::{At, MS, SECOND},
    report::Report,
    service::{Ailment, Server},
    stack::{Kind, Settings, SimpleBalance},
    world::{Callers, Setup, run},
};

/// A run of each stack under the same circumstances.
pub(super) struct Comparison {
    pub(super) nothing: Report,
    pub(super) plain: Report,
    pub(super) semel: Report,
}

/// When what goes wrong does, in seconds.
pub(super) const WRONG: (usize, usize) = (20, 50);
/// The burst and the short outage.
pub(super) const BURST: (usize, usize) = (20, 30);
pub(super) const OUTAGE: (usize, usize) = (20, 22);
/// Seconds that are looked at; runs go on until calls of the last one have ended.
pub(super) const END: usize = 80;
const CALLS_END: u64 = 4;

/// Of every run.
pub(super) const SEED: u64 = 20_250_601;

impl Comparison {
    pub(super) fn of(setup: impl Fn() -> Setup) -> Self {
        Self {
            nothing: run(setup(), Kind::Nothing, SEED),
            plain: run(setup(), Kind::PlainRetry, SEED),
            semel: run(setup(), Kind::Semel, SEED),
        }
    }

    pub(super) fn each(&self) -> [(Kind, &Report); 3] {
        [(Kind::Nothing, &self.nothing), (Kind::PlainRetry, &self.plain), (Kind::Semel, &self.semel)]
    }
}

/// `count` endpoints with two workers of 20 ms: 100 calls a second each.
fn servers(count: usize) -> Vec<Server> {
    vec![Server::new(2, 20 * MS); count]
}

/// Something wrong with the first `count` of the endpoints.
fn suffer(servers: Vec<Server>, count: usize, (from, to): (usize, usize), ailment: Ailment) -> Vec<Server> {
    let (from, to) = (from as At * SECOND, to as At * SECOND);
    let sick = |(at, server): (usize, Server)| if at < count { server.suffers(from, to, ailment) } else { server };
    servers.into_iter().enumerate().map(sick).collect()
}

fn steady(per_second: f64) -> Vec<Callers> {
    vec![Callers { clients: 50, rates: vec![(0, per_second)] }]
}

fn setup(callers: Vec<Callers>, servers: Vec<Server>) -> Setup {
    Setup { seconds: END as u64 + CALLS_END, callers, hops: 1, settings: Settings::default(), servers }
}

/// Each call fails with this probability, at any of four endpoints; they can do twice of what is asked.
pub(super) fn retry_storm(failing: f64) -> Setup {
    setup(steady(200.0), suffer(servers(4), 4, WRONG, Ailment::Failing(failing)))
}

/// Three times as many calls as usual, for ten seconds; usual is three quarters of what can be done.
pub(super) fn metastable_overload() -> Setup {
    let at = |second: usize| second as At * SECOND;
    let rates = vec![(0, 150.0), (at(BURST.0), 450.0), (at(BURST.1), 150.0)];
    setup(vec![Callers { clients: 50, rates }], vec![Server::new(4, 20 * MS)])
}

/// All endpoints take twelve times as long: they can do a fifth of what is asked. Without breakers, which would help.
pub(super) fn slow_upstream() -> Setup {
    let mut setup = setup(steady(150.0), suffer(servers(4), 4, WRONG, Ailment::Slow(12.0)));
    setup.settings.breaks = false;
    setup
}

/// One endpoint of four takes twenty times as long.
pub(super) fn slow_endpoint() -> Setup {
    let mut setup = setup(steady(150.0), suffer(servers(4), 1, WRONG, Ailment::Slow(20.0)));
    setup.settings.hedges = true;
    setup
}

/// One endpoint of four fails at once, and the simple stacks ask who is least busy.
pub(super) fn fast_failing_endpoint() -> Setup {
    let mut setup = setup(steady(150.0), suffer(servers(4), 1, WRONG, Ailment::FailingFast));
    setup.settings.simple_balance = SimpleBalance::LeastBusy;
    setup
}

/// One endpoint of four takes calls and never answers.
pub(super) fn black_hole() -> Setup {
    setup(steady(150.0), suffer(servers(4), 1, WRONG, Ailment::BlackHole))
}

/// No endpoint takes connections.
pub(super) fn all_down() -> Setup {
    setup(steady(150.0), suffer(servers(4), 4, WRONG, Ailment::Down))
}

/// The same for two seconds, as in a restart.
pub(super) fn short_outage() -> Setup {
    setup(steady(150.0), suffer(servers(4), 4, OUTAGE, Ailment::Down))
}

/// Fifty clients with two calls a second each, and one that makes five hundred. Each may make ten.
pub(super) fn runaway_client() -> Setup {
    let at = |second: usize| second as At * SECOND;
    let mut callers = steady(100.0);
    callers.push(Callers { clients: 1, rates: vec![(0, 0.0), (at(WRONG.0), 500.0), (at(WRONG.1), 0.0)] });
    let mut setup = setup(callers, servers(2));
    let quota = Quota::bucket(10, Duration::from_secs(1), 20).expect("ten a second is a quota");
    let reach = Reach::PerKey { keys_max: KEYS_MAX };
    setup.settings.limits = vec![LimitPolicy { name: "each".to_owned(), quota, reach }];
    setup
}

/// Four hops, each with a stack of its own, before a service that takes thirty times as long for a while.
pub(super) fn deadline_chain() -> Setup {
    let mut setup = setup(steady(20.0), suffer(servers(2), 2, WRONG, Ailment::Slow(30.0)));
    setup.hops = 4;
    setup
}

/// The same where most calls fail in no more time than others take, and no breaker stands between.
#[cfg(test)]
pub(super) fn failing_chain() -> Setup {
    let mut setup = deadline_chain();
    setup.servers = suffer(servers(2), 2, WRONG, Ailment::Failing(0.9));
    setup.settings.breaks = false;
    setup
}
