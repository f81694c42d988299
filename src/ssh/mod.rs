//! The SSH door: public keys in, git sessions and commands out. With `peer`, the only room that names russh.
//!
//! Promises: a connection that does not authenticate costs a bounded place for a bounded time and never keeps a user
//! out; a user's text always says why and what now; data is written through the channel's own writer, so that a
//! client that does not read stalls nobody else. Never: a shell, a terminal, forwarding, a subsystem, or a decision
//! about access.

mod alive;
mod command;
mod config;
mod hello;
mod login;
mod places;
mod quickack;
mod session;
mod taken;
mod waiting;

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use russh::keys::{Algorithm, EcdsaCurve, HashAlg, PrivateKey};
use russh::{MethodKind, MethodSet, Preferred, cipher, compression, kex, server};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control::Control;
use crate::peer::ahead;
use crate::transfer::Transfer;
pub use config::{Config, Listen};
use places::{Crowd, Places};
use waiting::Waiting;

/// Connections that have not shown a known key yet; the oldest goes when one more comes.
const UNAUTHENTICATED: usize = 100;
/// A dead client is noticed after three of these.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// When we stop, a client has this long to take the end of a session that has just ended: what we have written may
/// still be on its way, and OpenSSH throws away what it has not passed on when it is told that we disconnect.
const LINGER: Duration = Duration::from_secs(20);
/// A channel's window: what a client may send ahead of us, 8 MiB, so that a push fills a long link.
const WINDOW: u32 = 8 << 20;
/// How we introduce ourselves (RFC 4253, section 4.2).
const IDENTIFICATION: &str = concat!("SSH-2.0-gitmesh_", env!("CARGO_PKG_VERSION"));
/// The largest payload of one packet, just under what fits in a TCP segment's 64 KiB.
const PACKET: u32 = 65_535;

/// The SSH door, bound and ready to serve.
pub struct Door {
    listeners: Vec<TcpListener>,
    shared: Arc<Shared>,
    updates: mpsc::Receiver<Update>,
}

/// A change for a running door.
struct Update {
    config: Config,
    added: Vec<TcpListener>,
}

/// Changes a running door. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    updates: mpsc::Sender<Update>,
}

impl Handle {
    /// Puts new settings in force, for the next connection and the next session. Addresses that are new are bound
    /// first; if one cannot be, the error names it and everything stays as it was.
    pub async fn update(&self, config: Config) -> std::io::Result<()> {
        let old = self.shared.settings().config.listen.clone();
        let mut added = Vec::new();
        for address in config.listen.iter().filter(|l| !old.contains(l)) {
            added.push(bind(*address).await?);
        }
        self.updates.send(Update { config, added }).await.map_err(|_| std::io::Error::other("the SSH door is closed"))
    }
}

/// Listens on an address; the error names it and the cure.
pub async fn bind(address: Listen) -> std::io::Result<TcpListener> {
    TcpListener::bind(address.0).await.map_err(|error| {
        let text = format!("cannot listen on {}: {error}; is another SSH server there? Change [ssh] listen", address.0);
        std::io::Error::new(error.kind(), text)
    })
}

/// What all connections share.
pub(super) struct Shared {
    identity: PrivateKey,
    settings: RwLock<Arc<Settings>>,
    transfer: Transfer,
    control: Control,
    waiting: Waiting,
    connections: Places,
    /// Git sessions and commands at work; they outlive their connection's loop and are drained at the end.
    sessions: TaskTracker,
    session_places: Places,
    /// Sessions at work, by user or node.
    busy: Crowd,
    /// Connections that have logged in, by user.
    connected: Crowd,
}

/// The settings in force, and the protocol's own made from them.
pub(super) struct Settings {
    config: Config,
    russh: Arc<server::Config>,
    /// The same with AES-GCM alone; see `hello`.
    russh_gcm: Arc<server::Config>,
}

impl Settings {
    fn new(config: Config, identity: &PrivateKey) -> Arc<Self> {
        let made = |ciphers: &[cipher::Name]| Arc::new(protocol(&config, identity.clone(), ciphers));
        let russh = made(&[cipher::AES_256_GCM, cipher::AES_128_GCM, cipher::CHACHA20_POLY1305]);
        let russh_gcm = made(&[cipher::AES_256_GCM, cipher::AES_128_GCM]);
        Arc::new(Self { russh, russh_gcm, config })
    }
}

impl Shared {
    fn settings(&self) -> Arc<Settings> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, config: Config) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Settings::new(config, &self.identity);
    }
}

impl Door {
    /// Takes listeners that are bound already, so that nothing is announced before everything else is ready.
    pub fn new(
        config: Config,
        listeners: Vec<TcpListener>,
        identity: PrivateKey,
        transfer: Transfer,
        control: Control,
    ) -> (Self, Handle) {
        let shared = Arc::new(Shared {
            settings: RwLock::new(Settings::new(config, &identity)),
            identity,
            waiting: Waiting::new(UNAUTHENTICATED),
            connections: Places::default(),
            sessions: TaskTracker::new(),
            busy: Crowd::default(),
            connected: Crowd::default(),
            session_places: Places::default(),
            transfer,
            control,
        });
        let (sender, updates) = mpsc::channel(1);
        let handle = Handle { shared: shared.clone(), updates: sender };
        (Self { listeners, shared, updates }, handle)
    }

    /// Serves until told to stop; then accepts no more, and returns when the running sessions have ended.
    pub async fn run(mut self, stop: CancellationToken) -> std::io::Result<()> {
        let connections = TaskTracker::new();
        let mut accepts = tokio::task::JoinSet::new();
        // Connections are cut only after their sessions have ended.
        let hang_up = CancellationToken::new();
        let mut open: HashMap<SocketAddr, CancellationToken> = HashMap::new();
        let mut add = std::mem::take(&mut self.listeners);
        loop {
            for listener in add.drain(..) {
                let close = stop.child_token();
                open.insert(listener.local_addr()?, close.clone());
                accepts.spawn(accept(listener, self.shared.clone(), connections.clone(), close, hang_up.clone()));
            }
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = accepts.join_next() => ended.map_err(std::io::Error::other)??,
                Some(update) = self.updates.recv() => {
                    for gone in self.shared.settings().config.listen.iter().filter(|l| !update.config.listen.contains(l)) {
                        open.remove(&gone.0).inspect(CancellationToken::cancel);
                    }
                    self.shared.set(update.config);
                    add = update.added;
                }
            }
        }
        while let Some(ended) = accepts.join_next().await {
            ended.map_err(std::io::Error::other)??;
        }
        self.shared.sessions.close();
        self.shared.sessions.wait().await;
        hang_up.cancel();
        connections.close();
        connections.wait().await;
        Ok(())
    }
}

async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stop: CancellationToken,
    hang_up: CancellationToken,
) -> std::io::Result<()> {
    loop {
        let place = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            place = shared.connections.take(|| shared.settings().config.max_connections) => place,
        };
        let (stream, from) = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, or the client left: neither ends the server.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let (shared, hang_up) = (shared.clone(), hang_up.clone());
        tasks.spawn(async move {
            connection(stream, from, shared, hang_up).await;
            drop(place);
        });
    }
}

/// One connection, from its first byte to its last.
async fn connection(stream: TcpStream, from: SocketAddr, shared: Arc<Shared>, hang_up: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot switch off Nagle's algorithm");
    }
    let settings = shared.settings();
    let seat = shared.waiting.enter();
    let gone = CancellationToken::new();
    let session = session::Session::new(shared.clone(), from, seat.clone(), gone.clone());
    let _tells_its_sessions = gone.drop_guard();
    let stream = quickack::Quickack::new(stream, seat.clone());
    let running = async {
        let (stream, gcm) = hello::Hello::say(stream, IDENTIFICATION).await?;
        let config = if gcm { &settings.russh_gcm } else { &settings.russh };
        server::run_stream(config.clone(), stream, session).await
    };
    let running = tokio::select! {
        running = running => running,
        () = seat.evicted() => return,
        () = tokio::time::sleep(settings.config.auth_timeout) => return,
    };
    let running = match running {
        Ok(running) => running,
        Err(error) => return tracing::debug!(%error, %from, "no SSH client"),
    };
    let handle = running.handle();
    tokio::pin!(running);
    let deadline = tokio::time::sleep(settings.config.auth_timeout);
    tokio::pin!(deadline);
    let mut waiting = true;
    let linger = tokio::time::sleep(Duration::MAX);
    tokio::pin!(linger);
    let mut leaving = false;
    loop {
        let reason = tokio::select! {
            ended = &mut running => {
                if let Err(error) = ended {
                    tracing::debug!(%error, %from, "connection ended");
                }
                return;
            }
            () = &mut deadline, if waiting => {
                waiting = !seat.is_authenticated();
                if !waiting { continue }
                "no known key was shown in time"
            }
            () = seat.evicted(), if waiting => {
                waiting = !seat.is_authenticated();
                if !waiting { continue }
                "too many connections are waiting to authenticate; try again"
            }
            () = hang_up.cancelled(), if !leaving => {
                leaving = true;
                let now = tokio::time::Instant::now();
                linger.as_mut().reset(seat.last_session().map_or(now, |ended| tokio::time::Instant::from_std(ended) + LINGER));
                continue
            }
            () = &mut linger, if leaving => "the server is shutting down; try again in a minute",
        };
        let bye = handle.disconnect(russh::Disconnect::ByApplication, reason.into(), String::new());
        if tokio::time::timeout(Duration::from_secs(1), bye).await.is_err() {
            tracing::debug!(%from, "the client took no good-bye");
        }
        // The loop of a connection whose client does not read may not notice; dropping the stream ends it.
        if tokio::time::timeout(Duration::from_secs(1), &mut running).await.is_err() {
            tracing::debug!(%from, "the connection was cut");
        }
        return;
    }
}

/// The protocol's settings: key exchange and ciphers of today only, and no artificial waiting.
fn protocol(config: &Config, identity: PrivateKey, ciphers: &[cipher::Name]) -> server::Config {
    let p256 = Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 };
    let keys = vec![
        Algorithm::Ed25519,
        p256,
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
        // Never SHA-1 (RFC 8332).
        Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
        Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
    ];
    let kex = vec![
        kex::MLKEM768X25519_SHA256,
        kex::CURVE25519,
        kex::CURVE25519_PRE_RFC_8731,
        kex::EXTENSION_SUPPORT_AS_SERVER,
        kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
    ];
    server::Config {
        server_id: russh::SshId::Standard(IDENTIFICATION.into()),
        methods: MethodSet::from(&[MethodKind::PublicKey, MethodKind::KeyboardInteractive][..]),
        // A public key is no secret that could be guessed bit by bit; waiting would cost each client that has
        // several keys a second a key.
        auth_rejection_time: Duration::ZERO,
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![identity],
        window_size: WINDOW,
        maximum_packet_size: PACKET,
        // Packets that a session has not read yet; one has 32 KiB from OpenSSH. When it is full the connection stands still,
        // which nodes know how to avoid.
        channel_buffer_size: ahead::QUEUE,
        // Packets on their way to one client. Encrypting them in batches is a tenth faster than one by one, but nobody
        // else has the processor meanwhile: half a mebibyte is half a millisecond.
        event_buffer_size: 8,
        max_auth_attempts: 20,
        inactivity_timeout: Some(config.idle_timeout),
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: 3,
        nodelay: true,
        preferred: Preferred {
            kex: Cow::Owned(kex),
            key: Cow::Owned(keys),
            cipher: Cow::Owned(ciphers.to_vec()),
            // Packs are compressed already.
            compression: Cow::Owned(vec![compression::NONE]),
            ..Preferred::DEFAULT
        },
        ..server::Config::default()
    }
}
