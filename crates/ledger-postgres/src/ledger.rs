//! The [`Ledger`] over the database.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use semel_core::effect::{AuditEvent, AuditKind, Authority, Command, Fence, Record};
use semel_core::scope::{EffectId, LookupSecret};
use semel_core::time::Timestamp;
use semel_ledger::{
    Applied, Clock, Contract, Difference, Health, Ledger, LedgerError, LedgerFuture, Seen, SystemClock, codec,
};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use crate::client::audit_line;
use crate::command::Apply;
use crate::error::in_words;
use crate::link::Connector;
use crate::row::Stored;
use crate::shared::{Look, Shared};
use crate::sql::{Id, bigint, timestamp};
use crate::{Error, Options, keeper, lane, listener, schema};

/// A ledger in a PostgreSQL database that any number of gateways share.
pub struct PostgresLedger {
    shared: Arc<Shared>,
    secret: LookupSecret,
    _thread: OwnThread,
}

impl PostgresLedger {
    /// Opens the ledger. Its connections are served by a thread of its own until it is dropped.
    ///
    /// # Errors
    /// When no server takes writes, when the schema is missing or of another version, or when the server may lose what
    /// it acknowledges.
    pub async fn open(options: &Options) -> Result<Self, Error> {
        Self::open_with_clock(options, Arc::new(SystemClock::start())).await
    }

    /// As [`PostgresLedger::open`], with another clock for this process. It decides nothing but how long this process
    /// waits, and must agree with the server's to an hour before anything that has expired is dropped.
    ///
    /// # Errors
    /// See [`PostgresLedger::open`].
    pub async fn open_with_clock(options: &Options, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let thread = OwnThread::start()?;
        let options = options.clone();
        let (shared, secret) = thread.spawn(async move { start(&options, clock).await }).await??;
        Ok(Self { shared, secret, _thread: thread })
    }

    /// Drops what has expired, now rather than at the next interval. Returns how many partitions were dropped.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn sweep(&self) -> Result<u32, Error> {
        keeper::sweep(&self.shared).await
    }

    async fn room(&self, room: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, LedgerError> {
        if let Some(down) = self.shared.long_down() {
            return Err(down);
        }
        let busy = || LedgerError::Unreachable("too many calls wait for it".to_owned());
        if let Ok(permit) = Arc::clone(room).try_acquire_owned() {
            return Ok(permit);
        }
        let permit = tokio::time::timeout(self.shared.patience, Arc::clone(room).acquire_owned()).await;
        permit.map_err(|_| busy())?.map_err(|_| busy())
    }

    async fn look(&self, id: EffectId, watch: bool) -> Result<Seen, LedgerError> {
        let room = self.room(&self.shared.room_to_look).await?;
        let (reply, answer) = oneshot::channel();
        self.shared.looks.push(Look { id, watch, since: self.shared.clock.now(), reply, room });
        answer.await.unwrap_or_else(|_| Err(LedgerError::Unreachable("the ledger was closed".to_owned())))
    }

    async fn carry_out(&self, id: EffectId, command: Command) -> Result<Applied, LedgerError> {
        let room = self.room(&self.shared.room_to_write).await?;
        let token = getrandom::u64().map_err(|error| LedgerError::Unreachable(error.to_string()))?;
        let (reply, answer) = oneshot::channel();
        self.shared.writes.push(Apply::new(id, command, token.cast_signed(), self.shared.clock.now(), reply, room));
        answer.await.unwrap_or_else(|_| Err(LedgerError::Uncertain("the ledger was closed".to_owned())))
    }

    /// Asks on the connection that reads; harmless when repeated.
    async fn ask(&self, statement: &str, parameters: &Parameters<'_>) -> Result<Vec<Row>, LedgerError> {
        let mut repeated = false;
        loop {
            let client = self.shared.client().await?;
            match client.query_typed(statement, parameters).await {
                // The reader was lost and is about to be replaced.
                Err(error) if error.is_closed() && !repeated => repeated = true,
                answer => return answer.map_err(|error| unreachable(&error)),
            }
        }
    }

    async fn list_live(&self, after: Option<EffectId>, limit: usize) -> Result<Vec<Record>, LedgerError> {
        let (after, limit) = (after.map(Id), i64::try_from(limit).unwrap_or(i64::MAX));
        let statement = &self.shared.connector.statements.live;
        let rows = self.ask(statement, &[(&after, Type::UUID), (&limit, Type::INT8)]).await?;
        let found: Result<Vec<Stored>, _> = rows.iter().map(Stored::read).collect();
        found.map_err(|error| unreachable(&error))?.into_iter().filter_map(|stored| stored.record).collect()
    }

    async fn list_audit(&self, after: u64, limit: usize) -> Result<Vec<(u64, AuditEvent)>, LedgerError> {
        let (after, limit) = (bigint(after), i64::try_from(limit).unwrap_or(i64::MAX));
        let statement = &self.shared.connector.statements.audit;
        let rows = self.ask(statement, &[(&after, Type::INT8), (&limit, Type::INT8)]).await?;
        rows.iter().map(|row| audit_line(row).map_err(LedgerError::Unreachable)).collect()
    }

    async fn compare_and_keep(
        &self,
        asked: &[Contract],
        migrate: Option<&Authority>,
    ) -> Result<Vec<Difference>, LedgerError> {
        loop {
            let (now, held) = self.held_contracts().await?;
            let differences: Vec<Difference> = asked.iter().filter_map(|asked| differs(asked, &held)).collect();
            let is_known = |asked: &Contract| held.get(&asked.scope).is_some_and(|terms| *terms == asked.terms);
            if (migrate.is_none() && !differences.is_empty()) || asked.iter().all(is_known) {
                return Ok(differences);
            }
            let scopes: Vec<&str> = asked.iter().map(|contract| &*contract.scope).collect();
            let held: Vec<Option<&Vec<u8>>> = asked.iter().map(|contract| held.get(&contract.scope)).collect();
            let terms: Vec<&Vec<u8>> = asked.iter().map(|contract| &contract.terms).collect();
            let line = |difference: &Difference, by: &Authority| {
                let (kind, detail) = (AuditKind::Migrated, difference.scope.clone());
                codec::encode_audit(&AuditEvent { at: now, id: None, fence: Fence(0), kind, by: by.clone(), detail })
            };
            let audits: Vec<Vec<u8>> =
                differences.iter().filter_map(|difference| migrate.map(|by| line(difference, by))).collect();
            let parameters: &Parameters<'_> = &[
                (&scopes, Type::TEXT_ARRAY),
                (&held, Type::BYTEA_ARRAY),
                (&terms, Type::BYTEA_ARRAY),
                (&audits, Type::BYTEA_ARRAY),
            ];
            // Repeated after a lost answer it changes nothing: what is held is no longer what was compared.
            let rows = self.ask(&self.shared.connector.statements.agree, parameters).await?;
            let kept = rows.first().map_or(Ok(false), |row| row.try_get(0));
            if kept.map_err(|error| unreachable(&error))? {
                return Ok(differences);
            }
        }
    }

    async fn held_contracts(&self) -> Result<(Timestamp, Held), LedgerError> {
        let rows = self.ask(&self.shared.connector.statements.contracts, &[]).await?;
        held(&rows).map_err(|error| unreachable(&error))
    }
}

/// The scopes that the ledger remembers, and their terms.
pub(crate) type Held = BTreeMap<Box<str>, Vec<u8>>;

type Parameters<'a> = [(&'a (dyn ToSql + Sync), Type)];

/// The store's clock, and the contracts of a list of rows.
pub(crate) fn held(rows: &[Row]) -> Result<(Timestamp, Held), tokio_postgres::Error> {
    let (mut now, mut held) = (Timestamp::EPOCH, BTreeMap::new());
    for row in rows {
        now = timestamp(row.try_get(0)?);
        if let (Some(scope), Some(terms)) = (row.try_get::<_, Option<Box<str>>>(1)?, row.try_get(2)?) {
            held.insert(scope, terms);
        }
    }
    Ok((now, held))
}

fn differs(asked: &Contract, held: &Held) -> Option<Difference> {
    let held = held.get(&asked.scope).filter(|terms| **terms != asked.terms)?;
    Some(Difference { scope: asked.scope.clone(), held: held.clone(), asked: asked.terms.clone() })
}

/// Opens the ledger and starts its tasks on the runtime at hand.
async fn start(options: &Options, clock: Arc<dyn Clock>) -> Result<(Arc<Shared>, LookupSecret), Error> {
    let connector = Connector::new(options)?;
    let link = connector.connect().await?;
    for weakness in schema::check_settings(&link.client).await? {
        tracing::warn!("the database: {weakness}");
    }
    let secret = secret(&link.client, &connector.schema).await?;
    let shared = Arc::new(Shared::new(options, connector, clock));
    shared.heard_time(link.opened);
    for n in 0..options.connections.max(1) {
        tokio::spawn(lane::write(Arc::clone(&shared), n == 0));
    }
    tokio::spawn(lane::read(Arc::clone(&shared)));
    tokio::spawn(listener::listen(Arc::clone(&shared)));
    tokio::spawn(keeper::keep(Arc::clone(&shared)));
    Ok((shared, secret))
}

/// A runtime of one thread, which serves callers on any other. Its tasks end when it is dropped, wherever that is.
struct OwnThread(Option<Runtime>);

impl OwnThread {
    fn start() -> Result<Self, Error> {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).thread_name("semel-ledger").enable_all().build();
        runtime
            .map(|runtime| Self(Some(runtime)))
            .map_err(|e| Error::Options(format!("a thread cannot be started: {e}")))
    }

    async fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T, Error> {
        let Some(runtime) = &self.0 else { return Err(Error::Options("the ledger is closed".to_owned())) };
        runtime.spawn(work).await.map_err(|error| Error::Options(error.to_string()))
    }
}

impl Drop for OwnThread {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

async fn secret(client: &Client, schema: &str) -> Result<LookupSecret, Error> {
    let row = client.query_typed_one(&format!("SELECT secret FROM \"{schema}\".meta"), &[]).await;
    let row = row.map_err(|e| Error::of(&e))?;
    let bytes: &[u8] = row.try_get(0).map_err(|e| Error::of(&e))?;
    LookupSecret::from_slice(bytes).map_err(|error| Error::Refused(error.to_string()))
}

fn unreachable(error: &tokio_postgres::Error) -> LedgerError {
    LedgerError::Unreachable(in_words(error))
}

impl Ledger for PostgresLedger {
    fn look_up(&self, id: EffectId) -> LedgerFuture<'_, Seen> {
        Box::pin(self.look(id, false))
    }

    fn apply(&self, id: EffectId, command: Command) -> LedgerFuture<'_, Applied> {
        Box::pin(self.carry_out(id, command))
    }

    fn await_conclusion(&self, id: EffectId, within: Duration, max_waiters: usize) -> LedgerFuture<'_, Seen> {
        let look = move || Box::pin(self.look(id, true)) as LedgerFuture<'_, Seen>;
        Box::pin(self.shared.waiters.wait(look, id, within, max_waiters))
    }

    fn live(&self, after: Option<EffectId>, limit: usize) -> LedgerFuture<'_, Vec<Record>> {
        Box::pin(self.list_live(after, limit))
    }

    fn audit_log(&self, after: u64, limit: usize) -> LedgerFuture<'_, Vec<(u64, AuditEvent)>> {
        Box::pin(self.list_audit(after, limit))
    }

    fn secret(&self) -> LookupSecret {
        self.secret.clone()
    }

    fn agree(&self, contracts: Vec<Contract>, migrate: Option<Authority>) -> LedgerFuture<'_, Vec<Difference>> {
        Box::pin(async move { self.compare_and_keep(&contracts, migrate.as_ref()).await })
    }

    fn health(&self) -> Health {
        self.shared.health()
    }

    fn now(&self) -> Timestamp {
        self.shared.now()
    }
}
