//! An axum service whose charges happen once.
//!
//! ```console
//! $ cargo run -p semel-tower --example axum              # forgets when it ends
//! $ cargo run -p semel-tower --example axum -- ./ledger  # remembers
//! $ curl -i -X POST localhost:3000/charges -H 'idempotency-key: a1' -d 10
//! $ curl -i -X POST localhost:3000/charges -H 'idempotency-key: a1' -d 10   # the same answer, no second charge
//! $ curl -i -X POST localhost:3000/charges -H 'idempotency-key: a1' -d 99   # 422: another request
//! $ curl -i localhost:3000/charges
//! ```

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use axum::{Extension, Router, extract::State, http::StatusCode, routing};
use semel_core::effect::Owner;
use semel_ledger::{Ledger, model::ModelLedger};
use semel_ledger_embedded::{EmbeddedLedger, Options};
use semel_tower::{CurrentEffect, IdempotencyLayer};
use tokio::net::TcpListener;

/// The effect: in earnest it would call a bank, and it must not happen twice.
async fn charge(
    State(charges): State<Arc<AtomicU32>>,
    Extension(effect): Extension<CurrentEffect>,
    amount: String,
) -> (StatusCode, String) {
    let number = 1 + charges.fetch_add(1, Ordering::SeqCst);
    println!("charge {number} of {amount} for effect {}, key for the bank {}", effect.id, effect.key.as_str());
    (StatusCode::CREATED, format!("charge {number} of {amount}\n"))
}

async fn count(State(charges): State<Arc<AtomicU32>>) -> String {
    format!("{} charges\n", charges.load(Ordering::SeqCst))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let owner = Owner(getrandom::u64()?);
    let ledger: Arc<dyn Ledger> = match std::env::args().nth(1) {
        Some(folder) => Arc::new(EmbeddedLedger::open(Options::new(folder), owner)?),
        None => Arc::new(ModelLedger::new()?),
    };
    // Without `anonymous()` keys belong to the caller's Authorization header, as they should where there is one.
    let idempotency = IdempotencyLayer::builder(ledger, "charges").owner(owner).anonymous().build()?;
    idempotency.agree().await?;

    let app = Router::new()
        .route("/charges", routing::post(charge).get(count))
        .layer(idempotency.clone())
        .with_state(Arc::default());
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}; Ctrl-C ends it", listener.local_addr()?);
    axum::serve(listener, app).with_graceful_shutdown(interrupted()).await?;

    // Callers that hung up may have left charges under way: their answers are recorded too.
    idempotency.effects().drained().await;
    Ok(())
}

async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        // Without a signal the process runs until it is killed, which costs no effect.
        std::future::pending::<()>().await;
    }
}
