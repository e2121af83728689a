//! How many calls an upstream takes at a time, found out from how long they take.
//!
//! TCP Vegas for calls (Brakmo, O'Malley, Peterson, *TCP Vegas*, 1994; Netflix's concurrency-limits, 2018), with
//! failsafe-go's correlation of limit and throughput (`adaptivelimiter`), which notices that more calls in flight no
//! longer mean more answers. The time that calls took when nothing waited is the baseline; what they take longer now is
//! spent in a queue inside the upstream, and the limit keeps that queue short.
//!
//! Where failsafe-go lets the baseline follow what calls take and lowers the limit step by step where the correlation says
//! that it is too high, the limit swings between a third and twice of what the upstream can do. Here a baseline that was
//! seen without overload stands (see [`AdaptiveLimit`]), and the correlation only decides whether one that was not is to be
//! looked for: by a short probe at a low limit, as BBR looks for the round trip (Cardwell et al., *BBR: Congestion-Based
//! Congestion Control*, 2016) and Envoy's adaptive concurrency filter for `minRTT`.

mod samples;

use self::samples::{Histogram, Median, Pairs};
use std::time::{Duration, Instant};

/// Bounds of an adaptive limit. The defaults are failsafe-go's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaptivePolicy {
    /// The least. Default: 1; never below.
    pub limit_min: u32,
    /// Where it starts. Default: 20.
    pub limit_initial: u32,
    /// The most. Default: 200.
    pub limit_max: u32,
    /// A time that no healthy call takes: a longer one is overload, whatever the baseline says, and never becomes the
    /// baseline. Default: none.
    pub max_healthy_rtt: Option<Duration>,
}

impl Default for AdaptivePolicy {
    fn default() -> Self {
        Self { limit_min: 1, limit_initial: 20, limit_max: 200, max_healthy_rtt: None }
    }
}

/// A limit that follows what the upstream can do.
///
/// The baseline falls with any shorter time, and rises only while the limit is not reached. If the upstream is overloaded
/// from the first call on, a probe finds it; and where the limit fell by half, a probe tells whether the upstream has
/// become slower by itself.
#[derive(Clone, Debug)]
pub struct AdaptiveLimit {
    policy: AdaptivePolicy,
    limit: f64,
    window: Window,
    median: Median,
    /// Seconds that calls take now, smoothed; `None` before the first window.
    recent: Option<f64>,
    /// Seconds that calls take where nothing waits.
    baseline: Option<f64>,
    /// Whether the baseline was ever seen without overload.
    is_proven: bool,
    probe: Option<Probe>,
    throughput_by_inflight: Pairs,
    rtt_by_inflight: Pairs,
    /// Where a row of decreases began.
    fallen_from: Option<f64>,
    in_time: InTime,
    /// When most calls had run out of time.
    collapsed_at: Option<Instant>,
    /// Up to half of it the limit doubles again: it was once the limit, and calls were answered in time.
    slow_start_to: f64,
}

/// Calls since the limit was last adjusted.
#[derive(Clone, Debug)]
struct Window {
    start: Instant,
    span: Duration,
    rtts: Histogram,
    rtt_min: Duration,
    inflight_max: u32,
    /// Calls that took the last place.
    at_limit: u32,
}

/// Calls since somebody last looked whether they are answered in time.
#[derive(Clone, Copy, Debug)]
struct InTime {
    since: Instant,
    answered: u32,
    timed_out: u32,
}

/// A look at how long calls take where nothing waits.
#[derive(Clone, Copy, Debug)]
struct Probe {
    limit_before: f64,
    /// Answers a second before: with the baseline, that is what the upstream can do (Little's law).
    throughput: f64,
}

/// What to do with the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// The limit is reached and nothing waits.
    Grow,
    Increase,
    Hold,
    Decrease,
    /// Calls take at least twice the baseline, or longer than is healthy.
    BackOff,
}

/// What one window showed.
struct Signals {
    /// Calls that wait inside the upstream, by Little's law: smoothed, and in this window.
    queue: f64,
    queue_now: f64,
    is_reached: bool,
    is_unhealthy: bool,
    /// How calls' time relates to the baseline.
    slowdown: f64,
    throughput_correlation: f64,
    throughput_variation: f64,
    rtt_correlation: f64,
}

/// The limit of a probe (Envoy's `min_concurrency`), and the calls that it needs.
const PROBE_LIMIT: f64 = 3.0;
const PROBE_SAMPLES: u32 = 10;
/// Times the baseline that a call must have been given.
const FAIR_TIME: f64 = 3.0;
/// Calls that must have run out of time before it says something.
const TIMEOUTS_MIN: u32 = 5;
const WINDOW_MIN: Duration = Duration::from_secs(1);
const WINDOW_MAX: Duration = Duration::from_secs(30);
const SAMPLES_MIN: u32 = 50;
/// Of a window's calls: high enough to see the queue, low enough not to see the odd slow call.
const QUANTILE: f64 = 0.9;
/// A window counts as overloaded where this share of its calls, which is what the quantile leaves out, took the last
/// place.
const OVERLOADED_SHARE: f64 = 1.0 - QUANTILE;
/// Weights of an exponential average over 5 and 10 windows, 2 / (n + 1).
const RECENT_WEIGHT: f64 = 2.0 / 6.0;
const BASELINE_WEIGHT: f64 = 2.0 / 11.0;
/// The limit is at most this many times what is in flight: room for a burst, and no unused limit that grows for ever.
const HEADROOM: f64 = 5.0;
/// Share of the limit that it grows by while nothing waits. One step at a time, from 20 to 200 would take minutes of
/// refusals that are good for nothing; Netflix' Vegas grows by `beta` then.
const GROWTH: f64 = 0.1;
/// What is left of the limit where calls take twice the baseline (Netflix's AIMD limit).
const BACK_OFF: f64 = 0.9;

impl AdaptiveLimit {
    /// The initial limit.
    #[must_use]
    pub fn new(policy: AdaptivePolicy, now: Instant) -> Self {
        let limit_min = policy.limit_min.max(1);
        let limit_max = policy.limit_max.max(limit_min);
        let policy = AdaptivePolicy { limit_min, limit_max, ..policy };
        Self {
            policy,
            limit: f64::from(policy.limit_initial.clamp(limit_min, limit_max)),
            window: Window::new(now, WINDOW_MIN),
            median: Median::default(),
            recent: None,
            baseline: None,
            is_proven: false,
            probe: None,
            throughput_by_inflight: Pairs::empty(),
            rtt_by_inflight: Pairs::empty(),
            fallen_from: None,
            in_time: InTime::since(now),
            collapsed_at: None,
            slow_start_to: 0.0,
        }
    }

    /// Calls that may be in flight at a time; at least 1.
    #[must_use]
    pub fn limit(&self) -> u32 {
        // Between two u32 of its policy.
        self.limit as u32
    }

    /// How long calls take where nothing waits, as far as is known.
    #[must_use]
    pub fn baseline(&self) -> Option<Duration> {
        self.baseline.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    }

    /// Counts a call that ended `now`: how long it took from its admission, and how many, itself included, were in flight
    /// then. One that was cancelled proves nothing.
    ///
    /// Adjusts the limit about once a second, after at least 50 calls.
    pub fn record(&mut self, now: Instant, rtt: Duration, inflight: u32) {
        self.in_time.answered = self.in_time.answered.saturating_add(1);
        let limit = self.limit();
        // What a probe is for are the calls that were let in during it.
        if self.probe.is_none() || inflight <= limit {
            self.window.add(rtt, inflight, inflight >= limit);
        }
        // Where the clock stepped back the window begins anew: it must not wait for the clock to come back.
        let Some(elapsed) = now.checked_duration_since(self.window.start) else {
            self.window.start = now;
            return;
        };
        let samples = self.window.rtts.total();
        let is_over = match self.probe {
            Some(_) => samples >= PROBE_SAMPLES || elapsed >= WINDOW_MAX,
            None => samples >= SAMPLES_MIN && elapsed >= self.window.span,
        };
        if is_over {
            let span = self.window.rtt_min.saturating_mul(2).clamp(WINDOW_MIN, WINDOW_MAX);
            let window = std::mem::replace(&mut self.window, Window::new(now, span));
            match self.probe.take() {
                Some(probe) => self.probed(probe, &window),
                None => self.adjust(&window, elapsed),
            }
        }
    }

    /// Counts a call that ran out of time, after `took`; not one that had less time than calls take when all is well.
    ///
    /// Where most do, what is let in is work for callers that have gone, and no time of a call that was answered will ever
    /// say so: the limit is halved each second, as TCP does where a retransmission times out, and doubles again up to half of
    /// what it was once they are answered in time (slow start; Jacobson, *Congestion Avoidance and Control*, 1988).
    pub fn record_timeout(&mut self, now: Instant, took: Duration) {
        // A caller in a hurry says nothing about the upstream, and must not take everybody's places away.
        if self.baseline.is_some_and(|baseline| took.as_secs_f64() < FAIR_TIME * baseline) {
            return;
        }
        // What was let in before the limit was halved is no judgement on what it is now.
        let begun = now.checked_sub(took);
        if self.collapsed_at.is_some_and(|at| begun.is_none_or(|begun| begun < at && at <= now)) {
            return;
        }
        self.in_time.timed_out += 1;
        let InTime { since, answered, timed_out } = self.in_time;
        let elapsed = now.saturating_duration_since(since);
        if timed_out >= TIMEOUTS_MIN && timed_out > answered && elapsed >= WINDOW_MIN {
            self.collapse(now);
        }
        let is_judged = timed_out >= TIMEOUTS_MIN && elapsed >= WINDOW_MIN;
        if is_judged || elapsed >= WINDOW_MAX || now < since {
            self.in_time = InTime::since(now);
        }
    }

    fn collapse(&mut self, now: Instant) {
        self.slow_start_to = self.slow_start_to.max(self.limit);
        self.limit = (self.limit / 2.0).max(self.policy.limit_min.into());
        self.collapsed_at = Some(now);
        // What calls took that were answered nevertheless is of the time before.
        self.window = Window::new(now, WINDOW_MIN);
        (self.median, self.recent) = (Median::default(), None);
        (self.probe, self.fallen_from) = (None, None);
    }

    fn adjust(&mut self, window: &Window, elapsed: Duration) {
        let sample = window.rtts.quantile(QUANTILE);
        let recent = smooth(self.recent, self.median.add(sample), RECENT_WEIGHT);
        self.recent = Some(recent);
        let is_overloaded = f64::from(window.at_limit) >= f64::from(window.rtts.total()) * OVERLOADED_SHARE;
        let baseline = self.follow(recent, is_overloaded);

        let inflight = f64::from(window.inflight_max);
        let throughput = f64::from(window.rtts.total()) / elapsed.as_secs_f64();
        self.throughput_by_inflight.add(inflight, throughput);
        self.rtt_by_inflight.add(inflight, recent);
        let (throughput_correlation, throughput_variation) = self.throughput_by_inflight.correlation();
        let signals = Signals {
            queue: self.limit * (1.0 - baseline / recent),
            queue_now: self.limit * (1.0 - baseline / sample),
            is_reached: is_overloaded,
            // Not smoothed: by the time that an average notices, the limit would long be too low.
            is_unhealthy: sample > self.healthy(),
            slowdown: recent / baseline,
            throughput_correlation,
            throughput_variation,
            rtt_correlation: self.rtt_by_inflight.correlation().0,
        };
        let change = change(&signals, self.limit);
        let is_suspect = is_overloaded && !self.is_proven && signals.is_futile();
        if is_suspect || self.has_halved(change, &signals) {
            self.probe = Some(Probe { limit_before: self.limit, throughput });
            self.limit = self.limit.min(PROBE_LIMIT.max(self.policy.limit_min.into()));
        } else {
            self.apply(change, inflight);
        }
    }

    /// Moves the baseline towards what calls take now. Downwards always: a shorter time is proof. Upwards only while the
    /// limit is not reached: under overload the longer time is the overload's, and a baseline that follows it lets the
    /// limit drift up with the queue that it makes.
    fn follow(&mut self, recent: f64, is_overloaded: bool) -> f64 {
        let followed = match self.baseline {
            Some(baseline) if is_overloaded && recent > baseline => baseline,
            baseline => smooth(baseline, recent, BASELINE_WEIGHT),
        };
        self.is_proven |= !is_overloaded;
        // Never zero, which nothing can be compared with.
        let baseline = followed.min(self.healthy()).max(1e-6);
        self.baseline = Some(baseline);
        baseline
    }

    fn probed(&mut self, probe: Probe, window: &Window) {
        // What was learnt before was learnt in the queue.
        (self.median, self.recent, self.fallen_from) = (Median::default(), None, None);
        (self.throughput_by_inflight, self.rtt_by_inflight) = (Pairs::empty(), Pairs::empty());
        if window.rtts.total() == 0 {
            self.limit = probe.limit_before;
            return;
        }
        let baseline = window.rtts.quantile(QUANTILE).min(self.healthy()).max(1e-6);
        (self.baseline, self.is_proven) = (Some(baseline), true);
        self.limit = (probe.throughput * baseline).clamp(self.limit, probe.limit_before);
    }

    fn healthy(&self) -> f64 {
        self.policy.max_healthy_rtt.map_or(f64::INFINITY, |healthy| healthy.as_secs_f64())
    }

    /// Whether decreases in a row have taken half of the limit: then calls are slow for another reason than each other,
    /// or the upstream can do much less than before. A probe tells which. Without it a frozen baseline would hold an
    /// upstream that has become slower at the lowest limit for ever.
    fn has_halved(&mut self, change: Change, signals: &Signals) -> bool {
        if !matches!(change, Change::Decrease | Change::BackOff) || signals.is_unhealthy {
            self.fallen_from = None;
            return false;
        }
        let from = *self.fallen_from.get_or_insert(self.limit);
        self.limit <= (from / 2.0).max(self.policy.limit_min.into())
    }

    fn apply(&mut self, change: Change, inflight: f64) {
        let step = scale(self.limit);
        if self.limit >= self.slow_start_to / 2.0 {
            self.slow_start_to = 0.0;
        } else if matches!(change, Change::Decrease | Change::BackOff) {
            // What the upstream once did is forgotten by and by.
            self.slow_start_to *= BACK_OFF;
        }
        let changed = match change {
            Change::Grow if self.limit < self.slow_start_to / 2.0 => (self.limit * 2.0).min(self.slow_start_to / 2.0),
            Change::Grow => self.limit + (self.limit * GROWTH).max(step),
            Change::Increase => self.limit + step,
            Change::Hold => self.limit,
            Change::Decrease => self.limit - step,
            Change::BackOff => (self.limit * BACK_OFF).min(self.limit - step),
        };
        let room = inflight * HEADROOM;
        // Down to the headroom step by step: what is in flight fluctuates.
        let bounded = if changed > room { room.max(self.limit - step).min(changed) } else { changed };
        self.limit = bounded.clamp(f64::from(self.policy.limit_min), f64::from(self.policy.limit_max));
    }
}

/// The rule of TCP Vegas, and what a doubled or unhealthy time adds.
fn change(signals: &Signals, limit: f64) -> Change {
    let (alpha, beta) = (3.0 * scale(limit), 6.0 * scale(limit));
    if signals.is_unhealthy || signals.queue > beta && signals.slowdown >= 2.0 {
        Change::BackOff
    } else if signals.queue > beta {
        Change::Decrease
    } else if signals.is_reached && signals.queue.max(signals.queue_now) <= scale(limit) {
        Change::Grow
    } else if signals.queue < alpha {
        Change::Increase
    } else {
        Change::Hold
    }
}

impl Signals {
    /// More calls in flight bring fewer answers, or take longer and hardly bring more (failsafe-go's `computeChange`).
    fn is_futile(&self) -> bool {
        let is_flat = self.throughput_correlation < 0.3 || self.throughput_variation < 0.2;
        self.throughput_correlation < 0.0 || self.rtt_correlation > 0.5 && is_flat
    }
}

/// Netflix's scale of a limit: its decimal logarithm, at least 1.
fn scale(limit: f64) -> f64 {
    limit.log10().max(1.0)
}

fn smooth(average: Option<f64>, sample: f64, weight: f64) -> f64 {
    average.map_or(sample, |average| average + (sample - average) * weight)
}

impl InTime {
    const fn since(now: Instant) -> Self {
        Self { since: now, answered: 0, timed_out: 0 }
    }
}

impl Window {
    fn new(start: Instant, span: Duration) -> Self {
        Self { start, span, rtts: Histogram::empty(), rtt_min: Duration::MAX, inflight_max: 0, at_limit: 0 }
    }

    fn add(&mut self, rtt: Duration, inflight: u32, at_limit: bool) {
        self.rtts.add(rtt);
        self.rtt_min = self.rtt_min.min(rtt);
        self.inflight_max = self.inflight_max.max(inflight);
        self.at_limit += u32::from(at_limit);
    }
}

#[cfg(test)]
mod tests;
