//! The first words of a connection, read before the protocol engine reads them.
//!
//! The client's order of ciphers decides (RFC 4253, section 7.1), and OpenSSH prefers ChaCha20 everywhere, also between
//! machines that encrypt AES in hardware half again as fast. We cannot reorder its list, but we can leave ChaCha20 out
//! of ours, for a client that has said that it knows AES-GCM: OpenSSH says so right after it has our identification
//! line. So that line is sent here, the client's offer is read ahead, and the engine then gets both again as if nothing
//! had been read. A client that waits for our offer first is not waited for.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// Clients that send their offer without waiting for ours.
const EAGER: &[u8] = b"SSH-2.0-OpenSSH_";
/// How long such a client's offer is waited for; one round trip is usual.
const OFFER_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest identification line, with its end (RFC 4253, section 4.2).
const LINE_MAX: usize = 255;
/// Longest packet that every side must take (RFC 4253, section 6.1).
const PACKET_MAX: usize = 35_000;
const MSG_KEXINIT: u8 = 20;
const AES_GCM: [&str; 2] = ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com"];

/// A stream of which some has been read already, and some written.
pub(super) struct Hello<S> {
    stream: S,
    heard: Vec<u8>,
    /// Bytes of `heard` that have been handed on.
    handed: usize,
    /// Bytes that the engine will write and the client has got already.
    written: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Hello<S> {
    /// Sends our identification line. The second value is true for a client that had better get AES-GCM.
    pub(super) async fn say(mut stream: S, identification: &str) -> io::Result<(Self, bool)> {
        let line = format!("{identification}\r\n");
        stream.write_all(line.as_bytes()).await?;
        stream.flush().await?;
        let mut hello = Self { stream, heard: Vec::with_capacity(2048), handed: 0, written: line.len() };
        let end = loop {
            match hello.heard.iter().position(|b| *b == b'\n') {
                Some(end) => break end + 1,
                // No SSH client: the engine will say so.
                None if hello.heard.len() > LINE_MAX || !hello.listen().await? => return Ok((hello, false)),
                None => {}
            }
        };
        if !hello.heard.starts_with(EAGER) || !has_aes() {
            return Ok((hello, false));
        }
        let offer = async {
            while packet(&hello.heard[end..]).is_none() && hello.heard.len() < end + PACKET_MAX {
                if !hello.listen().await? {
                    break;
                }
            }
            Ok::<_, io::Error>(())
        };
        match tokio::time::timeout(OFFER_TIMEOUT, offer).await {
            Ok(read) => read?,
            Err(_) => return Ok((hello, false)),
        }
        let gcm = packet(&hello.heard[end..]).is_some_and(offers_aes_gcm);
        Ok((hello, gcm))
    }

    /// Reads some more; false at the end of the stream. A cancelled read loses nothing.
    async fn listen(&mut self) -> io::Result<bool> {
        self.heard.reserve(2048);
        Ok(self.stream.read_buf(&mut self.heard).await? > 0)
    }
}

/// Whether this machine encrypts AES in hardware.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// The payload of the first, unencrypted, packet (RFC 4253, section 6), once it is there.
fn packet(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk()?;
    let whole = rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    let (padding, rest) = whole.split_first()?;
    rest.get(..rest.len().checked_sub(usize::from(*padding))?)
}

/// Whether a KEXINIT (RFC 4253, section 7.1) names AES-GCM for both directions.
fn offers_aes_gcm(payload: &[u8]) -> bool {
    let cookie = 16;
    let Some((&MSG_KEXINIT, mut rest)) =
        payload.split_first().map(|(kind, rest)| (kind, rest.get(cookie..).unwrap_or(&[])))
    else {
        return false;
    };
    let mut name_list = || {
        let (length, after) = rest.split_first_chunk()?;
        let (list, after) = after.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        rest = after;
        std::str::from_utf8(list).ok()
    };
    let lists: Vec<Option<&str>> = (0..4).map(|_| name_list()).collect();
    // Key exchange, host keys, then the ciphers of both directions.
    lists[2..].iter().all(|list| list.is_some_and(|list| list.split(',').any(|name| AES_GCM.contains(&name))))
}

impl<S: AsyncRead + Unpin> AsyncRead for Hello<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let left = &self.heard[self.handed..];
        if left.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let n = left.len().min(buf.remaining());
        buf.put_slice(&left[..n]);
        self.handed += n;
        if self.handed == self.heard.len() {
            (self.heard, self.handed) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Hello<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.written > 0 {
            let n = self.written.min(buf.len());
            self.written -= n;
            return Poll::Ready(Ok(n));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kexinit(ciphers: &str) -> Vec<u8> {
        let mut payload = vec![MSG_KEXINIT];
        payload.extend_from_slice(&[7; 16]);
        for list in ["curve25519-sha256", "ssh-ed25519", ciphers, ciphers, "", "", "none", "none", "", ""] {
            payload.extend_from_slice(&u32::try_from(list.len()).expect("short").to_be_bytes());
            payload.extend_from_slice(list.as_bytes());
        }
        payload.extend_from_slice(&[0; 5]);
        let padding = 5u8;
        let length = u32::try_from(payload.len() + 1 + usize::from(padding)).expect("short");
        [&length.to_be_bytes()[..], &[padding], &payload, &[0; 5]].concat()
    }

    async fn heard(words: &[u8]) -> (bool, Vec<u8>) {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        client.write_all(words).await.expect("room");
        client.shutdown().await.expect("said all");
        let (mut hello, gcm) = Hello::say(server, "SSH-2.0-x").await.expect("a greeting");
        // The engine's own line is not sent twice.
        hello.write_all(b"SSH-2.0-x\r\nmore").await.expect("room");
        let mut got = [0; 15];
        client.read_exact(&mut got).await.expect("the line and more");
        assert_eq!(&got, b"SSH-2.0-x\r\nmore");
        drop(client);
        let mut again = Vec::new();
        hello.read_to_end(&mut again).await.expect("the end");
        (gcm, again)
    }

    #[tokio::test]
    async fn an_offer_is_read_and_handed_on() {
        let open = b"SSH-2.0-OpenSSH_9.2\r\n";
        for (ciphers, expected) in [
            ("chacha20-poly1305@openssh.com,aes128-ctr,aes256-gcm@openssh.com", has_aes()),
            ("chacha20-poly1305@openssh.com,aes128-ctr", false),
            ("", false),
        ] {
            let words = [&open[..], &kexinit(ciphers)].concat();
            assert_eq!(heard(&words).await, (expected, words), "{ciphers}");
        }
        let patient = [&b"SSH-2.0-PuTTY\r\n"[..], &kexinit("aes256-gcm@openssh.com")].concat();
        assert_eq!(heard(&patient).await, (false, patient));
    }

    #[tokio::test]
    async fn what_is_no_offer_is_handed_on_too() {
        let long = [b'x'; 300];
        let broken = [&b"SSH-2.0-OpenSSH_9.2\r\n"[..], &[0xff; 40]].concat();
        for words in [&b"SSH-2.0-OpenSSH_9.2\r\n"[..], b"SSH-2.0-Go\r\n", &broken, &long] {
            assert_eq!(heard(words).await, (false, words.to_vec()));
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let whole = kexinit("aes256-gcm@openssh.com");
        for end in 0..whole.len() {
            assert!(packet(&whole[..end]).is_none());
            assert!(!offers_aes_gcm(&whole[5..][..end.saturating_sub(5).min(40)]));
        }
        for garbage in [&[0u8, 0, 0, 0][..], &[0, 0, 0, 1, 9], &[0, 0, 0, 2, 1, 20]] {
            assert!(packet(garbage).is_none_or(|payload| !offers_aes_gcm(payload)));
        }
    }
}
