//! Sending a large pack: as long as it needs a processor, it has a turn.
//!
//! Encrypting for a client that takes all it can get keeps a processor as busy as making the pack did, and sixteen of
//! those at once leave one seventeenth of the machine to anybody else. One after the other, they are done no later,
//! and the machine answers meanwhile. A client behind a slow line needs next to nothing, so it has no turn for long.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::turns::Turn;

/// How often it is looked whether the client is a fast one.
const LOOK: Duration = Duration::from_millis(500);
/// Who takes fewer bytes than this between two looks does not need the turn: 32 MiB a second.
const FAST: u64 = 16 << 20;
/// Nobody has a turn for longer while others wait for theirs, however large the pack is.
const LONGEST: Duration = Duration::from_secs(10);

/// What sends one pack, with its turn or without one. Never holds back a byte.
pub(super) struct Sending {
    /// Kept by whoever makes the pack, too, until it is made.
    turn: Option<Arc<Turn>>,
    begun: Instant,
    looked: Instant,
    /// Bytes since the last look.
    sent: u64,
}

impl Sending {
    pub(super) fn new(turn: Option<Arc<Turn>>) -> Self {
        let now = Instant::now();
        Self { turn, begun: now, looked: now, sent: 0 }
    }

    /// Writes a piece of the pack to its end, and gives the turn back when the client does not need it.
    pub(super) async fn write(&mut self, to: &mut (impl AsyncWrite + Unpin), piece: &[u8]) -> io::Result<()> {
        if self.turn.is_none() {
            return to.write_all(piece).await;
        }
        let mut writing = std::pin::pin!(to.write_all(piece));
        match tokio::time::timeout(LOOK, &mut writing).await {
            Ok(written) => written?,
            Err(_) => {
                self.turn = None;
                return writing.await;
            }
        }
        self.look(Instant::now(), piece.len());
        Ok(())
    }

    /// Waits for the next piece. While none comes, nothing is encrypted, so the turn is given back: but for that of
    /// whoever has the pack made, which the making needs in any case.
    pub(super) async fn waits<T>(&mut self, next: impl Future<Output = T>) -> T {
        let mut next = std::pin::pin!(next);
        match tokio::time::timeout(LOOK, &mut next).await {
            Ok(next) => next,
            Err(_) => {
                self.turn.take_if(|turn| Arc::strong_count(turn) == 1);
                next.await
            }
        }
    }

    fn look(&mut self, now: Instant, sent: usize) {
        self.sent += sent as u64;
        if now.duration_since(self.looked) >= LOOK {
            if self.sent < FAST || now.duration_since(self.begun) >= LONGEST {
                self.turn = None;
            }
            (self.looked, self.sent) = (now, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::turns::Turns;
    use super::*;

    fn sending() -> (Turns, Sending) {
        let turns = Turns::new(1);
        let turn = turns.ask("alice").ok().expect("free");
        (turns, Sending::new(Some(Arc::new(turn))))
    }

    #[test]
    fn a_fast_client_has_its_turn_for_ten_seconds_and_a_slow_one_for_half_a_second() {
        let (_turns, mut fast) = sending();
        let begun = fast.begun;
        for n in 1..=1000 {
            fast.look(begun + Duration::from_millis(10 * n), 1 << 20);
            assert_eq!(fast.turn.is_some(), n < 1000, "after {n} hundredths of a second");
        }
        let (_turns, mut slow) = sending();
        slow.look(slow.begun + Duration::from_millis(499), 1 << 20);
        assert!(slow.turn.is_some());
        slow.look(slow.begun + LOOK, 1 << 20);
        assert!(slow.turn.is_none());
    }

    #[tokio::test]
    async fn a_client_that_stops_reading_gives_its_turn_away() {
        let (turns, mut stuck) = sending();
        let (mut ours, theirs) = tokio::io::duplex(1024);
        let writing = tokio::spawn(async move { stuck.write(&mut ours, &[0; 4096]).await });
        let mut place = turns.ask("bob").err().expect("it is taken");
        drop(place.turn().await);
        drop(theirs);
        assert!(writing.await.expect("no panic").is_err());
    }

    #[tokio::test]
    async fn who_waits_for_the_next_piece_has_no_turn() {
        let (turns, mut reader) = sending();
        let never = || std::future::pending::<()>();
        assert!(tokio::time::timeout(2 * LOOK, reader.waits(never())).await.is_err());
        let turn = Arc::new(turns.ask("bob").ok().expect("it was given back"));
        let mut maker = Sending::new(Some(turn.clone()));
        assert!(tokio::time::timeout(2 * LOOK, maker.waits(never())).await.is_err());
        assert!(maker.turn.is_some(), "the pack is still made with it");
        drop(turn);
        maker.waits(async {}).await;
        assert!(maker.turn.is_some(), "the next piece was there");
    }
}
