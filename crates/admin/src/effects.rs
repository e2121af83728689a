//! Effects: listed, shown, settled and released by operators.

use std::sync::Arc;

use axum::{Json, body::Body, extract::State, http::HeaderMap};
use semel_core::{
    effect::{Command, Fence, Phase, Record, Refusal, Reply},
    scope::EffectId,
    time::Timestamp,
};
use semel_ledger::{Applied, LedgerError};
use serde::{Deserialize, Serialize};

use crate::{
    answer::{Keeping, ToldAnswer, Unkept},
    api::{Api, EffectPath, Params, page_limit},
    json_body,
    operator::{Asked, Signed},
    problem::{Kind, Problem},
    view::{EffectView, HeaderField, state_word},
};

/// Records looked at for one page of a filtered list, at most: the cost of a request is bounded.
const SCANNED_MAX: usize = 10_000;
/// Records read from the ledger at a time while filtering.
const SCAN_PAGE: usize = 500;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListParams {
    state: Option<LiveState>,
    scope: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum LiveState {
    Open,
    Unknown,
}

#[derive(Serialize)]
pub(crate) struct EffectPage {
    effects: Vec<EffectView>,
    /// The `after` of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShowParams {
    #[serde(default)]
    body: bool,
}

/// What a change came to.
#[derive(Debug, Serialize)]
pub(crate) struct Changed {
    result: &'static str,
    /// The effect after it; absent when it was released.
    #[serde(skip_serializing_if = "Option::is_none")]
    effect: Option<EffectView>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SettleRequest {
    #[serde(deserialize_with = "json_body::whole")]
    fence: u64,
    #[serde(deserialize_with = "json_body::whole")]
    status: u16,
    #[serde(default)]
    headers: Vec<HeaderField>,
    body: Option<String>,
    body_base64: Option<String>,
    #[serde(default)]
    consumed: bool,
    reason: String,
    operator: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReleaseRequest {
    #[serde(deserialize_with = "json_body::whole")]
    fence: u64,
    reason: String,
    operator: Option<String>,
}

pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Params(params): Params<ListParams>,
) -> Result<Json<EffectPage>, Problem> {
    let limit = page_limit(params.limit)?;
    let after = params.after.as_deref().map(str::parse::<EffectId>).transpose();
    let mut after = after.map_err(|error| Problem::new(Kind::QueryInvalid, format!("`after`: {error}.")))?;
    let filtered = params.state.is_some() || params.scope.is_some();
    let page_size = if filtered { SCAN_PAGE } else { limit };
    let mut effects = Vec::new();
    for _ in 0..SCANNED_MAX.div_ceil(page_size) {
        let page = api.ledger.live(after, page_size).await.map_err(|error| ledger_failed(&error))?;
        let now = api.ledger.now();
        for record in &page {
            after = Some(record.id);
            if params.wants(record, now) {
                effects.push(EffectView::new(record, now, false));
            }
            if effects.len() == limit {
                return Ok(EffectPage::with_next(effects, after));
            }
        }
        if page.len() < page_size {
            return Ok(EffectPage::with_next(effects, None));
        }
    }
    Ok(EffectPage::with_next(effects, after))
}

pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    EffectPath(id): EffectPath,
    Params(params): Params<ShowParams>,
    headers: HeaderMap,
) -> Result<Json<EffectView>, Problem> {
    if params.body {
        api.check_token(&headers)?;
    }
    let seen = api.ledger.look_up(id).await.map_err(|error| ledger_failed(&error))?;
    match &seen.record {
        Some(record) if seen.phase() != Phase::Absent => Ok(Json(EffectView::new(record, seen.now, params.body))),
        _ => Err(Problem::new(Kind::EffectNotFound, "")),
    }
}

pub(crate) async fn settle(
    State(api): State<Arc<Api>>,
    EffectPath(id): EffectPath,
    body: Body,
) -> Result<Json<Changed>, Problem> {
    let request: SettleRequest = json_body::read(body, api.settings.body_bytes_max).await?;
    let SettleRequest { fence, status, headers, body, body_base64, consumed, reason, operator } = request;
    let Signed { by, name } = Asked { reason: &reason, operator: operator.as_deref() }.sign()?;
    let told = ToldAnswer { status, headers, body, body_base64, consumed };
    let scope = scope_of(&api, id).await?.ok_or_else(|| Problem::new(Kind::EffectNotFound, ""))?;
    let outcome = told.outcome(&Keeping::of(&api.hooks.config(), &scope), Unkept::Refuse)?;
    tracing::info!(effect = %id, fence, status, %name, reason, "an operator settles an effect");
    change(&api, id, Command::Settle { fence: Fence(fence), outcome, by, attempts: 0 }).await
}

pub(crate) async fn release(
    State(api): State<Arc<Api>>,
    EffectPath(id): EffectPath,
    body: Body,
) -> Result<Json<Changed>, Problem> {
    let request: ReleaseRequest = json_body::read(body, api.settings.body_bytes_max).await?;
    let ReleaseRequest { fence, reason, operator } = request;
    let Signed { by, name } = Asked { reason: &reason, operator: operator.as_deref() }.sign()?;
    tracing::info!(effect = %id, fence, %name, reason, "an operator releases an effect");
    change(&api, id, Command::Release { fence: Fence(fence), by }).await
}

impl ListParams {
    fn wants(&self, record: &Record, now: Timestamp) -> bool {
        let state = match self.state {
            None => true,
            Some(LiveState::Open) => record.phase(now) == Phase::Open,
            Some(LiveState::Unknown) => matches!(record.phase(now), Phase::Unknown | Phase::Lapsed),
        };
        state && self.scope.as_deref().is_none_or(|scope| scope == &*record.terms.scope)
    }
}

impl EffectPage {
    fn with_next(effects: Vec<EffectView>, next: Option<EffectId>) -> Json<Self> {
        Json(Self { effects, next: next.map(|id| id.to_string()) })
    }
}

/// The scope of the effect that stands under `id`, if one does.
pub(crate) async fn scope_of(api: &Api, id: EffectId) -> Result<Option<Box<str>>, Problem> {
    let seen = api.ledger.look_up(id).await.map_err(|error| ledger_failed(&error))?;
    Ok(seen.record.map(|record| record.terms.scope.clone()))
}

async fn change(api: &Api, id: EffectId, command: Command) -> Result<Json<Changed>, Problem> {
    let settles = matches!(command, Command::Settle { .. });
    let applied = api.ledger.apply(id, command).await.map_err(|error| ledger_failed(&error))?;
    let effect = applied.seen.record.as_ref().map(|record| EffectView::new(record, applied.seen.now, false));
    match done(&applied, settles) {
        Ok(result) => Ok(Json(Changed { result, effect })),
        Err(problem) => Err(match effect {
            Some(effect) => problem.about(effect),
            None => problem,
        }),
    }
}

/// The word for what was done, or why it was not.
pub(crate) fn done(applied: &Applied, settles: bool) -> Result<&'static str, Problem> {
    let refusal = match applied.reply {
        Reply::Applied => return Ok("applied"),
        Reply::Unchanged => return Ok("unchanged"),
        Reply::Refused(refusal) => refusal,
    };
    let is = state_word(applied.seen.phase());
    Err(match refusal {
        Refusal::Absent => Problem::new(Kind::EffectNotFound, ""),
        Refusal::Fenced => {
            let fence = applied.seen.record.as_ref().map_or(0, |record| record.fence.0);
            Problem::new(Kind::FenceStale, format!("The effect is {is} under the claim with fence {fence} now."))
        }
        Refusal::NotFrom(Phase::Settled | Phase::Consumed) if settles => Problem::new(Kind::SettledOtherwise, ""),
        Refusal::NotFrom(_)
        | Refusal::Exists
        | Refusal::WasUnknown
        | Refusal::NotRetryable
        | Refusal::UpstreamForgot
        | Refusal::OtherRequest => Problem::new(Kind::StateConflict, format!("The effect is {is}.")),
    })
}

/// What a failed ledger call is told as.
pub(crate) fn ledger_failed(error: &LedgerError) -> Problem {
    let kind = match error {
        LedgerError::Unreachable(_) | LedgerError::ClaimsPaused(_) | LedgerError::TooManyWaiters => {
            Kind::LedgerUnavailable
        }
        LedgerError::Uncertain(_) => Kind::LedgerUncertain,
        LedgerError::Stopped(_) => Kind::LedgerStopped,
        LedgerError::Damaged { .. } => Kind::RecordDamaged,
    };
    Problem::new(kind, error.to_string())
}
