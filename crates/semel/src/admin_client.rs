//! Asks the admin API of a running gateway.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use semel_admin::AdminToken;
use semel_core::code::Code;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::config_file::ConfigFile;
use crate::exit::{Exit, Failure};

/// For one question with its answer; the gateway itself bounds its work to less.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Largest answer: a page of effects, or one effect with its body in base 64.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// Which gateway, and the right to change something there.
#[derive(Debug, Args)]
pub(crate) struct Target {
    #[command(flatten)]
    config: ConfigFile,
    /// The admin address, instead of the one in the configuration
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// The file with the admin token, instead of the one in the configuration
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// A gateway's admin API.
pub(crate) struct AdminClient {
    address: SocketAddr,
    token: AdminToken,
}

impl Target {
    /// Reads the token, and the configuration where the options leave something open.
    pub(crate) fn client(&self) -> Result<AdminClient, Failure> {
        let (address, token_file) = match (self.admin, &self.token_file) {
            (Some(address), Some(file)) => (address, file.clone()),
            (admin, file) => {
                let config = self.config.load()?;
                let file = file.clone().unwrap_or(config.admin.token_file);
                (admin.unwrap_or(config.listen.admin), file)
            }
        };
        let token = AdminToken::load(&token_file)
            .map_err(|error| Failure::new(Exit::Refused, error.to_string()).code(error.code))?;
        Ok(AdminClient { address: reachable(address), token })
    }
}

/// Where a listener on all addresses is reached from this machine.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

impl AdminClient {
    /// What stands at `path`.
    pub(crate) fn get(&self, path: &str) -> Result<Value, Failure> {
        self.call(Method::GET, path, Bytes::new())
    }

    /// Changes something.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.call(Method::POST, path, body.to_string().into())
    }

    fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Value, Failure> {
        let runtime = crate::commands::runtime()?;
        let asked = runtime.block_on(async { tokio::time::timeout(TIMEOUT, self.exchange(method, path, body)).await });
        let (status, answer) = match asked {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(self.unreachable(&error.to_string())),
            Err(_) => return Err(self.unreachable("no answer in time; what was asked for may still have happened")),
        };
        let value: Value = serde_json::from_slice(&answer)
            .map_err(|_| self.unreachable(&format!("what answers there ({status}) is not semel")))?;
        if status.is_success() { Ok(value) } else { Err(refused(status, &value)) }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(self.address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Its error, if any, is also the request's.
        tokio::spawn(async move { drop(connection.await) });
        let mut token = HeaderValue::try_from(format!("Bearer {}", self.token.expose()))?;
        token.set_sensitive(true);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.address.to_string())
            .header(AUTHORIZATION, token)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await?.to_bytes();
        Ok((status, body))
    }

    fn unreachable(&self, why: &str) -> Failure {
        let message = format!("the admin API on {} cannot be asked: {why}", self.address);
        Failure::new(Exit::Failed, message).code(Code::ADMIN_UNREACHABLE)
    }
}

/// A problem (RFC 9457) as a failure of the command.
fn refused(status: StatusCode, problem: &Value) -> Failure {
    let text = |key: &str| problem[key].as_str().unwrap_or_default();
    let exit = match status {
        StatusCode::NOT_FOUND => Exit::NotFound,
        StatusCode::SERVICE_UNAVAILABLE => Exit::LedgerUnusable,
        _ => Exit::Refused,
    };
    let mut message = if text("detail").is_empty() { status.to_string() } else { text("detail").to_owned() };
    for error in problem["errors"].as_array().into_iter().flatten() {
        message +=
            &format!("\n  {}: {}", error["pointer"].as_str().unwrap_or("/"), error["detail"].as_str().unwrap_or(""));
    }
    let failure = Failure::new(exit, message);
    match text("explained_by").parse() {
        Ok(code) => failure.code(code),
        Err(_) if status == StatusCode::UNAUTHORIZED => failure.code(Code::ADMIN_TOKEN_REFUSED),
        Err(_) => failure,
    }
}
