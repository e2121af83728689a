//! The admin API for operators, metrics and health.
//!
//! [`AdminServer::bind`] takes the ledger, a metrics registry and the [`Hooks`] of the process, and serves on a listener
//! of its own. Who may do what:
//!
//! | | needs |
//! |---|---|
//! | everything | a Host that is an address, localhost or listed, and no Origin of another site |
//! | health, metrics, `/openapi.json` | nothing else |
//! | reading effects and the audit log | the admin token, where the listener is not on a loopback address |
//! | an answer's body, and every change | the admin token; changes need JSON and a reason, and are audited |
//! | an upstream's own settlement | the token that it received with the request |

mod answer;
mod api;
mod audit;
mod effects;
mod guard;
mod health;
mod hooks;
mod json_body;
mod limits;
mod metrics;
mod operator;
mod outcome;
mod problem;
mod refusals;
mod reload;
mod server;
mod settings;
mod token;
mod view;

pub use hooks::{HookFuture, Hooks, LimitedCaller, ReloadRefused, Reloaded};
pub use metrics::LedgerMetrics;
pub use server::{AdminError, AdminHandle, AdminServer};
pub use settings::AdminSettings;
pub use token::{AdminToken, TokenError};
pub use view::{audit_json, effect_json};
