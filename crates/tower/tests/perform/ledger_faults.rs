//! The ledger fails before, in and after its writes.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use http::StatusCode;
use semel_core::{
    effect::{OnUnknown, Phase},
    scope::EffectId,
};
use semel_ledger::LedgerError;
use semel_testkit::simulation::{Fault, Operation};
use semel_tower::{Conclusion, EffectRequest, Finding, Refused};

use crate::support::*;

/// `fault` on the first `times` calls of `on`.
fn failing(on: Operation, times: usize, fault: Fault) -> impl Fn(Operation, EffectId) -> Option<Fault> + Send + Sync {
    let left = Mutex::new(HashMap::from([(on, times)]));
    move |operation, _| {
        let mut left = left.lock().unwrap();
        let left = left.get_mut(&operation).filter(|left| **left > 0)?;
        *left -= 1;
        Some(fault.clone())
    }
}

fn unreachable() -> Fault {
    Fault::Refuse(LedgerError::Unreachable("injected".into()))
}

fn stopped() -> Fault {
    Fault::Refuse(LedgerError::Stopped("injected".into()))
}

/// Not carried out as long as anybody waits.
fn never() -> Fault {
    Fault::Delay(Duration::from_secs(86_400))
}

fn damaged() -> Fault {
    Fault::Refuse(LedgerError::Damaged { id: ID, what: "injected".into() })
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_when_the_claim_cannot_be_made() {
    let cases = [
        (Operation::LookUp, unreachable(), Refused::LedgerUnavailable),
        (Operation::LookUp, stopped(), Refused::LedgerUnavailable),
        (Operation::LookUp, damaged(), Refused::OutcomeUnknown),
        (Operation::LookUp, Fault::Hang, Refused::DeadlineExceeded),
        (Operation::Claim, unreachable(), Refused::LedgerUnavailable),
        (Operation::Claim, stopped(), Refused::LedgerUnavailable),
        (Operation::Claim, damaged(), Refused::OutcomeUnknown),
        (Operation::Claim, Fault::LoseRequest, Refused::LedgerUnavailable),
        (Operation::Claim, Fault::LoseReply, Refused::LedgerUnavailable),
        (Operation::Claim, Fault::Refuse(LedgerError::ClaimsPaused("injected".into())), Refused::ClaimsPaused),
    ];
    for (on, fault, why) in cases {
        let world = World::with_faults(OnUnknown::Hold, failing(on, 1, fault.clone()));
        let upstream = Scripted::answering(201);
        assert_eq!(refusal(&world.call(request(), &upstream).await), why, "{on:?} {fault:?}");
        assert_eq!(upstream.runs(), 0, "{on:?} {fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_was_made_without_a_word_becomes_unknown_not_free() {
    let world = World::with_faults(OnUnknown::Hold, failing(Operation::Claim, 1, Fault::LoseReply));
    let upstream = Scripted::answering(201);
    assert_eq!(refusal(&world.call(request(), &upstream).await), Refused::LedgerUnavailable);
    assert_eq!(refusal(&world.call(request(), &upstream).await), Refused::InFlight);
    after_seconds(30).await;
    assert_eq!(refusal(&world.call(request(), &upstream).await), Refused::OutcomeUnknown);
    assert_eq!(upstream.runs(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_settlement_is_written_again_until_the_ledger_is_back() {
    for fault in [unreachable(), Fault::LoseRequest, Fault::LoseReply] {
        let world = World::with_faults(OnUnknown::Hold, failing(Operation::Settle, 5, fault));
        let upstream = Scripted::answering(201);
        assert_eq!(executed(&world.call(request(), &upstream).await), (201, "done"));
        assert_eq!(replayed(&world.call(request(), &upstream).await), (201, "done"));
        assert_eq!(upstream.runs(), 1);
        // Written once, whatever was lost on the way.
        assert_eq!(world.ledger.audit_log(0, 10).await.unwrap(), []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_settlement_that_cannot_be_written_is_not_told() {
    for fault in [unreachable(), Fault::LoseRequest, stopped(), Fault::Delay(Duration::from_secs(3600))] {
        let world = World::with_faults(OnUnknown::Hold, failing(Operation::Settle, usize::MAX, fault.clone()));
        let upstream = Scripted::answering(201);
        let told = world.call(request(), &upstream).await;
        assert!(matches!(told, Conclusion::Unknown { answer: None }), "{fault:?}: {told:?}");
        world.effects.drained().await;
        after_seconds(60).await;
        assert_eq!(refusal(&world.call(request(), &upstream).await), Refused::OutcomeUnknown);
        assert_eq!(upstream.runs(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_that_cannot_be_written_is_told_and_never_frees_the_key_by_itself() {
    let world = World::with_faults(OnUnknown::Hold, failing(Operation::Release, usize::MAX, unreachable()));
    let upstream = Scripted::new(|claimed| async move { not_sent(&claimed) });
    assert!(matches!(world.call(request(), &upstream).await, Conclusion::NotExecuted { .. }));
    after_seconds(60).await;
    assert_eq!(refusal(&world.call(request(), &upstream).await), Refused::OutcomeUnknown);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_that_cannot_be_written_down_lapses_into_it() {
    let world = World::with_faults(OnUnknown::Hold, failing(Operation::GiveUp, usize::MAX, unreachable()));
    let upstream = Scripted::new(|claimed| async move { lost(&claimed) });
    assert!(matches!(world.call(request(), &upstream).await, Conclusion::Unknown { answer: None }));
    after_seconds(60).await;
    assert_eq!(refusal(&world.call(request(), &upstream).await), Refused::OutcomeUnknown);
    assert_eq!(world.phase().await, Phase::Unknown);
}

#[tokio::test(start_paused = true)]
async fn while_a_record_stands_a_failing_ledger_is_not_told_as_if_none_did() {
    // Open: a duplicate cannot wait for it.
    let world = World::with_faults(OnUnknown::Hold, failing(Operation::Await, 1, unreachable()));
    let upstream = Scripted::slow(Duration::from_secs(3));
    let first = world.begin(request(), &upstream);
    after_seconds(1).await;
    assert_eq!(refusal(&world.call(request(), &upstream).await), Refused::InFlight);
    executed(&first.await.unwrap());

    // Unknown: a duplicate cannot take it.
    for fault in [unreachable(), Fault::LoseRequest, Fault::LoseReply] {
        let world = World::with_faults(OnUnknown::Retry, failing(Operation::Reopen, 1, fault));
        let upstream = Scripted::new(|claimed| async move { lost(&claimed) });
        world.call(request(), &upstream).await;
        assert_eq!(refusal(&world.call(request(), &upstream).await), Refused::OutcomeUnknown);
        assert_eq!(upstream.runs(), 1);
    }

    // Lapsed: it cannot be written down.
    let world = World::with_faults(OnUnknown::Hold, |operation, _| match operation {
        Operation::GiveUp | Operation::Renew | Operation::Lapse => Some(unreachable()),
        _ => None,
    });
    let upstream = Scripted::new(|claimed| async move { lost(&claimed) });
    world.call(request(), &upstream).await;
    after_seconds(60).await;
    assert_eq!(world.phase().await, Phase::Lapsed);
    assert_eq!(refusal(&world.call(request(), &upstream).await), Refused::OutcomeUnknown);
}

#[tokio::test(start_paused = true)]
async fn no_call_outlives_its_deadline_because_the_ledger_hangs() {
    for on in [Operation::LookUp, Operation::Claim, Operation::Settle, Operation::Await] {
        let world = World::with_faults(OnUnknown::Hold, move |operation, _| (operation == on).then_some(Fault::Hang));
        let upstream = Scripted::slow(Duration::from_secs(1));
        let calls = [world.begin(request(), &upstream), world.begin(request(), &upstream)];
        let began = in_seconds(0);
        for call in calls {
            call.await.unwrap();
        }
        assert!(in_seconds(0) - began <= Duration::from_millis(20_250), "{on:?}: {:?}", in_seconds(0) - began);
        assert!(upstream.runs() <= 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_without_an_answer_is_not_waited_for_longer_than_it_could_stand() {
    let world = World::with_faults(OnUnknown::Hold, failing(Operation::Claim, 1, Fault::Hang));
    let upstream = Scripted::answering(201);
    assert!(matches!(world.call(request(), &upstream).await, Conclusion::Unknown { answer: None }));
    tokio::time::timeout(Duration::from_secs(15), world.effects.drained()).await.expect("its lease is over");
    assert_eq!(refusal(&world.call(request(), &upstream).await), Refused::OutcomeUnknown);
    assert_eq!(upstream.runs(), 0);
}

#[tokio::test(start_paused = true)]
async fn no_duplicate_outlives_its_deadline_because_the_ledger_hangs() {
    // Open: the wait for its conclusion never ends.
    let world = World::with_faults(OnUnknown::Hold, failing(Operation::Await, 1, Fault::Hang));
    let upstream = Scripted::slow(Duration::from_secs(30));
    let first = world.begin(EffectRequest { deadline: in_seconds(40), ..request() }, &upstream);
    after_seconds(1).await;
    assert_eq!(refusal(&in_time(world.call(request(), &upstream)).await), Refused::InFlight);
    executed(&first.await.unwrap());

    // Lapsed: it is never written down.
    let world = World::with_faults(OnUnknown::Hold, |operation, _| match operation {
        Operation::GiveUp | Operation::Renew => Some(unreachable()),
        Operation::Lapse => Some(Fault::Hang),
        _ => None,
    });
    let upstream = Scripted::new(|claimed| async move { lost(&claimed) });
    world.call(request(), &upstream).await;
    after_seconds(60).await;
    assert_eq!(refusal(&in_time(world.call(request(), &upstream)).await), Refused::OutcomeUnknown);
}

#[tokio::test(start_paused = true)]
async fn a_finding_that_the_ledger_swallows_does_not_stop_the_next_question() {
    let world = World::with_faults(OnUnknown::Probe, failing(Operation::Release, 1, Fault::LoseRequest));
    let hangs = World::with_faults(OnUnknown::Probe, failing(Operation::Settle, 1, never()));
    let fenced = Scripted::probed(|claimed| async move { lost(&claimed) }, |_| async { Finding::Fenced });
    let found = Scripted::probed(
        |claimed| async move { lost(&claimed) },
        |_| async { Finding::Executed(answer(StatusCode::CREATED, "found")) },
    );
    for (world, upstream) in [(world, fenced), (hangs, found)] {
        world.call(request(), &upstream).await;
        assert_eq!(refusal(&in_time(world.call(request(), &upstream)).await), Refused::OutcomeUnknown);
        tokio::time::timeout(Duration::from_secs(15), world.effects.drained()).await.expect("it is bounded");
        world.call(request(), &upstream).await;
        assert_eq!(upstream.asks(), 2);
    }
}

/// No longer than a call's deadline and its grace.
async fn in_time<T>(call: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_millis(20_250), call).await.expect("it is over in time")
}
