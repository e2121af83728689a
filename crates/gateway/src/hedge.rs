//! A second attempt beside a slow first one.

use std::pin::pin;
use std::time::Instant;

use semel_core::evidence::{AttemptEnd, Lost};
use semel_core::policy::hedge::{Hedge, HedgePolicy, HedgeStep, Latencies, Leg};
use semel_core::policy::ownership::{AttemptMark, is_owned_before};
use semel_core::policy::response_class::ResponseClass;
use semel_core::policy::retry::Repeatable;

use crate::clock;
use crate::resend::{Made, Outgoing, Resending, Tail};
use crate::upstream::Tried;

/// When a route's attempts are hedged, and what is known for that; over all runtimes.
#[derive(Debug)]
pub struct Hedging {
    policy: HedgePolicy,
    latencies: Latencies,
}

impl Hedging {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(policy: HedgePolicy, now: Instant) -> Self {
        Self { latencies: Latencies::new(now, policy.window), policy }
    }
}

impl Resending {
    /// An attempt and, where it is slower than most or fails, another one beside it at another endpoint. What the
    /// attempt that did not win proves stands in `made` already.
    pub(crate) async fn hedged(
        &self,
        hedging: &Hedging,
        outgoing: &Outgoing<'_>,
        begin_by: Instant,
        mark: AttemptMark,
        tried: &mut Tried,
        made: &mut Made,
    ) -> Tail {
        let intake = self.upstream.intake();
        // Somebody before us retries, or hedges.
        let is_owned = is_owned_before(&outgoing.message.headers);
        let repeatable = if is_owned { Repeatable::IfNotExecuted } else { outgoing.repeatable };
        let began = clock::now();
        let mut hedge = Hedge::begin(&hedging.policy, &hedging.latencies, repeatable, began);
        // Two attempts at least: who is asked leaves repeating to us.
        let mark = if hedge.fires_at().is_some() { AttemptMark::new(mark.n(), mark.max().max(2)) } else { mark };
        let picked = intake.pick(*tried);
        picked.iter().for_each(|picked| tried.insert(picked.endpoint()));
        let mut first = pin!(self.one(outgoing, begin_by, mark, picked));
        let mut first_tail: Option<Tail> = None;
        let mut extra = pin!(None);
        let tail = loop {
            let fires_at = hedge.fires_at().unwrap_or(began);
            let (leg, tail) = tokio::select! {
                biased;
                tail = &mut first, if first_tail.is_none() => (Leg::First, Some(tail)),
                tail = async { extra.as_mut().as_pin_mut()?.await }, if extra.is_some() => (Leg::Extra, tail),
                () = tokio::time::sleep_until(fires_at.into()), if hedge.fires_at().is_some() => {
                    if hedge.fire(&self.resend.budget, clock::now()) {
                        extra.set(Some(self.extra(outgoing, mark, *tried)));
                    }
                    continue;
                }
            };
            // A claim that was lost meanwhile: nothing was sent a second time.
            let Some(tail) = tail else {
                extra.set(None);
                hedge.withdraw();
                match first_tail.take() {
                    Some(tail) => break tail,
                    None => continue,
                }
            };
            made.attempts += u32::from(leg == Leg::Extra);
            tail.endpoint.into_iter().for_each(|endpoint| tried.insert(endpoint));
            let is_other_out = if leg == Leg::First { extra.is_some() } else { first_tail.is_none() };
            let class = self.class_of(&tail.end, outgoing, is_other_out);
            match hedge.ended(leg, class, tail.pushback, &self.resend.budget, clock::now()) {
                HedgeStep::Finish => {
                    made.attempts += u32::from(is_other_out && leg == Leg::First);
                    let cancelled = is_other_out.then_some(AttemptEnd::Lost(Lost::ConnectionLost));
                    cancelled.or(first_tail.map(|first| first.end)).iter().for_each(|end| self.lose(end, made));
                    break tail;
                }
                HedgeStep::Fire => {
                    extra.set(Some(self.extra(outgoing, mark, *tried)));
                    first_tail = Some(tail);
                }
                HedgeStep::Wait if leg == Leg::First => first_tail = Some(tail),
                HedgeStep::Wait => {
                    extra.set(None);
                    self.lose(&tail.end, made);
                }
            }
        };
        let now = clock::now();
        hedge.sample(now).into_iter().for_each(|latency| hedging.latencies.record(latency, now));
        tail
    }

    /// What an attempt's end is worth while the other one is under way or not. What only says that the other attempt has the
    /// key (409), or what would not settle an effect that the other may be executing, ends no effect: the other's answer does.
    fn class_of(&self, end: &AttemptEnd, outgoing: &Outgoing<'_>, is_other_out: bool) -> ResponseClass {
        let is_inconclusive = outgoing.lease.is_some() && !self.resend.rules.settles_unknown(end);
        match ResponseClass::of(end) {
            ResponseClass::Success if is_other_out && is_inconclusive => ResponseClass::Failure,
            class => class,
        }
    }

    /// The second attempt; none where the claim does not stand any more.
    async fn extra(&self, outgoing: &Outgoing<'_>, mark: AttemptMark, tried: Tried) -> Option<Tail> {
        let begin_by = outgoing.begin_by().await?;
        self.metrics.hedged();
        Some(self.one(outgoing, begin_by, mark, self.upstream.intake().pick(tried)).await)
    }

    /// An attempt that is not the call's end still proves something: one that is cancelled, that nobody knows.
    fn lose(&self, end: &AttemptEnd, made: &mut Made) {
        made.tally = made.tally.after(end, &self.resend.rules);
    }
}
