//! The PostgreSQL ledger engine: any number of gateways, one truth.
//!
//! Life of a claim: callers queue commands → a lane (one task, one connection) takes all that wait → one call of one
//! function of the schema claims and settles them in one transaction → its commit is acknowledged → everybody is
//! answered. What that function cannot do (anything but claiming an absent key and settling an open effect by its
//! owner) is loaded, decided by [`semel_core::effect::step`], and written if the record is still the one that was
//! loaded: two more round trips, shared with the batches of others.
//!
//! Invariants:
//! - Nothing is decided by this process's clock: times are the server's, and a decision is written only while it holds.
//! - One statement is one transaction; nothing lives in the session. So a pooler may stand in between, a lost connection
//!   leaves no lock behind, and no transaction is open while this process thinks.
//! - Only a primary is asked, also for reads; every call checks it.
//! - A commit whose acknowledgement was lost is uncertain: the command is carried out again, which finds its own traces
//!   by a random token or by its fence, and whose commit makes what it found durable. It is never guessed.

mod client;
mod command;
mod decide;
mod error;
mod hosts;
mod keeper;
mod lane;
mod ledger;
mod link;
mod listener;
mod options;
mod queue;
mod row;
mod schema;
mod shared;
mod sql;
mod survey;

pub use error::Error;
pub use ledger::PostgresLedger;
pub use options::Options;
pub use schema::{Migrated, SCHEMA_VERSION, migrate, migrate_with};
pub use survey::{Damage, Part, Survey};
