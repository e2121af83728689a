//! A bare forwarding gateway for measuring: `forward LISTEN_ADDRESS UPSTREAM_ADDRESS [RUNTIMES]`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use semel_core::dialect::Dialect;
use semel_gateway::body::{RequestBody, ResponseBody};
use semel_gateway::forward::{Admitted, Forward, admit};
use semel_gateway::headers::forwarded::{ForwardedStyle, Peer, TrustedPeers};
use semel_gateway::listener::{Handler, Listener, ListenerSettings};
use semel_gateway::metrics::RouteMetrics;
use semel_gateway::problem::respond;
use semel_gateway::upstream::{Upstream, UpstreamSettings};

struct ForwardAll(Upstream, Arc<RouteMetrics>);

impl Handler for ForwardAll {
    fn connected(&self, address: SocketAddr) -> Peer {
        Peer::new(address, &TrustedPeers::default())
    }

    async fn handle(self: Arc<Self>, request: Request<Incoming>, peer: Arc<Peer>) -> Response<ResponseBody> {
        match admit(request, &peer, ForwardedStyle::Both) {
            Ok(Admitted { request, trace, .. }) => {
                let forward = Forward { upstream: &self.0, head_timeout: Duration::from_secs(10), metrics: &self.1 };
                forward.send(request.map(|body| RequestBody::streaming(body, u64::MAX)), &trace).await
            }
            Err(problem) => respond(&problem, &Dialect::IETF),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().collect();
    let mut settings = ListenerSettings::new(arguments[1].parse()?);
    if let Some(runtimes) = arguments.get(3) {
        settings.runtimes = runtimes.parse()?;
    }
    let upstream = UpstreamSettings::new(vec![arguments[2].parse::<SocketAddr>()?.into()]);
    let runtimes = settings.runtimes;
    let running = Listener::bind(settings)?
        .start(move |_| Arc::new(ForwardAll(Upstream::new(upstream.clone(), runtimes), Arc::default())))?;
    println!("listening on {}", running.address());
    loop {
        std::thread::park();
    }
}
