//! Loading the configuration again.

use std::sync::Arc;

use axum::{Json, body::Body, extract::State};
use serde::{Deserialize, Serialize};

use crate::{
    api::Api,
    json_body,
    operator::{Asked, Signed},
    problem::{Kind, Problem},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReloadRequest {
    reason: String,
    operator: Option<String>,
}

#[derive(Serialize)]
pub(crate) struct ReloadAnswer {
    result: &'static str,
    notes: String,
}

pub(crate) async fn reload(State(api): State<Arc<Api>>, body: Body) -> Result<Json<ReloadAnswer>, Problem> {
    let ReloadRequest { reason, operator } = json_body::read(body, api.settings.body_bytes_max).await?;
    let Signed { name, .. } = Asked { reason: &reason, operator: operator.as_deref() }.sign()?;
    tracing::info!(%name, reason, "an operator reloads the configuration");
    api.reload_token()
        .map_err(|error| Problem::new(Kind::ReloadRefused, error.to_string()).explained_by(error.code))?;
    let hooks = Arc::clone(&api.hooks);
    // In a task of its own: a caller that hangs up, or the end of this request's time, must not stop it half-way.
    let reloaded = tokio::spawn(async move { hooks.reload().await });
    match reloaded.await {
        Ok(Ok(reloaded)) => Ok(Json(ReloadAnswer { result: "reloaded", notes: reloaded.notes })),
        Ok(Err(refused)) => Err(Problem::new(Kind::ReloadRefused, refused.report).explained_by(refused.code)),
        Err(died) => Err(Problem::new(Kind::ReloadRefused, format!("Loading it failed: {died}."))),
    }
}
