//! What a key was first used for: the same key with another fingerprint is a mistake, not a retry.

mod body;
mod head;
mod multipart;

use http::{HeaderMap, Method};
use sha2::{Digest, Sha256};
use std::fmt;

/// The request as far as its meaning goes.
#[derive(Clone, Copy, Debug)]
pub struct FingerprintInput<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path as it came, still percent-encoded.
    pub path: &'a str,
    /// The query as it came, without its question mark.
    pub query: Option<&'a str>,
    /// The request's headers; only the media type, the content coding and the conditional headers count.
    pub headers: &'a HeaderMap,
    /// The whole body as it came.
    pub body: &'a [u8],
}

/// How a fingerprint was computed. A verifier lives as long as records made with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FingerprintVersion {
    /// `f1:`, SHA-256; the modules of this folder are its definition.
    F1,
}

/// A versioned digest of a request's meaning; 33 bytes, whatever the request.
///
/// Shown as `f1:` and 64 hexadecimal digits. It tells nobody the payload, but equal payloads have equal fingerprints:
/// it is never sent to callers.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    version: FingerprintVersion,
    digest: [u8; 32],
}

impl FingerprintVersion {
    /// What new records are made with.
    pub const CURRENT: Self = Self::F1;

    const fn tag(self) -> u8 {
        match self {
            Self::F1 => 1,
        }
    }

    const fn of_tag(tag: u8) -> Option<Self> {
        match tag {
            1 => Some(Self::F1),
            _ => None,
        }
    }
}

impl fmt::Display for FingerprintVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "f{}", self.tag())
    }
}

impl Fingerprint {
    /// The fingerprint of a request, in the current version.
    #[must_use]
    pub fn of(input: &FingerprintInput<'_>) -> Self {
        Self::with_version(FingerprintVersion::CURRENT, input)
    }

    /// The fingerprint of a request in a version that an older record asks for.
    #[must_use]
    pub fn with_version(version: FingerprintVersion, input: &FingerprintInput<'_>) -> Self {
        let digest = match version {
            FingerprintVersion::F1 => {
                let mut hasher = FieldHasher(Sha256::new());
                head::hash(input, &mut hasher);
                body::hash(input, &mut hasher);
                hasher.0.finalize().into()
            }
        };
        Self { version, digest }
    }

    /// Whether `input` means the same as the request this was made from, by this fingerprint's own version.
    #[must_use]
    pub fn matches(&self, input: &FingerprintInput<'_>) -> bool {
        *self == Self::with_version(self.version, input)
    }

    /// How it was computed.
    #[must_use]
    pub const fn version(&self) -> FingerprintVersion {
        self.version
    }

    /// The digest.
    #[must_use]
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.version)?;
        self.digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<C> minicbor::Encode<C> for Fingerprint {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        let mut bytes = [0; 33];
        bytes[0] = self.version.tag();
        bytes[1..].copy_from_slice(&self.digest);
        e.bytes(&bytes)?.ok()
    }
}

impl<'b, C> minicbor::Decode<'b, C> for Fingerprint {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        use minicbor::decode::Error;
        let (tag, digest) = d.bytes()?.split_first().ok_or_else(|| Error::message("a fingerprint has 33 bytes"))?;
        let version =
            FingerprintVersion::of_tag(*tag).ok_or_else(|| Error::message("a fingerprint of a later version"))?;
        let digest = digest.try_into().map_err(|_| Error::message("a fingerprint has 33 bytes"))?;
        Ok(Self { version, digest })
    }
}

/// SHA-256 over fields that cannot run into each other: each is a tag, its length and its bytes.
struct FieldHasher(Sha256);

impl FieldHasher {
    fn field(&mut self, tag: u8, bytes: &[u8]) {
        self.count(tag, bytes.len());
        self.0.update(bytes);
    }

    /// A field that only says a number: of bytes that follow, or of fields that belong together.
    fn count(&mut self, tag: u8, count: usize) {
        let mut prefix = [tag; 9];
        prefix[1..].copy_from_slice(&(count as u64).to_be_bytes());
        self.0.update(prefix);
    }

    /// The last field of all: it has no length because nothing follows it.
    fn last(&mut self, tag: u8) -> &mut Sha256 {
        self.0.update([tag]);
        &mut self.0
    }
}

#[cfg(test)]
mod tests;
