//! The settings of an [`IdempotencyLayer`].

use std::{sync::Arc, time::Duration};

use http::{HeaderName, Method};
use semel_core::{
    answer::{HeaderAllowList, NotStorable},
    dialect::Dialect,
    effect::{OnUnknown, Owner, Terms},
    evidence::AnswerRules,
    key::KeySpec,
    scope::PrincipalSource,
};
use semel_ledger::Ledger;

use super::{IdempotencyLayer, Shared};
use crate::{Ack, BODY_BYTES_MAX, EffectPolicy, Effects, Keyed, Observe};

/// Makes an [`IdempotencyLayer`]. Every setting has a default.
pub struct IdempotencyBuilder {
    ledger: Arc<dyn Ledger>,
    owner: Option<Owner>,
    terms: Terms,
    key: Option<KeySpec>,
    required: bool,
    principal: PrincipalSource,
    peers_are_trusted: bool,
    dialect: &'static Dialect,
    kept_headers: Vec<HeaderName>,
    rules: AnswerRules,
    methods: Vec<Method>,
    body_bytes_max: usize,
    answer_bytes_max: usize,
    timeout: Duration,
    lease: Duration,
    ack: Ack,
    observer: Arc<dyn Observe>,
}

/// A layer that cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A header that must not be replayed.
    #[error(transparent)]
    Header(#[from] NotStorable),
    /// The system has no randomness to name this process by.
    #[error("the system gave no random number: {0}")]
    Random(#[from] getrandom::Error),
}

impl IdempotencyLayer {
    /// A layer over `ledger`. `scope` is the stable name of what is made idempotent: the same key in two scopes means
    /// two effects, and another name makes every recorded key absent.
    #[must_use]
    pub fn builder(ledger: Arc<dyn Ledger>, scope: &str) -> IdempotencyBuilder {
        IdempotencyBuilder::new(ledger, scope)
    }
}

impl IdempotencyBuilder {
    fn new(ledger: Arc<dyn Ledger>, scope: &str) -> Self {
        const DAY_MS: u64 = 86_400_000;
        let terms = Terms {
            scope: scope.into(),
            upstream: scope.into(),
            on_unknown: OnUnknown::Hold,
            upstream_keep_ms: 0,
            keep_ms: DAY_MS,
            marker_ms: 7 * DAY_MS,
        };
        Self {
            ledger,
            owner: None,
            terms,
            key: None,
            required: true,
            principal: PrincipalSource::Credential,
            peers_are_trusted: false,
            dialect: &Dialect::IETF,
            kept_headers: Vec::new(),
            rules: AnswerRules::default(),
            methods: vec![Method::POST, Method::PATCH],
            body_bytes_max: BODY_BYTES_MAX,
            answer_bytes_max: BODY_BYTES_MAX,
            timeout: Duration::from_secs(30),
            lease: Duration::from_secs(30),
            ack: Ack::Settled,
            observer: Arc::new(()),
        }
    }

    /// The name of this life of the process in the ledger, for an engine that was opened with one. Default: a random
    /// number.
    #[must_use]
    pub fn owner(mut self, owner: Owner) -> Self {
        self.owner = Some(owner);
        self
    }

    /// Where the key comes from. Default: the `Idempotency-Key` header.
    #[must_use]
    pub fn key(mut self, key: KeySpec) -> Self {
        self.key = Some(key);
        self
    }

    /// A request without a key is handed on without protection. Default: it is refused.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.required = false;
        self
    }

    /// All callers share their keys. Default: keys belong to the Authorization header's credential.
    #[must_use]
    pub fn anonymous(mut self) -> Self {
        self.principal = PrincipalSource::None;
        self
    }

    /// Keys belong to whom this header names. Only behind something that sets or strips it: every peer is believed.
    #[must_use]
    pub fn principal_from_trusted_header(mut self, name: HeaderName) -> Self {
        self.principal = PrincipalSource::Header(name);
        self.peers_are_trusted = true;
        self
    }

    /// How long an answer is replayed. Default: 24 h.
    #[must_use]
    pub fn keep(mut self, window: Duration) -> Self {
        self.terms.keep_ms = millis(window);
        self
    }

    /// How long after that a stale retry is refused rather than run. Default: 7 days.
    #[must_use]
    pub fn marker(mut self, marker: Duration) -> Self {
        self.terms.marker_ms = millis(marker);
        self
    }

    /// The handler does nothing twice for one [`CurrentEffect::key`](super::CurrentEffect) within `remembers` of its
    /// first call, for example by a unique constraint: a duplicate of an unknown effect is handed to it again. Default:
    /// unknown effects are held.
    #[must_use]
    pub fn retry_unknown(mut self, remembers: Duration) -> Self {
        self.terms.on_unknown = OnUnknown::Retry;
        self.terms.upstream_keep_ms = millis(remembers);
        self
    }

    /// What answers prove. Default: [`AnswerRules::default`].
    #[must_use]
    pub fn answer_rules(mut self, rules: AnswerRules) -> Self {
        self.rules = rules;
        self
    }

    /// Headers of an answer that are replayed, beside the standard ones.
    #[must_use]
    pub fn keep_headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.kept_headers.extend(names);
        self
    }

    /// The methods that make effects; all others are handed on. Default: POST and PATCH.
    #[must_use]
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.methods = methods.into_iter().collect();
        self
    }

    /// How refusals are worded. Default: [`Dialect::IETF`].
    #[must_use]
    pub fn dialect(mut self, dialect: &'static Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// Largest request body, in bytes; a longer one is refused with 413. Default: 1 MiB.
    #[must_use]
    pub fn body_bytes_max(mut self, bytes_max: usize) -> Self {
        self.body_bytes_max = bytes_max;
        self
    }

    /// Largest answer that is kept whole, in bytes; of a longer one duplicates learn only that it was given. Default:
    /// 1 MiB.
    #[must_use]
    pub fn answer_bytes_max(mut self, bytes_max: usize) -> Self {
        self.answer_bytes_max = bytes_max;
        self
    }

    /// How long a caller waits. The handler is not cancelled after that, and its answer is recorded. Default: 30 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long a claim outlives a process that dies; it is renewed while the handler runs. Default: 30 s.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Answers before the settlement is durable: faster, and a crash in between leaves the effect unknown, never run
    /// twice. Default: afterwards.
    #[must_use]
    pub fn acknowledge_early(mut self) -> Self {
        self.ack = Ack::Early;
        self
    }

    /// Who is told what became of each call.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observe>) -> Self {
        self.observer = observer;
        self
    }

    /// The layer. Build one per scope and clone it.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn build(self) -> Result<IdempotencyLayer, BuildError> {
        let policy = EffectPolicy {
            keep_headers: HeaderAllowList::new(self.kept_headers)?,
            lease: self.lease,
            ack: self.ack,
            observer: self.observer,
            ..EffectPolicy::new(Arc::new(self.terms))
        };
        let keyed = Keyed {
            required: self.required,
            principal: self.principal,
            dialect: self.dialect,
            body_bytes_max: self.body_bytes_max,
            ..Keyed::new(Arc::new(policy))
        };
        let keyed = match self.key {
            Some(key) => Keyed { key, ..keyed },
            None => keyed,
        };
        let owner = match self.owner {
            Some(owner) => owner,
            None => Owner(getrandom::u64()?),
        };
        let shared = Shared {
            effects: Effects::new(self.ledger, owner),
            keyed,
            rules: self.rules,
            methods: self.methods,
            answer_bytes_max: self.answer_bytes_max,
            timeout: self.timeout,
            peers_are_trusted: self.peers_are_trusted,
        };
        Ok(IdempotencyLayer { shared: Arc::new(shared) })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
