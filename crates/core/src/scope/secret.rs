//! The ledger's look-up secret and what is derived from it.

use super::EffectId;
use super::effect_id::base32;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;

/// The 32 bytes that key every look-up hash. Kept by the ledger; never rotates (a new one makes every key absent).
///
/// Holds the keyed hash state beside the bytes, so that a look-up does not start by hashing the key again.
#[derive(Clone)]
pub struct LookupSecret(Hmac<Sha256>, [u8; 32]);

/// Why bytes are not a [`LookupSecret`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the look-up secret has 32 bytes, these are {0}")]
pub struct SecretError(pub usize);

impl LookupSecret {
    /// Bytes in a secret.
    pub const BYTES: usize = 32;

    /// The secret with these bytes; draw them from the operating system's generator, once per ledger.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "HMAC takes a key of any length: it cannot panic")]
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(Hmac::new_from_slice(&bytes).expect("HMAC takes a key of any length"), bytes)
    }

    /// The bytes, for an engine that keeps them or a ledger that takes over another's records. Show them to nobody.
    #[must_use]
    pub const fn expose(&self) -> &[u8; Self::BYTES] {
        &self.1
    }

    /// The secret with these bytes.
    ///
    /// # Errors
    /// Where there are not exactly 32.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, SecretError> {
        bytes.try_into().map(Self::from_bytes).map_err(|_| SecretError(bytes.len()))
    }

    /// Starts a keyed hash for one purpose; `label` keeps the purposes apart.
    pub(super) fn mac(&self, label: &'static [u8]) -> PartsMac {
        let mut mac = PartsMac(self.0.clone());
        mac.part(label);
        mac
    }

    /// The key under which the upstream sees this effect: same for every attempt, tells nothing about the caller's key.
    #[must_use]
    pub fn upstream_key(&self, id: EffectId) -> UpstreamKey {
        let mut mac = self.mac(b"semel upstream-key 1");
        mac.part(id.as_bytes());
        let mut text = *b"once-00000000000000000000000000";
        base32(u128::from_be_bytes(mac.finish_16()), &mut text[5..]);
        UpstreamKey(text)
    }

    /// The token with which the upstream may settle this effect under the claim `fence`.
    #[must_use]
    pub fn settlement_token(&self, id: EffectId, fence: u64) -> SettlementToken {
        let mac = self.settlement_mac(id, fence).0.finalize().into_bytes();
        SettlementToken::new(itoa::Buffer::new().format(fence), &mac)
    }

    /// The claim under which the bearer of `token` may settle the effect `id`; none when the token is forged or for
    /// another effect. Takes the same time for every wrong token.
    ///
    /// The claim may have been taken over since: a genuine token of an older claim is told so (and put on the audit
    /// log), rather than treated as forged.
    #[must_use]
    pub fn verify_settlement_token(&self, id: EffectId, token: &str) -> Option<u64> {
        // Neither the fence, the length nor the alphabet of a token is secret; only the comparison must not tell where
        // it differs.
        let (fence, mac) = token.split_once('.')?;
        let fence = fence.bytes().all(|b| b.is_ascii_digit()).then(|| fence.parse().ok())??;
        let mut bytes = [0; 32];
        let length = URL_SAFE_NO_PAD.decode_slice(mac, &mut bytes).ok()?;
        let genuine = length == 32 && self.settlement_mac(id, fence).0.verify_slice(&bytes).is_ok();
        genuine.then_some(fence)
    }

    fn settlement_mac(&self, id: EffectId, fence: u64) -> PartsMac {
        let mut mac = self.mac(b"semel settlement-token 1");
        mac.part(id.as_bytes());
        mac.part(&fence.to_be_bytes());
        mac
    }
}

impl fmt::Debug for LookupSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LookupSecret(..)")
    }
}

/// The `Idempotency-Key` that goes upstream by default: `once-` and 26 digits, 31 characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamKey([u8; 31]);

impl UpstreamKey {
    /// The key's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // ASCII by construction; an empty text would be a malformed key, never a wrong one.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The key as a header value.
    ///
    /// # Panics
    /// Never: the text is ASCII by construction.
    #[must_use]
    pub fn to_header_value(&self) -> http::HeaderValue {
        http::HeaderValue::from_bytes(&self.0).expect("base 32 is visible ASCII")
    }
}

/// Lets its bearer (the upstream) settle one effect under one fence. Debug shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct SettlementToken {
    text: [u8; Self::LENGTH_MAX],
    length: usize,
}

impl SettlementToken {
    /// The longest number, a dot, and 32 bytes in base64.
    const LENGTH_MAX: usize = 20 + 1 + 43;

    fn new(fence: &str, mac: &[u8]) -> Self {
        let mut text = [0; Self::LENGTH_MAX];
        text[..fence.len()].copy_from_slice(fence.as_bytes());
        text[fence.len()] = b'.';
        // There is room by the length above; a token without its MAC would be refused.
        let encoded = URL_SAFE_NO_PAD.encode_slice(mac, &mut text[fence.len() + 1..]).unwrap_or_default();
        Self { text, length: fence.len() + 1 + encoded }
    }

    /// The token's text: the fence in decimal, a dot and 43 characters of unpadded base64url (RFC 4648 section 5).
    #[must_use]
    pub fn as_str(&self) -> &str {
        // ASCII by construction; an empty token is refused.
        std::str::from_utf8(&self.text[..self.length]).unwrap_or_default()
    }
}

impl fmt::Debug for SettlementToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SettlementToken(..)")
    }
}

/// An HMAC over parts, each preceded by its length, so that no two lists of parts are hashed alike.
pub(super) struct PartsMac(Hmac<Sha256>);

impl PartsMac {
    pub(super) fn part(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }

    pub(super) fn finish(self) -> [u8; 32] {
        self.0.finalize().into_bytes().into()
    }

    pub(super) fn finish_16(self) -> [u8; 16] {
        let mut half = [0; 16];
        half.copy_from_slice(&self.finish()[..16]);
        half
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secret() -> LookupSecret {
        LookupSecret::from_bytes([9; 32])
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", secret()), "LookupSecret(..)");
        let token = secret().settlement_token(EffectId::from_bytes([1; 16]), 3);
        assert_eq!(format!("{token:?}"), "SettlementToken(..)");
    }

    #[test]
    fn wrong_length_is_refused() {
        assert_eq!(LookupSecret::from_slice(&[0; 31]).unwrap_err(), SecretError(31));
        assert!(LookupSecret::from_slice(&[0; 32]).is_ok());
    }

    #[test]
    fn upstream_key_is_a_well_formed_key_and_not_the_id() {
        let id = EffectId::from_bytes([1; 16]);
        let key = secret().upstream_key(id);
        assert_eq!(key, secret().upstream_key(id));
        assert_ne!(key, secret().upstream_key(EffectId::from_bytes([2; 16])));
        assert!(!id.to_string().contains(&key.as_str()[5..]));
        assert_eq!(key.to_header_value().to_str().unwrap(), key.as_str());
        assert_eq!(
            crate::key::IdempotencyKey::from_header_value(key.as_str().as_bytes()).unwrap().as_str(),
            key.as_str()
        );
    }

    proptest! {
        #[test]
        fn a_token_settles_its_effect_under_its_fence_only(id: [u8; 16], fence: u64, other: u64, flip: usize) {
            let id = EffectId::from_bytes(id);
            let token = secret().settlement_token(id, fence);
            let verify = |token: &str| secret().verify_settlement_token(id, token);
            prop_assert_eq!(verify(token.as_str()), Some(fence));
            let elsewhere = LookupSecret::from_bytes([8; 32]);
            prop_assert_eq!(elsewhere.verify_settlement_token(id, token.as_str()), None);
            let mut another = *id.as_bytes();
            another[flip % 16] ^= 1;
            prop_assert_eq!(secret().verify_settlement_token(EffectId::from_bytes(another), token.as_str()), None);
            let (_, mac) = token.as_str().split_once('.').unwrap();
            prop_assert_eq!(verify(&format!("{other}.{mac}")), (other == fence).then_some(fence));
            let mut forged = token.as_str().to_owned().into_bytes();
            let at = forged.len() - 1 - flip % 43;
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            prop_assert_eq!(verify(std::str::from_utf8(&forged).unwrap()), None);
        }

        #[test]
        fn no_token_panics(token in ".{0,80}", digits in "[0-9]{0,25}[.][A-Za-z0-9_-]{0,50}") {
            prop_assert_eq!(secret().verify_settlement_token(EffectId::from_bytes([0; 16]), &token), None);
            prop_assert_eq!(secret().verify_settlement_token(EffectId::from_bytes([0; 16]), &digits), None);
        }
    }
}
