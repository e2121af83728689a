//! `Expect: 100-continue` end to end (RFC 9110, 10.1.1).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::Request;
use http::header::EXPECT;
use tokio::sync::oneshot;

use crate::body::RequestBody;

/// Holds a streaming body back until the upstream says `100 Continue`, or has said nothing for `patience`. For a body
/// that is here already the expectation is dropped: it was met when the body was read.
///
/// hyper tells the caller to continue when the body is first asked for, so the caller hears what the upstream said. An
/// upstream that refuses at once never sees the body, and the caller need not send it.
pub(crate) fn arrange(request: &mut Request<RequestBody>, patience: Duration) {
    let RequestBody::Stream(body) = request.body_mut() else {
        request.headers_mut().remove(EXPECT);
        return;
    };
    let (willing, go_ahead) = oneshot::channel::<()>();
    body.hold_until(Box::pin(async move {
        // Both an answer and its absence open the gate.
        let _ = tokio::time::timeout(patience, go_ahead).await;
    }));
    let willing = Mutex::new(Some(willing));
    hyper::ext::on_informational(request, move |informational| {
        if informational.status() == http::StatusCode::CONTINUE
            && let Some(willing) = willing.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            // The body may be gone already.
            let _ = willing.send(());
        }
    });
}
