//! Who asks: what a key is scoped by, and what proves the right to see an answer.

use super::LookupSecret;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName};
use serde::Deserialize;
use std::fmt;
use std::str::FromStr;
use subtle::ConstantTimeEq;

/// Where a route takes its principal from: `credential`, `none` or `header:<name>` in the config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrincipalSource {
    /// The Authorization header's exact bytes; no credential is a 401.
    Credential,
    /// Everybody is one principal (explicit in the config).
    None,
    /// A header that a trusted peer sets. Whether the peer *is* trusted is the caller's business, not this type's.
    Header(HeaderName),
}

/// Why a text names no [`PrincipalSource`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrincipalSourceError {
    /// The word is unknown.
    #[error("`{0}` is no principal: use `credential`, `none` or `header:<name>`")]
    Unknown(String),
    /// What follows `header:` is no header name.
    #[error("`{0}` is no header name: use for example `header:x-user`")]
    HeaderName(String),
}

/// Why a request has no principal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrincipalError {
    /// The route wants a credential and the request has none.
    #[error("this route scopes keys by credential and the request has no Authorization header: send one")]
    NoCredential,
    /// More than one Authorization header: which one the upstream would believe is a guess.
    #[error("the request has more than one Authorization header: send exactly one")]
    ManyCredentials,
    /// The trusted header is absent, empty or there twice.
    #[error("this route scopes keys by the header `{0}`, which the request must carry exactly once")]
    Header(HeaderName),
}

/// A caller, as two keyed hashes: what its keys are scoped by, and what it must prove to see an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Principal {
    subject: [u8; 32],
    proof: Proof,
}

/// A keyed hash of the exact credential bytes. An answer is shown only to the proof that its record holds.
#[derive(Clone, Copy, Eq)]
pub struct Proof([u8; 16]);

impl Principal {
    /// The principal that `source` finds in these headers.
    ///
    /// # Errors
    /// Where the headers do not say who asks, or say it twice.
    pub fn from_headers(
        source: &PrincipalSource,
        secret: &LookupSecret,
        headers: &HeaderMap,
    ) -> Result<Self, PrincipalError> {
        match source {
            PrincipalSource::None => Ok(Self::anyone()),
            PrincipalSource::Credential => {
                let mut values = headers.get_all(AUTHORIZATION).iter();
                let credential = values.next().filter(|value| !value.is_empty()).ok_or(PrincipalError::NoCredential)?;
                if values.next().is_some() {
                    return Err(PrincipalError::ManyCredentials);
                }
                Ok(Self::credential(secret, credential.as_bytes()))
            }
            PrincipalSource::Header(name) => {
                let mut values = headers.get_all(name).iter();
                match (values.next(), values.next()) {
                    (Some(value), None) if !value.is_empty() => Ok(Self::trusted(secret, value.as_bytes())),
                    _ => Err(PrincipalError::Header(name.clone())),
                }
            }
        }
    }

    /// The one principal of a route without principals: everybody may see every answer.
    #[must_use]
    pub const fn anyone() -> Self {
        Self { subject: [0; 32], proof: Proof([0; 16]) }
    }

    /// A caller by the exact bytes of its Authorization header.
    ///
    /// A JWT-shaped bearer token (RFC 7519) is *scoped* by its unverified `iss` and `sub`, so that a retry with a
    /// refreshed token meets the first call's effect instead of running again; the proof stays the exact bytes, so a
    /// forged token that claims somebody's `sub` is shown nothing.
    #[must_use]
    pub fn credential(secret: &LookupSecret, credential: &[u8]) -> Self {
        let mut proof = secret.mac(b"semel credential-proof 1");
        proof.part(credential);
        let proof = proof.finish();
        let subject = match claims(credential) {
            Some(claims) => {
                let mut subject = secret.mac(b"semel jwt-subject 1");
                subject.part(&[u8::from(claims.iss.is_some())]);
                subject.part(claims.iss.as_deref().unwrap_or_default().as_bytes());
                subject.part(claims.sub.as_bytes());
                subject.finish()
            }
            None => proof,
        };
        Self { subject, proof: Proof::half_of(&proof) }
    }

    /// A caller named by a trusted peer.
    #[must_use]
    pub fn trusted(secret: &LookupSecret, name: &[u8]) -> Self {
        let mut subject = secret.mac(b"semel trusted-subject 1");
        subject.part(name);
        let subject = subject.finish();
        Self { subject, proof: Proof::half_of(&subject) }
    }

    /// What keys are scoped by.
    pub(super) const fn subject(&self) -> &[u8; 32] {
        &self.subject
    }

    /// What the record of an effect keeps, to decide later who may see its answer.
    #[must_use]
    pub const fn proof(&self) -> Proof {
        self.proof
    }
}

impl Proof {
    fn half_of(hash: &[u8; 32]) -> Self {
        let mut half = [0; 16];
        half.copy_from_slice(&hash[..16]);
        Self(half)
    }
}

impl PartialEq for Proof {
    /// Takes the same time wherever two proofs differ.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proof(..)")
    }
}

impl<C> minicbor::Encode<C> for Proof {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(&self.0)?.ok()
    }
}

impl<'b, C> minicbor::Decode<'b, C> for Proof {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let bytes = d.bytes()?;
        bytes.try_into().map(Self).map_err(|_| minicbor::decode::Error::message("a proof has 16 bytes"))
    }
}

/// The two claims that name a caller across refreshed tokens. `iss` may be absent; a token without `sub` names nobody.
#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    iss: Option<String>,
    sub: String,
}

/// The claims of a bearer credential that is shaped like a JWT in compact form.
fn claims(credential: &[u8]) -> Option<Claims> {
    let (scheme, token) = credential.split_at_checked(7)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return None;
    }
    let mut segments = token.trim_ascii().split(|&byte| byte == b'.');
    let (header, payload, _signature) = (segments.next()?, segments.next()?, segments.next()?);
    if segments.next().is_some() || header.is_empty() {
        return None;
    }
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    serde_json::from_slice(&payload).ok().filter(|claims: &Claims| !claims.sub.is_empty())
}

impl FromStr for PrincipalSource {
    type Err = PrincipalSourceError;

    fn from_str(text: &str) -> Result<Self, PrincipalSourceError> {
        match text {
            "credential" => Ok(Self::Credential),
            "none" => Ok(Self::None),
            _ => {
                let name =
                    text.strip_prefix("header:").ok_or_else(|| PrincipalSourceError::Unknown(text.to_owned()))?;
                let name = name.parse().map_err(|_| PrincipalSourceError::HeaderName(name.to_owned()))?;
                Ok(Self::Header(name))
            }
        }
    }
}

impl fmt::Display for PrincipalSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Credential => f.write_str("credential"),
            Self::None => f.write_str("none"),
            Self::Header(name) => write!(f, "header:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn secret() -> LookupSecret {
        LookupSecret::from_bytes([3; 32])
    }

    fn jwt(payload: &str, signature: &str) -> Vec<u8> {
        format!("Bearer eyJhbGciOiJSUzI1NiJ9.{}.{signature}", URL_SAFE_NO_PAD.encode(payload)).into_bytes()
    }

    fn from(source: &PrincipalSource, headers: &[(&'static str, &'static str)]) -> Result<Principal, PrincipalError> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        Principal::from_headers(source, &secret(), &map)
    }

    #[test]
    fn a_refreshed_token_has_the_same_scope_and_another_proof() {
        let first = Principal::credential(&secret(), &jwt(r#"{"iss":"i","sub":"s","exp":1}"#, "aa"));
        let refreshed = Principal::credential(&secret(), &jwt(r#"{"iss":"i","sub":"s","exp":2}"#, "bb"));
        assert_eq!(first.subject, refreshed.subject);
        assert_ne!(first.proof(), refreshed.proof());
        let other = Principal::credential(&secret(), &jwt(r#"{"iss":"i","sub":"t","exp":1}"#, "aa"));
        assert_ne!(first.subject, other.subject);
    }

    #[test]
    fn issuer_and_subject_do_not_run_into_each_other() {
        let subject = |payload: &str| Principal::credential(&secret(), &jwt(payload, "x")).subject;
        assert_ne!(subject(r#"{"iss":"ab","sub":"c"}"#), subject(r#"{"iss":"a","sub":"bc"}"#));
        assert_ne!(subject(r#"{"iss":"","sub":"c"}"#), subject(r#"{"sub":"c"}"#));
        assert_eq!(subject(r#"{"sub":"c","iss":"\u0061"}"#), subject(r#"{"iss":"a","sub":"c"}"#));
    }

    #[test]
    fn what_is_not_a_jwt_is_scoped_by_its_exact_bytes() {
        for odd in [
            &b"Bearer abc"[..],
            b"Basic dXNlcjpwYXNz",
            b"Bearer a.b.c",
            b"Bearer a.b.c.d",
            &jwt("[]", "x"),
            &jwt(r#"{"iss":"i"}"#, "x"),
            &jwt(r#"{"iss":"i","sub":""}"#, "x"),
            &jwt(r#"{"sub":"a","sub":"b"}"#, "x"),
            &jwt(r#"{"sub":7}"#, "x"),
        ] {
            let principal = Principal::credential(&secret(), odd);
            assert_eq!(principal.subject[..16], principal.proof.0, "{}", String::from_utf8_lossy(odd));
        }
    }

    #[test]
    fn headers_decide() {
        let credential = PrincipalSource::Credential;
        assert_eq!(from(&credential, &[]), Err(PrincipalError::NoCredential));
        assert_eq!(from(&credential, &[("authorization", "")]), Err(PrincipalError::NoCredential));
        let twice = [("authorization", "a"), ("authorization", "a")];
        assert_eq!(from(&credential, &twice), Err(PrincipalError::ManyCredentials));
        assert!(from(&credential, &[("authorization", "a")]).is_ok());
        assert_eq!(from(&PrincipalSource::None, &[("authorization", "a")]), Ok(Principal::anyone()));
        let header: PrincipalSource = "header:x-user".parse().unwrap();
        assert!(matches!(from(&header, &[]), Err(PrincipalError::Header(_))));
        assert!(matches!(from(&header, &[("x-user", "a"), ("x-user", "b")]), Err(PrincipalError::Header(_))));
        assert!(from(&header, &[("x-user", "a")]).is_ok());
    }

    #[test]
    fn kinds_do_not_meet() {
        let credential = Principal::credential(&secret(), b"alice");
        let trusted = Principal::trusted(&secret(), b"alice");
        assert_ne!(credential.subject, trusted.subject);
        assert_ne!(credential.subject, Principal::anyone().subject);
    }

    #[test]
    fn sources_parse_and_print() {
        for text in ["credential", "none", "header:x-user"] {
            assert_eq!(text.parse::<PrincipalSource>().unwrap().to_string(), text);
        }
        assert!(matches!("jwt".parse::<PrincipalSource>(), Err(PrincipalSourceError::Unknown(_))));
        assert!(matches!("header:a b".parse::<PrincipalSource>(), Err(PrincipalSourceError::HeaderName(_))));
    }

    proptest! {
        #[test]
        fn no_credential_panics(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let mut bearer = b"Bearer ".to_vec();
            bearer.extend_from_slice(&bytes);
            let _ = Principal::credential(&secret(), &bearer);
            let _ = Principal::credential(&secret(), &bytes);
        }

        #[test]
        fn proof_round_trips(bytes: [u8; 16]) {
            let cbor = minicbor::to_vec(Proof(bytes)).unwrap();
            prop_assert_eq!(minicbor::decode::<Proof>(&cbor).unwrap(), Proof(bytes));
        }
    }
}
