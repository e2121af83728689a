//! The NATS JetStream ledger engine: any number of gateways, one truth.
//!
//! One stream holds everything, one message per effect under the subject `<stream>.effect.<id>`. A command is decided by
//! [`semel_core::effect::step`] on what this process knows, and published with the number of the message that it was
//! decided on: the stream takes it only if that is still the last one under its subject. What it does not take is read
//! again from the stream's leader and decided anew. The number that the stream gives to a claim is the claim's fence.
//!
//! Invariants:
//! - Only a publication that the stream took by compare-and-set decides. Reads ask the stream's leader, never a replica
//!   that may be behind (direct gets), and only tell what to compare with.
//! - Every message carries a random token. An acknowledgement that was lost is never guessed: the effect is read again,
//!   and a publication is recognised by its token. Repeating one is harmless, because both compare with the same number.
//! - A record, its audit line and a large answer go in one atomic batch.
//! - Times are the store's: the leader's clock as this process measured it, written into the records. An owner that was
//!   asleep is fenced by its record having moved on.
//! - A number that is not greater than one acknowledged before means that the stream lost what it had acknowledged: the
//!   engine stops rather than find keys absent.

mod clock;
mod command;
mod contracts;
mod decide;
mod entry;
mod error;
mod keeper;
mod ledger;
mod link;
mod live;
mod options;
mod own;
mod publish;
mod read;
mod scan;
mod shared;
mod stream;
mod survey;
mod watch;

pub use clock::TimeShift;
pub use error::Error;
pub use ledger::NatsLedger;
pub use options::Options;
pub use stream::{Migrated, STREAM_VERSION, migrate, migrate_with};
pub use survey::{Damage, Survey};
