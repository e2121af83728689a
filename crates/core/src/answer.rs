//! What the ledger keeps of an upstream's answer.

mod allow;

pub use allow::{HeaderAllowList, NotStorable, StoredHeaders};

use bytes::Bytes;
use http::StatusCode;
use minicbor::{Decode, Encode};
use sha2::{Digest, Sha256};

/// An answer that is replayed to every duplicate.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StoredAnswer {
    /// The upstream's status; never 1xx.
    #[cbor(n(0), with = "status_cbor")]
    pub status: StatusCode,
    /// The allowed headers, in the upstream's order.
    #[n(1)]
    pub headers: StoredHeaders,
    /// The whole body.
    #[cbor(n(2), with = "bytes_cbor")]
    pub body: Bytes,
    // 3 is kept for how the body is sealed.
}

/// What is left of an answer that was executed but is not kept: enough to say what happened, never to replay it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Tombstone {
    /// The upstream's status.
    #[cbor(n(0), with = "status_cbor")]
    pub status: StatusCode,
    /// The allowed headers, in the upstream's order.
    #[n(1)]
    pub headers: StoredHeaders,
    /// SHA-256 of the body; `None` where it was still streaming when the tombstone became durable.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub body_digest: Option<[u8; 32]>,
}

impl StoredAnswer {
    /// The tombstone of this answer, for a route that keeps no bodies.
    #[must_use]
    pub fn into_tombstone(self) -> Tombstone {
        let body_digest = Some(Sha256::digest(&self.body).into());
        Tombstone { status: self.status, headers: self.headers, body_digest }
    }
}

/// A status as a CBOR unsigned integer.
mod status_cbor {
    use http::StatusCode;
    use minicbor::decode::Error as DecodeError;
    use minicbor::encode::{Error as EncodeError, Write};
    use minicbor::{Decoder, Encoder};

    pub(super) fn encode<C, W: Write>(
        status: &StatusCode,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        e.u16(status.as_u16())?.ok()
    }

    pub(super) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<StatusCode, DecodeError> {
        StatusCode::from_u16(d.u16()?).map_err(|_| DecodeError::message("a status is 100 to 999"))
    }
}

/// A body as a CBOR byte string.
mod bytes_cbor {
    use bytes::Bytes;
    use minicbor::decode::Error as DecodeError;
    use minicbor::encode::{Error as EncodeError, Write};
    use minicbor::{Decoder, Encoder};

    pub(super) fn encode<C, W: Write>(
        bytes: &Bytes,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        e.bytes(bytes)?.ok()
    }

    pub(super) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Bytes, DecodeError> {
        d.bytes().map(Bytes::copy_from_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderName, HeaderValue};
    use proptest::prelude::*;

    fn answer(status: u16, headers: &HeaderMap, body: Vec<u8>) -> StoredAnswer {
        let extras = ["x-a", "x-b"].map(HeaderName::from_static).to_vec();
        let list = HeaderAllowList::new(extras).unwrap();
        StoredAnswer { status: StatusCode::from_u16(status).unwrap(), headers: list.filter(headers), body: body.into() }
    }

    #[test]
    fn a_later_version_may_add_fields() {
        let stored = answer(201, &HeaderMap::new(), b"ok".to_vec());
        assert_eq!(minicbor::to_vec(&stored).unwrap(), [0x83, 0x18, 201, 0x80, 0x42, b'o', b'k']);
        let with_sealing = [0x84, 0x18, 201, 0x80, 0x42, b'o', b'k', 0x41, 1];
        assert_eq!(minicbor::decode::<StoredAnswer>(&with_sealing).unwrap(), stored);
    }

    #[test]
    fn damage_is_an_error() {
        assert!(minicbor::decode::<StoredAnswer>(&[0x83, 0x18, 99, 0x80, 0x40]).is_err());
        assert!(minicbor::decode::<StoredAnswer>(&[0x83, 0x18, 201, 0x81, 0x61, b'a', 0x40]).is_err());
        assert!(minicbor::decode::<StoredAnswer>(&[0x82, 0x18, 201, 0x80]).is_err());
    }

    #[test]
    fn tombstone_keeps_the_digest() {
        let tombstone = answer(200, &HeaderMap::new(), b"abc".to_vec()).into_tombstone();
        assert_eq!(tombstone.body_digest.unwrap()[..4], [0xba, 0x78, 0x16, 0xbf]);
        let open = Tombstone { body_digest: None, ..tombstone.clone() };
        for one in [tombstone, open] {
            assert_eq!(minicbor::decode::<Tombstone>(&minicbor::to_vec(&one).unwrap()).unwrap(), one);
        }
    }

    proptest! {
        #[test]
        fn answers_round_trip(
            status in 200_u16..600,
            values in proptest::collection::vec((any::<bool>(), "[ -~]{0,20}"), 0..4),
            body in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut headers = HeaderMap::new();
            for (first, value) in values {
                let name = if first { "x-a" } else { "x-b" };
                headers.append(name, HeaderValue::from_str(&value).unwrap());
            }
            let stored = answer(status, &headers, body);
            let cbor = minicbor::to_vec(&stored).unwrap();
            prop_assert_eq!(minicbor::decode::<StoredAnswer>(&cbor).unwrap(), stored);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = minicbor::decode::<StoredAnswer>(&bytes);
            let _ = minicbor::decode::<Tombstone>(&bytes);
        }
    }
}
