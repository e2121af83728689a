//! The table: an LSM tree that the log is checkpointed into. It has no journal of its own; what it holds is durable
//! when a checkpoint returns, and it says itself how far it covers the log.

pub(crate) mod manifest;
pub(crate) mod salvage;

use semel_ledger::failpoint;

use crate::{
    error::Error,
    store::{Expired, Sweeper, key::Key, memory::Generation, value},
};
use bytes::Bytes;
use lsm_tree::{
    AbstractTree, Cache, DescriptorTable, Guard, InternalValue, SeqNo, SequenceNumberCounter, Slice, ValueType,
    compaction::{
        Leveled,
        filter::{CompactionFilter, Context, Factory, ItemAccessor, Verdict},
    },
    config::{BlockSizePolicy, PinningPolicy},
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The one key of the tree that is not the store's: the number of the last batch that the tree covers. It travels in
/// the same flush as the data it speaks of.
const APPLIED: &[u8] = &[0];

/// Sizes of the tree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) cache_bytes: u64,
    pub(crate) table_bytes: u64,
}

/// The open table.
pub(crate) struct Table {
    dir: PathBuf,
    tree: lsm_tree::AnyTree,
    seqno: SequenceNumberCounter,
    leveled: Arc<Leveled>,
    table_bytes: u64,
}

impl Table {
    /// Opens the tree, or creates it if `create`.
    pub(crate) fn open(dir: &Path, create: bool, sizes: Sizes, sweeper: Arc<dyn Sweeper>) -> Result<Self, Error> {
        if !create {
            manifest::check(dir)?;
        }
        let (seqno, visible) = (SequenceNumberCounter::default(), SequenceNumberCounter::default());
        let config = config(dir, &seqno, &visible, sizes, sweeper);
        // A damaged file that passed the checks above may still trip an assertion in there.
        let tree = catch_unwind(AssertUnwindSafe(|| config.open()))
            .map_err(|_| Error::damaged(dir, "the table cannot be opened (the tree's own check failed)"))?
            .map_err(|e| failed("open", dir, e))?;
        let floor = tree.get_highest_seqno().map_or(1, |highest| highest + 1);
        seqno.fetch_max(floor);
        visible.fetch_max(floor);
        let leveled = Arc::new(Leveled::default().with_table_target_size(sizes.table_bytes));
        Ok(Self { dir: dir.to_owned(), tree, seqno, leveled, table_bytes: sizes.table_bytes })
    }

    /// The last batch that the table covers.
    pub(crate) fn applied(&self) -> Result<u64, Error> {
        let Some(stored) = self.get(APPLIED)? else { return Ok(0) };
        value::decode(APPLIED, stored)
            .and_then(|value| Some(u64::from_le_bytes(value.body.as_ref().try_into().ok()?)))
            .ok_or_else(|| Error::damaged(&self.dir, "the number of the last checkpoint is unreadable"))
    }

    /// The stored value of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        match self.tree.get(key, SeqNo::MAX) {
            Ok(found) => Ok(found.map(Bytes::from)),
            Err(e) => Err(failed("read", &self.dir, e)),
        }
    }

    /// The stored values from `from` on, while keys start with `prefix`.
    pub(crate) fn range(
        &self,
        prefix: &[u8],
        from: &[u8],
    ) -> impl Iterator<Item = Result<(Bytes, Bytes), Error>> + Send + use<> {
        let (dir, prefix) = (self.dir.clone(), prefix.to_vec());
        let from = from.max(&prefix).to_vec();
        let items = self.tree.range(from.., SeqNo::MAX, None);
        items
            .map(move |item| match item.into_inner() {
                Ok((key, stored)) => Ok((Bytes::from(key), Bytes::from(stored))),
                Err(e) => Err(failed("read", &dir, e)),
            })
            .take_while(move |item| item.as_ref().map_or(true, |(key, _)| key.starts_with(&prefix)))
            .filter(|item| item.as_ref().map_or(true, |(key, _)| key.as_ref() != APPLIED))
    }

    /// Writes a generation to new tables, durably, together with the number of its last batch.
    pub(crate) fn checkpoint(&self, generation: &Generation) -> Result<(), Error> {
        let failed = |e| failed("write", &self.dir, e);
        let seqno = self.seqno.next();
        let mut applied = Vec::new();
        let key = Key::new(APPLIED).ok_or(Error::DiskFull)?;
        value::encode(&mut applied, &key, None, |out| out.extend_from_slice(&generation.last.to_le_bytes()));
        let mut slots: Vec<_> = generation.slots.iter().collect();
        slots.sort_unstable_by_key(|(key, _)| *key);
        let first = InternalValue::from_components(APPLIED, applied, seqno, ValueType::Value);
        let rest = slots.into_iter().map(|(key, slot)| match &slot.stored {
            Some(stored) => {
                InternalValue::from_components(key.as_ref(), Slice::from(stored.clone()), seqno, ValueType::Value)
            }
            None => InternalValue::new_tombstone(key.as_ref(), seqno),
        });
        let written = self.tree.flush_to_tables(std::iter::once(first).chain(rest).map(Ok)).map_err(failed)?;
        failpoint::hit("checkpoint.written").map_err(|e| Error::io("write", &self.dir, e))?;
        if let Some((tables, _)) = written {
            self.tree.register_tables(&tables, None, None, &[], self.seqno.get()).map_err(failed)?;
        }
        Ok(())
    }

    /// Does one step of compaction; `false` if there was none to do.
    pub(crate) fn compact(&self) -> Result<bool, Error> {
        let before = self.tree.current_version().id();
        self.tree.compact(self.leveled.clone(), self.seqno.get()).map_err(|e| failed("compact", &self.dir, e))?;
        Ok(self.tree.current_version().id() != before)
    }

    /// Rewrites everything, dropping what has expired. In the background, as any compaction.
    pub(crate) fn rewrite(&self) -> Result<(), Error> {
        self.tree.major_compact(self.table_bytes, self.seqno.get()).map_err(|e| failed("compact", &self.dir, e))
    }

    /// How many of a sample of records have expired at `now_ms`: `(expired, sampled)`.
    pub(crate) fn sample_expired(&self, now_ms: u64) -> Result<(u64, u64), Error> {
        const PER_TABLE: usize = 32;
        let (mut expired, mut sampled) = (0, 0);
        for table in self.tree.current_version().iter_tables() {
            for item in table.iter().take(PER_TABLE) {
                let item = item.map_err(|e| failed("read", &self.dir, e))?;
                sampled += 1;
                expired += u64::from(is_expired(&item.value, now_ms));
            }
        }
        Ok((expired, sampled))
    }

    /// The newest runs that no compaction has merged yet: the measure of how far compaction is behind.
    pub(crate) fn backlog(&self) -> usize {
        self.tree.l0_run_count()
    }

    pub(crate) fn table_count(&self) -> usize {
        self.tree.table_count()
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        self.tree.disk_space()
    }

    /// An upper bound of the number of records: shadowed versions count.
    pub(crate) fn len_max(&self) -> u64 {
        self.tree.approximate_len() as u64
    }
}

fn config(
    dir: &Path,
    seqno: &SequenceNumberCounter,
    visible: &SequenceNumberCounter,
    sizes: Sizes,
    sweeper: Arc<dyn Sweeper>,
) -> lsm_tree::Config {
    lsm_tree::Config::new(dir, seqno.clone(), visible.clone())
        .use_cache(Arc::new(Cache::with_capacity_bytes(sizes.cache_bytes)))
        .use_descriptor_table(Some(Arc::new(DescriptorTable::new(256))))
        .data_block_size_policy(BlockSizePolicy::all(8 * 1024))
        // Pinned blocks are memory that grows with the number of keys: only the newest level may.
        .index_block_pinning_policy(PinningPolicy::new([true, false]))
        .filter_block_pinning_policy(PinningPolicy::new([true, false]))
        .index_block_partitioning_policy(PinningPolicy::new([false, true]))
        .filter_block_partitioning_policy(PinningPolicy::new([false, true]))
        .with_compaction_filter_factory(Some(Arc::new(Sweep(sweeper))))
}

fn is_expired(stored: &[u8], now_ms: u64) -> bool {
    value::expiry(stored).is_some_and(|at| at <= now_ms)
}

/// Asks about expired values while the tree compacts anyway.
struct Sweep(Arc<dyn Sweeper>);

struct SweepOnce {
    sweeper: Arc<dyn Sweeper>,
    now_ms: Option<u64>,
}

impl Factory for Sweep {
    fn name(&self) -> &'static str {
        "expiry"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(SweepOnce { sweeper: self.0.clone(), now_ms: self.0.now_ms() })
    }
}

impl CompactionFilter for SweepOnce {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> lsm_tree::Result<Verdict> {
        let Some(now_ms) = self.now_ms else { return Ok(Verdict::Keep) };
        let stored = item.value()?;
        if !is_expired(&stored, now_ms) {
            return Ok(Verdict::Keep);
        }
        // A value that is not whole stays where it is: its expiry may be the very thing that is damaged.
        let Some((key, value)) = Key::new(item.key()).zip(value::decode(item.key(), stored.into())) else {
            return Ok(Verdict::Keep);
        };
        Ok(match self.sweeper.expire(key.as_ref(), &value.body, now_ms) {
            Expired::Keep => Verdict::Keep,
            // A tombstone, not a hole: an older version below must not come back.
            Expired::Vanish => Verdict::Remove,
            Expired::Replace { expires_at_ms, body } => {
                let mut stored = Vec::with_capacity(body.len() + 16);
                value::encode(&mut stored, &key, expires_at_ms, |out| out.extend_from_slice(&body));
                Verdict::ReplaceValue(stored.into())
            }
        })
    }
}

fn failed(action: &'static str, dir: &Path, e: lsm_tree::Error) -> Error {
    use std::io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    match e {
        lsm_tree::Error::Io(e) if matches!(e.kind(), InvalidData | NotFound | UnexpectedEof) => {
            Error::damaged(dir, format!("a table ends early or is missing: {e}"))
        }
        lsm_tree::Error::Io(e) => Error::io(action, dir, e),
        e => Error::damaged(dir, format!("the table's own check failed: {e}")),
    }
}
