//! The same random commands on an engine and on the model must come to the same.

use std::{collections::HashMap, sync::Arc, time::Duration};

use semel_core::{
    effect::{Authority, Command, Fence, OnUnknown, Owner, State, UnknownReason},
    scope::{EffectId, LookupSecret},
};

use super::{
    Harness,
    cases::{answer, claim, fingerprint, id, operator, settle, terms},
};
use crate::{Applied, Ledger, ManualClock, model::ModelLedger};

const COMMANDS: usize = 600;
const KEYS: u64 = 5;

/// What two ledgers must agree on: everything but the numbers they give to claims and their clocks' origin.
#[derive(Debug, PartialEq)]
struct Gist {
    reply: semel_core::effect::Reply,
    phase: semel_core::effect::Phase,
    state: Option<String>,
    attempts: Option<u32>,
    was_unknown: Option<bool>,
}

fn gist(applied: &Applied) -> Gist {
    let record = applied.seen.record.as_ref();
    Gist {
        reply: applied.reply,
        phase: applied.seen.phase(),
        state: record.map(|r| match &r.state {
            State::Open { owner, .. } => format!("open {owner:?}"),
            State::Unknown { reason, .. } => format!("unknown {reason:?}"),
            State::Settled { answer, by, .. } => format!("settled {answer:?} {by:?}"),
            State::Consumed { tombstone, by, .. } => format!("consumed {tombstone:?} {by:?}"),
            State::Expired { .. } => "expired".to_owned(),
        }),
        attempts: record.map(|r| r.attempts),
        was_unknown: record.map(|r| r.was_unknown),
    }
}

/// A small generator of its own (splitmix64, Steele et al. 2014), so that a run is repeated by its seed alone.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

fn random_command(dice: &mut Dice, current: Fence, former: Fence) -> (u64, Box<dyn Fn(Fence) -> Command>) {
    // The fence is the ledger's own; which of the two it has given is the same on both sides.
    let stale = u64::from(dice.roll(6) == 0 && current != former);
    let (owner, body, who) = (dice.roll(3), dice.roll(3) as u8, dice.roll(4));
    let by = move || match who {
        0 => Authority::Owner,
        1 => Authority::Upstream,
        2 => Authority::Probe,
        _ => operator(),
    };
    let lease = Duration::from_secs(10);
    let make: Box<dyn Fn(Fence) -> Command> = match dice.roll(9) {
        0..=2 => Box::new(move |_| claim(owner, terms(OnUnknown::Retry, 60_000, 40_000, 40_000))),
        3 => Box::new(move |fence| settle(fence, answer(200, &[body]), by())),
        4 => Box::new(move |fence| Command::Release { fence, by: by() }),
        5 => Box::new(move |fence| Command::GiveUp { fence, reason: UnknownReason::Truncated, attempts: 1 }),
        6 => Box::new(move |fence| Command::Renew { fence, lease }),
        7 => Box::new(move |fence| Command::Reopen {
            fence,
            owner: Owner(owner),
            lease,
            fingerprint: fingerprint(b"10"),
        }),
        _ => Box::new(|_| Command::Lapse),
    };
    (stale, make)
}

/// Random commands on a few keys, with time passing, come to the same on the engine and on the model.
pub async fn agrees_with_the_model(h: &mut impl Harness) {
    let engine = h.ledger();
    let clock = ManualClock::at(engine.now());
    let model = ModelLedger::with(Arc::new(clock.clone()), [7; LookupSecret::BYTES]);
    let seed = 0x5e4d_e100;
    let mut dice = Dice(seed);
    let mut fences: HashMap<EffectId, [[Fence; 2]; 2]> = HashMap::new();
    for n in 0..COMMANDS {
        if dice.roll(8) == 0 {
            let by = Duration::from_secs(1 + dice.roll(15));
            h.advance(by).await;
            clock.advance(by);
        }
        let id = id("differential", u32::try_from(dice.roll(KEYS)).expect("few keys"));
        let known = fences.entry(id).or_insert([[Fence(0); 2]; 2]);
        let (stale, make) = random_command(&mut dice, known[0][0], known[0][1]);
        let which = usize::try_from(stale).expect("0 or 1");
        let got = engine.apply(id, make(known[0][which])).await.expect("the engine works");
        let expected = model.apply(id, make(known[1][which])).await.expect("the model works");
        assert_eq!(gist(&got), gist(&expected), "command {n} of seed {seed:#x} on {id}");
        for (side, applied) in [&got, &expected].into_iter().enumerate() {
            if let Some(record) = &applied.seen.record
                && record.fence != known[side][0]
            {
                known[side] = [record.fence, known[side][0]];
            }
        }
        let (seen, expected) = (engine.look_up(id).await, model.look_up(id).await);
        assert_eq!(seen.map(|s| s.phase()), expected.map(|s| s.phase()), "after command {n} of seed {seed:#x}");
    }
}
