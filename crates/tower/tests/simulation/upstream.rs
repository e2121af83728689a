//! An upstream that misbehaves, and keeps honest books.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, StatusCode};
use semel_core::{
    evidence::{AttemptEnd, EffectMark, Lost, NotSent},
    scope::EffectId,
};
use semel_testkit::simulation::Random;
use semel_tower::{Body, Finding, UpstreamAnswer};
use tokio::sync::oneshot;

use crate::history::{Books, Execution};

/// Longer than any answer takes when nothing is wrong, and longer than a lease.
pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(2_500);
/// So many refusals in a row every call survives: fewer than its attempts.
const REFUSALS_MAX: u32 = 2;

/// Faults that leave nobody in doubt.
pub(crate) const REFUSED: &str = "refused";
pub(crate) const REFUSED_FOR_LONG: &str = "refused for long";
pub(crate) const SLOW: &str = "slow";

/// What the upstream does with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Answer,
    AnswerSlowly,
    RefuseConnection,
    SayNo,
    MarkNone,
    ResetBefore,
    ResetAfter,
    Truncate,
    StallBefore,
    StallAfter,
    FailBefore,
    FailAfter,
    /// Executes, then says that it did not.
    Lie,
}

/// So many of the faults are refusals.
const REFUSALS: usize = 3;
const FAULTS: [Act; 12] = [
    Act::RefuseConnection,
    Act::SayNo,
    Act::MarkNone,
    Act::ResetBefore,
    Act::ResetAfter,
    Act::Truncate,
    Act::StallBefore,
    Act::StallAfter,
    Act::FailBefore,
    Act::FailAfter,
    Act::AnswerSlowly,
    Act::AnswerSlowly,
];

pub(crate) struct Upstream {
    books: Books,
    state: Mutex<State>,
    faulty: AtomicBool,
    manners: Manners,
}

/// How it behaves as long as things go wrong.
pub(crate) struct Manners {
    /// So many of a thousand requests go wrong.
    pub(crate) faults: u64,
    /// Whether it executes a key once and repeats its answer.
    pub(crate) honours_keys: bool,
    pub(crate) lies: bool,
}

struct State {
    random: Random,
    /// Requests on their way to it so far.
    sent: u64,
    /// Of those up to this one nothing is executed any more.
    refuses_to: BTreeMap<EffectId, u64>,
    refusals: BTreeMap<EffectId, u32>,
}

/// A request on its way.
struct Sent {
    number: u64,
    id: EffectId,
    fence: u64,
    request: String,
}

/// How an attempt ended, with the answer if there was one.
pub(crate) type Attempted = (AttemptEnd, Option<UpstreamAnswer>);

impl Upstream {
    pub(crate) fn new(books: Books, random: Random, manners: Manners) -> Arc<Self> {
        let state = State { random, sent: 0, refuses_to: BTreeMap::new(), refusals: BTreeMap::new() };
        Arc::new(Self { books, state: Mutex::new(state), faulty: AtomicBool::new(true), manners })
    }

    /// It behaves from now on.
    pub(crate) fn heal(&self) {
        self.faulty.store(false, Ordering::SeqCst);
    }

    /// One request over the network. The upstream goes on with it whatever becomes of who sent it.
    pub(crate) async fn attempt(self: &Arc<Self>, id: EffectId, fence: u64, request: &str) -> Attempted {
        let (act, number) = self.choose(id);
        if act == Act::RefuseConnection {
            return (AttemptEnd::NotSent(NotSent::ConnectFailed), None);
        }
        let (answer, answered) = oneshot::channel();
        let (upstream, sent) = (Arc::clone(self), Sent { number, id, fence, request: request.to_owned() });
        tokio::spawn(async move {
            let end = upstream.serve(act, &sent).await;
            // Whoever sent it may be gone.
            let _ = answer.send(end);
        });
        match tokio::time::timeout(ATTEMPT_TIMEOUT, answered).await {
            Ok(Ok(attempted)) => attempted,
            Ok(Err(_)) => unreachable!("the upstream's task does not panic"),
            Err(_) => (AttemptEnd::Lost(Lost::Timeout), None),
        }
    }

    /// Asks what became of a key. Of what was sent until now, nothing will be executed later; what is sent after that
    /// is a new request, whoever sends it.
    pub(crate) fn ask(&self, id: EffectId) -> Finding {
        if self.faulty.load(Ordering::SeqCst) && self.state.lock().unwrap().random.chance(300) {
            self.books.fault(id, "the status resource does not know");
            return Finding::StillUnknown;
        }
        if let Some(execution) = self.execution(id) {
            return Finding::Executed(answer(201, execution.answer));
        }
        let mut state = self.state.lock().unwrap();
        let sent = state.sent;
        state.refuses_to.insert(id, sent);
        Finding::Fenced
    }

    /// The first execution of a key, by the books.
    pub(crate) fn execution(&self, id: EffectId) -> Option<Execution> {
        self.books.lock().executions.iter().find(|execution| execution.id == id).cloned()
    }

    /// What becomes of the next request, and its number.
    fn choose(&self, id: EffectId) -> (Act, u64) {
        let mut state = self.state.lock().unwrap();
        state.sent += 1;
        let number = state.sent;
        let State { random, refusals, .. } = &mut *state;
        let refusals = refusals.entry(id).or_default();
        // Who refuses goes on refusing for a while.
        let again = *refusals > 0 && random.chance(700);
        if !self.faulty.load(Ordering::SeqCst) || !(again || random.chance(self.manners.faults)) {
            *refusals = 0;
            return (Act::Answer, number);
        }
        let mut act = *random.pick(if again { &FAULTS[..REFUSALS] } else { &FAULTS });
        if self.manners.lies && act == Act::SayNo {
            act = Act::Lie;
        }
        let refuses = matches!(act, Act::RefuseConnection | Act::SayNo | Act::MarkNone);
        *refusals = if refuses { *refusals + 1 } else { 0 };
        let for_long = *refusals > REFUSALS_MAX;
        drop(state);
        // A lie is what nobody but the sabotaged upstream knows of.
        if act != Act::Lie {
            let fault = match (act, refuses) {
                (Act::AnswerSlowly, _) => SLOW,
                (_, true) if for_long => REFUSED_FOR_LONG,
                (_, true) => REFUSED,
                (_, false) => "the upstream misbehaved",
            };
            self.books.fault(id, fault);
        }
        (act, number)
    }

    async fn serve(&self, act: Act, sent: &Sent) -> Attempted {
        let (there, stall, back) = {
            let random = &mut self.state.lock().unwrap().random;
            let slow = if act == Act::AnswerSlowly { 20 } else { 1 };
            (random.millis(1..40), random.millis(1_500..8_000), random.millis(1..60) * slow)
        };
        tokio::time::sleep(if act == Act::StallBefore { stall } else { there }).await;
        let executed = match act {
            Act::SayNo | Act::MarkNone | Act::ResetBefore | Act::FailBefore | Act::RefuseConnection => None,
            _ => match self.execute(sent) {
                Some(executed) => Some(executed),
                None => return answered(409, Some(EffectMark::None), "fenced".into()),
            },
        };
        tokio::time::sleep(if act == Act::StallAfter { stall } else { back }).await;
        let body = executed.unwrap_or_default();
        match act {
            Act::Answer | Act::AnswerSlowly | Act::StallBefore | Act::StallAfter => answered(201, None, body),
            Act::SayNo | Act::Lie => answered(429, None, body),
            Act::MarkNone => answered(503, Some(EffectMark::None), body),
            Act::FailBefore | Act::FailAfter => answered(500, None, body),
            Act::Truncate => (AttemptEnd::Lost(Lost::Truncated), None),
            Act::ResetBefore | Act::ResetAfter => (AttemptEnd::Lost(Lost::ConnectionLost), None),
            Act::RefuseConnection => unreachable!("it is refused before it is served"),
        }
    }

    /// Executes it, unless the key was fenced; an upstream that honours keys gives its first answer again.
    fn execute(&self, sent: &Sent) -> Option<String> {
        let Sent { number, id, fence, ref request } = *sent;
        if self.manners.honours_keys
            && let Some(before) = self.execution(id)
        {
            return Some(before.answer);
        }
        if self.state.lock().unwrap().refuses_to.get(&id).is_some_and(|last| number <= *last) {
            return None;
        }
        let at = self.books.time();
        let executions = &mut self.books.lock().executions;
        let answer = format!("execution {} of {request}", executions.len() + 1);
        executions.push(Execution { id, fence, at, answer: answer.clone() });
        Some(answer)
    }
}

fn answered(status: u16, mark: Option<EffectMark>, body: String) -> Attempted {
    let answer = answer(status, body);
    (AttemptEnd::Answered { status: answer.status, mark }, Some(answer))
}

fn answer(status: u16, body: String) -> UpstreamAnswer {
    UpstreamAnswer { status: StatusCode::from_u16(status).unwrap(), headers: HeaderMap::new(), body: Body::from(body) }
}
