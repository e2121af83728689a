//! What only an engine that one process has to itself can promise.

use crate::harness::Embedded;
use semel_core::{
    answer::{StoredAnswer, StoredHeaders},
    effect::{Authority, Claim, Command, Fence, OnUnknown, Outcome, Owner, Phase, State, Terms, UnknownReason},
    fingerprint::{Fingerprint, FingerprintInput},
    scope::{EffectId, Principal},
};
#[cfg(feature = "failpoints")]
use semel_ledger::LedgerError;
use semel_ledger::{Exported, Health, Ledger};
use semel_ledger_embedded::{Error, Options, export};
use std::{sync::Arc, time::Duration};

pub(crate) fn claim(owner: u64) -> Command {
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

pub(crate) fn answer(n: u32, len: usize) -> Outcome {
    Outcome::Settled(StoredAnswer {
        status: http::StatusCode::CREATED,
        headers: StoredHeaders::default(),
        body: n.to_le_bytes().repeat(len / 4).into(),
    })
}

pub(crate) fn settle(fence: Fence, outcome: Outcome) -> Command {
    Command::Settle { fence, outcome, by: Authority::Owner, attempts: 1 }
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

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_leaves_the_disk_when_its_window_ends_and_its_marker_later() {
    let embedded = Embedded::new();
    let (ledger, clock) = (&embedded.ledger, &embedded.clock);
    let (settled, open) = (EffectId::from_bytes([9; 16]), EffectId::from_bytes([10; 16]));
    ledger.apply(open, claim(1)).await.unwrap();
    let fence = ledger.apply(settled, claim(1)).await.unwrap().seen.record.unwrap().fence;
    ledger.apply(settled, settle(fence, answer(1, 400_000))).await.unwrap();
    ledger.compact().unwrap();
    assert!(ledger.stats().unwrap().table_bytes > 400_000);
    assert_eq!(ledger.look_up(settled).await.unwrap().phase(), Phase::Settled);

    clock.advance(Duration::from_secs(3600));
    ledger.compact().unwrap();
    assert!(ledger.stats().unwrap().table_bytes < 100_000, "the answer is gone");
    assert_eq!(ledger.look_up(settled).await.unwrap().phase(), Phase::Expired, "its marker is not");

    clock.advance(Duration::from_secs(3600));
    ledger.compact().unwrap();
    assert_eq!(ledger.look_up(settled).await.unwrap().record, None);
    assert_eq!(ledger.live(None, 10).await.unwrap().len(), 1, "what is live never expires");
    ledger.apply(settled, claim(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_holds_every_effect_and_changes_nothing() {
    let embedded = Embedded::new();
    let (open, settled) = (EffectId::from_bytes([3; 16]), EffectId::from_bytes([4; 16]));
    embedded.ledger.apply(open, claim(1)).await.unwrap();
    let fence = embedded.ledger.apply(settled, claim(1)).await.unwrap().seen.record.unwrap().fence;
    embedded.ledger.apply(settled, settle(fence, answer(1, 40))).await.unwrap();
    let expected = [open, settled].map(|id| embedded.ledger.look_up(id));
    let mut records = Vec::new();
    for seen in expected {
        records.push(Exported::Effect(Box::new(seen.await.unwrap().record.unwrap())));
    }
    let options = Options::new(embedded.ledger.dir());
    assert!(matches!(export(&options), Err(Error::Locked { .. })));
    // The folder outlives the ledger in it.
    let Embedded { folder: _folder, ledger, .. } = embedded;
    drop(ledger);
    for _ in 0..2 {
        let exported: Vec<_> = export(&options).unwrap().map(Result::unwrap).collect();
        assert_eq!(exported, records);
    }
}

/// A claim whose commit failed was not sent. Here the flush fails after the bytes were written, so the batch is found
/// when the ledger is opened again, and the claim is released.
#[cfg(feature = "failpoints")]
#[test]
fn a_claim_whose_commit_failed_is_released_when_the_ledger_is_opened_again() {
    // The stop point is chosen by the environment, once for a process: so this test is a process of its own.
    const CHILD: &str = "SEMEL_FAILED_COMMIT_CHILD";
    if std::env::var_os(CHILD).is_none() {
        let name = "own::a_claim_whose_commit_failed_is_released_when_the_ledger_is_opened_again";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let child = child.args(["--exact", name]).env(CHILD, "1").env("SEMEL_FAILPOINT", "log.sync.before=eio@3");
        assert!(child.status().unwrap().success());
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let Embedded { folder: _folder, ledger, .. } = Embedded::new();
        let [first, second, third, other] = [5, 6, 7, 8].map(|n| EffectId::from_bytes([n; 16]));
        ledger.apply(first, claim(1)).await.unwrap();
        ledger.apply(second, claim(1)).await.unwrap();
        let failed = ledger.apply(third, claim(1)).await.unwrap_err();
        assert!(matches!(failed, LedgerError::Stopped(_)), "{failed:?}");
        assert!(matches!(ledger.health(), Health::Stopped(_)));
        assert!(matches!(ledger.apply(other, claim(1)).await, Err(LedgerError::Stopped(_))));
        assert!(matches!(ledger.look_up(first).await, Err(LedgerError::Stopped(_))));
        ledger.reopen().unwrap();
        assert_eq!(ledger.health(), Health::Ready);
        for (id, phase) in [(first, Phase::Open), (second, Phase::Open), (third, Phase::Absent)] {
            assert_eq!(ledger.look_up(id).await.unwrap().phase(), phase);
        }
        ledger.apply(third, claim(1)).await.unwrap();
    });
}
