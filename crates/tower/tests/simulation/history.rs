//! What happened in a run, as those outside can know it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use semel_core::{effect::Phase, scope::EffectId};
use semel_tower::{Body, Conclusion, Refused};
use tokio::time::Instant;

/// Everything, in the order of its happening.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) calls: Vec<Call>,
    pub(crate) executions: Vec<Execution>,
    /// What was injected where it could touch this effect.
    pub(crate) faults: BTreeMap<EffectId, BTreeSet<&'static str>>,
    /// When the ledger could not be reached.
    pub(crate) outages: Vec<(Duration, Duration)>,
    /// What each key came to before anybody mended anything, and at the end.
    pub(crate) before_healing: BTreeMap<EffectId, Phase>,
    pub(crate) at_the_end: BTreeMap<EffectId, Phase>,
    /// Unknown effects that the operator had to decide.
    pub(crate) decided: usize,
}

/// One call of a caller.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) id: EffectId,
    pub(crate) request: String,
    pub(crate) began: Duration,
    pub(crate) ended: Duration,
    pub(crate) patience: Duration,
    pub(crate) told: Told,
    /// After all faults had stopped.
    pub(crate) healing: bool,
}

/// How a call ended for its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Fresh(String),
    Recorded(String),
    NotExecuted,
    Unknown,
    Refused(Refused),
    /// The caller hung up, or its process was killed.
    Nothing,
}

/// One execution, in the upstream's own books.
#[derive(Clone, Debug)]
pub(crate) struct Execution {
    pub(crate) id: EffectId,
    pub(crate) fence: u64,
    pub(crate) at: Duration,
    pub(crate) answer: String,
}

impl Told {
    pub(crate) fn of(conclusion: Conclusion) -> Self {
        match conclusion {
            Conclusion::Executed(answer) => Self::Fresh(text(&answer.body)),
            Conclusion::Replayed(answer) => Self::Recorded(String::from_utf8_lossy(&answer.body).into_owned()),
            Conclusion::NotExecuted { .. } => Self::NotExecuted,
            Conclusion::Unknown { .. } => Self::Unknown,
            Conclusion::Refused { why, .. } => Self::Refused(why),
        }
    }

    pub(crate) fn answer(&self) -> Option<&str> {
        match self {
            Self::Fresh(answer) | Self::Recorded(answer) => Some(answer),
            _ => None,
        }
    }
}

fn text(body: &Body) -> String {
    String::from_utf8_lossy(body.as_whole().expect("no answer is streamed here")).into_owned()
}

/// Where everybody writes down what happened.
#[derive(Clone)]
pub(crate) struct Books {
    history: Arc<Mutex<History>>,
    looks: Arc<AtomicU64>,
    started: Instant,
}

impl Books {
    pub(crate) fn open() -> Self {
        Self { history: Arc::default(), looks: Arc::default(), started: now() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap()
    }

    /// Never the same twice: virtual time moves by milliseconds, and in one of them much happens in an order.
    pub(crate) fn time(&self) -> Duration {
        now() - self.started + Duration::from_nanos(self.looks.fetch_add(1, Ordering::SeqCst))
    }

    pub(crate) fn fault(&self, id: EffectId, what: &'static str) {
        self.lock().faults.entry(id).or_default().insert(what);
    }

    pub(crate) fn close(&self) -> History {
        std::mem::take(&mut *self.lock())
    }
}

/// Virtual time: the runtime of every run is paused.
#[expect(clippy::disallowed_methods, reason = "the clock of the simulation")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
