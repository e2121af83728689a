//! One caller: what executing proves, and what it gets for it.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use http_body::Frame;
use http_body_util::BodyExt as _;
use semel_core::{
    effect::{OnUnknown, Phase, State, UnknownReason},
    evidence::{EffectMark, Verdict},
    scope::{LookupSecret, Principal},
};
use semel_tower::{Body, Conclusion, EffectRequest, Execution, Refused};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn executed_is_settled_before_it_is_told_and_replayed_after() {
    let world = World::new(OnUnknown::Hold);
    let ledger = Arc::clone(&world.ledger);
    let upstream = Scripted::new(move |claimed| {
        let ledger = Arc::clone(&ledger);
        async move {
            // The claim is durable before the first byte.
            assert_eq!(ledger.look_up(ID).await.unwrap().phase(), Phase::Open);
            assert!(claimed.lease.check().await.is_ok());
            answered(&claimed, 201, None)
        }
    });
    assert_eq!(executed(&world.call(request(), &upstream).await), (201, "done"));
    assert_eq!(world.phase().await, Phase::Settled);
    for _ in 0..3 {
        let again = world.call(request(), &upstream).await;
        assert_eq!(replayed(&again), (201, "done"));
        let Conclusion::Replayed(answer) = again else { unreachable!() };
        assert_eq!(answer.headers.get(&http::header::LOCATION).unwrap(), "/charges/1");
        assert!(answer.headers.get(&http::header::SET_COOKIE).is_none());
    }
    assert_eq!(upstream.runs(), 1);
    assert_eq!(world.log.words(), ["executed", "replayed", "replayed", "replayed"]);
}

#[tokio::test(start_paused = true)]
async fn a_final_client_error_is_replayed_too() {
    let world = World::new(OnUnknown::Hold);
    let upstream = Scripted::answering(402);
    assert_eq!(executed(&world.call(request(), &upstream).await), (402, "done"));
    assert_eq!(replayed(&world.call(request(), &upstream).await), (402, "done"));
    assert_eq!(upstream.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_surely_not_executed_leaves_the_key_usable() {
    let world = World::new(OnUnknown::Hold);
    let refused = Scripted::new(|claimed| async move { not_sent(&claimed) });
    assert!(matches!(world.call(request(), &refused).await, Conclusion::NotExecuted { answer: None, end: Some(_) }));
    assert_eq!(world.phase().await, Phase::Absent);
    let told_no = Scripted::new(|claimed| async move { answered(&claimed, 429, None) });
    assert!(matches!(world.call(request(), &told_no).await, Conclusion::NotExecuted { answer: Some(_), .. }));
    let marked = Scripted::new(|claimed| async move { answered(&claimed, 503, Some(EffectMark::None)) });
    assert!(matches!(world.call(request(), &marked).await, Conclusion::NotExecuted { answer: Some(_), .. }));
    assert_eq!(executed(&world.call(request(), &Scripted::answering(201)).await).0, 201);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_held() {
    let world = World::new(OnUnknown::Hold);
    let upstream = Scripted::new(|claimed| async move { lost(&claimed) });
    assert!(matches!(world.call(request(), &upstream).await, Conclusion::Unknown { answer: None }));
    let record = world.seen().await.record.unwrap();
    assert!(matches!(record.state, State::Unknown { reason: UnknownReason::ConnectionLost, .. }));
    assert_eq!(record.attempts, 1);
    after_seconds(100_000).await;
    assert_eq!(refusal(&world.call(request(), &upstream).await), Refused::OutcomeUnknown);
    assert_eq!(upstream.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_s_own_error_is_passed_on_as_unknown() {
    let world = World::new(OnUnknown::Hold);
    let upstream = Scripted::answering(500);
    let Conclusion::Unknown { answer: Some(answer) } = world.call(request(), &upstream).await else { panic!() };
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(refusal(&world.call(request(), &upstream).await), Refused::OutcomeUnknown);
    assert_eq!(upstream.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn attempt_one_lost_attempt_two_refused_is_still_unknown() {
    let world = World::new(OnUnknown::Hold);
    let upstream = Scripted::new(|claimed| async move {
        let first = lost(&claimed);
        let second = answered(&semel_tower::Claimed { tally: first.tally, ..claimed }, 429, None);
        assert_eq!(second.tally.verdict(), Verdict::Unknown);
        Execution { attempts: 2, ..second }
    });
    assert!(matches!(world.call(request(), &upstream).await, Conclusion::Unknown { answer: Some(_) }));
    assert_eq!(world.phase().await, Phase::Unknown);
    assert_eq!(world.seen().await.record.unwrap().attempts, 2);
}

#[tokio::test(start_paused = true)]
async fn the_window_ends_in_a_marker_and_then_in_absence() {
    let world = World::new(OnUnknown::Hold);
    let upstream = Scripted::answering(201);
    world.call(request(), &upstream).await;
    after_seconds(86_400).await;
    assert_eq!(refusal(&world.call(request(), &upstream).await), Refused::KeyExpired);
    after_seconds(7 * 86_400).await;
    executed(&world.call(request(), &upstream).await);
    assert_eq!(upstream.runs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_route_that_keeps_no_bodies_keeps_a_tombstone() {
    let world = World::new(OnUnknown::Hold).with(|policy| policy.keep_bodies = false);
    let upstream = Scripted::answering(201);
    assert_eq!(executed(&world.call(request(), &upstream).await), (201, "done"));
    let Conclusion::Refused { why: Refused::Consumed, tombstone: Some(tombstone) } =
        world.call(request(), &upstream).await
    else {
        panic!()
    };
    assert_eq!(tombstone.status, 201);
    assert!(tombstone.body_digest.is_some());
    assert_eq!(upstream.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn consumed_is_durable_before_the_first_streamed_byte() {
    for ack in [semel_tower::Ack::Settled, semel_tower::Ack::Early] {
        let world = World::new(OnUnknown::Hold).with(|policy| policy.ack = ack);
        let ledger = Arc::clone(&world.ledger);
        let upstream = Scripted::new(move |claimed| {
            let ledger = Arc::clone(&ledger);
            async move {
                let first = async move {
                    assert_eq!(ledger.look_up(ID).await.unwrap().phase(), Phase::Consumed);
                    Bytes::from_static(b"chunk")
                };
                let body = Body::streaming(OneFrame(Some(Box::pin(first))));
                let mut execution = answered(&claimed, 200, None);
                execution.answer.as_mut().unwrap().body = body;
                execution
            }
        });
        let Conclusion::Executed(answer) = world.call(request(), &upstream).await else { panic!() };
        assert_eq!(answer.body.collect().await.unwrap().to_bytes(), "chunk");
        assert_eq!(refusal(&world.call(request(), &upstream).await), Refused::Consumed);
        assert_eq!(upstream.runs(), 1);
    }
}

/// A body of one frame that a future makes when it is asked for.
struct OneFrame(Option<Making>);

type Making = Pin<Box<dyn Future<Output = Bytes> + Send>>;

impl http_body::Body for OneFrame {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(making) = &mut self.0 else { return Poll::Ready(None) };
        let data = ready!(making.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_is_over_burns_no_key() {
    let world = World::new(OnUnknown::Hold);
    let upstream = Scripted::answering(201);
    let late = EffectRequest { deadline: in_seconds(0), ..request() };
    assert_eq!(refusal(&world.call(late, &upstream).await), Refused::DeadlineExceeded);
    assert_eq!((upstream.runs(), world.phase().await), (0, Phase::Absent));
    // An answer that is there is given all the same.
    world.call(request(), &upstream).await;
    let late = EffectRequest { deadline: in_seconds(0), ..request() };
    assert_eq!(replayed(&world.call(late, &upstream).await), (201, "done"));
}

#[tokio::test(start_paused = true)]
async fn an_executor_that_begins_nothing_in_time_burns_no_key() {
    let world = World::new(OnUnknown::Hold);
    let upstream = Scripted::new(|claimed| async move {
        tokio::time::sleep_until(claimed.deadline).await;
        assert!(is_unanswered(claimed.tally));
        Execution { tally: claimed.tally, end: None, attempts: 0, answer: None }
    });
    assert!(matches!(world.call(request(), &upstream).await, Conclusion::NotExecuted { answer: None, end: None }));
    assert_eq!(world.phase().await, Phase::Absent);
}

#[tokio::test(start_paused = true)]
async fn the_same_key_for_another_request_is_refused_also_while_the_first_is_open() {
    let world = World::new(OnUnknown::Hold);
    let upstream = Scripted::slow(Duration::from_secs(3));
    let first = world.begin(request(), &upstream);
    after_seconds(1).await;
    assert_eq!(refusal(&world.call(request_with("other"), &upstream).await), Refused::KeyReused);
    executed(&first.await.unwrap());
    assert_eq!(refusal(&world.call(request_with("other"), &upstream).await), Refused::KeyReused);
    assert_eq!(upstream.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn another_credential_sees_nothing_and_runs_nothing() {
    let secret = LookupSecret::from_bytes([7; 32]);
    let by = |who: &[u8]| EffectRequest { proof: Principal::credential(&secret, who).proof(), ..request() };
    for on_unknown in [OnUnknown::Hold, OnUnknown::Retry, OnUnknown::Probe] {
        for upstream in [Scripted::answering(201), Scripted::answering(500)] {
            let world = World::new(on_unknown);
            world.call(by(b"Bearer old"), &upstream).await;
            let refreshed = world.call(by(b"Bearer new"), &upstream).await;
            assert_eq!(refusal(&refreshed), Refused::PrincipalUnverified);
            // Nor is it told whether its request is the same.
            let other = EffectRequest { message: request_with("other").message, ..by(b"Bearer new") };
            assert_eq!(refusal(&world.call(other, &upstream).await), Refused::PrincipalUnverified);
            assert_eq!((upstream.runs(), upstream.asks()), (1, 0));
        }
    }
}
