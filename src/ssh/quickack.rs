//! A TCP stream that acknowledges at once during the handshake.
//!
//! OpenSSH's client leaves Nagle's algorithm on until it has logged in, so each small packet of its handshake waits
//! for our acknowledgement, which Linux delays by about 40 ms (tcp(7), TCP_QUICKACK). Quick acknowledgement wears
//! off by itself, hence it is asked for after each read until the client is in.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::waiting::Seat;

pub(super) struct Quickack {
    stream: TcpStream,
    seat: Arc<Seat>,
}

impl Quickack {
    pub(super) fn new(stream: TcpStream, seat: Arc<Seat>) -> Self {
        let quick = Self { stream, seat };
        quick.arm();
        quick
    }

    fn arm(&self) {
        if !self.seat.is_settled()
            && let Err(error) = rustix::net::sockopt::set_tcp_quickack(&self.stream, true)
        {
            tracing::trace!(%error, "no quick acknowledgement here");
        }
    }
}

impl AsyncRead for Quickack {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready() {
            self.arm();
        }
        read
    }
}

impl AsyncWrite for Quickack {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
