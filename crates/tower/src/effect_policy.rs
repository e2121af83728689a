//! The values that an effect lives by.

use std::{sync::Arc, time::Duration};

use semel_core::{answer::HeaderAllowList, effect::Terms};

use crate::Observe;

/// One route's values for its effects.
#[derive(Clone)]
pub struct EffectPolicy {
    /// What the ledger keeps with each claim.
    pub terms: Arc<Terms>,
    /// How long a claim stands without renewal. Default: 30 s.
    pub lease: Duration,
    /// How long a duplicate waits for the first's conclusion. Default: 5 s.
    pub join: Duration,
    /// How many duplicates wait on one effect in this process. Default: 128.
    pub waiters_max: usize,
    /// How long a settlement is tried again before the answer counts as lost. Default: 10 s.
    pub settle_within: Duration,
    /// Which headers of an answer are kept.
    pub keep_headers: HeaderAllowList,
    /// Whether answers are kept whole; a tombstone otherwise. Default: true.
    pub keep_bodies: bool,
    /// When the first caller gets its answer.
    pub ack: Ack,
    /// Who is told what became of each call.
    pub observer: Arc<dyn Observe>,
}

/// When the first caller gets its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ack {
    /// When the settlement is durable.
    #[default]
    Settled,
    /// At once; a crash before the settlement leaves the effect unknown, never run twice.
    Early,
}

impl EffectPolicy {
    /// The defaults with these terms.
    #[must_use]
    pub fn new(terms: Arc<Terms>) -> Self {
        Self {
            terms,
            lease: Duration::from_secs(30),
            join: Duration::from_secs(5),
            waiters_max: 128,
            settle_within: Duration::from_secs(10),
            keep_headers: HeaderAllowList::default(),
            keep_bodies: true,
            ack: Ack::Settled,
            observer: Arc::new(()),
        }
    }
}
