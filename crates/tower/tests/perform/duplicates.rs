//! Several callers on one key.

use std::{sync::Arc, time::Duration};

use semel_core::effect::{OnUnknown, Phase};
use semel_tower::{Ack, Conclusion, EffectRequest, Refused};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn sixty_four_race_on_one_key_and_one_runs() {
    let world = World::new(OnUnknown::Hold);
    let upstream = Scripted::slow(Duration::from_secs(1));
    let calls: Vec<_> = (0..64).map(|_| world.begin(request(), &upstream)).collect();
    let mut fresh = 0;
    for call in calls {
        match call.await.unwrap() {
            Conclusion::Executed(answer) => {
                assert_eq!(answer.status, 201);
                fresh += 1;
            }
            other => assert_eq!(replayed(&other), (201, "done")),
        }
    }
    assert_eq!((fresh, upstream.runs()), (1, 1));
    assert_eq!(world.log.words().iter().filter(|word| **word == "joined").count(), 63);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_race_in_real_threads_and_one_runs() {
    for _ in 0..50 {
        let world = World::new(OnUnknown::Hold);
        let upstream = Scripted::answering(201);
        let calls: Vec<_> = (0..64).map(|_| world.begin(request(), &upstream)).collect();
        for call in calls {
            assert!(matches!(call.await.unwrap(), Conclusion::Executed(_) | Conclusion::Replayed(_)));
        }
        assert_eq!(upstream.runs(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn joiners_share_an_unknown_outcome() {
    for on_unknown in [OnUnknown::Hold, OnUnknown::Retry, OnUnknown::Probe] {
        let world = World::new(on_unknown);
        let upstream = Scripted::new(|claimed| async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            lost(&claimed)
        });
        let calls: Vec<_> = (0..10).map(|_| world.begin(request(), &upstream)).collect();
        let mut held = 0;
        for call in calls {
            match call.await.unwrap() {
                Conclusion::Unknown { answer: None } => {}
                other => {
                    assert_eq!(refusal(&other), Refused::OutcomeUnknown);
                    held += 1;
                }
            }
        }
        // Those who waited neither attempt nor ask, whatever a later duplicate may do.
        assert_eq!((held, upstream.runs(), upstream.asks()), (9, 1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn joiners_of_what_was_not_executed_are_not_promoted() {
    let world = World::new(OnUnknown::Hold);
    let upstream = Scripted::new(|claimed| async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        not_sent(&claimed)
    });
    let calls: Vec<_> = (0..10).map(|_| world.begin(request(), &upstream)).collect();
    let mut waited = 0;
    for call in calls {
        match call.await.unwrap() {
            Conclusion::NotExecuted { .. } => {}
            other => {
                assert_eq!(refusal(&other), Refused::Released);
                waited += 1;
            }
        }
    }
    assert_eq!((waited, upstream.runs()), (9, 1));
}

#[tokio::test(start_paused = true)]
async fn a_joiner_waits_no_longer_than_its_join_or_its_deadline() {
    let world = World::new(OnUnknown::Hold);
    let upstream = Scripted::slow(Duration::from_secs(15));
    let first = world.begin(request(), &upstream);
    after_seconds(1).await;
    let began = in_seconds(0);
    assert_eq!(refusal(&world.call(request(), &upstream).await), Refused::InFlight);
    assert_eq!(in_seconds(0) - began, Duration::from_secs(5));
    let began = in_seconds(0);
    let hurried = EffectRequest { deadline: in_seconds(2), ..request() };
    assert_eq!(refusal(&world.call(hurried, &upstream).await), Refused::InFlight);
    assert_eq!(in_seconds(0) - began, Duration::from_secs(2));
    executed(&first.await.unwrap());
    assert_eq!(upstream.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn waiters_are_bounded() {
    let world = World::new(OnUnknown::Hold).with(|policy| policy.waiters_max = 3);
    let upstream = Scripted::slow(Duration::from_secs(3));
    let first = world.begin(request(), &upstream);
    after_seconds(1).await;
    let calls: Vec<_> = (0..5).map(|_| world.begin(request(), &upstream)).collect();
    let mut turned_away = 0;
    for call in calls {
        match call.await.unwrap() {
            Conclusion::Refused { why: Refused::TooManyWaiters, .. } => turned_away += 1,
            other => assert_eq!(replayed(&other).0, 201),
        }
    }
    assert_eq!(turned_away, 2);
    executed(&first.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_hangs_up_cancels_nothing() {
    let world = World::new(OnUnknown::Hold);
    let upstream = Scripted::slow(Duration::from_secs(3));
    let first = world.begin(request(), &upstream);
    after_seconds(1).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!(world.effects.in_flight(), 1);
    world.effects.drained().await;
    assert_eq!(replayed(&world.call(request(), &upstream).await), (201, "done"));
    assert_eq!(upstream.runs(), 1);
    assert_eq!(world.log.words(), ["executed", "replayed"]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_whose_deadline_passes_is_told_that_nobody_knows_and_the_answer_is_kept() {
    let world = World::new(OnUnknown::Hold);
    let upstream = Scripted::slow(Duration::from_secs(15));
    let hurried = EffectRequest { deadline: in_seconds(2), ..request() };
    assert!(matches!(world.call(hurried, &upstream).await, Conclusion::Unknown { answer: None }));
    assert_eq!(world.phase().await, Phase::Open);
    world.effects.drained().await;
    assert_eq!(replayed(&world.call(request(), &upstream).await), (201, "done"));
}

#[tokio::test(start_paused = true)]
async fn an_early_acknowledgement_does_not_wait_for_the_ledger() {
    let slow_to_settle = |operation, _| match operation {
        semel_testkit::simulation::Operation::Settle => {
            Some(semel_testkit::simulation::Fault::Delay(Duration::from_secs(5)))
        }
        _ => None,
    };
    let world = World::with_faults(OnUnknown::Hold, slow_to_settle).with(|policy| policy.ack = Ack::Early);
    let upstream = Scripted::answering(201);
    executed(&world.call(request(), &upstream).await);
    assert_eq!(world.phase().await, Phase::Open);
    world.effects.drained().await;
    assert_eq!(replayed(&world.call(request(), &upstream).await), (201, "done"));
    assert_eq!(world.log.words(), ["executed", "replayed"]);
}

#[tokio::test(start_paused = true)]
async fn two_processes_on_one_ledger_run_it_once() {
    let one = World::new(OnUnknown::Hold);
    let two = one.other_process();
    let upstream = Scripted::slow(Duration::from_secs(1));
    let calls: Vec<_> =
        (0..32).flat_map(|_| [one.begin(request(), &upstream), two.begin(request(), &upstream)]).collect();
    for call in calls {
        assert!(matches!(call.await.unwrap(), Conclusion::Executed(_) | Conclusion::Replayed(_)));
    }
    assert_eq!(upstream.runs(), 1);
    assert_eq!(Arc::strong_count(&upstream), 1);
}
