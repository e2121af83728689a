//! The cases, each a sentence of the contract.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use semel_core::{
    answer::{StoredAnswer, StoredHeaders, Tombstone},
    effect::{
        AuditKind, Authority, Claim, Command, FOREVER_MS, Fence, OnUnknown, Outcome, Owner, Phase, Refusal, Reply,
        State, Terms, UnknownReason,
    },
    fingerprint::{Fingerprint, FingerprintInput},
    scope::{EffectId, Principal},
};

use super::Harness;
use crate::{Applied, Contract, Ledger, LedgerError};

const LEASE: Duration = Duration::from_secs(30);
pub(super) const HOUR_MS: u64 = 3_600_000;

/// A different id for each case and number.
pub(super) fn id(case: &str, n: u32) -> EffectId {
    let mut bytes = [0; 16];
    let hash = case.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    bytes[..8].copy_from_slice(&hash.to_be_bytes());
    bytes[12..].copy_from_slice(&n.to_be_bytes());
    EffectId::from_bytes(bytes)
}

pub(super) fn fingerprint(body: &[u8]) -> Fingerprint {
    Fingerprint::of(&FingerprintInput {
        method: &http::Method::POST,
        path: "/pay",
        query: None,
        headers: &http::HeaderMap::new(),
        body,
    })
}

pub(super) fn terms(on_unknown: OnUnknown, upstream_keep_ms: u64, keep_ms: u64, marker_ms: u64) -> Arc<Terms> {
    Arc::new(Terms {
        scope: "payments".into(),
        upstream: "payments".into(),
        on_unknown,
        upstream_keep_ms,
        keep_ms,
        marker_ms,
    })
}

pub(super) fn claim(owner: u64, terms: Arc<Terms>) -> Command {
    Command::Claim(Claim {
        owner: Owner(owner),
        lease: LEASE,
        fingerprint: fingerprint(b"10"),
        proof: Principal::anyone().proof(),
        terms,
    })
}

pub(super) fn hold() -> Arc<Terms> {
    terms(OnUnknown::Hold, 0, 24 * HOUR_MS, 7 * 24 * HOUR_MS)
}

pub(super) fn answer(status: u16, body: &[u8]) -> Outcome {
    Outcome::Settled(StoredAnswer {
        status: StatusCode::from_u16(status).expect("a status"),
        headers: StoredHeaders::default(),
        body: Bytes::copy_from_slice(body),
    })
}

pub(super) fn settle(fence: Fence, outcome: Outcome, by: Authority) -> Command {
    Command::Settle { fence, outcome, by, attempts: 1 }
}

pub(super) fn operator() -> Authority {
    Authority::Operator { name: "ann".into(), reason: "the bank's statement shows it".into() }
}

pub(super) fn give_up(fence: Fence) -> Command {
    Command::GiveUp { fence, reason: UnknownReason::Timeout, attempts: 2 }
}

pub(super) async fn apply(ledger: &Arc<dyn Ledger>, id: EffectId, command: Command) -> Applied {
    ledger.apply(id, command).await.expect("the ledger works")
}

pub(super) async fn done(ledger: &Arc<dyn Ledger>, id: EffectId, command: Command) -> Applied {
    let applied = apply(ledger, id, command).await;
    assert_eq!(applied.reply, Reply::Applied, "{applied:?}");
    applied
}

pub(super) async fn refused(ledger: &Arc<dyn Ledger>, id: EffectId, command: Command) -> Refusal {
    match apply(ledger, id, command).await.reply {
        Reply::Refused(refusal) => refusal,
        other => panic!("it was not refused: {other:?}"),
    }
}

pub(super) async fn claimed(ledger: &Arc<dyn Ledger>, id: EffectId, terms: Arc<Terms>) -> Fence {
    done(ledger, id, claim(1, terms)).await.seen.record.expect("a claim leaves a record").fence
}

pub(super) async fn phase(ledger: &Arc<dyn Ledger>, id: EffectId) -> Phase {
    ledger.look_up(id).await.expect("the ledger works").phase()
}

/// A key nobody claimed is absent, and only a claim changes that.
pub async fn absent_until_claimed(h: &mut impl Harness) {
    let (ledger, id) = (h.ledger(), id("absent", 0));
    assert_eq!(phase(&ledger, id).await, Phase::Absent);
    assert_eq!(refused(&ledger, id, settle(Fence(1), answer(200, b""), Authority::Owner)).await, Refusal::Absent);
    assert_eq!(refused(&ledger, id, give_up(Fence(1))).await, Refusal::Absent);
    assert_eq!(apply(&ledger, id, Command::Lapse).await.reply, Reply::Unchanged);
    assert_eq!(phase(&h.other(), id).await, Phase::Absent);
}

/// A second claim is refused and shows the first, whichever gateway asks.
pub async fn a_claim_excludes_others(h: &mut impl Harness) {
    let id = id("exclude", 0);
    let first = done(&h.ledger(), id, claim(1, hold())).await.seen.record.expect("a record");
    let second = apply(&h.other(), id, claim(2, hold())).await;
    assert_eq!(second.reply, Reply::Refused(Refusal::Exists));
    assert_eq!(second.seen.record, Some(first.clone()));
    assert_eq!(second.seen.phase(), Phase::Open);
    assert_eq!(h.other().look_up(id).await.expect("the ledger works").record, Some(first));
}

/// Status, headers and body of a settled answer come back as they went in.
pub async fn a_settled_answer_comes_back_whole(h: &mut impl Harness) {
    let (ledger, id) = (h.ledger(), id("settled", 0));
    let fence = claimed(&ledger, id, hold()).await;
    let outcome = answer(201, br#"{"charged":10}"#);
    done(&ledger, id, settle(fence, outcome.clone(), Authority::Owner)).await;
    assert_eq!(phase(&ledger, id).await, Phase::Settled);
    let record = h.other().look_up(id).await.expect("the ledger works").record.expect("a record");
    let State::Settled { answer, .. } = &record.state else { panic!("not settled: {record:?}") };
    assert_eq!(Outcome::Settled(answer.clone()), outcome);
    assert_eq!((record.attempts, record.id, &*record.terms.scope), (1, id, "payments"));
    // A repeated settlement is harmless; a claim is refused.
    let again = apply(&ledger, id, settle(fence, outcome, Authority::Owner)).await;
    assert_eq!(again.reply, Reply::Unchanged);
    assert_eq!(refused(&ledger, id, claim(2, hold())).await, Refusal::Exists);
}

/// Bodies may hold any bytes and be as large as the default cap.
pub async fn a_large_binary_answer_comes_back_whole(h: &mut impl Harness) {
    let (ledger, id) = (h.ledger(), id("large", 0));
    let body: Vec<u8> = (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let fence = claimed(&ledger, id, hold()).await;
    done(&ledger, id, settle(fence, answer(200, &body), Authority::Owner)).await;
    let record = ledger.look_up(id).await.expect("the ledger works").record.expect("a record");
    let State::Settled { answer, .. } = record.state else { panic!("not settled") };
    assert!(answer.body == body, "the body came back changed");
}

/// An answer that is not kept leaves its status and digest.
pub async fn a_consumed_effect_keeps_its_tombstone(h: &mut impl Harness) {
    let (ledger, id) = (h.ledger(), id("consumed", 0));
    let fence = claimed(&ledger, id, hold()).await;
    let Outcome::Settled(stored) = answer(200, b"long") else { unreachable!() };
    let tombstone: Tombstone = stored.into_tombstone();
    done(&ledger, id, settle(fence, Outcome::Consumed(tombstone.clone()), Authority::Owner)).await;
    let record = ledger.look_up(id).await.expect("the ledger works").record.expect("a record");
    assert!(matches!(&record.state, State::Consumed { tombstone: t, .. } if *t == tombstone), "{record:?}");
    assert_eq!(refused(&ledger, id, claim(2, hold())).await, Refusal::Exists);
}

/// Release makes the key absent; the next claim's fence is greater, and the old one is dead.
pub async fn a_released_key_is_usable_under_a_greater_fence(h: &mut impl Harness) {
    let (ledger, id) = (h.ledger(), id("released", 0));
    let first = claimed(&ledger, id, hold()).await;
    done(&ledger, id, Command::Release { fence: first, by: Authority::Owner }).await;
    assert_eq!(phase(&h.other(), id).await, Phase::Absent);
    let second = claimed(&ledger, id, hold()).await;
    assert!(second > first, "{second} must be greater than {first}");
    assert_eq!(refused(&ledger, id, Command::Release { fence: first, by: Authority::Owner }).await, Refusal::Fenced);
    assert_eq!(phase(&ledger, id).await, Phase::Open);
}

/// Nobody knows, until the answer under the same claim arrives after all.
pub async fn a_late_answer_settles_an_unknown_effect(h: &mut impl Harness) {
    let (ledger, id) = (h.ledger(), id("late", 0));
    let fence = claimed(&ledger, id, hold()).await;
    done(&ledger, id, give_up(fence)).await;
    assert_eq!(phase(&h.other(), id).await, Phase::Unknown);
    assert_eq!(refused(&ledger, id, claim(2, hold())).await, Refusal::Exists);
    let taken_back = refused(&ledger, id, Command::Release { fence, by: Authority::Owner }).await;
    assert_eq!(taken_back, Refusal::NotFrom(Phase::Unknown));
    let settled = done(&ledger, id, settle(fence, answer(201, b"late"), Authority::Owner)).await;
    assert_eq!(settled.seen.phase(), Phase::Settled);
    assert_eq!(settled.seen.record.map(|r| r.attempts), Some(3));
}

/// An unknown effect is attempted again only where its terms say so, by the same request, while the upstream remembers.
pub async fn only_retry_reopens_and_only_in_time(h: &mut impl Harness) {
    let ledger = h.ledger();
    let reopen =
        |fence, body: &[u8]| Command::Reopen { fence, owner: Owner(2), lease: LEASE, fingerprint: fingerprint(body) };
    let held = id("reopen", 0);
    let fence = claimed(&ledger, held, hold()).await;
    assert_eq!(refused(&ledger, held, reopen(fence, b"10")).await, Refusal::NotFrom(Phase::Open));
    done(&ledger, held, give_up(fence)).await;
    assert_eq!(refused(&ledger, held, reopen(fence, b"10")).await, Refusal::NotRetryable);

    let retry = || terms(OnUnknown::Retry, HOUR_MS, 24 * HOUR_MS, HOUR_MS);
    let (soon, late) = (id("reopen", 1), id("reopen", 2));
    let fence = claimed(&ledger, soon, retry()).await;
    let late_fence = claimed(&ledger, late, retry()).await;
    done(&ledger, soon, give_up(fence)).await;
    done(&ledger, late, give_up(late_fence)).await;
    assert_eq!(refused(&ledger, soon, reopen(fence, b"11")).await, Refusal::OtherRequest);
    let reopened = done(&ledger, soon, reopen(fence, b"10")).await.seen.record.expect("a record");
    assert!(reopened.fence > fence && reopened.was_unknown);
    let taken_back = refused(&ledger, soon, Command::Release { fence: reopened.fence, by: Authority::Owner }).await;
    assert_eq!(taken_back, Refusal::WasUnknown, "what was unknown before is not released by its owner");

    h.advance(Duration::from_millis(HOUR_MS)).await;
    assert_eq!(refused(&ledger, late, reopen(late_fence, b"10")).await, Refusal::UpstreamForgot);
    assert_eq!(phase(&ledger, late).await, Phase::Unknown);
}

/// After a take-over the former claim's commands change nothing, and its settlement is on the audit log.
pub async fn a_fenced_owner_changes_nothing(h: &mut impl Harness) {
    let (ledger, id) = (h.ledger(), id("fenced", 0));
    let old = claimed(&ledger, id, terms(OnUnknown::Retry, HOUR_MS, HOUR_MS, HOUR_MS)).await;
    done(&ledger, id, give_up(old)).await;
    let reopen = Command::Reopen { fence: old, owner: Owner(2), lease: LEASE, fingerprint: fingerprint(b"10") };
    let new = done(&h.other(), id, reopen).await.seen.record.expect("a record");
    for command in [
        settle(old, answer(200, b"old"), Authority::Owner),
        Command::Release { fence: old, by: Authority::Owner },
        Command::Renew { fence: old, lease: LEASE },
        give_up(old),
    ] {
        assert_eq!(refused(&ledger, id, command).await, Refusal::Fenced);
    }
    assert_eq!(ledger.look_up(id).await.expect("the ledger works").record, Some(new));
    assert!(audit_of(&ledger, id).await.contains(&AuditKind::Fenced));
}

/// When a lease is over the effect is unknown to everybody, also to its owner.
pub async fn a_lapsed_lease_is_unknown(h: &mut impl Harness) {
    let (ledger, id) = (h.ledger(), id("lapsed", 0));
    let fence = claimed(&ledger, id, hold()).await;
    h.advance(LEASE).await;
    assert_eq!(phase(&h.other(), id).await, Phase::Lapsed);
    assert_eq!(refused(&ledger, id, Command::Renew { fence, lease: LEASE }).await, Refusal::NotFrom(Phase::Unknown));
    assert_eq!(phase(&h.other(), id).await, Phase::Unknown, "the refusal wrote down that it lapsed");
    let applied = apply(&h.other(), id, Command::Lapse).await;
    let record = applied.seen.record.expect("a record");
    assert!(matches!(record.state, State::Unknown { reason: UnknownReason::LeaseLapsed, .. }), "{record:?}");
    done(&ledger, id, settle(fence, answer(200, b"late"), Authority::Owner)).await;
}

/// A renewed lease is counted from the renewal.
pub async fn a_renewed_lease_holds(h: &mut impl Harness) {
    let (ledger, id) = (h.ledger(), id("renewed", 0));
    let fence = claimed(&ledger, id, hold()).await;
    h.advance(LEASE * 3 / 4).await;
    done(&ledger, id, Command::Renew { fence, lease: LEASE }).await;
    h.advance(LEASE * 3 / 4).await;
    assert_eq!(phase(&h.other(), id).await, Phase::Open);
}

/// A settled answer is replayed through its window, then refused by its marker, then forgotten; `forever` never ends.
pub async fn windows_end_in_a_marker_and_then_absence(h: &mut impl Harness) {
    let ledger = h.ledger();
    let (short, forever, waiting) = (id("window", 0), id("window", 1), id("window", 2));
    for (id, keep_ms) in [(short, HOUR_MS), (forever, FOREVER_MS)] {
        let fence = claimed(&ledger, id, terms(OnUnknown::Hold, 0, keep_ms, 2 * HOUR_MS)).await;
        done(&ledger, id, settle(fence, answer(200, b"ok"), Authority::Owner)).await;
    }
    let fence = claimed(&ledger, waiting, terms(OnUnknown::Hold, 0, HOUR_MS, HOUR_MS)).await;
    done(&ledger, waiting, give_up(fence)).await;
    h.advance(Duration::from_millis(HOUR_MS)).await;
    assert_eq!(phase(&ledger, short).await, Phase::Expired);
    assert_eq!(refused(&ledger, short, claim(2, hold())).await, Refusal::Exists);
    h.advance(Duration::from_millis(2 * HOUR_MS)).await;
    assert_eq!(phase(&ledger, short).await, Phase::Absent);
    assert_eq!(phase(&ledger, forever).await, Phase::Settled);
    assert_eq!(phase(&ledger, waiting).await, Phase::Unknown, "unknown never expires");
    claimed(&ledger, short, hold()).await;
}

/// Operators see what is open or unknown, page by page, and nothing else.
pub async fn live_lists_open_and_unknown_only(h: &mut impl Harness) {
    let ledger = h.ledger();
    let ids: Vec<_> = (0..6).map(|n| id("live", n)).collect();
    for (n, id) in ids.iter().enumerate() {
        let fence = claimed(&ledger, *id, hold()).await;
        match n {
            4 => drop(done(&ledger, *id, settle(fence, answer(200, b""), Authority::Owner)).await),
            5 => drop(done(&ledger, *id, Command::Release { fence, by: Authority::Owner }).await),
            _ if n % 2 == 0 => drop(done(&ledger, *id, give_up(fence)).await),
            _ => {}
        }
    }
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let page = h.other().live(after, 2).await.expect("the ledger works");
        assert!(page.len() <= 2);
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        seen.extend(page.iter().map(|r| r.id).filter(|id| ids.contains(id)));
    }
    assert_eq!(seen, ids[..4]);
}

async fn audit_of(ledger: &Arc<dyn Ledger>, id: EffectId) -> Vec<AuditKind> {
    let (mut after, mut kinds) = (0, Vec::new());
    loop {
        let page = ledger.audit_log(after, 100).await.expect("the ledger works");
        let Some((last, _)) = page.last() else { return kinds };
        assert!(*last > after, "audit numbers ascend");
        after = *last;
        kinds.extend(page.iter().filter(|(_, e)| e.id == Some(id)).map(|(_, e)| e.kind));
    }
}

/// Operators, probes and contradicting settlements leave an audit line; an owner's plain work does not.
pub async fn what_others_do_is_audited(h: &mut impl Harness) {
    let ledger = h.ledger();
    let (settled, released, plain) = (id("audit", 0), id("audit", 1), id("audit", 2));
    let fence = claimed(&ledger, settled, hold()).await;
    let early = refused(&ledger, settled, settle(fence, answer(200, b"a"), operator())).await;
    assert_eq!(early, Refusal::NotFrom(Phase::Open), "an operator waits until the owner does not know");
    done(&ledger, settled, give_up(fence)).await;
    done(&ledger, settled, settle(fence, answer(200, b"a"), operator())).await;
    let second = refused(&ledger, settled, settle(fence, answer(201, b"b"), Authority::Owner)).await;
    assert_eq!(second, Refusal::NotFrom(Phase::Settled));
    assert_eq!(audit_of(&h.other(), settled).await, [AuditKind::Settled, AuditKind::Contradicted]);

    let fence = claimed(&ledger, released, hold()).await;
    done(&ledger, released, give_up(fence)).await;
    done(&ledger, released, Command::Release { fence, by: Authority::Probe }).await;
    assert_eq!(audit_of(&ledger, released).await, [AuditKind::Released]);
    let late = refused(&ledger, released, settle(fence, answer(200, b""), Authority::Upstream)).await;
    assert_eq!(late, Refusal::Absent, "it stays released, and somebody is told that it had happened");
    assert_eq!(audit_of(&h.other(), released).await, [AuditKind::Released, AuditKind::Contradicted]);

    let fence = claimed(&ledger, plain, hold()).await;
    done(&ledger, plain, settle(fence, answer(200, b""), Authority::Owner)).await;
    assert_eq!(audit_of(&ledger, plain).await, []);
}

/// A scope that means something else is refused as a whole unless an operator migrates it.
pub async fn contracts_are_compared(h: &mut impl Harness) {
    let ledger = h.ledger();
    let contract = |scope: &str, terms: &[u8]| Contract { scope: scope.into(), terms: terms.into() };
    let agree = async |contracts, migrate| ledger.agree(contracts, migrate).await.expect("the ledger works");
    assert_eq!(agree(vec![contract("c1", b"one"), contract("c2", b"two")], None).await, []);
    assert_eq!(agree(vec![contract("c1", b"one")], None).await, [], "a scope may be left out");
    let differences = agree(vec![contract("c3", b"new"), contract("c2", b"other")], None).await;
    assert_eq!(differences.len(), 1);
    assert_eq!(
        (&*differences[0].scope, &*differences[0].held, &*differences[0].asked),
        ("c2", &b"two"[..], &b"other"[..])
    );
    assert_eq!(agree(vec![contract("c3", b"else")], None).await, [], "a refused agreement keeps nothing");
    assert_eq!(agree(vec![contract("c2", b"other")], Some(operator())).await.len(), 1);
    assert_eq!(h.other().agree(vec![contract("c2", b"other")], None).await.expect("the ledger works"), []);
    let lines = ledger.audit_log(0, 10_000).await.expect("the ledger works");
    assert!(lines.iter().any(|(_, e)| e.kind == AuditKind::Migrated && e.detail.contains("c2")));
}

/// Of many claims at once, from both gateways, exactly one is applied and all see the same record.
pub async fn one_of_many_racing_claims_wins(h: &mut impl Harness) {
    for round in 0..8 {
        let id = id("race", round);
        let tasks: Vec<_> = (0..64)
            .map(|n| {
                let ledger = if n % 2 == 0 { h.ledger() } else { h.other() };
                tokio::spawn(async move { apply(&ledger, id, claim(n, hold())).await })
            })
            .collect();
        let (mut winners, mut fences) = (0, Vec::new());
        for task in tasks {
            let applied = task.await.expect("no task panics");
            winners += usize::from(applied.reply == Reply::Applied);
            fences.push(applied.seen.record.expect("a record").fence);
        }
        assert_eq!(winners, 1);
        assert!(fences.iter().all(|f| *f == fences[0]), "all see the winner's claim: {fences:?}");
    }
}

/// Of settlements at once, the first stands for ever and the others are told.
pub async fn one_of_racing_settlements_stands(h: &mut impl Harness) {
    let (ledger, id) = (h.ledger(), id("settle-race", 0));
    let fence = claimed(&ledger, id, hold()).await;
    let tasks: Vec<_> = (0..32_u8)
        .map(|n| {
            let ledger = if n % 2 == 0 { h.ledger() } else { h.other() };
            tokio::spawn(async move { apply(&ledger, id, settle(fence, answer(200, &[n]), Authority::Upstream)).await })
        })
        .collect();
    let mut stands = Vec::new();
    let mut winners = 0;
    for task in tasks {
        let applied = task.await.expect("no task panics");
        winners += usize::from(applied.reply == Reply::Applied);
        stands.push(applied.seen.record.expect("a record").state);
    }
    assert_eq!(winners, 1);
    assert!(stands.iter().all(|s| *s == stands[0]));
}

/// A duplicate that waits gets the answer when it is there, from whichever gateway it asks.
pub async fn a_waiter_is_woken_by_the_settlement(h: &mut impl Harness) {
    let (ledger, id) = (h.ledger(), id("woken", 0));
    let fence = claimed(&ledger, id, hold()).await;
    let waiters: Vec<_> = (0..8)
        .map(|n| {
            let ledger = if n % 2 == 0 { h.ledger() } else { h.other() };
            tokio::spawn(async move { ledger.await_conclusion(id, Duration::from_secs(20), 64).await })
        })
        .collect();
    tokio::task::yield_now().await;
    done(&ledger, id, settle(fence, answer(200, b"ok"), Authority::Owner)).await;
    for waiter in waiters {
        let seen = waiter.await.expect("no task panics").expect("the ledger works");
        assert_eq!(seen.phase(), Phase::Settled);
    }
}

/// Too many waiters are refused, and one whose time is over sees that it is still open.
pub async fn waiters_are_bounded_and_patient_within_reason(h: &mut impl Harness) {
    let (ledger, id) = (h.ledger(), id("bounded", 0));
    claimed(&ledger, id, hold()).await;
    assert_eq!(ledger.await_conclusion(id, LEASE, 0).await.err(), Some(LedgerError::TooManyWaiters));
    let seen = ledger.await_conclusion(id, Duration::from_millis(20), 1).await.expect("the ledger works");
    assert_eq!(seen.phase(), Phase::Open);
    assert!(ledger.await_conclusion(id, Duration::from_millis(1), 1).await.is_ok(), "the place was given back");
}

/// Everything that was acknowledged is there after a crash, and an open effect ends as unknown.
pub async fn what_was_acknowledged_survives_a_crash(h: &mut impl Harness) {
    let ledger = h.ledger();
    let (settled, open, unknown, released) = (id("crash", 0), id("crash", 1), id("crash", 2), id("crash", 3));
    let fence = claimed(&ledger, settled, hold()).await;
    done(&ledger, settled, settle(fence, answer(201, b"kept"), Authority::Owner)).await;
    claimed(&ledger, open, hold()).await;
    let fence = claimed(&ledger, unknown, hold()).await;
    done(&ledger, unknown, give_up(fence)).await;
    let fence = claimed(&ledger, released, hold()).await;
    done(&ledger, released, Command::Release { fence, by: Authority::Owner }).await;
    let before = ledger.look_up(settled).await.expect("the ledger works").record;
    let secret_makes = ledger.secret().upstream_key(settled).as_str().to_owned();
    drop(ledger);

    if !h.crash().await {
        return;
    }
    let ledger = h.ledger();
    assert_eq!(ledger.look_up(settled).await.expect("the ledger works").record, before);
    assert_eq!(phase(&ledger, unknown).await, Phase::Unknown);
    assert_eq!(phase(&ledger, released).await, Phase::Absent);
    assert_eq!(ledger.secret().upstream_key(settled).as_str(), secret_makes, "the look-up secret never changes");
    h.advance(LEASE).await;
    assert!(matches!(phase(&ledger, open).await, Phase::Unknown | Phase::Lapsed));
    assert_eq!(apply(&ledger, open, claim(9, hold())).await.reply, Reply::Refused(Refusal::Exists));
    assert_eq!(phase(&ledger, open).await, Phase::Unknown);
    let fence = claimed(&ledger, released, hold()).await;
    assert!(before.is_some_and(|r| r.fence < fence), "fences go on ascending");
}
