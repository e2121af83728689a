//! The [`Ledger`] over the stream.

use std::sync::Arc;
use std::time::Duration;

use semel_core::effect::{AuditEvent, Authority, Command, Record};
use semel_core::scope::{EffectId, LookupSecret};
use semel_core::time::Timestamp;
use semel_ledger::{Applied, Contract, Difference, Health, Ledger, LedgerError, LedgerFuture, Seen, codec};
use tokio::task::JoinSet;

use crate::clock::TimeShift;
use crate::decide::record_of;
use crate::link::Link;
use crate::live::Live;
use crate::shared::{ANSWER_WITHIN, Names, Shared};
use crate::watch::Watches;
use crate::{Error, Options, keeper, read, stream};

/// How often the store's clock is measured at the start, to find a quick answer.
const MEASUREMENTS: usize = 3;

/// A ledger in a JetStream stream that any number of gateways share.
pub struct NatsLedger {
    shared: Arc<Shared>,
    secret: LookupSecret,
    watches: Watches,
    live: Live,
    /// Aborted when the ledger is dropped.
    _tasks: JoinSet<()>,
}

impl NatsLedger {
    /// Opens the ledger. Its tasks run on the tokio runtime of the caller until it is dropped.
    ///
    /// # Errors
    /// When no server can be reached, when the stream is missing or of another version, or when the servers may lose
    /// what they acknowledge.
    pub async fn open(options: &Options) -> Result<Self, Error> {
        Self::open_shifted(options, TimeShift::default()).await
    }

    /// As [`NatsLedger::open`], with the store's clock moved by a test.
    ///
    /// # Errors
    /// See [`NatsLedger::open`].
    pub async fn open_shifted(options: &Options, shift: TimeShift) -> Result<Self, Error> {
        let names = Names::new(&options.stream)?;
        let link = Link::connect(options).await?;
        for weakness in stream::check_settings(&link, &names, options).await? {
            tracing::warn!("NATS: {weakness}");
        }
        let secret = stream::open(&link, &names).await?;
        let shared = Arc::new(Shared::new(options, link, names, shift));
        for _ in 0..MEASUREMENTS {
            keeper::measure(&shared, ANSWER_WITHIN).await?;
        }
        let mut tasks = JoinSet::new();
        tasks.spawn(keeper::keep(Arc::clone(&shared)));
        Ok(Self { shared, secret, watches: Watches::default(), live: Live::default(), _tasks: tasks })
    }

    async fn look(&self, id: EffectId) -> Result<Seen, LedgerError> {
        let _room = self.shared.room().await?;
        let until = self.shared.clock.local().plus(self.shared.patience);
        let entry = self.shared.look(id, until).await?;
        let now = self.shared.clock.now();
        let record = entry.as_ref().and_then(record_of).filter(|record| record.compacted(now).is_some());
        Ok(Seen { record: record.cloned(), now })
    }

    async fn wait(&self, id: EffectId, within: Duration, max_waiters: usize) -> Result<Seen, LedgerError> {
        let _watch = self.watches.watch(&self.shared, id).await;
        let look = || Box::pin(self.look(id)) as LedgerFuture<'_, Seen>;
        self.shared.waiters.wait(look, id, within, max_waiters).await
    }

    async fn list_audit(&self, after: u64, limit: usize) -> Result<Vec<(u64, AuditEvent)>, LedgerError> {
        let Shared { link, names, .. } = &*self.shared;
        let (mut lines, mut after) = (Vec::new(), after);
        while lines.len() < limit {
            let next = read::next(link, names, &names.audits(), after.saturating_add(1)).await;
            let Some(message) = next.map_err(|failed| LedgerError::Unreachable(failed.words()))? else { break };
            after = message.seq;
            let line = codec::decode_audit(&message.data);
            let line = line.map_err(|what| LedgerError::Unreachable(format!("audit line {after}: {what}")))?;
            lines.push((after, line));
        }
        Ok(lines)
    }
}

impl Ledger for NatsLedger {
    fn look_up(&self, id: EffectId) -> LedgerFuture<'_, Seen> {
        Box::pin(self.look(id))
    }

    fn apply(&self, id: EffectId, command: Command) -> LedgerFuture<'_, Applied> {
        Box::pin(Arc::clone(&self.shared).carry_out(id, command))
    }

    fn await_conclusion(&self, id: EffectId, within: Duration, max_waiters: usize) -> LedgerFuture<'_, Seen> {
        Box::pin(self.wait(id, within, max_waiters))
    }

    fn live(&self, after: Option<EffectId>, limit: usize) -> LedgerFuture<'_, Vec<Record>> {
        Box::pin(self.live.list(&self.shared, after, limit))
    }

    fn audit_log(&self, after: u64, limit: usize) -> LedgerFuture<'_, Vec<(u64, AuditEvent)>> {
        Box::pin(self.list_audit(after, limit))
    }

    fn secret(&self) -> LookupSecret {
        self.secret.clone()
    }

    fn agree(&self, contracts: Vec<Contract>, migrate: Option<Authority>) -> LedgerFuture<'_, Vec<Difference>> {
        Box::pin(async move { self.shared.agree(&contracts, migrate.as_ref()).await })
    }

    fn health(&self) -> Health {
        self.shared.health()
    }

    fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }
}
