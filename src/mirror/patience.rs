//! How long a session with a peer may last: as long as it gets on.
//!
//! Each byte that moves puts its end off, so that a large repository on a slow line arrives, however long that takes,
//! and a peer that hangs is left soon. A peer that says nothing but that it is still at work (it checks what it was
//! sent) is waited for much longer, and not for ever.

use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::MirrorError;

/// Work without a byte to show for it may take so many times what silence may: six hours by default.
pub(super) const AT_WORK: u32 = 24;
/// An empty packet of progress, the sign of life of a git that receives (git-config(1), `receive.keepAlive`).
const KEEP_ALIVE: &[u8] = b"0005\x02";

/// The deadlines of one session.
#[derive(Debug)]
pub(super) struct Patience {
    began: Instant,
    limit: Duration,
    /// When silence is over, and when work without a result is, in milliseconds after `began`.
    silence: AtomicU64,
    work: AtomicU64,
}

impl Patience {
    /// Nothing may move for `limit`.
    pub(super) fn new(limit: Duration) -> Self {
        let patience = Self { began: Instant::now(), limit, silence: AtomicU64::new(0), work: AtomicU64::new(0) };
        patience.moved(Duration::ZERO);
        patience
    }

    /// Something got on, and is to rest for so long before the next piece goes.
    pub(super) fn moved(&self, rest: Duration) {
        self.is_alive(rest);
        self.put_off(&self.work, rest.saturating_add(self.limit.saturating_mul(AT_WORK)));
    }

    fn is_alive(&self, rest: Duration) {
        self.put_off(&self.silence, rest.saturating_add(self.limit));
    }

    fn put_off(&self, end: &AtomicU64, by: Duration) {
        let at = self.began.elapsed().saturating_add(by);
        end.fetch_max(u64::try_from(at.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// When it is over, if nothing moves, and what that is called.
    fn end(&self) -> (Duration, MirrorError) {
        let [silence, work] = [&self.silence, &self.work].map(|end| Duration::from_millis(end.load(Ordering::Relaxed)));
        match silence <= work {
            true => (silence, MirrorError::Timeout(self.limit)),
            false => (work, MirrorError::Timeout(self.limit.saturating_mul(AT_WORK))),
        }
    }

    /// Waits for `work` as long as it gets on.
    pub(super) async fn with<T>(&self, work: impl Future<Output = T>) -> Result<T, MirrorError> {
        let mut work = pin!(work);
        loop {
            let (end, error) = self.end();
            let left = end.saturating_sub(self.began.elapsed());
            if left.is_zero() {
                return Err(error);
            }
            if let Ok(done) = tokio::time::timeout(left, &mut work).await {
                return Ok(done);
            }
        }
    }

    /// A stream whose bytes count.
    pub(super) fn watch<S>(&self, stream: S) -> Watched<'_, S> {
        Watched { stream, patience: self }
    }
}

/// See [`Patience::watch`].
pub(super) struct Watched<'a, S> {
    stream: S,
    patience: &'a Patience,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<'_, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        match &buffer.filled()[before..] {
            [] => {}
            said if is_sign_of_life(said) => self.patience.is_alive(Duration::ZERO),
            _ => self.patience.moved(Duration::ZERO),
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.patience.moved(Duration::ZERO);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Whether it is nothing but signs of life. One that was cut in two counts as more than it is, which does no harm.
fn is_sign_of_life(said: &[u8]) -> bool {
    said.chunks(KEEP_ALIVE.len()).all(|packet| packet == KEEP_ALIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(900);

    /// How much later than at first it ends, in whole limits, after what was read.
    async fn put_off(said: &[u8]) -> (u64, u64) {
        let patience = Patience { began: Instant::now() - 10 * LIMIT, ..Patience::new(LIMIT) };
        tokio::io::copy(&mut patience.watch(said), &mut tokio::io::sink()).await.unwrap();
        let limits = |end: &AtomicU64| end.load(Ordering::Relaxed) / 900_000;
        (limits(&patience.silence), limits(&patience.work))
    }

    #[tokio::test]
    async fn bytes_put_the_end_off_and_signs_of_life_not_for_ever() {
        assert_eq!(put_off(b"").await, (1, 24));
        assert_eq!(put_off(b"0005\x02").await, (11, 24));
        assert_eq!(put_off(b"0005\x020005\x02").await, (11, 24));
        assert_eq!(put_off(b"0005\x020008\x02abc").await, (11, 34));
        assert_eq!(put_off(b"0000").await, (11, 34));
        // What ends first is what is told.
        let patience = Patience::new(LIMIT);
        assert!(matches!(patience.end(), (LIMIT, MirrorError::Timeout(LIMIT))));
        patience.silence.store(u64::MAX, Ordering::Relaxed);
        assert!(matches!(patience.end().1, MirrorError::Timeout(long) if long == 24 * LIMIT));
    }

    #[tokio::test]
    async fn what_moves_nothing_is_left_and_what_rests_is_waited_for() {
        let limit = Duration::from_millis(20);
        let hung = Patience::new(limit).with(std::future::pending::<()>()).await;
        assert!(matches!(hung, Err(MirrorError::Timeout(told)) if told == limit));
        let patience = Patience::new(limit);
        patience.moved(Duration::from_secs(60));
        assert!(patience.with(tokio::time::sleep(2 * limit)).await.is_ok());
    }
}
