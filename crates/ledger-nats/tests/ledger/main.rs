//! The ledger against the suite that every engine must pass, and what is the NATS engine's own. Each test has servers to
//! itself: the suite one, or as many as `SEMEL_NATS_SERVERS` says.

mod harness;
mod own;

semel_ledger::conformance_suite!(match harness::Nats::new(harness::servers()).await {
    Some(harness) => harness,
    None => return,
});
