//! `semel ledger`

use std::collections::BTreeMap;
use std::io::Write as _;
use std::ops::ControlFlow;

use anstream::{eprintln, println};
use clap::{Args, Subcommand};
use semel_config::{Config, LedgerConfig};
use semel_core::code::Code;
use semel_core::effect::Authority;
use semel_ledger::{Clock as _, Exported, SystemClock};
use serde_json::json;

use crate::Outcome;
use crate::commands::copy::Copy;
use crate::config_file::ConfigFile;
use crate::exit::{Exit, Failure};
use crate::ledger;

/// Look after the ledger; an embedded one only while no gateway has it open
#[derive(Debug, Args)]
pub(crate) struct Ledger {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Stats(Stats),
    Verify(Verify),
    Export(ExportAll),
    Repair(Repair),
    Migrate(Migrate),
    Copy(Copy),
}

/// Count what the ledger holds, by scope and state
#[derive(Debug, Args)]
struct Stats {
    #[command(flatten)]
    config: ConfigFile,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Read everything the ledger holds and report every damage
#[derive(Debug, Args)]
struct Verify {
    #[command(flatten)]
    config: ConfigFile,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Write every record as a line of JSON to standard output
#[derive(Debug, Args)]
struct ExportAll {
    #[command(flatten)]
    config: ConfigFile,
    /// With the bodies of answers: they may hold what only their callers should see
    #[arg(long)]
    bodies: bool,
}

/// Make a damaged ledger usable again, without what is lost
///
/// A lost effect is absent: a late retry of it runs again. The damaged files are kept beside, and the repair is on the
/// audit log.
#[derive(Debug, Args)]
struct Repair {
    #[command(flatten)]
    config: ConfigFile,
    /// Yes: what cannot be read back may run again
    #[arg(long)]
    accept_loss: bool,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "semel ledger repair")]
    reason: String,
}

/// Make the schema or stream of the ledger on its servers, or bring it to the version of this release
///
/// Harmless when repeated. Gateways of the former version go on until they are restarted.
#[derive(Debug, Args)]
struct Migrate {
    #[command(flatten)]
    config: ConfigFile,
}

impl Ledger {
    pub(crate) fn run(self) -> Outcome {
        match self.action {
            Action::Stats(stats) => stats.run(),
            Action::Verify(verify) => verify.run(),
            Action::Export(export) => export.run(),
            Action::Repair(repair) => repair.run(),
            Action::Migrate(migrate) => migrate.run(),
            Action::Copy(copy) => copy.run(),
        }
    }
}

impl Stats {
    fn run(self) -> Outcome {
        let config = self.config.load()?;
        let now = SystemClock::start().now();
        let mut effects: BTreeMap<(String, &str), u64> = BTreeMap::new();
        let mut audit_lines = 0_u64;
        let mut scopes = Vec::new();
        let mut failed = None;
        ledger::read_all(&config.ledger, |item| {
            match item {
                Ok(Exported::Effect(record)) => {
                    let key = (record.terms.scope.to_string(), record.phase(now).as_str());
                    *effects.entry(key).or_default() += 1;
                }
                Ok(Exported::Audit(..)) => audit_lines += 1,
                Ok(Exported::Contract(contract)) => scopes.push(contract.scope),
                Err(failure) => {
                    failed = Some(failure);
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        if let Some(failure) = failed {
            return Err(failure);
        }
        if self.json {
            let effects: Vec<_> = effects
                .iter()
                .map(|((scope, state), count)| json!({ "scope": scope, "state": state, "count": count }))
                .collect();
            println!("{:#}", json!({ "effects": effects, "audit_lines": audit_lines, "scopes": scopes }));
            return Ok(Exit::Done);
        }
        println!("scopes    {}", if scopes.is_empty() { "none".to_owned() } else { scopes.join(", ") });
        for ((scope, state), count) in &effects {
            println!("effects   {count:>9}  {state:<9} {scope}");
        }
        println!("audit     {audit_lines} lines");
        Ok(Exit::Done)
    }
}

impl ExportAll {
    fn run(self) -> Outcome {
        let config = self.config.load()?;
        let now = SystemClock::start().now();
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        let mut damages = 0_u64;
        let mut ended = None;
        ledger::read_all(&config.ledger, |item| {
            let line = match item {
                Ok(Exported::Effect(record)) => {
                    json!({ "effect": semel_admin::effect_json(&record, now, self.bodies) })
                }
                Ok(Exported::Audit(number, event)) => json!({ "audit": semel_admin::audit_json(number, &event) }),
                Ok(Exported::Contract(contract)) => json!({ "scope": contract.scope }),
                Err(error) => {
                    damages += 1;
                    eprintln!("left out: {error}");
                    return ControlFlow::Continue(());
                }
            };
            match writeln!(out, "{line}") {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    ended = Some(closed_or(&error));
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(ended) = ended {
            return ended;
        }
        if let Err(error) = out.flush() {
            return closed_or(&error);
        }
        match damages {
            0 => Ok(Exit::Done),
            n => Err(Failure::new(Exit::LedgerUnusable, format!("{n} damaged records were left out"))
                .code(Code::LEDGER_DAMAGED)),
        }
    }
}

/// Whoever read the output has had enough (`| head`), or it could not be written.
fn closed_or(error: &std::io::Error) -> Outcome {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => Ok(Exit::Done),
        _ => Err(Failure::new(Exit::Failed, format!("the export cannot be written: {error}"))),
    }
}

impl Repair {
    fn run(self) -> Outcome {
        let config = self.config.load()?;
        if !self.accept_loss {
            return Err(Failure::new(Exit::Failed, "nothing was done: --accept-loss is not given")
                .code(Code::LEDGER_DAMAGED)
                .help("`semel ledger verify` shows the damage; what is lost may run again when it is retried"));
        }
        let by = Authority::Operator { name: "semel ledger repair".into(), reason: self.reason.as_str().into() };
        let LedgerConfig::Embedded(embedded) = &config.ledger else {
            return Err(ledger::wrong_engine("repair", "ledger.embedded"));
        };
        let done = ledger::embedded::repair(embedded, by)?;
        if done.damages.is_empty() {
            println!("whole     nothing to repair");
            return Ok(Exit::Done);
        }
        for damage in &done.damages {
            println!("damaged   {damage}");
        }
        println!("kept      {} records, {} batches of the log", done.records, done.batches);
        println!("lost      {} batches of the log, {} bytes of tables", done.batches_lost, done.table_bytes_lost);
        for place in &done.kept {
            println!("before    {}", place.display());
        }
        Ok(Exit::Done)
    }
}

impl Verify {
    fn run(self) -> Outcome {
        let config = self.config.load()?;
        let in_use =
            || Failure::new(Exit::LedgerUnusable, "another process has the ledger open").code(Code::LEDGER_LOCKED);
        let LedgerConfig::Embedded(embedded) = &config.ledger else { return self.read_back(&config) };
        let found = ledger::embedded::verify(embedded)?.ok_or_else(in_use)?;
        if self.json {
            let damages: Vec<_> = found.damages.iter().map(|d| json!({ "place": d.place, "what": d.what })).collect();
            println!(
                "{:#}",
                json!({
                    "table_records": found.table_records,
                    "tables": found.tables,
                    "log_batches": found.log_batches,
                    "damages": damages,
                })
            );
        } else {
            for damage in &found.damages {
                println!("damaged   {damage}");
            }
            println!("records   {} in {} tables", found.table_records, found.tables);
            println!("batches   {} in the log", found.log_batches);
        }
        match found.damages.len() {
            0 => Ok(Exit::Done),
            n => Err(Failure::new(Exit::LedgerUnusable, format!("{n} damages")).code(Code::LEDGER_DAMAGED)),
        }
    }

    /// Reads every record of an engine that checks its own files, and finds out whether it can be understood.
    fn read_back(&self, config: &Config) -> Outcome {
        let (mut records, mut damages) = (0_u64, Vec::new());
        ledger::read_all(&config.ledger, |item| {
            match item {
                Ok(_) => records += 1,
                Err(damage) => damages.push(damage.to_string()),
            }
            ControlFlow::Continue(())
        })?;
        if self.json {
            println!("{:#}", json!({ "records": records, "damages": damages }));
        } else {
            for damage in &damages {
                println!("damaged   {damage}");
            }
            println!("records   {records}");
        }
        match damages.len() {
            0 => Ok(Exit::Done),
            n => Err(Failure::new(Exit::LedgerUnusable, format!("{n} damages")).code(Code::LEDGER_DAMAGED)),
        }
    }
}

impl Migrate {
    fn run(self) -> Outcome {
        let config = self.config.load()?;
        let (what, from, to) = match &config.ledger {
            LedgerConfig::Postgres(postgres) => {
                let done = super::runtime()?.block_on(ledger::postgres::migrate(postgres, None))?;
                (format!("schema {}", postgres.schema), done.from.map(i64::from), i64::from(done.to))
            }
            LedgerConfig::Nats(nats) => {
                let done = super::runtime()?.block_on(ledger::nats::migrate(nats, None))?;
                (format!("stream {}", nats.stream), done.from.map(i64::from), i64::from(done.to))
            }
            LedgerConfig::Embedded(_) => {
                return Err(ledger::wrong_engine("migrate", "ledger.postgres and ledger.nats"));
            }
        };
        match from {
            None => println!("made      {what}, version {to}"),
            Some(from) if from == to => println!("unchanged {what}, version {to}"),
            Some(from) => println!("migrated  {what}, from version {from} to {to}"),
        }
        Ok(Exit::Done)
    }
}
