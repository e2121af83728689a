//! Where a store lives, and how large its parts may grow.

use super::sweep::{NoSweep, Sweeper};
use crate::table::Sizes;
use std::{path::PathBuf, sync::Arc};

/// How to open a store. [`Options::new`] has the defaults.
#[derive(Clone)]
#[non_exhaustive]
pub struct Options {
    /// The folder. Created if missing.
    pub dir: PathBuf,
    /// Bytes of one log segment (default 16 MiB): a value must fit into half of one.
    pub segment_bytes: u64,
    /// Bytes of batches held in memory before they are checkpointed (default 16 MiB). Up to three times as much is
    /// held while a checkpoint runs.
    pub memory_bytes: u64,
    /// Bytes of log after which a checkpoint is made in any case (default 64 MiB): it bounds the replay at start.
    pub checkpoint_log_bytes: u64,
    /// Bytes of table blocks cached in memory (default 16 MiB).
    pub cache_bytes: u64,
    /// Size of one table file in bytes (default 64 MiB).
    pub table_bytes: u64,
    /// Free bytes of the disk below which claims stop (default 512 MiB): room for settlements, for the log's spare
    /// segments, for a checkpoint and for the largest compaction.
    pub disk_reserve_bytes: u64,
    /// Operations that may wait for the committer (default 4096); more callers wait their turn.
    pub queue_len: usize,
    /// The secret of a ledger that is made (default: a random one). One that exists keeps its own.
    pub secret: Option<[u8; 32]>,
    /// Decides about expired values. The default sweeps nothing.
    pub sweeper: Arc<dyn Sweeper>,
}

impl Options {
    /// The defaults, for this folder.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        const MIB: u64 = 1 << 20;
        Self {
            dir: dir.into(),
            segment_bytes: 16 * MIB,
            memory_bytes: 16 * MIB,
            checkpoint_log_bytes: 64 * MIB,
            cache_bytes: 16 * MIB,
            table_bytes: 64 * MIB,
            disk_reserve_bytes: 512 * MIB,
            queue_len: 4096,
            secret: None,
            sweeper: Arc::new(NoSweep),
        }
    }

    pub(crate) fn sizes(&self) -> Sizes {
        Sizes { cache_bytes: self.cache_bytes, table_bytes: self.table_bytes }
    }

    pub(crate) fn limits(&self) -> Limits {
        let half = usize::try_from(self.segment_bytes / 2).unwrap_or(usize::MAX);
        let log_bytes_max = 4 * self.checkpoint_log_bytes.max(self.memory_bytes);
        Limits {
            memory_bytes: self.memory_bytes,
            checkpoint_log_bytes: self.checkpoint_log_bytes,
            disk_reserve_bytes: self.disk_reserve_bytes,
            batch_bytes: half.min(4 << 20),
            operation_bytes: half.saturating_sub(2 * crate::disk::BLOCK),
            segments_max: usize::try_from(log_bytes_max / self.segment_bytes).unwrap_or(64) + 4,
            backlog_max: 16,
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// The limits that follow from the options.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) memory_bytes: u64,
    pub(crate) checkpoint_log_bytes: u64,
    pub(crate) disk_reserve_bytes: u64,
    /// Bytes of a batch beyond which no further operation joins it.
    pub(crate) batch_bytes: usize,
    /// Bytes that one operation may write.
    pub(crate) operation_bytes: usize,
    pub(crate) segments_max: usize,
    /// Unmerged runs beyond which no checkpoint is started: look-ups would get slow.
    pub(crate) backlog_max: usize,
}
