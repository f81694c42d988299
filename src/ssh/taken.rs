//! Tells a node how much of what it sent on a channel its session here has taken; [`crate::peer::ahead`] says why.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use russh::ChannelWriteHalf;
use russh::server::Msg;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::watch;

use crate::peer::ahead;

/// A session's input, which counts.
pub(super) struct Counted<R> {
    inner: R,
    reads: u32,
    taken: u64,
    told: watch::Sender<u64>,
}

impl<R> Counted<R> {
    /// With the count as it is to be told.
    pub(super) fn new(inner: R) -> (Self, watch::Receiver<u64>) {
        let (told, taken) = watch::channel(0);
        (Self { inner, reads: 0, taken: 0, told }, taken)
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Counted<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.taken += (buf.filled().len() - before) as u64;
        self.reads += 1;
        if self.reads == ahead::READS {
            self.reads = 0;
            self.told.send_replace(self.taken);
        }
        Poll::Ready(Ok(()))
    }
}

/// Serves a session, and tells meanwhile what it takes.
pub(super) async fn telling<T>(
    writer: &ChannelWriteHalf<Msg>,
    mut taken: watch::Receiver<u64>,
    session: impl Future<Output = T>,
) -> T {
    let tell = async {
        // The first word goes out before the session's first, and so before anything is sent that it would bound.
        let mut count = 0;
        while writer.extended_data_bytes(ahead::TAKEN, ahead::word(count)).await.is_ok() {
            if taken.changed().await.is_err() {
                break;
            }
            count = *taken.borrow_and_update();
        }
        std::future::pending().await
    };
    // In one task with the session: whoever waits for russh's lock of the window is always woken to let go of it.
    tokio::select! {
        biased;
        never = tell => never,
        done = session => done,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn what_is_taken_is_told_in_steps() {
        let reads = usize::try_from(ahead::READS).expect("small");
        let input = vec![b'x'; 10 * reads + 5];
        let (mut counted, taken) = Counted::new(&input[..]);
        let mut piece = [0; 10];
        for _ in 1..reads {
            counted.read_exact(&mut piece).await.expect("there is more");
        }
        assert_eq!(*taken.borrow(), 0);
        counted.read_exact(&mut piece).await.expect("there is more");
        assert_eq!(*taken.borrow(), 10 * u64::from(ahead::READS));
    }
}
