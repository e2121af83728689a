//! Rate limits in a stack.

use std::{error::Error as _, time::Duration};

use http::{HeaderMap, Request};
use semel_core::{
    policy::rate_limit::{KEYS_MAX, LimitPolicy, Quota, RateLimited, Reach},
    problem::ProblemKind,
};
use semel_tower::policy::{QuotaExceeded, RateLimitLayer};
use tower::{Layer as _, ServiceExt as _};

use crate::strict::{Strict, get, now, respects_readiness};

fn limits(burst: u32) -> Vec<LimitPolicy> {
    let quota = Quota::bucket(1, Duration::from_secs(10), burst).unwrap();
    vec![LimitPolicy { name: "each".to_owned(), quota, reach: Reach::PerKey { keys_max: KEYS_MAX } }]
}

fn path(request: &Request<()>) -> String {
    request.uri().path().to_owned()
}

#[tokio::test]
async fn readiness() {
    let inner = Strict::quick();
    let shared = inner.shared();
    respects_readiness(RateLimitLayer::new(limits(9), path).unwrap().layer(inner), &shared).await;
}

#[tokio::test(start_paused = true)]
async fn each_key_for_itself_and_the_refused_are_told_when() {
    let (inner, layer) = (Strict::quick(), RateLimitLayer::new(limits(2), path).unwrap().announced());
    let (shared, service) = (inner.shared(), layer.layer(inner));
    for left in ["\"each\";r=1;t=10", "\"each\";r=0;t=10"] {
        let answer = service.clone().oneshot(get("a")).await.unwrap();
        assert_eq!(answer.headers()["ratelimit"], left);
        assert_eq!(answer.headers()["ratelimit-policy"], "\"each\";q=1;w=10");
    }
    let error = service.clone().oneshot(get("a")).await.unwrap_err();
    let exceeded = error.downcast_ref::<QuotaExceeded>().unwrap();
    assert!((10..=15).contains(&exceeded.retry_after_seconds), "{exceeded:?}");
    assert_eq!(exceeded.problem().kind(), ProblemKind::QuotaExceeded);
    assert!(exceeded.source().is_none() && exceeded.limited == RateLimited(exceeded.limited.0));
    let mut headers = HeaderMap::new();
    exceeded.write_fields(&mut headers);
    assert_eq!(headers["ratelimit"], "\"each\";r=0;t=10");
    assert_eq!(headers["retry-after"], exceeded.retry_after_seconds.to_string());
    assert_eq!(shared.calls(), 2, "a refused call is not sent");
    assert!(service.clone().oneshot(get("b")).await.is_ok());
    // The services of a layer share its limits, which can be looked at.
    assert!(layer.layer(Strict::quick()).oneshot(get("a")).await.is_err());
    let limited = layer.limiter().limited(now().into_std(), 10);
    assert_eq!((limited.len(), limited[0].key.as_deref(), limited[0].refused), (1, Some("/a"), 2));
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(service.clone().oneshot(get("a")).await.is_ok());
}
