//! What one attempt proves about the effect, and how proofs join over attempts.
//!
//! The transport supplies [`AttemptEnd`]; [`AnswerRules`] turn it into a [`Verdict`]; [`Tally`] folds the
//! verdicts of all attempts. Nobody guesses from error text.

use http::StatusCode;

/// How one attempt ended, as the transport saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// Provably no byte of the request reached the upstream.
    NotSent(NotSent),
    /// A complete answer came back (its body was read to the end, or is being streamed after its head).
    Answered {
        /// The upstream's status.
        status: StatusCode,
        /// The upstream's own word on the effect, from its `Semel-Effect` header.
        mark: Option<EffectMark>,
    },
    /// Bytes may have been written and no complete answer came back.
    Lost(Lost),
}

/// Why the request provably never left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NotSent {
    /// The upstream's name did not resolve.
    Dns,
    /// TCP connect failed (refused, unreachable) before any request byte.
    ConnectFailed,
    /// TCP connect did not finish in its time.
    ConnectTimeout,
    /// The HTTP client handed the request back unsent.
    HandedBack,
    /// The pooled connection was dead: the socket accepted no byte since dispatch.
    NoByteWritten,
    /// Our own limiter, breaker, pool bound or deadline refused before sending.
    RefusedHere,
}

/// Why nobody knows what the upstream did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lost {
    /// The attempt's time was over before a complete answer.
    Timeout,
    /// The connection was reset or closed before the head of an answer.
    ConnectionLost,
    /// The answer's head came but its body ended early or broke.
    Truncated,
    /// The bytes that came back were not a valid HTTP answer.
    Malformed,
}

/// The value of a `Semel-Effect` header: somebody downstream says what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EffectMark {
    /// The effect was not and will not be executed by this request.
    None,
    /// The effect was executed.
    Committed,
    /// Whoever answers does not know.
    Unknown,
    /// The effect is still being executed.
    Open,
}

impl EffectMark {
    /// Reads a header value; unknown words are `None` (the header is then ignored).
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        match value.trim() {
            "none" => Some(Self::None),
            "committed" => Some(Self::Committed),
            "unknown" => Some(Self::Unknown),
            "open" => Some(Self::Open),
            _ => None,
        }
    }

    /// The header value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Committed => "committed",
            Self::Unknown => "unknown",
            Self::Open => "open",
        }
    }
}

/// What is known about the effect. Ordered by strength: `executed > unknown > not executed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Surely not executed: the key may be released.
    NotExecuted,
    /// Nobody knows: never re-run silently.
    Unknown,
    /// Executed: settle it.
    Executed,
}

/// How a route reads answers: which statuses prove what.
///
/// The defaults are assumptions about well-behaved upstreams (`semel explain` prints them); a route may withdraw or add
/// to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerRules {
    /// Statuses that prove the effect was *not* executed.
    pub not_executed: StatusSet,
    /// Statuses that settle the effect whatever their class, also after an unknown attempt.
    pub settling: StatusSet,
}

impl AnswerRules {
    /// Statuses believed to be answered before anything was executed: authentication and authorisation failures
    /// (RFC 9110 §15.5.2, §15.5.4), `425 Too Early` (RFC 8470 §5.2) and `429 Too Many Requests` (RFC 6585 §4).
    pub const DEFAULT_NOT_EXECUTED: [u16; 4] = [401, 403, 425, 429];

    /// What one attempt proves when nothing is known from earlier attempts.
    #[must_use]
    pub fn verdict(&self, end: &AttemptEnd) -> Verdict {
        match end {
            AttemptEnd::NotSent(_) => Verdict::NotExecuted,
            AttemptEnd::Lost(_) => Verdict::Unknown,
            AttemptEnd::Answered { mark: Some(mark), .. } => match mark {
                EffectMark::None => Verdict::NotExecuted,
                EffectMark::Committed => Verdict::Executed,
                EffectMark::Unknown | EffectMark::Open => Verdict::Unknown,
            },
            AttemptEnd::Answered { status, mark: None } => self.verdict_of_status(*status),
        }
    }

    fn verdict_of_status(&self, status: StatusCode) -> Verdict {
        if self.settling.contains(status) {
            return Verdict::Executed;
        }
        if self.not_executed.contains(status) {
            return Verdict::NotExecuted;
        }
        match status.as_u16() {
            // 408: the server gave up reading; how much it acted on is its secret.
            408 => Verdict::Unknown,
            200..=499 => Verdict::Executed,
            _ => Verdict::Unknown,
        }
    }

    /// Whether this attempt alone settles an effect that an earlier attempt left unknown.
    ///
    /// Refusals and conflicts (404, 409, 412, …) may be the upstream's reaction to the *earlier* attempt having
    /// executed, so only success, the upstream's explicit word, or a status the route calls settling count.
    #[must_use]
    pub fn settles_unknown(&self, end: &AttemptEnd) -> bool {
        match end {
            AttemptEnd::Answered { mark: Some(mark), .. } => *mark == EffectMark::Committed,
            AttemptEnd::Answered { status, mark: None } => status.is_success() || self.settling.contains(*status),
            AttemptEnd::NotSent(_) | AttemptEnd::Lost(_) => false,
        }
    }
}

impl Default for AnswerRules {
    fn default() -> Self {
        Self { not_executed: Self::DEFAULT_NOT_EXECUTED.into_iter().collect(), settling: StatusSet::default() }
    }
}

/// The joined verdict of all attempts made so far under one claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally(Verdict);

impl Tally {
    /// A fresh claim: nothing was sent yet.
    pub const NOTHING_SENT: Self = Self(Verdict::NotExecuted);
    /// A claim taken over from an unknown outcome: what happened before stays unknown until something settles it.
    pub const AFTER_UNKNOWN: Self = Self(Verdict::Unknown);

    /// Joins the next attempt's proof: `executed > unknown > not executed`, and what follows an unknown attempt can
    /// settle it but never take it back.
    #[must_use]
    pub fn after(self, end: &AttemptEnd, rules: &AnswerRules) -> Self {
        Self(match self.0 {
            Verdict::Executed => Verdict::Executed,
            Verdict::Unknown if rules.settles_unknown(end) => Verdict::Executed,
            Verdict::Unknown => Verdict::Unknown,
            Verdict::NotExecuted => rules.verdict(end),
        })
    }

    /// What is known now.
    #[must_use]
    pub const fn verdict(self) -> Verdict {
        self.0
    }
}

/// A set of HTTP statuses (100 to 599), one bit each.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct StatusSet([u64; 8]);

impl StatusSet {
    const FIRST: u16 = 100;
    const LAST: u16 = 599;

    /// Adds a status. Statuses outside 100 to 599 are ignored: no upstream's answer carries them past the parser.
    pub fn insert(&mut self, status: u16) {
        if let Some((word, bit)) = Self::place(status) {
            self.0[word] |= bit;
        }
    }

    /// Whether `status` is in the set.
    #[must_use]
    pub fn contains(&self, status: StatusCode) -> bool {
        Self::place(status.as_u16()).is_some_and(|(word, bit)| self.0[word] & bit != 0)
    }

    /// The statuses, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (Self::FIRST..=Self::LAST).filter(|s| Self::place(*s).is_some_and(|(word, bit)| self.0[word] & bit != 0))
    }

    fn place(status: u16) -> Option<(usize, u64)> {
        (Self::FIRST..=Self::LAST).contains(&status).then(|| {
            let i = usize::from(status - Self::FIRST);
            (i / 64, 1 << (i % 64))
        })
    }
}

impl FromIterator<u16> for StatusSet {
    fn from_iter<I: IntoIterator<Item = u16>>(statuses: I) -> Self {
        let mut set = Self::default();
        statuses.into_iter().for_each(|s| set.insert(s));
        set
    }
}

impl std::fmt::Debug for StatusSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16) -> AttemptEnd {
        AttemptEnd::Answered { status: StatusCode::from_u16(status).unwrap(), mark: None }
    }

    fn marked(status: u16, mark: EffectMark) -> AttemptEnd {
        AttemptEnd::Answered { status: StatusCode::from_u16(status).unwrap(), mark: Some(mark) }
    }

    #[test]
    fn the_table_of_one_attempt() {
        let rules = AnswerRules::default();
        for (status, verdict) in [
            (200, Verdict::Executed),
            (202, Verdict::Executed),
            (303, Verdict::Executed),
            (400, Verdict::Executed),
            (404, Verdict::Executed),
            (409, Verdict::Executed),
            (422, Verdict::Executed),
            (401, Verdict::NotExecuted),
            (403, Verdict::NotExecuted),
            (425, Verdict::NotExecuted),
            (429, Verdict::NotExecuted),
            (408, Verdict::Unknown),
            (500, Verdict::Unknown),
            (502, Verdict::Unknown),
            (503, Verdict::Unknown),
            (504, Verdict::Unknown),
        ] {
            assert_eq!(rules.verdict(&answered(status)), verdict, "{status}");
        }
        assert_eq!(rules.verdict(&AttemptEnd::NotSent(NotSent::ConnectFailed)), Verdict::NotExecuted);
        assert_eq!(rules.verdict(&AttemptEnd::Lost(Lost::Timeout)), Verdict::Unknown);
    }

    #[test]
    fn the_upstreams_word_goes_before_its_status() {
        let rules = AnswerRules::default();
        assert_eq!(rules.verdict(&marked(500, EffectMark::None)), Verdict::NotExecuted);
        assert_eq!(rules.verdict(&marked(503, EffectMark::Committed)), Verdict::Executed);
        assert_eq!(rules.verdict(&marked(200, EffectMark::Unknown)), Verdict::Unknown);
        assert_eq!(rules.verdict(&marked(409, EffectMark::Open)), Verdict::Unknown);
    }

    #[test]
    fn nothing_after_an_unknown_attempt_releases_the_effect() {
        let rules = AnswerRules::default();
        let lost = Tally::NOTHING_SENT.after(&AttemptEnd::Lost(Lost::Timeout), &rules);
        let mut ends: Vec<_> =
            [400, 401, 403, 404, 408, 409, 410, 412, 422, 423, 425, 429, 500, 503].map(answered).into();
        ends.push(AttemptEnd::NotSent(NotSent::ConnectFailed));
        ends.push(marked(200, EffectMark::None));
        for end in ends {
            assert_eq!(lost.after(&end, &rules).verdict(), Verdict::Unknown, "{end:?}");
        }
        for end in [answered(200), answered(201), marked(409, EffectMark::Committed)] {
            assert_eq!(lost.after(&end, &rules).verdict(), Verdict::Executed, "{end:?}");
        }
    }

    #[test]
    fn a_route_may_list_and_withdraw_statuses() {
        let rules = AnswerRules { not_executed: [503].into_iter().collect(), settling: [500].into_iter().collect() };
        assert_eq!(rules.verdict(&answered(503)), Verdict::NotExecuted);
        assert_eq!(rules.verdict(&answered(429)), Verdict::Executed);
        assert_eq!(Tally::AFTER_UNKNOWN.after(&answered(500), &rules).verdict(), Verdict::Executed);
    }

    #[test]
    fn a_status_set_holds_what_was_put_in() {
        let set: StatusSet = [100, 163, 164, 599, 600, 99].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [100, 163, 164, 599]);
    }
}
