//! Names to addresses, addresses to sockets.

use std::net::SocketAddr;
use std::time::Instant;

use semel_core::evidence::{AttemptEnd, NotSent};
use tokio::net::TcpStream;

use super::attempt::TransportError;
use super::settings::Endpoint;

/// Connects to the endpoint's addresses, one after the other, until `by`.
pub(super) async fn connect(endpoint: &Endpoint, by: Instant) -> Result<TcpStream, (AttemptEnd, TransportError)> {
    let timeout = || {
        let error = TransportError::ConnectTimeout { host: endpoint.host.clone() };
        (AttemptEnd::NotSent(NotSent::ConnectTimeout), error)
    };
    tokio::time::timeout_at(by.into(), connect_any(endpoint)).await.unwrap_or_else(|_| Err(timeout()))
}

async fn connect_any(endpoint: &Endpoint) -> Result<TcpStream, (AttemptEnd, TransportError)> {
    if let Some(ip) = endpoint.ip {
        return connect_one(SocketAddr::new(ip, endpoint.port)).await;
    }
    let unresolved = |source| {
        let error = TransportError::Dns { host: endpoint.host.clone(), source };
        (AttemptEnd::NotSent(NotSent::Dns), error)
    };
    let addresses =
        tokio::net::lookup_host((&*endpoint.host, endpoint.port)).await.map_err(|error| unresolved(Some(error)))?;
    let mut last = unresolved(None);
    for address in addresses {
        match connect_one(address).await {
            Ok(stream) => return Ok(stream),
            Err(failed) => last = failed,
        }
    }
    Err(last)
}

async fn connect_one(address: SocketAddr) -> Result<TcpStream, (AttemptEnd, TransportError)> {
    let failed = |source| (AttemptEnd::NotSent(NotSent::ConnectFailed), TransportError::Connect { address, source });
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    // Heads and bodies leave in one write where they can; Nagle's delay would only hurt.
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}
