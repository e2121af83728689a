use super::*;
use crate::policy::clock::some_instant;
use proptest::prelude::*;

const S: fn(u64) -> Duration = Duration::from_secs;
const SUCCESS: ResponseClass = ResponseClass::Success;
const FAILURE: ResponseClass = ResponseClass::Failure;

struct Clocked {
    breaker: Breaker,
    now: Instant,
}

impl Clocked {
    fn with(change: impl Fn(&mut BreakerPolicy)) -> Self {
        let mut policy = BreakerPolicy { jitter: 0.0, ..BreakerPolicy::default() };
        change(&mut policy);
        let now = some_instant();
        Self { breaker: Breaker::new(policy, now, 7), now }
    }

    fn call(&self, class: ResponseClass) -> bool {
        Breaker::try_acquire(&self.breaker, self.now).map(|permit| permit.record(class, self.now)).is_ok()
    }

    fn fail_in_a_row(&self, count: u32) {
        (0..count).for_each(|_| assert!(self.call(FAILURE)));
    }

    fn state(&self) -> BreakerState {
        self.breaker.state(self.now)
    }

    /// Opens it again at once, as often as asked, each time by a failed probe.
    fn reopen(&mut self, times: u32) {
        for _ in 0..times {
            let BreakerState::Open(left) = self.state() else { panic!("{:?}", self.state()) };
            self.now += left;
            assert!(self.call(FAILURE));
        }
    }
}

#[test]
fn half_of_twenty_opens_it() {
    let clocked = Clocked::with(|policy| policy.consecutive_failures = None);
    for class in [SUCCESS, FAILURE].into_iter().cycle().take(19) {
        assert!(clocked.call(class));
    }
    assert_eq!(clocked.state(), BreakerState::Closed, "nineteen say nothing");
    assert!(clocked.call(FAILURE));
    assert_eq!(clocked.state(), BreakerState::Open(S(5)));
    assert!(!clocked.call(SUCCESS));
    let refused = Breaker::try_acquire(&clocked.breaker, clocked.now + S(2)).unwrap_err();
    assert_eq!(refused.retry_after, S(3));
}

#[test]
fn less_than_half_does_not() {
    let clocked = Clocked::with(|policy| policy.consecutive_failures = None);
    for class in [SUCCESS, SUCCESS, FAILURE].into_iter().cycle().take(3_000) {
        assert!(clocked.call(class));
    }
    assert_eq!(clocked.breaker.counts(clocked.now), (3_000, 1_000), "exact counts");
}

#[test]
fn five_in_a_row_open_it() {
    let clocked = Clocked::with(|_| ());
    clocked.fail_in_a_row(4);
    assert!(clocked.call(SUCCESS));
    clocked.fail_in_a_row(4);
    assert!(clocked.call(ResponseClass::Ignored), "no result, no end of the row");
    assert!(clocked.call(FAILURE));
    assert_eq!(clocked.state(), BreakerState::Open(S(5)));
}

#[test]
fn a_row_that_chance_brings_does_not_open_it() {
    // A tenth fails, of a hundred thousand calls: five in a row are certain to come.
    let clocked = Clocked::with(|_| ());
    let mut rows = 0;
    let mut row = 0;
    for call in 0..100_000_u64 {
        let class = if unit(call) < 0.1 { FAILURE } else { SUCCESS };
        row = if class == FAILURE { row + 1 } else { 0 };
        // From the start on calls are few, and a row would mean something.
        if call > 1_000 {
            rows += u32::from(row == 5);
        }
        assert!(clocked.call(class), "call {call}");
    }
    assert!(rows > 0, "the draw has such rows");
    // A sudden death among as many calls is still seen within a handful of them.
    clocked.fail_in_a_row(17);
    assert_ne!(clocked.state(), BreakerState::Closed);
}

#[test]
fn what_left_the_window_does_not_count() {
    let mut clocked = Clocked::with(|policy| policy.consecutive_failures = None);
    (0..19).for_each(|_| assert!(clocked.call(FAILURE)));
    clocked.now += S(10);
    assert!(clocked.call(FAILURE));
    assert_eq!(clocked.state(), BreakerState::Closed);
}

#[test]
fn one_probe_decides() {
    let mut clocked = Clocked::with(|_| ());
    clocked.fail_in_a_row(5);
    clocked.now += S(5);
    assert_eq!(clocked.state(), BreakerState::ProbeDue);
    let probe = Breaker::try_acquire(&clocked.breaker, clocked.now).unwrap();
    assert!(probe.is_probe());
    assert_eq!(clocked.state(), BreakerState::HalfOpen);
    assert!(!clocked.call(SUCCESS), "one at a time");
    probe.record(SUCCESS, clocked.now);
    assert_eq!(clocked.state(), BreakerState::Closed);
    assert_eq!(clocked.breaker.counts(clocked.now), (0, 0), "what opened it is forgotten");
    clocked.fail_in_a_row(4);
    assert_eq!(clocked.state(), BreakerState::Closed);
}

#[test]
fn a_cancelled_probe_gives_its_place_to_the_next() {
    // The known trap: a probe whose caller hangs up leaves the breaker half-open for ever.
    let mut clocked = Clocked::with(|_| ());
    clocked.fail_in_a_row(5);
    clocked.now += S(5);
    for _ in 0..3 {
        let probe = Breaker::try_acquire(&clocked.breaker, clocked.now).unwrap();
        assert!(!clocked.call(SUCCESS));
        drop(probe);
        assert_eq!(clocked.state(), BreakerState::ProbeDue);
    }
    // So does one whose end says nothing, and one that panicked.
    assert!(clocked.call(ResponseClass::Ignored));
    let probe = Breaker::try_acquire(&clocked.breaker, clocked.now).unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _probe = probe;
        std::panic::resume_unwind(Box::new(()));
    }));
    assert!(panicked.is_err());
    assert!(clocked.call(SUCCESS));
    assert_eq!(clocked.state(), BreakerState::Closed);
}

#[test]
fn a_lost_probe_is_replaced_after_its_age() {
    let mut clocked = Clocked::with(|_| ());
    clocked.fail_in_a_row(5);
    clocked.now += S(5);
    let lost = Breaker::try_acquire(&clocked.breaker, clocked.now).unwrap();
    clocked.now += S(29);
    assert!(!clocked.call(SUCCESS));
    clocked.now += S(1);
    let second = Breaker::try_acquire(&clocked.breaker, clocked.now).unwrap();
    // The first comes back after all: it is not the probe any more.
    lost.record(FAILURE, clocked.now);
    assert_eq!(clocked.state(), BreakerState::HalfOpen);
    second.record(SUCCESS, clocked.now);
    assert_eq!(clocked.state(), BreakerState::Closed);
}

#[test]
fn openings_double_until_it_was_well_for_as_long() {
    let mut clocked = Clocked::with(|_| ());
    clocked.fail_in_a_row(5);
    for seconds in [5, 10, 20, 40, 80, 160, 300, 300] {
        assert_eq!(clocked.state(), BreakerState::Open(S(seconds)));
        clocked.reopen(1);
    }
    // Closed, but not for long: it goes on where it was.
    clocked.now += S(300);
    assert!(clocked.call(SUCCESS));
    clocked.now += S(299);
    clocked.fail_in_a_row(5);
    assert_eq!(clocked.state(), BreakerState::Open(S(300)));
    clocked.now += S(300);
    assert!(clocked.call(SUCCESS));
    clocked.now += S(300);
    clocked.fail_in_a_row(5);
    assert_eq!(clocked.state(), BreakerState::Open(S(5)));
}

#[test]
fn jitter_spreads_many() {
    let lengths: Vec<_> = (0..200)
        .map(|seed| {
            let now = some_instant();
            let breaker = Breaker::new(BreakerPolicy::default(), now, seed);
            for _ in 0..5 {
                Breaker::try_acquire(&breaker, now).unwrap().record(FAILURE, now);
            }
            let BreakerState::Open(left) = breaker.state(now) else { panic!("closed") };
            left.as_millis()
        })
        .collect();
    assert!(lengths.iter().all(|ms| (5_000..=6_000).contains(ms)));
    let spread = lengths.iter().max().unwrap() - lengths.iter().min().unwrap();
    assert!(spread > 900, "{spread}");
}

#[test]
fn the_hystrix_profile() {
    let now = some_instant();
    let mut clocked = Clocked { breaker: Breaker::new(BreakerPolicy::hystrix(), now, 1), now };
    clocked.fail_in_a_row(19);
    assert_eq!(clocked.state(), BreakerState::Closed);
    clocked.fail_in_a_row(1);
    assert_eq!(clocked.state(), BreakerState::Open(S(5)));
    clocked.reopen(3);
    assert_eq!(clocked.state(), BreakerState::Open(S(5)), "it does not double");
}

#[test]
fn late_results_change_nothing() {
    let mut clocked = Clocked::with(|_| ());
    let calls: Vec<_> = (0..20).map(|_| Breaker::try_acquire(&clocked.breaker, clocked.now).unwrap()).collect();
    clocked.fail_in_a_row(5);
    clocked.now += S(5);
    let probe = Breaker::try_acquire(&clocked.breaker, clocked.now).unwrap();
    let (early, late) = calls.into_iter().enumerate().partition::<Vec<_>, _>(|(at, _)| at % 2 == 0);
    early.into_iter().for_each(|(_, call)| call.record(SUCCESS, clocked.now));
    assert_eq!(clocked.state(), BreakerState::HalfOpen, "a success from before is no probe");
    probe.record(SUCCESS, clocked.now);
    late.into_iter().for_each(|(_, call)| call.record(FAILURE, clocked.now));
    assert_eq!(clocked.state(), BreakerState::Closed, "ten failures from before the opening");
}

#[test]
fn a_forced_call_can_close_it_and_never_prolongs() {
    let mut clocked = Clocked::with(|_| ());
    Breaker::force(&clocked.breaker, clocked.now).record(FAILURE, clocked.now);
    clocked.fail_in_a_row(4);
    assert_eq!(clocked.state(), BreakerState::Open(S(5)), "forced through a closed one it counts as any");
    clocked.now += S(1);
    for _ in 0..9 {
        Breaker::force(&clocked.breaker, clocked.now).record(FAILURE, clocked.now);
        drop(Breaker::force(&clocked.breaker, clocked.now));
    }
    assert_eq!(clocked.state(), BreakerState::Open(S(4)));
    Breaker::force(&clocked.breaker, clocked.now).record(SUCCESS, clocked.now);
    assert_eq!(clocked.state(), BreakerState::Closed);
}

#[test]
fn a_clock_that_steps_back_does_not_keep_it_shut() {
    let mut clocked = Clocked::with(|_| ());
    let start = clocked.now;
    clocked.now += S(86_400);
    clocked.fail_in_a_row(5);
    clocked.now = start + S(60);
    assert_eq!(clocked.state(), BreakerState::ProbeDue);
    let probe = Breaker::try_acquire(&clocked.breaker, clocked.now + S(3_600)).unwrap();
    assert_eq!(clocked.state(), BreakerState::ProbeDue, "a probe from the future is lost");
    assert!(clocked.call(SUCCESS));
    drop(probe);
    assert_eq!(clocked.state(), BreakerState::Closed);
    // A thread that read its clock just before the others opens nothing.
    clocked.fail_in_a_row(5);
    clocked.now -= Duration::from_millis(900);
    assert!(!clocked.call(SUCCESS));
}

#[test]
fn threads_count_exactly() {
    let clocked = Clocked::with(|policy| policy.requests_min = u32::MAX);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for call in 0..5_000 {
                    assert!(clocked.call(if call % 4 == 0 { FAILURE } else { SUCCESS }));
                }
            });
        }
    });
    assert_eq!(clocked.breaker.counts(clocked.now), (20_000, 5_000));
}

#[test]
fn of_many_threads_one_probes() {
    let mut clocked = Clocked::with(|_| ());
    clocked.fail_in_a_row(5);
    clocked.now += S(5);
    let probes = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| Breaker::try_acquire(&clocked.breaker, clocked.now).ok())).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(probes.len(), 1);
}

proptest! {
    /// Whatever happens, in whatever order and with whatever clock: at most one probe is out, and when all calls are
    /// over and time passes, a healthy endpoint is reached again.
    #[test]
    fn it_always_heals(
        steps in proptest::collection::vec((0..5_u8, 0_u64..20_000, any::<bool>()), 0..200),
        backwards in 0_u64..100_000,
    ) {
        let mut clocked = Clocked::with(|policy| policy.jitter = 0.2);
        let start = clocked.now;
        let mut out = Vec::new();
        for (what, ms, back) in steps {
            match what {
                0 | 1 => out.extend(Breaker::try_acquire(&clocked.breaker, clocked.now)),
                _ if out.is_empty() => {}
                2 => out.remove(out.len() - 1).record(FAILURE, clocked.now),
                3 => out.remove(0).record(SUCCESS, clocked.now),
                _ => drop(out.remove(0)),
            }
            clocked.now = if back && ms < 200 {
                clocked.now.checked_sub(Duration::from_millis(backwards)).unwrap_or(start).max(start)
            } else {
                clocked.now + Duration::from_millis(ms)
            };
            let current = clocked.breaker.load().epoch;
            let probes = out.iter().filter(|permit| permit.is_probe() && permit.entry.unwrap().epoch == current);
            prop_assert!(probes.count() <= 1);
        }
        drop(out);
        clocked.now += S(361);
        prop_assert!(clocked.call(SUCCESS));
        prop_assert_eq!(clocked.state(), BreakerState::Closed);
    }
}
