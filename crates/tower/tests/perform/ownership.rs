//! Leases: who may act, and what becomes of those who may not any more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use semel_core::{
    answer::StoredAnswer,
    effect::{Authority, Command, OnUnknown, Outcome, Phase, State, UnknownReason},
    evidence::{EffectMark, Verdict},
};
use semel_ledger::LedgerError;
use semel_testkit::simulation::{Fault, Operation};
use semel_tower::{Conclusion, EffectRequest, Execution, Refused};

use crate::support::*;

fn unreachable() -> Fault {
    Fault::Refuse(LedgerError::Unreachable("injected".into()))
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_kept_as_long_as_it_takes() {
    let world = World::new(OnUnknown::Hold);
    let upstream = Scripted::slow(Duration::from_secs(300));
    let first = world.begin(EffectRequest { deadline: in_seconds(400), ..request() }, &upstream);
    for _ in 0..29 {
        after_seconds(10).await;
        assert_eq!(world.phase().await, Phase::Open);
    }
    executed(&first.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn after_a_lost_lease_no_attempt_begins_and_the_late_answer_still_settles() {
    let down = Arc::new(AtomicBool::new(false));
    let is_down = Arc::clone(&down);
    let plan = move |operation, _| (operation == Operation::Renew && is_down.load(Ordering::SeqCst)).then(unreachable);
    let world = World::with_faults(OnUnknown::Hold, plan);
    let began = Arc::new(AtomicBool::new(false));
    let second = Arc::clone(&began);
    let upstream = Scripted::new(move |claimed| {
        let second = Arc::clone(&second);
        async move {
            // The first attempt takes longer than the lease, which cannot be renewed meanwhile.
            tokio::time::sleep(Duration::from_secs(40)).await;
            if claimed.lease.check().await.is_ok() {
                second.store(true, Ordering::SeqCst);
            }
            answered(&claimed, 201, None)
        }
    });
    down.store(true, Ordering::SeqCst);
    let first = world.begin(EffectRequest { deadline: in_seconds(60), ..request() }, &upstream);
    after_seconds(35).await;
    assert_eq!(world.phase().await, Phase::Lapsed);
    assert_eq!(refusal(&world.call(request(), &upstream).await), Refused::OutcomeUnknown);
    let record = world.seen().await.record.unwrap();
    assert!(matches!(record.state, State::Unknown { reason: UnknownReason::LeaseLapsed, .. }));
    assert_eq!(executed(&first.await.unwrap()), (201, "done"));
    assert!(!began.load(Ordering::SeqCst));
    assert_eq!(replayed(&world.call(request(), &upstream).await), (201, "done"));
    assert_eq!(upstream.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_cannot_be_reached_does_not_end_a_lease_that_runs() {
    let plan = |operation, _| (operation == Operation::Renew).then(unreachable);
    let world = World::with_faults(OnUnknown::Hold, plan);
    let upstream = Scripted::new(|claimed| async move {
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(claimed.lease.check().await.is_ok(), "10 s are left");
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert!(claimed.lease.check().await.is_err(), "it is over");
        answered(&claimed, 201, None)
    });
    executed(&world.call(EffectRequest { deadline: in_seconds(60), ..request() }, &upstream).await);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_comes_back_too_late_renews_nothing() {
    let plan = |operation, _| (operation == Operation::Renew).then_some(Fault::DelayReply(Duration::from_secs(31)));
    let world = World::with_faults(OnUnknown::Hold, plan);
    let upstream = Scripted::new(|claimed| async move {
        tokio::time::sleep(Duration::from_secs(29)).await;
        let asked_at = in_seconds(0);
        let checked = claimed.lease.check().await;
        assert!(checked.is_err());
        assert!(in_seconds(0) - asked_at < Duration::from_secs(10), "it is not waited for");
        answered(&claimed, 201, None)
    });
    executed(&world.call(EffectRequest { deadline: in_seconds(60), ..request() }, &upstream).await);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_counts_from_when_it_was_asked_for() {
    let plan = |operation, _| (operation == Operation::Renew).then_some(Fault::DelayReply(Duration::from_secs(5)));
    let world = World::with_faults(OnUnknown::Hold, plan);
    let upstream = Scripted::new(|claimed| async move {
        tokio::time::sleep(Duration::from_secs(16)).await;
        let asked_at = in_seconds(0);
        assert_eq!(claimed.lease.check().await, Ok(asked_at + Duration::from_secs(30)));
        assert_eq!(in_seconds(0) - asked_at, Duration::from_secs(5));
        answered(&claimed, 201, None)
    });
    executed(&world.call(EffectRequest { deadline: in_seconds(60), ..request() }, &upstream).await);
}

#[tokio::test(start_paused = true)]
async fn a_refused_renewal_ends_a_lease_that_still_runs() {
    let world = World::new(OnUnknown::Hold);
    let ledger = Arc::clone(&world.ledger);
    let upstream = Scripted::new(move |claimed| {
        let ledger = Arc::clone(&ledger);
        async move {
            let reason = UnknownReason::Abandoned;
            ledger.apply(ID, Command::GiveUp { fence: claimed.fence, reason, attempts: 1 }).await.unwrap();
            tokio::time::sleep(Duration::from_secs(16)).await;
            assert!(claimed.lease.check().await.is_err(), "14 s are left, but it is not open any more");
            answered(&claimed, 201, None)
        }
    });
    executed(&world.call(EffectRequest { deadline: in_seconds(60), ..request() }, &upstream).await);
}

#[tokio::test(start_paused = true)]
async fn a_lapsed_owner_cannot_take_the_effect_back() {
    let plan = |operation, _| (operation == Operation::Renew).then(unreachable);
    let world = World::with_faults(OnUnknown::Hold, plan);
    let upstream = Scripted::new(|claimed| async move {
        tokio::time::sleep(Duration::from_secs(31)).await;
        not_sent(&claimed)
    });
    let first = world.begin(EffectRequest { deadline: in_seconds(60), ..request() }, &upstream);
    assert!(matches!(first.await.unwrap(), Conclusion::Unknown { .. }));
    assert_eq!(world.phase().await, Phase::Unknown);
}

#[tokio::test(start_paused = true)]
async fn a_fenced_owner_s_answer_is_not_the_recorded_one() {
    let plan = |operation, _| (operation == Operation::Renew).then(unreachable);
    let world = World::with_faults(OnUnknown::Retry, plan);
    let slow = Scripted::slow(Duration::from_secs(50));
    let first = world.begin(EffectRequest { deadline: in_seconds(60), ..request() }, &slow);
    after_seconds(31).await;
    let quick = Scripted::answering(202);
    assert_eq!(executed(&world.call(request(), &quick).await), (202, "done"));
    // What is recorded is told to both.
    assert_eq!(replayed(&first.await.unwrap()), (202, "done"));
    assert_eq!(replayed(&world.call(request(), &quick).await), (202, "done"));
    let audit = world.ledger.audit_log(0, 10).await.unwrap();
    assert_eq!(audit.len(), 1, "the fenced settlement left a line: {audit:?}");
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_executor_is_unknown_at_once() {
    let world = World::new(OnUnknown::Hold);
    let upstream = Scripted::new(|claimed| async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(claimed.tally.verdict(), Verdict::Executed, "panics: {:?}", claimed.id);
        answered(&claimed, 201, None)
    });
    assert!(matches!(world.call(request(), &upstream).await, Conclusion::Unknown { answer: None }));
    let record = world.seen().await.record.unwrap();
    assert!(matches!(record.state, State::Unknown { reason: UnknownReason::Abandoned, .. }));
    assert_eq!(world.effects.in_flight(), 0);
    assert_eq!(refusal(&world.call(request(), &upstream).await), Refused::OutcomeUnknown);
}

#[tokio::test(start_paused = true)]
async fn what_the_upstream_settled_itself_is_the_answer_whatever_the_attempt_proved() {
    type End = fn(&semel_tower::Claimed) -> Execution;
    let ends: [End; 3] = [lost, not_sent, |claimed| answered(claimed, 503, Some(EffectMark::Unknown))];
    for end in ends {
        let world = World::new(OnUnknown::Hold);
        let ledger = Arc::clone(&world.ledger);
        let upstream = Scripted::new(move |claimed| {
            let ledger = Arc::clone(&ledger);
            async move {
                let settled = answer(StatusCode::CREATED, "settled by token");
                let body = settled.body.as_whole().unwrap().clone();
                let stored = StoredAnswer { status: settled.status, headers: Default::default(), body };
                let (outcome, by) = (Outcome::Settled(stored), Authority::Upstream);
                ledger.apply(ID, Command::Settle { fence: claimed.fence, outcome, by, attempts: 0 }).await.unwrap();
                end(&claimed)
            }
        });
        assert_eq!(replayed(&world.call(request(), &upstream).await), (201, "settled by token"));
        assert_eq!(replayed(&world.call(request(), &upstream).await), (201, "settled by token"));
        assert_eq!(upstream.runs(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_took_all_the_time_is_released_unsent() {
    let plan = |operation, _| (operation == Operation::Claim).then_some(Fault::DelayReply(Duration::from_secs(2)));
    let world = World::with_faults(OnUnknown::Hold, plan);
    let upstream = Scripted::answering(201);
    let hurried = EffectRequest { deadline: in_seconds(2), ..request() };
    assert!(matches!(world.call(hurried, &upstream).await, Conclusion::NotExecuted { answer: None, end: None }));
    assert_eq!((upstream.runs(), world.phase().await), (0, Phase::Absent));
}
