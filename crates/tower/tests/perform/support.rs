//! One ledger, one process, one scripted executor.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, Method, Request, StatusCode};
use semel_core::{
    effect::{OnUnknown, Owner, Phase, Terms},
    evidence::{AnswerRules, AttemptEnd, EffectMark, Lost, NotSent, Tally},
    scope::{EffectId, LookupSecret, Principal},
    time::Timestamp,
};
use semel_ledger::{Ledger, Seen, model::ModelLedger};
use semel_testkit::simulation::{Fault, FaultyLedger, Operation, VirtualClock};
use semel_tower::{
    Body, Buffered, Claimed, Conclusion, EffectPolicy, EffectRequest, Effects, Execute, Execution, Finding, Observe,
    ProbeTarget, Refused, Report, UpstreamAnswer,
};
use tokio::time::Instant;

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Executes as the test says, and counts.
pub(crate) struct Scripted {
    run: Box<dyn Fn(Claimed) -> Boxed<Execution> + Send + Sync>,
    ask: Box<dyn Fn(ProbeTarget) -> Boxed<Finding> + Send + Sync>,
    runs: AtomicUsize,
    asks: AtomicUsize,
}

impl Scripted {
    pub(crate) fn new<F>(run: impl Fn(Claimed) -> F + Send + Sync + 'static) -> Arc<Self>
    where
        F: Future<Output = Execution> + Send + 'static,
    {
        Self::probed(run, |_| async { Finding::StillUnknown })
    }

    pub(crate) fn probed<F, P>(
        run: impl Fn(Claimed) -> F + Send + Sync + 'static,
        ask: impl Fn(ProbeTarget) -> P + Send + Sync + 'static,
    ) -> Arc<Self>
    where
        F: Future<Output = Execution> + Send + 'static,
        P: Future<Output = Finding> + Send + 'static,
    {
        Arc::new(Self {
            run: Box::new(move |claimed| Box::pin(run(claimed))),
            ask: Box::new(move |target| Box::pin(ask(target))),
            runs: AtomicUsize::new(0),
            asks: AtomicUsize::new(0),
        })
    }

    /// Answers at once.
    pub(crate) fn answering(status: u16) -> Arc<Self> {
        Self::new(move |claimed| async move { answered(&claimed, status, None) })
    }

    /// Answers after a while.
    pub(crate) fn slow(takes: Duration) -> Arc<Self> {
        Self::new(move |claimed| async move {
            tokio::time::sleep(takes).await;
            answered(&claimed, 201, None)
        })
    }

    pub(crate) fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }

    pub(crate) fn asks(&self) -> usize {
        self.asks.load(Ordering::SeqCst)
    }
}

impl Execute for Scripted {
    fn execute(&self, claimed: Claimed) -> impl Future<Output = Execution> + Send {
        self.runs.fetch_add(1, Ordering::SeqCst);
        (self.run)(claimed)
    }

    fn probe(&self, target: ProbeTarget) -> impl Future<Output = Finding> + Send {
        self.asks.fetch_add(1, Ordering::SeqCst);
        (self.ask)(target)
    }
}

/// One attempt was answered.
pub(crate) fn answered(claimed: &Claimed, status: u16, mark: Option<EffectMark>) -> Execution {
    let status = StatusCode::from_u16(status).unwrap();
    let end = AttemptEnd::Answered { status, mark };
    Execution { answer: Some(answer(status, "done")), ..ended(claimed, end) }
}

pub(crate) fn answer(status: StatusCode, body: &'static str) -> UpstreamAnswer {
    let mut headers = HeaderMap::new();
    headers.insert("location", "/charges/1".parse().unwrap());
    headers.insert("set-cookie", "a=b".parse().unwrap());
    UpstreamAnswer { status, headers, body: Body::from(body) }
}

/// One attempt was lost on its way.
pub(crate) fn lost(claimed: &Claimed) -> Execution {
    ended(claimed, AttemptEnd::Lost(Lost::ConnectionLost))
}

/// One attempt never left.
pub(crate) fn not_sent(claimed: &Claimed) -> Execution {
    ended(claimed, AttemptEnd::NotSent(NotSent::ConnectFailed))
}

fn ended(claimed: &Claimed, end: AttemptEnd) -> Execution {
    let tally = claimed.tally.after(&end, &AnswerRules::default());
    Execution { tally, end: Some(end), attempts: 1, answer: None }
}

/// What was reported of each call, in one word.
#[derive(Default)]
pub(crate) struct Log(Mutex<Vec<&'static str>>);

impl Observe for Log {
    fn concluded(&self, report: &Report<'_>) {
        self.0.lock().unwrap().push(report.result.as_str());
    }
}

impl Log {
    pub(crate) fn words(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().clone()
    }
}

pub(crate) struct World {
    /// The ledger itself, for a look past all faults.
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) effects: Effects,
    pub(crate) policy: Arc<EffectPolicy>,
    pub(crate) log: Arc<Log>,
}

pub(crate) fn terms(on_unknown: OnUnknown) -> Terms {
    Terms {
        scope: "payments".into(),
        upstream: "payments".into(),
        on_unknown,
        upstream_keep_ms: 3_600_000,
        keep_ms: 86_400_000,
        marker_ms: 7 * 86_400_000,
    }
}

impl World {
    pub(crate) fn new(on_unknown: OnUnknown) -> Self {
        Self::with_faults(on_unknown, |_, _| None)
    }

    pub(crate) fn with_faults(
        on_unknown: OnUnknown,
        plan: impl Fn(Operation, EffectId) -> Option<Fault> + Send + Sync + 'static,
    ) -> Self {
        let clock = VirtualClock::starting_at(Timestamp::from_millis(1_800_000_000_000));
        let ledger: Arc<dyn Ledger> = Arc::new(ModelLedger::with(Arc::new(clock), [7; LookupSecret::BYTES]));
        let effects = Effects::new(Arc::new(FaultyLedger::new(Arc::clone(&ledger), plan)), Owner(1));
        let log = Arc::new(Log::default());
        let mut policy = EffectPolicy::new(Arc::new(terms(on_unknown)));
        policy.observer = Arc::clone(&log) as Arc<dyn Observe>;
        Self { ledger, effects, policy: Arc::new(policy), log }
    }

    /// The same with other settings.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut EffectPolicy)) -> Self {
        let mut policy = (*self.policy).clone();
        change(&mut policy);
        self.policy = Arc::new(policy);
        self
    }

    /// Another process over the same ledger.
    pub(crate) fn other_process(&self) -> Self {
        let effects = Effects::new(Arc::clone(&self.ledger), Owner(2));
        Self { ledger: Arc::clone(&self.ledger), effects, policy: Arc::clone(&self.policy), log: Arc::clone(&self.log) }
    }

    /// Calls with a deadline in 20 s.
    pub(crate) async fn call(&self, request: EffectRequest, executor: &Arc<Scripted>) -> Conclusion {
        self.effects.perform(request, &self.policy, executor).await
    }

    /// Calls without waiting for it.
    pub(crate) fn begin(
        &self,
        request: EffectRequest,
        executor: &Arc<Scripted>,
    ) -> tokio::task::JoinHandle<Conclusion> {
        let (effects, policy, executor) = (self.effects.clone(), Arc::clone(&self.policy), Arc::clone(executor));
        tokio::spawn(async move { effects.perform(request, &policy, &executor).await })
    }

    pub(crate) async fn seen(&self) -> Seen {
        self.ledger.look_up(ID).await.unwrap()
    }

    pub(crate) async fn phase(&self) -> Phase {
        self.seen().await.phase()
    }
}

pub(crate) const ID: EffectId = EffectId::from_bytes([1; 16]);

/// The request that all tests send, with a deadline in 20 s.
pub(crate) fn request() -> EffectRequest {
    request_with("{\"amount\":10}")
}

pub(crate) fn request_with(body: &'static str) -> EffectRequest {
    let head = Request::builder().method(Method::POST).uri("/pay").body(()).unwrap().into_parts().0;
    let message = Arc::new(Buffered::new(head, body.into()));
    EffectRequest { message, id: ID, proof: Principal::anyone().proof(), deadline: in_seconds(20) }
}

pub(crate) fn in_seconds(seconds: u64) -> Instant {
    // Virtual time: the runtime of every test is paused.
    #[expect(clippy::disallowed_methods, reason = "deadlines of tests are in virtual time")]
    let now = Instant::now();
    now + Duration::from_secs(seconds)
}

/// Time passes.
pub(crate) async fn after_seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

pub(crate) fn refusal(conclusion: &Conclusion) -> Refused {
    match conclusion {
        Conclusion::Refused { why, .. } => *why,
        other => panic!("not refused: {other:?}"),
    }
}

/// The status and body of a fresh answer.
pub(crate) fn executed(conclusion: &Conclusion) -> (u16, &str) {
    match conclusion {
        Conclusion::Executed(answer) => (answer.status.as_u16(), text(&answer.body)),
        other => panic!("not executed: {other:?}"),
    }
}

/// The status and body of a recorded answer.
pub(crate) fn replayed(conclusion: &Conclusion) -> (u16, &str) {
    match conclusion {
        Conclusion::Replayed(answer) => (answer.status.as_u16(), std::str::from_utf8(&answer.body).unwrap()),
        other => panic!("not replayed: {other:?}"),
    }
}

pub(crate) fn text(body: &Body) -> &str {
    std::str::from_utf8(body.as_whole().unwrap()).unwrap()
}

pub(crate) fn is_unanswered(tally: Tally) -> bool {
    tally == Tally::NOTHING_SENT
}
