//! How long to wait after failures. Pure.

use std::time::Duration;

/// The pauses after failures.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backoff {
    pub first: Duration,
    pub max: Duration,
}

impl Backoff {
    /// The pause after `failures` in a row, of which `dice` in [0, 1) takes up to half away, so that peers and
    /// repositories which failed together do not come back together.
    pub(super) fn pause(self, failures: u32, dice: f64) -> Duration {
        let doubled = self.first.saturating_mul(1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        doubled.min(self.max).mul_f64(1.0 - dice / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_grow_to_the_limit_and_scatter() {
        let backoff = Backoff { first: SECOND, max: 8 * SECOND };
        let pauses: Vec<u64> = (1..6).map(|n| backoff.pause(n, 0.0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 8]);
        assert_eq!(backoff.pause(4, 0.5), 6 * SECOND);
        assert!(backoff.pause(u32::MAX, 0.999) >= 4 * SECOND);
    }
}
