//! Arbitrary records and commands, also such as no ledger would ever hold.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use proptest::{collection::vec, prelude::*};
use semel_core::{
    answer::{HeaderAllowList, StoredAnswer, Tombstone},
    effect::{
        Authority, Claim, Command, FOREVER_MS, Fence, OnUnknown, Outcome, Owner, Record, State, Terms, UnknownReason,
    },
    scope::{EffectId, LookupSecret, Principal, Proof},
    time::Timestamp,
};

use crate::alphabet::fingerprint;

/// Moments so near each other that leases lapse and windows end between them, and the ends of time.
pub(crate) fn moment() -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        9 => (90_u64..130).prop_map(Timestamp::from_millis),
        1 => any::<u64>().prop_map(Timestamp::from_millis),
        1 => Just(Timestamp::NEVER),
    ]
}

fn millis() -> impl Strategy<Value = u64> {
    prop_oneof![9 => 0_u64..20, 1 => any::<u64>(), 1 => Just(FOREVER_MS)]
}

pub(crate) fn fence() -> impl Strategy<Value = Fence> {
    (1_u64..4).prop_map(Fence)
}

fn owner() -> impl Strategy<Value = Owner> {
    (1_u64..3).prop_map(Owner)
}

fn proof() -> impl Strategy<Value = Proof> {
    let secret = LookupSecret::from_bytes([5; 32]);
    prop_oneof![
        Just(Principal::anyone().proof()),
        any::<[u8; 4]>().prop_map(move |bytes| Principal::credential(&secret, &bytes).proof()),
    ]
}

pub(crate) fn authority() -> impl Strategy<Value = Authority> {
    prop_oneof![
        Just(Authority::Owner),
        Just(Authority::Upstream),
        Just(Authority::Probe),
        ("[a-z]{0,9}", ".{0,20}")
            .prop_map(|(name, reason)| Authority::Operator { name: name.into(), reason: reason.into() }),
    ]
}

fn reason() -> impl Strategy<Value = UnknownReason> {
    use UnknownReason::{
        Abandoned, ConnectionLost, LeaseLapsed, Malformed, Marked, OwnerGone, Status, Timeout, Truncated,
    };
    let all = [Timeout, ConnectionLost, Truncated, Malformed, Status, Marked, LeaseLapsed, OwnerGone, Abandoned];
    proptest::sample::select(all.to_vec())
}

fn stored() -> impl Strategy<Value = StoredAnswer> {
    let headers = vec((proptest::sample::select(&["location", "etag", "x-kept"][..]), "[ -~]{0,12}"), 0..4);
    (200_u16..600, headers, vec(any::<u8>(), 0..40)).prop_map(|(status, fields, body)| {
        let list = HeaderAllowList::new(vec![HeaderName::from_static("x-kept")]).unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_str(&value).unwrap());
        }
        let status = StatusCode::from_u16(status).unwrap();
        StoredAnswer { status, headers: list.filter(&headers), body: body.into() }
    })
}

pub(crate) fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        stored().prop_map(Outcome::Settled),
        (stored(), any::<bool>()).prop_map(|(answer, digested)| {
            let tombstone = answer.into_tombstone();
            let body_digest = tombstone.body_digest.filter(|_| digested);
            Outcome::Consumed(Tombstone { body_digest, ..tombstone })
        }),
    ]
}

fn terms() -> impl Strategy<Value = Arc<Terms>> {
    let on_unknown = proptest::sample::select(&[OnUnknown::Hold, OnUnknown::Retry, OnUnknown::Probe][..]);
    ("[a-z]{0,8}", ".{0,8}", on_unknown, millis(), millis(), millis()).prop_map(
        |(scope, upstream, on_unknown, upstream_keep_ms, keep_ms, marker_ms)| {
            let (scope, upstream) = (scope.into(), upstream.into());
            Arc::new(Terms { scope, upstream, on_unknown, upstream_keep_ms, keep_ms, marker_ms })
        },
    )
}

fn state() -> impl Strategy<Value = State> {
    prop_oneof![
        3 => (owner(), moment()).prop_map(|(owner, lease_until)| State::Open { owner, lease_until }),
        3 => (moment(), reason()).prop_map(|(since, reason)| State::Unknown { since, reason }),
        3 => (outcome(), authority(), moment(), moment(), moment()).prop_map(
            |(outcome, by, at, until, marker_until)| match outcome {
                Outcome::Settled(answer) => State::Settled { answer, by, at, until, marker_until },
                Outcome::Consumed(tombstone) => State::Consumed { tombstone, by, at, until, marker_until },
            }
        ),
        1 => moment().prop_map(|marker_until| State::Expired { marker_until }),
    ]
}

fn request() -> impl Strategy<Value = &'static [u8]> {
    prop_oneof![Just(&b"a"[..]), Just(&b"b"[..])]
}

pub(crate) fn record() -> impl Strategy<Value = Record> {
    let who = (any::<[u8; 16]>(), fence(), request(), proof());
    let counts = (moment(), prop_oneof![0_u32..5, Just(u32::MAX)], any::<bool>());
    (who, state(), terms(), counts).prop_map(
        |((id, fence, request, proof), state, terms, (claimed_at, attempts, was_unknown))| Record {
            id: EffectId::from_bytes(id),
            was_unknown: was_unknown || matches!(state, State::Unknown { .. }),
            state,
            fence,
            fingerprint: fingerprint(request),
            proof,
            terms,
            claimed_at,
            attempts,
        },
    )
}

fn duration() -> impl Strategy<Value = Duration> {
    millis().prop_map(Duration::from_millis)
}

pub(crate) fn command() -> impl Strategy<Value = Command> {
    let claim = (owner(), duration(), request(), proof(), terms()).prop_map(|(owner, lease, request, proof, terms)| {
        Command::Claim(Claim { owner, lease, fingerprint: fingerprint(request), proof, terms })
    });
    let reopen = (fence(), owner(), duration(), request()).prop_map(|(fence, owner, lease, request)| Command::Reopen {
        fence,
        owner,
        lease,
        fingerprint: fingerprint(request),
    });
    prop_oneof![
        claim,
        reopen,
        (fence(), duration()).prop_map(|(fence, lease)| Command::Renew { fence, lease }),
        (fence(), outcome(), authority(), 0_u32..3).prop_map(|(fence, outcome, by, attempts)| Command::Settle {
            fence,
            outcome,
            by,
            attempts
        }),
        (fence(), authority()).prop_map(|(fence, by)| Command::Release { fence, by }),
        (fence(), reason(), 0_u32..3).prop_map(|(fence, reason, attempts)| Command::GiveUp { fence, reason, attempts }),
        Just(Command::Lapse),
        owner().prop_map(|survivor| Command::Orphan { survivor }),
    ]
}
