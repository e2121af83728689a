//! An axum service that refuses early and politely, and charges once.
//!
//! ```console
//! $ cargo run -p semel-tower --example server
//! $ curl -i localhost:3000/slow -H 'authorization: me' -H 'semel-timeout: 100'             # 504: you gave it 0.1 s
//! $ for i in 1 2 3 4 5 6; do curl -si localhost:3000/ -H 'authorization: me' | head -1; done  # the sixth: 429
//! $ curl -i -X POST localhost:3000/charges -H 'authorization: me' -H 'idempotency-key: a1' -d 10   # twice: one charge
//! ```

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header::AUTHORIZATION},
    routing::{get, post},
};
use semel_core::policy::{
    admission::{AdmissionPolicy, Priority},
    rate_limit::{KEYS_MAX, LimitPolicy, Quota, Reach},
};
use semel_ledger::model::ModelLedger;
use semel_tower::{
    IdempotencyLayer,
    policy::{AdmissionLayer, Policies, Rank, RateLimitLayer},
};
use tokio::net::TcpListener;

async fn slow() -> &'static str {
    tokio::time::sleep(Duration::from_secs(1)).await;
    "at last\n"
}

async fn charge(State(charges): State<Arc<AtomicU32>>, amount: String) -> (StatusCode, String) {
    let number = 1 + charges.fetch_add(1, Ordering::SeqCst);
    (StatusCode::CREATED, format!("charge {number} of {amount}\n"))
}

/// Whose request it is: what is authenticated, never what a caller makes up.
fn caller(request: &Request) -> Option<HeaderValue> {
    request.headers().get(AUTHORIZATION).cloned()
}

/// Charges matter more than what can be looked up again. Under the idempotency layer bodies are its own.
fn rank<B>(request: &http::Request<B>) -> Rank {
    Rank::new(if request.method().is_safe() { Priority::Medium } else { Priority::High })
}

fn app() -> Result<Router, Box<dyn Error>> {
    let each = LimitPolicy {
        name: "each".to_owned(),
        quota: Quota::bucket(1, Duration::from_secs(1), 5)?,
        reach: Reach::PerKey { keys_max: KEYS_MAX },
    };
    // The model forgets when the process ends; `examples/axum.rs` has a ledger that does not.
    let idempotency = IdempotencyLayer::builder(Arc::new(ModelLedger::new()?), "charges").build()?;
    let policies = Policies::http()
        .answering()
        .deadline(Duration::from_secs(10))
        .rate_limit(RateLimitLayer::new(vec![each], caller)?.announced())
        .idempotency(idempotency)
        .admission_by(AdmissionLayer::new(AdmissionPolicy::default()).rank_by(rank));
    Ok(Router::new()
        .route("/", get(async || "hello\n"))
        .route("/slow", get(slow))
        .route("/charges", post(charge))
        .layer(policies)
        .with_state(Arc::default()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}; Ctrl-C ends it", listener.local_addr()?);
    axum::serve(listener, app()?).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, response::Response};
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(app: &Router, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = Request::builder().method(method).uri(path).header("authorization", "me");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        app.clone().oneshot(request.body(Body::from("10")).unwrap()).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_over_its_limit_is_told_when_to_come_back() {
        let app = app().unwrap();
        for left in ["4", "3", "2", "1", "0"] {
            let answer = ask(&app, "GET", "/", &[]).await;
            assert_eq!(answer.status(), 200);
            assert!(answer.headers()["ratelimit"].to_str().unwrap().contains(&format!("r={left}")));
        }
        let refused = ask(&app, "GET", "/", &[]).await;
        assert_eq!((refused.status().as_u16(), refused.headers().contains_key("retry-after")), (429, true));
        assert_eq!(refused.headers()["content-type"], "application/problem+json");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(ask(&app, "GET", "/", &[]).await.status(), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_in_a_hurry_is_answered_in_time() {
        let app = app().unwrap();
        assert_eq!(ask(&app, "GET", "/slow", &[("semel-timeout", "100")]).await.status(), 504);
        assert_eq!(ask(&app, "GET", "/slow", &[]).await.status(), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_charge_happens_once() {
        let app = app().unwrap();
        for _ in 0..3 {
            let answer = ask(&app, "POST", "/charges", &[("idempotency-key", "a1")]).await;
            assert_eq!(answer.status(), 201);
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "charge 1 of 10\n");
        }
    }
}
