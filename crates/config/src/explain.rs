//! What would happen to a request, and why: the route it takes, every effective value and where it comes from.

use std::fmt::Write as _;
use std::time::Duration;

use http::{HeaderMap, Method};
use semel_core::route::{MethodSet, Miss, PathError, normalise};
use serde_json::{Value, json};
use thiserror::Error;

use crate::effective::{Config, Keep, OnUnknown, Route};
use crate::origin::{Origin, Setting};
use crate::syntax::show_duration;

/// The effective policy of one request.
#[derive(Clone, Debug)]
pub struct Explanation<'c> {
    route: &'c Route,
    method: Method,
    path: String,
    params: Vec<(String, String)>,
}

/// Why no route takes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoRoute {
    /// 404.
    #[error("no route has this path: the gateway would answer 404")]
    NotFound,
    /// 405.
    #[error("routes with this path take {0} only: the gateway would answer 405")]
    Method(MethodSet),
    /// 400.
    #[error("the gateway would answer 400: {0}")]
    Path(#[from] PathError),
}

/// Finds the route of a request and explains it. `path` may have a query, which decides nothing.
///
/// # Errors
/// [`NoRoute`] says what the gateway would answer instead.
pub fn explain<'c>(
    config: &'c Config,
    method: &Method,
    host: Option<&str>,
    path: &str,
    headers: &HeaderMap,
) -> Result<Explanation<'c>, NoRoute> {
    let path = normalise(path.split(['?', '#']).next().unwrap_or(path))?;
    let found = config.router.find(host, method, &path, headers).map_err(|miss| match miss {
        Miss::NotFound => NoRoute::NotFound,
        Miss::Method { allow, .. } => NoRoute::Method(allow),
    })?;
    let params = found.params.iter(&path).map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let route = &config.routes[found.route];
    Ok(Explanation { route, method: method.clone(), path: path.into_owned(), params })
}

impl<'c> Explanation<'c> {
    /// The route the request takes.
    #[must_use]
    pub const fn route(&self) -> &'c Route {
        self.route
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let route = self.route;
        let mut out = String::new();
        let _ = writeln!(out, "{} {}", self.method, self.path);
        let line = if route.line == 0 { String::new() } else { format!(" (line {})", route.line) };
        let _ = writeln!(out, "takes the route `{}`{line}", route.name);
        for (name, value) in &self.params {
            let _ = writeln!(out, "with {name} = {value}");
        }
        table(&mut out, "Policy", &route.settings);
        table(&mut out, &format!("Upstream {}", route.upstream.name), &route.upstream.settings);
        if !route.notes.is_empty() {
            out.push_str("\nNotes\n");
            for note in &route.notes {
                let _ = writeln!(out, "  - {note}");
            }
        }
        out
    }

    /// For programs: the contract a client can read. Times are in milliseconds.
    #[must_use]
    pub fn json(&self) -> Value {
        let route = self.route;
        let upstream = &route.upstream;
        let params: serde_json::Map<_, _> = self.params.iter().map(|(k, v)| (k.clone(), v.as_str().into())).collect();
        json!({
            "method": self.method.as_str(),
            "path": self.path,
            "route": { "name": route.name, "line": route.line },
            "params": params,
            "effect": route.effect.as_str(),
            "scope": route.scope,
            "published": published(route),
            "assumptions": assumptions(route),
            "settings": settings(&route.settings),
            "upstream": {
                "name": upstream.name,
                "identity": upstream.identity,
                "settings": settings(&upstream.settings),
            },
            "notes": route.notes,
        })
    }
}

/// What a client may rely on.
fn published(route: &Route) -> Value {
    json!({
        "timeout_ms": millis(route.timeout.total),
        "attempt_timeout_ms": millis(route.timeout.attempt),
        "attempts": route.retry.attempts,
        "request_bytes_max": route.request_cap_bytes,
        "key": route.idempotency.as_ref().map(|i| i.key.to_string()),
        "key_required": route.idempotency.as_ref().map(|i| i.required),
        "window_ms": route.idempotency.as_ref().and_then(|i| match i.keep {
            Keep::For(keep) => Some(millis(keep)),
            Keep::Forever => None,
        }),
        "window_forever": route.idempotency.as_ref().map(|i| i.keep == Keep::Forever),
    })
}

/// What semel believes about the upstream without being able to check it.
fn assumptions(route: &Route) -> Value {
    let Some(i) = &route.idempotency else { return json!({}) };
    let codes = |statuses: &[http::StatusCode]| statuses.iter().map(|s| s.as_u16().into()).collect::<Vec<Value>>();
    json!({
        "not_executed": codes(&i.not_executed),
        "final": codes(&i.final_statuses),
        "upstream_keep_ms": match i.on_unknown {
            OnUnknown::Retry { upstream_keep } => Some(millis(upstream_keep)),
            OnUnknown::Hold | OnUnknown::Probe => None,
        },
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Settings as text, one a line, in three columns.
pub(crate) fn table(out: &mut String, title: &str, settings: &[Setting]) {
    let rows: Vec<(&str, String, String)> =
        settings.iter().map(|s| (s.key, plain(&s.value), s.origin.to_string())).collect();
    let key_width = rows.iter().map(|(key, ..)| key.len()).max().unwrap_or(0);
    let value_width = rows.iter().map(|(_, value, _)| value.chars().count()).max().unwrap_or(0).min(40);
    let _ = writeln!(out, "\n{title}");
    for (key, value, origin) in rows {
        let _ = writeln!(out, "  {key:<key_width$}  {value:<value_width$}  {origin}");
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// Settings as data, by key.
pub(crate) fn settings(settings: &[Setting]) -> Value {
    let entry = |s: &Setting| {
        let (kind, profile) = match &s.origin {
            Origin::Default => ("default", None),
            Origin::Implied(_) => ("implied", None),
            Origin::File { .. } => ("file", None),
            Origin::Profile { name, .. } => ("profile", Some(name.to_string())),
            Origin::Route { .. } => ("route", None),
        };
        let mut origin = json!({ "kind": kind, "text": s.origin.to_string() });
        if let Some(line) = s.origin.line() {
            origin["line"] = line.into();
        }
        if let Some(profile) = profile {
            origin["profile"] = profile.into();
        }
        (s.key.to_owned(), json!({ "value": s.value, "origin": origin }))
    };
    Value::Object(settings.iter().map(entry).collect())
}

impl Config {
    /// The file-wide values with their origins, as text.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut out = String::new();
        table(&mut out, "Process", &self.settings);
        out.remove(0);
        out.push_str("\nRoutes\n");
        for route in &self.routes {
            let total = show_duration(route.timeout.total);
            let (effect, to) = (route.effect.as_str(), &route.upstream.name);
            let _ = writeln!(out, "  {:<40}  {effect:<10}  -> {to}, within {total}", route.name);
        }
        out
    }
}
