//! Effects as tower layers: idempotency over any [`Ledger`](semel_ledger::Ledger).
//!
//! For a service in the same process (axum, or any HTTP service in tower's terms) there is [`IdempotencyLayer`]:
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use axum::{Router, routing::post};
//! # use semel_ledger::model::ModelLedger;
//! # use semel_tower::IdempotencyLayer;
//! # async fn charge() {}
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let layer = IdempotencyLayer::builder(Arc::new(ModelLedger::new()?), "payments").build()?;
//! layer.agree().await?;
//! let app: Router = Router::new().route("/charges", post(charge)).layer(layer);
//! # Ok(())
//! # }
//! ```
//!
//! `examples/axum.rs` is a whole service. How calls are attempted, and how many are taken on, is up to [`policy`]: see
//! [`policy::Policies`], `examples/server.rs` and `examples/client.rs`. Everything else builds on [`Effects::perform`], the life of one call: it looks
//! the key up, meets what stands there, or claims the effect, executes it and concludes it. What executing means is an
//! [`Execute`]: an upstream over the network for the gateway, the inner service for the layer. [`Keyed`] turns a request
//! into an effect, and what the call came to into the answer that its caller gets.
//!
//! # Compared with doing it by hand
//!
//! If an effect is nothing but rows in one database, a table of keys with a unique constraint, written *in the same
//! transaction* as the effect, is simpler than this crate and stronger: there is no moment at which nobody knows. Do that.
//! (The usual variant that writes the key before and the answer after, in transactions of their own, is not that: it is
//! this crate with the hard parts left out.)
//!
//! The layer is for effects that leave the database: a call to a bank, a mail, a message. There no table helps between
//! the call and its answer, and what is usually forgotten is what the layer does:
//!
//! | by hand, often | the layer |
//! |---|---|
//! | the key is deleted when the handler fails or its lock expires, and a retry runs it again | the outcome is *unknown* and held, or attempted again only where the handler honours the key |
//! | the key is stored without the request | the same key with another request is 422 |
//! | two racing requests both find no key | one claim, by compare-and-set; the others wait for its answer |
//! | a caller that hangs up cancels the handler halfway | the handler runs to its end and the answer is recorded |
//! | an answer that is too large is not stored, and a retry runs it again | a tombstone is durable before its first byte |
//! | any caller who knows the key gets the answer | keys belong to a caller, and answers to its credential |
//! | a crash leaves "in progress" for ever | a lease, then *unknown*, with an operator's way out |
//!
//! What it costs: two durable writes for each effect, the whole request in memory, and the answer up to a bound. What it
//! cannot do: a process that is paused between its lease check and its call can act late. Only the handler's own check of
//! [`CurrentEffect::key`] or [`CurrentEffect::fence`], in the transaction of the effect, stops that.

mod body;
mod call;
mod clock;
mod conclude;
mod effect_policy;
mod effects;
mod execute;
mod keyed;
mod layer;
mod lease;
mod observe;
pub mod policy;
mod random;
mod render;
mod request;

pub use body::{Body, BoxError};
pub use effect_policy::{Ack, EffectPolicy};
pub use effects::{Conclusion, Effects};
pub use execute::{Claimed, Execute, Execution, Finding, ProbeTarget, UpstreamAnswer};
pub use keyed::{BODY_BYTES_MAX, Echo, ForwardKey, Identity, Keyed};
pub use layer::{
    BuildError, CurrentEffect, Idempotency, IdempotencyBuilder, IdempotencyLayer, PathParameters, ScopeError,
};
pub use lease::{Lease, LeaseLost};
pub use observe::{CallResult, Observe, Refused, Report, Stages};
pub use request::{Buffered, EffectRequest};
