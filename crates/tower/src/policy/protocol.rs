//! What differs between protocols.

use http::Request;
use semel_core::policy::deadline::Deadline;

use super::{
    admission::{AllAlike, Rank, RankBy},
    classify::{ByResult, ByStatus},
    hold::{UntilAnswer, UntilBodyEnds},
    repeat::{Always, HttpRepeat},
};

/// How the layers of a [`Policies`](super::Policies) read requests and answers.
pub trait Protocol {
    /// Which requests may be sent again: a [`Repeat`](super::Repeat).
    type Repeat;
    /// What failed: a [`Classify`](super::Classify).
    type Classify: Default;
    /// Until when a call is in flight: a [`Hold`](super::Hold).
    type Hold;
    /// How much a call matters: a [`RankBy`].
    type Rank: Default;

    /// Which requests may be sent again.
    fn repeat(&self) -> Self::Repeat;
}

/// Any request that can be cloned, any response: errors are failures, and a call is in flight until it is answered.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnyCall;

/// HTTP: methods say what may be repeated, statuses what failed, headers how long the caller waits; a call is in flight
/// until its answer's body ends.
#[derive(Clone, Debug, Default)]
pub struct Http {
    /// Which requests may be sent again.
    pub repeat: HttpRepeat,
}

impl Protocol for AnyCall {
    type Repeat = Always;
    type Classify = ByResult;
    type Hold = UntilAnswer;
    type Rank = AllAlike;

    fn repeat(&self) -> Always {
        Always
    }
}

impl Protocol for Http {
    type Repeat = HttpRepeat;
    type Classify = ByStatus;
    type Hold = UntilBodyEnds;
    type Rank = ByDeadline;

    fn repeat(&self) -> HttpRepeat {
        self.repeat.clone()
    }
}

/// All HTTP calls matter alike, as long as their caller waits: until the [`Deadline`] that a
/// [`DeadlineLayer`](super::DeadlineLayer) has put into the request's extensions.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByDeadline;

impl<B> RankBy<Request<B>> for ByDeadline {
    fn rank(&self, request: &Request<B>) -> Rank {
        let deadline = request.extensions().get::<Deadline>();
        deadline.map_or_else(Rank::default, |deadline| Rank::default().deadline(deadline.instant()))
    }
}
