//! `semel demo`

use std::net::SocketAddr;
use std::sync::Arc;

use anstream::eprintln;
use clap::Args;
use semel_core::code::Code;
use tokio::net::TcpListener;

use crate::Outcome;
use crate::demo;
use crate::exit::{Exit, Failure};

/// Run a payment service that loses replies: an upstream to try semel on
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Where it listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// Lose the reply of every Nth charge; 0 loses none
    #[arg(long, value_name = "N", default_value_t = 3)]
    lose: u64,
}

impl Demo {
    pub(crate) fn run(self) -> Outcome {
        let failed = |error: std::io::Error| Failure::new(Exit::Failed, error.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        runtime.block_on(async {
            let listener = TcpListener::bind(self.listen).await.map_err(|error| {
                Failure::new(Exit::Failed, format!("cannot listen on {}: {error}", self.listen))
                    .code(Code::CANNOT_LISTEN)
            })?;
            let address = listener.local_addr().map_err(failed)?;
            eprintln!("a payment service on http://{address}: POST /pay, GET /charges");
            let demo = Arc::new(demo::Demo::new(self.lose));
            tokio::select! {
                ended = demo::serve(Arc::clone(&demo), listener) => ended.map_err(failed)?,
                signal = tokio::signal::ctrl_c() => signal.map_err(failed)?,
            }
            eprintln!("{} charges", demo.charges());
            Ok(Exit::Done)
        })
    }
}
