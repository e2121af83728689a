//! The API as a whole: its operations, and what stands before each.

use std::sync::{Arc, PoisonError, RwLock};

use axum::{
    Router,
    body::Body,
    extract::{FromRequestParts, MatchedPath, Path, Query, Request, State},
    http::{
        HeaderMap, HeaderValue, Response,
        header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName},
        request::Parts,
    },
    middleware::{Next, from_fn, from_fn_with_state},
    response::IntoResponse,
    routing::{MethodRouter, get, post},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use semel_core::scope::EffectId;
use semel_ledger::Ledger;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

use crate::{
    AdminSettings, AdminToken, Hooks, TokenError, audit, effects, guard, health, limits,
    metrics::LedgerMetrics,
    outcome,
    problem::{Kind, Problem},
    refusals::RefusalBudget,
    reload,
};

/// The document that describes the API.
pub(crate) const OPENAPI: &str = include_str!("openapi.json");

const NOSNIFF: HeaderName = HeaderName::from_static("x-content-type-options");

/// Everything the operations work on.
pub(crate) struct Api {
    pub(crate) settings: AdminSettings,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) hooks: Arc<dyn Hooks>,
    pub(crate) registry: Registry,
    pub(crate) ledger_metrics: LedgerMetrics,
    pub(crate) outcomes: Semaphore,
    pub(crate) refusals: RefusalBudget,
    token: RwLock<AdminToken>,
    requests: Family<RequestLabels, Counter>,
}

/// One operation of the API.
pub(crate) struct Operation {
    pub(crate) path: &'static str,
    pub(crate) access: Access,
    handler: MethodRouter<Arc<Api>>,
}

/// What a request must bring beside a fitting Host and Origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing: health, metrics, this API's description.
    Open,
    /// The token, where the listener is not on a loopback address.
    Read,
    /// The token, and JSON.
    Change,
    /// JSON; the operation itself asks for the effect's settlement token.
    Upstream,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    status: u16,
}

/// Every operation of the API.
pub(crate) fn operations() -> Vec<Operation> {
    let operation = |path, access, handler| Operation { path, access, handler };
    vec![
        operation("/healthz", Access::Open, get(health::alive)),
        operation("/readyz", Access::Open, get(health::ready)),
        operation("/metrics", Access::Open, get(metrics)),
        operation("/openapi.json", Access::Open, get(openapi)),
        operation("/v1/effects", Access::Read, get(effects::list)),
        operation("/v1/effects/{id}", Access::Read, get(effects::show)),
        operation("/v1/effects/{id}/settle", Access::Change, post(effects::settle)),
        operation("/v1/effects/{id}/release", Access::Change, post(effects::release)),
        operation("/v1/effects/{id}/outcome", Access::Upstream, post(outcome::settle)),
        operation("/v1/audit", Access::Read, get(audit::list)),
        operation("/v1/limits", Access::Read, get(limits::list)),
        operation("/v1/reload", Access::Change, post(reload::reload)),
    ]
}

impl Api {
    pub(crate) fn new(
        settings: AdminSettings,
        token: AdminToken,
        ledger: Arc<dyn Ledger>,
        mut registry: Registry,
        hooks: Arc<dyn Hooks>,
    ) -> Self {
        let requests = Family::default();
        let help = "Requests to the admin API by route and status";
        registry.register("semel_admin_requests", help, Family::clone(&requests));
        Self {
            ledger_metrics: LedgerMetrics::register(Arc::clone(&ledger), &mut registry),
            outcomes: Semaphore::new(settings.outcomes_max),
            refusals: RefusalBudget::default(),
            token: RwLock::new(token),
            settings,
            ledger,
            hooks,
            registry,
            requests,
        }
    }

    /// Checks the admin token of a request.
    pub(crate) fn check_token(&self, headers: &HeaderMap) -> Result<(), Problem> {
        guard::check_token(headers, &self.token.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the token file again; on an error the token in force stays.
    pub(crate) fn reload_token(&self) -> Result<(), TokenError> {
        let token = AdminToken::load(&self.settings.token_file)?;
        *self.token.write().unwrap_or_else(PoisonError::into_inner) = token;
        Ok(())
    }

    /// The service, from the outside in: time, then Host and Origin, then the operation's access, then the operation.
    pub(crate) fn router(self: Arc<Self>) -> Router {
        let mut router = Router::new();
        for Operation { path, access, handler, .. } in operations() {
            let api = Arc::clone(&self);
            let admit = from_fn(move |request: Request, next: Next| admit(Arc::clone(&api), access, request, next));
            router = router.route(path, handler.route_layer(admit));
        }
        router
            .fallback(|| async { Problem::new(Kind::NotFound, "") })
            .method_not_allowed_fallback(|| async { Problem::new(Kind::MethodNotAllowed, "") })
            .layer(from_fn_with_state(Arc::clone(&self), around))
            .with_state(self)
    }
}

/// Around every request: its time, its Host and Origin, its count, and the headers of every answer.
async fn around(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response<Body> {
    let matched = request.extensions().get::<MatchedPath>();
    let route = matched.map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let mut response = match guard::check(&request, &api.settings) {
        Err(problem) => problem.into_response(),
        Ok(visitor) => {
            let mut response = match visitor.preflight(&request) {
                Some(response) => response,
                None => match tokio::time::timeout(api.settings.request_timeout, next.run(request)).await {
                    Ok(response) => response,
                    Err(_) => Problem::new(Kind::TimedOut, "").into_response(),
                },
            };
            visitor.mark(response.headers_mut());
            response
        }
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(NOSNIFF, HeaderValue::from_static("nosniff"));
    let status = response.status().as_u16();
    api.requests.get_or_create(&RequestLabels { route, status }).inc();
    response
}

async fn admit(api: Arc<Api>, access: Access, request: Request, next: Next) -> Result<Response<Body>, Problem> {
    let headers = request.headers();
    match access {
        Access::Open => {}
        Access::Read if api.settings.reads_need_token => api.check_token(headers)?,
        Access::Read => {}
        Access::Change => {
            api.check_token(headers)?;
            guard::check_content_type(headers)?;
        }
        Access::Upstream => guard::check_content_type(headers)?,
    }
    Ok(next.run(request).await)
}

async fn metrics(State(api): State<Arc<Api>>) -> Result<impl IntoResponse, Problem> {
    api.ledger_metrics.refresh().await;
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &api.registry)
        .map_err(|error| Problem::new(Kind::TimedOut, format!("The metrics could not be written: {error}.")))?;
    Ok(([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text))
}

async fn openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], OPENAPI)
}

/// The effect id in the path.
pub(crate) struct EffectPath(pub(crate) EffectId);

impl<S: Send + Sync> FromRequestParts<S> for EffectPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let malformed =
            |why: String| Problem::new(Kind::EffectIdMalformed, format!("The path has no effect id: {why}."));
        let Path(text) =
            Path::<String>::from_request_parts(parts, state).await.map_err(|e| malformed(e.body_text()))?;
        text.parse().map(Self).map_err(|error: semel_core::scope::EffectIdError| malformed(error.to_string()))
    }
}

/// The query's parameters.
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(Problem::new(Kind::QueryInvalid, rejection.body_text())),
        }
    }
}

/// The `limit` of a page, within its bounds.
pub(crate) fn page_limit(limit: Option<usize>) -> Result<usize, Problem> {
    /// Entries of a page, at most.
    const LIMIT_MAX: usize = 500;
    match limit.unwrap_or(100) {
        limit @ 1..=LIMIT_MAX => Ok(limit),
        _ => Err(Problem::new(Kind::QueryInvalid, format!("`limit` is 1 to {LIMIT_MAX}."))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn the_document_has_every_path_and_every_code() {
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        let paths = document["paths"].as_object().unwrap();
        let listed: BTreeSet<&str> = paths.keys().map(String::as_str).collect();
        let served: BTreeSet<&str> = operations().iter().map(|operation| operation.path).collect();
        assert_eq!(listed, served);
        let listed = document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"].as_array().unwrap();
        let listed: BTreeSet<&str> = listed.iter().filter_map(Value::as_str).collect();
        assert_eq!(listed, Kind::ALL.iter().map(|kind| kind.row().0).collect());
    }

    #[test]
    fn a_post_is_never_open() {
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        for operation in operations() {
            let changes = document["paths"][operation.path].get("post").is_some();
            assert_eq!(changes, matches!(operation.access, Access::Change | Access::Upstream), "{}", operation.path);
        }
    }
}
