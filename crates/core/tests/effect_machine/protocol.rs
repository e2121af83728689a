//! All interleavings of two owners, an operator, a probe and the upstream on one key: the effect happens once.

use std::collections::{BTreeSet, HashSet, VecDeque};

use semel_core::effect::{OnUnknown, Phase};

use crate::protocol_world::{Bounds, Event, Holder, World};

/// What an exploration came to.
struct Explored {
    states: usize,
    events: BTreeSet<Event>,
    /// The first world in which the effect happened twice.
    twice: Option<World>,
}

fn bounds(on_unknown: OnUnknown) -> Bounds {
    Bounds { on_unknown, ticks: 3, claims: 2, on_the_wire: 2, operator_guesses: false, upstream_forgets: false }
}

/// Breadth first, every state once.
fn explore(bounds: &Bounds) -> Explored {
    let start = World::start();
    let mut seen = HashSet::from([start.key()]);
    let mut open = VecDeque::from([start]);
    let mut explored = Explored { states: 0, events: BTreeSet::new(), twice: None };
    while let Some(world) = open.pop_front() {
        explored.states += 1;
        if world.executed.len() > 1 {
            explored.twice = Some(world);
            return explored;
        }
        hold_together(&world, bounds);
        for (event, next) in world.successors(bounds) {
            explored.events.insert(event);
            if seen.insert(next.key()) {
                open.push_back(next);
            }
        }
    }
    explored
}

/// What is true in every world.
fn hold_together(world: &World, bounds: &Bounds) {
    let phase = world.phase();
    let guessed = bounds.operator_guesses;
    assert!(world.executed.is_empty() || phase != Phase::Absent || guessed, "executed and forgotten: {world:?}");
    assert!(phase != Phase::Settled || !world.executed.is_empty(), "settled and not executed: {world:?}");
    let may_send = |holder: &&Holder| match holder {
        Holder::Claimed { until, .. } | Holder::Waiting { until, .. } => world.now < *until,
        Holder::Idle => false,
    };
    assert!(world.holders.iter().filter(may_send).count() <= 1, "two may send: {world:?}");
}

fn once(bounds: &Bounds, expected: &[Event]) {
    let explored = explore(bounds);
    println!("{:?}: {} states", bounds.on_unknown, explored.states);
    assert!(explored.twice.is_none(), "executed twice: {:?}", explored.twice);
    for event in expected {
        assert!(explored.events.contains(event), "{event} was never explored: {:?}", explored.events);
    }
}

const COMMON: [Event; 13] = [
    "answered",
    "crashed and orphaned",
    "executed, answer lost",
    "gave back unsent",
    "gave up",
    "lost on its way",
    "refused",
    "released by who asked",
    "renewed",
    "settled by who asked",
    "the upstream settles",
    "told no",
    "told no, late",
];

#[test]
fn under_hold_it_happens_at_most_once() {
    once(&Bounds { ticks: 4, claims: 3, ..bounds(OnUnknown::Hold) }, &COMMON);
}

#[test]
fn under_probe_it_happens_at_most_once() {
    once(&bounds(OnUnknown::Probe), &COMMON);
}

#[test]
fn under_retry_it_happens_at_most_once_while_the_upstream_honours_its_key() {
    once(&bounds(OnUnknown::Retry), &["reopened", "asked in vain", "attempts again", "answered", "told no"]);
}

/// The exploration finds what the contract says cannot be promised.
#[test]
fn an_operator_who_guesses_can_make_it_happen_twice() {
    let explored = explore(&Bounds { operator_guesses: true, ..bounds(OnUnknown::Hold) });
    assert!(explored.twice.is_some());
}

/// The exploration finds what the contract says cannot be promised.
#[test]
fn an_upstream_that_forgets_can_make_it_happen_twice_under_retry() {
    let explored = explore(&Bounds { upstream_forgets: true, ..bounds(OnUnknown::Retry) });
    assert!(explored.twice.is_some());
}
