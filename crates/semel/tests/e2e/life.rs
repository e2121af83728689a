//! Starting, stopping and being alone on a ledger.

use crate::{expect, setup};
use semel_testkit::client::HangUp;
use semel_testkit::plan::{Act, FaultPlan};
use semel_testkit::process::{Gateway, Ports, get};
use semel_testkit::rig::{PAYLOAD, Rig};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_settled_survives_kill_and_term() {
    let mut rig = Rig::start(&setup()).await.unwrap();
    expect(&rig.call("killed").await, 201, "committed", false);
    rig.crash().unwrap();
    expect(&rig.call("killed").await, 201, "committed", true);
    expect(&rig.call("ended").await, 201, "committed", false);
    let status = tokio::task::block_in_place(|| rig.gateway.terminate()).unwrap();
    assert!(status.success(), "SIGTERM ended it with {status}");
    tokio::task::block_in_place(|| rig.gateway.start()).unwrap();
    expect(&rig.call("ended").await, 201, "committed", true);
    assert_eq!((rig.executions("killed"), rig.executions("ended")), (1, 1));
    rig.history().assert_kept();
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_a_call_in_flight_end() {
    let plan = FaultPlan::faultless().script("late", &[Act::Late]);
    let mut rig = Rig::start(&setup().plan(plan)).await.unwrap();
    let mut caller = rig.caller();
    let call = tokio::spawn(async move { caller.call("late", PAYLOAD, HangUp::Never).await });
    rig.arrived("late", 1).await;
    let status = tokio::task::block_in_place(|| rig.gateway.terminate()).unwrap();
    assert!(status.success(), "SIGTERM ended it with {status}");
    expect(&call.await.unwrap(), 201, "committed", false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_ledger_is_refused() {
    let mut rig = Rig::start(&setup()).await.unwrap();
    let ports = Ports::free().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = setup().config(ports, &rig.folder().join("ledger"), &rig.upstream.url());
    let mut second = Gateway::new(env!("CARGO_BIN_EXE_semel").as_ref(), folder.path(), ports, &config).unwrap();
    second.launch().unwrap();
    let status = tokio::task::block_in_place(|| second.wait_exit()).unwrap();
    assert!(!status.success());
    assert!(second.log().contains("SM"), "the refusal has a code: {}", second.log());
    expect(&rig.call("first").await, 201, "committed", false);
    assert!(rig.gateway.runs());
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_and_metrics_are_served() {
    let rig = Rig::start(&setup()).await.unwrap();
    expect(&rig.call("counted").await, 201, "committed", false);
    let (status, metrics) = tokio::task::block_in_place(|| get(rig.gateway.admin(), "/metrics")).unwrap();
    assert_eq!(status, 200);
    assert!(metrics.contains("semel_"), "{metrics}");
    let healthy = tokio::task::block_in_place(|| get(rig.gateway.admin(), "/healthz")).unwrap();
    assert_eq!(healthy.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_gateway_comes_back_without_running_anything_twice() {
    use rustix::process::Signal;
    let plan = FaultPlan::faultless().script("frozen", &[Act::Late]);
    let rig = Rig::start(&setup().plan(plan)).await.unwrap();
    let mut caller = rig.caller();
    let call = tokio::spawn(async move { caller.call("frozen", PAYLOAD, HangUp::Never).await });
    rig.arrived("frozen", 1).await;
    let from_us = rig.oracle.now_us();
    rig.gateway.signal(Signal::STOP).unwrap();
    // The freeze itself, longer than an attempt may take: it wakes with an answer and a timeout at once.
    tokio::time::sleep(Duration::from_secs(4)).await;
    rig.gateway.signal(Signal::CONT).unwrap();
    rig.oracle.was_down(from_us);
    call.await.unwrap();
    rig.call("frozen").await;
    assert_eq!(rig.executions("frozen"), 1);
    rig.history().assert_kept();
}
