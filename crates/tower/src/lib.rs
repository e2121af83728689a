//! Effects as tower layers: idempotency, retries and budgets over any [`Ledger`](semel_ledger::Ledger).
//!
//! [`Effects::perform`] is the life of one call: it looks the key up, meets what stands there, or claims the effect,
//! executes it and concludes it. What executing means is an [`Execute`]: an upstream over the network for the
//! gateway, the inner service of a layer for a Rust program.

mod body;
mod clock;
mod conclude;
mod effects;
mod execute;
mod keyed;
mod lease;
mod observe;
mod policy;
mod render;
mod request;

pub use body::{Body, BoxError};
pub use effects::{Conclusion, Effects};
pub use execute::{Claimed, Execute, Execution, Finding, ProbeTarget, UpstreamAnswer};
pub use keyed::{BODY_BYTES_MAX, Echo, ForwardKey, Identity, Keyed};
pub use lease::{Lease, LeaseLost};
pub use observe::{CallResult, Observe, Refused, Report, Stages};
pub use policy::{Ack, EffectPolicy};
pub use request::{Buffered, EffectRequest};
