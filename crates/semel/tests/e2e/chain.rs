//! A chain of three real gateways: what one failing call costs the service at its end.

use std::fs::create_dir;

use semel_testkit::client::HangUp;
use semel_testkit::oracle::OnUnknown;
use semel_testkit::plan::{Act, FaultPlan};
use semel_testkit::process::{Gateway, Ports};
use semel_testkit::rig::{PAYLOAD, Rig, Setup};

use crate::{expect, setup};

/// Attempts that each gateway would make by itself.
const ATTEMPTS: usize = 3;

/// The rig's own gateway, one before it, and one before that: the outermost.
struct Chain {
    rig: Rig,
    outer: Vec<Gateway>,
}

impl Chain {
    async fn start(setup: &Setup) -> Self {
        let rig = Rig::start(setup).await.unwrap();
        let mut outer: Vec<Gateway> = Vec::new();
        for name in ["middle", "outermost"] {
            let folder = rig.folder().join(name);
            create_dir(&folder).unwrap();
            let ports = Ports::free().unwrap();
            let inner = outer.last().unwrap_or(&rig.gateway).http();
            let config = setup.config(ports, &folder.join("ledger"), &format!("http://{inner}"));
            let mut gateway = Gateway::new(&setup.binary, &folder, ports, &config).unwrap();
            tokio::task::block_in_place(|| gateway.start()).unwrap();
            outer.push(gateway);
        }
        Self { rig, outer }
    }

    fn outermost(&self) -> &Gateway {
        &self.outer[1]
    }
}

/// Three layers that each try three times would make 27 attempts of it.
async fn a_failing_call_costs_the_outermost_hops_attempts(setup: Setup) {
    let failures = [Act::MarkNone; 2 * ATTEMPTS];
    let chain = Chain::start(&setup.plan(FaultPlan::faultless().script("poor", &failures))).await;
    let mut caller = chain.rig.caller_of(chain.outermost());
    for round in 1..=2 {
        expect(&caller.call("poor", PAYLOAD, HangUp::Never).await, 500, "none", false);
        assert_eq!(chain.rig.arrivals("poor"), round * ATTEMPTS);
    }
    // No key was burnt on the way: the next one is executed, once, and replayed by the first that is asked.
    expect(&caller.call("poor", PAYLOAD, HangUp::Never).await, 201, "committed", false);
    expect(&caller.call("poor", PAYLOAD, HangUp::Never).await, 201, "committed", true);
    assert_eq!(chain.rig.executions("poor"), 1);
    assert_eq!(chain.rig.arrivals("poor"), 2 * ATTEMPTS + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn under_hold_a_failing_call_costs_the_outermost_hops_attempts() {
    a_failing_call_costs_the_outermost_hops_attempts(setup()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_retry_a_failing_call_costs_the_outermost_hops_attempts() {
    let setup = Setup { on_unknown: OnUnknown::Retry, ..setup() };
    a_failing_call_costs_the_outermost_hops_attempts(setup).await;
}

/// Whichever hop loses the answer, the effect happens once, and the outermost knows what is known.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_unknown_at_every_hop_and_never_run_again() {
    let chain = Chain::start(&setup().plan(FaultPlan::faultless().script("lost", &[Act::ResetAfter]))).await;
    let mut caller = chain.rig.caller_of(chain.outermost());
    expect(&caller.call("lost", PAYLOAD, HangUp::Never).await, 504, "outcome-unknown", false);
    expect(&caller.call("lost", PAYLOAD, HangUp::Never).await, 409, "outcome-unknown", false);
    assert_eq!((chain.rig.executions("lost"), chain.rig.arrivals("lost")), (1, 1));
}
