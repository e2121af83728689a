//! What the flaky upstream does with which arrival: a pure function of a seed, a key and an ordinal.

use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// What the upstream does with one arrival of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// Executes and answers 201.
    Execute,
    /// Executes and answers 201 in small pieces.
    SlowBody,
    /// Executes and answers 201 behind an interim 103.
    Interim,
    /// Executes at once and answers 201 a second later.
    Late,
    /// Executes and answers 402: a final refusal that is the effect's outcome.
    Decline,
    /// Executes and answers 500 with `Semel-Effect: committed`.
    MarkCommitted,
    /// Resets the connection without executing.
    ResetBefore,
    /// Executes, then resets the connection without an answer.
    ResetAfter,
    /// Closes the connection without executing.
    CloseBefore,
    /// Executes, then closes the connection without an answer.
    CloseAfter,
    /// Executes and closes in the middle of the answer's body.
    Truncate,
    /// Executes and closes in the middle of a chunk of the answer's body.
    TruncateChunked,
    /// Executes and closes in the middle of the answer's head.
    TruncateHead,
    /// Never answers and does not execute.
    StallBefore,
    /// Executes and never answers.
    StallAfter,
    /// Answers 500 without executing.
    FailBefore,
    /// Executes and answers 500.
    FailAfter,
    /// Executes and answers 504, as a proxy in between would.
    GatewayTimeoutAfter,
    /// Executes and answers something that is not HTTP.
    Garbage,
    /// Executes and answers 200 with `Semel-Effect: unknown`.
    MarkUnknown,
    /// Answers 429 with `Retry-After` without executing.
    RateLimited,
    /// Answers 503 with `Retry-After` without executing. Only for routes that list 503 in `not_executed`.
    Unavailable,
    /// Answers 500 with `Semel-Effect: none` without executing.
    MarkNone,
    /// Executes and answers 201 with a body larger than any cap of the tests (2 MiB).
    Oversize,
}

/// What an arrival may leave behind, as the contract judges it (the table of evidence in the design).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaves {
    /// A complete answer that says the effect was executed.
    Executed,
    /// Nobody but the upstream can know.
    Unknown,
    /// A complete answer that says the effect was surely not executed.
    NotExecuted,
}

impl Act {
    /// Whether the upstream executes the effect.
    #[must_use]
    pub const fn executes(self) -> bool {
        !matches!(
            self,
            Self::ResetBefore
                | Self::CloseBefore
                | Self::StallBefore
                | Self::FailBefore
                | Self::RateLimited
                | Self::Unavailable
                | Self::MarkNone
        )
    }

    /// What the gateway is entitled to conclude.
    #[must_use]
    pub const fn leaves(self) -> Leaves {
        match self {
            Self::Execute
            | Self::SlowBody
            | Self::Interim
            | Self::Late
            | Self::Decline
            | Self::MarkCommitted
            | Self::Oversize => Leaves::Executed,
            Self::RateLimited | Self::Unavailable | Self::MarkNone => Leaves::NotExecuted,
            _ => Leaves::Unknown,
        }
    }
}

/// How often which act is drawn: `(act, weight)`.
pub type Mix = &'static [(Act, u32)];

/// Every fault of the design, most arrivals fine.
pub const EVERYTHING: Mix = &[
    (Act::Execute, 100),
    (Act::SlowBody, 8),
    (Act::Interim, 8),
    (Act::Decline, 8),
    (Act::MarkCommitted, 5),
    (Act::ResetBefore, 8),
    (Act::ResetAfter, 8),
    (Act::CloseBefore, 8),
    (Act::CloseAfter, 8),
    (Act::Truncate, 6),
    (Act::TruncateChunked, 6),
    (Act::TruncateHead, 6),
    (Act::StallBefore, 1),
    (Act::StallAfter, 1),
    (Act::FailBefore, 8),
    (Act::FailAfter, 8),
    (Act::GatewayTimeoutAfter, 4),
    (Act::Garbage, 4),
    (Act::MarkUnknown, 4),
    (Act::RateLimited, 8),
    (Act::Unavailable, 8),
    (Act::MarkNone, 8),
];

/// Only refusals that prove that nothing was executed.
pub const REFUSALS: Mix = &[(Act::Execute, 10), (Act::RateLimited, 5), (Act::Unavailable, 5), (Act::MarkNone, 5)];

/// No fault at all.
pub const FAULTLESS: Mix = &[(Act::Execute, 1)];

/// The acts of every key of a run.
#[derive(Clone, Debug)]
pub struct FaultPlan {
    /// The run's seed.
    pub seed: u64,
    /// What is drawn from.
    pub mix: Mix,
    /// Arrivals of a key, counted from 0, from which on everything is fine.
    pub faulty_arrivals_max: u32,
    /// Keys whose acts are written down rather than drawn; after the last, everything is fine.
    pub scripts: HashMap<String, Vec<Act>>,
}

impl FaultPlan {
    /// Draws from `mix` for the first `faulty_arrivals_max` arrivals of each key.
    #[must_use]
    pub fn drawn(seed: u64, mix: Mix, faulty_arrivals_max: u32) -> Self {
        Self { seed, mix, faulty_arrivals_max, scripts: HashMap::new() }
    }

    /// No fault except by [`FaultPlan::script`].
    #[must_use]
    pub fn faultless() -> Self {
        Self::drawn(0, FAULTLESS, 0)
    }

    /// Writes down what happens to `key`.
    #[must_use]
    pub fn script(mut self, key: &str, acts: &[Act]) -> Self {
        self.scripts.insert(key.to_owned(), acts.to_vec());
        self
    }

    /// What happens to the arrival of `key` with this ordinal, from 0.
    #[must_use]
    pub fn act(&self, key: &str, arrival: u32) -> Act {
        if let Some(script) = self.scripts.get(key) {
            return usize::try_from(arrival).ok().and_then(|at| script.get(at)).copied().unwrap_or(Act::Execute);
        }
        if arrival >= self.faulty_arrivals_max {
            return Act::Execute;
        }
        let total: u32 = self.mix.iter().map(|(_, weight)| weight).sum();
        let mut draw = u32::try_from(draw(self.seed, key, arrival) % u64::from(total.max(1))).unwrap_or(0);
        for (act, weight) in self.mix {
            if draw < *weight {
                return *act;
            }
            draw -= weight;
        }
        Act::Execute
    }
}

/// A number that looks random but depends on nothing else: FNV-1a over the key, finished by `SplitMix64`'s mixer.
#[must_use]
pub fn draw(seed: u64, key: &str, ordinal: u32) -> u64 {
    let bytes = key.bytes().chain(ordinal.to_le_bytes());
    let hash = bytes
        .fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let z = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_a_function_of_its_seed() {
        let plan = FaultPlan::drawn(7, EVERYTHING, 3);
        let acts = |plan: &FaultPlan| (0..500).map(|n| plan.act(&format!("k{n}"), n % 3)).collect::<Vec<_>>();
        assert_eq!(acts(&plan), acts(&plan.clone()));
        assert_ne!(acts(&plan), acts(&FaultPlan::drawn(8, EVERYTHING, 3)));
        assert_eq!(plan.act("k1", 3), Act::Execute);
        for (act, _) in EVERYTHING {
            let drawn = (0..20_000).any(|n| plan.act(&format!("k{n}"), 0) == *act);
            assert!(drawn, "{act:?} is never drawn");
        }
    }

    #[test]
    fn no_act_executes_behind_a_status_that_says_it_did_not() {
        for (act, _) in EVERYTHING {
            assert!(!(act.executes() && act.leaves() == Leaves::NotExecuted), "{act:?}");
            assert!(act.executes() || act.leaves() != Leaves::Executed, "{act:?}");
        }
    }
}
