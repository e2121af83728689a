//! The process: ledger, contracts, gateway, admin API; started, reloaded and stopped as one.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use prometheus_client::registry::Registry;
use semel_admin::{AdminHandle, AdminServer, AdminSettings, HookFuture, Hooks, LimitedCaller, ReloadRefused, Reloaded};
use semel_config::{Colour, Config};
use semel_core::code::Code;
use semel_core::effect::{Authority, Owner};
use semel_gateway::listener::ListenError;
use semel_gateway::serving::{Observers, ServeError, Serving};
use semel_ledger::Ledger;
use semel_tower::Effects;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::config_file::ConfigFile;
use crate::contracts::agree;
use crate::exit::{Exit, Failure};

/// A gateway at work over a ledger, with its admin API.
pub(crate) struct Process {
    shared: Arc<Shared>,
    effects: Effects,
    signals: Signals,
    http: SocketAddr,
    admin: SocketAddr,
    admin_handle: AdminHandle,
    admin_task: JoinHandle<()>,
    admin_stop: oneshot::Sender<()>,
}

/// What signals and the admin API act on.
struct Shared {
    ledger: Arc<dyn Ledger>,
    /// The file to load again; none in dev mode.
    file: Option<ConfigFile>,
    /// None once it drains.
    serving: Mutex<Option<Serving>>,
    config: RwLock<Arc<Config>>,
    /// One reload at a time.
    reloading: tokio::sync::Mutex<()>,
}

/// What ends or changes a process from outside.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

/// What a process is started with.
pub(crate) struct Start {
    pub(crate) config: Config,
    /// The file that a reload reads; none: there is nothing to load again.
    pub(crate) file: Option<ConfigFile>,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) owner: Owner,
    /// Replaces contracts that differ.
    pub(crate) migrate: Option<Authority>,
    pub(crate) observers: Observers,
}

/// One random number for one life of the process.
pub(crate) fn owner() -> Result<Owner, Failure> {
    let number = getrandom::u64();
    number.map(Owner).map_err(|error| Failure::new(Exit::Failed, format!("the system has no randomness: {error}")))
}

impl Process {
    /// Compares the contracts, takes both addresses, and serves.
    pub(crate) async fn start(start: Start) -> Result<Self, Failure> {
        let Start { config, file, ledger, owner, migrate, observers } = start;
        let failed = |error: std::io::Error| Failure::new(Exit::Failed, error.to_string());
        let signals = Signals::new().map_err(failed)?;
        agree(&*ledger, &config, migrate).await?;
        let effects = Effects::new(Arc::clone(&ledger), owner);
        let config = Arc::new(config);
        let shared = Arc::new(Shared {
            ledger: Arc::clone(&ledger),
            file,
            serving: Mutex::default(),
            config: RwLock::new(Arc::clone(&config)),
            reloading: tokio::sync::Mutex::default(),
        });
        let serving = Serving::start(Arc::clone(&config), effects.clone(), observers).map_err(|e| cannot_serve(&e))?;
        let http = serving.address();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(serving.metrics())));
        *shared.serving() = Some(serving);
        let hooks = Arc::clone(&shared) as Arc<dyn Hooks>;
        let admin = AdminServer::bind(AdminSettings::new(&config), ledger, registry, hooks)
            .await
            .map_err(|error| Failure::new(Exit::Failed, error.to_string()).code(error.code()))?;
        let (admin_stop, stopped) = oneshot::channel::<()>();
        let (admin_address, admin_handle) = (admin.local_addr().map_err(failed)?, admin.handle());
        let admin_task = tokio::spawn(admin.serve(async move { drop(stopped.await) }));
        Ok(Self { shared, effects, signals, http, admin: admin_address, admin_handle, admin_task, admin_stop })
    }

    /// Where callers are served.
    pub(crate) fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where operators are served.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Serves until a signal ends it, then drains within the configured bound; a second signal gives up at once.
    /// SIGHUP loads the file again.
    pub(crate) async fn run(mut self) -> Result<(), Failure> {
        loop {
            tokio::select! {
                _ = self.signals.interrupt.recv() => break,
                _ = self.signals.terminate.recv() => break,
                _ = self.signals.hang_up.recv() => self.reload().await,
            }
        }
        let drained = self.drain().await;
        // Last: until here /readyz says that it drains, and upstreams may settle.
        drop(self.admin_stop);
        drained.and(self.admin_task.await.map_err(|_| Failure::new(Exit::Failed, "the admin API has panicked")))
    }

    async fn drain(&mut self) -> Result<(), Failure> {
        let Some(serving) = self.shared.serving().take() else { return Ok(()) };
        tracing::info!(connections = serving.connections(), effects = self.effects.in_flight(), "draining");
        let stopping = tokio::task::spawn_blocking(move || serving.stop());
        tokio::select! {
            stopped = stopping => match stopped {
                Ok(true) => Ok(()),
                Ok(false) | Err(_) => Err(Failure::new(Exit::Failed, "a runtime of the gateway has panicked")),
            },
            () = self.signals.any_end() => {
                let left = self.effects.in_flight();
                Failure::new(Exit::Failed, format!("gave up draining: {left} effects are left to their leases")).report();
                // The blocked thread would keep the process until the bound is over.
                std::process::exit(Exit::Failed as i32);
            }
        }
    }

    async fn reload(&self) {
        match self.shared.reload().await {
            Ok(reloaded) => tracing::info!(notes = reloaded.notes, "configuration loaded again"),
            Err(refused) => tracing::error!(
                code = %refused.code,
                report = refused.report,
                "configuration refused, the old one stays"
            ),
        }
        if let Err(error) = self.admin_handle.reload_token() {
            tracing::error!(code = %error.code, "{error}; the old token stays");
        }
    }
}

impl Shared {
    fn serving(&self) -> MutexGuard<'_, Option<Serving>> {
        // Only ever replaced whole.
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn reload(&self) -> Result<Reloaded, ReloadRefused> {
        let _one_at_a_time = self.reloading.lock().await;
        let refuse = |code, report: &str| ReloadRefused { code, report: report.to_owned() };
        let Some(file) = &self.file else {
            return Err(refuse(Code::NOTHING_TO_RELOAD, "there is no file to load again: this is dev mode"));
        };
        let (config, mut notes) = file.read(Colour::Off).map_err(|refused| refuse(refused.code, &refused.report))?;
        let differs = |failure: Failure| refuse(failure.code_or(Code::LEDGER_UNUSABLE), &failure.to_string());
        agree(&*self.ledger, &config, None).await.map_err(differs)?;
        notes += &waits_for_start(&self.config(), &config);
        let config = Arc::new(config);
        match &*self.serving() {
            Some(serving) => serving.reload(Arc::clone(&config)),
            None => return Err(refuse(Code::NOTHING_TO_RELOAD, NOT_SERVING)),
        }
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(Reloaded { notes })
    }
}

/// Before it serves callers, and after.
const NOT_SERVING: &str = "the gateway is starting or draining";

/// What a reload cannot change, in words.
fn waits_for_start(old: &Config, new: &Config) -> String {
    [
        ("listen", old.listen != new.listen),
        ("ledger", old.ledger != new.ledger),
        ("limits", old.limits != new.limits),
        ("admin", old.admin != new.admin),
        ("log", old.log != new.log),
    ]
    .into_iter()
    .filter(|(_, differs)| *differs)
    .map(|(what, _)| format!("changes of `{what}` take effect at the next start\n"))
    .collect()
}

impl Hooks for Shared {
    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn reload(&self) -> HookFuture<'_, Result<Reloaded, ReloadRefused>> {
        Box::pin(self.reload())
    }

    fn limited(&self, count_max: usize) -> Vec<LimitedCaller> {
        let limited = self.serving().as_ref().map(|serving| serving.limited(count_max)).unwrap_or_default();
        let shown = limited.into_iter().map(|one| LimitedCaller {
            route: one.route,
            limit: one.limit,
            who: one.who,
            refused: one.refused,
            left: one.left,
            wait_ms: u64::try_from(one.wait.as_millis()).unwrap_or(u64::MAX),
        });
        shown.collect()
    }

    fn unready(&self) -> Vec<String> {
        if self.serving().is_some() { Vec::new() } else { vec![NOT_SERVING.to_owned()] }
    }
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn any_end(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn cannot_serve(error: &ServeError) -> Failure {
    match error {
        ServeError::Listen(ListenError { address, source }) => {
            Failure::new(Exit::Failed, format!("cannot listen on {address}: {source}")).code(Code::CANNOT_LISTEN)
        }
        ServeError::Runtime(source) => Failure::new(Exit::Failed, format!("{error}: {source}")),
    }
}
