//! A breaker's state in one word, so that it changes in one exchange.

/// Which of the three it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Closed,
    Open,
    HalfOpen,
}

/// 2 bits of kind, 14 of epoch, 8 of openings, 40 of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) kind: Kind,
    /// Counts changes, so that a call can tell whether its state still stands. It wraps after hours of constant change.
    pub(super) epoch: u64,
    /// Openings in a row, without a rest between them.
    pub(super) openings: u8,
    /// Milliseconds from the breaker's start. Closed: since when. Open: until when. Half-open: when the probe left.
    pub(super) at_ms: u64,
}

impl State {
    pub(super) const INITIAL: Self = Self { kind: Kind::Closed, epoch: 0, openings: 0, at_ms: 0 };

    const EPOCHS: u64 = 1 << 14;
    /// Three decades.
    const AT_MS_MAX: u64 = (1 << 40) - 1;

    /// The state that follows this one.
    pub(super) const fn next(self, kind: Kind, at_ms: u64) -> Self {
        Self { kind, epoch: (self.epoch + 1) % Self::EPOCHS, openings: self.openings, at_ms }
    }

    pub(super) fn pack(self) -> u64 {
        let kind = match self.kind {
            Kind::Closed => 0,
            Kind::Open => 1,
            Kind::HalfOpen => 2,
        };
        kind << 62 | self.epoch << 48 | u64::from(self.openings) << 40 | self.at_ms.min(Self::AT_MS_MAX)
    }

    pub(super) const fn unpack(packed: u64) -> Self {
        let kind = match packed >> 62 {
            0 => Kind::Closed,
            1 => Kind::Open,
            _ => Kind::HalfOpen,
        };
        Self {
            kind,
            epoch: packed >> 48 & (Self::EPOCHS - 1),
            openings: (packed >> 40 & 0xFF) as u8,
            at_ms: packed & Self::AT_MS_MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trips(kind in 0..3_u8, epoch in 0..State::EPOCHS, openings: u8, at_ms in 0..=State::AT_MS_MAX) {
            let kind = [Kind::Closed, Kind::Open, Kind::HalfOpen][usize::from(kind)];
            let state = State { kind, epoch, openings, at_ms };
            prop_assert_eq!(State::unpack(state.pack()), state);
        }
    }
}
