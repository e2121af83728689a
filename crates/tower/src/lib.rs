//! Effects as tower layers: idempotency, retries and budgets over any Ledger.
