//! pkt-lines: the frames of every git conversation (gitprotocol-common(5)), the `ERR` line that carries a refusal, and
//! the side-band that multiplexes a report with progress text (gitprotocol-pack(5)).

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Longest line in bytes with its four length digits.
pub const LINE_MAX: usize = 65520;
/// Longest payload of one line in bytes.
pub const PAYLOAD_MAX: usize = LINE_MAX - 4;

pub const FLUSH: &[u8] = b"0000";
pub const DELIM: &[u8] = b"0001";

/// One frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    Data(&'a [u8]),
    /// `0000`: end of a message.
    Flush,
    /// `0001`: between the sections of a protocol v2 message.
    Delim,
    /// `0002`: end of a stateless protocol v2 answer.
    ResponseEnd,
}

impl<'a> Packet<'a> {
    /// The payload without the one newline that text lines may end in; `None` for a special frame.
    pub fn text(self) -> Option<&'a [u8]> {
        match self {
            Self::Data(data) => Some(data.strip_suffix(b"\n").unwrap_or(data)),
            _ => None,
        }
    }

    /// The text of an `ERR` line: the other side refuses, in words meant for the user.
    pub fn refusal(self) -> Option<String> {
        let text = self.text()?.strip_prefix(b"ERR ")?;
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

/// Why bytes are no pkt-line.
#[derive(Debug, thiserror::Error)]
pub enum PktError {
    #[error("expected a pkt-line and got {0:?}; the other side does not speak git's protocol here")]
    Length(String),
    #[error("a pkt-line of {0} bytes, and {LINE_MAX} is the most")]
    TooLong(usize),
    #[error("the conversation ended in the middle of a pkt-line")]
    Truncated,
    #[error("side-band {0} is unknown")]
    Band(u8),
    #[error("an empty side-band packet")]
    EmptyBand,
    #[error("read")]
    Io(#[from] io::Error),
}

/// Appends `payload` as one line.
///
/// # Panics
/// When the payload is longer than [`PAYLOAD_MAX`]: the caller frames what it made itself.
pub fn encode(out: &mut Vec<u8>, payload: &[u8]) {
    assert!(payload.len() <= PAYLOAD_MAX, "a pkt-line payload of {} bytes", payload.len());
    out.extend_from_slice(format!("{:04x}", payload.len() + 4).as_bytes());
    out.extend_from_slice(payload);
}

/// Appends `data` in as many `side-band-64k` packets as it takes; `band` is 1 for the pack, 2 for progress, 3 for the end.
pub fn multiplex(out: &mut Vec<u8>, band: u8, data: &[u8]) {
    for piece in data.chunks(PAYLOAD_MAX - 1) {
        out.extend_from_slice(format!("{:04x}", piece.len() + 5).as_bytes());
        out.push(band);
        out.extend_from_slice(piece);
    }
}

/// An `ERR` line. git shows `text` to the user as `fatal: remote error: TEXT` and stops; what does not fit is cut.
pub fn err_line(text: &str) -> Vec<u8> {
    let room = PAYLOAD_MAX - "ERR \n".len();
    let mut end = text.len().min(room);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut out = Vec::new();
    encode(&mut out, format!("ERR {}\n", &text[..end]).as_bytes());
    out
}

/// The first frame of `bytes` and its length in bytes; `None` when more bytes are needed to tell.
pub fn decode(bytes: &[u8]) -> Result<Option<(Packet<'_>, usize)>, PktError> {
    let Some(digits) = bytes.get(..4) else {
        return Ok(None);
    };
    let Some(len) = parse_length(digits) else {
        // What came instead of a length is often a readable message ("Welcome to …"), so some of it is shown.
        let shown = bytes.get(..64).unwrap_or(bytes);
        return Err(PktError::Length(String::from_utf8_lossy(shown).into_owned()));
    };
    match len {
        0 => return Ok(Some((Packet::Flush, 4))),
        1 => return Ok(Some((Packet::Delim, 4))),
        2 => return Ok(Some((Packet::ResponseEnd, 4))),
        3 => return Err(PktError::Length("0003".to_owned())),
        _ if len > LINE_MAX => return Err(PktError::TooLong(len)),
        _ => {}
    }
    Ok(bytes.get(4..len).map(|payload| (Packet::Data(payload), len)))
}

/// Four hexadecimal digits, either case.
fn parse_length(digits: &[u8]) -> Option<usize> {
    digits.iter().try_fold(0, |sum, d| Some(sum * 16 + char::from(*d).to_digit(16)? as usize))
}

/// Reads frames from a stream. A cancelled read loses nothing.
#[derive(Debug)]
pub struct Reader<R> {
    inner: R,
    buffer: Vec<u8>,
    start: usize,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(inner: R) -> Self {
        Self { inner, buffer: Vec::new(), start: 0 }
    }

    /// The next frame; `None` at a clean end of the stream.
    pub async fn next(&mut self) -> Result<Option<Packet<'_>>, PktError> {
        // Two decodes instead of one held across the loop: the borrow checker cannot see that a returned frame ends it.
        while decode(&self.buffer[self.start..])?.is_none() {
            self.buffer.drain(..self.start);
            self.start = 0;
            self.buffer.reserve(LINE_MAX);
            if self.inner.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(PktError::Truncated) };
            }
        }
        let (packet, len) = decode(&self.buffer[self.start..])?.expect("a whole frame is buffered, as just checked");
        self.start += len;
        Ok(Some(packet))
    }

    /// As [`Reader::into_parts`], for a reader that is not needed for frames any more.
    pub fn parts(&mut self) -> (Vec<u8>, &mut R) {
        let ahead = self.buffer.split_off(self.start);
        self.buffer.clear();
        self.start = 0;
        (ahead, &mut self.inner)
    }

    /// What was read ahead, and the stream itself: together they are what follows the frames.
    pub fn into_parts(mut self) -> (Vec<u8>, R) {
        self.buffer.drain(..self.start);
        (self.buffer, self.inner)
    }
}

/// One packet of `side-band-64k`.
#[derive(Debug, PartialEq, Eq)]
pub enum Band<'a> {
    Data(&'a [u8]),
    /// What the user would read after `remote: `.
    Progress(&'a [u8]),
    /// The other side gives up, and says why.
    Fatal(&'a [u8]),
}

/// Tells which band a line's payload belongs to.
pub fn demultiplex(payload: &[u8]) -> Result<Band<'_>, PktError> {
    match payload.split_first() {
        Some((1, rest)) => Ok(Band::Data(rest)),
        Some((2, rest)) => Ok(Band::Progress(rest)),
        Some((3, rest)) => Ok(Band::Fatal(rest)),
        Some((band, _)) => Err(PktError::Band(*band)),
        None => Err(PktError::EmptyBand),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out, payload);
        out
    }

    #[test]
    fn the_examples_of_gitprotocol_common() {
        assert_eq!(line(b"a\n"), b"0006a\n");
        assert_eq!(line(b"foobar\n"), b"000bfoobar\n");
        assert_eq!(line(b""), b"0004");
        assert_eq!(decode(b"000bfoobar\nrest").expect("valid"), Some((Packet::Data(b"foobar\n"), 11)));
        assert_eq!(decode(b"000Bfoobar\n").expect("upper case too"), Some((Packet::Data(b"foobar\n"), 11)));
        assert_eq!(Packet::Data(b"foobar\n").text(), Some(&b"foobar"[..]));
        for (special, packet) in [("0000", Packet::Flush), ("0001", Packet::Delim), ("0002", Packet::ResponseEnd)] {
            assert_eq!(decode(special.as_bytes()).expect("valid"), Some((packet, 4)));
        }
    }

    #[test]
    fn garbage_is_named() {
        for (garbage, expected) in [
            ("Welcome to server2!\n", "\"Welcome to server2!\\n\""),
            ("0003", "0003"),
            ("fff1", "65521 bytes"),
            ("+123", "+123"),
        ] {
            let error = decode(garbage.as_bytes()).expect_err(garbage).to_string();
            assert!(error.contains(expected), "{garbage}: {error}");
        }
    }

    #[test]
    fn refusals() {
        let text = "this is a copy; push to server1";
        assert_eq!(err_line(text), line(format!("ERR {text}\n").as_bytes()));
        let (packet, _) = decode(b"000dERR gone\n").expect("valid").expect("whole");
        assert_eq!(packet.refusal().as_deref(), Some("gone"));
        assert_eq!(Packet::Data(b"ok\n").refusal(), None);
        assert!(err_line(&"é".repeat(PAYLOAD_MAX)).len() <= LINE_MAX);
    }

    #[test]
    fn bands() {
        assert_eq!(demultiplex(b"\x01x").expect("data"), Band::Data(b"x"));
        assert_eq!(demultiplex(b"\x02x").expect("progress"), Band::Progress(b"x"));
        assert_eq!(demultiplex(b"\x03x").expect("fatal"), Band::Fatal(b"x"));
        assert!(matches!(demultiplex(b"\x04x"), Err(PktError::Band(4))));
        assert!(matches!(demultiplex(b""), Err(PktError::EmptyBand)));
    }

    #[test]
    fn what_is_multiplexed_is_demultiplexed() {
        let data = vec![7; PAYLOAD_MAX + 10];
        let (mut out, mut found, mut at) = (Vec::new(), Vec::new(), 0);
        multiplex(&mut out, 1, &data);
        while let Some((Packet::Data(payload), length)) = decode(&out[at..]).expect("our own bytes") {
            let Ok(Band::Data(piece)) = demultiplex(payload) else { panic!("band 1") };
            found.extend_from_slice(piece);
            at += length;
        }
        assert_eq!((found, at), (data, out.len()));
    }

    #[tokio::test]
    async fn a_stream_cut_in_a_line_is_no_clean_end() {
        let mut reader = Reader::new(&b"0006a\n0000"[..]);
        assert_eq!(reader.next().await.expect("line"), Some(Packet::Data(b"a\n")));
        assert_eq!(reader.next().await.expect("flush"), Some(Packet::Flush));
        assert_eq!(reader.next().await.expect("end"), None);
        assert!(matches!(Reader::new(&b"0006a"[..]).next().await, Err(PktError::Truncated)));
        assert!(matches!(Reader::new(&b"00"[..]).next().await, Err(PktError::Truncated)));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
                                      chunk in 1usize..50) {
            let mut bytes = Vec::new();
            for payload in &payloads {
                encode(&mut bytes, payload);
            }
            bytes.extend_from_slice(FLUSH);
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let decoded = runtime.block_on(async {
                let mut reader = Reader::new(in_chunks(&bytes, chunk));
                let mut decoded = Vec::new();
                while let Some(Packet::Data(data)) = reader.next().await.expect("our own bytes") {
                    decoded.push(data.to_vec());
                }
                decoded
            });
            prop_assert_eq!(decoded, payloads);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(Some((_, len))) = decode(&bytes) {
                prop_assert!(len <= bytes.len());
            }
        }
    }

    /// A reader that hands out a few bytes at a time, so that frames are split everywhere.
    fn in_chunks(bytes: &[u8], chunk: usize) -> impl AsyncRead + Unpin {
        struct Chunks<'a>(&'a [u8], usize);
        impl AsyncRead for Chunks<'_> {
            fn poll_read(
                mut self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
                buf: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<io::Result<()>> {
                let n = self.1.min(self.0.len()).min(buf.remaining());
                buf.put_slice(&self.0[..n]);
                self.0 = &self.0[n..];
                std::task::Poll::Ready(Ok(()))
            }
        }
        Chunks(bytes, chunk)
    }
}
