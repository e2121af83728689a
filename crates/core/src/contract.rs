//! What a ledger scope means. The ledger keeps one contract per scope; a gateway whose configuration says something else
//! is refused, because every key of that scope would silently be absent (or mean another effect).

use minicbor::{Decode, Encode};

/// The meaning of all keys of one scope. Any change here makes old records unfindable or wrong, so it needs a person.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ScopeContract {
    /// The scope's stable id.
    #[n(0)]
    pub scope: String,
    /// Where keys come from, in canonical text: `header:idempotency-key`, or parts joined by `+`.
    #[n(1)]
    pub key: String,
    /// Who may share keys, in canonical text: `credential`, `none`, `header:x-user`.
    #[n(2)]
    pub principal: String,
    /// The version of the fingerprint that new records get: `f1`.
    #[n(3)]
    pub fingerprint: String,
    /// The identity of the upstream that executes these effects.
    #[n(4)]
    pub upstream: String,
    /// How the upstream sees the key: `hmac in idempotency-key`. A change would let a repeated attempt run twice.
    #[n(5)]
    pub forward: String,
}

/// One field in which two contracts differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContractChange {
    /// The scope.
    pub scope: String,
    /// What differs, in words.
    pub field: &'static str,
    /// What the first (the ledger) says.
    pub before: String,
    /// What the second (the configuration) says.
    pub after: String,
}

impl std::fmt::Display for ContractChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "scope {:?}: {} was {:?} and is now {:?}", self.scope, self.field, self.before, self.after)
    }
}

impl ScopeContract {
    /// The terms as a ledger keeps them: opaque bytes that are equal exactly when the contracts are.
    #[must_use]
    pub fn to_terms(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("writing to memory cannot fail")
    }

    /// Reads what [`Self::to_terms`] wrote; none for the terms of a version that says more than this one can read.
    #[must_use]
    pub fn from_terms(terms: &[u8]) -> Option<Self> {
        minicbor::decode(terms).ok()
    }

    /// Every field in which `after` differs from `self`. Empty exactly when the two are equal.
    #[must_use]
    pub fn changes(&self, after: &Self) -> Vec<ContractChange> {
        let Self { scope, key, principal, fingerprint, upstream, forward } = self;
        let pairs = [
            ("scope", scope.clone(), after.scope.clone()),
            ("key source", key.clone(), after.key.clone()),
            ("principal", principal.clone(), after.principal.clone()),
            ("fingerprint version", fingerprint.clone(), after.fingerprint.clone()),
            ("upstream identity", upstream.clone(), after.upstream.clone()),
            ("forwarded key", forward.clone(), after.forward.clone()),
        ];
        pairs
            .into_iter()
            .filter(|(_, before, after)| before != after)
            .map(|(field, before, after)| ContractChange { scope: scope.clone(), field, before, after })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contract() -> ScopeContract {
        ScopeContract {
            scope: "payments".into(),
            key: "header:idempotency-key".into(),
            principal: "credential".into(),
            fingerprint: "f1".into(),
            upstream: "payments".into(),
            forward: "hmac in idempotency-key".into(),
        }
    }

    #[test]
    fn survives_its_encoding() {
        let terms = contract().to_terms();
        assert_eq!(ScopeContract::from_terms(&terms), Some(contract()));
        assert_eq!(ScopeContract::from_terms(&terms[..terms.len() - 1]), None);
    }

    #[test]
    fn names_what_changed() {
        assert!(contract().changes(&contract()).is_empty());
        let after = ScopeContract { principal: "none".into(), fingerprint: "f2".into(), ..contract() };
        let text: Vec<String> = contract().changes(&after).iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                r#"scope "payments": principal was "credential" and is now "none""#,
                r#"scope "payments": fingerprint version was "f1" and is now "f2""#,
            ]
        );
    }
}
