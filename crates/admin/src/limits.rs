//! Who is over a rate limit.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};

use crate::{
    LimitedCaller,
    api::{Api, Params, page_limit},
    problem::Problem,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Query {
    limit: Option<usize>,
}

#[derive(Serialize)]
pub(crate) struct Limits {
    limited: Vec<LimitedCaller>,
}

pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Params(Query { limit }): Params<Query>,
) -> Result<Json<Limits>, Problem> {
    Ok(Json(Limits { limited: api.hooks.limited(page_limit(limit)?) }))
}
