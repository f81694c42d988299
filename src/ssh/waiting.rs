//! Connections that have not authenticated yet: a bounded number of seats, and the oldest sitter gives way.
//!
//! A user's client shows its key within milliseconds, so it is never the oldest; a crowd of connections that say
//! nothing pushes out one another.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::observe::metrics;

pub(super) struct Waiting {
    seats: Mutex<VecDeque<Weak<Seat>>>,
    capacity: usize,
}

/// One connection's progress from its first byte to its first session.
pub(super) struct Seat {
    progress: AtomicU8,
    evict: CancellationToken,
    begun: Instant,
    last_session: Mutex<Option<Instant>>,
}

const HANDSHAKE: u8 = 0;
const AUTHENTICATED: u8 = 1;
const SETTLED: u8 = 2;

impl Waiting {
    pub(super) fn new(capacity: usize) -> Self {
        Self { seats: Mutex::new(VecDeque::new()), capacity }
    }

    /// Takes a seat, evicting the oldest sitter if there is none left.
    pub(super) fn enter(&self) -> Arc<Seat> {
        let seat = Arc::new(Seat {
            progress: AtomicU8::new(HANDSHAKE),
            evict: CancellationToken::new(),
            begun: Instant::now(),
            last_session: Mutex::default(),
        });
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        seats.push_back(Arc::downgrade(&seat));
        if seats.len() > self.capacity {
            // Those who have left or logged in hold no seat any more.
            seats.retain(|s| s.upgrade().is_some_and(|s| !s.is_authenticated()));
        }
        while seats.len() > self.capacity {
            if let Some(oldest) = seats.pop_front().and_then(|s| s.upgrade()) {
                oldest.evict.cancel();
            }
        }
        seat
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if !self.is_authenticated() {
            metrics::CONNECTIONS.of(&["left"]).add(1);
        }
    }
}

impl Seat {
    /// The client has proved a known key.
    pub(super) fn authenticated(&self) {
        self.progress.store(AUTHENTICATED, Ordering::Relaxed);
        metrics::HANDSHAKE.since(self.begun);
        metrics::CONNECTIONS.of(&["authenticated"]).add(1);
        metrics::AUTH.of(&["publickey", "accepted"]).add(1);
    }

    /// The client has asked for its first session: the small packets of the handshake are over.
    pub(super) fn settled(&self) {
        self.progress.store(SETTLED, Ordering::Relaxed);
    }

    pub(super) fn is_authenticated(&self) -> bool {
        self.progress.load(Ordering::Relaxed) >= AUTHENTICATED
    }

    pub(super) fn is_settled(&self) -> bool {
        self.progress.load(Ordering::Relaxed) == SETTLED
    }

    /// A session of this connection has ended on our side; its client may still be taking the end of it.
    pub(super) fn session_ended(&self) {
        *self.last_session.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    pub(super) fn last_session(&self) -> Option<Instant> {
        *self.last_session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when the seat is needed for somebody else.
    pub(super) async fn evicted(&self) {
        self.evict.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_who_has_not_logged_in_gives_way() {
        let waiting = Waiting::new(2);
        let (first, second) = (waiting.enter(), waiting.enter());
        first.authenticated();
        let third = waiting.enter();
        assert!(!first.evict.is_cancelled() && !second.evict.is_cancelled());
        let _fourth = waiting.enter();
        assert!(second.evict.is_cancelled() && !third.evict.is_cancelled());
    }
}
