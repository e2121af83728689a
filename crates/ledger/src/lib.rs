//! The ledger: where effects are claimed and settled, durably, by compare-and-set.
//!
//! [`Ledger`] is the seam between everything that makes effects happen and the engine that remembers them. An engine
//! loads a record, asks [`semel_core::effect::step`] what a command does to it, and writes the answer only if the
//! record is still the one it loaded. It adds three promises of its own:
//!
//! - **durable before it answers**: when [`Ledger::apply`] returns `Ok`, the write survives any crash of any process
//!   and, for a replicated engine, of the nodes it says it survives;
//! - **one clock**: leases and windows are judged by the store's clock, whoever asks;
//! - **honest doubt**: a write that may or may not have happened is [`LedgerError::Uncertain`], a record that cannot
//!   be read back whole is [`LedgerError::Damaged`]; neither is ever reported as absence.
//!
//! [`model::ModelLedger`] is the in-memory model; `conformance` (a feature) is the suite that every engine calls.

mod clock;
pub mod codec;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
pub mod failpoint;
pub mod model;
mod waiters;

use std::{future::Future, pin::Pin, time::Duration};

use semel_core::{
    effect::{AuditEvent, Authority, Command, Phase, Record, Reply},
    scope::{EffectId, LookupSecret},
    time::Timestamp,
};

pub use clock::{Clock, ManualClock, SystemClock};
pub use error::{LedgerError, Written};
pub use waiters::Waiters;

/// What a ledger call returns: boxed, so that a gateway chooses its engine at start and stays one type.
pub type LedgerFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, LedgerError>> + Send + 'a>>;

/// A store of effects. See the [crate] for what an engine promises.
///
/// Dropping a returned future does not take the command back: it may or may not be carried out, exactly as with
/// [`LedgerError::Uncertain`].
pub trait Ledger: Send + Sync + 'static {
    /// What stands under `id` now. Reads only what is durable.
    fn look_up(&self, id: EffectId) -> LedgerFuture<'_, Seen>;

    /// Carries `command` out on `id` as one compare-and-set, together with its audit line.
    ///
    /// Concurrent calls share round trips and flushes as the engine can.
    fn apply(&self, id: EffectId, command: Command) -> LedgerFuture<'_, Applied>;

    /// Waits until `id` is no longer open (settled, consumed, unknown, released or lapsed), at most `within`, and
    /// returns what stands then: still open means that the time was over.
    ///
    /// At most `max_waiters` callers of this process wait for one id; one more gets
    /// [`LedgerError::TooManyWaiters`].
    fn await_conclusion(&self, id: EffectId, within: Duration, max_waiters: usize) -> LedgerFuture<'_, Seen>;

    /// Open and unknown effects in the order of their ids, from the first after `after`, at most `limit`.
    fn live(&self, after: Option<EffectId>, limit: usize) -> LedgerFuture<'_, Vec<Record>>;

    /// Audit lines with a number greater than `after`, ascending, at most `limit`.
    fn audit_log(&self, after: u64, limit: usize) -> LedgerFuture<'_, Vec<(u64, AuditEvent)>>;

    /// The secret that turns scopes into ids. It is made with the ledger and never rotates.
    fn secret(&self) -> LookupSecret;

    /// Compares the scopes' contracts with those the ledger was used with, and keeps the new ones.
    ///
    /// A scope never seen is added. One that differs is replaced, and the change audited, only with `migrate`;
    /// without it nothing at all is kept and the differences are returned.
    fn agree(&self, contracts: Vec<Contract>, migrate: Option<Authority>) -> LedgerFuture<'_, Vec<Difference>>;

    /// Whether the engine can take claims and settlements now.
    fn health(&self) -> Health;

    /// The store's clock as this process knows it, for display and `Retry-After`; decisions are the store's.
    fn now(&self) -> Timestamp;
}

/// What stands under an id, and when that was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The record; none when the key is absent.
    pub record: Option<Record>,
    /// The store's clock at that moment.
    pub now: Timestamp,
}

impl Seen {
    /// What the record means at that moment.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.record.as_ref().map_or(Phase::Absent, |r| r.phase(self.now))
    }
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Whether it was carried out.
    pub reply: Reply,
    /// What stands after it.
    pub seen: Seen,
}

/// What a scope means in this ledger: how its keys and principals are found, and who executes its effects.
///
/// The ledger compares `terms` byte by byte; what they say is the configuration's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contract {
    /// The scope's stable id.
    pub scope: Box<str>,
    /// Its encoded terms.
    pub terms: Vec<u8>,
}

/// A scope whose contract differs from the one the ledger was used with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The scope's stable id.
    pub scope: Box<str>,
    /// The terms the ledger holds.
    pub held: Vec<u8>,
    /// The terms that were asked for.
    pub asked: Vec<u8>,
}

/// One thing a ledger holds, whichever engine keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exported {
    /// An effect, live or settled.
    Effect(Box<Record>),
    /// A line of the audit log and its number.
    Audit(u64, AuditEvent),
    /// What a scope means.
    Contract(Contract),
}

/// Whether an engine can work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Claims and settlements are taken.
    Ready,
    /// Settlements are taken, claims are not; the text says why.
    ClaimsPaused(String),
    /// Nothing can be taken now, because the store cannot be reached; it is tried again. The text says why.
    Unreachable(String),
    /// Nothing is taken any more until a restart; the text says why.
    Stopped(String),
}
