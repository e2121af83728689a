//! `semel dev`

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anstream::eprintln;
use clap::Args;
use semel_config::{Colour, Config, load};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::Outcome;
use crate::demo::{self, Demo};
use crate::exit::{Exit, Failure};
use crate::narrator::Narrator;
use crate::process::{self, Process, Start};
use crate::{ledger, logging};

/// Try it: a gateway before a demo service that loses replies, or before your own service
///
/// Every POST and PATCH with an Idempotency-Key happens once; without one it passes through. Nothing is kept
/// afterwards.
#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// Your service instead of the demo, such as http://127.0.0.1:3000
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// Where the gateway listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where the admin API listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8081")]
    admin: SocketAddr,
    /// Rehearse failures: some attempts are late, some refused with 503, some answers break off
    #[arg(long)]
    chaos: bool,
    /// Keep the data when it ends
    #[arg(long)]
    retain: bool,
}

/// Of so many charges the demo loses the reply of the last.
const DEMO_LOSES_EVERY: u64 = 3;

impl Dev {
    pub(crate) fn run(self) -> Outcome {
        super::runtime()?.block_on(self.serve())
    }

    async fn serve(self) -> Outcome {
        let failed = |error: std::io::Error| Failure::new(Exit::Failed, error.to_string());
        let data = tempfile::Builder::new().prefix("semel-").tempdir().map_err(failed)?;
        let (demo, upstream) = match &self.upstream {
            Some(url) if url.contains("://") => (None, url.clone()),
            Some(authority) => (None, format!("http://{authority}")),
            None => {
                let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
                let url = format!("http://{}", listener.local_addr().map_err(failed)?);
                let demo = Arc::new(Demo::new(DEMO_LOSES_EVERY));
                tokio::spawn(demo::serve(Arc::clone(&demo), listener));
                (Some(demo), url)
            }
        };
        let config = self.config(data.path(), &upstream, demo.is_some())?;
        logging::start(&config.log)?;
        let owner = process::owner()?;
        let ledger = ledger::open(&config.ledger, owner).await?;
        let (narrator, printer) = Narrator::start(Arc::clone(&ledger), demo.clone()).map_err(failed)?;
        let narrator = Arc::new(narrator);
        let observer = Arc::clone(&narrator);
        let observers = Arc::new(move |_: &semel_config::Route| Arc::clone(&observer) as Arc<dyn semel_tower::Observe>);
        let start = Start { config, file: None, ledger, owner, migrate: None, observers };
        let process = Process::start(start).await?;
        self.greet(&process, &data, demo.is_some());
        process.run().await?;
        let summary = narrator.summary();
        if Arc::into_inner(narrator).is_some() {
            // Nobody else speaks any more, so the printer ends with its last line.
            drop(printer.join());
        }
        eprintln!("{summary}");
        if self.retain {
            eprintln!("the data stays in {}", data.keep().display());
        }
        Ok(Exit::Done)
    }

    fn config(&self, data: &Path, upstream: &str, demo: bool) -> Result<Config, Failure> {
        let options =
            semel_config::Dev { http: self.listen, admin: self.admin, data, upstream, demo, chaos: self.chaos };
        let loaded = load("semel dev", &semel_config::dev(&options));
        // Only the URL is the user's: whatever is wrong is wrong with it.
        let (config, _) = loaded.map_err(|report| {
            Failure::new(Exit::ConfigRefused, format!("{upstream} cannot be used\n{}", report.render(Colour::Off)))
        })?;
        Ok(config)
    }

    fn greet(&self, process: &Process, data: &TempDir, demo: bool) {
        let (address, admin, folder) = (process.http(), process.admin(), data.path());
        let fate = if self.retain { "kept" } else { "deleted on exit (--retain keeps it)" };
        eprintln!("semel {}  dev mode: data in {}, {fate}", env!("CARGO_PKG_VERSION"), folder.display());
        eprintln!("  gateway  http://{address}      admin  http://{admin}");
        if self.chaos {
            eprintln!("  chaos    1 attempt in 5 is 300 ms late, 1 in 10 refused with 503, 1 answer in 20 breaks off");
        }
        match &self.upstream {
            Some(url) if !demo => {
                eprintln!("  service  {url}");
                eprintln!("A POST or PATCH with an Idempotency-Key happens once. Should an outcome be unknown:");
                eprintln!("  semel effects list --admin {admin} --token-file {}/admin.token", folder.display());
            }
            _ => {
                eprintln!("  demo     a payment service that loses 1 reply in {DEMO_LOSES_EVERY}");
                eprintln!("Try this twice:");
                eprintln!("  curl -i -XPOST {address}/pay -H 'Idempotency-Key: a1' -d 10");
            }
        }
    }
}
