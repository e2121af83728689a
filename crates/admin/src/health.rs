//! Whether the process lives, and whether it should get calls.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
};
use semel_ledger::Health;
use serde::Serialize;

use crate::api::Api;

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    /// `ready`, `claims-paused`, `unreachable` or `stopped`.
    ledger: &'static str,
    /// Why it is not ready, in words.
    reasons: Vec<String>,
}

/// It answers, so it lives.
pub(crate) async fn alive() -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; charset=utf-8")], "ok\n")
}

/// Whether new calls should come here.
pub(crate) async fn ready(State(api): State<Arc<Api>>) -> impl IntoResponse {
    let health = api.ledger.health();
    let mut reasons = api.hooks.unready();
    match &health {
        Health::Ready => {}
        Health::ClaimsPaused(why) => reasons.push(format!("the ledger takes settlements but no new effects: {why}")),
        Health::Unreachable(why) => reasons.push(format!("the ledger cannot be reached: {why}")),
        Health::Stopped(why) => reasons.push(format!("the ledger has stopped; semel must be restarted: {why}")),
    }
    let ready = reasons.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, ledger: health_word(&health), reasons }))
}

/// The word for the ledger's health, here and in metrics.
pub(crate) const fn health_word(health: &Health) -> &'static str {
    match health {
        Health::Ready => "ready",
        Health::ClaimsPaused(_) => "claims-paused",
        Health::Unreachable(_) => "unreachable",
        Health::Stopped(_) => "stopped",
    }
}
