//! From what was written to what is effective: defaults, profiles, references and cross-checks. No I/O.

mod endpoints;
mod idempotency;
mod policy;
mod process;
mod route;
mod values;

use std::collections::HashSet;
use std::sync::Arc;

use semel_core::code::Code;
use semel_core::contract::ScopeContract;
use semel_core::fingerprint::FingerprintVersion;
use semel_core::route::{Pattern, Router};

use crate::diagnostic::{Diagnostic, Severity};
use crate::effective::{Config, ForwardKey, Route};
use crate::raw;
use crate::raw::reader::At;
use crate::source::Source;
use route::{Place, RouteBuilder};
use values::Values;

/// Resolves a file. The configuration is there exactly when no finding is an error.
pub(crate) fn resolve(mut file: raw::File, source: &Source) -> (Option<Config>, Vec<Diagnostic>) {
    let mut found = Vec::new();
    let mut values = Values::new(source);
    let listen = process::listen(file.listen.as_ref(), &mut values, &mut found);
    let ledger = process::ledger(file.ledger.as_ref(), &mut values, &mut found);
    let admin = process::admin(file.admin.as_ref(), &ledger, &mut values);
    let log = process::log(file.log.as_ref(), &mut values);
    let limits = process::limits(file.limits.as_ref(), &mut values, &mut found);
    let trusted_proxies = process::trusted_proxies(file.trusted_proxies.as_ref(), &mut values);

    let named = file.upstreams.take().map(|at| at.value.0).unwrap_or_default();
    let upstreams: Vec<_> = named.iter().map(|(name, raw)| Arc::new(process::upstream(name, raw, source))).collect();
    let profiles = file.profiles.take().map(|at| at.value.0).unwrap_or_default();

    let raw_routes = file.routes.take().map(|at| at.value).unwrap_or_default();
    let builder = RouteBuilder {
        source,
        upstreams: &upstreams,
        profiles: &profiles,
        limits: &limits,
        trusts_nobody: trusted_proxies.is_empty(),
    };
    let mut used = HashSet::new();
    let mut routes = Vec::new();
    let mut places = Vec::new();
    for (index, raw) in raw_routes.into_iter().enumerate() {
        used.extend(raw.value.to.iter().map(|at| ("upstream", at.value.0.clone())));
        used.extend(raw.value.profile.iter().map(|at| ("profile", at.value.0.clone())));
        let (route, place) = builder.build(index, raw, &mut found);
        routes.extend(route.map(Arc::new));
        places.push(place);
    }
    let router = compile(&places, &mut found);
    let contracts = contracts(&routes, &places, &mut found);
    let sound = found.iter().all(|d| d.severity != Severity::Error);
    if sound {
        // Only then: a name that was misspelt where it is used has been reported already.
        warn_of_unused(&named, &profiles, &used, &mut found);
    }
    let config = router.filter(|_| sound).map(|router| Config {
        listen,
        ledger,
        upstreams,
        routes,
        router: Arc::new(router),
        contracts,
        admin,
        log,
        limits,
        trusted_proxies,
        settings: values.settings,
    });
    (config, found)
}

fn warn_of_unused(
    upstreams: &[(At<String>, At<raw::Upstream>)],
    profiles: &[(At<String>, At<raw::Layer>)],
    used: &HashSet<(&str, String)>,
    found: &mut Vec<Diagnostic>,
) {
    let upstreams = upstreams.iter().map(|(name, _)| ("upstream", name));
    for (kind, name) in upstreams.chain(profiles.iter().map(|(name, _)| ("profile", name))) {
        if !used.contains(&(kind, name.value.clone())) {
            let message = format!("no route uses the {kind} `{}`", name.value);
            found.push(Diagnostic::warning(Code::UNUSED, name.span.clone(), message));
        }
    }
}

fn compile(places: &[Place], found: &mut Vec<Diagnostic>) -> Option<Router> {
    let patterns: Vec<(usize, Pattern)> =
        places.iter().enumerate().flat_map(|(n, p)| p.patterns.iter().map(move |at| (n, at.value.clone()))).collect();
    match Router::new(&patterns) {
        Ok(router) => Some(router),
        Err(ambiguities) => {
            let span = |route: usize, pattern: &str| {
                let at = places[route].patterns.iter().find(|at| at.value.to_string() == pattern);
                at.map_or_else(|| places[route].span.clone(), |at| at.span.clone())
            };
            found.extend(ambiguities.iter().map(|a| {
                let message = format!(
                    "`{}` and `{}` match the same requests and neither is more specific",
                    a.first_pattern, a.second_pattern
                );
                Diagnostic::error(Code::AMBIGUOUS_ROUTES, span(a.second, &a.second_pattern), message)
                    .related(span(a.first, &a.first_pattern), "the other route")
                    .help("make one more specific by its method, host or a header, or remove it; order never decides")
            }));
            None
        }
    }
}

/// One contract per scope; routes that share a scope must agree.
fn contracts(routes: &[Arc<Route>], places: &[Place], found: &mut Vec<Diagnostic>) -> Vec<ScopeContract> {
    let mut contracts: Vec<(ScopeContract, usize)> = Vec::new();
    for route in routes {
        let Some(contract) = contract(route) else { continue };
        let Some((first, first_index)) = contracts.iter().find(|(c, _)| c.scope == contract.scope) else {
            contracts.push((contract, route.index));
            continue;
        };
        let changes = first.changes(&contract);
        if changes.is_empty() {
            continue;
        }
        let differences = changes
            .iter()
            .map(|c| format!("{}: {:?} there, {:?} here", c.field, c.before, c.after))
            .collect::<Vec<_>>();
        let message = format!("the scope `{}` has two meanings: {}", contract.scope, differences.join("; "));
        found.push(
            Diagnostic::error(Code::SCOPE_CONFLICT, places[route.index].span.clone(), message)
                .related(places[*first_index].span.clone(), "the first route of this scope")
                .help("give this route a `scope` of its own, or make the settings equal"),
        );
    }
    contracts.into_iter().map(|(contract, _)| contract).collect()
}

fn contract(route: &Route) -> Option<ScopeContract> {
    let idempotency = route.idempotency.as_ref()?;
    let how = match idempotency.forward_key {
        ForwardKey::Hmac => "hmac",
        ForwardKey::AsIs => "as-is",
    };
    Some(ScopeContract {
        scope: route.scope.clone(),
        key: idempotency.key.to_string(),
        principal: idempotency.principal.to_string(),
        fingerprint: FingerprintVersion::CURRENT.to_string(),
        upstream: route.upstream.identity.clone(),
        forward: format!("{how} in {}", idempotency.forward_header),
    })
}
