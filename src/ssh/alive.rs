//! A writer that fails once its connection is gone.
//!
//! russh's channel writer waits for the client's window and for nothing else: when the connection ends in the middle
//! of that wait it waits for ever, and with it the session, its place and its git.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

pub(super) struct Alive<W> {
    inner: W,
    gone: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<W> Alive<W> {
    /// `gone` is cancelled when nobody is there any more to read.
    pub(super) fn new(inner: W, gone: &CancellationToken) -> Self {
        Self { inner, gone: Box::pin(gone.clone().cancelled_owned()) }
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Alive<W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.gone.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, "the connection is gone")));
        }
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_writer_that_waits_is_woken_when_the_connection_goes() {
        let (mut write, _read) = tokio::io::duplex(4);
        write.write_all(b"full").await.expect("it fits");
        let gone = CancellationToken::new();
        let mut alive = Alive::new(write, &gone);
        let (written, ()) = tokio::join!(alive.write_all(b"more"), async { gone.cancel() });
        assert_eq!(written.expect_err("nobody reads").kind(), io::ErrorKind::BrokenPipe);
    }
}
