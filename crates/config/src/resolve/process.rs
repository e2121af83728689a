//! The values of the process itself: addresses, ledger, upstreams, admin, log, limits.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use semel_core::code::Code;

use super::endpoints;
use super::values::Values;
use crate::diagnostic::Diagnostic;
use crate::effective::{
    Admin, Cidr, EmbeddedLedger, LedgerConfig, Limits, Listen, Log, LogFormat, NatsLedger, PostgresLedger, Upstream,
};
use crate::origin::Origin;
use crate::raw;
use crate::raw::reader::At;
use crate::raw::value::{FilePath, LogFilter, Name, SchemaName, Size, StreamName};
use crate::source::Source;

const MIB: u64 = 1 << 20;

pub(super) fn listen(raw: Option<&At<raw::Listen>>, values: &mut Values<'_>, found: &mut Vec<Diagnostic>) -> Listen {
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let raw = raw.map(|at| &at.value);
    let http = raw.and_then(|l| l.http.as_ref());
    let admin = raw.and_then(|l| l.admin.as_ref());
    let listen = Listen {
        http: values.choose("listen.http", http, local(8080)),
        admin: values.choose("listen.admin", admin, local(8081)),
    };
    let Some(at) = admin.or(http) else { return listen };
    if listen.http == listen.admin && listen.http.port() != 0 {
        let message = format!("callers and operators cannot share {}", listen.http);
        found.push(
            Diagnostic::error(Code::CONTRADICTION, at.span.clone(), message)
                .help("give `listen.admin` a port of its own, best on 127.0.0.1"),
        );
    } else if !listen.admin.ip().is_loopback() {
        let message = format!("the admin API on {} can be reached from other machines", listen.admin);
        found.push(
            Diagnostic::warning(Code::ADMIN_EXPOSED, at.span.clone(), message)
                .help("reading effects needs no token there: listen on 127.0.0.1, or guard the port"),
        );
    }
    listen
}

pub(super) fn ledger(
    raw: Option<&At<raw::Ledger>>,
    values: &mut Values<'_>,
    found: &mut Vec<Diagnostic>,
) -> LedgerConfig {
    let engines = raw.map(|at| &at.value);
    let embedded = engines.and_then(|engines| engines.embedded.as_ref());
    let postgres = engines.and_then(|engines| engines.postgres.as_ref());
    let nats = engines.and_then(|engines| engines.nats.as_ref());
    let given = [embedded.map(|at| &at.span), postgres.map(|at| &at.span), nats.map(|at| &at.span)];
    let given: Vec<_> = given.into_iter().flatten().collect();
    if let [first, .., last] = given[..] {
        found.push(
            Diagnostic::error(Code::CONTRADICTION, last.clone(), "two engines cannot keep one truth")
                .related(first.clone(), "the other engine")
                .help("keep `ledger.embedded` (one process), or one of `postgres` and `nats` (any number of gateways)"),
        );
    }
    let shared = match (postgres, nats) {
        (Some(at), _) => postgres_ledger(at, values, found),
        (None, Some(at)) => nats_ledger(at, values, found),
        (None, None) => None,
    };
    // Without its URL, which is reported as missing, it is none.
    shared.unwrap_or_else(|| LedgerConfig::Embedded(embedded_ledger(embedded.map(|at| &at.value), values)))
}

fn given_path(raw: Option<&At<FilePath>>, key: &'static str, values: &mut Values<'_>) -> Option<PathBuf> {
    raw.map(|at| values.choose(key, Some(at), at.value.clone()).0)
}

fn nats_ledger(at: &At<raw::NatsLedger>, values: &mut Values<'_>, found: &mut Vec<Diagnostic>) -> Option<LedgerConfig> {
    let l = &at.value;
    if let Some(at) = l.replicas.as_ref().filter(|at| ![1, 3, 5].contains(&at.value)) {
        let message = "`ledger.nats.replicas` must be 3 or 5, or 1 where one disk may hold it all";
        found.push(Diagnostic::error(Code::INVALID_VALUE, at.span.clone(), message));
    }
    let url = l.url.as_ref()?;
    let url = values.choose("ledger.nats.url", Some(url), url.value.clone());
    let system_url = l.system_url.as_ref();
    Some(LedgerConfig::Nats(NatsLedger {
        url,
        password_file: given_path(l.password_file.as_ref(), "ledger.nats.password_file", values),
        ca_file: given_path(l.ca_file.as_ref(), "ledger.nats.ca_file", values),
        system_url: system_url.map(|at| values.choose("ledger.nats.system_url", Some(at), at.value.clone())),
        stream: values.choose("ledger.nats.stream", l.stream.as_ref(), StreamName("semel".to_owned())).0,
        replicas: values.choose("ledger.nats.replicas", l.replicas.as_ref(), 3),
        patience: values.choose("ledger.nats.patience", l.patience.as_ref(), Duration::from_secs(10)),
    }))
}

fn postgres_ledger(
    at: &At<raw::PostgresLedger>,
    values: &mut Values<'_>,
    found: &mut Vec<Diagnostic>,
) -> Option<LedgerConfig> {
    let url = at.value.url.as_ref()?;
    let (l, connections) = (&at.value, at.value.connections.as_ref());
    if let Some(at) = connections.filter(|at| !(1..=64).contains(&at.value)) {
        let message = "`ledger.postgres.connections` must be from 1 to 64";
        found.push(Diagnostic::error(Code::INVALID_VALUE, at.span.clone(), message));
    }
    let url = values.choose("ledger.postgres.url", Some(url), url.value.clone());
    let listen_url = l.listen_url.as_ref();
    Some(LedgerConfig::Postgres(PostgresLedger {
        url,
        listen_url: listen_url.map(|at| values.choose("ledger.postgres.listen_url", Some(at), at.value.clone())),
        password_file: given_path(l.password_file.as_ref(), "ledger.postgres.password_file", values),
        ca_file: given_path(l.ca_file.as_ref(), "ledger.postgres.ca_file", values),
        schema: values.choose("ledger.postgres.schema", l.schema.as_ref(), SchemaName("semel".to_owned())).0,
        connections: values.choose("ledger.postgres.connections", connections, 4),
        patience: values.choose("ledger.postgres.patience", l.patience.as_ref(), Duration::from_secs(5)),
    }))
}

fn embedded_ledger(raw: Option<&raw::EmbeddedLedger>, values: &mut Values<'_>) -> EmbeddedLedger {
    let path = raw.and_then(|l| l.path.as_ref());
    let reserve = raw.and_then(|l| l.disk_reserve.as_ref());
    EmbeddedLedger {
        path: values.choose("ledger.embedded.path", path, FilePath("./semel-data".into())).0,
        disk_reserve_bytes: values.choose("ledger.embedded.disk_reserve", reserve, Size(512 * MIB)).0,
    }
}

pub(super) fn upstream(name: &At<String>, raw: &At<raw::Upstream>, source: &Source) -> Upstream {
    let mut values = Values::new(source);
    let u = &raw.value;
    let urls = u.urls.as_ref();
    if let Some(urls) = urls {
        values.choose("urls", Some(urls), urls.value.clone());
    }
    let own_name = Name(name.value.clone());
    Upstream {
        name: name.value.clone(),
        endpoints: urls.map(|at| at.value.0.iter().map(|e| e.value.clone()).collect()).unwrap_or_default(),
        identity: match &u.identity {
            Some(at) => values.choose("identity", Some(at), own_name).0,
            None => {
                values.record("identity", &own_name, Origin::Implied("the upstream's name"));
                own_name.0
            }
        },
        connect_timeout: values.choose("connect_timeout", u.connect_timeout.as_ref(), Duration::from_secs(5)),
        idle_timeout: values.choose("idle_timeout", u.idle_timeout.as_ref(), Duration::from_secs(4)),
        connections_max: values.choose("connections", u.connections.as_ref(), 1024),
        keep_alive: values.choose("keep_alive", u.keep_alive.as_ref(), true),
        preserve_host: values.choose("preserve_host", u.preserve_host.as_ref(), true),
        breaker: u.breaker.as_ref().map(|at| endpoints::breaker(&at.value, &mut values)),
        outlier: u.outlier.as_ref().map(|at| endpoints::outlier(&at.value, &mut values)),
        balance: endpoints::balance(u.balance.as_ref().map(|at| &at.value), &mut values),
        admission: u.admission.as_ref().map(|at| endpoints::admission(&at.value, &mut values)),
        throttle: u.throttle.as_ref().map(|at| endpoints::throttle(&at.value, &mut values)),
        health: u.health.as_ref().and_then(|at| endpoints::health(&at.value, &mut values)),
        settings: values.settings,
    }
}

pub(super) fn admin(raw: Option<&At<raw::Admin>>, ledger: &LedgerConfig, values: &mut Values<'_>) -> Admin {
    let raw = raw.map(|at| &at.value);
    let token_file = match (raw.and_then(|a| a.token_file.as_ref()), ledger) {
        (given, LedgerConfig::Postgres(_) | LedgerConfig::Nats(_)) => {
            values.choose("admin.token_file", given, FilePath("./admin.token".into()))
        }
        (Some(at), _) => values.choose("admin.token_file", Some(at), at.value.clone()),
        (None, LedgerConfig::Embedded(embedded)) => {
            let path = FilePath(embedded.path.join("admin.token"));
            values.record("admin.token_file", &path, Origin::Implied("ledger.embedded.path"));
            path
        }
    };
    let hosts = values.choose("admin.allowed_hosts", raw.and_then(|a| a.allowed_hosts.as_ref()), Vec::new());
    let origins = values.choose("admin.allowed_origins", raw.and_then(|a| a.allowed_origins.as_ref()), Vec::new());
    Admin {
        token_file: token_file.0,
        allowed_hosts: hosts.into_iter().map(|at| at.value.0).collect(),
        allowed_origins: origins.into_iter().map(|at| at.value.0).collect(),
    }
}

pub(super) fn log(raw: Option<&At<raw::Log>>, values: &mut Values<'_>) -> Log {
    let raw = raw.map(|at| &at.value);
    Log {
        filter: values.choose("log.filter", raw.and_then(|l| l.filter.as_ref()), LogFilter("info".to_owned())).0,
        format: values.choose("log.format", raw.and_then(|l| l.format.as_ref()), LogFormat::Auto),
    }
}

pub(super) fn limits(raw: Option<&At<raw::Limits>>, values: &mut Values<'_>, found: &mut Vec<Diagnostic>) -> Limits {
    let none = raw::Limits::default();
    let l = raw.map_or(&none, |at| &at.value);
    if let Some(at) = l.header_bytes.as_ref().filter(|at| !(1024..=16 * MIB).contains(&at.value.0)) {
        let message = "`limits.header_bytes` must be from 1KiB to 16MiB";
        found.push(Diagnostic::error(Code::INVALID_VALUE, at.span.clone(), message));
    }
    let seconds = Duration::from_secs;
    Limits {
        connections_max: values.choose("limits.connections", l.connections.as_ref(), 10_000),
        header_bytes_max: values
            .choose("limits.header_bytes", l.header_bytes.as_ref(), Size(32 << 10))
            .0
            .try_into()
            .unwrap_or(usize::MAX),
        header_count_max: values.choose("limits.headers", l.headers.as_ref(), 100),
        body_bytes_max: values.choose("limits.body", l.body.as_ref(), Size(1024 * MIB)).0,
        buffered_bytes_max: values.choose("limits.buffered", l.buffered.as_ref(), Size(256 * MIB)).0,
        header_timeout: values.choose("limits.header_timeout", l.header_timeout.as_ref(), seconds(10)),
        body_idle_timeout: values.choose("limits.body_idle_timeout", l.body_idle_timeout.as_ref(), seconds(30)),
        write_idle_timeout: values.choose("limits.write_idle_timeout", l.write_idle_timeout.as_ref(), seconds(30)),
        keep_alive_timeout: values.choose("limits.keep_alive_timeout", l.keep_alive_timeout.as_ref(), seconds(75)),
        drain_timeout: values.choose("limits.drain_timeout", l.drain_timeout.as_ref(), seconds(30)),
    }
}

pub(super) fn trusted_proxies(raw: Option<&At<Vec<At<Cidr>>>>, values: &mut Values<'_>) -> Vec<Cidr> {
    values.choose("trusted_proxies", raw, Vec::new()).into_iter().map(|at| at.value).collect()
}
