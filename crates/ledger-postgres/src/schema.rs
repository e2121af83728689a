//! The schema: made, migrated, and checked before anything is decided in it.

use semel_core::scope::LookupSecret;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use crate::link::Connector;
use crate::{Error, Options};

/// The version of the schema that this release works with.
pub const SCHEMA_VERSION: i32 = 1;

/// The oldest server that is supported: the first with everything that the schema uses.
const SERVER_MIN: i32 = 140_000;

/// Each migration, from the first on. Run as one transaction by the role that shall own the schema.
const MIGRATIONS: [&str; 1] = [include_str!("../sql/1.sql")];

/// What [`migrate`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// The version that was found; none where there was no ledger.
    pub from: Option<i32>,
    /// The version that stands now.
    pub to: i32,
}

/// Makes the ledger's schema, or brings it to the version of this release. All or nothing; harmless when repeated.
///
/// # Errors
/// When the database cannot be reached or refuses, or holds a newer version.
pub async fn migrate(options: &Options) -> Result<Migrated, Error> {
    migrate_with(options, None).await
}

/// As [`migrate`]; a ledger that is made gets this secret, to take over the records of another. One that exists keeps
/// its own.
///
/// # Errors
/// See [`migrate`].
pub async fn migrate_with(options: &Options, secret: Option<&LookupSecret>) -> Result<Migrated, Error> {
    let connector = Connector::new(options)?;
    let link = connector.connect_unchecked().await?;
    let secret = if let Some(secret) = secret {
        *secret.expose()
    } else {
        let mut secret = [0; LookupSecret::BYTES];
        getrandom::fill(&mut secret).map_err(|e| Error::Options(format!("the system has no randomness: {e}")))?;
        secret
    };
    check_server(&link.client).await?;
    run(&link.client, "BEGIN").await?;
    // An error on the way leaves the connection, and with it the transaction, to be dropped.
    let migrated = within(&link.client, &connector.schema, &secret).await?;
    run(&link.client, "COMMIT").await?;
    Ok(migrated)
}

async fn within(client: &Client, schema: &str, secret: &[u8]) -> Result<Migrated, Error> {
    let refused = |e: tokio_postgres::Error| Error::of(&e);
    let lock = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))";
    client.query_typed(lock, &[(&schema, Type::TEXT)]).await.map_err(refused)?;
    let found = "SELECT to_regclass(format('%I.meta', $1)) IS NOT NULL";
    let row = client.query_typed_one(found, &[(&schema, Type::TEXT)]).await.map_err(refused)?;
    let from =
        if row.try_get(0).map_err(refused)? { Some(version(client, schema).await.map_err(refused)?) } else { None };
    if from.is_some_and(|version| version > SCHEMA_VERSION) {
        return Err(other_version(schema, from.unwrap_or_default()));
    }
    if from.is_none() {
        run(client, &format!("CREATE SCHEMA IF NOT EXISTS \"{schema}\"")).await?;
    }
    for (migration, to) in MIGRATIONS.iter().zip(1..).skip(usize::try_from(from.unwrap_or(0)).unwrap_or(0)) {
        run(client, &fill_in(migration, schema)).await?;
        if to == 1 {
            let keep = format!("INSERT INTO \"{schema}\".meta (version, secret) VALUES (1, $1)");
            client.query_typed(&keep, &[(&secret, Type::BYTEA)]).await.map_err(refused)?;
        }
    }
    run(client, &format!("UPDATE \"{schema}\".meta SET version = {SCHEMA_VERSION}")).await?;
    client.query_typed(&format!("SELECT \"{schema}\".make_room('{{}}')"), &[]).await.map_err(refused)?;
    Ok(Migrated { from, to: SCHEMA_VERSION })
}

/// The migration with the schema's name in it, which [`Connector::new`] has checked to need no escaping.
fn fill_in(migration: &str, schema: &str) -> String {
    let quoted = format!("'{schema}'");
    migration.replace("{s}", &format!("\"{schema}\"")).replace("{q}", &quoted).replace("{c}", &quoted)
}

async fn run(client: &Client, statements: &str) -> Result<(), Error> {
    client.batch_execute(statements).await.map_err(|e| Error::of(&e))
}

async fn version(client: &Client, schema: &str) -> Result<i32, tokio_postgres::Error> {
    client.query_typed_one(&format!("SELECT version FROM \"{schema}\".meta"), &[]).await?.try_get(0)
}

fn other_version(schema: &str, version: i32) -> Error {
    let what = format!("holds version {version} of the ledger, this release works with version {SCHEMA_VERSION}");
    Error::NotMigrated { schema: schema.to_owned(), what }
}

/// # Errors
/// When the schema is missing or of another version.
pub(crate) async fn check_version(client: &Client, schema: &str) -> Result<(), Error> {
    match version(client, schema).await {
        Ok(SCHEMA_VERSION) => Ok(()),
        Ok(other) => Err(other_version(schema, other)),
        Err(error) => Err(match error.code() {
            Some(&(SqlState::UNDEFINED_TABLE | SqlState::INVALID_SCHEMA_NAME)) => {
                Error::NotMigrated { schema: schema.to_owned(), what: "holds no ledger".to_owned() }
            }
            _ => Error::of(&error),
        }),
    }
}

async fn check_server(client: &Client) -> Result<(), Error> {
    let row = client.query_typed_one("SELECT current_setting('server_version_num')::integer", &[]).await;
    let version: i32 = row.and_then(|row| row.try_get(0)).map_err(|e| Error::of(&e))?;
    if version < SERVER_MIN {
        let (is, min) = (version / 10_000, SERVER_MIN / 10_000);
        return Err(Error::Refused(format!("it is PostgreSQL {is}; the ledger needs {min} or newer")));
    }
    Ok(())
}

/// Whether the server's settings keep the promise of the ledger; returns what weakens it without breaking it.
///
/// # Errors
/// [`Error::NotDurable`] when they break it.
pub(crate) async fn check_settings(client: &Client) -> Result<Vec<String>, Error> {
    check_server(client).await?;
    let names = ["fsync", "full_page_writes", "synchronous_commit", "synchronous_standby_names"];
    let columns = names.map(|name| format!("current_setting('{name}')")).join(", ");
    let row = client.query_typed_one(&format!("SELECT {columns}"), &[]).await.map_err(|e| Error::of(&e))?;
    let setting = |n: usize| row.try_get::<_, &str>(n).map_err(|e| Error::of(&e));
    let (fsync, pages, commit, standbys) = (setting(0)?, setting(1)?, setting(2)?, setting(3)?);
    if fsync == "off" {
        return Err(Error::NotDurable("fsync is off: a crash may lose or damage anything".to_owned()));
    }
    if commit == "off" {
        return Err(Error::NotDurable("synchronous_commit is off: a crash loses acknowledged effects".to_owned()));
    }
    let mut weak = Vec::new();
    if pages == "off" {
        weak.push("full_page_writes is off: only right where the storage writes whole pages".to_owned());
    }
    if standbys.is_empty() {
        weak.push(
            "no synchronous standby (synchronous_standby_names is empty): if the primary is lost, so are the effects \
             that no standby had received"
                .to_owned(),
        );
    } else if commit == "local" || commit == "remote_write" {
        weak.push(format!("synchronous_commit is {commit}: effects may be lost with the primary; on is safe"));
    }
    Ok(weak)
}
