//! One `[[route]]` with its profile and defaults.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use semel_core::code::Code;
use semel_core::policy::admission::Priority;
use semel_core::policy::backoff::Jitter;
use semel_core::policy::budget::WindowBudget;
use semel_core::route::{MethodSet, Pattern};

use super::idempotency;
use super::policy;
use super::values::{Chosen, Layers, Values};
use crate::diagnostic::{Diagnostic, known_names};
use crate::effective::{
    Backoff, Budget, Cors, Effect, Limits, OnUnknown, RATES_MAX, Rate, Retry, Route, Timeout, Upstream,
};
use crate::origin::Origin;
use crate::raw;
use crate::raw::reader::{At, OneOrMany};
use crate::raw::value::{MaybeZero, Name, Size};
use crate::source::Source;
use crate::syntax::show_duration;

/// What every route is resolved against.
pub(super) struct RouteBuilder<'a> {
    pub(super) source: &'a Source,
    pub(super) upstreams: &'a [Arc<Upstream>],
    pub(super) profiles: &'a [(At<String>, At<raw::Layer>)],
    pub(super) limits: &'a Limits,
    pub(super) trusts_nobody: bool,
}

/// Where a route stands in the file, and what it matches.
pub(super) struct Place {
    pub(super) span: Range<usize>,
    pub(super) patterns: Vec<At<Pattern>>,
}

/// A route in the making.
pub(super) struct Draft<'a, 'f> {
    pub(super) layers: Layers<'a>,
    pub(super) effect: At<Effect>,
    pub(super) limits: &'a Limits,
    pub(super) trusts_nobody: bool,
    pub(super) patterns: &'a [At<Pattern>],
    pub(super) notes: Vec<String>,
    pub(super) found: &'f mut Vec<Diagnostic>,
}

impl RouteBuilder<'_> {
    /// The route, unless something it cannot do without is missing or unknown; and its place in any case.
    pub(super) fn build(
        &self,
        index: usize,
        mut raw: At<raw::Route>,
        found: &mut Vec<Diagnostic>,
    ) -> (Option<Route>, Place) {
        let own = raw.value.take_layer();
        let raw_route = raw.value;
        let place = Place { patterns: patterns(&raw_route), span: raw.span };
        let (Some(to), Some(effect)) = (raw_route.to, raw_route.effect) else { return (None, place) };
        let upstream = self.upstream(&to, found);
        let profile = raw_route.profile.as_ref().and_then(|name| self.profile(name, found));

        let mut values = Values::new(self.source);
        let origin = |at: &Range<usize>, values: &Values<'_>| Origin::Route { line: values.line(at) };
        values.record("to", &to.value, origin(&to.span, &values));
        values.record("effect", &effect.value, origin(&effect.span, &values));
        let (scope, scope_origin) = match raw_route.scope {
            Some(at) => {
                let origin = origin(&at.span, &values);
                (at.value, origin)
            }
            None => (to.value.clone(), Origin::Implied("the upstream's name")),
        };
        if effect.value == Effect::Once {
            values.record("scope", &scope, scope_origin);
        }
        let line = values.line(&place.span);
        let mut draft = Draft {
            layers: Layers { values, route: &own, profile },
            effect,
            limits: self.limits,
            trusts_nobody: self.trusts_nobody,
            patterns: &place.patterns,
            notes: Vec::new(),
            found,
        };
        draft.check_methods();
        draft.check_unused_settings();
        let (timeout, retry) = draft.timeout_and_retry();
        let request_cap_bytes = draft.request_cap();
        let idempotency = draft.is_once().then(|| idempotency::resolve(&mut draft, timeout.total)).flatten();
        let cors = draft.cors();
        let rates = draft.rates();
        let repeats = idempotency.as_ref().is_some_and(|i| matches!(i.on_unknown, OnUnknown::Retry { .. }));
        let priority = draft.layers.choose("priority", |l| l.priority.as_ref(), Priority::Medium).value;
        let (hedge, fault) = (policy::hedge(&mut draft, repeats), policy::fault(&mut draft));
        let name = place.patterns.first().map(|at| at.value.to_string()).unwrap_or_default();
        let (effect, settings, notes) = (draft.effect.value, draft.layers.values.settings, draft.notes);
        let route = upstream.map(|upstream| Route {
            index,
            name,
            line,
            upstream,
            effect,
            scope: scope.0,
            idempotency,
            timeout,
            retry,
            rates,
            priority,
            hedge,
            fault,
            request_cap_bytes,
            cors,
            settings,
            notes,
        });
        (route, place)
    }

    fn upstream(&self, to: &At<Name>, found: &mut Vec<Diagnostic>) -> Option<Arc<Upstream>> {
        let known: Vec<&str> = self.upstreams.iter().map(|u| u.name.as_str()).collect();
        let upstream = self.upstreams.iter().find(|u| u.name == to.value.0);
        if upstream.is_none() {
            let message = format!("there is no upstream `{}`", to.value.0);
            let help = known_names(&to.value.0, &known, "defined upstreams");
            found.push(Diagnostic::error(Code::UNKNOWN_NAME, to.span.clone(), message).help(help));
        }
        upstream.cloned()
    }

    fn profile(&self, name: &At<Name>, found: &mut Vec<Diagnostic>) -> Option<(Arc<str>, &raw::Layer)> {
        let known: Vec<&str> = self.profiles.iter().map(|(n, _)| n.value.as_str()).collect();
        let profile = self.profiles.iter().find(|(n, _)| n.value == name.value.0);
        if profile.is_none() {
            let message = format!("there is no profile `{}`", name.value.0);
            let help = known_names(&name.value.0, &known, "defined profiles");
            found.push(Diagnostic::error(Code::UNKNOWN_NAME, name.span.clone(), message).help(help));
        }
        profile.map(|(n, layer)| (Arc::from(n.value.as_str()), &layer.value))
    }
}

/// Every `match` on every `host`, under the header conditions.
fn patterns(raw: &raw::Route) -> Vec<At<Pattern>> {
    let headers = raw.headers.as_ref().map(|at| at.value.0.clone()).unwrap_or_default();
    let hosts: Vec<_> = match &raw.hosts {
        Some(at) => at.value.0.iter().map(|host| Some(host.value.clone())).collect(),
        None => vec![None],
    };
    let matches = raw.patterns.iter().flat_map(|at| &at.value.0);
    matches
        .flat_map(|at| hosts.iter().map(move |host| (at, host.clone())))
        .map(|(at, host)| At {
            value: Pattern { host, headers: headers.clone(), ..at.value.clone() },
            span: at.span.clone(),
        })
        .collect()
}

impl Draft<'_, '_> {
    pub(super) fn is_once(&self) -> bool {
        self.effect.value == Effect::Once
    }

    /// A contradiction, shown at `at`.
    pub(super) fn contradiction(&mut self, at: Range<usize>, message: impl Into<String>, help: &str) {
        self.found.push(Diagnostic::error(Code::CONTRADICTION, at, message).help(help));
    }

    /// Methods whose meaning contradicts the effect (RFC 9110, 9.2: safe and idempotent methods).
    fn check_methods(&mut self) {
        let set = |methods: &[Method]| methods.iter().fold(MethodSet::NONE, |s, m| s.union(MethodSet::of(m)));
        let (effect, patterns) = (self.effect.value, self.patterns);
        let (wrong, why) = match effect {
            Effect::Forward => return,
            Effect::Once => {
                let safe = set(&[Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE]);
                (safe, "a safe method has no effect that could happen once")
            }
            Effect::Read => (set(&[Method::PUT, Method::PATCH, Method::DELETE]), "these methods change something"),
            Effect::Idempotent => (MethodSet::NONE, ""),
        };
        for pattern in patterns {
            let methods = pattern.value.methods;
            if methods.is_any() {
                let message =
                    format!("`effect = \"{}\"` for any method would treat GET and POST alike", effect.as_str());
                self.contradiction(pattern.span.clone(), message, "name the methods; only `forward` takes `*`");
            } else if methods.intersects(wrong) {
                let message = format!("`effect = \"{}\"` does not fit {methods}: {why}", effect.as_str());
                self.contradiction(pattern.span.clone(), message, "give these methods a route of their own");
            } else if effect == Effect::Idempotent && methods.intersects(set(&[Method::POST, Method::PATCH])) {
                self.notes.push(format!(
                    "{methods} is not idempotent by itself (RFC 9110): attempts are repeated without the ledger because the \
                     route says that it is harmless"
                ));
            }
        }
    }

    /// Only what stands in the route itself is warned about: profiles are shared.
    fn check_unused_settings(&mut self) {
        let own = self.layers.route;
        let effect = self.effect.value.as_str();
        if let Some(at) = own.idempotency.as_ref().filter(|_| !self.is_once()) {
            let message = format!("`idempotency` has no effect on a route with `effect = \"{effect}\"`");
            self.found.push(Diagnostic::warning(Code::NO_EFFECT, at.span.clone(), message));
        }
        if self.effect.value == Effect::Forward
            && let Some(at) = own.retry.as_ref().and_then(|at| at.value.attempts.as_ref())
        {
            let message = "`retry.attempts` has no effect on a route with `effect = \"forward\"`";
            self.found.push(Diagnostic::warning(Code::NO_EFFECT, at.span.clone(), message));
        }
    }

    fn timeout_and_retry(&mut self) -> (Timeout, Retry) {
        let attempts = if self.effect.value == Effect::Forward {
            self.layers.values.record("retry.attempts", &1u32, Origin::Implied("effect = \"forward\""));
            Chosen { value: 1, span: None }
        } else {
            self.layers.choose("retry.attempts", |l| l.retry.as_ref()?.value.attempts.as_ref(), 3)
        };
        let total =
            self.layers.choose("timeout.total", |l| l.timeout.as_ref()?.value.total.as_ref(), Duration::from_secs(30));
        let default = match Duration::from_secs(10) {
            _ if attempts.value == 1 => (total.value, Origin::Implied("timeout.total (nothing is repeated)")),
            ten if total.value < ten => (total.value, Origin::Implied("timeout.total")),
            ten => (ten, Origin::Default),
        };
        let attempt = self.layers.choose_or("timeout.attempt", |l| l.timeout.as_ref()?.value.attempt.as_ref(), default);
        self.check_times(&attempts, &total, &attempt);
        let backoff = Backoff { base: Duration::from_millis(50), cap: Duration::from_secs(20) };
        let backoff = self.layers.choose("retry.backoff", |l| l.retry.as_ref()?.value.backoff.as_ref(), backoff);
        let jitter = self.layers.choose("retry.jitter", |l| l.retry.as_ref()?.value.jitter.as_ref(), Jitter::Full);
        let budget = Budget::Ratio(WindowBudget::RATIO);
        let budget = self.layers.choose("retry.budget", |l| l.retry.as_ref()?.value.budget.as_ref(), budget);
        let retry =
            Retry { attempts: attempts.value, backoff: backoff.value, jitter: jitter.value, budget: budget.value };
        (Timeout { total: total.value, attempt: attempt.value }, retry)
    }

    fn check_times(&mut self, attempts: &Chosen<u32>, total: &Chosen<Duration>, attempt: &Chosen<Duration>) {
        let (a, t) = (show_duration(attempt.value), show_duration(total.value));
        let span = attempt.span_or(&total.span_or(&self.effect.span));
        if attempt.value > total.value {
            let other = total.span.clone();
            let message = format!("one attempt may take {a}, but the whole call only {t}");
            let d =
                Diagnostic::error(Code::CONTRADICTION, span, message).help("make `timeout.attempt` the shorter one");
            self.found.push(match other {
                Some(other) => d.related(other, "the whole call"),
                None => d,
            });
        } else if attempts.value > 1 && attempt.value == total.value && attempt.span.is_some() {
            let message = format!("an attempt may take all of {t}: one that times out is never repeated");
            let help = "make `timeout.attempt` shorter, or `timeout.total` longer";
            self.found.push(Diagnostic::warning(Code::NO_ROOM_FOR_RETRY, span, message).help(help));
        } else if attempts.value > 1 && attempt.value.saturating_mul(attempts.value) > total.value {
            self.notes
                .push(format!("{} attempts of {a} do not fit into {t}: the last may be cut short", attempts.value));
        }
    }

    fn request_cap(&mut self) -> u64 {
        let default = match self.effect.value {
            Effect::Once | Effect::Idempotent => (Size(1 << 20), Origin::Default),
            Effect::Read | Effect::Forward => (Size(self.limits.body_bytes_max), Origin::Implied("limits.body")),
        };
        let cap = self.layers.choose_or("body.request_cap", |l| l.body.as_ref()?.value.request_cap.as_ref(), default);
        let span = cap.span_or(&self.effect.span);
        let buffered = matches!(self.effect.value, Effect::Once | Effect::Idempotent);
        if cap.value.0 > self.limits.body_bytes_max {
            let help = "lower it, or raise `limits.body`";
            self.contradiction(span, "`body.request_cap` is larger than `limits.body`", help);
        } else if buffered && cap.value.0 > self.limits.buffered_bytes_max {
            let help = "lower it, or raise `limits.buffered`: such bodies are held in memory whole";
            self.contradiction(span, "`body.request_cap` is larger than `limits.buffered`", help);
        }
        cap.value.0
    }

    fn rates(&mut self) -> Vec<Rate> {
        let Some(rates) = self.layers.optional("rate", |l| l.rates.as_ref()) else { return Vec::new() };
        let rates_of = plain_one_or_many(rates.value.clone());
        if rates_of.len() > RATES_MAX {
            let span = rates.span_or(&self.effect.span);
            self.contradiction(span, format!("a route has at most {RATES_MAX} rate limits"), "leave some out");
        }
        rates_of
    }

    fn cors(&mut self) -> Option<Cors> {
        let layers = &mut self.layers;
        let origins = layers.optional("cors.origins", |l| l.cors.as_ref()?.value.origins.as_ref());
        let given = [Some(layers.route), layers.profile.as_ref().map(|(_, l)| *l)];
        let given = given.into_iter().flatten().find_map(|l| l.cors.as_ref()).map(|at| at.span.clone());
        let Some(origins) = origins else {
            if let Some(span) = given {
                let message = "`cors` without `origins` allows nothing";
                self.contradiction(span, message, "say who may call: origins = [\"https://shop.example.com\"]");
            }
            return None;
        };
        if origins.value.is_empty() {
            return None;
        }
        let none = Vec::new;
        let allow = layers.choose("cors.allow_headers", |l| l.cors.as_ref()?.value.allow_headers.as_ref(), none());
        let expose = layers.choose("cors.expose_headers", |l| l.cors.as_ref()?.value.expose_headers.as_ref(), none());
        let credentials = layers.choose("cors.credentials", |l| l.cors.as_ref()?.value.credentials.as_ref(), false);
        let ten_minutes = MaybeZero(Duration::from_secs(600));
        let max_age = layers.choose("cors.max_age", |l| l.cors.as_ref()?.value.max_age.as_ref(), ten_minutes);
        if origins.value.iter().any(|at| at.value.0 == "*") {
            let span = origins.span_or(&self.effect.span);
            if origins.value.len() > 1 {
                self.contradiction(span, "`*` allows every origin: the others add nothing", "keep one or the other");
            } else if credentials.value {
                let help = "list the origins that may send credentials (Fetch standard)";
                self.contradiction(span, "`cors.credentials` cannot go with the origin `*`", help);
            }
        }
        Some(Cors {
            origins: plain(origins.value).into_iter().map(|o| o.0).collect(),
            allow_headers: plain(allow.value),
            expose_headers: plain(expose.value),
            credentials: credentials.value,
            max_age: max_age.value.0,
        })
    }
}

/// The values without their places.
pub(super) fn plain<T>(items: Vec<At<T>>) -> Vec<T> {
    items.into_iter().map(|at| at.value).collect()
}

/// The values without their places.
pub(super) fn plain_one_or_many<T>(items: OneOrMany<T>) -> Vec<T> {
    plain(items.0)
}
