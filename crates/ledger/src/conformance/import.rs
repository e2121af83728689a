//! Taking over the records of another ledger.

use std::time::Duration;

use semel_core::effect::{Authority, Command, Phase, Record, Refusal, Reply, State};

use super::Harness;
use super::cases::{HOUR_MS, answer, apply, claim, claimed, done, give_up, hold, id, phase, refused, settle};

/// Records of another ledger stand here as they stood there, and what stands here is not set back.
pub async fn records_of_another_ledger_are_taken_over(h: &mut impl Harness) {
    let ledger = h.ledger();
    let (there, here) = (id("there", 0), |n| id("imported", n));
    let fence = claimed(&ledger, there, hold()).await;
    let open = ledger.look_up(there).await.expect("the ledger works").record.expect("a record");
    let unknown = done(&ledger, there, give_up(fence)).await.seen.record.expect("a record");
    let outcome = answer(201, br#"{"charged":10}"#);
    let settled = done(&ledger, there, settle(fence, outcome, Authority::Owner)).await.seen.record.expect("a record");
    let marker_until = settled.claimed_at.plus(Duration::from_millis(200 * HOUR_MS));
    let expired = Record { state: State::Expired { marker_until }, ..settled.clone() };
    let all = [open.clone(), unknown.clone(), settled.clone(), expired];
    for (n, record) in (0..).zip(&all) {
        let record = Record { id: here(n), ..record.clone() };
        let import = Command::Import(Box::new(record.clone()));
        done(&ledger, here(n), import.clone()).await;
        assert_eq!(h.other().look_up(here(n)).await.expect("the ledger works").record, Some(record));
        assert_eq!(apply(&ledger, here(n), import).await.reply, Reply::Unchanged);
    }
    // It goes on there, and is taken over again: from open to unknown to settled, never back.
    for record in [&unknown, &settled] {
        let record = Record { id: here(0), ..record.clone() };
        done(&ledger, here(0), Command::Import(Box::new(record.clone()))).await;
        assert_eq!(h.other().look_up(here(0)).await.expect("the ledger works").record, Some(record));
    }
    let back = Command::Import(Box::new(Record { id: here(0), ..open }));
    assert_eq!(refused(&ledger, here(0), back).await, Refusal::Exists);
    // Here it goes on as if it had been claimed here.
    done(&ledger, here(1), settle(fence, answer(200, b"late"), Authority::Owner)).await;
    assert_eq!(phase(&h.other(), here(1)).await, Phase::Settled);
    assert_eq!(refused(&ledger, here(2), claim(2, hold())).await, Refusal::Exists);
    assert_eq!(phase(&ledger, here(3)).await, Phase::Expired);
    if h.crash().await {
        let stands = h.ledger().look_up(here(2)).await.expect("the ledger works").record;
        assert_eq!(stands, Some(Record { id: here(2), ..settled }));
    }
}
