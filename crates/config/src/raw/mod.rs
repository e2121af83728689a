//! The file as it was written: every key optional, every value with its place, nothing decided.

pub(crate) mod policy;
mod rate;
pub(crate) mod reader;
pub(crate) mod show;
pub(crate) mod value;

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderName, StatusCode};
use semel_core::code::Code;
use semel_core::key::KeySource;
use semel_core::policy::admission::Priority;
use semel_core::policy::backoff::Jitter;
use semel_core::route::{HostPattern, Pattern};
use semel_core::scope::PrincipalSource;
use toml::de::DeTable;

use crate::diagnostic::Diagnostic;
use crate::effective::{
    Ack, Backoff, Budget, Cidr, DatabaseUrl, Dialect, Effect, Endpoint, ForwardKey, Keep, LogFormat, NatsUrl,
    OnLedgerDown, Rate, RateBy,
};
use policy::{InFlightLimit, OfShare, UrlPath};
use rate::PerTime;
use reader::{At, Issues, Named, OneOrMany, Place, Table, raw_table};
use value::{
    Conditions, CorsOrigin, FilePath, HostName, LogFilter, MaybeZero, Name, OnUnknownWord, Percent, ProbeUrl,
    SchemaName, Size, StreamName,
};

raw_table! {
    /// The whole file.
    File {
        "listen" => listen: Listen,
        "ledger" => ledger: Ledger,
        "upstream" => upstreams: Named<Upstream>,
        "profile" => profiles: Named<Layer>,
        "route" => routes: Vec<At<Route>>,
        "admin" => admin: Admin,
        "log" => log: Log,
        "limits" => limits: Limits,
        "trusted_proxies" => trusted_proxies: Vec<At<Cidr>>,
    }
    later ["tls", "cluster", "gossip", "tenant"]
    require [
        "upstream": "name where requests go: [upstream.payments] urls = [\"http://127.0.0.1:9000\"]",
        "route": "say what is served: [[route]] match = \"POST /v1/payments\", to = \"payments\", effect = \"once\""
    ]
}

raw_table! {
    Listen { "http" => http: SocketAddr, "admin" => admin: SocketAddr, }
    later ["https"] require []
}

raw_table! {
    Ledger { "embedded" => embedded: EmbeddedLedger, "postgres" => postgres: PostgresLedger, "nats" => nats: NatsLedger, }
    later ["etcd"] require []
}

raw_table! {
    EmbeddedLedger { "path" => path: FilePath, "disk_reserve" => disk_reserve: Size, }
    later ["seal"] require []
}

raw_table! {
    PostgresLedger {
        "url" => url: DatabaseUrl,
        "listen_url" => listen_url: DatabaseUrl,
        "password_file" => password_file: FilePath,
        "ca_file" => ca_file: FilePath,
        "schema" => schema: SchemaName,
        "connections" => connections: usize,
        "patience" => patience: Duration,
    }
    later ["seal"] require ["url": "say where it is: url = \"postgres://user@host1,host2/database\""]
}

raw_table! {
    NatsLedger {
        "url" => url: NatsUrl,
        "password_file" => password_file: FilePath,
        "ca_file" => ca_file: FilePath,
        "system_url" => system_url: NatsUrl,
        "stream" => stream: StreamName,
        "replicas" => replicas: usize,
        "patience" => patience: Duration,
    }
    later ["seal", "credentials_file"] require ["url": "say where it is: url = \"nats://user:password@host1,nats://host2\""]
}

raw_table! {
    Upstream {
        "urls" => urls: OneOrMany<Endpoint>,
        "identity" => identity: Name,
        "connect_timeout" => connect_timeout: Duration,
        "idle_timeout" => idle_timeout: Duration,
        "connections" => connections: usize,
        "keep_alive" => keep_alive: bool,
        "preserve_host" => preserve_host: bool,
        "breaker" => breaker: Breaker,
        "outlier" => outlier: Outlier,
        "balance" => balance: Balance,
        "admission" => admission: Admission,
        "throttle" => throttle: Throttle,
        "health" => health: Health,
    }
    later ["tls", "replicas", "protocol"]
    require ["urls": "say where it answers: urls = [\"http://127.0.0.1:9000\"]"]
}

raw_table! {
    Breaker {
        "failure_rate" => failure_rate: Percent,
        "window" => window: Duration,
        "min_calls" => min_calls: usize,
        "consecutive" => consecutive: usize,
        "open" => open: Duration,
        "open_max" => open_max: Duration,
    }
    later [] require []
}

raw_table! {
    Outlier {
        "interval" => interval: Duration,
        "ejection" => ejection: Duration,
        "ejection_max" => ejection_max: Duration,
        "max_ejected" => max_ejected: Percent,
        "consecutive" => consecutive: usize,
        "min_calls" => min_calls: usize,
        "min_endpoints" => min_endpoints: usize,
    }
    later [] require []
}

raw_table! {
    Balance { "slow_start" => slow_start: MaybeZero, "panic" => panic: Percent, }
    later [] require []
}

raw_table! {
    Admission {
        "limit" => limit: InFlightLimit,
        "limit_max" => limit_max: usize,
        "healthy_latency" => healthy_latency: Duration,
        "wait" => wait: MaybeZero,
    }
    later [] require []
}

raw_table! {
    Health {
        "path" => path: UrlPath,
        "interval" => interval: Duration,
        "timeout" => timeout: Duration,
        "healthy" => healthy: u32,
        "unhealthy" => unhealthy: u32,
    }
    later [] require ["path": "say what to ask for: path = \"/healthz\""]
}

raw_table! {
    Throttle {
        "accept_rate" => accept_rate: Percent,
        "window" => window: Duration,
        "max_refused" => max_refused: Percent,
        "min_calls" => min_calls: usize,
    }
    later [] require []
}

raw_table! {
    /// The values that a profile gives and a route overrides.
    Layer {
        "idempotency" => idempotency: Idempotency,
        "timeout" => timeout: Timeout,
        "retry" => retry: Retry,
        "body" => body: Body,
        "cors" => cors: Cors,
        "rate" => rates: OneOrMany<Rate>,
        "priority" => priority: Priority,
        "hedge" => hedge: Hedge,
        "fault" => fault: Fault,
    }
    later [] require []
}

raw_table! {
    Idempotency {
        "key" => key: OneOrMany<KeySource>,
        "required" => required: bool,
        "principal" => principal: PrincipalSource,
        "keep" => keep: Keep,
        "marker" => marker: MaybeZero,
        "on_unknown" => on_unknown: OnUnknownWord,
        "upstream_keep" => upstream_keep: Duration,
        "probe" => probe: Probe,
        "lease" => lease: Duration,
        "join" => join: MaybeZero,
        "waiters" => waiters: usize,
        "dialect" => dialect: Dialect,
        "forward_key" => forward_key: ForwardKey,
        "forward_header" => forward_header: HeaderName,
        "ack" => ack: Ack,
        "store_headers" => store_headers: Vec<At<HeaderName>>,
        "not_executed" => not_executed: Vec<At<StatusCode>>,
        "final" => final_statuses: Vec<At<StatusCode>>,
        "store_body" => store_body: bool,
        "response_cap" => response_cap: Size,
        "on_ledger_down" => on_ledger_down: OnLedgerDown,
    }
    later ["key_time", "seal", "tenant"] require []
}

raw_table! {
    Probe { "url" => url: ProbeUrl, "timeout" => timeout: Duration, }
    later [] require ["url": "the status URL: url = \"http://127.0.0.1:9000/status/{key}\""]
}

raw_table! {
    Timeout { "total" => total: Duration, "attempt" => attempt: Duration, }
    later [] require []
}

raw_table! {
    Retry {
        "attempts" => attempts: u32,
        "backoff" => backoff: Backoff,
        "jitter" => jitter: Jitter,
        "budget" => budget: Budget,
    }
    later [] require []
}

raw_table! {
    Body { "request_cap" => request_cap: Size, }
    later [] require []
}

raw_table! {
    Cors {
        "origins" => origins: Vec<At<CorsOrigin>>,
        "allow_headers" => allow_headers: Vec<At<HeaderName>>,
        "expose_headers" => expose_headers: Vec<At<HeaderName>>,
        "credentials" => credentials: bool,
        "max_age" => max_age: MaybeZero,
    }
    later [] require []
}

raw_table! {
    Hedge {
        "quantile" => quantile: Percent,
        "min_calls" => min_calls: usize,
        "min_delay" => min_delay: Duration,
        "window" => window: Duration,
    }
    later [] require []
}

raw_table! {
    Fault {
        "delay" => delay: OfShare<Duration>,
        "abort" => abort: OfShare<StatusCode>,
        "truncate" => truncate: OfShare<Size>,
        "only" => only: Conditions,
        "by_header" => by_header: bool,
    }
    later [] require []
}

raw_table! {
    RateTable {
        "limit" => limit: PerTime,
        "burst" => burst: usize,
        "window" => window: bool,
        "by" => by: RateBy,
    }
    later [] require ["limit": "say how many in which time: limit = \"100/s\""]
}

raw_table! {
    Route {
        "match" => patterns: OneOrMany<Pattern>,
        "host" => hosts: OneOrMany<HostPattern>,
        "headers" => headers: Conditions,
        "to" => to: Name,
        "effect" => effect: Effect,
        "scope" => scope: Name,
        "use" => profile: Name,
        "idempotency" => idempotency: Idempotency,
        "timeout" => timeout: Timeout,
        "retry" => retry: Retry,
        "body" => body: Body,
        "cors" => cors: Cors,
        "rate" => rates: OneOrMany<Rate>,
        "priority" => priority: Priority,
        "hedge" => hedge: Hedge,
        "fault" => fault: Fault,
    }
    later ["async"]
    require [
        "match": "say which requests: match = \"POST /v1/payments\"",
        "to": "say where they go: to = \"NAME\" of an [upstream.NAME]",
        "effect": "say what a request means: \"once\" (must happen once), \"idempotent\" (harmless to repeat), \"read\" (changes nothing) or \"forward\" (pass through, never repeat)"
    ]
}

impl Route {
    /// Splits off the values that a profile could have given as well.
    pub(crate) fn take_layer(&mut self) -> Layer {
        Layer {
            idempotency: self.idempotency.take(),
            timeout: self.timeout.take(),
            retry: self.retry.take(),
            body: self.body.take(),
            cors: self.cors.take(),
            rates: self.rates.take(),
            priority: self.priority.take(),
            hedge: self.hedge.take(),
            fault: self.fault.take(),
        }
    }
}

raw_table! {
    Admin {
        "token_file" => token_file: FilePath,
        "allowed_hosts" => allowed_hosts: Vec<At<HostName>>,
        "allowed_origins" => allowed_origins: Vec<At<CorsOrigin>>,
    }
    later ["tls"] require []
}

raw_table! {
    Log { "filter" => filter: LogFilter, "format" => format: LogFormat, }
    later ["otlp"] require []
}

raw_table! {
    Limits {
        "connections" => connections: usize,
        "header_bytes" => header_bytes: Size,
        "headers" => headers: usize,
        "body" => body: Size,
        "buffered" => buffered: Size,
        "header_timeout" => header_timeout: Duration,
        "body_idle_timeout" => body_idle_timeout: Duration,
        "write_idle_timeout" => write_idle_timeout: Duration,
        "keep_alive_timeout" => keep_alive_timeout: Duration,
        "drain_timeout" => drain_timeout: Duration,
    }
    later [] require []
}

/// Parses and reads a file.
pub(crate) fn read(text: &str) -> Result<File, Vec<Diagnostic>> {
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let whole = 0..0;
        return Err(errors
            .iter()
            .map(|e| Diagnostic::error(Code::CONFIG_SYNTAX, e.span().unwrap_or(whole.clone()), e.message()))
            .collect());
    }
    let issues = Issues::default();
    let file = File::from_table(Table::of(root.get_ref(), root.span(), Place::root(&issues)));
    let issues = issues.into_inner();
    if issues.is_empty() { Ok(file) } else { Err(issues) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference page has a line for every key: a table row that starts with it.
    #[test]
    fn every_key_is_documented() {
        let page = include_str!("../../../../docs/src/configuration.md");
        let tables = [
            (File::KEYS, ""),
            (Listen::KEYS, "listen."),
            (Ledger::KEYS, "ledger."),
            (Layer::KEYS, ""),
            (EmbeddedLedger::KEYS, "ledger.embedded."),
            (PostgresLedger::KEYS, "ledger.postgres."),
            (NatsLedger::KEYS, "ledger.nats."),
            (Upstream::KEYS, ""),
            (Breaker::KEYS, "breaker."),
            (Outlier::KEYS, "outlier."),
            (Balance::KEYS, "balance."),
            (Idempotency::KEYS, "idempotency."),
            (Probe::KEYS, "idempotency.probe."),
            (Timeout::KEYS, "timeout."),
            (Retry::KEYS, "retry."),
            (Body::KEYS, "body."),
            (Cors::KEYS, "cors."),
            (RateTable::KEYS, "rate."),
            (Hedge::KEYS, "hedge."),
            (Fault::KEYS, "fault."),
            (Admission::KEYS, "admission."),
            (Throttle::KEYS, "throttle."),
            (Health::KEYS, "health."),
            (Route::KEYS, ""),
            (Admin::KEYS, "admin."),
            (Log::KEYS, "log."),
            (Limits::KEYS, "limits."),
        ];
        for (keys, prefix) in tables {
            for key in keys {
                assert!(page.contains(&format!("\n| `{prefix}{key}` |")), "{prefix}{key} is not documented");
            }
        }
    }
}
