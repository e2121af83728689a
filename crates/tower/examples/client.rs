//! An HTTP client over three endpoints, of which one fails and one never answers: all calls succeed.
//!
//! ```console
//! $ cargo run -p semel-tower --example client
//! ```

use std::{
    error::Error,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use semel_core::policy::{hedge::HedgePolicy, retry::RetryPolicy};
use semel_tower::{
    BoxError,
    policy::{Balance, Policies},
};
use tokio::net::TcpListener;
use tower::{Layer as _, Service, ServiceExt as _, service_fn};

type Http = Client<HttpConnector, Full<Bytes>>;

/// A client of all `endpoints` together: its requests name only a path.
fn polite(
    endpoints: [SocketAddr; 3],
) -> impl Service<
    Request<Full<Bytes>>,
    Response = Response<impl http_body::Body<Data = Bytes, Error: Into<BoxError>>>,
    Error = BoxError,
> + Clone {
    let http: Http = Client::builder(TokioExecutor::new()).build_http();
    let endpoint = |address: SocketAddr| {
        let http = http.clone();
        service_fn(move |mut request: Request<Full<Bytes>>| {
            let http = http.clone();
            async move {
                let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
                *request.uri_mut() = Uri::try_from(format!("http://{address}{path}"))?;
                Ok::<_, BoxError>(http.request(request).await?)
            }
        })
    };
    Policies::http()
        .deadline(Duration::from_secs(10))
        .retry(RetryPolicy { attempts_max: 5, ..RetryPolicy::default() })
        .hedge(HedgePolicy::default())
        .attempt_timeout(Duration::from_millis(500))
        .bulkhead(64)
        .layer(Balance::http(endpoints.map(endpoint)))
}

/// A server that counts what it is asked.
async fn serve(answer: Option<StatusCode>) -> Result<(SocketAddr, Arc<AtomicU32>), BoxError> {
    let asked = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&asked);
    let handler = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            match answer {
                Some(status) => status,
                None => std::future::pending().await,
            }
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/", get(handler))).await });
    Ok((address, asked))
}

/// Makes `calls` calls; how many succeeded, and what each endpoint was asked.
async fn run(calls: u32) -> Result<(u32, [u32; 3]), BoxError> {
    let well = serve(Some(StatusCode::OK)).await?;
    let failing = serve(Some(StatusCode::SERVICE_UNAVAILABLE)).await?;
    let silent = serve(None).await?;
    let client = polite([well.0, failing.0, silent.0]);
    let mut succeeded = 0;
    for _ in 0..calls {
        let answer = client.clone().oneshot(Request::get("/").body(Full::default())?).await?;
        succeeded += u32::from(answer.status().is_success());
        // Until then the call counts as under way.
        answer.into_body().collect().await.map_err(Into::into)?;
    }
    Ok((succeeded, [well.1, failing.1, silent.1].map(|asked| asked.load(Ordering::SeqCst))))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (succeeded, [well, failing, silent]) = run(1_000).await.map_err(|error| error as Box<dyn Error>)?;
    println!("{succeeded} of 1000 calls succeeded; attempts: {well} well, {failing} failed, {silent} unanswered");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_calls_succeed() {
        let (succeeded, [well, failing, silent]) = run(50).await.unwrap();
        assert_eq!(succeeded, 50);
        assert!(well >= 50, "{well}");
        assert!(failing + silent <= 20, "{failing} failed, {silent} unanswered: those are avoided");
    }
}
