//! `semel ledger`

use anstream::println;
use clap::{Args, Subcommand};
use semel_core::code::Code;
use serde_json::json;

use crate::Outcome;
use crate::config_file::ConfigFile;
use crate::exit::{Exit, Failure};
use crate::ledger;

/// Look after a ledger that no gateway has open
#[derive(Debug, Args)]
pub(crate) struct Ledger {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Verify(Verify),
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

impl Ledger {
    pub(crate) fn run(self) -> Outcome {
        match self.action {
            Action::Verify(verify) => verify.run(),
        }
    }
}

impl Verify {
    fn run(self) -> Outcome {
        let config = self.config.load()?;
        let in_use =
            || Failure::new(Exit::LedgerUnusable, "another process has the ledger open").code(Code::LEDGER_LOCKED);
        let found = ledger::verify(&config.ledger)?.ok_or_else(in_use)?;
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
}
