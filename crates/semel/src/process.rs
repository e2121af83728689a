//! The process: ledger, contracts, gateway; started, reloaded and stopped as one.

use std::sync::Arc;

use semel_config::Config;
use semel_core::code::Code;
use semel_core::contract::ScopeContract;
use semel_core::effect::{Authority, Owner};
use semel_gateway::listener::ListenError;
use semel_gateway::serving::{Observers, ServeError, Serving};
use semel_ledger::{Contract, Difference, Ledger};
use semel_tower::Effects;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config_file::ConfigFile;
use crate::exit::{Exit, Failure};

/// A gateway at work over a ledger.
pub(crate) struct Process {
    ledger: Arc<dyn Ledger>,
    effects: Effects,
    serving: Serving,
    signals: Signals,
}

/// What ends or changes a process from outside.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

/// One random number for one life of the process.
pub(crate) fn owner() -> Result<Owner, Failure> {
    let number = getrandom::u64();
    number.map(Owner).map_err(|error| Failure::new(Exit::Failed, format!("the system has no randomness: {error}")))
}

impl Process {
    /// Compares the contracts, then listens and serves. `migrate` replaces contracts that differ.
    pub(crate) async fn start(
        config: Config,
        ledger: Arc<dyn Ledger>,
        owner: Owner,
        migrate: Option<Authority>,
        observers: Observers,
    ) -> Result<Self, Failure> {
        let signals = Signals::new().map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        agree(&*ledger, &config, migrate).await?;
        let effects = Effects::new(Arc::clone(&ledger), owner);
        let serving =
            Serving::start(Arc::new(config), effects.clone(), observers).map_err(|error| cannot_serve(&error))?;
        Ok(Self { ledger, effects, serving, signals })
    }

    /// The gateway.
    pub(crate) fn serving(&self) -> &Serving {
        &self.serving
    }

    /// Serves until a signal ends it, then drains within the configured bound. SIGHUP reads `file` again; a second
    /// signal while draining gives up at once.
    pub(crate) async fn run(mut self, file: Option<&ConfigFile>) -> Result<(), Failure> {
        loop {
            tokio::select! {
                _ = self.signals.interrupt.recv() => break,
                _ = self.signals.terminate.recv() => break,
                _ = self.signals.hang_up.recv() => match file {
                    Some(file) => self.reload_and_log(file).await,
                    None => tracing::warn!("there is no file to load again"),
                },
            }
        }
        let Self { serving, effects, mut signals, .. } = self;
        tracing::info!(connections = serving.connections(), effects = effects.in_flight(), "draining");
        let stopping = tokio::task::spawn_blocking(move || serving.stop());
        tokio::select! {
            stopped = stopping => match stopped {
                Ok(true) => Ok(()),
                Ok(false) | Err(_) => Err(Failure::new(Exit::Failed, "a runtime of the gateway has panicked")),
            },
            () = signals.any_end() => {
                let left = effects.in_flight();
                Err(Failure::new(Exit::Failed, format!("gave up draining: {left} effects are left to their leases")))
            }
        }
    }

    async fn reload_and_log(&self, file: &ConfigFile) {
        match self.reload(file).await {
            Ok(()) => tracing::info!(file = %file.path.display(), "configuration loaded again"),
            Err(failure) => {
                tracing::error!(file = %file.path.display(), "configuration refused, the old one stays: {failure}");
            }
        }
    }

    /// Reads the file again and serves it. Whatever is wrong with it, the old configuration then stays, whole.
    pub(crate) async fn reload(&self, file: &ConfigFile) -> Result<(), Failure> {
        let config = file.load()?;
        let current = self.serving.config();
        agree(&*self.ledger, &config, None).await?;
        for (what, differs) in [
            ("listen", config.listen != current.listen),
            ("ledger", config.ledger != current.ledger),
            ("limits", config.limits != current.limits),
            ("admin", config.admin != current.admin),
            ("log", config.log != current.log),
        ] {
            if differs {
                tracing::warn!("changes of `{what}` take effect at the next start");
            }
        }
        self.serving.reload(Arc::new(config));
        Ok(())
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

/// Compares what the scopes mean with what the ledger remembers; new scopes are added.
pub(crate) async fn agree(ledger: &dyn Ledger, config: &Config, migrate: Option<Authority>) -> Result<(), Failure> {
    let contract = |c: &ScopeContract| Contract { scope: c.scope.as_str().into(), terms: c.to_terms() };
    let contracts = config.contracts.iter().map(contract).collect();
    let migrates = migrate.is_some();
    let unusable = |error| Failure::new(Exit::LedgerUnusable, format!("the ledger cannot be asked: {error}"));
    let differences = ledger.agree(contracts, migrate).await.map_err(unusable)?;
    if migrates || differences.is_empty() {
        for difference in &differences {
            tracing::warn!("contract replaced: {}", words(difference).join("; "));
        }
        return Ok(());
    }
    let words: Vec<String> = differences.iter().flat_map(words).collect();
    let failure = Failure::new(Exit::ConfigRefused, format!("the ledger remembers otherwise: {}", words.join("; ")));
    Err(failure.code(Code::CONTRACT_CHANGED).help("every key of such a scope would be absent, and a retry run again"))
}

fn words(difference: &Difference) -> Vec<String> {
    match (ScopeContract::from_terms(&difference.held), ScopeContract::from_terms(&difference.asked)) {
        (Some(held), Some(asked)) => held.changes(&asked).iter().map(ToString::to_string).collect(),
        _ => vec![format!("scope {:?}: its contract was written by another version", difference.scope)],
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
