//! The ledger against the suite that every engine must pass, and what is the PostgreSQL engine's own. Each test has a
//! server to itself.

mod harness;
mod own;

semel_ledger::conformance_suite!(match harness::Postgres::new().await {
    Some(harness) => harness,
    None => return,
});
