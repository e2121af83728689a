//! Reading a ledger from outside, for operators: its state, and everything it holds. Decides and changes nothing.

use semel_core::scope::EffectId;
use semel_ledger::{Contract, Exported, codec};

use crate::contracts;
use crate::entry::{self, Held};
use crate::link::{ApiFailed, Link};
use crate::read;
use crate::scan::{Scan, Scanned};
use crate::shared::{ANSWER_WITHIN, Names};
use crate::stream::{self, Info};
use crate::{Error, Options};

/// A connection that reads.
pub struct Survey {
    options: Options,
    names: Names,
    link: Link,
    info: Info,
    place: Place,
}

/// A record that cannot be read back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Damage(String);

/// What is read next.
enum Place {
    Contracts,
    Effects(Option<Scan>),
    Audit(Option<Scan>),
    End,
}

impl Survey {
    /// Connects, and checks that the stream may be decided on. Nothing is started.
    ///
    /// # Errors
    /// See [`crate::NatsLedger::open`].
    pub async fn open(options: &Options) -> Result<Self, Error> {
        let names = Names::new(&options.stream)?;
        let link = Link::connect(options).await?;
        stream::check_settings(&link, &names, options).await?;
        stream::open(&link, &names).await?;
        let info = stream::info(&link, &names, ANSWER_WITHIN).await?;
        Ok(Self { options: options.clone(), names, link, info, place: Place::Contracts })
    }

    /// What weakens the ledger's promise on these servers without breaking it, in words.
    ///
    /// # Errors
    /// When the promise is broken, or the servers cannot be asked.
    pub async fn weaknesses(&self) -> Result<Vec<String>, Error> {
        stream::check_settings(&self.link, &self.names, &self.options).await
    }

    /// Messages that the stream held when the survey was opened: effects, large answers, audit lines.
    #[must_use]
    pub const fn messages(&self) -> u64 {
        self.info.state.messages
    }

    /// Bytes of them, on each server.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.info.state.bytes
    }

    /// What the scopes mean.
    ///
    /// # Errors
    /// When the servers cannot be asked.
    pub async fn contracts(&self) -> Result<Vec<Contract>, Error> {
        let (_, held) = contracts::held(&self.link, &self.names).await?.map_err(Error::Refused)?;
        Ok(held.into_iter().map(|(scope, terms)| Contract { scope, terms }).collect())
    }

    /// The next of everything that the ledger holds, some hundreds at most: contracts, then effects in the order of
    /// their last changes, then the audit log. Damaged records are errors in between. None at the end.
    ///
    /// Gateways may go on meanwhile: an effect that changes is read again as it is then.
    ///
    /// # Errors
    /// When the servers cannot be asked.
    pub async fn page(&mut self) -> Result<Option<Vec<Result<Exported, Damage>>>, Error> {
        match std::mem::replace(&mut self.place, Place::End) {
            Place::Contracts => {
                self.place = Place::Effects(None);
                let contracts = self.contracts().await?;
                Ok(Some(contracts.into_iter().map(|contract| Ok(Exported::Contract(contract))).collect()))
            }
            Place::Effects(scan) => {
                let (scan, page) = self.scanned(scan, &self.names.effects()).await?;
                self.place = if page.is_empty() { Place::Audit(None) } else { Place::Effects(scan) };
                let mut effects = Vec::with_capacity(page.len());
                for message in page {
                    effects.extend(self.effect(message).await?);
                }
                Ok(Some(effects))
            }
            Place::Audit(scan) => {
                let (scan, page) = self.scanned(scan, &self.names.audits()).await?;
                self.place = if page.is_empty() { Place::End } else { Place::Audit(scan) };
                Ok(Some(page.into_iter().map(|message| audit(&message)).collect()))
            }
            Place::End => Ok(None),
        }
    }

    async fn scanned(&self, scan: Option<Scan>, subject: &str) -> Result<(Option<Scan>, Vec<Scanned>), ApiFailed> {
        let mut scan = match scan {
            Some(scan) => scan,
            None => Scan::start(&self.link, &self.names, subject, 1, false).await?,
        };
        let page = scan.page().await?;
        if page.is_empty() {
            scan.end().await;
            return Ok((None, page));
        }
        Ok((Some(scan), page))
    }

    /// The record of a message; none where it is only the trace of one.
    async fn effect(&self, message: Scanned) -> Result<Option<Result<Exported, Damage>>, Error> {
        let Scanned { subject, number, payload, .. } = message;
        let id: Option<EffectId> = subject.rsplit('.').next().and_then(|id| id.parse().ok());
        let Some(id) = id else { return Ok(Some(Err(Damage(format!("{subject} is no effect"))))) };
        let entry = match entry::decode(id, number, &payload) {
            Ok(entry) => entry,
            Err(error) => return Ok(Some(Err(Damage(error.to_string())))),
        };
        let now = self.info.time().unwrap_or_default();
        Ok(match read::whole(&self.link, &self.names, entry, now).await? {
            Ok(entry) => match entry.held {
                Held::Released(_) => None,
                Held::Record(record) | Held::Parted(record, ..) => Some(Ok(Exported::Effect(record))),
            },
            Err(error) => Some(Err(Damage(error.to_string()))),
        })
    }
}

fn audit(message: &Scanned) -> Result<Exported, Damage> {
    let number = message.number;
    match codec::decode_audit(&message.payload) {
        Ok(event) => Ok(Exported::Audit(number, event)),
        Err(what) => Err(Damage(format!("audit line {number}: {what}"))),
    }
}
