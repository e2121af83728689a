//! Which effect a request means: who asks, what for, under which key.
//!
//! Scope and the right to see are separate. The [`Scope`] (tenant, principal, method, the route's stable scope id and
//! the key) decides *which* effect it is; the [`Proof`] of the principal decides whether its answer may be shown.
//! Neither a key nor a credential is ever stored: both enter the ledger as hashes keyed by the [`LookupSecret`].

mod effect_id;
mod principal;
mod secret;

pub use effect_id::{EffectId, EffectIdError};
pub use principal::{Principal, PrincipalError, PrincipalSource, PrincipalSourceError, Proof};
pub use secret::{LookupSecret, SecretError, SettlementToken, UpstreamKey};

use crate::key::IdempotencyKey;
use http::Method;

/// Everything that tells two effects apart.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// The tenant; empty where there is only one.
    pub tenant: &'a str,
    /// Who asks.
    pub principal: &'a Principal,
    /// The request's method: the same key on POST and PUT names two effects.
    pub method: &'a Method,
    /// The route's explicit, stable scope id. Never a route's name or position: a rename would make every key absent.
    pub scope_id: &'a str,
    /// The caller's key.
    pub key: &'a IdempotencyKey<'a>,
}

impl Scope<'_> {
    /// The effect's id: the first 16 bytes of HMAC-SHA256 (RFC 2104) over an unambiguous encoding of the scope.
    ///
    /// Every part is preceded by its length, so no two scopes share an encoding. The encoding is part of the ledger's
    /// format: changing it makes every recorded key absent.
    #[must_use]
    pub fn effect_id(&self, secret: &LookupSecret) -> EffectId {
        let mut mac = secret.mac(b"semel effect-id 1");
        mac.part(self.tenant.as_bytes());
        mac.part(self.principal.subject());
        mac.part(self.method.as_str().as_bytes());
        mac.part(self.scope_id.as_bytes());
        mac.part(&self.key.part_count().to_be_bytes());
        mac.part(self.key.as_str().as_bytes());
        EffectId::from_bytes(mac.finish_16())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(tenant: &str, principal: &Principal, method: &Method, scope_id: &str, key: &str) -> EffectId {
        let key = IdempotencyKey::from_header_value(key.as_bytes()).unwrap();
        let scope = Scope { tenant, principal, method, scope_id, key: &key };
        scope.effect_id(&LookupSecret::from_bytes([7; 32]))
    }

    #[test]
    fn the_encoding_is_frozen() {
        // Computed apart from this code. A change makes every key in every existing ledger absent.
        assert_eq!(
            id("acme", &Principal::anyone(), &Method::POST, "payments", "k-1").to_string(),
            "ef_4gj2kkmtzpwvpj60tkkc2etk0y"
        );
    }

    #[test]
    fn every_part_counts() {
        let secret = LookupSecret::from_bytes([7; 32]);
        let other = Principal::trusted(&secret, b"alice");
        let base = id("t", &Principal::anyone(), &Method::POST, "s", "k");
        assert_ne!(base, id("u", &Principal::anyone(), &Method::POST, "s", "k"));
        assert_ne!(base, id("t", &other, &Method::POST, "s", "k"));
        assert_ne!(base, id("t", &Principal::anyone(), &Method::PUT, "s", "k"));
        assert_ne!(base, id("t", &Principal::anyone(), &Method::POST, "r", "k"));
        assert_ne!(base, id("t", &Principal::anyone(), &Method::POST, "s", "l"));
    }

    #[test]
    fn the_secret_counts() {
        let key = IdempotencyKey::from_header_value(b"k").unwrap();
        let principal = Principal::anyone();
        let scope = Scope { tenant: "", principal: &principal, method: &Method::POST, scope_id: "s", key: &key };
        let one = scope.effect_id(&LookupSecret::from_bytes([1; 32]));
        assert_ne!(one, scope.effect_id(&LookupSecret::from_bytes([2; 32])));
    }

    proptest! {
        #[test]
        fn moving_a_character_between_parts_changes_the_id(whole in "[a-c]{2,12}", i in 0_usize..12, j in 0_usize..12) {
            let cut = |at: usize| whole.split_at(at.min(whole.len()));
            let (a, b) = cut(i);
            let (c, d) = cut(j);
            let one = id(a, &Principal::anyone(), &Method::POST, b, "k");
            let two = id(c, &Principal::anyone(), &Method::POST, d, "k");
            prop_assert_eq!(a == c, one == two);
        }
    }
}
