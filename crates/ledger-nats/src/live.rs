//! Which effects are open or unknown: an index of this process, brought up to date when somebody asks.
//!
//! Each message says in a header whether its effect is live. The stream keeps the last message of each effect only, so
//! whoever has walked through it once needs only what came since.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use semel_core::effect::Record;
use semel_core::scope::EffectId;
use semel_ledger::LedgerError;
use tokio::sync::Mutex;

use crate::decide::record_of;
use crate::entry::LIVE;
use crate::link::ApiFailed;
use crate::read;
use crate::scan::Scan;
use crate::shared::{ANSWER_WITHIN, Shared};

/// Records read at the same time.
const READS_MAX: usize = 32;
/// How long a replica that is behind is waited for.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(2);
/// How often it is asked.
const CATCH_UP_PAUSE: Duration = Duration::from_millis(10);

/// The index.
#[derive(Debug, Default)]
pub(crate) struct Live(Mutex<Index>);

#[derive(Debug, Default)]
struct Index {
    /// The number of the last message walked by.
    upto: u64,
    ids: BTreeSet<EffectId>,
}

impl Live {
    /// See [`semel_ledger::Ledger::live`].
    pub(crate) async fn list(
        &self,
        shared: &Shared,
        after: Option<EffectId>,
        limit: usize,
    ) -> Result<Vec<Record>, LedgerError> {
        let ids: Vec<EffectId> = {
            let mut index = self.0.lock().await;
            index.refresh(shared).await.map_err(|failed| LedgerError::Unreachable(failed.words()))?;
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            index.ids.range((from, Bound::Unbounded)).copied().collect()
        };
        let until = shared.clock.local().plus(shared.patience);
        let mut reads = stream::iter(ids).map(|id| shared.read(id, until)).buffered(READS_MAX);
        let mut live = Vec::new();
        while live.len() < limit
            && let Some(entry) = reads.next().await
        {
            let entry = entry?;
            let record = entry.as_ref().and_then(record_of).filter(|record| record.is_live());
            live.extend(record.cloned());
        }
        Ok(live)
    }
}

impl Index {
    /// Walks on to what the leader has now.
    async fn refresh(&mut self, shared: &Shared) -> Result<(), ApiFailed> {
        let (link, names) = (&shared.link, &shared.names);
        let effects = names.effects();
        let last = read::last(link, names, &effects, ANSWER_WITHIN).await?.map_or(0, |message| message.seq);
        if last <= self.upto {
            return Ok(());
        }
        let mut scan = Scan::start(link, names, &effects, self.upto + 1, true).await?;
        let give_up_at = shared.clock.local().plus(CATCH_UP_WITHIN);
        while self.upto < last {
            let page = scan.page().await?;
            if page.is_empty() {
                // The replica that walks may be a little behind the leader.
                if shared.clock.local() >= give_up_at {
                    break;
                }
                tokio::time::sleep(CATCH_UP_PAUSE).await;
            }
            for message in page {
                self.upto = message.number;
                let Some(id) = message.subject.rsplit('.').next().and_then(|id| id.parse().ok()) else { continue };
                if message.state.as_deref() == Some(LIVE) {
                    self.ids.insert(id);
                } else {
                    self.ids.remove(&id);
                }
            }
        }
        scan.end().await;
        Ok(())
    }
}
