//! Asks the admin API of a running gateway.

use std::cell::LazyCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
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
    /// Or why there is none. Looked for when it turns out to be needed, so that who only looks needs neither it nor a file.
    token: LazyCell<Token, Box<dyn FnOnce() -> Token>>,
}

impl Target {
    /// Reads the token, and the configuration where the options leave something open.
    pub(crate) fn client(&self) -> Result<AdminClient, Failure> {
        let (address, token): (_, Box<dyn FnOnce() -> Token>) = match (self.admin, self.token_file.clone()) {
            (Some(address), Some(file)) => (address, Box::new(move || load(&file))),
            (Some(address), None) => {
                let file = self.config.clone();
                (address, Box::new(move || load(&file.load()?.admin.token_file)))
            }
            (None, file) => {
                let config = self.config.load()?;
                (config.listen.admin, Box::new(move || load(file.as_ref().unwrap_or(&config.admin.token_file))))
            }
        };
        Ok(AdminClient { address: reachable(address), token: LazyCell::new(token) })
    }
}

type Token = Result<AdminToken, Failure>;

fn load(file: &Path) -> Token {
    AdminToken::load(file).map_err(|error| Failure::new(Exit::Refused, error.to_string()).code(error.code))
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
    /// What stands at `path`. The token is shown only to a gateway that asks for it: whoever took the port while the
    /// gateway is down should not learn it from somebody who only looks.
    pub(crate) fn get(&self, path: &str) -> Result<Value, Failure> {
        match self.call(Method::GET, path, Bytes::new(), None)? {
            (StatusCode::UNAUTHORIZED, _) => {
                let answer = self.call(Method::GET, path, Bytes::new(), Some(self.token()?))?;
                accepted(answer)
            }
            answer => accepted(answer),
        }
    }

    /// The metrics, as text.
    pub(crate) fn metrics(&self) -> Result<String, Failure> {
        let (status, text) = self.answer(Method::GET, "/metrics", Bytes::new(), None)?;
        let text = String::from_utf8(text.into()).ok().filter(|_| status.is_success());
        text.ok_or_else(|| self.unreachable(&format!("what answers there ({status}) is not semel")))
    }

    /// Where it is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes something.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let answer = self.call(Method::POST, path, body.to_string().into(), Some(self.token()?))?;
        accepted(answer)
    }

    /// The right to change something, or why there is none.
    pub(crate) fn token(&self) -> Result<&AdminToken, Failure> {
        self.token.as_ref().map_err(Failure::clone)
    }

    fn call(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        token: Option<&AdminToken>,
    ) -> Result<(StatusCode, Value), Failure> {
        let (status, answer) = self.answer(method, path, body, token)?;
        let value: Value = serde_json::from_slice(&answer)
            .map_err(|_| self.unreachable(&format!("what answers there ({status}) is not semel")))?;
        Ok((status, value))
    }

    fn answer(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        token: Option<&AdminToken>,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let runtime = crate::commands::runtime()?;
        let exchange = async { tokio::time::timeout(TIMEOUT, self.exchange(method, path, body, token)).await };
        match runtime.block_on(exchange) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.unreachable(&error.to_string())),
            Err(_) => Err(self.unreachable("no answer in time; what was asked for may still have happened")),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        token: Option<&AdminToken>,
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(self.address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Its error, if any, is also the request's.
        tokio::spawn(async move { drop(connection.await) });
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.address.to_string())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        if let Some(token) = token {
            let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose()))?;
            bearer.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, bearer);
        }
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

fn accepted((status, value): (StatusCode, Value)) -> Result<Value, Failure> {
    if status.is_success() { Ok(value) } else { Err(refused(status, &value)) }
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
