//! The audit log, page by page.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};

use crate::{
    api::{Api, Params, page_limit},
    effects::ledger_failed,
    problem::Problem,
    view::AuditView,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuditParams {
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
}

#[derive(Serialize)]
pub(crate) struct AuditPage {
    events: Vec<AuditView>,
    /// The `after` that goes on behind this page, also when nothing is there yet.
    next: String,
}

pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Params(params): Params<AuditParams>,
) -> Result<Json<AuditPage>, Problem> {
    let limit = page_limit(params.limit)?;
    let events = api.ledger.audit_log(params.after, limit).await.map_err(|error| ledger_failed(&error))?;
    let next = events.last().map_or(params.after, |(number, _)| *number);
    let events = events.iter().map(|(number, event)| AuditView::new(*number, event)).collect();
    Ok(Json(AuditPage { events, next: next.to_string() }))
}
