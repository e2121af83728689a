//! The life of an effect as a pure state machine.
//!
//! ```text
//! absent ── claim ──▶ open ──┬─ executed, answer kept ────▶ settled   replayed to every duplicate
//!                            ├─ executed, answer not kept ▶ consumed  tombstone: status, safe headers, digest
//!                            ├─ surely not executed ──────▶ absent    released: the key stays usable
//!                            └─ nobody knows ─────────────▶ unknown   never re-run silently
//! settled, consumed ── window over ──▶ expired (marker) ── marker over ──▶ absent
//! ```
//!
//! A ledger engine loads the [`Record`] of a key, asks [`step`] what a [`Command`] does to it, and writes the answer
//! if the record is still the one it loaded. Every rule about who may move an effect where is in `step`; an engine has
//! none of its own.

mod record;
mod step;

pub use record::{Authority, FOREVER_MS, Fence, OnUnknown, Outcome, Owner, Phase, Record, State, Terms, UnknownReason};
pub use step::{AuditEvent, AuditKind, Claim, Command, Moment, Next, Refusal, Reply, Step, step};
