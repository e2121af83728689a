//! The exits of unknown: attempted again, asked about, held.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use semel_core::{
    effect::{Authority, Command, OnUnknown, Phase},
    evidence::{EffectMark, Tally, Verdict},
};
use semel_tower::{Conclusion, EffectPolicy, Finding, Refused};

use crate::support::*;

/// Lost the first time; afterwards as `then` says.
fn lost_first(then: fn(&semel_tower::Claimed) -> semel_tower::Execution) -> Arc<Scripted> {
    let first = AtomicBool::new(true);
    Scripted::new(move |claimed| {
        let execution = if first.swap(false, Ordering::SeqCst) { lost(&claimed) } else { then(&claimed) };
        async move { execution }
    })
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_attempts_it_again_under_retry() {
    let world = World::new(OnUnknown::Retry);
    let upstream = lost_first(|claimed| {
        assert_eq!(claimed.tally, Tally::AFTER_UNKNOWN);
        answered(claimed, 201, None)
    });
    assert!(matches!(world.call(request(), &upstream).await, Conclusion::Unknown { .. }));
    assert_eq!(executed(&world.call(request(), &upstream).await), (201, "done"));
    assert_eq!(replayed(&world.call(request(), &upstream).await), (201, "done"));
    assert_eq!(upstream.runs(), 2);
    assert_eq!(world.seen().await.record.unwrap().attempts, 2);
}

#[tokio::test(start_paused = true)]
async fn nothing_that_follows_an_unknown_attempt_releases_it() {
    for then in [
        not_sent,
        |claimed: &_| answered(claimed, 409, None),
        |claimed: &_| answered(claimed, 503, Some(EffectMark::None)),
    ] {
        let world = World::new(OnUnknown::Retry);
        let upstream = lost_first(then);
        for _ in 0..3 {
            assert!(matches!(world.call(request(), &upstream).await, Conclusion::Unknown { .. }));
            assert_eq!(world.phase().await, Phase::Unknown);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_upstream_forgets_after_its_time() {
    let world = World::new(OnUnknown::Retry);
    let upstream = lost_first(|claimed| answered(claimed, 201, None));
    world.call(request(), &upstream).await;
    after_seconds(3600).await;
    assert_eq!(refusal(&world.call(request(), &upstream).await), Refused::OutcomeUnknown);
    assert_eq!(upstream.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_attempt_begins_after_the_upstream_forgets() {
    let forgets = |policy: &mut EffectPolicy| {
        let terms = semel_core::effect::Terms { upstream_keep_ms: 5_000, ..terms(OnUnknown::Retry) };
        policy.terms = Arc::new(terms);
    };
    let world = World::new(OnUnknown::Retry).with(forgets);
    let upstream = Scripted::new(|claimed| async move {
        tokio::time::sleep_until(claimed.deadline).await;
        lost(&claimed)
    });
    // Its caller would wait for 20 s, its upstream remembers for 5 s from the claim on.
    let began = in_seconds(0);
    world.call(request(), &upstream).await;
    assert_eq!(in_seconds(0) - began, Duration::from_secs(5));
    assert_eq!(refusal(&world.call(request(), &upstream).await), Refused::OutcomeUnknown);

    let world = World::new(OnUnknown::Retry).with(forgets);
    let quick = lost_first(|claimed| {
        assert_eq!(claimed.deadline, in_seconds(1), "4 s of 5 s are over");
        lost(claimed)
    });
    world.call(request(), &quick).await;
    after_seconds(4).await;
    world.call(request(), &quick).await;
    assert_eq!(quick.runs(), 2);
}

#[tokio::test(start_paused = true)]
async fn racing_duplicates_attempt_it_once_at_a_time() {
    let world = World::new(OnUnknown::Retry);
    let upstream = Scripted::new(|claimed| async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if claimed.tally.verdict() == Verdict::Unknown { answered(&claimed, 201, None) } else { lost(&claimed) }
    });
    world.call(request(), &upstream).await;
    let calls: Vec<_> = (0..20).map(|_| world.begin(request(), &upstream)).collect();
    for call in calls {
        assert!(matches!(call.await.unwrap(), Conclusion::Executed(_) | Conclusion::Replayed(_)));
    }
    assert_eq!(upstream.runs(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_was_promised_at_the_claim_decides() {
    let changes: [fn(&mut EffectPolicy); 2] = [
        |policy| policy.terms = Arc::new(terms(OnUnknown::Hold)),
        |policy| {
            policy.terms = Arc::new(semel_core::effect::Terms { upstream: "moved".into(), ..terms(OnUnknown::Retry) });
        },
    ];
    for change in changes {
        let world = World::new(OnUnknown::Retry);
        let upstream = lost_first(|claimed| answered(claimed, 201, None));
        world.call(request(), &upstream).await;
        let today = world.with(change);
        assert_eq!(refusal(&today.call(request(), &upstream).await), Refused::OutcomeUnknown);
        assert_eq!(upstream.runs(), 1);
    }
    // Nor does a promise that came later reach back.
    let world = World::new(OnUnknown::Hold);
    let upstream = lost_first(|claimed| answered(claimed, 201, None));
    world.call(request(), &upstream).await;
    let today = world.with(|policy| policy.terms = Arc::new(terms(OnUnknown::Retry)));
    assert_eq!(refusal(&today.call(request(), &upstream).await), Refused::OutcomeUnknown);
    assert_eq!(upstream.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_status_resource_says_executed() {
    let world = World::new(OnUnknown::Probe);
    let upstream = Scripted::probed(
        |claimed| async move { lost(&claimed) },
        |target| async move {
            assert_eq!(target.message.body, "{\"amount\":10}");
            Finding::Executed(answer(StatusCode::CREATED, "found"))
        },
    );
    world.call(request(), &upstream).await;
    assert_eq!(replayed(&world.call(request(), &upstream).await), (201, "found"));
    assert_eq!(replayed(&world.call(request(), &upstream).await), (201, "found"));
    assert_eq!((upstream.runs(), upstream.asks()), (1, 1));
    let audit = world.ledger.audit_log(0, 10).await.unwrap();
    assert_eq!(audit.iter().map(|(_, event)| event.by.as_str()).collect::<Vec<_>>(), ["probe"]);
}

#[tokio::test(start_paused = true)]
async fn a_status_resource_that_fenced_the_key_frees_it_for_this_call() {
    let world = World::new(OnUnknown::Probe);
    let first = AtomicBool::new(true);
    let upstream = Scripted::probed(
        move |claimed| {
            let execution =
                if first.swap(false, Ordering::SeqCst) { lost(&claimed) } else { answered(&claimed, 201, None) };
            async move { execution }
        },
        |_| async { Finding::Fenced },
    );
    world.call(request(), &upstream).await;
    let before = world.seen().await.record.unwrap().fence;
    assert_eq!(executed(&world.call(request(), &upstream).await), (201, "done"));
    assert!(world.seen().await.record.unwrap().fence > before);
    assert_eq!((upstream.runs(), upstream.asks()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_status_resource_that_does_not_know_changes_nothing() {
    let world = World::new(OnUnknown::Probe);
    let upstream = Scripted::new(|claimed| async move { lost(&claimed) });
    world.call(request(), &upstream).await;
    for asks in 1..4 {
        assert_eq!(refusal(&world.call(request(), &upstream).await), Refused::OutcomeUnknown);
        assert_eq!((upstream.runs(), upstream.asks()), (1, asks));
    }
    assert_eq!(world.phase().await, Phase::Unknown);
}

#[tokio::test(start_paused = true)]
async fn one_question_at_a_time_also_after_one_that_panicked() {
    let world = World::new(OnUnknown::Probe);
    let panics = AtomicBool::new(true);
    let upstream = Scripted::probed(
        |claimed| async move { lost(&claimed) },
        move |_| {
            let panics = panics.swap(false, Ordering::SeqCst);
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert!(!panics, "the probe panics once");
                Finding::Executed(answer(StatusCode::CREATED, "found"))
            }
        },
    );
    world.call(request(), &upstream).await;
    assert!(matches!(world.call(request(), &upstream).await, Conclusion::Unknown { answer: None }));
    let calls: Vec<_> = (0..10).map(|_| world.begin(request(), &upstream)).collect();
    let mut found = 0;
    for call in calls {
        match call.await.unwrap() {
            Conclusion::Replayed(_) => found += 1,
            other => assert_eq!(refusal(&other), Refused::OutcomeUnknown),
        }
    }
    assert_eq!((found, upstream.asks()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn an_operator_s_release_makes_the_key_usable() {
    let world = World::new(OnUnknown::Hold);
    let upstream = lost_first(|claimed| answered(claimed, 201, None));
    world.call(request(), &upstream).await;
    let fence = world.seen().await.record.unwrap().fence;
    let by = Authority::Operator { name: "ann".into(), reason: "asked the bank".into() };
    world.ledger.apply(ID, Command::Release { fence, by }).await.unwrap();
    assert_eq!(executed(&world.call(request(), &upstream).await), (201, "done"));
    assert_eq!(upstream.runs(), 2);
}
