//! What the end of an attempt says about whoever was asked.

use crate::evidence::{AttemptEnd, EffectMark, NotSent};

/// What an attempt's end says about the health of its endpoint. (The term is Finagle's.)
///
/// Not the same question as the effect's [`Verdict`](crate::evidence::Verdict): a 500 may leave an effect unknown or
/// settle it, and is a failure of the endpoint either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResponseClass {
    /// It answered as it should; a caller's own mistakes included.
    Success,
    /// It failed.
    Failure,
    /// It is well and asks for less (429): a success for breakers and ejection, or one greedy tenant would shut out
    /// all; a refusal for balancing and throttling.
    Throttled,
    /// It was not asked, or what happened was not its doing.
    Ignored,
}

impl ResponseClass {
    /// By the rules of Envoy's outlier detection: every 5xx fails, and so does what brought no answer. The exceptions,
    /// 501 and 505, are about the request.
    #[must_use]
    pub const fn of(end: &AttemptEnd) -> Self {
        match end {
            AttemptEnd::NotSent(why) => match why {
                NotSent::Dns | NotSent::ConnectFailed | NotSent::ConnectTimeout => Self::Failure,
                // A pooled connection that was dead says nothing about who is behind it.
                NotSent::HandedBack | NotSent::NoByteWritten | NotSent::RefusedHere => Self::Ignored,
            },
            AttemptEnd::Lost(_) => Self::Failure,
            // A guard that is at work on the same effect.
            AttemptEnd::Answered { mark: Some(EffectMark::Open), .. } => Self::Success,
            AttemptEnd::Answered { status, .. } => match status.as_u16() {
                429 => Self::Throttled,
                501 | 505 => Self::Success,
                500.. => Self::Failure,
                _ => Self::Success,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::Lost;
    use http::StatusCode;

    #[test]
    fn the_table() {
        let answered = |status| {
            ResponseClass::of(&AttemptEnd::Answered { status: StatusCode::from_u16(status).unwrap(), mark: None })
        };
        for (class, statuses) in [
            (ResponseClass::Success, vec![200, 204, 302, 400, 401, 404, 408, 409, 422, 501, 505]),
            (ResponseClass::Failure, vec![500, 502, 503, 504, 507, 599]),
            (ResponseClass::Throttled, vec![429]),
        ] {
            for status in statuses {
                assert_eq!(answered(status), class, "{status}");
            }
        }
        let open = AttemptEnd::Answered { status: StatusCode::SERVICE_UNAVAILABLE, mark: Some(EffectMark::Open) };
        assert_eq!(ResponseClass::of(&open), ResponseClass::Success);
        assert_eq!(ResponseClass::of(&AttemptEnd::Lost(Lost::Timeout)), ResponseClass::Failure);
        assert_eq!(ResponseClass::of(&AttemptEnd::NotSent(NotSent::ConnectFailed)), ResponseClass::Failure);
        assert_eq!(ResponseClass::of(&AttemptEnd::NotSent(NotSent::HandedBack)), ResponseClass::Ignored);
        assert_eq!(ResponseClass::of(&AttemptEnd::NotSent(NotSent::RefusedHere)), ResponseClass::Ignored);
    }
}
