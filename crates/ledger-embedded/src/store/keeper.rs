//! The two background threads: one checkpoints memory into the table and looks after the log's segments, one compacts.

use super::{Shared, memory::Generation};
use semel_ledger::failpoint;

use crate::{disk, error::Error, log::Mark};
use std::{sync::Arc, time::Duration};

/// How often the keeper looks around without being called.
const TICK: Duration = Duration::from_secs(1);
/// Segments kept ready, so that a commit never waits for a file to be zeroed and a settlement still fits when the
/// disk is full.
const SPARES: usize = 2;
/// Ticks between two looks at how much has expired.
const SWEEP_TICKS: u32 = 600;

/// Checkpoints and recycles until the store closes.
pub(crate) fn keep(shared: &Shared, mark: &Mark) {
    while !shared.is_closing() {
        if let Err(e) = shared.pool.provide(SPARES) {
            tracing::warn!(error = %e, "no spare log segment");
        }
        shared.look_at_disk();
        if let Err(e) = mark.sync() {
            shared.stop(&e);
        }
        let sealed = shared.memory.read().sealed.clone();
        match sealed {
            Some(generation) => checkpoint(shared, &generation),
            None => shared.wait(TICK),
        }
    }
}

fn checkpoint(shared: &Shared, generation: &Arc<Generation>) {
    let written = failpoint::hit("checkpoint.before")
        .map_err(|e| Error::io("checkpoint", "", e))
        .and_then(|()| shared.table.checkpoint(generation));
    if let Err(e) = written {
        // Nothing is lost: the log still holds it all. Without room to checkpoint, the log fills and claims stop.
        if !shared.set_checkpoint_failing(true) {
            tracing::error!(error = %e, "checkpoint failed: it is tried again every second");
        }
        shared.wait(TICK);
        return;
    }
    let _ = failpoint::hit("checkpoint.registered");
    shared.set_checkpoint_failing(false);
    shared.memory.write().sealed = None;
    shared.pool.recycle(generation.last);
    tracing::debug!(batch = generation.last, records = generation.slots.len(), "checkpoint");
    shared.wake_all();
}

/// Compacts until the store closes.
pub(crate) fn compact(shared: &Shared) {
    let mut ticks: u32 = 0;
    while !shared.is_closing() {
        match shared.table.compact() {
            Ok(true) => {
                shared.set_compaction_failing(false);
                shared.wake_all();
                continue;
            }
            Ok(false) => {
                shared.set_compaction_failing(false);
            }
            Err(e) => {
                if !shared.set_compaction_failing(true) {
                    tracing::error!(error = %e, "compaction failed: it is tried again, see `semel ledger verify`");
                }
            }
        }
        ticks += 1;
        if ticks.is_multiple_of(SWEEP_TICKS) {
            sweep(shared);
        }
        shared.wait(TICK);
    }
}

/// Records vanish when compaction passes by. Where nothing is written any more none passes by, so when most of a
/// sample has expired, one is started.
pub(crate) fn sweep(shared: &Shared) {
    let Some(now_ms) = shared.sweeper.now_ms() else { return };
    match shared.table.sample_expired(now_ms) {
        Ok((expired, sampled)) if expired * 2 > sampled => {
            tracing::info!(expired, sampled, "rewriting the table: most records have expired");
            if let Err(e) = shared.table.rewrite() {
                tracing::error!(error = %e, "rewriting the table failed");
            }
        }
        Ok(_) => {}
        Err(e) => tracing::error!(error = %e, "cannot sample the table"),
    }
}

impl Shared {
    /// Notes whether the disk is so full that only settlements may be written.
    pub(crate) fn look_at_disk(&self) {
        let free = match disk::free_bytes(&self.dir) {
            Ok(free) => free,
            Err(e) => {
                tracing::warn!(error = %e, "cannot tell how full the disk is");
                return;
            }
        };
        let low = free < self.limits.disk_reserve_bytes || !self.pool.has_spare();
        if self.set_disk_low(low) != low {
            if low {
                tracing::error!(free, reserve = self.limits.disk_reserve_bytes, "disk nearly full: no new claims");
            } else {
                tracing::info!(free, "disk has room again: claims are accepted");
            }
        }
    }
}
