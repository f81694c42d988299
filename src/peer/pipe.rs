//! A command running on a peer: what it says, what it is told, and how it ended.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::LinkError;
use super::ahead::Ahead;
use super::link::Held;
use crate::model::HostName;

/// How far in bytes a pipe's reader may fall behind before the pipe is failed. It must hold the ref advertisement of
/// a repository with a million refs that is relayed to a slow user.
pub(super) const UNREAD_MAX: usize = 128 << 20;
/// How much of a command's stderr is kept, in bytes.
const STDERR_MAX: usize = 8 << 10;

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// `None` when the peer closed the channel without saying, or the command died of a signal.
    pub exit: Option<u32>,
    /// The first 8 KiB of it.
    pub stderr: String,
    /// The link broke, or the peer refused the command.
    pub failure: Option<LinkError>,
}

/// A running command. Dropping all of it closes the channel, upon which the peer ends the command.
pub struct Pipe {
    pub reader: PipeReader,
    pub writer: PipeWriter,
    stream: Arc<Stream>,
    _held: Arc<Held>,
}

impl Pipe {
    pub(super) fn new(stream: Arc<Stream>, writer: Pin<Box<dyn AsyncWrite + Send>>, held: Arc<Held>) -> Self {
        Self {
            reader: PipeReader { stream: stream.clone(), _held: held.clone() },
            writer: PipeWriter { stream: stream.clone(), inner: writer, _held: held.clone() },
            stream,
            _held: held,
        }
    }

    /// Waits until the peer has closed the channel; bytes not read are lost. The caller sets the deadline.
    pub async fn finish(self) -> Finished {
        poll_fn(|cx| self.stream.poll_finished(cx)).await
    }
}

/// What the command writes to its standard output.
pub struct PipeReader {
    stream: Arc<Stream>,
    _held: Arc<Held>,
}

impl AsyncRead for PipeReader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_read(cx, buf)
    }
}

/// The command's standard input, never far ahead of what the command has taken. Shutting it down sends end of file.
pub struct PipeWriter {
    stream: Arc<Stream>,
    /// russh's own writer, which keeps to the channel's window. It never learns that a channel is gone, so ours looks
    /// first and is woken when that happens.
    inner: Pin<Box<dyn AsyncWrite + Send>>,
    _held: Arc<Held>,
}

impl AsyncWrite for PipeWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.stream.poll_writable(cx))?;
        if buf.is_empty() {
            return Poll::Ready(Ok(0)); // russh calls an empty write an error
        }
        let written = ready!(self.inner.as_mut().poll_write(cx, buf))?;
        self.stream.sent(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.stream.is_closed() {
            return Poll::Ready(Ok(()));
        }
        self.inner.as_mut().poll_shutdown(cx)
    }
}

/// What has arrived on a channel and was not taken yet.
pub(super) struct Stream {
    peer: HostName,
    inner: Mutex<Arrived>,
}

#[derive(Default)]
struct Arrived {
    unread: VecDeque<u8>,
    stderr: Vec<u8>,
    ahead: Ahead,
    exit: Option<u32>,
    end_of_data: bool,
    closed: bool,
    failure: Option<String>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    finisher: Option<Waker>,
}

impl Arrived {
    fn wake_all(&mut self) {
        for waker in [&mut self.reader, &mut self.writer, &mut self.finisher] {
            if let Some(waker) = waker.take() {
                waker.wake();
            }
        }
    }

    fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }
}

impl Stream {
    pub(super) fn new(peer: HostName) -> Self {
        Self { peer, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Arrived> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails when the reader is too far behind; the stream is failed then.
    pub(super) fn receive(&self, data: &[u8]) -> Result<(), ()> {
        let mut arrived = self.lock();
        if arrived.unread.len() + data.len() > UNREAD_MAX {
            drop(arrived);
            self.fail("its data was read too slowly");
            return Err(());
        }
        arrived.unread.extend(data);
        arrived.wake_reader();
        Ok(())
    }

    pub(super) fn receive_stderr(&self, data: &[u8]) {
        let mut arrived = self.lock();
        let room = STDERR_MAX.saturating_sub(arrived.stderr.len()).min(data.len());
        arrived.stderr.extend_from_slice(&data[..room]);
    }

    /// The peer tells what its command has taken of what was sent.
    pub(super) fn taken(&self, data: &[u8]) {
        let mut arrived = self.lock();
        arrived.ahead.hear(data);
        if !arrived.ahead.is_full()
            && let Some(waker) = arrived.writer.take()
        {
            waker.wake();
        }
    }

    /// What goes out with one write is one packet.
    fn sent(&self, bytes: usize) {
        self.lock().ahead.send(bytes);
    }

    pub(super) fn end_of_data(&self) {
        let mut arrived = self.lock();
        arrived.end_of_data = true;
        arrived.wake_reader();
    }

    pub(super) fn exited(&self, status: u32) {
        self.lock().exit = Some(status);
    }

    /// The peer has closed the channel.
    pub(super) fn close(&self) {
        let mut arrived = self.lock();
        arrived.closed = true;
        arrived.wake_all();
    }

    /// The channel is lost before it was closed; only the first reason counts.
    pub(super) fn fail(&self, why: &str) {
        let mut arrived = self.lock();
        if !arrived.closed {
            arrived.failure.get_or_insert_with(|| why.to_owned());
        }
        arrived.wake_all();
    }

    /// Whether the peer closed the channel, so that we need not.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn error(&self, why: &str) -> LinkError {
        LinkError::Closed { peer: self.peer.clone(), why: why.to_owned() }
    }

    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut arrived = self.lock();
        if !arrived.unread.is_empty() {
            let (front, _) = arrived.unread.as_slices();
            let n = front.len().min(buf.remaining());
            buf.put_slice(&front[..n]);
            arrived.unread.drain(..n);
            return Poll::Ready(Ok(()));
        }
        if let Some(why) = &arrived.failure {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, self.error(why))));
        }
        if arrived.end_of_data || arrived.closed {
            return Poll::Ready(Ok(()));
        }
        arrived.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut arrived = self.lock();
        if let Some(why) = &arrived.failure {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, self.error(why))));
        }
        if arrived.closed {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, self.error("the command has ended"))));
        }
        arrived.writer = Some(cx.waker().clone());
        if arrived.ahead.is_full() { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn poll_finished(&self, cx: &mut Context<'_>) -> Poll<Finished> {
        let mut arrived = self.lock();
        if !arrived.closed && arrived.failure.is_none() {
            arrived.finisher = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Finished {
            exit: arrived.exit,
            stderr: String::from_utf8_lossy(&arrived.stderr).into_owned(),
            failure: arrived.failure.as_deref().map(|why| self.error(why)),
        })
    }
}
