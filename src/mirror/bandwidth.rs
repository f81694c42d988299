//! The share of a link that mirror pushes may take: a bucket of bytes that fills at the configured rate. Pure.

use std::time::{Duration, Instant};

/// What may go at once after a rest, as a part of a second's bytes.
const BURST_SECONDS: f64 = 0.25;

/// One peer's bucket. All pushes to it draw from it, also below zero: who does waits until it is level again, and those
/// who come meanwhile wait behind.
#[derive(Debug)]
pub(super) struct Bucket {
    level: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn new(now: Instant) -> Self {
        Self { level: 0.0, at: now }
    }

    /// How long `bytes` must wait before they go, at `rate` bytes a second; the rate may change between calls.
    pub(super) fn take(&mut self, bytes: usize, rate: u64, now: Instant) -> Duration {
        // Rates and pieces are far below 2^52, where a float loses nothing that matters here.
        let rate = rate.max(1) as f64;
        let filled = now.saturating_duration_since(self.at).as_secs_f64() * rate;
        self.level = (self.level + filled).min(rate * BURST_SECONDS) - bytes as f64;
        self.at = now;
        Duration::from_secs_f64((-self.level / rate).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Senders side by side, each of which waits as it is told before it sends.
    fn sent(senders: usize, piece: usize, rate: u64, seconds: u64) -> f64 {
        let start = Instant::now();
        let (mut bucket, end) = (Bucket::new(start), start + Duration::from_secs(seconds));
        let mut free = vec![start; senders];
        let mut total = 0;
        loop {
            let next = *free.iter().min().expect("there are some");
            let sender = free.iter().position(|at| *at == next).expect("it is one of them");
            free[sender] = next + bucket.take(piece, rate, next);
            if free[sender] > end {
                return total as f64;
            }
            total += piece;
        }
    }

    #[test]
    fn all_senders_together_keep_to_the_rate_and_use_it() {
        for (senders, piece, rate) in [(1, 65_536, 1 << 20), (4, 65_536, 1 << 20), (3, 65_536, 10_000), (8, 100, 5_000)]
        {
            let (got, fair) = (sent(senders, piece, rate, 60), (rate * 60) as f64);
            assert!(got <= fair + piece as f64, "{senders} {piece} {rate}: {got} of {fair}");
            assert!(got >= fair - (senders * piece) as f64, "{senders} {piece} {rate}: {got} of {fair}");
        }
    }

    #[test]
    fn a_rest_is_worth_a_quarter_of_a_second_and_a_new_rate_counts_at_once() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        let later = start + Duration::from_secs(3600);
        assert_eq!(bucket.take(250, 1000, later), Duration::ZERO);
        assert_eq!(bucket.take(500, 1000, later), Duration::from_millis(500));
        assert_eq!(bucket.take(500, 10_000, later), Duration::from_millis(100));
    }
}
