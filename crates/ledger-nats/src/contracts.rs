//! What the scopes mean: one message with all of them, compared and set like everything else.

use std::collections::BTreeMap;

use minicbor::bytes::ByteVec;
use semel_core::effect::{AuditEvent, AuditKind, Authority, Fence};
use semel_ledger::{Contract, Difference, LedgerError, codec};

use crate::link::{ApiFailed, Link};
use crate::publish::{After, Publication, Published};
use crate::read::{self, Pause};
use crate::shared::{ANSWER_WITHIN, Names, Shared};

/// The scopes that the ledger remembers, and their terms.
pub(crate) type Contracts = BTreeMap<Box<str>, Vec<u8>>;

/// The contracts, and the number of their message (0 while there is none).
///
/// # Errors
/// When the leader does not answer, or what stands there cannot be read (the inner).
pub(crate) async fn held(link: &Link, names: &Names) -> Result<Result<(u64, Contracts), String>, ApiFailed> {
    let Some(message) = read::last(link, names, &names.contracts(), ANSWER_WITHIN).await? else {
        return Ok(Ok((0, Contracts::new())));
    };
    let pairs: Result<Vec<(Box<str>, ByteVec)>, _> = minicbor::decode(&message.data);
    Ok(match pairs {
        Ok(pairs) => Ok((message.seq, pairs.into_iter().map(|(scope, terms)| (scope, terms.into())).collect())),
        Err(error) => Err(format!("the scopes' contracts cannot be read: {error}")),
    })
}

impl Shared {
    /// See [`semel_ledger::Ledger::agree`].
    pub(crate) async fn agree(
        &self,
        asked: &[Contract],
        migrate: Option<&Authority>,
    ) -> Result<Vec<Difference>, LedgerError> {
        let until = self.clock.local().plus(self.patience);
        let mut pause = Pause::default();
        let mut first: Option<Vec<Difference>> = None;
        loop {
            let why = match held(&self.link, &self.names).await {
                Ok(Err(damaged)) => return Err(LedgerError::Stopped(damaged)),
                Ok(Ok((number, mut contracts))) => {
                    let differences: Vec<Difference> = asked.iter().filter_map(|c| differs(c, &contracts)).collect();
                    // What an earlier round found is what was migrated, if its answer was lost.
                    let differences = first.get_or_insert(differences.clone()).clone();
                    let known = |asked: &Contract| contracts.get(&asked.scope) == Some(&asked.terms);
                    if (migrate.is_none() && !differences.is_empty()) || asked.iter().all(known) {
                        return Ok(differences);
                    }
                    contracts.extend(asked.iter().map(|asked| (asked.scope.clone(), asked.terms.clone())));
                    let publications = self.contracts_and_audit(number, contracts, &differences, migrate)?;
                    match self.publish(publications, self.left(until)).await {
                        Published::Stored(_) => return Ok(differences),
                        Published::Behind(_) => {
                            first = None;
                            "others changed the contracts again and again".to_owned()
                        }
                        Published::NotNow(why) | Published::Lost(why) | Published::NoRoom(why) => why,
                        Published::Failed(error) => return Err(error),
                    }
                }
                Err(failed) => failed.words(),
            };
            if self.clock.local() >= until {
                return Err(LedgerError::Unreachable(why));
            }
            pause.wait().await;
        }
    }

    fn contracts_and_audit(
        &self,
        number: u64,
        contracts: Contracts,
        differences: &[Difference],
        migrate: Option<&Authority>,
    ) -> Result<Vec<Publication>, LedgerError> {
        let (at, mut publications) = (self.clock.now(), Vec::new());
        for (by, difference) in migrate.iter().flat_map(|by| differences.iter().map(move |d| (*by, d))) {
            let (kind, detail) = (AuditKind::Migrated, difference.scope.clone());
            let line = AuditEvent { at, id: None, fence: Fence(0), kind, by: by.clone(), detail };
            let token = getrandom::u64().map_err(|error| LedgerError::Unreachable(error.to_string()))?;
            let payload = codec::encode_audit(&line).into();
            let subject = self.names.audit(token);
            publications.push(Publication { subject, payload, after: None, ttl: None, state: None });
        }
        let pairs: Vec<(Box<str>, ByteVec)> =
            contracts.into_iter().map(|(scope, terms)| (scope, terms.into())).collect();
        let payload = minicbor::to_vec(&pairs).map_err(|error| LedgerError::Unreachable(error.to_string()))?.into();
        let after = Some(After { number, subject: None });
        publications.push(Publication { subject: self.names.contracts(), payload, after, ttl: None, state: None });
        Ok(publications)
    }
}

fn differs(asked: &Contract, held: &Contracts) -> Option<Difference> {
    let held = held.get(&asked.scope).filter(|terms| **terms != asked.terms)?;
    Some(Difference { scope: asked.scope.clone(), held: held.clone(), asked: asked.terms.clone() })
}
