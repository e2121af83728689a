//! The Ledger trait, its in-memory model, and the conformance suite every engine must pass.
