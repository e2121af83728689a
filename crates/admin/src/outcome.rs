//! An upstream settles its own effect.
//!
//! Every attempt carries `Semel-Effect-Id` and `Semel-Settlement`. Whoever executed the effect and could not answer in
//! time sends the second back to `/v1/effects/{id}/outcome` with the answer that was lost. The token is an HMAC over the
//! effect and the claim, so a forged one is turned away without a look at the ledger; it needs no admin token.

use std::sync::Arc;

use axum::{Json, body::Body, extract::State, http::HeaderMap};
use semel_core::{
    effect::{Authority, Command, Fence},
    headers::SEMEL_SETTLEMENT,
    scope::EffectId,
};
use serde::{Deserialize, Serialize};

use crate::{
    answer::{Keeping, ToldAnswer, Unkept},
    api::{Api, EffectPath},
    effects::{done, ledger_failed, scope_of},
    json_body,
    problem::{Kind, Problem},
    view::{HeaderField, state_word},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OutcomeRequest {
    effect: Word,
    #[serde(deserialize_with = "json_body::whole")]
    status: u16,
    #[serde(default)]
    headers: Vec<HeaderField>,
    body: Option<String>,
    body_base64: Option<String>,
    #[serde(default)]
    consumed: bool,
}

/// What happened, in the words of the Semel-Effect header. An upstream can only say that it executed: to let a key run
/// again, somebody must know that no attempt of it is still on its way.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Committed,
}

#[derive(Serialize)]
pub(crate) struct OutcomeAnswer {
    result: &'static str,
    effect_id: String,
    state: &'static str,
}

pub(crate) async fn settle(
    State(api): State<Arc<Api>>,
    EffectPath(id): EffectPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<OutcomeAnswer>, Problem> {
    let fence = check_token(&api, id, &headers)?;
    let OutcomeRequest { effect: Word::Committed, status, headers, body, body_base64, consumed } =
        json_body::read(body, api.settings.body_bytes_max).await?;
    let _permit = api.outcomes.try_acquire().map_err(|_| Problem::new(Kind::TooManyRequests, ""))?;
    if !api.refusals.take(id, api.ledger.now()) {
        return Err(Problem::new(Kind::TooManyRequests, "Too many settlements of this effect were refused."));
    }
    let told = ToldAnswer { status, headers, body, body_base64, consumed };
    let answer = record(&api, id, fence, told).await;
    match &answer {
        Ok(_) => api.refusals.give_back(id),
        Err(problem) => tracing::warn!(effect = %id, %fence, status, ?problem, "an upstream's settlement was refused"),
    }
    answer
}

async fn record(api: &Api, id: EffectId, fence: Fence, told: ToldAnswer) -> Result<Json<OutcomeAnswer>, Problem> {
    // Where nothing stands any more, it is told so by the ledger, which puts it on the audit log.
    let scope = scope_of(api, id).await?.unwrap_or_default();
    let outcome = told.outcome(&Keeping::of(&api.hooks.config(), &scope), Unkept::Drop)?;
    let command = Command::Settle { fence, outcome, by: Authority::Upstream, attempts: 0 };
    let applied = api.ledger.apply(id, command).await.map_err(|error| ledger_failed(&error))?;
    let result = done(&applied, true)?;
    Ok(Json(OutcomeAnswer { result, effect_id: id.to_string(), state: state_word(applied.seen.phase()) }))
}

fn check_token(api: &Api, id: EffectId, headers: &HeaderMap) -> Result<Fence, Problem> {
    let mut tokens = headers.get_all(SEMEL_SETTLEMENT).iter();
    let (Some(token), None) = (tokens.next(), tokens.next()) else {
        return Err(Problem::new(Kind::SettlementTokenRequired, ""));
    };
    let fence = token.to_str().ok().and_then(|token| api.ledger.secret().verify_settlement_token(id, token.trim()));
    fence.map(Fence).ok_or_else(|| Problem::new(Kind::SettlementTokenWrong, ""))
}
