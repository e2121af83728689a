use super::*;
use crate::policy::breaker::BreakerPolicy;
use crate::policy::clock::some_instant;
use crate::policy::response_class::ResponseClass;
use crate::policy::retry::Pushback;
use proptest::prelude::*;

const MS: fn(u64) -> Duration = Duration::from_millis;
const SUCCESS: ResponseClass = ResponseClass::Success;
const FAILURE: ResponseClass = ResponseClass::Failure;

struct Upstream {
    balancer: Balancer,
    endpoints: Vec<Endpoint>,
    now: Instant,
    draws: u64,
}

impl Upstream {
    fn of(count: u64) -> Self {
        Self::with(count, OutlierPolicy { consecutive_failures: None, ..OutlierPolicy::default() })
    }

    fn with(count: u64, outlier: OutlierPolicy) -> Self {
        let now = some_instant();
        let breaker = BreakerPolicy { jitter: 0.0, ..BreakerPolicy::default() };
        let endpoints = (0..count).map(|seed| Endpoint::new(breaker, &outlier, now, seed)).collect();
        Self { balancer: Balancer::new(BalancePolicy::default(), outlier, now), endpoints, now, draws: 0 }
    }

    fn rand(&mut self) -> u64 {
        self.draws += 1;
        let mut z = self.draws.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z ^ (z >> 31)
    }

    /// The endpoint that a call is sent to, after `tried`; it is over at once, without a word.
    fn pick(&mut self, tried: &[usize]) -> Result<(usize, bool), NoEndpoint> {
        let rand = self.rand();
        let endpoints: Vec<_> = self.endpoints.iter().collect();
        let picked = self.balancer.pick(&endpoints, |index| tried.contains(&index), self.now, rand)?;
        Ok((picked.index, picked.is_panic))
    }

    /// How many of `calls` each endpoint gets, that answers after its own time; one call at a time.
    fn shares(&mut self, calls: u32, answer: impl Fn(usize) -> (Duration, ResponseClass)) -> Vec<u32> {
        let mut shares = vec![0; self.endpoints.len()];
        for _ in 0..calls {
            let rand = self.rand();
            let endpoints: Vec<_> = self.endpoints.iter().collect();
            let mut picked = self.balancer.pick(&endpoints, |_| false, self.now, rand).unwrap();
            let (latency, class) = answer(picked.index);
            shares[picked.index] += 1;
            self.now += latency;
            picked.lease.record(class, Pushback::Unsaid, self.now);
        }
        shares
    }

    /// Opens an endpoint's breaker.
    fn shut(&mut self, index: usize) {
        while self.endpoints[index].breaker().is_closed() {
            let mut lease = Endpoint::try_lease(&self.endpoints[index], self.now).unwrap();
            lease.record(FAILURE, Pushback::Unsaid, self.now);
        }
    }
}

#[test]
fn the_slow_one_gets_little() {
    let mut upstream = Upstream::of(4);
    let shares = upstream.shares(4_000, |index| (MS(if index == 2 { 50 } else { 5 }), SUCCESS));
    assert!(shares[2] < 400, "{shares:?}");
    assert!(shares.iter().enumerate().all(|(index, share)| index == 2 || *share > 800), "{shares:?}");
}

#[test]
fn fast_failures_do_not_attract_calls() {
    // The known trap: an endpoint that fails in no time looks like the quickest of all.
    let mut upstream = Upstream::of(3);
    upstream.endpoints.iter_mut().for_each(|endpoint| {
        let never = BreakerPolicy { requests_min: u32::MAX, consecutive_failures: None, ..BreakerPolicy::default() };
        // Nothing but its load speaks against it.
        let uncounted = OutlierPolicy { consecutive_failures: None, ..OutlierPolicy::default() };
        *endpoint = Endpoint::new(never, &uncounted, upstream.now, 0);
    });
    let failing = |index| if index == 0 { (Duration::from_micros(100), FAILURE) } else { (MS(20), SUCCESS) };
    let shares = upstream.shares(1_000, failing);
    assert!(shares[0] < 20, "{shares:?}");
}

#[test]
fn what_is_under_way_counts() {
    let mut upstream = Upstream::of(2);
    upstream.shares(100, |_| (MS(10), SUCCESS));
    let busy: Vec<_> = (0..20).map(|_| Endpoint::try_lease(&upstream.endpoints[0], upstream.now).unwrap()).collect();
    let endpoints: Vec<_> = upstream.endpoints.iter().collect();
    for draw in 0..100_u64 {
        let rand = draw.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let picked = upstream.balancer.pick(&endpoints, |_| false, upstream.now, rand).unwrap();
        assert_eq!(picked.index, 1);
    }
    drop(busy);
}

#[test]
fn the_tried_are_left_out_while_there_are_others() {
    let mut upstream = Upstream::of(3);
    for _ in 0..50 {
        assert_eq!(upstream.pick(&[0, 2]), Ok((1, false)));
        assert!(upstream.pick(&[0, 1, 2]).is_ok());
    }
    // A tried one that is healthy goes before one that is not.
    upstream.shut(1);
    for _ in 0..50 {
        assert_ne!(upstream.pick(&[0, 2]).unwrap().0, 1);
        assert_eq!(upstream.pick(&[0]), Ok((2, false)));
    }
}

#[test]
fn an_open_breaker_gets_one_probe_when_it_is_due() {
    let mut upstream = Upstream::of(2);
    upstream.shut(0);
    (0..50).for_each(|_| assert_eq!(upstream.pick(&[]), Ok((1, false))));
    upstream.now += MS(5_000);
    assert_eq!(upstream.pick(&[1]), Ok((1, false)), "a second attempt is no time for experiments");
    let endpoints: Vec<_> = upstream.endpoints.iter().collect();
    let mut probe = upstream.balancer.pick(&endpoints, |_| false, upstream.now, 0).unwrap();
    assert_eq!(probe.index, 0);
    assert_eq!(upstream.balancer.pick(&endpoints, |_| false, upstream.now, 0).unwrap().index, 1);
    probe.lease.record(SUCCESS, Pushback::Unsaid, upstream.now + MS(5));
    drop(probe);
    upstream.now += MS(60_000);
    let shares = upstream.shares(200, |_| (MS(5), SUCCESS));
    assert!(shares[0] > 60, "{shares:?}");
}

#[test]
fn panic_spreads_what_would_bury_the_last_one() {
    let mut upstream = Upstream::of(3);
    upstream.shut(0);
    assert!(!upstream.pick(&[]).unwrap().1, "two of three are healthy");
    upstream.shut(1);
    let picks: Vec<_> = (0..300).map(|_| upstream.pick(&[]).unwrap()).collect();
    assert!(picks.iter().all(|(_, is_panic)| *is_panic));
    assert!(picks.iter().any(|(index, _)| *index != 2), "the last healthy one does not get all");
    assert!(picks.iter().any(|(index, _)| *index == 2));
    upstream.balancer.policy.panic_threshold = 0.0;
    assert!((0..300).all(|_| upstream.pick(&[]) == Ok((2, false))));
}

#[test]
fn with_nobody_left_to_protect_it_fails_at_once_but_for_a_probe_a_second() {
    let mut upstream = Upstream::of(3);
    (0..2).for_each(|index| upstream.shut(index));
    upstream.now += MS(500);
    upstream.shut(2);
    assert_eq!(upstream.pick(&[]), Err(NoEndpoint { retry_after: MS(4_500) }));
    upstream.now += MS(500);
    let endpoints: Vec<_> = upstream.endpoints.iter().collect();
    let probes: Vec<_> =
        (0..2).map(|_| upstream.balancer.pick(&endpoints, |_| false, upstream.now, 1).unwrap()).collect();
    assert!(probes.iter().all(|probe| !probe.is_panic), "a probe that is due is no healthy endpoint");
    assert!(upstream.balancer.pick(&endpoints, |_| false, upstream.now, 1).is_err(), "the third is still shut");
    let alone = Upstream::of(0);
    assert!(alone.balancer.pick::<&Endpoint>(&[], |_| false, alone.now, 1).is_err());
}

#[test]
fn an_outage_of_all_is_over_when_it_is_over() {
    // Without it, openings that doubled during the outage would prolong it by up to five minutes.
    for count in [1, 2, 4] {
        let mut upstream = Upstream::of(count);
        (0..upstream.endpoints.len()).for_each(|index| upstream.shut(index));
        let (mut asked, outage) = (0, 120_000);
        for _ in 0..outage / 50 {
            upstream.now += MS(50);
            let rand = upstream.rand();
            let endpoints: Vec<_> = upstream.endpoints.iter().collect();
            if let Ok(mut picked) = upstream.balancer.pick(&endpoints, |_| false, upstream.now, rand) {
                picked.lease.record(FAILURE, Pushback::Unsaid, upstream.now);
                asked += 1;
            }
        }
        assert!((count * 100..=count * 120).contains(&asked), "{asked} of {count}: about one a second");
        let refused = upstream.pick(&[]).unwrap_err();
        assert!(refused.retry_after <= MS(5_000), "{refused:?}");
        upstream.now += MS(1_000);
        let rand = upstream.rand();
        let endpoints: Vec<_> = upstream.endpoints.iter().collect();
        let mut picked = upstream.balancer.pick(&endpoints, |_| false, upstream.now, rand).unwrap();
        picked.lease.record(SUCCESS, Pushback::Unsaid, upstream.now);
        drop(picked);
        assert!(upstream.pick(&[]).is_ok());
        // Nor do early probes double what the others are open for.
        upstream.now += MS(5_000);
        let due = |endpoint: &Endpoint| !matches!(endpoint.breaker_state(upstream.now), BreakerState::Open(_));
        assert!(upstream.endpoints.iter().all(due));
    }
}

#[test]
fn one_endpoint_has_a_breaker_and_nothing_else() {
    let mut upstream = Upstream::of(1);
    assert_eq!(upstream.pick(&[0]), Ok((0, false)));
    upstream.shut(0);
    assert_eq!(upstream.pick(&[]), Err(NoEndpoint { retry_after: MS(5_000) }));
}

#[test]
fn the_ejected_and_the_unwell_get_nothing_until_nobody_else_is_there() {
    let mut upstream = Upstream::with(4, OutlierPolicy::default());
    (0..5).for_each(|_| upstream.endpoints[0].outlier().record(FAILURE));
    upstream.endpoints[1].set_up(false, upstream.now);
    (0..100).for_each(|_| assert!(upstream.pick(&[]).unwrap().0 >= 2));
    assert!(upstream.balancer.outliers().ejected_for(upstream.endpoints[0].outlier(), upstream.now).is_some());
    upstream.shut(2);
    upstream.shut(3);
    // None is healthy; two have a breaker that is closed.
    (0..100).for_each(|_| assert!(upstream.pick(&[]).unwrap().0 < 2));
}

#[test]
fn who_is_back_starts_slowly() {
    let mut upstream = Upstream::of(2);
    upstream.now += MS(60_000);
    upstream.endpoints[0].set_up(false, upstream.now);
    upstream.shares(50, |_| (MS(5), SUCCESS));
    upstream.endpoints[0].set_up(true, upstream.now);
    let mut shares = Vec::new();
    for _ in 0..3 {
        let began = upstream.now;
        let count = (0..2_000).filter(|_| upstream.pick(&[]).unwrap().0 == 0).count();
        shares.push(count);
        upstream.now = began + MS(5_000);
    }
    assert!((100..=350).contains(&shares[0]), "a tenth of all, as it costs nothing: {shares:?}");
    assert!((800..=1_200).contains(&shares[1]), "half: {shares:?}");
    assert_eq!(shares[2], 2_000, "then the quickest gets all that come one by one");
}

#[test]
fn nobody_is_spared_at_the_cost_of_one_that_is_buried() {
    let mut upstream = Upstream::of(2);
    upstream.now += MS(60_000);
    upstream.endpoints[0].set_up(false, upstream.now);
    upstream.shares(50, |_| (MS(5), SUCCESS));
    upstream.endpoints[0].set_up(true, upstream.now);
    let old = &upstream.endpoints[1];
    let under_way: Vec<_> = (0..30).map(|_| Endpoint::try_lease(old, upstream.now).unwrap()).collect();
    let endpoints: Vec<_> = upstream.endpoints.iter().collect();
    for draw in 0..100_u64 {
        let rand = draw.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        assert_eq!(upstream.balancer.pick(&endpoints, |_| false, upstream.now, rand).unwrap().index, 0);
    }
    drop(under_way);
}

#[test]
fn openings_double_while_it_is_this_endpoint_alone() {
    for (failing, doubles) in [(1, true), (2, false), (3, false)] {
        let (mut upstream, mut longest) = (Upstream::of(4), Duration::ZERO);
        (0..failing).for_each(|index| upstream.shut(index));
        for _ in 0..400 {
            upstream.now += MS(500);
            upstream.shares(3, |index| (Duration::ZERO, if index < failing { FAILURE } else { SUCCESS }));
            for endpoint in &upstream.endpoints {
                if let BreakerState::Open(left) = endpoint.breaker_state(upstream.now) {
                    longest = longest.max(left);
                }
            }
        }
        assert_eq!(longest > MS(10_000), doubles, "{failing} of four fail, one is shut for {longest:?}");
    }
}

proptest! {
    /// Whatever the history: no place outside the list, nobody tried while another healthy one is not, and when all
    /// calls are over nothing is under way.
    #[test]
    fn no_history_breaks_the_rules(
        count in 2_u64..9,
        steps in proptest::collection::vec((0..4_u8, 0_u64..8_000, any::<u64>(), any::<u8>()), 1..150),
    ) {
        let mut upstream = Upstream::with(count, OutlierPolicy::default());
        for (what, ms, rand, tried) in steps {
            let endpoints: Vec<_> = upstream.endpoints.iter().collect();
            let tried = |index: usize| tried >> (index % 8) & 1 == 1;
            let fresh_healthy = upstream.balancer.survey(&endpoints, upstream.now).healthy.without(&tried);
            if let Ok(mut picked) = upstream.balancer.pick(&endpoints, tried, upstream.now, rand) {
                prop_assert!(picked.index < endpoints.len());
                prop_assert!(!tried(picked.index) || fresh_healthy.is_empty());
                match what {
                    0 => picked.lease.record(SUCCESS, Pushback::Unsaid, upstream.now + MS(ms / 100)),
                    1 => picked.lease.record(FAILURE, Pushback::After(MS(ms)), upstream.now + MS(ms / 100)),
                    2 => picked.lease.abandon(upstream.now + MS(ms)),
                    _ => drop(picked),
                }
            }
            upstream.now += MS(ms / 4);
        }
        prop_assert!(upstream.endpoints.iter().all(|endpoint| endpoint.load().in_flight() == 0));
        upstream.now += Duration::from_secs(400);
        prop_assert!(upstream.pick(&[]).is_ok(), "it always heals");
    }
}
