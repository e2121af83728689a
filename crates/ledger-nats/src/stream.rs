//! The stream: made, and checked before anything is decided in it.

use std::time::Duration;

use semel_core::scope::LookupSecret;
use semel_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::clock::parse_time;
use crate::error::ApiError;
use crate::link::{self, ApiFailed, Link};
use crate::read;
use crate::shared::{ANSWER_WITHIN, Names};
use crate::{Error, Options};

/// The version of the stream's settings and messages that this release works with.
pub const STREAM_VERSION: u32 = 1;

/// How long the making of a stream may take: servers agree on it and elect a leader for it.
const MADE_WITHIN: Duration = Duration::from_secs(10);

/// What [`migrate`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// The version that was found; none where there was no ledger.
    pub from: Option<u32>,
    /// The version that stands now.
    pub to: u32,
}

/// What a ledger is opened with: stored once, never changed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub(crate) version: u32,
    secret: Vec<u8>,
}

/// What the leader says of its stream.
#[derive(Debug, Deserialize)]
pub(crate) struct Info {
    config: Config,
    pub(crate) state: State,
    #[serde(default)]
    pub(crate) cluster: Option<Cluster>,
    #[serde(default)]
    ts: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct State {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) last_seq: u64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Cluster {
    #[serde(default)]
    pub(crate) leader: Option<String>,
    #[serde(default)]
    pub(crate) replicas: Vec<Replica>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Replica {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) current: bool,
}

/// The settings that the ledger depends on.
#[derive(Debug, Deserialize, PartialEq, Eq)]
struct Config {
    subjects: Vec<String>,
    storage: String,
    retention: String,
    discard: String,
    num_replicas: usize,
    max_msgs_per_subject: i64,
    max_age: u64,
    #[serde(default)]
    allow_msg_ttl: bool,
    #[serde(default)]
    allow_atomic: bool,
    #[serde(default)]
    republish: Option<Republish>,
    #[serde(default)]
    persist_mode: Option<String>,
    #[serde(default)]
    sealed: bool,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
struct Republish {
    src: String,
    dest: String,
}

/// Makes the ledger's stream. Harmless when repeated.
///
/// # Errors
/// When no server can be reached or one refuses, or the stream holds something else.
pub async fn migrate(options: &Options) -> Result<Migrated, Error> {
    migrate_with(options, None).await
}

/// As [`migrate`]; a ledger that is made gets this secret, to take over the records of another. One that exists keeps
/// its own.
///
/// # Errors
/// See [`migrate`].
pub async fn migrate_with(options: &Options, secret: Option<&LookupSecret>) -> Result<Migrated, Error> {
    let names = Names::new(&options.stream)?;
    let link = Link::connect(options).await?;
    let from = match info(&link, &names, ANSWER_WITHIN).await {
        Ok(_) => meta(&link, &names).await?.map(|meta| meta.version),
        Err(ApiFailed::Refused(error)) if error.err_code == ApiError::NO_STREAM => {
            make(&link, &names, options.replicas).await?;
            None
        }
        Err(failed) => return Err(failed.into()),
    };
    check_settings(&link, &names, options).await?;
    if from.is_none() {
        keep_meta(&link, &names, secret).await?;
    }
    open(&link, &names).await?;
    Ok(Migrated { from, to: STREAM_VERSION })
}

async fn make(link: &Link, names: &Names, replicas: usize) -> Result<(), Error> {
    let stream = &names.stream;
    let config = json!({
        "name": stream,
        "description": "semel's ledger: a key that is absent here may run again",
        "subjects": subjects(names),
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "num_replicas": replicas,
        // The last message of a subject is what stands.
        "max_msgs_per_subject": 1,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "allow_msg_ttl": true,
        "allow_atomic": true,
        // Nobody takes a key away by a slip. Set once, it stays.
        "deny_delete": true,
        "deny_purge": true,
        "republish": {
            "src": names.effects(),
            "dest": format!("{stream}.told.{{{{wildcard(1)}}}}"),
            "headers_only": true,
        },
    });
    let made = link.api::<Info>(names.api("STREAM.CREATE"), config.to_string().into(), MADE_WITHIN).await;
    made.map(drop).map_err(Error::from)
}

fn subjects(names: &Names) -> [String; 5] {
    let parts = format!("{}.part.*.*", names.stream);
    [names.effects(), parts, names.audits(), names.contracts(), names.meta()]
}

async fn keep_meta(link: &Link, names: &Names, secret: Option<&LookupSecret>) -> Result<(), Error> {
    let secret = if let Some(secret) = secret {
        secret.expose().to_vec()
    } else {
        let mut secret = vec![0; LookupSecret::BYTES];
        getrandom::fill(&mut secret).map_err(|e| Error::Options(format!("the system has no randomness: {e}")))?;
        secret
    };
    let meta = serde_json::to_vec(&Meta { version: STREAM_VERSION, secret }).map_err(|e| Error::Refused(e.to_string()));
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Expected-Last-Subject-Sequence", "0");
    let answer = link.ask(names.meta(), Some(headers), meta?.into(), MADE_WITHIN).await;
    let answer = answer.map_err(|why| Error::Unreachable(why.words()))?;
    match link::read::<serde_json::Value>(&answer.payload) {
        Ok(_) => Ok(()),
        // Another was quicker; its secret counts.
        Err(ApiFailed::Refused(error)) if error.err_code == ApiError::WRONG_SEQUENCE => Ok(()),
        Err(failed) => Err(failed.into()),
    }
}

async fn meta(link: &Link, names: &Names) -> Result<Option<Meta>, Error> {
    let Some(message) = read::last(link, names, &names.meta(), MADE_WITHIN).await? else { return Ok(None) };
    let meta = serde_json::from_slice(&message.data);
    meta.map(Some).map_err(|error| not_migrated(names, format!("holds something else than a ledger: {error}")))
}

/// The ledger's secret, where the stream holds a ledger of this release.
///
/// # Errors
/// When it does not.
pub(crate) async fn open(link: &Link, names: &Names) -> Result<LookupSecret, Error> {
    let meta = match meta(link, names).await {
        Ok(Some(meta)) => meta,
        Ok(None) => return Err(not_migrated(names, "holds no ledger".to_owned())),
        Err(error) => return Err(error),
    };
    if meta.version != STREAM_VERSION {
        let version = meta.version;
        let what = format!("holds version {version} of the ledger, this release works with version {STREAM_VERSION}");
        return Err(not_migrated(names, what));
    }
    LookupSecret::from_slice(&meta.secret).map_err(|error| Error::Refused(error.to_string()))
}

fn not_migrated(names: &Names, what: String) -> Error {
    Error::NotMigrated { stream: names.stream.clone(), what }
}

/// What the leader says of the stream.
pub(crate) async fn info(link: &Link, names: &Names, within: Duration) -> Result<Info, ApiFailed> {
    link.api(names.api("STREAM.INFO"), "{}".into(), within).await
}

impl Info {
    /// The leader's clock when it answered.
    pub(crate) fn time(&self) -> Option<Timestamp> {
        parse_time(&self.ts)
    }

    /// The servers that hold it.
    fn peers(&self) -> Vec<&str> {
        let cluster = self.cluster.iter();
        cluster
            .flat_map(|cluster| {
                cluster.leader.as_deref().into_iter().chain(cluster.replicas.iter().map(|replica| &*replica.name))
            })
            .collect()
    }
}

/// Refuses a stream that may lose what it acknowledged, and says in words what else weakens it.
///
/// # Errors
/// Also when there is no such stream.
pub(crate) async fn check_settings(link: &Link, names: &Names, options: &Options) -> Result<Vec<String>, Error> {
    let info = match info(link, names, ANSWER_WITHIN).await {
        Ok(info) => info,
        Err(ApiFailed::Refused(error)) if error.err_code == ApiError::NO_STREAM => {
            return Err(not_migrated(names, "does not exist".to_owned()));
        }
        Err(failed) => return Err(failed.into()),
    };
    let mut weaknesses = check_config(&info.config, names, options.replicas)?;
    let behind = info.cluster.iter().flat_map(|cluster| &cluster.replicas).filter(|replica| !replica.current);
    weaknesses.extend(behind.map(|replica| format!("server {} is behind or away", replica.name)));
    weaknesses.extend(check_servers(&info, options).await?);
    Ok(weaknesses)
}

fn check_config(config: &Config, names: &Names, replicas: usize) -> Result<Vec<String>, Error> {
    let stream = &names.stream;
    let lossy = |what: &str| Err(Error::NotDurable(format!("stream {stream:?} {what}")));
    if !config.allow_atomic || !config.allow_msg_ttl {
        let what = "was not made by this release, or its servers are older than 2.12";
        return Err(not_migrated(names, what.to_owned()));
    }
    let told = format!("{stream}.told.{{{{wildcard(1)}}}}");
    let tells = config.republish.as_ref().is_some_and(|told_to| told_to.dest == told && told_to.src == names.effects());
    if config.subjects != subjects(names) || config.max_msgs_per_subject != 1 || !tells || config.sealed {
        return Err(not_migrated(names, "was made or changed by somebody else: its settings differ".to_owned()));
    }
    if config.storage != "file" {
        return lossy("is kept in memory");
    }
    if config.retention != "limits" || config.discard != "new" || config.max_age != 0 {
        return lossy("drops messages by age, number or interest");
    }
    if config.persist_mode.as_deref().is_some_and(|mode| mode != "default") {
        return lossy("is written after it is acknowledged (persist_mode)");
    }
    if config.num_replicas < replicas {
        let what = format!("stands on {} servers, not on {replicas}", config.num_replicas);
        return lossy(&format!("{what}: `nats stream edit {stream} --replicas={replicas}`, or say replicas = 1"));
    }
    let alone = config.num_replicas < 3;
    Ok(alone
        .then(|| format!("one server holds stream {stream:?}: with its disk the ledger is lost"))
        .into_iter()
        .collect())
}

/// Whether the servers write what they acknowledge through to the disk.
async fn check_servers(info: &Info, options: &Options) -> Result<Vec<String>, Error> {
    let Some(system) = Link::connect_to_system(options).await? else {
        let cannot = "whether the servers have `sync_interval: always` cannot be seen without ledger.nats.system_url; \
                      without it a power cut may lose what was acknowledged";
        return Ok(vec![cannot.to_owned()]);
    };
    let peers = info.peers();
    let servers = ask_servers(&system, peers.len().max(1)).await?;
    let mut weaknesses = Vec::new();
    for server in &servers {
        if !server.data.config.as_ref().is_some_and(|config| config.sync_always)
            && (peers.is_empty() || peers.contains(&&*server.server.name))
        {
            let name = &server.server.name;
            return Err(Error::NotDurable(format!("server {name} does not have `sync_interval: always`")));
        }
    }
    let silent = peers.iter().filter(|peer| !servers.iter().any(|server| server.server.name == **peer));
    weaknesses.extend(silent.map(|peer| format!("server {peer} does not say whether it has `sync_interval: always`")));
    Ok(weaknesses)
}

/// A server's answer about its JetStream.
#[derive(Debug, Deserialize)]
struct Server {
    server: ServerName,
    #[serde(default)]
    data: Jsz,
}

#[derive(Debug, Deserialize)]
struct ServerName {
    name: String,
}

#[derive(Debug, Default, Deserialize)]
struct Jsz {
    config: Option<JszConfig>,
}

#[derive(Debug, Deserialize)]
struct JszConfig {
    #[serde(default)]
    sync_always: bool,
}

async fn ask_servers(system: &Link, wanted: usize) -> Result<Vec<Server>, Error> {
    use futures_util::StreamExt as _;
    let unreachable = |error: &dyn std::error::Error| Error::Unreachable(crate::error::in_words(error));
    let inbox = system.client.new_inbox();
    let mut answers = system.client.subscribe(inbox.clone()).await.map_err(|e| unreachable(&e))?;
    let asked = system.client.publish_with_reply("$SYS.REQ.SERVER.PING.JSZ", inbox, "{}".into()).await;
    asked.map_err(|e| unreachable(&e))?;
    let mut servers: Vec<Server> = Vec::new();
    let collecting = async {
        while servers.len() < wanted
            && let Some(answer) = answers.next().await
        {
            match serde_json::from_slice::<Server>(&answer.payload) {
                Ok(server) if server.data.config.is_some() => servers.push(server),
                // A server without JetStream, or nobody who may answer.
                _ if answer.status.is_some() => break,
                _ => {}
            }
        }
    };
    let _ = tokio::time::timeout(ANSWER_WITHIN, collecting).await;
    if servers.is_empty() {
        let why = "no server answers the user of ledger.nats.system_url: is it one of the system account?";
        return Err(Error::Options(why.to_owned()));
    }
    Ok(servers)
}
