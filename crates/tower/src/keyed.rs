//! A keyed route: which effect a buffered request means, or why it means none.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use semel_core::{
    dialect::Dialect,
    headers::IDEMPOTENCY_KEY,
    key::{IdempotencyKey, KeyError, KeyFrom, KeySource, KeySpec},
    problem::{Problem, ProblemKind},
    scope::{EffectId, LookupSecret, Principal, PrincipalError, PrincipalSource, Scope, UpstreamKey},
};
use tokio::time::Instant;

use crate::{Buffered, EffectPolicy, EffectRequest};

/// Largest request body by default: 1 MiB.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// One keyed route: where its keys and callers come from, how its effects live, how refusals are worded.
#[derive(Clone)]
pub struct Keyed {
    /// How its effects live. Keys are scoped by `policy.terms.scope`, and its window is published.
    pub policy: Arc<EffectPolicy>,
    /// Where the key comes from. Default: the `Idempotency-Key` header.
    pub key: KeySpec,
    /// Whether a request without a key is refused; otherwise it is [`Identity::Unkeyed`]. Default: true.
    pub required: bool,
    /// Who may share a key. Default: the credential.
    pub principal: PrincipalSource,
    /// How refusals are worded. Default: the IETF draft's.
    pub dialect: &'static Dialect,
    /// How the upstream sees the key. Default: as a keyed hash.
    pub forward_key: ForwardKey,
    /// The header that carries the key upstream. Default: `idempotency-key`.
    pub forward_header: HeaderName,
    /// Largest request body, in bytes; a longer one is refused before the claim. Default: [`BODY_BYTES_MAX`].
    pub body_bytes_max: usize,
    /// Where callers ask what became of an effect: its id is appended. Default: nowhere.
    pub status_path: Option<Box<str>>,
}

/// How the upstream sees the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardKey {
    /// A keyed hash of the effect: nobody upstream learns the caller's key, and callers cannot collide there.
    #[default]
    Hmac,
    /// The caller's header as it came. Only for a key from one header; otherwise the keyed hash goes.
    AsIs,
}

/// What of a request stands on its answer again.
#[derive(Clone, Debug)]
pub struct Echo {
    /// The effect.
    pub id: EffectId,
    /// The header that the key came in, as it came; none for natural keys.
    pub key: Option<(HeaderName, HeaderValue)>,
}

/// What a request means on a keyed route.
#[derive(Debug)]
pub enum Identity {
    /// This effect.
    Keyed(EffectRequest, Echo),
    /// No effect: it has no key, and the route does not insist.
    Unkeyed(Buffered),
    /// Nothing: it cannot be taken like this.
    Refused(Box<Problem>),
}

impl Keyed {
    /// The defaults with this policy.
    #[must_use]
    pub fn new(policy: Arc<EffectPolicy>) -> Self {
        Self {
            policy,
            key: KeySpec::from(KeySource::Header(IDEMPOTENCY_KEY)),
            required: true,
            principal: PrincipalSource::Credential,
            dialect: &Dialect::IETF,
            forward_key: ForwardKey::default(),
            forward_header: IDEMPOTENCY_KEY,
            body_bytes_max: BODY_BYTES_MAX,
            status_path: None,
        }
    }

    /// Who asks, from the headers alone: a rate limit can stand before the body is read.
    ///
    /// # Errors
    /// 401 `principal-required` when the headers do not say it, or say it for a peer that is not trusted to.
    pub fn principal_of(
        &self,
        secret: &LookupSecret,
        headers: &HeaderMap,
        peer_is_trusted: bool,
    ) -> Result<Principal, Box<Problem>> {
        let found = match &self.principal {
            PrincipalSource::Header(name) if !peer_is_trusted => Err(PrincipalError::Header(name.clone())),
            source => Principal::from_headers(source, secret, headers),
        };
        found.map_err(|error| Box::new(Problem::new(ProblemKind::PrincipalRequired).detail(error.to_string())))
    }

    /// Whether a request with this head is no effect, whatever its body is: the route does not insist on a key, and no
    /// part of one is there or can stand in the body. Such a body need not be buffered.
    #[must_use]
    pub fn is_unkeyed(&self, headers: &HeaderMap, path: &[(&str, &str)]) -> bool {
        let from = KeyFrom { headers, body: &[], path };
        !self.required
            && !self.key.sources().iter().any(|source| matches!(source, KeySource::Json(_)))
            && matches!(self.key.read(from), Err(KeyError::Missing { .. }))
            && self.has_no_part(from)
    }

    /// Which effect `message` means.
    ///
    /// `path` holds the parameters of the route's path template with their values. `deadline` is when the caller stops
    /// waiting.
    #[must_use]
    pub fn identify(
        &self,
        secret: &LookupSecret,
        message: Buffered,
        path: &[(&str, &str)],
        peer_is_trusted: bool,
        deadline: Instant,
    ) -> Identity {
        let from = KeyFrom { headers: &message.headers, body: &message.body, path };
        let read = self.key.read(from);
        if matches!(read, Err(KeyError::Missing { .. })) && !self.required && self.has_no_part(from) {
            return Identity::Unkeyed(message);
        }
        let principal = match self.principal_of(secret, &message.headers, peer_is_trusted) {
            Ok(principal) => principal,
            Err(problem) => return Identity::Refused(problem),
        };
        let key = match read {
            Ok(key) => key,
            Err(error) => return Identity::Refused(Box::new(refusal(&error))),
        };
        let id = self.effect_id(secret, &principal, &message, &key);
        let echo = Echo { id, key: self.key_header(&message.headers) };
        Identity::Keyed(EffectRequest { message: Arc::new(message), id, proof: principal.proof(), deadline }, echo)
    }

    /// The key as the upstream sees it, for [`Keyed::forward_header`].
    #[must_use]
    pub fn key_for_upstream(&self, request: &HeaderMap, key: &UpstreamKey) -> HeaderValue {
        match (self.forward_key, self.key.sources()) {
            (ForwardKey::AsIs, [KeySource::Header(name)]) if let Some(value) = request.get(name) => value.clone(),
            _ => key.to_header_value(),
        }
    }

    /// 413: the request's body is longer than [`Keyed::body_bytes_max`].
    #[must_use]
    pub fn body_too_large(&self) -> Problem {
        let detail = format!("the request body is larger than the {} bytes that are taken here", self.body_bytes_max);
        Problem::new(ProblemKind::BodyTooLarge).detail(detail)
    }

    fn effect_id(
        &self,
        secret: &LookupSecret,
        principal: &Principal,
        message: &Buffered,
        key: &IdempotencyKey<'_>,
    ) -> EffectId {
        // Every caller is of the one tenant until tenants are configured.
        let scope = Scope { tenant: "", principal, method: &message.method, scope_id: &self.policy.terms.scope, key };
        scope.effect_id(secret)
    }

    /// Whether no part of the key is there. A request with some parts meant to be keyed: it is not passed on without.
    fn has_no_part(&self, from: KeyFrom<'_>) -> bool {
        match self.key.sources() {
            [_] => true,
            sources => sources
                .iter()
                .all(|source| matches!(KeySpec::from(source.clone()).read(from), Err(KeyError::Missing { .. }))),
        }
    }

    /// The one header that the key, or a part of it, came in.
    fn key_header(&self, headers: &HeaderMap) -> Option<(HeaderName, HeaderValue)> {
        let mut names = self.key.sources().iter().filter_map(|source| match source {
            KeySource::Header(name) => Some(name),
            KeySource::Json(_) | KeySource::Path(_) => None,
        });
        let (Some(name), None) = (names.next(), names.next()) else { return None };
        headers.get(name).map(|value| (name.clone(), value.clone()))
    }
}

fn refusal(error: &KeyError) -> Problem {
    let kind = match error {
        KeyError::Missing { .. } => ProblemKind::KeyMissing,
        KeyError::Malformed { .. } => ProblemKind::KeyMalformed,
    };
    Problem::new(kind).detail(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{Method, Request};
    use semel_core::effect::{OnUnknown, Terms};

    use super::*;
    use crate::clock;

    fn keyed(sources: &[&str]) -> Keyed {
        let terms = Terms {
            scope: "payments".into(),
            upstream: "payments".into(),
            on_unknown: OnUnknown::Hold,
            upstream_keep_ms: 0,
            keep_ms: 86_400_000,
            marker_ms: 0,
        };
        let key = KeySpec::new(sources.iter().map(|source| source.parse().unwrap()).collect()).unwrap();
        Keyed { key, principal: PrincipalSource::None, ..Keyed::new(Arc::new(EffectPolicy::new(Arc::new(terms)))) }
    }

    fn message(headers: &[(&'static str, &'static str)], body: &'static str) -> Buffered {
        let mut request = Request::builder().method(Method::POST).uri("/pay");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Buffered::new(request.body(()).unwrap().into_parts().0, body.into())
    }

    fn secret() -> LookupSecret {
        LookupSecret::from_bytes([7; 32])
    }

    fn identify(keyed: &Keyed, message: Buffered, peer_is_trusted: bool) -> Identity {
        let deadline = clock::now() + Duration::from_secs(1);
        keyed.identify(&secret(), message, &[("order", "7")], peer_is_trusted, deadline)
    }

    fn effect(identity: Identity) -> Echo {
        match identity {
            Identity::Keyed(request, echo) => {
                assert_eq!(request.id, echo.id);
                echo
            }
            other => panic!("not keyed: {other:?}"),
        }
    }

    fn kind(identity: Identity) -> ProblemKind {
        match identity {
            Identity::Refused(problem) => problem.kind(),
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn quoted_and_bare_keys_are_one_effect_and_come_back_as_they_came() {
        let keyed = keyed(&["header:idempotency-key"]);
        let bare = effect(identify(&keyed, message(&[("idempotency-key", "a")], ""), false));
        let quoted = effect(identify(&keyed, message(&[("idempotency-key", "\"a\"")], ""), false));
        assert_eq!(bare.id, quoted.id);
        assert_eq!(quoted.key.unwrap(), (IDEMPOTENCY_KEY, HeaderValue::from_static("\"a\"")));
        let other = effect(identify(&keyed, message(&[("idempotency-key", "b")], ""), false));
        assert_ne!(bare.id, other.id);
    }

    #[test]
    fn bad_keys_are_refused() {
        let keyed = keyed(&["header:idempotency-key"]);
        assert_eq!(kind(identify(&keyed, message(&[], ""), false)), ProblemKind::KeyMissing);
        for headers in [&[("idempotency-key", "a b")][..], &[("idempotency-key", "a"), ("idempotency-key", "a")]] {
            assert_eq!(kind(identify(&keyed, message(headers, ""), false)), ProblemKind::KeyMalformed);
        }
    }

    #[test]
    fn an_optional_route_passes_only_what_has_no_key_at_all() {
        let optional = Keyed { required: false, ..keyed(&["header:x-user", "json:/order"]) };
        assert!(matches!(identify(&optional, message(&[], "{}"), false), Identity::Unkeyed(_)));
        assert_eq!(kind(identify(&optional, message(&[("x-user", "u")], "{}"), false)), ProblemKind::KeyMissing);
        effect(identify(&optional, message(&[("x-user", "u")], r#"{"order":1}"#), false));
        let head = |keyed: &Keyed, headers: &[_]| keyed.is_unkeyed(&message(headers, "").headers, &[]);
        assert!(!head(&optional, &[]), "a part of the key may stand in the body");
        let optional = Keyed { required: false, ..keyed(&["header:idempotency-key"]) };
        assert!(head(&optional, &[]) && !head(&optional, &[("idempotency-key", "")]));
        let malformed = identify(&optional, message(&[("idempotency-key", "")], ""), false);
        assert_eq!(kind(malformed), ProblemKind::KeyMalformed);
        // Nobody needs to say who they are for a request without an effect.
        let optional = Keyed { principal: PrincipalSource::Credential, ..optional };
        assert!(matches!(identify(&optional, message(&[], ""), false), Identity::Unkeyed(_)));
    }

    #[test]
    fn natural_keys_have_no_header_to_echo() {
        let echo = effect(identify(&keyed(&["path:order"]), message(&[], ""), false));
        assert!(echo.key.is_none());
    }

    #[test]
    fn callers_have_keys_of_their_own() {
        let keyed = Keyed { principal: PrincipalSource::Credential, ..keyed(&["header:idempotency-key"]) };
        let by =
            |who| effect(identify(&keyed, message(&[("idempotency-key", "a"), ("authorization", who)], ""), false));
        assert_ne!(by("Bearer alice").id, by("Bearer bob").id);
        let anonymous = message(&[("idempotency-key", "a")], "");
        assert_eq!(kind(identify(&keyed, anonymous, false)), ProblemKind::PrincipalRequired);
    }

    #[test]
    fn only_a_trusted_peer_names_the_caller() {
        let principal = "header:x-user".parse().unwrap();
        let keyed = Keyed { principal, ..keyed(&["header:idempotency-key"]) };
        let named = || message(&[("idempotency-key", "a"), ("x-user", "alice")], "");
        assert_eq!(kind(identify(&keyed, named(), false)), ProblemKind::PrincipalRequired);
        effect(identify(&keyed, named(), true));
    }

    #[test]
    fn the_upstream_sees_a_hash_unless_the_route_says_otherwise() {
        let hmac = keyed(&["header:idempotency-key"]);
        let as_is = Keyed { forward_key: ForwardKey::AsIs, ..hmac.clone() };
        let request = message(&[("idempotency-key", "a")], "");
        let key = secret().upstream_key(EffectId::from_bytes([1; 16]));
        assert_eq!(hmac.key_for_upstream(&request.headers, &key), key.as_str());
        assert_eq!(as_is.key_for_upstream(&request.headers, &key), "a");
        // Half of a joined key names no effect.
        let joined = Keyed { forward_key: ForwardKey::AsIs, ..keyed(&["header:idempotency-key", "path:order"]) };
        assert_eq!(joined.key_for_upstream(&request.headers, &key), key.as_str());
    }
}
