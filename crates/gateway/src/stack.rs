//! The whole path of a request, outer to inner. Each step stands where it does for a reason; the order is never the
//! user's.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use http::header::{ALLOW, HOST, HeaderMap, HeaderValue, ORIGIN};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, Uri};
use http_body::Body as _;
use hyper::body::Incoming;
use semel_config::Effect;
use semel_core::dialect::Dialect;
use semel_core::problem::{Problem, ProblemKind};
use semel_core::route::{self, Match, Miss, Params};
use semel_tower::Effects;

use crate::body::{RequestBody, ResponseBody};
use crate::clock;
use crate::cors;
use crate::forward::{self, Admitted};
use crate::headers::forwarded::{ForwardedStyle, Peer};
use crate::headers::trace::X_REQUEST_ID;
use crate::listener::Handler;
use crate::metrics::{Outcome, Stage};
use crate::problem;
use crate::site::{Path, RouteStack, Site};

/// The largest body of a query that is kept in memory to be sent again.
const QUERY_BYTES_MAX: u64 = 1 << 20;

/// One runtime's gateway.
pub struct Gateway {
    /// Replaced by a reload; a request keeps the one it began with.
    site: RwLock<Arc<Site>>,
    effects: Effects,
}

impl Gateway {
    /// A gateway that serves `site`.
    #[must_use]
    pub fn new(site: Site, effects: Effects) -> Self {
        Self { site: RwLock::new(Arc::new(site)), effects }
    }

    /// What it serves now.
    #[must_use]
    pub fn site(&self) -> Arc<Site> {
        // Writers only replace the Arc, which cannot leave it half done.
        Arc::clone(&self.site.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Serves `site` from now on. Requests under way end under the one they began with.
    pub fn replace(&self, site: Site) {
        *self.site.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(site);
    }

    async fn serve(&self, request: Request<Incoming>, peer: &Peer) -> Response<ResponseBody> {
        let site = self.site();
        // A reload may have changed who is believed, also on connections that were there before.
        let judged_anew;
        let peer = if peer.is_trusted() == site.shared.trusted.contains(peer.address().ip().to_canonical()) {
            peer
        } else {
            judged_anew = Peer::new(peer.address(), &site.shared.trusted);
            &judged_anew
        };
        // One host, one framing, hop-by-hop headers gone: everything after reads the request the way the upstream will.
        let mut admitted = match forward::admit(request, peer, ForwardedStyle::Both) {
            Ok(admitted) => admitted,
            Err(problem) => {
                site.unmatched.outcome(Outcome::Refused);
                return problem::respond(&problem, &Dialect::IETF);
            }
        };
        let request_id = admitted.request_id.clone();
        let origin = admitted.request.headers().get(ORIGIN).cloned();
        let mut cors = None;
        let mut response = match find(&site, &mut admitted.request) {
            Err(refusal) => {
                site.unmatched.outcome(Outcome::Refused);
                *refusal
            }
            Ok(found) => {
                cors = found.route.cors.as_ref();
                // A preflight asks the gateway, not the upstream: it has no key and must not need one.
                match preflight(&site, &found, &admitted.request) {
                    Some(preflight) => return preflight,
                    None => found.serve(admitted, peer).await,
                }
            }
        };
        let headers = response.headers_mut();
        headers.insert(X_REQUEST_ID, request_id);
        // For this caller's origin, also on problems and replays.
        if let Some(cors) = cors {
            cors.decorate(origin.as_ref(), headers);
        }
        response
    }
}

/// A route and what its path template caught.
struct Found<'a> {
    route: &'a RouteStack,
    params: Params,
    /// The target by which it was found.
    uri: Uri,
    /// The request takes the route's upstream but not its policies: an OPTIONS that no route names.
    plain: bool,
}

impl Found<'_> {
    async fn serve(&self, admitted: Admitted<Incoming>, peer: &Peer) -> Response<ResponseBody> {
        let metrics = &self.route.metrics;
        let began = clock::now();
        let in_flight = metrics.begin();
        let response = match &self.route.rates {
            None => self.answer(admitted, peer).await,
            // Before the ledger: a refusal costs nothing and burns no key.
            Some(rates) => match rates.check(admitted.request.headers(), peer.address().ip()) {
                Ok(standing) => {
                    let mut response = self.answer(admitted, peer).await;
                    rates.tell(&standing, response.headers_mut());
                    response
                }
                Err(limited) => {
                    metrics.outcome(Outcome::Refused);
                    rates.refuse(&limited, self.dialect())
                }
            },
        };
        drop(in_flight);
        metrics.status(response.status());
        metrics.stage(Stage::Total, clock::now().saturating_duration_since(began));
        response
    }

    fn dialect(&self) -> &Dialect {
        match &self.route.path {
            Path::Once(once) if !self.plain => once.dialect(),
            _ => &Dialect::IETF,
        }
    }

    async fn answer(&self, admitted: Admitted<Incoming>, peer: &Peer) -> Response<ResponseBody> {
        match &self.route.path {
            // Ledger look-up, claim, attempts, settlement: the order inside is the effect's.
            // On the heap, both of them: their futures are large, and every request would carry their size.
            Path::Once(once) if !self.plain => Box::pin(once.call(admitted, &self.params, self.uri.path(), peer)).await,
            // Repeatable by itself: buffered, attempted again, streamed back.
            Path::Resend if !self.plain && self.is_buffered(&admitted) => {
                Box::pin(self.route.resending.call(admitted, self.route.config.request_cap_bytes)).await
            }
            // Anything else passes through untouched, both ways, once.
            _ => {
                let RouteStack { resending, metrics, config, .. } = self.route;
                let forward = resending.forward(config.timeout.total);
                let bytes_max = config.request_cap_bytes;
                if admitted.request.body().size_hint().lower() > bytes_max {
                    return problem::respond(&problem::body_too_large(bytes_max), &Dialect::IETF);
                }
                let deadline = match admitted.said_deadline(config.timeout.total) {
                    Ok(deadline) => deadline,
                    Err(problem) => {
                        metrics.outcome(Outcome::Refused);
                        return problem::respond(&problem, &Dialect::IETF);
                    }
                };
                let request = admitted.request.map(|body| RequestBody::streaming(body, bytes_max));
                forward.send(request, &admitted.trace, deadline).await
            }
        }
    }

    /// A query with a large body, or one of unknown length, streams and is sent once: what changes nothing may be lost.
    fn is_buffered(&self, admitted: &Admitted<Incoming>) -> bool {
        let length = admitted.request.body().size_hint().exact();
        self.route.config.effect != Effect::Read || length.is_some_and(|length| length <= QUERY_BYTES_MAX)
    }
}

/// The answer to a preflight, by the route that the request would take which it asks for.
fn preflight(site: &Site, found: &Found<'_>, request: &Request<Incoming>) -> Option<Response<ResponseBody>> {
    let headers = request.headers();
    let asked = cors::asked_method(request.method(), headers)?;
    let route = match site.shared.config.router.find(host(headers), &asked, found.uri.path(), headers) {
        Ok(Match { route, .. }) => site.route(route),
        Err(_) => found.route,
    };
    Some(route.cors.as_ref()?.preflight(&asked, headers))
}

fn host(headers: &HeaderMap) -> Option<&str> {
    headers.get(HOST).and_then(|host| host.to_str().ok())
}

/// Finds the route, by the one spelling of the path under which it also goes upstream.
fn find<'a>(site: &'a Site, request: &mut Request<Incoming>) -> Result<Found<'a>, Box<Response<ResponseBody>>> {
    let refuse = |problem: Problem| Box::new(problem::respond(&problem, &Dialect::IETF));
    match route::normalise(request.uri().path()) {
        Ok(Cow::Borrowed(_)) => {}
        Ok(Cow::Owned(path)) => *request.uri_mut() = respelled(request.uri(), &path),
        Err(error) => return Err(refuse(Problem::new(ProblemKind::RequestMalformed).detail(error.to_string()))),
    }
    let uri = request.uri().clone();
    let headers = request.headers();
    match site.shared.config.router.find(host(headers), request.method(), uri.path(), headers) {
        Ok(Match { route, params }) => Ok(Found { route: site.route(route), params, uri, plain: false }),
        Err(Miss::Method { nearest, .. }) if *request.method() == Method::OPTIONS => {
            Ok(Found { route: site.route(nearest), params: Params::default(), uri, plain: true })
        }
        Err(Miss::Method { allow, .. }) => {
            let mut response = refuse(Problem::new(ProblemKind::MethodNotAllowed));
            let allow: Vec<_> = allow.iter().map(|method| method.to_string()).collect();
            if let Ok(allow) = HeaderValue::from_str(&allow.join(", ")) {
                response.headers_mut().insert(ALLOW, allow);
            }
            Err(response)
        }
        Err(Miss::NotFound) => Err(refuse(Problem::new(ProblemKind::RouteNotFound))),
    }
}

fn respelled(uri: &Uri, path: &str) -> Uri {
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    // A path that was normalised and a query that was parsed make a valid target.
    PathAndQuery::try_from(target).map_or_else(|_| uri.clone(), Uri::from)
}

impl Handler for Gateway {
    fn connected(&self, address: SocketAddr) -> Peer {
        Peer::new(address, &self.site().shared.trusted)
    }

    async fn handle(self: Arc<Self>, request: Request<Incoming>, peer: Arc<Peer>) -> Response<ResponseBody> {
        self.serve(request, &peer).await
    }

    /// Effects outlive their callers: they are waited for when the last connection has closed.
    async fn finished(self: Arc<Self>) {
        self.effects.drained().await;
    }
}
