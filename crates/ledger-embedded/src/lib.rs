//! The embedded ledger engine: an own write-ahead log as the truth, an LSM tree as its table.
