//! Upstreams: endpoints, their connection pools, and attempts that always say what they prove.
//!
//! hyper-util's pooled client repeats requests by itself and hides which; here an attempt is one request on one
//! connection, and its [`Attempt`] carries the evidence for the effect's verdict.

mod answer;
mod attempt;
mod balance;
mod connect;
mod connection;
mod intake;
mod keep_alive;
mod pool;
mod settings;
mod socket;

use std::sync::Arc;
use std::time::Instant;

use http::header::{CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use semel_core::evidence::{AttemptEnd, Lost, NotSent};

pub use self::answer::UpstreamBody;
pub use self::attempt::{Attempt, AttemptOptions, BodyTime, EndpointIndex, Failure, TransportError, Tried};
pub use self::balance::{EndpointState, Health};
pub use self::intake::{Intake, Picked};
pub use self::settings::{ENDPOINTS_MAX, Endpoint, HostPolicy, UpstreamSettings};

use self::connection::Connection;
use self::pool::{Grant, Pool, QueueFull, Slot, Taken};
use crate::body::RequestBody;
use crate::clock;
use crate::forward::expect;

/// One upstream as one runtime sees it: endpoints and their connections.
///
/// Each runtime of the gateway has an `Upstream` of its own, so that connections never change threads.
#[derive(Debug)]
pub struct Upstream {
    settings: UpstreamSettings,
    pools: Box<[Arc<Pool>]>,
    intake: Arc<Intake>,
}

impl Upstream {
    /// An upstream without connections yet, the only one of its kind.
    ///
    /// # Panics
    /// As [`Upstream::sharing`].
    #[must_use]
    pub fn new(settings: UpstreamSettings) -> Self {
        Self::sharing(Arc::new(Intake::new(settings, None)), 1, None)
    }

    /// An upstream without connections yet, one of `runtimes` that share `connections_max` and what stands in `intake`. Where `former` had the
    /// same endpoint under the same settings, its connections go on.
    ///
    /// # Panics
    /// If there is no endpoint, or more than [`ENDPOINTS_MAX`], or no runtime: configuration has excluded that.
    #[must_use]
    pub fn sharing(intake: Arc<Intake>, runtimes: usize, former: Option<&Self>) -> Self {
        let settings = intake.settings().clone();
        let alike = |former: &&Self| {
            let endpoints = settings.endpoints.clone();
            UpstreamSettings { endpoints, ..former.settings.clone() } == settings
        };
        let former = former.filter(alike);
        let kept = |endpoint: &Endpoint| {
            let former = former?;
            let known = former.settings.endpoints.iter().position(|known| known == endpoint)?;
            Some(Arc::clone(&former.pools[known]))
        };
        assert!((1..=ENDPOINTS_MAX).contains(&settings.endpoints.len()), "1 to 64 endpoints");
        assert!(runtimes > 0, "at least one runtime");
        let share = settings.connections_max.div_ceil(runtimes).max(1);
        let pool = |endpoint| kept(endpoint).unwrap_or_else(|| Pool::new(share, settings.waiting_max));
        let pools = settings.endpoints.iter().map(pool).collect();
        Self { settings, pools, intake }
    }

    /// What was set.
    #[must_use]
    pub fn settings(&self) -> &UpstreamSettings {
        &self.settings
    }

    /// What all runtimes share of it.
    #[must_use]
    pub fn intake(&self) -> &Arc<Intake> {
        &self.intake
    }

    /// Connections open now, over all endpoints, and how many of them are idle.
    #[must_use]
    pub fn connections(&self) -> (usize, usize) {
        self.pools.iter().map(|pool| pool.counts()).fold((0, 0), |(open, idle), (o, i)| (open + o, idle + i))
    }

    /// Makes one attempt: picks an endpoint, gets a connection, sends the request, waits for the head of the answer.
    ///
    /// The request is sent as it is but for its version and (by [`HostPolicy`]) `Host`; hop-by-hop headers have been
    /// removed before, and its target is a path. A pooled connection that turns out to be dead before anything was written to it is
    /// not an attempt: the next one is taken.
    pub async fn send(&self, request: Request<RequestBody>, options: &AttemptOptions) -> Attempt {
        match self.intake.pick(Tried::default()) {
            Ok(picked) => self.send_to(picked, request, options).await,
            Err(error) => Attempt::refused(error, request),
        }
    }

    /// As [`send`](Self::send), where the endpoint was picked before.
    pub async fn send_to(
        &self,
        Picked { endpoint, lease }: Picked,
        mut request: Request<RequestBody>,
        options: &AttemptOptions,
    ) -> Attempt {
        self.address(&mut request, &self.settings.endpoints[endpoint.get()]);
        if request.headers().contains_key(EXPECT) {
            expect::arrange(&mut request, self.settings.continue_timeout);
        }
        let outcome = self.exchange(endpoint, request, options).await;
        let mut attempt = Attempt { endpoint: Some(endpoint), outcome };
        attempt.account_to(lease, options.is_hurried);
        attempt
    }

    async fn exchange(
        &self,
        endpoint: EndpointIndex,
        mut request: Request<RequestBody>,
        options: &AttemptOptions,
    ) -> Result<Response<UpstreamBody>, Box<Failure>> {
        let begin_by = options.begin_by.min(options.head_by);
        loop {
            let (connection, reused) = match self.connection(endpoint, begin_by).await {
                Ok(connection) => connection,
                Err((end, error)) => return Err(Failure::boxed(end, error, Some(request))),
            };
            match connection.exchange(request, options.head_by).await {
                Ok((response, connection)) => return self.answer(response, connection, options),
                Err(mut failure) => match (reused, failure.end, failure.returned.take()) {
                    // Each turn uses up a dead connection, so this ends.
                    (true, AttemptEnd::NotSent(NotSent::HandedBack), Some(unsent)) => request = unsent,
                    (_, _, returned) => {
                        failure.returned = returned;
                        return Err(failure);
                    }
                },
            }
        }
    }

    /// The answer with its body tied to its connection.
    fn answer(
        &self,
        response: Response<hyper::body::Incoming>,
        connection: Box<Connection>,
        options: &AttemptOptions,
    ) -> Result<Response<UpstreamBody>, Box<Failure>> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            // Nobody asked for it: `Upgrade` is never forwarded.
            let end = AttemptEnd::Lost(Lost::Malformed);
            return Err(Failure::boxed(end, TransportError::SwitchedProtocols, None));
        }
        if !has_one_framing(response.headers()) {
            // RFC 9112, 6.1 and 6.3: such an answer is to be handled as an error.
            return Err(Failure::boxed(AttemptEnd::Lost(Lost::Malformed), TransportError::Framing, None));
        }
        let idle_timeout = self.settings.body_idle_timeout;
        let mut response = response.map(|incoming| UpstreamBody::new(incoming, connection, options.body, idle_timeout));
        options.cut_after.into_iter().for_each(|bytes| response.body_mut().cut_after(bytes));
        Ok(response)
    }

    /// A connection from the pool, or a new one; and which of both.
    async fn connection(
        &self,
        endpoint: EndpointIndex,
        by: Instant,
    ) -> Result<(Box<Connection>, bool), (AttemptEnd, TransportError)> {
        let pool = &self.pools[endpoint.get()];
        match pool.take(clock::now()) {
            Ok(Ok(Grant::Connection(connection))) => Ok((connection, true)),
            // Boxed, because it is rare and its future large: requests are moved about with room for it.
            taken => Box::pin(self.wait_or_connect(endpoint, taken, by)).await,
        }
    }

    async fn wait_or_connect(
        &self,
        endpoint: EndpointIndex,
        taken: Taken,
        by: Instant,
    ) -> Result<(Box<Connection>, bool), (AttemptEnd, TransportError)> {
        let connections_max = self.pools[endpoint.get()].connections_max();
        let refused = |error| (AttemptEnd::NotSent(NotSent::RefusedHere), error);
        let grant = match taken {
            Ok(Ok(grant)) => grant,
            Ok(Err(queued)) => {
                let until = by.min(clock::now() + self.settings.pool_wait);
                match tokio::time::timeout_at(until.into(), queued).await {
                    Ok(Ok(grant)) => grant,
                    _ => return Err(refused(TransportError::QueueTimeout { connections_max })),
                }
            }
            Err(QueueFull) => return Err(refused(TransportError::QueueFull { connections_max })),
        };
        match grant {
            Grant::Connection(connection) => Ok((connection, true)),
            Grant::Slot(slot) => self.connect(endpoint, slot, by).await.map(|connection| (connection, false)),
        }
    }

    async fn connect(
        &self,
        endpoint: EndpointIndex,
        slot: Slot,
        by: Instant,
    ) -> Result<Box<Connection>, (AttemptEnd, TransportError)> {
        let by = by.min(clock::now() + self.settings.connect_timeout);
        let stream = connect::connect(&self.settings.endpoints[endpoint.get()], by).await?;
        Connection::handshake(stream, slot, &self.settings, clock::now())
            .await
            .map_err(|error| (AttemptEnd::NotSent(NotSent::ConnectFailed), TransportError::Http(error)))
    }

    /// Makes the request one for this endpoint: HTTP/1.1, and a `Host`.
    fn address(&self, request: &mut Request<RequestBody>, endpoint: &Endpoint) {
        *request.version_mut() = Version::HTTP_11;
        if self.settings.host == HostPolicy::Endpoint || !request.headers().contains_key(HOST) {
            request.headers_mut().insert(HOST, HeaderValue::clone(&endpoint.authority));
        }
    }
}

/// True unless an answer has two lengths, or a transfer coding that nobody asked for.
fn has_one_framing(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => {
            coding.as_bytes().eq_ignore_ascii_case(b"chunked") && !headers.contains_key(CONTENT_LENGTH)
        }
        _ => false,
    }
}
