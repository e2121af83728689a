//! What comes out of a file, as values; and that nothing that goes in can panic.

use std::time::Duration;

use proptest::prelude::*;
use semel_config::{Ack, Budget, Colour, Config, Effect, Keep, OnLedgerDown, OnUnknown, STARTER, load};

const FULL: &str = include_str!("cases/full.toml");

fn full() -> Config {
    load("semel.toml", FULL).unwrap_or_else(|r| panic!("{}", r.render(Colour::Off))).0
}

#[test]
fn a_route_overrides_its_profile_value_by_value() {
    let config = full();
    let route = &config.routes[0];
    assert_eq!(route.timeout.total, Duration::from_secs(20), "the route's own");
    assert_eq!(route.timeout.attempt, Duration::from_secs(3), "the profile's");
    assert_eq!((route.retry.attempts, route.retry.budget), (4, Budget::Ratio(0.1)));
    let i = route.idempotency.as_ref().unwrap();
    assert_eq!(i.keep, Keep::For(Duration::from_secs(48 * 3600)));
    assert_eq!(i.on_unknown, OnUnknown::Retry { upstream_keep: Duration::from_secs(86_400) });
    assert!(i.store_headers.keeps(&"x-charge-id".parse().unwrap()));
    assert_eq!(i.waiters_max, 128, "the default");
}

#[test]
fn the_contract_of_each_scope_is_there() {
    let config = full();
    let contract = |scope: &str| config.contracts.iter().find(|c| c.scope == scope).unwrap().clone();
    assert_eq!(config.contracts.len(), 2);
    assert_eq!(contract("charges").upstream, "pay-v1", "the identity, not the name");
    assert_eq!(contract("charges").key, "header:idempotency-key");
    assert_eq!(contract("captures").key, "path:id+json:/kind");
    assert_eq!(contract("captures").principal, "none");
}

#[test]
fn only_once_has_an_idempotency_contract() {
    let config = full();
    assert_eq!(config.routes[2].effect, Effect::Read);
    assert!(config.routes[2].idempotency.is_none());
    let capture = config.routes[1].idempotency.as_ref().unwrap();
    assert_eq!((capture.ack, capture.on_ledger_down), (Ack::Early, OnLedgerDown::Open));
    assert_eq!(capture.keep, Keep::Forever, "a natural key");
}

proptest! {
    /// Any damage to a good file is accepted or reported, with a place that can be shown.
    #[test]
    fn no_text_panics(cut in 0usize..4000, len in 0usize..40, insert in "[\\[\\]{}=\"',.a-z0-9é\n]{0,8}", starter: bool) {
        let mut text = if starter { STARTER.to_owned() } else { FULL.to_owned() };
        let floor = |text: &str, mut at: usize| { at = at.min(text.len()); while !text.is_char_boundary(at) { at -= 1 } at };
        let from = floor(&text, cut % (text.len() + 1));
        let to = floor(&text, from + len);
        text.replace_range(from..to, &insert);
        match load("semel.toml", &text) {
            Ok((_, report)) => prop_assert!(!report.render(Colour::On).contains("error[SM")),
            Err(report) => prop_assert!(report.render(Colour::Off).contains("error[SM")),
        }
    }
}
