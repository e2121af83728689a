use super::*;
use crate::policy::clock::some_instant;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

fn fixed(limit: u32) -> (Admission<u32>, Instant) {
    let now = some_instant();
    let policy = AdmissionPolicy { concurrency: Concurrency::Fixed(limit), queue: QueuePolicy::default() };
    (Admission::new(policy, now), now)
}

fn call(class: Priority) -> Arriving {
    Arriving { level: Level::of_share(class, 0.5), deadline: None, rand: 0.5 }
}

fn arrive(admission: &mut Admission<u32>, now: Instant, id: u32) -> Arrival {
    admission.arrive(now, call(Priority::Medium), || id)
}

fn admitted(arrival: Arrival) -> Permit {
    match arrival {
        Arrival::Admitted(permit) => permit,
        other => panic!("not admitted: {other:?}"),
    }
}

fn queued(arrival: Arrival) -> Ticket {
    match arrival {
        Arrival::Queued { ticket, .. } => ticket,
        other => panic!("not queued: {other:?}"),
    }
}

fn refused(arrival: Arrival) -> Refusal {
    match arrival {
        Arrival::Refused(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_place_goes_to_the_one_who_waits() {
    let (mut admission, now) = fixed(1);
    let first = admitted(arrive(&mut admission, now, 1));
    queued(arrive(&mut admission, now, 2));
    let third = queued(arrive(&mut admission, now, 3));
    assert!(admission.next(now).is_none());
    admission.finish(now + MS, first, Ended::Completed);
    // Nobody overtakes those who wait.
    let Some(Next::Admit(2, second)) = admission.next(now + MS) else { panic!("2 waited") };
    assert!(admission.next(now + MS).is_none());
    assert_eq!(admission.withdraw(now + MS, third), Some(3));
    assert_eq!(admission.withdraw(now + MS, third), None);
    admission.finish(now + MS, second, Ended::Cancelled);
    assert_eq!(admission.state(now + MS), AdmissionState { limit: 1, in_flight: 0, queued: 0, is_standing: false });
}

#[test]
fn a_fixed_limit_needs_no_clock_until_somebody_waits() {
    let (mut admission, now) = fixed(2);
    let [first, second] = [admission.arrive_untimed().unwrap(), admission.arrive_untimed().unwrap()];
    assert_eq!(admission.arrive_untimed(), None);
    assert!(!admission.release(first));
    let third = admission.arrive_untimed().unwrap();
    queued(arrive(&mut admission, now, 4));
    assert!(admission.release(second), "somebody waits");
    assert_eq!(admission.arrive_untimed(), None, "and comes first");
    assert!(matches!(admission.next(now), Some(Next::Admit(4, _))));
    assert!(!admission.release(third));
    let mut adaptive: Admission<u32> = Admission::new(AdmissionPolicy::default(), now);
    assert_eq!(adaptive.arrive_untimed(), None);
}

#[test]
fn who_waited_too_long_or_has_gone_is_dropped() {
    let (mut admission, now) = fixed(1);
    let first = admitted(arrive(&mut admission, now, 1));
    let hurried = Arriving { deadline: Some(now + 10 * MS), ..call(Priority::VeryHigh) };
    let Arrival::Queued { until, .. } = admission.arrive(now, hurried, || 2) else { panic!("it waits") };
    assert_eq!(until, now + 10 * MS);
    queued(arrive(&mut admission, now, 3));
    queued(arrive(&mut admission, now + 50 * MS, 4));
    admission.finish(now + 120 * MS, first, Ended::Completed);
    for expired in [3, 2] {
        let Some(Next::Refuse(id, refusal)) = admission.next(now + 120 * MS) else { panic!("its time is over") };
        assert_eq!((id, refusal.why), (expired, RefusedWhy::Waited));
    }
    assert!(matches!(admission.next(now + 120 * MS), Some(Next::Admit(4, _))));
    let gone = Arriving { deadline: Some(now), ..call(Priority::VeryHigh) };
    assert_eq!(refused(admission.arrive(now, gone, || 5)).why, RefusedWhy::DeadlineOver);
}

#[test]
fn the_full_queue_takes_who_matters_more() {
    let (mut admission, now) = fixed(2);
    let _running = [admitted(arrive(&mut admission, now, 0)), admitted(arrive(&mut admission, now, 0))];
    for id in 0..6 {
        let arriving = Arriving { rand: 1.0, ..call(Priority::Low) };
        queued(admission.arrive(now, arriving, || id));
    }
    assert_eq!(refused(admission.arrive(now, call(Priority::VeryLow), || 7)).why, RefusedWhy::Shed);
    assert_eq!(refused(admission.arrive(now, call(Priority::Low), || 8)).why, RefusedWhy::Shed);
    queued(admission.arrive(now, call(Priority::VeryHigh), || 9));
    let Some(Next::Refuse(5, refusal)) = admission.next(now) else { panic!("the last of the lowest gives way") };
    assert_eq!(refusal.why, RefusedWhy::Displaced);
    assert!(admission.next(now).is_none());
    assert_eq!(admission.state(now).queued, 6);
}

#[test]
fn low_priority_is_shed_first() {
    let (mut admission, now) = fixed(10);
    let _running: Vec<_> = (0..10).map(|id| admitted(arrive(&mut admission, now, id))).collect();
    let mut shed = [0; 5];
    for i in 0..4_000_u32 {
        let class = Priority::ALL[i as usize % 5];
        let share = f64::from(i / 5 % 50) / 50.0;
        let arriving = Arriving { level: Level::of_share(class, share), deadline: None, rand: 0.5 };
        match admission.arrive(now, arriving, || i) {
            Arrival::Refused(refusal) => {
                assert_eq!(refusal.why, RefusedWhy::Shed);
                shed[class as usize] += 1;
            }
            // Hold the queue where half are to be shed.
            Arrival::Queued { ticket, .. } if admission.state(now).queued > 25 => {
                assert!(admission.withdraw(now, ticket).is_some());
            }
            _ => {}
        }
        while admission.next(now).is_some() {}
    }
    assert!(shed[0] > 700 && shed[1] > 700, "{shed:?}");
    assert!((200..600).contains(&shed[2]), "the class in the middle by its levels: {shed:?}");
    assert!(shed[3] == 0 && shed[4] == 0, "{shed:?}");
}

#[test]
fn the_longer_it_lasts_the_longer_callers_stay_away() {
    let (mut admission, now) = fixed(1);
    let _running = admitted(arrive(&mut admission, now, 0));
    assert_eq!(admission.refusal(now, RefusedWhy::Shed).retry_in, Duration::from_secs(1));
    queued(arrive(&mut admission, now, 1));
    let in_seconds = |seconds| now + Duration::from_secs(seconds);
    assert_eq!(admission.refusal(in_seconds(5), RefusedWhy::Shed).retry_in, Duration::from_secs(5));
    assert_eq!(admission.refusal(in_seconds(500), RefusedWhy::Shed).retry_in, Duration::from_secs(20));
}

#[test]
fn adaptive_calls_are_measured_from_their_admission() {
    let now = some_instant();
    let mut admission: Admission<u32> = Admission::new(AdmissionPolicy::default(), now);
    let mut at = now;
    for i in 0..400_u32 {
        let permits: Vec<_> = (0..10).map(|_| admitted(arrive(&mut admission, at, i))).collect();
        at += 10 * MS;
        // Cancelled ones prove nothing, or these would be a fine time.
        let cancelled = admitted(arrive(&mut admission, at, i));
        admission.finish(at, cancelled, Ended::Cancelled);
        // Whoever reads an answer slowly takes a place, and proves nothing either.
        for mut permit in permits {
            admission.answered(at, &mut permit, Ended::Completed);
            admission.finish(at + 5 * MS, permit, Ended::Completed);
        }
    }
    let Limiter::Adaptive(limit) = &admission.limiter else { panic!("adaptive by default") };
    let baseline = limit.baseline().unwrap();
    assert!((9 * MS..11 * MS).contains(&baseline), "{baseline:?}");
    // A clock that stepped back measures nothing.
    let stepped = admitted(arrive(&mut admission, at, 0));
    admission.finish(at - 1_000 * MS, stepped, Ended::Completed);
    assert_eq!(admission.state(at).in_flight, 0);
}

proptest! {
    /// Whatever happens: no more in flight than the limit, no longer a queue than allowed, every call accounted for
    /// once, and when all have gone nothing is left.
    #[test]
    fn every_call_is_accounted_for(
        limit in 1_u32..5,
        steps in proptest::collection::vec((0_u8..5, 0_usize..5, 0_u64..20, 0.0..1.0_f64), 1..300),
    ) {
        let (mut admission, mut now) = fixed(limit);
        let (mut running, mut waiting, mut id) = (Vec::new(), Vec::new(), 0);
        let (mut came, mut ended) = (0, 0);
        for (step, class, pause_ms, rand) in steps {
            now += Duration::from_millis(pause_ms);
            match step {
                0..=2 => {
                    (id, came) = (id + 1, came + 1);
                    let arriving = Arriving { level: Level::of_share(Priority::ALL[class], rand), deadline: None, rand };
                    match admission.arrive(now, arriving, || id) {
                        Arrival::Admitted(permit) => running.push(permit),
                        Arrival::Queued { ticket, .. } => waiting.push((id, ticket)),
                        Arrival::Refused(_) => ended += 1,
                    }
                }
                3 => if let Some(permit) = running.pop() {
                    admission.finish(now, permit, Ended::Completed);
                    ended += 1;
                },
                _ => if let Some((id, ticket)) = waiting.pop() {
                    prop_assert_eq!(admission.withdraw(now, ticket), Some(id));
                    ended += 1;
                },
            }
            while let Some(next) = admission.next(now) {
                let (Next::Admit(id, _) | Next::Refuse(id, _)) = &next;
                let known = waiting.iter().position(|(waiting, _)| waiting == id).expect("it waited");
                waiting.remove(known);
                match next {
                    Next::Admit(_, permit) => running.push(permit),
                    Next::Refuse(..) => ended += 1,
                }
            }
            let state = admission.state(now);
            prop_assert_eq!((state.in_flight as usize, state.queued), (running.len(), waiting.len()));
            prop_assert!(state.in_flight <= limit && state.queued <= limit as usize * 3);
            prop_assert!(state.queued == 0 || state.in_flight == limit, "somebody waits beside a free place");
            prop_assert_eq!(came, ended + running.len() + waiting.len());
        }
    }
}
