//! What the plots show, as assertions. Half a minute in virtual time is a tenth of a second here.

use super::{
    report::Report,
    scenario::*,
    stack::{Kind, Settings},
    world::{Setup, run},
};

/// The time before anything is wrong, once the stacks have seen some calls.
const BEFORE: (usize, usize) = (5, 20);

impl Report {
    /// Share of one group's calls that were answered in time.
    fn success_of(&self, group: usize, from: usize, to: usize) -> f64 {
        self.share(from, to, |s| s.answered[group], |s| s.offered[group])
    }

    /// The first second after `from` since which, for ten seconds, this share of calls was answered.
    fn recovered(&self, from: usize, share: f64) -> Option<usize> {
        (from..END - 10).find(|at| (*at..*at + 10).all(|second| self.success(second, second + 1) >= share))
    }

    /// Attempts that hops behind the first repeated.
    fn inner_repeats(&self) -> u32 {
        self.between(0, END).map(|s| s.inner_repeats).sum()
    }

    /// Attempts that reached the last service when the first caller had gone, in these seconds.
    fn late_between(&self, from: usize, to: usize) -> u32 {
        self.between(from, to).map(|s| s.late).sum()
    }
}

fn within(low: f64, value: f64, high: f64) -> bool {
    (low..=high).contains(&value)
}

#[test]
fn a_run_is_a_function_of_its_seed() {
    let [one, other] = [(), ()].map(|()| run(retry_storm(0.5), Kind::Semel, SEED));
    assert_eq!((one.goodput(), one.attempts()), (other.goodput(), other.attempts()));
}

#[test]
fn no_policy_costs_anything_while_nothing_is_wrong() {
    let setups =
        [metastable_overload, slow_endpoint, fast_failing_endpoint, black_hole, runaway_client, deadline_chain];
    for (at, setup) in setups.into_iter().enumerate() {
        let compared = Comparison::of(|| Setup { seconds: BEFORE.1 as u64 + 1, ..setup() });
        let (semel, nothing) = (&compared.semel, &compared.nothing);
        assert!(semel.success(BEFORE.0, BEFORE.1) >= 0.999, "{at}");
        // A hedge is sent after the slowest twentieth.
        assert!(within(0.99, semel.load(BEFORE.0, BEFORE.1), 1.08), "{at}: {}", semel.load(BEFORE.0, BEFORE.1));
        let slowest = |report: &Report| report.latency_ms(0.99, BEFORE.0, BEFORE.1);
        assert!(slowest(semel) <= 1.5 * slowest(nothing), "{at}: {} after {}", slowest(semel), slowest(nothing));
    }
}

#[test]
fn retry_storm_is_none() {
    for failing in [0.1, 0.3, 0.5, 0.7, 0.9] {
        let report = |kind| run(retry_storm(failing), kind, SEED);
        let semel = report(Kind::Semel);
        let load = semel.load(WRONG.0, WRONG.1);
        assert!(load <= 1.205, "{failing}: {load}");
        assert!(semel.success(WRONG.1 + 5, END) >= 0.97, "{failing}: {}", semel.success(WRONG.1 + 5, END));
        if failing < 0.5 {
            // Below what opens a breaker, retries help.
            let answered = semel.success(WRONG.0, WRONG.1);
            assert!(answered >= 1.0 - failing + 0.07, "{failing}: {answered}");
        }
        if failing > 0.8 {
            // A plain retry buries the service, and the load that it makes outlives the failure.
            let plain = report(Kind::PlainRetry);
            assert!(plain.load(WRONG.0, WRONG.1) >= 2.4, "{failing}: {}", plain.load(WRONG.0, WRONG.1));
            assert!(plain.success(WRONG.1 + 5, END) <= 0.05, "{failing}");
        }
    }
}

#[test]
fn where_failures_are_no_overload_a_budget_alone_does_best() {
    let with = |failing, change: fn(&mut Settings)| {
        let mut setup = retry_storm(failing);
        change(&mut setup.settings);
        run(setup, Kind::Semel, SEED)
    };
    for failing in [0.5, 0.9] {
        let report = with(failing, |settings| settings.breaks = false);
        assert!(report.load(WRONG.0, WRONG.1) <= 1.205, "{failing}: {}", report.load(WRONG.0, WRONG.1));
        assert!(report.success(WRONG.0, WRONG.1) >= 1.0 - failing, "{failing}");
        assert!(report.success(WRONG.1 + 1, END) >= 0.999, "{failing}");
    }
    // The other profile retries less, the more calls fail.
    for failing in [0.1, 0.3, 0.9] {
        let report = with(failing, |settings| (settings.breaks, settings.has_quota) = (false, true));
        let load = report.load(WRONG.0, WRONG.1);
        assert!(within(1.0, load, 1.1), "{failing}: {load}");
        assert!(report.success(WRONG.0, WRONG.1) >= 1.0 - failing, "{failing}");
        assert!(report.success(WRONG.1 + 1, END) >= 0.999, "{failing}");
    }
    // What the documentation says against the client throttle.
    let throttled = with(0.3, |settings| settings.throttles = true);
    assert!(within(0.7, throttled.success(WRONG.0, WRONG.1), 0.8), "{}", throttled.success(WRONG.0, WRONG.1));
    assert!(throttled.success(WRONG.1, WRONG.1 + 10) <= 0.9);
    assert!(throttled.success(WRONG.1 + 25, END) >= 0.97, "{}", throttled.success(WRONG.1 + 25, END));
}

#[test]
fn goodput_after_a_burst_is_what_it_was() {
    let Comparison { nothing, plain, semel } = Comparison::of(metastable_overload);
    let during = semel.goodput()[BURST.0..BURST.1].iter().sum::<f64>();
    assert!(during >= 0.9 * 200.0 * 10.0, "{during} of the two thousand that could be done");
    assert!(semel.success(BURST.1 + 2, END) >= 0.995, "{}", semel.success(BURST.1 + 2, END));
    assert!(semel.wasted(BURST.0, END) <= 0.01);
    assert!(nothing.success(BURST.1 + 2, END) <= 0.5 && plain.success(BURST.1 + 2, END) <= 0.01);
}

#[test]
fn a_slow_upstream_does_what_it_can() {
    let Comparison { nothing, plain, semel } = Comparison::of(slow_upstream);
    // It can do 22 % of what is asked; the first seconds go to finding out.
    assert!(semel.success(WRONG.0 + 10, WRONG.1) >= 0.17, "{}", semel.success(WRONG.0 + 10, WRONG.1));
    assert!(semel.wasted(WRONG.0 + 10, WRONG.1) <= 0.05, "{}", semel.wasted(WRONG.0 + 10, WRONG.1));
    assert!(semel.success(WRONG.1 + 3, END) >= 0.99);
    assert!(nothing.success(WRONG.0 + 2, WRONG.1) <= 0.01 && plain.success(WRONG.0 + 2, END) <= 0.01);
}

#[test]
fn a_slow_endpoint_is_left_alone() {
    let Comparison { nothing, plain, semel } = Comparison::of(slow_endpoint);
    assert!(semel.success(WRONG.0, WRONG.1) >= 0.999);
    let slowest = semel.latency_ms(0.95, WRONG.0, WRONG.1);
    assert!(slowest <= 100.0, "{slowest} ms where most take 20");
    assert!(semel.load(WRONG.0, WRONG.1) <= 1.2, "retries and hedges together");
    assert!(nothing.latency_ms(0.95, WRONG.0, WRONG.1) >= 999.0 && plain.latency_ms(0.95, WRONG.0, WRONG.1) >= 999.0);
}

#[test]
fn failing_fast_attracts_no_calls() {
    let Comparison { nothing, plain, semel } = Comparison::of(fast_failing_endpoint);
    assert!(semel.success(WRONG.0, WRONG.1) >= 0.999 && semel.load(WRONG.0, WRONG.1) <= 1.02);
    assert!(nothing.success(WRONG.0, WRONG.1) <= 0.6, "one of four gets nearly half of all");
    assert!(plain.success(WRONG.0, WRONG.1) <= 0.8 && plain.load(WRONG.0, WRONG.1) >= 1.9);
}

#[test]
fn a_black_hole_costs_a_few_calls_their_patience() {
    let Comparison { nothing, plain, semel } = Comparison::of(black_hole);
    assert!(semel.success(WRONG.0, WRONG.1) >= 0.999);
    assert!(semel.latency_ms(0.99, WRONG.0, WRONG.1) <= 60.0, "{}", semel.latency_ms(0.99, WRONG.0, WRONG.1));
    assert!(nothing.success(WRONG.0, WRONG.1) <= 0.76 && plain.latency_ms(0.99, WRONG.0, WRONG.1) >= 2_999.0);
}

#[test]
fn when_all_are_down_a_probe_a_second_finds_them_up() {
    let Comparison { plain, semel, .. } = Comparison::of(all_down);
    assert!(semel.load(WRONG.0, WRONG.1) <= 0.05, "{}", semel.load(WRONG.0, WRONG.1));
    assert!(semel.latency_ms(0.9, WRONG.0, WRONG.1) <= 1.0, "callers are told at once");
    assert!(plain.load(WRONG.0, WRONG.1) >= 2.9);
    let recovered = semel.recovered(WRONG.0, 0.98);
    assert!(recovered.is_some_and(|at| at <= WRONG.1 + 2), "{recovered:?}");
}

#[test]
fn a_short_outage_is_not_prolonged() {
    let Comparison { nothing, semel, .. } = Comparison::of(short_outage);
    let (lost, without) = (1.0 - semel.success(OUTAGE.0, WRONG.1), 1.0 - nothing.success(OUTAGE.0, WRONG.1));
    assert!(lost <= 1.5 * without, "{lost} of the calls of half a minute, {without} without any policy");
    assert!(semel.recovered(OUTAGE.0, 0.98).is_some_and(|at| at <= OUTAGE.1 + 2));
}

#[test]
fn a_runaway_client_harms_itself() {
    let Comparison { nothing, plain, semel } = Comparison::of(runaway_client);
    let fair = semel.success_of(0, WRONG.0, END);
    assert!(fair >= 0.999, "{fair}");
    let passed = semel.success_of(1, WRONG.0, WRONG.1);
    assert!(within(0.018, passed, 0.025), "ten of five hundred: {passed}");
    assert!(nothing.success_of(0, WRONG.0 + 2, WRONG.1) <= 0.01 && plain.success_of(0, WRONG.0 + 2, WRONG.1) <= 0.01);
}

#[test]
fn along_a_chain_only_the_first_hop_retries_and_nobody_works_for_who_has_gone() {
    let Comparison { plain, semel, .. } = Comparison::of(deadline_chain);
    assert_eq!(semel.late_between(0, END), 0);
    assert!(semel.load(WRONG.0, WRONG.1) <= 1.2, "{}", semel.load(WRONG.0, WRONG.1));
    assert!(semel.success(WRONG.1 + 3, END) >= 0.99);
    assert!(plain.load(WRONG.0 + 10, WRONG.1) >= 60.0, "up to 3^4 = 81: {}", plain.load(WRONG.0 + 10, WRONG.1));
    let failing = run(failing_chain(), Kind::Semel, SEED);
    assert!(failing.load(WRONG.0, WRONG.1) > 1.1, "the first hop does retry: {}", failing.load(WRONG.0, WRONG.1));
    assert_eq!(failing.inner_repeats(), 0, "load {}", failing.load(WRONG.0, WRONG.1));
    let late = plain.late_between(0, END);
    assert!(late >= 10_000 && plain.inner_repeats() >= 10_000, "{late}, {}", plain.inner_repeats());
    assert!(plain.success(WRONG.1 + 3, END) <= 0.01);
}
