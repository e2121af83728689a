//! The ledger against the suite that every engine must pass, and what is the NATS engine's own. Each test has servers to
//! itself.

mod harness;
mod own;

semel_ledger::conformance_suite!(match harness::Nats::new(1).await {
    Some(harness) => harness,
    None => return,
});
