//! `semel ledger copy`: whatever holds the ledger, everything in it is taken over by another.
//!
//! The source is read three times: to count, to copy, and to compare. Records are taken over one by one, each as a
//! compare-and-set that sets nothing back, so that it may be repeated, and may run while gateways use the source.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use anstream::println;
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use semel_config::LedgerConfig;
use semel_core::code::Code;
use semel_core::effect::{Command, Owner, Phase, Record, Reply};
use semel_core::scope::EffectId;
use semel_core::time::Timestamp;
use semel_ledger::{Contract, Exported, Ledger, LedgerError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::Outcome;
use crate::config_file::ConfigFile;
use crate::exit::{Exit, Failure};
use crate::ledger;

/// Take everything that one ledger holds over into another, whatever their engines
///
/// Gateways may go on using the first (unless it is embedded). What they change meanwhile is taken over by running this
/// again: once they are stopped, until it says that the copy is whole. Only then start gateways on the second.
#[derive(Debug, Args)]
pub(crate) struct Copy {
    /// A configuration with the ledger as it was
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// A configuration with the ledger as it shall be; it is made if there is none
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

/// Records on their way at a time: enough for an engine to share flushes.
const UNDER_WAY_MAX: usize = 512;
/// Effects that are named when they differ.
const NAMED_MAX: usize = 5;

impl Copy {
    pub(crate) fn run(self) -> Outcome {
        let load = |path| ConfigFile { path }.load().map(|config| Arc::new(config.ledger.clone()));
        let (from, to) = (load(self.from)?, load(self.to)?);
        super::runtime()?.block_on(copy(from, to))
    }
}

/// What there was in the source.
#[derive(Default)]
struct Counted {
    effects: u64,
    audit_lines: u64,
    contracts: Vec<Contract>,
    damages: Vec<String>,
}

/// What became of it.
#[derive(Default)]
struct Copied {
    added: u64,
    /// They stood there before.
    unchanged: u64,
    /// Somebody is at them in the source: the next run finds how they end.
    under_way: u64,
}

async fn copy(from: Arc<LedgerConfig>, to: Arc<LedgerConfig>) -> Outcome {
    if let LedgerConfig::Embedded(config) = &*from
        && !ledger::embedded::exists(config)
    {
        let message = format!("there is no ledger in {}", config.path.display());
        return Err(Failure::new(Exit::LedgerUnusable, message).code(Code::NOT_A_LEDGER));
    }
    let owner = Owner(getrandom::u64().map_err(|error| Failure::new(Exit::Failed, error.to_string()))?);
    // An embedded ledger is closed again before it is read.
    let secret = ledger::open(&from, owner).await?.secret();
    ledger::make(&to, &secret).await?;
    let there = ledger::open(&to, owner).await?;
    if there.secret().expose() != secret.expose() {
        let message = "the ledger to copy to is in use for something else: its keys are hashed with another secret";
        let failure = Failure::new(Exit::LedgerUnusable, message).code(Code::LEDGER_REFUSED);
        return Err(failure.help("name a new folder, schema or stream"));
    }
    let counted = count(&from).await?;
    let differences = there.agree(counted.contracts.clone(), None).await.map_err(|error| stopped(&error))?;
    if let Some(difference) = differences.first() {
        let message = format!("gateways have used the ledger to copy to, with another scope {}", difference.scope);
        return Err(Failure::new(Exit::LedgerUnusable, message).code(Code::LEDGER_REFUSED));
    }
    let copied = take_over(&from, &there, counted.effects).await?;
    let differing = compare(&from, &there, counted.effects).await?;
    report(&counted, &copied, &differing)
}

fn report(counted: &Counted, copied: &Copied, differing: &[EffectId]) -> Outcome {
    println!("copied    {} effects, {} were there", copied.added, copied.unchanged);
    println!("scopes    {}", counted.contracts.len());
    if counted.audit_lines > 0 {
        println!("audit     {} lines stay behind: `semel ledger export` shows them", counted.audit_lines);
    }
    for damage in &counted.damages {
        println!("damaged   {damage}");
    }
    for id in differing.iter().take(NAMED_MAX) {
        println!("differs   {id}");
    }
    if !counted.damages.is_empty() {
        let message = format!("{} records cannot be read and are not in the copy", counted.damages.len());
        return Err(Failure::new(Exit::LedgerUnusable, message).code(Code::LEDGER_DAMAGED));
    }
    if copied.under_way > 0 || !differing.is_empty() {
        let (open, changed) = (copied.under_way, differing.len());
        let message = format!("not whole yet: {open} effects are under way, {changed} others changed or are new");
        let help = "stop the gateways of the former ledger, wait until the leases are over, and run this again";
        return Err(Failure::new(Exit::Failed, message).help(help));
    }
    println!("whole     {} effects are there as they are here", counted.effects);
    Ok(Exit::Done)
}

async fn count(from: &Arc<LedgerConfig>) -> Result<Counted, Failure> {
    let bar = bar("counting", None);
    let mut counted = Counted::default();
    let mut items = Items::of(from);
    while let Some(item) = items.next().await {
        match item {
            Ok(Exported::Effect(_)) => {
                counted.effects += 1;
                bar.inc(1);
            }
            Ok(Exported::Audit(..)) => counted.audit_lines += 1,
            Ok(Exported::Contract(contract)) => counted.contracts.push(contract),
            Err(damage) => counted.damages.push(damage.to_string()),
        }
    }
    items.end().await?;
    bar.finish_and_clear();
    Ok(counted)
}

async fn take_over(from: &Arc<LedgerConfig>, there: &Arc<dyn Ledger>, effects: u64) -> Result<Copied, Failure> {
    let bar = bar("copying", Some(effects));
    let mut copied = Copied::default();
    let mut items = Items::of(from);
    let mut under_way: JoinSet<Result<Reply, LedgerError>> = JoinSet::new();
    while let Some(item) = items.next().await {
        let Ok(Exported::Effect(record)) = item else { continue };
        bar.inc(1);
        if record.phase(there.now()) == Phase::Open {
            copied.under_way += 1;
            continue;
        }
        if under_way.len() >= UNDER_WAY_MAX {
            copied.ended(under_way.join_next().await)?;
        }
        let there = Arc::clone(there);
        under_way.spawn(async move { Ok(there.apply(record.id, Command::Import(record)).await?.reply) });
    }
    while !under_way.is_empty() {
        copied.ended(under_way.join_next().await)?;
    }
    items.end().await?;
    bar.finish_and_clear();
    Ok(copied)
}

impl Copied {
    fn ended(
        &mut self,
        ended: Option<Result<Result<Reply, LedgerError>, tokio::task::JoinError>>,
    ) -> Result<(), Failure> {
        match ended {
            None => {}
            Some(Ok(Ok(Reply::Applied))) => self.added += 1,
            // What stands there under a later claim is told by the comparison.
            Some(Ok(Ok(_))) => self.unchanged += 1,
            Some(Ok(Err(error))) => return Err(stopped(&error)),
            Some(Err(error)) => return Err(Failure::new(Exit::Failed, error.to_string())),
        }
        Ok(())
    }
}

/// The effects that are not there as they are here.
async fn compare(from: &Arc<LedgerConfig>, there: &Arc<dyn Ledger>, effects: u64) -> Result<Vec<EffectId>, Failure> {
    let bar = bar("comparing", Some(effects));
    let mut differing = Vec::new();
    let mut items = Items::of(from);
    let mut under_way: JoinSet<Result<Option<EffectId>, LedgerError>> = JoinSet::new();
    loop {
        let item = items.next().await;
        while under_way.len() >= UNDER_WAY_MAX || (item.is_none() && !under_way.is_empty()) {
            match under_way.join_next().await {
                Some(Ok(Ok(differs))) => differing.extend(differs),
                Some(Ok(Err(error))) => return Err(stopped(&error)),
                Some(Err(error)) => return Err(Failure::new(Exit::Failed, error.to_string())),
                None => {}
            }
        }
        match item {
            None => break,
            Some(Ok(Exported::Effect(record))) => {
                bar.inc(1);
                let there = Arc::clone(there);
                under_way.spawn(async move {
                    let seen = there.look_up(record.id).await?;
                    Ok((!same(&record, seen.record.as_ref(), seen.now)).then_some(record.id))
                });
            }
            Some(_) => {}
        }
    }
    items.end().await?;
    bar.finish_and_clear();
    Ok(differing)
}

/// Whether the record counts for the same there. One whose time is over counts for nothing.
fn same(here: &Record, there: Option<&Record>, now: Timestamp) -> bool {
    // It was left out and counted.
    here.phase(now) == Phase::Open || here.compacted(now) == there.and_then(|record| record.compacted(now))
}

/// Everything that a ledger holds, read by a thread of its own.
struct Items {
    items: mpsc::Receiver<Result<Exported, Failure>>,
    thread: tokio::task::JoinHandle<Result<(), Failure>>,
}

impl Items {
    fn of(config: &Arc<LedgerConfig>) -> Self {
        let (sender, items) = mpsc::channel(UNDER_WAY_MAX);
        let config = Arc::clone(config);
        let thread = tokio::task::spawn_blocking(move || {
            ledger::read_all(&config, |item| match sender.blocking_send(item) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            })
        });
        Self { items, thread }
    }

    async fn next(&mut self) -> Option<Result<Exported, Failure>> {
        self.items.recv().await
    }

    /// Whether all was read.
    async fn end(self) -> Result<(), Failure> {
        self.thread.await.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?
    }
}

fn stopped(error: &LedgerError) -> Failure {
    Failure::new(Exit::LedgerUnusable, format!("the copy stopped: {error}"))
        .code(Code::LEDGER_UNREACHABLE)
        .help("run it again: what is there already is not written again")
}

/// On a terminal only, to standard error.
fn bar(what: &'static str, total: Option<u64>) -> ProgressBar {
    let template = match total {
        Some(_) => "{msg:10}{bar:40} {human_pos}/{human_len}  {per_sec}  {eta} left",
        None => "{msg:10}{human_pos}",
    };
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar
}
