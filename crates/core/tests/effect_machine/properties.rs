//! The laws on arbitrary records, their stored form, and what compaction may do to them.

use proptest::prelude::*;
use semel_core::effect::{Command, Fence, Moment, Outcome, Phase, Record, Reply, State};

use crate::{
    arbitrary::{authority, command, moment, outcome, record},
    law::{fence_of, lawful_step},
};

/// Above every fence that the strategies make.
const NEXT_FENCE: Fence = Fence(9);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_step_keeps_the_laws(record in proptest::option::of(record()), command in command(), now in moment()) {
        let id = record.as_ref().map_or(crate::alphabet::ID, |record| record.id);
        lawful_step(id, record.as_ref(), &command, Moment { now, fence: NEXT_FENCE });
    }

    #[test]
    fn every_history_keeps_the_laws(
        steps in proptest::collection::vec((command(), 0_u64..6, any::<bool>()), 1..40),
    ) {
        let (mut record, mut now, mut fence) = (None::<Record>, 100, 0);
        for (command, later, to_the_point) in steps {
            now += later;
            // Half of the commands speak for the claim that stands: else most would only be fenced.
            let current = record.as_ref().filter(|_| to_the_point).map(|record| record.fence);
            let command = current.map_or(command.clone(), |fence| speaking_for(command, fence));
            fence += 1;
            let at = Moment { now: semel_core::time::Timestamp::from_millis(now), fence: Fence(fence) };
            (_, record) = lawful_step(crate::alphabet::ID, record.as_ref(), &command, at);
            if let Some(record) = &record {
                prop_assert!(record.fence <= Fence(fence));
            }
        }
    }

    #[test]
    fn the_first_settlement_stands(
        record in record(), first in outcome(), second in outcome(), by in authority(), other in authority(), now in moment(),
    ) {
        let at = Moment { now, fence: NEXT_FENCE };
        let settle = |outcome: &Outcome, by| Command::Settle { fence: record.fence, outcome: outcome.clone(), by, attempts: 1 };
        let (step, settled) = lawful_step(record.id, Some(&record), &settle(&first, by.clone()), at);
        let stands = settled.as_ref().is_some_and(|settled| settled.phase(now) != Phase::Absent);
        if step.reply != Reply::Applied || !stands {
            return Ok(());
        }
        let (step, after) = lawful_step(record.id, settled.as_ref(), &settle(&second, other), at);
        prop_assert_eq!(step.reply == Reply::Unchanged, first == second);
        prop_assert_eq!(step.audit.is_some(), first != second);
        prop_assert_eq!(after, settled);
    }

    #[test]
    fn a_record_survives_its_stored_form(record in record()) {
        let bytes = minicbor::to_vec(&record).unwrap();
        prop_assert_eq!(minicbor::decode::<Record>(&bytes).unwrap(), record);
    }

    /// A flipped bit or a cut is noticed, or it says something else; it never panics and never hangs.
    #[test]
    fn a_damaged_record_is_read_or_refused(record in record(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut bytes = minicbor::to_vec(&record).unwrap();
        let cut = &bytes[..at.index(bytes.len())];
        prop_assert!(minicbor::decode::<Record>(cut).is_err(), "a part is never taken for the whole");
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(read) = minicbor::decode::<Record>(&bytes) {
            prop_assert!(minicbor::decode::<Record>(&minicbor::to_vec(&read).unwrap()).unwrap() == read);
        }
    }

    #[test]
    fn compaction_loses_only_what_is_over(record in record(), now in moment(), later in moment()) {
        let later = later.max(now);
        let Some(compacted) = record.compacted(now) else {
            prop_assert_eq!(record.phase(now), Phase::Absent);
            prop_assert_eq!(record.phase(later), Phase::Absent, "time does not bring it back");
            return Ok(());
        };
        prop_assert!(record.phase(now) != Phase::Absent);
        prop_assert_eq!(compacted.phase(now), record.phase(now));
        prop_assert_eq!(compacted.phase(later), record.phase(later));
        prop_assert_eq!(compacted.compacted(now), Some(compacted.clone()));
        if record.phase(now) == Phase::Expired {
            prop_assert!(matches!(compacted.state, State::Expired { .. }), "the answer is dropped");
            let back = Record { state: record.state.clone(), ..compacted };
            prop_assert_eq!(back, record);
        } else {
            prop_assert_eq!(compacted, record);
        }
    }

    #[test]
    fn what_is_live_is_kept_whatever_its_age(record in record(), now in moment()) {
        if !record.is_live() {
            return Ok(());
        }
        prop_assert_eq!(record.compacted(now), Some(record.clone()));
        prop_assert!(matches!(record.phase(now), Phase::Open | Phase::Lapsed | Phase::Unknown));
    }

    #[test]
    fn time_alone_moves_a_record_one_way(record in record(), now in moment(), later in moment()) {
        let rank = |phase| match phase {
            Phase::Open | Phase::Settled | Phase::Consumed => 0,
            Phase::Lapsed | Phase::Unknown | Phase::Expired => 1,
            Phase::Absent => 2,
        };
        prop_assert!(rank(record.phase(later.max(now))) >= rank(record.phase(now)));
    }
}

/// The same command under another claim.
fn speaking_for(command: Command, fence: Fence) -> Command {
    let spoken = match command {
        Command::Reopen { owner, lease, fingerprint, .. } => Command::Reopen { fence, owner, lease, fingerprint },
        Command::Renew { lease, .. } => Command::Renew { fence, lease },
        Command::Settle { outcome, by, attempts, .. } => Command::Settle { fence, outcome, by, attempts },
        Command::Release { by, .. } => Command::Release { fence, by },
        Command::GiveUp { reason, attempts, .. } => Command::GiveUp { fence, reason, attempts },
        other => return other,
    };
    debug_assert_eq!(fence_of(&spoken), Some(fence));
    spoken
}
