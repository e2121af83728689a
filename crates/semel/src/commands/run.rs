//! `semel run`

use std::sync::Arc;

use clap::Args;
use semel_core::effect::Authority;

use crate::Outcome;
use crate::config_file::ConfigFile;
use crate::exit::{Exit, Failure};
use crate::process::{self, Process};
use crate::{ledger, logging};

/// Serve: the gateway and its admin API
///
/// SIGTERM and Ctrl-C drain within `limits.drain_timeout`; a second one gives up. SIGHUP loads the file again without
/// dropping a request; a bad file leaves the old one in force.
#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    config: ConfigFile,
    /// Accept that scopes mean something else than the ledger remembers, and say why (it is audited): their keys
    /// count as absent from now on
    #[arg(long, value_name = "REASON")]
    migrate_contracts: Option<String>,
}

impl Run {
    pub(crate) fn run(self) -> Outcome {
        let config = self.config.load()?;
        logging::start(&config.log)?;
        let runtime = runtime()?;
        runtime.block_on(async {
            let owner = process::owner()?;
            let ledger = ledger::open(&config.ledger, owner)?;
            let migrate = self
                .migrate_contracts
                .map(|reason| Authority::Operator { name: "semel run".into(), reason: reason.into() });
            let process = Process::start(config, ledger, owner, migrate, Arc::new(|_| Arc::new(()))).await?;
            tracing::info!(http = %process.serving().address(), "serving");
            process.run(Some(&self.config)).await?;
            Ok(Exit::Done)
        })
    }
}

/// Signals, reloads and the admin API; the gateway has runtimes of its own.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::new(Exit::Failed, format!("a runtime cannot be started: {error}")))
}
