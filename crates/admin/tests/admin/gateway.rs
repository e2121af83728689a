//! A gateway's admin side under test, and a client that speaks HTTP by hand.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use prometheus_client::registry::Registry;
use semel_admin::{AdminHandle, AdminServer, AdminSettings, HookFuture, Hooks, LimitedCaller, ReloadRefused, Reloaded};
use semel_config::{Colour, Config};
use semel_core::{scope::LookupSecret, time::Timestamp};
use semel_ledger::{Ledger, ManualClock};
use semel_testkit::http1::{Incoming, Message, Side};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::oneshot, task::JoinHandle, time::timeout};

use crate::{document::Document, ledger::TestLedger};

/// Longer than anything here takes; what takes longer is stuck.
pub(crate) const STUCK: Duration = Duration::from_secs(30);

const CONFIG: &str = r#"
[upstream.payments]
urls = ["http://127.0.0.1:9"]

[[route]]
match = "POST /pay"
to = "payments"
effect = "once"
idempotency = { store_headers = ["x-charge"], response_cap = "1KiB" }
"#;

pub(crate) struct Gateway {
    pub(crate) ledger: Arc<TestLedger>,
    pub(crate) clock: ManualClock,
    pub(crate) hooks: Arc<TestHooks>,
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
    pub(crate) folder: TempDir,
    pub(crate) handle: AdminHandle,
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) served: JoinHandle<()>,
    document: Document,
}

pub(crate) struct TestHooks {
    config: Arc<Config>,
    pub(crate) unready: Mutex<Vec<String>>,
    pub(crate) reload: Mutex<Result<Reloaded, ReloadRefused>>,
}

/// An answer, with its body as JSON where it is that.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) message: Message,
    pub(crate) json: Value,
}

impl Gateway {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut AdminSettings)) -> Self {
        let clock = ManualClock::at(Timestamp::from_millis(1_800_000_000_000));
        let ledger = Arc::new(TestLedger::new(&clock));
        let folder = tempfile::tempdir().unwrap();
        let token_file = folder.path().join("admin.token");
        let mut settings = AdminSettings::at(([127, 0, 0, 1], 0).into(), token_file.clone());
        settings.allowed_hosts = vec!["ops.example".to_owned()];
        settings.allowed_origins = vec!["https://dash.example".to_owned()];
        change(&mut settings);
        let load = semel_config::load("test.toml", CONFIG);
        let (config, _) = load.unwrap_or_else(|report| panic!("{}", report.render(Colour::Off)));
        let hooks = Arc::new(TestHooks {
            config: Arc::new(config),
            unready: Mutex::default(),
            reload: Mutex::new(Ok(Reloaded { notes: "1 route".to_owned() })),
        });
        let server = AdminServer::bind(
            settings,
            Arc::clone(&ledger) as Arc<dyn Ledger>,
            Registry::default(),
            Arc::clone(&hooks) as Arc<dyn Hooks>,
        );
        let server = server.await.unwrap();
        let (address, handle) = (server.local_addr().unwrap(), server.handle());
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(server.serve(async move { drop(stopped.await) }));
        let token = std::fs::read_to_string(&token_file).unwrap().trim().to_owned();
        Self { ledger, clock, hooks, address, token, folder, handle, stop, served, document: Document::read() }
    }

    pub(crate) fn secret(&self) -> LookupSecret {
        self.ledger.secret()
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends these bytes on a connection of their own and reads the answer.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> Message {
        let mut socket = self.connect().await;
        socket.write_all(bytes).await.unwrap();
        timeout(STUCK, Incoming::default().read(&mut socket, Side::Answer)).await.unwrap().unwrap()
    }

    /// A request with exactly these headers and Content-Length; its answer must be as the document says.
    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let message = self.raw(&[head.as_bytes(), b"\r\n", body].concat()).await;
        let json = serde_json::from_slice(&message.body).unwrap_or(Value::Null);
        self.document.check(method, path, &message);
        Answer { message, json }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[("Host", "localhost")], b"").await
    }

    pub(crate) async fn get_with_token(&self, path: &str) -> Answer {
        let bearer = format!("Bearer {}", self.token);
        self.send("GET", path, &[("Host", "localhost"), ("Authorization", &bearer)], b"").await
    }

    /// A change as an operator makes it.
    pub(crate) async fn change(&self, path: &str, body: &Value) -> Answer {
        let bearer = format!("Bearer {}", self.token);
        let headers = [("Host", "localhost"), ("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        self.send("POST", path, &headers, body.to_string().as_bytes()).await
    }

    /// An upstream's own settlement.
    pub(crate) async fn outcome(&self, id: &str, token: &str, body: &Value) -> Answer {
        let headers = [("Host", "10.0.0.7:8081"), ("Semel-Settlement", token), ("Content-Type", "application/json")];
        self.send("POST", &format!("/v1/effects/{id}/outcome"), &headers, body.to_string().as_bytes()).await
    }
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.message.status()
    }

    pub(crate) fn code(&self) -> &str {
        self.json["code"].as_str().unwrap_or_default()
    }

    /// Status and code of a refusal.
    pub(crate) fn refusal(&self) -> (u16, &str) {
        (self.status(), self.code())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.message.body).into_owned()
    }
}

impl Hooks for TestHooks {
    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config)
    }

    fn reload(&self) -> HookFuture<'_, Result<Reloaded, ReloadRefused>> {
        Box::pin(async { self.reload.lock().unwrap().clone() })
    }

    fn limited(&self, count_max: usize) -> Vec<LimitedCaller> {
        let one = |n: u32| LimitedCaller {
            route: "POST /pay".to_owned(),
            limit: "caller".to_owned(),
            who: format!("10.0.0.{n}"),
            refused: 9 - n,
            left: 0,
            wait_ms: 1_500,
        };
        (1..=3).map(one).take(count_max).collect()
    }

    fn unready(&self) -> Vec<String> {
        self.unready.lock().unwrap().clone()
    }
}
