use super::*;
use crate::policy::clock::some_instant;
use proptest::prelude::*;
use std::sync::atomic::{AtomicU32, Ordering};

const SECOND: Duration = Duration::from_secs(1);

fn limit(name: &str, quota: Result<Quota, QuotaError>, reach: Reach) -> LimitPolicy {
    LimitPolicy { name: name.to_owned(), quota: quota.unwrap(), reach }
}

fn per_key() -> Reach {
    Reach::PerKey { keys_max: KEYS_MAX }
}

fn limiter(limits: Vec<LimitPolicy>, start: Instant) -> RateLimiter<String> {
    RateLimiter::new(limits, start, RandomState::new()).unwrap()
}

/// 5 a second for each, 100 a second for all, 8 a minute for each; in any order.
fn three(start: Instant) -> RateLimiter<String> {
    let each = limit("each", Quota::bucket(5, SECOND, 5), per_key());
    let all = limit("all", Quota::bucket(100, SECOND, 100), Reach::Global);
    let minute = limit("minute", Quota::window(8, SECOND * 60), per_key());
    limiter(vec![all, each, minute], start)
}

#[test]
fn each_key_has_its_own() {
    let start = some_instant();
    let limiter = limiter(vec![limit("each", Quota::bucket(5, SECOND, 5), per_key())], start);
    for left in (0..5).rev() {
        let standing = limiter.check(start, "a", 1).unwrap();
        assert_eq!(standing, Standing { limit: 0, left, wait: SECOND / 5 });
    }
    let refused = limiter.check(start, "a", 1).unwrap_err();
    assert_eq!(refused.0, Standing { limit: 0, left: 0, wait: SECOND / 5 });
    assert_eq!(limiter.check(start, "b", 1).unwrap().left, 4);
    assert!(limiter.check(start + refused.0.wait, "a", 1).is_ok());
}

/// The trap: the first limit is charged although the second refuses, and one runaway client drains what all share.
#[test]
fn a_refusal_takes_from_no_limit() {
    let start = some_instant();
    let limiter = three(start);
    let served = (0..10_000).filter(|_| limiter.check(start, "runaway", 1).is_ok()).count();
    assert_eq!(served, 5);
    // All the rest of the global limit is there for the others.
    let others = (0..200).filter(|i| limiter.check(start, &format!("fair {}", i / 2), 1).is_ok()).count();
    assert_eq!(others, 95);
    // And a global refusal costs nobody's own units: 3 of 8 are left of the minute, not fewer.
    for _ in 0..100 {
        assert_eq!(limiter.check(start, "runaway", 1).unwrap_err().0.limit, 1, "each refuses longest");
    }
    let later = start + SECOND;
    assert_eq!((0..10).filter(|_| limiter.check(later, "runaway", 1).is_ok()).count(), 3);
    assert_eq!(limiter.check(later, "runaway", 1).unwrap_err().0.limit, 2);
}

#[test]
fn the_tightest_limit_and_the_longest_wait_are_told() {
    let start = some_instant();
    let limiter = three(start);
    assert_eq!(limiter.check(start, "a", 1).unwrap(), Standing { limit: 1, left: 4, wait: SECOND / 5 });
    assert_eq!(limiter.check(start, "a", 4).unwrap().left, 0);
    assert_eq!(limiter.check(start + SECOND, "a", 2).unwrap().limit, 2, "1 of the minute, 3 of the second");
    let both = limiter.check(start + SECOND, "a", 4).unwrap_err();
    assert_eq!(both.0.limit, 2);
    assert!(both.0.wait > SECOND * 59, "a second would be enough for the bucket");
}

#[test]
fn limits_with_keys_of_their_own() {
    let start = some_instant();
    let tenant = limit("tenant", Quota::bucket(4, SECOND, 4), per_key());
    let user = limit("user", Quota::bucket(3, SECOND, 3), per_key());
    let limiter = limiter(vec![tenant, user], start);
    let ask = |tenant, user| limiter.check_each(start, 1, |place| [tenant, user][place]);
    assert_eq!((0..9).filter(|_| ask("t", "u1").is_ok()).count(), 3);
    assert_eq!((0..9).filter(|_| ask("t", "u2").is_ok()).count(), 1, "what the tenant has left");
    assert_eq!((0..9).filter(|_| ask("s", "u2").is_ok()).count(), 2, "a refusal took nothing from the user");
}

#[test]
fn headers_are_structured_fields_of_the_draft() {
    let start = some_instant();
    let limiter = three(start);
    assert_eq!(limiter.policy_field(), r#""all";q=100;w=1, "each";q=5;w=1, "minute";q=8;w=60"#);
    let standing = limiter.check(start, "a", 1).unwrap();
    assert_eq!(limiter.field(&standing).unwrap(), r#""each";r=4;t=1"#);
    let refused = limiter.check(start, "a", 5).unwrap_err();
    assert_eq!(limiter.field(&refused.0).unwrap(), r#""each";r=4;t=1"#);
    let full = Standing { limit: 2, left: 8, wait: Duration::ZERO };
    assert_eq!(limiter.field(&full).unwrap(), r#""minute";r=8;t=0"#);
    assert_eq!(limiter.field(&Standing { limit: 9, ..full }), None);
    let quoted = limit(r#"a"b"#, Quota::window(1, SECOND), Reach::Global);
    let quoted: RateLimiter<String> = RateLimiter::new(vec![quoted], start, RandomState::new()).unwrap();
    let list: sfv::List = sfv::Parser::new(quoted.policy_field().as_bytes()).parse().unwrap();
    assert_eq!(list.len(), 1);
    let longest = Standing { limit: 0, left: u32::MAX, wait: Duration::MAX };
    let field = quoted.field(&longest).unwrap();
    let list: sfv::List = sfv::Parser::new(field.as_bytes()).parse().unwrap();
    let sfv::ListEntry::Item(item) = &list[0] else { panic!("{field:?}") };
    assert_eq!(item.bare_item.as_string().unwrap().as_str(), r#"a"b"#);
    let numbers: Vec<_> = item.params.iter().map(|(key, value)| (key.as_str(), value.as_integer().unwrap())).collect();
    let most = sfv::Integer::constant(999_999_999_999_999);
    assert_eq!(numbers, [("r", sfv::Integer::from(u32::MAX)), ("t", most)]);
    let broken = |limits| RateLimiter::<String>::new(limits, start, RandomState::new()).unwrap_err();
    assert_eq!(broken(Vec::new()), QuotaError::NoLimit);
    assert!(matches!(
        broken(vec![limit("größe", Quota::window(1, SECOND), Reach::Global)]),
        QuotaError::Name(name) if name == "größe"
    ));
}

#[test]
fn who_is_limited() {
    let start = some_instant();
    let limiter = three(start);
    assert_eq!(limiter.limited(start, 10), []);
    for (key, times) in [("a", 9), ("b", 7), ("c", 2)] {
        (0..times).for_each(|_| {
            let _ = limiter.check(start, key, 1);
        });
    }
    let found = limiter.limited(start, 10);
    let named: Vec<_> = found.iter().map(|one| (one.key.as_deref(), one.refused, one.standing.limit)).collect();
    assert_eq!(named, [(Some("a"), 4, 1), (Some("b"), 2, 1)]);
    assert_eq!(limiter.limited(start, 1).len(), 1);
    assert_eq!(limiter.limited(start + SECOND, 10), [], "all units are there again");
    // The count begins anew after a rest.
    (0..9).for_each(|_| {
        let _ = limiter.check(start + SECOND, "b", 1);
    });
    let found = limiter.limited(start + SECOND, 10);
    assert!(found.iter().all(|one| one.key.as_deref() == Some("b") && one.refused == 6), "{found:?}");
    // Everybody together.
    (0..200).for_each(|i| {
        let _ = limiter.check(start + SECOND * 99, &i.to_string(), 1);
    });
    let found = limiter.limited(start + SECOND * 99, 10);
    assert_eq!((found.len(), found[0].key.as_ref(), found[0].refused), (1, None, 100));
}

#[test]
fn a_listing_is_bounded() {
    let start = some_instant();
    let limiter = limiter(vec![limit("each", Quota::bucket(1, SECOND, 1), per_key())], start);
    for key in 0..500 {
        (0..=key + 1).for_each(|_| {
            let _ = limiter.check(start, &key.to_string(), 1);
        });
    }
    let refused: Vec<_> = limiter.limited(start, 3).iter().map(|one| one.refused).collect();
    assert_eq!(refused, [500, 499, 498]);
}

#[test]
fn memory_is_bounded_and_nobody_resets_a_limit() {
    let start = some_instant();
    let few = Reach::PerKey { keys_max: 64 };
    let limiter = limiter(vec![limit("each", Quota::bucket(1, SECOND, 5), few)], start);
    while limiter.check(start, "greedy", 1).is_ok() {}
    let mut gained = 0;
    for name in 0..100_000 {
        let _ = limiter.check(start, &name.to_string(), 1);
        gained += u32::from(limiter.check(start, "greedy", 1).is_ok());
    }
    assert_eq!(gained, 0);
    let Meters::KeyedBucket(_, table) = &limiter.limits[0].meters else { panic!("a bucket for each key") };
    let mut keys = 0;
    table.for_each(|_| keys += 1);
    assert!(keys <= 64, "{keys}");
}

#[test]
fn threads_share_a_limit_exactly() {
    let start = some_instant();
    let limiter = three(start);
    let served = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (limiter, served) = (&limiter, &served);
            scope.spawn(move || {
                let keys: Vec<_> = (0..40).map(|i| format!("{}", (i + thread) % 40)).collect();
                for key in keys.iter().cycle().take(4_000) {
                    if limiter.check(start, key, 1).is_ok() {
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(served.into_inner(), 100, "40 keys want 200; all of them may have 100");
}

proptest! {
    /// A call that is refused leaves every limit as if it had not been made.
    #[test]
    fn refusals_leave_no_trace(calls in proptest::collection::vec((0_u64..500, 0_usize..3, 1_u32..4), 1..120)) {
        let start = some_instant();
        let (all, admitted) = (three(start), three(start));
        let mut now = start;
        for (pause_ms, key, cost) in calls {
            now += Duration::from_millis(pause_ms);
            let key = ["a", "b", "c"][key];
            let found = all.check(now, key, cost);
            if found.is_ok() {
                prop_assert_eq!(admitted.check(now, key, cost), found, "the other one never saw a refusal");
            }
        }
    }

    /// However the clock jumps, who waits as long as told passes.
    #[test]
    fn a_jumping_clock_locks_nobody_out(jumps in proptest::collection::vec((0_u64..1 << 40, 1_u32..6), 1..60)) {
        let start = some_instant();
        let limiter = three(start);
        for (at_ms, cost) in jumps {
            let now = start + Duration::from_millis(at_ms);
            if let Err(refused) = limiter.check(now, "a", cost) {
                prop_assert!(refused.0.wait <= SECOND * 70, "{refused:?}");
                prop_assert!(limiter.check(now + refused.0.wait, "a", cost).is_ok());
            }
        }
    }
}
