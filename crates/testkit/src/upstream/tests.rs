use super::*;
use crate::client::{Client, End, HangUp, Request};
use crate::http1::Message;
use crate::plan::FAULTLESS;
use std::time::Duration;

const BOUND: Duration = Duration::from_secs(5);

struct Bench {
    upstream: Upstream,
    _folder: tempfile::TempDir,
}

async fn start(plan: FaultPlan, honours_keys: bool) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let upstream = Upstream::start(Options { plan, honours_keys, journal, clock: Stopwatch::start() }).await.unwrap();
    Bench { upstream, _folder: folder }
}

impl Bench {
    fn client(&self) -> Client {
        Client::new(self.upstream.address)
    }

    async fn call(&self, key: &str) -> End {
        self.call_within(key, BOUND).await
    }

    async fn call_within(&self, key: &str, bound: Duration) -> End {
        let request =
            Request::post("/pay", "{}").header(ORACLE_KEY, key).header("idempotency-key", &format!("h-{key}"));
        self.client().call(&request, bound).await
    }

    fn executions(&self, key: &str) -> usize {
        let executed = |entry: &Entry| matches!(entry, Entry::Executed { key: k, .. } if k == key);
        self.upstream.journal().unwrap().iter().filter(|entry| executed(entry)).count()
    }
}

fn answered(end: End) -> Message {
    match end {
        End::Answered(message) => message,
        other => panic!("no answer: {other:?}"),
    }
}

#[tokio::test]
async fn every_act_does_what_it_says() {
    let acts: Vec<Act> =
        crate::plan::EVERYTHING.iter().map(|(act, _)| *act).chain([Act::Oversize, Act::Late]).collect();
    let plan = acts.iter().fold(FaultPlan::faultless(), |plan, act| plan.script(&format!("{act:?}"), &[*act]));
    let bench = start(plan, false).await;
    for act in acts {
        let key = format!("{act:?}");
        let stalls = matches!(act, Act::StallBefore | Act::StallAfter);
        let end = bench.call_within(&key, if stalls { Duration::from_millis(50) } else { BOUND }).await;
        let status = if let End::Answered(message) = &end { message.status() } else { 0 };
        let expected = match act {
            Act::Execute | Act::SlowBody | Act::Interim | Act::Oversize | Act::Late => 201,
            Act::Decline => 402,
            Act::MarkCommitted | Act::MarkNone | Act::FailBefore | Act::FailAfter => 500,
            Act::GatewayTimeoutAfter => 504,
            Act::MarkUnknown => 200,
            Act::RateLimited => 429,
            Act::Unavailable => 503,
            _ => 0,
        };
        assert_eq!(status, expected, "{act:?}: {end:?}");
        assert_eq!(bench.executions(&key), usize::from(act.executes()), "{act:?}");
        let again = answered(bench.call(&key).await);
        assert_eq!(again.status(), 201, "{act:?}: a script that is over leaves no fault");
        assert!(execution_of(&again).is_some(), "{act:?}");
    }
}

#[tokio::test]
async fn an_upstream_that_honours_keys_executes_each_once() {
    let plan = FaultPlan::faultless()
        .script("lost", &[Act::ResetAfter, Act::Truncate, Act::RateLimited])
        .script("declined", &[Act::Decline]);
    let bench = start(plan, true).await;
    for _ in 0..3 {
        bench.call("lost").await;
        assert_eq!(answered(bench.call("declined").await).status(), 402);
    }
    let answer = answered(bench.call("lost").await);
    assert_eq!((answer.status(), bench.executions("lost"), bench.executions("declined")), (201, 1, 1));
}

#[tokio::test]
async fn a_refusing_upstream_refuses_and_comes_back_on_the_same_port() {
    let bench = start(FaultPlan::drawn(1, FAULTLESS, 0), false).await;
    let mut kept = bench.client();
    let request = Request::post("/pay", "{}").header(ORACLE_KEY, "a");
    assert_eq!(answered(kept.call(&request, BOUND).await).status(), 201);
    bench.upstream.refuse();
    // The idle connection ends, and new ones are refused; both take a moment to reach the accept loop.
    while !matches!(bench.call("b").await, End::NotSent(_)) {}
    assert!(!matches!(kept.call(&request, BOUND).await, End::Answered(_)));
    bench.upstream.accept();
    while matches!(bench.call("c").await, End::NotSent(_)) {}
    assert!(bench.executions("c") == 1);
}

#[tokio::test]
async fn a_client_that_hangs_up_knows_nothing() {
    let bench = start(FaultPlan::faultless(), false).await;
    for (hang_up, arrives) in [(HangUp::InRequest, false), (HangUp::AfterRequest, true), (HangUp::InAnswer, true)] {
        let key = format!("{hang_up:?}");
        let request = Request::post("/pay", r#"{"amount":1}"#).header(ORACLE_KEY, &key).hanging_up(hang_up);
        assert!(matches!(bench.client().call(&request, BOUND).await, End::Unknown(_)));
        if arrives {
            while bench.executions(&key) == 0 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(bench.executions(&key), usize::from(arrives), "{hang_up:?}");
    }
}
