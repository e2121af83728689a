//! The embedded ledger engine: an own write-ahead log as the truth, an LSM tree as its table.
//!
//! Life of a claim: callers queue operations → the committer decides a batch of them, serially, against what is durable
//! plus the batch itself → one append and one `fdatasync` make the batch durable → it is applied to memory, the
//! high-water mark is noted, and everybody is answered. In the background the keeper checkpoints memory into the LSM
//! tree and recycles the segments of the log that the tree then covers, and compaction drops what has expired.
//!
//! Invariants:
//! - Nobody is told, and no reader sees, what is not durable.
//! - A batch that was acknowledged is found again or the ledger refuses to start: batches are numbered without gaps,
//!   the high-water mark stands beside the log, and the table says up to which batch it covers the log.
//! - Damage never turns a key absent: every byte that is read was checked, and a failed check is an error.
//! - After a failed write or flush nothing is answered any more: whether the batch exists is unknown.

mod disk;
mod error;
mod export;
mod ledger;
mod log;
mod repair;
pub mod store;
mod table;
mod verify;

pub use error::{Damage, Error};
pub use export::{Export, contracts, export};
pub use ledger::EmbeddedLedger;
pub use repair::{Repair, repair_accepting_loss};
pub use store::{Options, Stats};
pub use verify::{Verification, verify};
