//! `semel run`

use std::sync::Arc;

use clap::Args;
use semel_config::Route;
use semel_core::effect::Authority;
use semel_tower::Observe;

use crate::Outcome;
use crate::config_file::ConfigFile;
use crate::exit::Exit;
use crate::process::{self, Process, Start};
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
        super::runtime()?.block_on(async {
            let owner = process::owner()?;
            let ledger = ledger::open(&config.ledger, owner).await?;
            let migrate = self
                .migrate_contracts
                .map(|reason| Authority::Operator { name: "semel run".into(), reason: reason.into() });
            let observers = Arc::new(|_: &Route| Arc::new(()) as Arc<dyn Observe>);
            let file = Some(self.config);
            let process = Process::start(Start { config, file, ledger, owner, migrate, observers }).await?;
            tracing::info!(http = %process.http(), admin = %process.admin(), "serving");
            process.run().await?;
            Ok(Exit::Done)
        })
    }
}
