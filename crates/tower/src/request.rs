//! A request, buffered whole, that asks for an effect.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Uri, request::Parts};
use semel_core::{
    fingerprint::{Fingerprint, FingerprintInput},
    scope::{EffectId, Proof},
};
use tokio::time::Instant;

/// A request and what it means to the ledger.
#[derive(Clone, Debug)]
pub struct EffectRequest {
    /// The request itself.
    pub message: Arc<Buffered>,
    /// The key's place in the ledger.
    pub id: EffectId,
    /// Who asks, to decide who may see an answer.
    pub proof: Proof,
    /// When the caller stops waiting.
    pub deadline: Instant,
}

/// A message whose body is in memory: it can be sent any number of times.
#[derive(Clone, Debug)]
pub struct Buffered {
    /// The method.
    pub method: Method,
    /// The target.
    pub uri: Uri,
    /// The headers as the caller sent them.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Buffered {
    /// From a request's head and its body.
    #[must_use]
    pub fn new(head: Parts, body: Bytes) -> Self {
        Self { method: head.method, uri: head.uri, headers: head.headers, body }
    }

    /// What the fingerprint is made of.
    #[must_use]
    pub fn fingerprint_input(&self) -> FingerprintInput<'_> {
        FingerprintInput {
            method: &self.method,
            path: self.uri.path(),
            query: self.uri.query(),
            headers: &self.headers,
            body: &self.body,
        }
    }

    /// The fingerprint by today's version.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.fingerprint_input())
    }
}
