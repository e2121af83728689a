//! The model ledger, with failures on demand, and effects in every state.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use semel_core::{
    answer::{HeaderAllowList, StoredAnswer},
    effect::{
        AuditEvent, Authority, Claim, Command, FOREVER_MS, Fence, OnUnknown, Outcome, Owner, Record, Reply, State,
        Terms, UnknownReason,
    },
    fingerprint::{Fingerprint, FingerprintInput},
    scope::{EffectId, LookupSecret, Principal},
    time::Timestamp,
};
use semel_ledger::{
    Applied, Contract, Difference, Health, Ledger, LedgerError, LedgerFuture, ManualClock, Seen, model::ModelLedger,
};

pub(crate) const LEASE: Duration = Duration::from_secs(30);

pub(crate) struct TestLedger {
    model: ModelLedger,
    pub(crate) failing: Mutex<Option<LedgerError>>,
    pub(crate) health: Mutex<Health>,
}

impl TestLedger {
    pub(crate) fn new(clock: &ManualClock) -> Self {
        let model = ModelLedger::with(Arc::new(clock.clone()), [7; LookupSecret::BYTES]);
        Self { model, failing: Mutex::default(), health: Mutex::new(Health::Ready) }
    }

    pub(crate) fn fail(&self, error: Option<LedgerError>) {
        *self.failing.lock().unwrap() = error;
    }

    async fn must(&self, id: EffectId, command: Command) -> Record {
        let applied = self.model.apply(id, command).await.unwrap();
        assert_eq!(applied.reply, Reply::Applied);
        applied.seen.record.unwrap()
    }

    /// An effect that is being executed, with the given number in its id.
    pub(crate) async fn open(&self, number: u8) -> Record {
        self.open_in(number, "payments", OnUnknown::Hold).await
    }

    pub(crate) async fn open_in(&self, number: u8, scope: &str, on_unknown: OnUnknown) -> Record {
        self.claim(id(number), scope, on_unknown).await
    }

    /// More open effects than anything looks at in one go, with ids between those of 0 and 1.
    pub(crate) async fn open_many(&self, count: u32) {
        for n in 1..=count {
            let mut bytes = [0; 16];
            bytes[1..5].copy_from_slice(&n.to_be_bytes());
            self.claim(EffectId::from_bytes(bytes), "payments", OnUnknown::Hold).await;
        }
    }

    async fn claim(&self, id: EffectId, scope: &str, on_unknown: OnUnknown) -> Record {
        let terms = Terms {
            scope: scope.into(),
            upstream: "payments".into(),
            on_unknown,
            upstream_keep_ms: 86_400_000,
            keep_ms: if id.as_bytes()[0] == 255 { FOREVER_MS } else { 86_400_000 },
            marker_ms: 7 * 86_400_000,
        };
        let claim = Claim {
            owner: Owner(1),
            lease: LEASE,
            fingerprint: fingerprint(),
            proof: Principal::anyone().proof(),
            terms: Arc::new(terms),
        };
        self.must(id, Command::Claim(claim)).await
    }

    pub(crate) async fn unknown(&self, number: u8) -> Record {
        let record = self.open(number).await;
        self.give_up(&record).await
    }

    pub(crate) async fn give_up(&self, record: &Record) -> Record {
        let reason = UnknownReason::Timeout;
        self.must(record.id, Command::GiveUp { fence: record.fence, reason, attempts: 2 }).await
    }

    /// Another claim on an unknown effect, under `retry`.
    pub(crate) async fn reopen(&self, record: &Record) -> Record {
        let fence = record.fence;
        let command = Command::Reopen { fence, owner: Owner(2), lease: LEASE, fingerprint: fingerprint() };
        self.must(record.id, command).await
    }

    pub(crate) async fn settled(&self, number: u8, body: &'static [u8]) -> Record {
        let Record { id, fence, .. } = self.open(number).await;
        let mut headers = http::HeaderMap::new();
        headers.insert("location", "/charges/7".parse().unwrap());
        let headers = HeaderAllowList::default().filter(&headers);
        let answer = StoredAnswer { status: http::StatusCode::CREATED, headers, body: body.into() };
        let outcome = Outcome::Settled(answer);
        self.must(id, Command::Settle { fence, outcome, by: Authority::Owner, attempts: 1 }).await
    }

    pub(crate) async fn state(&self, id: EffectId) -> Option<State> {
        self.model.look_up(id).await.unwrap().record.map(|record| record.state)
    }

    pub(crate) async fn audit(&self) -> Vec<AuditEvent> {
        self.model.audit_log(0, 1000).await.unwrap().into_iter().map(|(_, event)| event).collect()
    }

    fn failure(&self) -> Result<(), LedgerError> {
        self.failing.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

pub(crate) fn id(number: u8) -> EffectId {
    let mut bytes = [0; 16];
    bytes[0] = number;
    EffectId::from_bytes(bytes)
}

pub(crate) const STALE: Fence = Fence(1_000_000);

fn fingerprint() -> Fingerprint {
    let headers = http::HeaderMap::new();
    let method = http::Method::POST;
    Fingerprint::of(&FingerprintInput { method: &method, path: "/pay", query: None, headers: &headers, body: b"{}" })
}

impl Ledger for TestLedger {
    fn look_up(&self, id: EffectId) -> LedgerFuture<'_, Seen> {
        Box::pin(async move {
            self.failure()?;
            self.model.look_up(id).await
        })
    }

    fn apply(&self, id: EffectId, command: Command) -> LedgerFuture<'_, Applied> {
        Box::pin(async move {
            self.failure()?;
            self.model.apply(id, command).await
        })
    }

    fn await_conclusion(&self, id: EffectId, within: Duration, max_waiters: usize) -> LedgerFuture<'_, Seen> {
        self.model.await_conclusion(id, within, max_waiters)
    }

    fn live(&self, after: Option<EffectId>, limit: usize) -> LedgerFuture<'_, Vec<Record>> {
        Box::pin(async move {
            self.failure()?;
            self.model.live(after, limit).await
        })
    }

    fn audit_log(&self, after: u64, limit: usize) -> LedgerFuture<'_, Vec<(u64, AuditEvent)>> {
        Box::pin(async move {
            self.failure()?;
            self.model.audit_log(after, limit).await
        })
    }

    fn secret(&self) -> LookupSecret {
        self.model.secret()
    }

    fn agree(&self, contracts: Vec<Contract>, migrate: Option<Authority>) -> LedgerFuture<'_, Vec<Difference>> {
        self.model.agree(contracts, migrate)
    }

    fn health(&self) -> Health {
        self.health.lock().unwrap().clone()
    }

    fn now(&self) -> Timestamp {
        self.model.now()
    }
}
