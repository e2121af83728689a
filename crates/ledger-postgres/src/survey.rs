//! Reading a ledger from outside, for operators: its state, and everything it holds. Decides and changes nothing.

use semel_core::scope::EffectId;
use semel_ledger::{Contract, Exported};
use tokio_postgres::types::{ToSql, Type};

use crate::client::audit_line;
use crate::ledger::held;
use crate::link::{Connector, Link};
use crate::row::Stored;
use crate::sql::Id;
use crate::{Error, Options, schema};

/// Records that are read at once.
const PAGE: i64 = 1000;

/// A connection that reads.
pub struct Survey {
    connector: Connector,
    link: Link,
    place: Place,
}

/// How the ledger's tables stand, by the database's own books.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The table.
    pub name: String,
    /// Its rows, as of when the database last counted them; negative when it never did.
    pub rows: i64,
    /// Its bytes on disk, indexes included.
    pub bytes: i64,
}

/// A record that cannot be read back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Damage(String);

/// What is read next.
enum Place {
    Contracts,
    Effects(Option<EffectId>),
    Audit(u64),
    End,
}

impl Survey {
    /// Connects, and checks that the server may be decided on. Nothing is started.
    ///
    /// # Errors
    /// See [`crate::PostgresLedger::open`].
    pub async fn open(options: &Options) -> Result<Self, Error> {
        let connector = Connector::new(options)?;
        let link = connector.connect().await?;
        Ok(Self { connector, link, place: Place::Contracts })
    }

    /// What weakens the ledger's promise on this server without breaking it, in words.
    ///
    /// # Errors
    /// When the promise is broken, or the server cannot be asked.
    pub async fn weaknesses(&self) -> Result<Vec<String>, Error> {
        schema::check_settings(&self.link.client).await
    }

    /// What the scopes mean.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn contracts(&self) -> Result<Vec<Contract>, Error> {
        let rows = self.ask(&self.connector.statements.contracts, &[]).await?;
        let (_, held) = held(&rows).map_err(|e| Error::of(&e))?;
        Ok(held.into_iter().map(|(scope, terms)| Contract { scope, terms }).collect())
    }

    /// The ledger's tables.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn parts(&self) -> Result<Vec<Part>, Error> {
        let statement = "SELECT c.relname, c.reltuples::bigint, pg_total_relation_size(c.oid) FROM pg_class c \
             JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relkind = 'r' ORDER BY c.relname";
        let rows = self.ask(statement, &[(&self.connector.schema, Type::TEXT)]).await?;
        let part = |row: &tokio_postgres::Row| {
            Ok(Part { name: row.try_get(0)?, rows: row.try_get(1)?, bytes: row.try_get(2)? })
        };
        rows.iter().map(part).collect::<Result<_, tokio_postgres::Error>>().map_err(|e| Error::of(&e))
    }

    /// The next of everything that the ledger holds, a thousand at most: contracts, then effects in the order of their
    /// ids, then the audit log. Damaged records are errors in between. None at the end.
    ///
    /// Gateways may go on meanwhile: what changes is read as it is when its page is read.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn page(&mut self) -> Result<Option<Vec<Result<Exported, Damage>>>, Error> {
        match self.place {
            Place::Contracts => {
                self.place = Place::Effects(None);
                let contracts = self.contracts().await?;
                Ok(Some(contracts.into_iter().map(|contract| Ok(Exported::Contract(contract))).collect()))
            }
            Place::Effects(after) => self.effects(after).await.map(Some),
            Place::Audit(after) => {
                let rows = self.ask(&self.connector.statements.audit, &numbered(&crate::sql::bigint(after))).await?;
                let lines: Vec<_> = rows.iter().map(|row| audit_line(row).map_err(Damage)).collect();
                self.place = match rows.last().map(|row| row.try_get::<_, i64>(0)) {
                    Some(Ok(number)) => Place::Audit(number.unsigned_abs()),
                    _ => Place::End,
                };
                Ok(Some(
                    lines.into_iter().map(|line| line.map(|(number, event)| Exported::Audit(number, event))).collect(),
                ))
            }
            Place::End => Ok(None),
        }
    }

    async fn effects(&mut self, after: Option<EffectId>) -> Result<Vec<Result<Exported, Damage>>, Error> {
        let after = after.map(Id);
        let rows = self.ask(&self.connector.statements.page, &[(&after, Type::UUID), (&PAGE, Type::INT8)]).await?;
        let found: Result<Vec<Stored>, _> = rows.iter().map(Stored::read).collect();
        // Of several rows of one effect the first is the one that counts.
        let mut found = found.map_err(|e| Error::of(&e))?;
        found.dedup_by_key(|stored| stored.id);
        self.place = found.last().map_or(Place::Audit(0), |last| Place::Effects(Some(last.id)));
        let exported = found.into_iter().filter_map(|stored| stored.record);
        let exported = exported.map(|record| match record {
            Ok(record) => Ok(Exported::Effect(Box::new(record))),
            Err(error) => Err(Damage(error.to_string())),
        });
        Ok(exported.collect())
    }

    async fn ask(
        &self,
        statement: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<tokio_postgres::Row>, Error> {
        self.link.client.query_typed(statement, parameters).await.map_err(|e| Error::of(&e))
    }
}

fn numbered(after: &i64) -> [(&(dyn ToSql + Sync), Type); 2] {
    [(after, Type::INT8), (&PAGE, Type::INT8)]
}
