//! `doctor`

use std::time::Duration;

/// Clocks that differ by more make logs and expiries misleading.
pub const SKEW_MAX: Duration = Duration::from_secs(2);

/// A question about the time: when it was sent and answered by our clock, and what the other clock said between.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    pub asked_ms: u64,
    pub answered_ms: u64,
    pub theirs_ms: u64,
}

impl Moment {
    /// By how many milliseconds the other clock is certainly ahead (positive) or behind (negative): what lies outside
    /// the time that the question took. `None` when our own clock was set back meanwhile.
    pub fn skew_ms(self) -> Option<i64> {
        let Self { asked_ms, answered_ms, theirs_ms } = self;
        if answered_ms < asked_ms {
            return None;
        }
        let away = |from: u64| i64::try_from(theirs_ms).ok()?.checked_sub(i64::try_from(from).ok()?);
        if theirs_ms > answered_ms {
            away(answered_ms)
        } else if theirs_ms < asked_ms {
            away(asked_ms)
        } else {
            Some(0)
        }
    }
}
