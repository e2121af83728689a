//! Proof 13, below the process: nothing leaves before the flush, and a failed flush stops everything.

use crate::{answer, expect, setup};
use semel_testkit::client::{Client, End, HangUp, Request};
use semel_testkit::rig::{PATIENCE, PAYLOAD, Rig};
use semel_testkit::skipped;
use semel_testkit::strace::{Tracer, unavailable};
use semel_testkit::upstream::Entry;

/// How long each flush is delayed, in microseconds.
const DELAY_US: u64 = 400_000;
/// The system calls that make a ledger durable.
const FLUSHES: &str = "fdatasync,fsync,sync_file_range,msync";

fn attach(rig: &Rig, fault: &str) -> Tracer {
    let calls = format!("trace={FLUSHES}");
    let inject = format!("inject={FLUSHES}:{fault}");
    let pid = rig.gateway.pid().unwrap();
    tokio::task::block_in_place(|| Tracer::attach(pid, rig.folder(), &["-e", &calls, "-e", &inject])).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_leaves_before_the_claim_is_flushed_and_no_answer_before_the_settlement() {
    if let Some(reason) = unavailable() {
        return skipped(&reason);
    }
    let rig = Rig::start(&setup()).await.unwrap();
    expect(&rig.call("warm").await, 201, "committed", false);
    let tracer = attach(&rig, &format!("delay_enter={DELAY_US}"));
    for n in 0..3 {
        let key = format!("slow-{n}");
        let sent_us = rig.oracle.now_us();
        expect(&rig.call(&key).await, 201, "committed", false);
        let answered_us = rig.oracle.now_us();
        let journal = rig.upstream.journal().unwrap();
        let arrived_us = journal.iter().find_map(|entry| match entry {
            Entry::Arrived { at_us, key: k, .. } if *k == key => Some(*at_us),
            _ => None,
        });
        let arrived_us = arrived_us.unwrap();
        // A flush that began after the request was sent takes at least the delay; an earlier one cannot cover it.
        assert!(arrived_us - sent_us >= DELAY_US, "{key} left {} us after it came", arrived_us - sent_us);
        assert!(answered_us - arrived_us >= DELAY_US, "{key} was answered {} us after", answered_us - arrived_us);
    }
    assert!(tracer.trace().contains("INJECTED") || tracer.trace().contains("DELAYED"), "{}", tracer.trace());
    rig.history().assert_kept();
}

#[tokio::test(flavor = "multi_thread")]
async fn fail_open_on_store_outage() {
    if let Some(reason) = unavailable() {
        return skipped(&reason);
    }
    let mut rig = Rig::start(&setup()).await.unwrap();
    expect(&rig.call("before").await, 201, "committed", false);
    let tracer = attach(&rig, "error=EIO");
    let refused = rig.call("during").await;
    assert_eq!(answer(&refused).status(), 503, "{refused:?}");
    assert!(answer(&refused).header("retry-after").is_some());
    assert_eq!(rig.arrivals("during"), 0, "nothing may be sent when the claim is not durable");
    drop(tracer);
    // The flush works again, but what it lost cannot be known: the engine stays stopped until a restart.
    let after = rig.call("after").await;
    assert_eq!(answer(&after).status(), 503, "{after:?}");
    assert_eq!(rig.arrivals("after"), 0);
    let ready = tokio::task::block_in_place(|| semel_testkit::process::get(rig.gateway.admin(), "/readyz")).unwrap();
    assert_ne!(ready.0, 200, "a stopped ledger is not ready");
    rig.crash().unwrap();
    expect(&rig.call("before").await, 201, "committed", true);
    // Its claim failed; after a restart it is either absent and runs once, or unknown: never run twice.
    let during = rig.call("during").await;
    assert!([201, 409].contains(&answer(&during).status()), "{during:?}");
    assert!(rig.executions("during") <= 1);
    expect(&rig.call("after").await, 201, "committed", false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_that_cannot_be_flushed_is_never_acknowledged() {
    if let Some(reason) = unavailable() {
        return skipped(&reason);
    }
    let plan = semel_testkit::plan::FaultPlan::faultless().script("doomed", &[semel_testkit::plan::Act::Late]);
    let mut rig = Rig::start(&setup().plan(plan)).await.unwrap();
    let mut caller = rig.caller();
    let call = tokio::spawn(async move { caller.call("doomed", PAYLOAD, HangUp::Never).await });
    rig.arrived("doomed", 1).await;
    let tracer = attach(&rig, "error=EIO");
    let end = call.await.unwrap();
    let told = semel_testkit::oracle::Reading::of(&end);
    assert!(!told.settled(), "told settled, and it is not: {told}");
    drop(tracer);
    rig.crash().unwrap();
    let again = rig.call("doomed").await;
    assert_eq!(rig.executions("doomed"), 1, "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_without_a_ledger_work_while_it_is_stopped() {
    if let Some(reason) = unavailable() {
        return skipped(&reason);
    }
    let rig = Rig::start(&setup()).await.unwrap();
    let _tracer = attach(&rig, "error=EIO");
    assert_eq!(answer(&rig.call("stopped").await).status(), 503);
    let mut client = Client::new(rig.gateway.http());
    let get = Request { line: "GET /anything".to_owned(), ..Request::post("", "") };
    let End::Answered(message) = client.call(&get, PATIENCE).await else { panic!("no answer") };
    assert_eq!((message.status(), message.body.as_slice()), (200, &b"ok"[..]));
}
