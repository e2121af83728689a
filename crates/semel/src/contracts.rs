//! What the scopes mean, compared with what the ledger remembers.

use semel_config::Config;
use semel_core::code::Code;
use semel_core::contract::ScopeContract;
use semel_core::effect::Authority;
use semel_ledger::{Contract, Difference, Ledger};

use crate::exit::{Exit, Failure};

/// Refuses a configuration whose scopes mean something else than the ledger remembers, unless `migrate` says who
/// wants that and why. Scopes never seen are added.
pub(crate) async fn agree(ledger: &dyn Ledger, config: &Config, migrate: Option<Authority>) -> Result<(), Failure> {
    let contract = |c: &ScopeContract| Contract { scope: c.scope.as_str().into(), terms: c.to_terms() };
    let contracts = config.contracts.iter().map(contract).collect();
    let migrates = migrate.is_some();
    let unusable = |error| Failure::new(Exit::LedgerUnusable, format!("the ledger cannot be asked: {error}"));
    let differences = ledger.agree(contracts, migrate).await.map_err(unusable)?;
    let words: Vec<String> = differences.iter().flat_map(words).collect();
    if migrates || words.is_empty() {
        for change in words {
            tracing::warn!("contract replaced: {change}");
        }
        return Ok(());
    }
    Err(changed(&words))
}

/// As [`agree`], against contracts that were read without opening the ledger. Keeps nothing.
pub(crate) fn compare(held: Vec<Contract>, config: &Config) -> Result<(), Failure> {
    let difference = |held: Contract| {
        let asked = config.contracts.iter().find(|asked| *asked.scope == *held.scope)?.to_terms();
        (asked != held.terms).then_some(Difference { scope: held.scope, held: held.terms, asked })
    };
    let words: Vec<String> = held.into_iter().filter_map(difference).flat_map(|d| words(&d)).collect();
    if words.is_empty() { Ok(()) } else { Err(changed(&words)) }
}

fn changed(words: &[String]) -> Failure {
    Failure::new(Exit::ConfigRefused, format!("the ledger remembers otherwise: {}", words.join("; ")))
        .code(Code::CONTRACT_CHANGED)
        .help("every key of such a scope would be absent, and a retry run again")
}

fn words(difference: &Difference) -> Vec<String> {
    match (ScopeContract::from_terms(&difference.held), ScopeContract::from_terms(&difference.asked)) {
        (Some(held), Some(asked)) => held.changes(&asked).iter().map(ToString::to_string).collect(),
        _ => vec![format!("scope {:?}: its contract was written by another version", difference.scope)],
    }
}
