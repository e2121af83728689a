//! One test for each failure that other systems are known for (the list at the end of the effects design). Those that
//! need a stopped process, a slow flush or a full disk stand in their own files; each name says which failure it is.

use crate::{answer, expect, gist, setup};
use semel_testkit::client::{Client, End, HangUp, Request};
use semel_testkit::oracle::OnUnknown;
use semel_testkit::plan::{Act, FaultPlan};
use semel_testkit::process::{Gateway, Ports};
use semel_testkit::rig::{PATIENCE, PAYLOAD, Rig};
use semel_testkit::upstream::{ORACLE_KEY, execution_of};

async fn scripted(key: &str, acts: &[Act]) -> Rig {
    Rig::start(&setup().plan(FaultPlan::faultless().script(key, acts))).await.unwrap()
}

async fn by(rig: &Rig, credential: &str, oracle_key: &str) -> End {
    let request = Request::post("/pay", PAYLOAD).header("idempotency-key", "shared").header(ORACLE_KEY, oracle_key);
    Client::new(rig.gateway.http()).call(&request.header("authorization", credential), PATIENCE).await
}

#[tokio::test(flavor = "multi_thread")]
async fn stuck_in_progress_after_a_crash() {
    let mut rig = scripted("stuck", &[Act::StallAfter]).await;
    let mut caller = rig.caller();
    let lost = tokio::spawn(async move { caller.call("stuck", PAYLOAD, HangUp::Never).await });
    rig.arrived("stuck", 1).await;
    rig.crash().unwrap();
    assert!(matches!(lost.await.unwrap(), End::Unknown(_)));
    // Its lease may have to lapse first; a caller asks again as it is told to, and must not be told so for ever.
    let ended = async { while gist(&rig.call("stuck").await).1 == "in-flight" {} };
    tokio::time::timeout(std::time::Duration::from_secs(45), ended).await.expect("the effect is open for ever");
    expect(&rig.call("stuck").await, 409, "outcome-unknown", false);
    assert_eq!((rig.executions("stuck"), rig.arrivals("stuck")), (1, 1));
    rig.history().assert_kept();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_outcome_executed_again() {
    for act in [Act::ResetBefore, Act::ResetAfter, Act::CloseAfter, Act::FailAfter, Act::Garbage, Act::TruncateHead] {
        let rig = scripted("lost", &[act]).await;
        rig.call("lost").await;
        for _ in 0..3 {
            expect(&rig.call("lost").await, 409, "outcome-unknown", false);
        }
        assert_eq!(rig.arrivals("lost"), 1, "{act:?}");
        rig.history().assert_kept();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attempt_1_lost_attempt_2_refused_and_the_key_released() {
    for refusal in [Act::RateLimited, Act::MarkNone, Act::Unavailable] {
        let mut setup = setup().plan(FaultPlan::faultless().script("joined", &[Act::ResetAfter, refusal, refusal]));
        setup.on_unknown = OnUnknown::Retry;
        let rig = Rig::start(&setup).await.unwrap();
        let (_, word, _) = gist(&rig.call("joined").await);
        assert!(["unknown", "outcome-unknown"].contains(&word.as_str()), "{refusal:?} after a loss came to {word}");
        // The upstream remembers the key, so the next call gets the first execution's answer.
        expect(&rig.call("joined").await, 201, "committed", false);
        assert_eq!(rig.executions("joined"), 1, "{refusal:?}");
        rig.history().assert_kept();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_hangs_up_cancels_the_record() {
    let rig = scripted("gone", &[Act::Late]).await;
    // Not before the effect is claimed: a caller that has gone by then has asked for nothing.
    tokio::select! {
        _ = rig.call("gone") => panic!("the upstream answers late"),
        () = rig.arrived("gone", 1) => {}
    }
    expect(&rig.call("gone").await, 201, "committed", true);
    assert_eq!(rig.executions("gone"), 1);
    rig.history().assert_kept();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenant_s_answer_replayed() {
    let mut setup = setup();
    setup.principal = "credential";
    let rig = Rig::start(&setup).await.unwrap();
    let (a, b) = (by(&rig, "Bearer alice", "of-alice").await, by(&rig, "Bearer bob", "of-bob").await);
    expect(&a, 201, "committed", false);
    expect(&b, 201, "committed", false);
    assert_ne!(execution_of(answer(&a)), execution_of(answer(&b)));
    expect(&by(&rig, "Bearer alice", "of-alice").await, 201, "committed", true);
    let nobody = Request::post("/pay", PAYLOAD).header("idempotency-key", "shared").header(ORACLE_KEY, "of-nobody");
    let nobody = Client::new(rig.gateway.http()).call(&nobody, PATIENCE).await;
    assert_eq!(answer(&nobody).status(), 401);
    assert_eq!((rig.executions("of-alice"), rig.executions("of-bob"), rig.executions("of-nobody")), (1, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refreshed_token_runs_twice() {
    // {"alg":"none"} . {"iss":"i","sub":"s","iat":1} and the same with "iat":2, unsigned.
    let token = |claims: &str| format!("Bearer eyJhbGciOiJub25lIn0.{claims}.c2ln");
    let (first, refreshed) = ("eyJpc3MiOiJpIiwic3ViIjoicyIsImlhdCI6MX0", "eyJpc3MiOiJpIiwic3ViIjoicyIsImlhdCI6Mn0");
    let mut setup = setup();
    setup.principal = "credential";
    let rig = Rig::start(&setup).await.unwrap();
    expect(&by(&rig, &token(first), "jwt").await, 201, "committed", false);
    expect(&by(&rig, &token(refreshed), "jwt").await, 409, "principal-unverified", false);
    expect(&by(&rig, &token(first), "jwt").await, 201, "committed", true);
    assert_eq!(rig.executions("jwt"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn set_cookie_replayed_and_location_lost() {
    let rig = Rig::start(&setup()).await.unwrap();
    let (first, replay) = (rig.call("headers").await, rig.call("headers").await);
    expect(&replay, 201, "committed", true);
    let (first, replay) = (answer(&first), answer(&replay));
    assert_eq!(replay.header("location"), Some("/effects/1"));
    for stored in ["location", "etag", "content-type"] {
        assert_eq!(first.header(stored), replay.header(stored), "{stored}");
    }
    assert!(first.header("set-cookie").is_some(), "the first caller gets its cookie");
    assert_eq!(replay.header("set-cookie"), None);
    assert_eq!(first.body, replay.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversize_answer_not_stored_and_run_again() {
    let mut rig = scripted("large", &[Act::Oversize]).await;
    let first = rig.call("large").await;
    assert_eq!((answer(&first).status(), answer(&first).body.len() > 2 << 20), (201, true));
    expect(&rig.call("large").await, 409, "consumed", false);
    rig.crash().unwrap();
    expect(&rig.call("large").await, 409, "consumed", false);
    assert_eq!(rig.arrivals("large"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_body_replayed() {
    for act in [Act::Truncate, Act::TruncateChunked] {
        let rig = scripted("cut", &[act]).await;
        expect(&rig.call("cut").await, 504, "outcome-unknown", false);
        expect(&rig.call("cut").await, 409, "outcome-unknown", false);
        assert_eq!(rig.arrivals("cut"), 1, "{act:?}");
        rig.history().assert_kept();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_5xx_pinned_for_a_day() {
    // Not executed, by the upstream's own word: the key is free again.
    let refusals = [Act::MarkNone, Act::MarkNone, Act::MarkNone];
    let rig = scripted("refused", &refusals).await;
    expect(&rig.call("refused").await, 500, "none", false);
    expect(&rig.call("refused").await, 201, "committed", false);
    assert_eq!(rig.executions("refused"), 1);
    // Nobody knows: the first caller sees the upstream's answer, nobody sees it as the recorded one.
    let rig = scripted("failed", &[Act::FailBefore]).await;
    expect(&rig.call("failed").await, 500, "unknown", false);
    expect(&rig.call("failed").await, 409, "outcome-unknown", false);
    rig.history().assert_kept();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_final_4xx_not_replayed() {
    let mut rig = scripted("declined", &[Act::Decline]).await;
    expect(&rig.call("declined").await, 402, "committed", false);
    expect(&rig.call("declined").await, 402, "committed", true);
    rig.crash().unwrap();
    expect(&rig.call("declined").await, 402, "committed", true);
    assert_eq!(rig.arrivals("declined"), 1);
    rig.history().assert_kept();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_burnt_by_a_refusal() {
    let rig = scripted("limited", &[Act::RateLimited; 3]).await;
    expect(&rig.call("limited").await, 429, "none", false);
    expect(&rig.call("limited").await, 201, "committed", false);
    // Nor by an upstream that is away.
    rig.upstream.refuse();
    let refused = async {
        let mut n = 0;
        while gist(&rig.call(&format!("away-{n}")).await).1 == "committed" {
            n += 1;
        }
        format!("away-{n}")
    };
    let key = tokio::time::timeout(PATIENCE, refused).await.expect("the upstream refuses");
    rig.upstream.accept();
    let healed = async { while gist(&rig.call(&key).await).1 != "committed" {} };
    tokio::time::timeout(PATIENCE, healed).await.expect("the upstream is back");
    assert_eq!(rig.executions(&key), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_used_for_another_request() {
    let rig = Rig::start(&setup()).await.unwrap();
    expect(&rig.call("reused").await, 201, "committed", false);
    let other = rig.caller().call("reused", r#"{"amount":11}"#, HangUp::Never).await;
    expect(&other, 422, "key-reused", false);
    assert!(!String::from_utf8_lossy(&answer(&other).body).contains("execution"), "it shows the first answer");
    // The same JSON in other words is the same request.
    let spaced = rig.caller().call("reused", "{ \"amount\" : 1e1 }", HangUp::Never).await;
    assert_eq!(gist(&spaced), (201, "committed".to_owned(), true));
    assert_eq!(rig.executions("reused"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contract_changed_and_every_key_absent() {
    let mut rig = Rig::start(&setup()).await.unwrap();
    expect(&rig.call("before").await, 201, "committed", false);
    tokio::task::block_in_place(|| rig.gateway.terminate()).unwrap();
    let config = std::fs::read_to_string(rig.gateway.config()).unwrap();
    let renamed = config.replace("upstream.flaky", "upstream.renamed").replace("\"flaky\"", "\"renamed\"");
    rig.gateway.configure(&renamed).unwrap();
    rig.gateway.launch().unwrap();
    let status = tokio::task::block_in_place(|| rig.gateway.wait_exit()).unwrap();
    assert!(!status.success(), "a gateway whose contract differs must not start");
    assert!(rig.gateway.log().contains("SM0012"), "{}", rig.gateway.log());
    rig.gateway.configure(&config).unwrap();
    tokio::task::block_in_place(|| rig.gateway.start()).unwrap();
    expect(&rig.call("before").await, 201, "committed", true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_swept_while_in_flight() {
    let setup = setup().idempotency(r#", keep = "200ms", marker = "24h""#);
    let rig = Rig::start(&setup.plan(FaultPlan::faultless().script("slow", &[Act::Late]))).await.unwrap();
    let mut caller = rig.caller();
    // In flight for five windows; a duplicate joins it rather than finding it gone.
    let first = tokio::spawn(async move { caller.call("slow", PAYLOAD, HangUp::Never).await });
    rig.arrived("slow", 1).await;
    let joined = rig.call("slow").await;
    assert_eq!((gist(&first.await.unwrap()).1, gist(&joined).1), ("committed".to_owned(), "committed".to_owned()));
    // And when its window is over, a stale retry is refused rather than run.
    let expired = async { while gist(&rig.call("slow").await).1 != "key-expired" {} };
    tokio::time::timeout(PATIENCE, expired).await.expect("the window ends");
    assert_eq!(rig.arrivals("slow"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chained_gateway_pins_in_flight_for_a_day() {
    // caller -> outer -> inner -> upstream; the inner one answers 409 in-flight at once.
    let inner_setup = setup().idempotency(r#", join = "0s""#);
    let inner = Rig::start(&inner_setup.plan(FaultPlan::faultless().script("chain", &[Act::Late]))).await.unwrap();
    let (ports, folder) = (Ports::free().unwrap(), tempfile::tempdir().unwrap());
    let config = setup().config(ports, &folder.path().join("ledger"), &format!("http://{}", inner.gateway.http()));
    let mut outer = Gateway::new(env!("CARGO_BIN_EXE_semel").as_ref(), folder.path(), ports, &config).unwrap();
    tokio::task::block_in_place(|| outer.start()).unwrap();
    // A direct call with the key that the outer gateway will forward cannot be made (it is a hash), so the inner key is
    // held open by a caller of the outer gateway that is killed meanwhile.
    let request = || Request::post("/pay", PAYLOAD).header("idempotency-key", "chain").header(ORACLE_KEY, "chain");
    let http = outer.http();
    let first = tokio::spawn(async move { Client::new(http).call(&request(), PATIENCE).await });
    inner.arrived("chain", 1).await;
    let end = first.await.unwrap();
    expect(&end, 201, "committed", false);
    let replay = Client::new(outer.http()).call(&request(), PATIENCE).await;
    expect(&replay, 201, "committed", true);
    assert_eq!(inner.arrivals("chain"), 1);
}
