//! What the ledger is like, for `/metrics`. Calls are counted by those who serve them; this is the state behind them.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use semel_core::{
    effect::{Phase, Record, State},
    scope::EffectId,
    time::Timestamp,
};
use semel_ledger::{Health, Ledger, LedgerError};
use tokio::sync::Mutex;

use crate::health::health_word;

/// Open and unknown effects that are counted, at most; beyond, `semel_ledger_effects_truncated` is 1.
const COUNTED_MAX: usize = 10_000;
/// Records read at a time.
const PAGE: usize = 500;
/// A count is as old as this, at most, when it is shown: many scrapers cost no more than one.
const FRESH_FOR: Duration = Duration::from_secs(5);

/// The ledger's state as metrics. [`LedgerMetrics::refresh`] brings them up to date before each scrape.
pub struct LedgerMetrics {
    ledger: Arc<dyn Ledger>,
    effects: Family<StateLabel, Gauge>,
    truncated: Gauge,
    oldest_unknown: Gauge,
    health: Family<HealthLabel, Gauge>,
    failures: Counter,
    /// When the effects were last counted, on the ledger's clock.
    counted_at: Mutex<Option<Timestamp>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HealthLabel {
    health: &'static str,
}

#[derive(Default)]
struct Count {
    open: usize,
    unknown: usize,
    oldest_unknown: Option<Timestamp>,
    truncated: bool,
}

impl LedgerMetrics {
    /// Registers the metrics of `ledger`.
    #[must_use]
    pub fn register(ledger: Arc<dyn Ledger>, registry: &mut Registry) -> Self {
        let metrics = Self {
            ledger,
            effects: Family::default(),
            truncated: Gauge::default(),
            oldest_unknown: Gauge::default(),
            health: Family::default(),
            failures: Counter::default(),
            counted_at: Mutex::default(),
        };
        let effects = "Effects that are open or unknown; settled ones are not counted";
        registry.register("semel_ledger_effects", effects, Family::clone(&metrics.effects));
        let truncated = "1 when there are more open and unknown effects than are counted (10,000)";
        registry.register("semel_ledger_effects_truncated", truncated, metrics.truncated.clone());
        let oldest = "How long the oldest of the counted unknown effects has been unknown; 0 when none is";
        let gauge = metrics.oldest_unknown.clone();
        registry.register_with_unit("semel_ledger_oldest_unknown", oldest, Unit::Seconds, gauge);
        let health = "1 for what the ledger's engine can do now";
        registry.register("semel_ledger_health", health, Family::clone(&metrics.health));
        let failures = "Scrapes for which the open and unknown effects could not be counted";
        registry.register("semel_ledger_count_failures", failures, metrics.failures.clone());
        metrics
    }

    /// Brings the metrics up to date: the health always, the counts when they are older than five seconds.
    pub async fn refresh(&self) {
        let now_is = health_word(&self.ledger.health());
        let all = [Health::ClaimsPaused, Health::Unreachable, Health::Stopped].map(|health| health(String::new()));
        for health in all.into_iter().chain([Health::Ready]) {
            let health = health_word(&health);
            self.health.get_or_create(&HealthLabel { health }).set(i64::from(health == now_is));
        }
        // Scrapes at the same time wait for one count.
        let mut counted_at = self.counted_at.lock().await;
        let now = self.ledger.now();
        if counted_at.is_some_and(|at| at <= now && now.since(at) < FRESH_FOR) {
            return;
        }
        match self.count(now).await {
            Ok(count) => {
                *counted_at = Some(now);
                self.show(&count, now);
            }
            Err(error) => {
                self.failures.inc();
                tracing::warn!(%error, "open and unknown effects could not be counted");
            }
        }
    }

    async fn count(&self, now: Timestamp) -> Result<Count, LedgerError> {
        let mut count = Count::default();
        let mut after: Option<EffectId> = None;
        for _ in 0..COUNTED_MAX / PAGE {
            let page = self.ledger.live(after, PAGE).await?;
            for record in &page {
                count.add(record, now);
            }
            after = page.last().map(|record| record.id);
            if page.len() < PAGE {
                return Ok(count);
            }
        }
        count.truncated = !self.ledger.live(after, 1).await?.is_empty();
        Ok(count)
    }

    fn show(&self, count: &Count, now: Timestamp) {
        let gauge = |state| self.effects.get_or_create_owned(&StateLabel { state });
        gauge("open").set(i64::try_from(count.open).unwrap_or(i64::MAX));
        gauge("unknown").set(i64::try_from(count.unknown).unwrap_or(i64::MAX));
        self.truncated.set(i64::from(count.truncated));
        let age = count.oldest_unknown.map_or(0, |since| now.since(since).as_secs());
        self.oldest_unknown.set(i64::try_from(age).unwrap_or(i64::MAX));
    }
}

impl Count {
    fn add(&mut self, record: &Record, now: Timestamp) {
        let since = match record.state {
            State::Unknown { since, .. } => since,
            State::Open { lease_until, .. } if record.phase(now) == Phase::Lapsed => lease_until,
            _ => {
                self.open += 1;
                return;
            }
        };
        self.unknown += 1;
        self.oldest_unknown = Some(self.oldest_unknown.map_or(since, |oldest| oldest.min(since)));
    }
}
