//! One SSH connection to one peer.
//!
//! What russh 0.65's client does with incoming data decides the shape of this file (`client/encrypted.rs`): its loop
//! hands each packet to the channel's own bounded queue and *waits* there while the queue is full, so a channel that
//! nobody reads stops every other channel, the keep-alives and the writing side; and it grants new window when a
//! packet arrives, not when it is read, so the window never holds the peer back. We therefore drop that queue's
//! receiver (russh ignores the failed send) and take the data in [`Handler::data`], into a buffer of our own for each
//! channel. A pipe whose reader falls [`UNREAD_MAX`](super::pipe::UNREAD_MAX) behind is failed alone.
//!
//! russh's server has the same two properties, and a session there may be slow to take what it is sent: git and a large
//! pack on a disk that stands still. Our door therefore tells what is taken, and a pipe never fills its queue (see
//! [`super::ahead`]). A link on which a channel cannot be opened in time is retired, not cut: keep-alives decide whether
//! it is dead, and the next pipe gets a new one.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use russh::client::{self, Handle, Handler, Msg, Session};
use russh::keys::{Algorithm, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{ChannelId, ChannelWriteHalf, Preferred, SshId, cipher, kex};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::pipe::{Pipe, Stream};
use super::{LinkError, Peer, ahead};

/// To reach the peer's port, and again to shake hands and log in.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// To have a channel opened on a link that is up.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// A link on which nothing has arrived for this long is asked for a sign of life, …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(4);
/// … and given up when so many questions are unanswered and the next is due: after 12 to 16 seconds. A user whose push is
/// carried over it waits no longer than that for a master that has vanished without a word.
const KEEPALIVE_MAX: usize = 2;
/// A write that the network does not take for this long ends the link; russh asks no keep-alive while it writes.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Window of a channel in bytes: enough for 1 GB/s at 16 ms round trip.
const WINDOW: u32 = 16 << 20;
/// Largest data packet in bytes; russh allows no more.
const PACKET_MAX: u32 = 65535;
/// russh keeps some kilobytes for each channel that our side closed first, until the connection ends. After so many
/// the link is retired: what runs on it goes on, new pipes get a new link.
const ABANDONED_MAX: usize = 1000;
/// Of a login banner, how much is kept for an error text, in bytes.
const BANNER_MAX: usize = 1024;

/// What is known of a peer's key before it shows it.
pub(super) enum Pin {
    /// The key itself, as an SSH wire blob.
    Key(Vec<u8>),
    /// `SHA256:…`
    Fingerprint(String),
}

impl Pin {
    fn holds(&self, shown: &PublicKey) -> bool {
        match self {
            Self::Key(blob) => shown.to_bytes().is_ok_and(|shown| shown == *blob),
            Self::Fingerprint(text) => shown.fingerprint(HashAlg::Sha256).to_string() == *text,
        }
    }

    fn fingerprint(&self) -> String {
        match self {
            Self::Key(blob) => fingerprint(blob),
            Self::Fingerprint(text) => text.clone(),
        }
    }
}

/// An open connection.
pub(super) struct Link {
    peer: Peer,
    handle: Handle<Client>,
    channels: Arc<Channels>,
}

impl Link {
    /// Connects, checks the peer's key and logs in.
    pub(super) async fn dial(peer: &Peer, identity: &Arc<PrivateKey>) -> Result<Self, LinkError> {
        Self::dial_pinned(peer, Pin::Key(peer.key.clone()), identity).await
    }

    /// As [`Link::dial`], with what is known of the peer's key; [`Peer::key`] is not looked at.
    pub(super) async fn dial_pinned(peer: &Peer, pin: Pin, identity: &Arc<PrivateKey>) -> Result<Self, LinkError> {
        let address = format!("{}:{}", peer.host, peer.port);
        let timed_out = |step| LinkError::Timeout { peer: peer.name.clone(), step, seconds: DIAL_TIMEOUT.as_secs() };
        let unreachable =
            |why: String| LinkError::Unreachable { peer: peer.name.clone(), address: address.clone(), why };

        let connecting = TcpStream::connect((peer.host.as_str(), peer.port));
        let socket = timeout(DIAL_TIMEOUT, connecting).await.map_err(|_| timed_out("connect"))?;
        let socket = socket.map_err(|e| unreachable(e.to_string()))?;
        // Small packets (commands, reports) must not wait for the ones before them to be acknowledged.
        socket.set_nodelay(true).map_err(|e| unreachable(e.to_string()))?;

        let channels = Arc::new(Channels::default());
        let seen = Arc::new(Mutex::new(Seen::default()));
        let expected = pin.fingerprint();
        let client = Client { pin, channels: channels.clone(), seen: seen.clone() };
        let login = async {
            let mut handle = client::connect_stream(Arc::new(config(peer)), socket, client).await?;
            let key = PrivateKeyWithHashAlg::new(identity.clone(), Some(HashAlg::Sha512));
            let answer = handle.authenticate_publickey(&peer.user, key).await?;
            Ok::<_, russh::Error>((handle, answer))
        };
        let login = timeout(DIAL_TIMEOUT, login).await.map_err(|_| timed_out("log in"))?;
        let seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
        match login {
            Ok((handle, answer)) if answer.success() => Ok(Self { peer: peer.clone(), handle, channels }),
            Ok(_) => Err(LinkError::Refused {
                peer: peer.name.clone(),
                ours: identity.public_key().fingerprint(HashAlg::Sha256).to_string(),
                said: if seen.banner.is_empty() {
                    String::new()
                } else {
                    format!(" (it said: {})", seen.banner.trim())
                },
            }),
            Err(error) => match seen.wrong_key {
                Some(got) => Err(LinkError::WrongKey { peer: peer.name.clone(), address, expected, got }),
                None => Err(unreachable(error.to_string())),
            },
        }
    }

    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Whether new pipes may be opened here.
    pub(super) fn is_usable(&self) -> bool {
        let inner = self.channels.lock();
        let worn = inner.retired || inner.abandoned >= ABANDONED_MAX;
        !worn && inner.lost.is_none() && !self.handle.is_closed()
    }

    /// When the connection ended.
    pub(super) fn lost_at(&self) -> Option<SystemTime> {
        self.channels.lock().lost_at
    }

    /// No new pipes here; those there are go on.
    pub(super) fn retire(&self) {
        self.channels.lock().retired = true;
    }

    /// Fails every pipe; the connection ends when the last handle on it is dropped.
    pub(super) fn cut(&self, why: &str) {
        self.channels.lose(why);
    }

    /// Opens a channel and sends the command, without waiting for the peer's answer to it: that would be one more
    /// round trip, and a refusal shows in the pipe.
    pub(super) async fn open(&self, exec: &str, env: &[(&str, &str)]) -> Result<Pipe, LinkError> {
        let opening = async {
            let channel = self.handle.channel_open_session().await?;
            let (unused, writer) = channel.split();
            drop(unused); // see the head of this file
            Ok::<_, russh::Error>(writer)
        };
        let peer = &self.peer.name;
        let timed_out =
            |_| LinkError::Timeout { peer: peer.clone(), step: "open a channel", seconds: OPEN_TIMEOUT.as_secs() };
        let writer = match timeout(OPEN_TIMEOUT, opening).await.map_err(timed_out)? {
            Ok(writer) => writer,
            Err(russh::Error::ChannelOpenFailure(why)) => {
                return Err(LinkError::Busy { peer: peer.clone(), why: format!("{why:?}") });
            }
            Err(error) => return Err(LinkError::Closed { peer: peer.clone(), why: error.to_string() }),
        };
        let stream = Arc::new(Stream::new(peer.clone()));
        self.channels.add(writer.id(), stream.clone()).map_err(|why| LinkError::Closed { peer: peer.clone(), why })?;
        let asking = async {
            for (name, value) in env {
                writer.set_env(false, *name, *value).await?;
            }
            writer.exec(true, exec).await
        };
        let asked = timeout(OPEN_TIMEOUT, asking).await;
        let (id, input) = (writer.id(), Box::pin(writer.make_writer()));
        let held = Held { channels: self.channels.clone(), stream: stream.clone(), id, writer: Some(writer) };
        match asked.map_err(timed_out)? {
            Ok(()) => Ok(Pipe::new(stream, input, Arc::new(held))),
            Err(error) => Err(LinkError::Closed { peer: peer.clone(), why: error.to_string() }),
        }
    }
}

fn config(peer: &Peer) -> client::Config {
    // The type of the key we hold comes first: a peer may have other host keys for its users beside its identity.
    let mut key = Preferred::DEFAULT.key.to_vec();
    if let Ok(pinned) = PublicKey::from_bytes(&peer.key) {
        let same = |a: &Algorithm| std::mem::discriminant(a) == std::mem::discriminant(&pinned.algorithm());
        key.sort_by_key(|a| !same(a));
    }
    client::Config {
        client_id: SshId::Standard(Cow::Owned(format!(
            "SSH-2.0-gitmesh_{}{}",
            env!("CARGO_PKG_VERSION"),
            ahead::UNDERSTOOD
        ))),
        window_size: WINDOW,
        maximum_packet_size: PACKET_MAX,
        // The queue is not used, and the peer's confirmation is its only message.
        channel_buffer_size: 4,
        preferred: Preferred {
            kex: Cow::Borrowed(&[
                kex::MLKEM768X25519_SHA256,
                kex::CURVE25519,
                kex::CURVE25519_PRE_RFC_8731,
                kex::EXTENSION_SUPPORT_AS_CLIENT,
                kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
            ]),
            key: Cow::Owned(key),
            // AES first: with the processor's own instructions it is several times faster.
            cipher: Cow::Borrowed(&[cipher::AES_128_GCM, cipher::AES_256_GCM, cipher::CHACHA20_POLY1305]),
            ..Preferred::DEFAULT
        },
        keepalive_interval: Some(KEEPALIVE_INTERVAL),
        keepalive_max: KEEPALIVE_MAX,
        inactivity_timeout: Some(STALL_TIMEOUT),
        nodelay: true,
        ..Default::default()
    }
}

/// `SHA256:…` of a key blob.
fn fingerprint(blob: &[u8]) -> String {
    match PublicKey::from_bytes(blob) {
        Ok(key) => key.fingerprint(HashAlg::Sha256).to_string(),
        Err(_) => "unreadable".to_owned(),
    }
}

/// The streams of a connection's open channels.
#[derive(Default)]
struct Channels(Mutex<ChannelsInner>);

#[derive(Default)]
struct ChannelsInner {
    open: HashMap<ChannelId, Arc<Stream>>,
    abandoned: usize,
    retired: bool,
    lost: Option<String>,
    lost_at: Option<SystemTime>,
}

impl Channels {
    fn lock(&self) -> MutexGuard<'_, ChannelsInner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, id: ChannelId, stream: Arc<Stream>) -> Result<(), String> {
        let mut inner = self.lock();
        match &inner.lost {
            Some(why) => Err(why.clone()),
            None => {
                inner.open.insert(id, stream);
                Ok(())
            }
        }
    }

    fn get(&self, id: ChannelId) -> Option<Arc<Stream>> {
        self.lock().open.get(&id).cloned()
    }

    fn lose(&self, why: &str) {
        let mut inner = self.lock();
        inner.lost.get_or_insert_with(|| why.to_owned());
        inner.lost_at.get_or_insert_with(SystemTime::now);
        for (_, stream) in inner.open.drain() {
            stream.fail(why);
        }
    }
}

/// Keeps a channel open; the last half of a pipe to go closes it.
pub(super) struct Held {
    channels: Arc<Channels>,
    stream: Arc<Stream>,
    id: ChannelId,
    /// Taken by the drop alone.
    writer: Option<ChannelWriteHalf<Msg>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut inner = self.channels.lock();
        inner.open.remove(&self.id);
        if self.stream.is_closed() || inner.lost.is_some() {
            return;
        }
        inner.abandoned += 1;
        // Dropping cannot wait for room in the connection's queue, so a task does; it ends with the connection at the
        // latest. Without a runtime the connection is gone too.
        if let (Some(writer), Ok(runtime)) = (self.writer.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { drop(writer.close().await) });
        }
    }
}

/// What the handshake learned, for its error text.
#[derive(Default)]
struct Seen {
    wrong_key: Option<String>,
    banner: String,
}

/// russh's view of a connection. Its methods run inside the connection's loop: they take note and return.
struct Client {
    pin: Pin,
    channels: Arc<Channels>,
    seen: Arc<Mutex<Seen>>,
}

impl Drop for Client {
    /// The connection's loop has ended, whatever the reason.
    fn drop(&mut self) {
        self.channels.lose("the connection ended");
    }
}

impl Handler for Client {
    type Error = russh::Error;

    async fn auth_banner(&mut self, banner: &str, _: &mut Session) -> Result<(), Self::Error> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let room = BANNER_MAX.saturating_sub(seen.banner.len());
        seen.banner.extend(banner.chars().filter(|c| !c.is_control() || *c == '\n').take(room));
        Ok(())
    }

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let got = key.public_key();
        let right = key.certificate().is_none() && self.pin.holds(&got);
        if !right {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.wrong_key = Some(got.fingerprint(HashAlg::Sha256).to_string());
        }
        Ok(right)
    }

    async fn data(&mut self, id: ChannelId, data: &[u8], session: &mut Session) -> Result<(), Self::Error> {
        if let Some(stream) = self.channels.get(id)
            && stream.receive(data).is_err()
        {
            session.close(id)?;
            let mut inner = self.channels.lock();
            inner.open.remove(&id);
            inner.abandoned += 1;
        }
        Ok(())
    }

    async fn extended_data(&mut self, id: ChannelId, of: u32, data: &[u8], _: &mut Session) -> Result<(), Self::Error> {
        if let Some(stream) = self.channels.get(id) {
            match of {
                ahead::TAKEN => stream.taken(data),
                _ => stream.receive_stderr(data),
            }
        }
        Ok(())
    }

    async fn channel_failure(&mut self, id: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        if let Some(stream) = self.channels.get(id) {
            stream.fail("it refused the command");
        }
        Ok(())
    }

    async fn channel_eof(&mut self, id: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        if let Some(stream) = self.channels.get(id) {
            stream.end_of_data();
        }
        Ok(())
    }

    async fn exit_status(&mut self, id: ChannelId, status: u32, _: &mut Session) -> Result<(), Self::Error> {
        if let Some(stream) = self.channels.get(id) {
            stream.exited(status);
        }
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        let stream = self.channels.lock().open.remove(&id);
        if let Some(stream) = stream {
            stream.close();
        }
        Ok(())
    }

    async fn disconnected(&mut self, reason: client::DisconnectReason<Self::Error>) -> Result<(), Self::Error> {
        match reason {
            client::DisconnectReason::ReceivedDisconnect(info) => self.channels.lose(info.message.trim()),
            client::DisconnectReason::Error(error) => self.channels.lose(&match error {
                russh::Error::KeepaliveTimeout | russh::Error::InactivityTimeout => {
                    format!(
                        "it gave no sign of life for {} s",
                        KEEPALIVE_INTERVAL.as_secs() * (KEEPALIVE_MAX as u64 + 1)
                    )
                }
                error => error.to_string(),
            }),
        }
        Ok(())
    }
}
