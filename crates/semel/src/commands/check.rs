//! `semel check`

use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use anstream::println;
use clap::Args;
use semel_config::{Config, EmbeddedLedger, Endpoint, LedgerConfig, NatsLedger, PostgresLedger};
use semel_core::code::Code;

use crate::Outcome;
use crate::config_file::ConfigFile;
use crate::exit::{Exit, Failure};
use crate::{contracts, ledger, logging};

/// Check the configuration, and whether ledger and upstreams can be used
#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    config: ConfigFile,
    /// Only the file: touch neither ledger nor network
    #[arg(long)]
    offline: bool,
}

impl Check {
    pub(crate) fn run(self) -> Outcome {
        let config = self.config.load()?;
        logging::filter(&config.log)?;
        let name = self.config.path.display();
        println!("config    ok           {name}: {} routes, {} upstreams", config.routes.len(), config.upstreams.len());
        if self.offline {
            return Ok(Exit::Done);
        }
        check_ledger(&config)?;
        if upstreams_answer(&config) {
            return Ok(Exit::Done);
        }
        Err(Failure::new(Exit::UpstreamUnreachable, "an upstream cannot be reached").code(Code::UPSTREAM_UNREACHABLE))
    }
}

/// Changes nothing, also makes no folder and no schema.
fn check_ledger(config: &Config) -> Result<(), Failure> {
    match &config.ledger {
        LedgerConfig::Embedded(embedded) => check_folder(config, embedded),
        LedgerConfig::Postgres(postgres) => super::runtime()?.block_on(check_database(config, postgres)),
        LedgerConfig::Nats(nats) => super::runtime()?.block_on(check_stream(config, nats)),
    }
}

/// Reads the whole ledger unless a gateway has it open.
fn check_folder(config: &Config, embedded: &EmbeddedLedger) -> Result<(), Failure> {
    let folder = embedded.path.display();
    let state = if !ledger::embedded::exists(embedded) {
        "will be made at the first start".to_owned()
    } else if let Some(found) = ledger::embedded::verify(embedded)? {
        if let Some(damage) = found.damages.first() {
            return Err(Failure::new(Exit::LedgerUnusable, damage.to_string()).code(Code::LEDGER_DAMAGED));
        }
        if let Some(held) = ledger::contracts(&config.ledger)? {
            contracts::compare(held, config)?;
        }
        format!("{} records in {} tables, {} batches in the log", found.table_records, found.tables, found.log_batches)
    } else {
        "in use by a running gateway".to_owned()
    };
    println!("ledger    ok           {folder}: {state}");
    Ok(())
}

/// Whether the database takes writes, keeps them, has the schema of this release, and agrees on the scopes.
async fn check_database(config: &Config, postgres: &PostgresLedger) -> Result<(), Failure> {
    let unusable = |error| ledger::postgres::unusable(&error);
    let survey = ledger::postgres::survey(postgres).await?;
    let weaknesses = survey.weaknesses().await.map_err(unusable)?;
    contracts::compare(survey.contracts().await.map_err(unusable)?, config)?;
    let parts = survey.parts().await.map_err(unusable)?;
    let bytes: i64 = parts.iter().map(|part| part.bytes).sum();
    println!("ledger    ok           {}: {} tables, {} KiB", postgres.url, parts.len(), bytes / 1024);
    for weakness in weaknesses {
        println!("ledger    note         {weakness}");
    }
    Ok(())
}

/// Whether the stream has a leader, keeps what it acknowledges, is of this release, and agrees on the scopes.
async fn check_stream(config: &Config, nats: &NatsLedger) -> Result<(), Failure> {
    let unusable = |error| ledger::nats::unusable(&error);
    let survey = ledger::nats::survey(nats).await?;
    let weaknesses = survey.weaknesses().await.map_err(unusable)?;
    contracts::compare(survey.contracts().await.map_err(unusable)?, config)?;
    let (messages, kib) = (survey.messages(), survey.bytes() / 1024);
    println!("ledger    ok           {}: stream {}, {messages} messages, {kib} KiB", nats.url, nats.stream);
    for weakness in weaknesses {
        println!("ledger    note         {weakness}");
    }
    Ok(())
}

/// Opens a connection to every endpoint; all are tried, so that one run shows the whole picture.
fn upstreams_answer(config: &Config) -> bool {
    let mut all = true;
    for upstream in &config.upstreams {
        for endpoint in &upstream.endpoints {
            let (state, why) = match connect(endpoint, upstream.connect_timeout) {
                Ok(()) => ("ok         ", String::new()),
                Err(error) => ("unreachable", format!(": {error}")),
            };
            all &= why.is_empty();
            println!("upstream  {state}  {} http://{}{why}", upstream.name, endpoint.authority());
        }
    }
    all
}

fn connect(endpoint: &Endpoint, timeout: Duration) -> std::io::Result<()> {
    let mut last = None;
    for address in (endpoint.host.as_str(), endpoint.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(_) => return Ok(()),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| std::io::Error::other("the name has no address")))
}
