//! What only an engine that one process has to itself can promise.

use crate::harness::Embedded;
use semel_core::{
    effect::{Claim, Command, OnUnknown, Owner, Phase, State, Terms, UnknownReason},
    fingerprint::{Fingerprint, FingerprintInput},
    scope::{EffectId, Principal},
};
use semel_ledger::{Health, Ledger};
use std::{sync::Arc, time::Duration};

fn claim(owner: u64) -> Command {
    let input = FingerprintInput {
        method: &http::Method::POST,
        path: "/pay",
        query: None,
        headers: &http::HeaderMap::new(),
        body: b"10",
    };
    Command::Claim(Claim {
        owner: Owner(owner),
        lease: Duration::from_secs(3600),
        fingerprint: Fingerprint::of(&input),
        proof: Principal::anyone().proof(),
        terms: Arc::new(Terms {
            scope: "payments".into(),
            upstream: "payments".into(),
            on_unknown: OnUnknown::Hold,
            upstream_keep_ms: 0,
            keep_ms: 3_600_000,
            marker_ms: 3_600_000,
        }),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_effect_of_a_dead_owner_is_unknown_at_once() {
    let mut embedded = Embedded::new();
    let id = EffectId::from_bytes([1; 16]);
    embedded.ledger.apply(id, claim(1)).await.unwrap();
    embedded.crash_now();
    // Long before its lease is over: the lock proves that its owner is gone.
    let seen = embedded.ledger.look_up(id).await.unwrap();
    assert_eq!(seen.phase(), Phase::Unknown);
    let state = seen.record.unwrap().state;
    assert!(matches!(state, State::Unknown { reason: UnknownReason::OwnerGone, .. }), "{state:?}");
    assert_eq!(embedded.ledger.live(None, 10).await.unwrap().len(), 1);
    assert_eq!(embedded.ledger.health(), Health::Ready);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_ledger_is_not_opened_again() {
    let embedded = Embedded::new();
    let id = EffectId::from_bytes([2; 16]);
    embedded.ledger.apply(id, claim(1)).await.unwrap();
    embedded.ledger.reopen().unwrap();
    assert_eq!(embedded.ledger.look_up(id).await.unwrap().phase(), Phase::Open);
}
