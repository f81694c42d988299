//! For tests: another node in this process, whose commands are closures.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use russh::keys::{Algorithm, PrivateKey};
use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Links, Peer, Peers};
use crate::model::HostName;

/// A command: what was asked and its channel, to an exit status.
pub(crate) type Command = Arc<dyn Fn(String, Channel<Msg>) -> Pin<Box<dyn Future<Output = u32> + Send>> + Send + Sync>;

/// A peer called `server2` on a loopback port. Dropped, it refuses connections and its sessions end.
pub(crate) struct TestPeer {
    pub peer: Peer,
    pub connections: Arc<AtomicUsize>,
    /// What our side logs in with.
    pub client_key: PrivateKey,
    config: Arc<Config>,
    command: Command,
    sockets: Arc<Mutex<JoinSet<()>>>,
    listening: JoinSet<()>,
}

pub(crate) fn new_key() -> PrivateKey {
    PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).expect("a random key")
}

impl TestPeer {
    pub async fn start(command: Command) -> Self {
        let host_key = new_key();
        let mut this = Self {
            peer: Peer {
                name: HostName::new("server2").expect("a name"),
                key: host_key.public_key().to_bytes().expect("encodes"),
                user: "git".into(),
                host: "127.0.0.1".into(),
                port: 0,
            },
            connections: Arc::default(),
            client_key: new_key(),
            config: Arc::new(Config {
                keys: vec![host_key],
                auth_rejection_time: Duration::ZERO,
                window_size: 1 << 20,
                channel_buffer_size: super::ahead::QUEUE,
                ..Default::default()
            }),
            command,
            sockets: Arc::default(),
            listening: JoinSet::new(),
        };
        this.listen().await;
        this
    }

    /// Accepts connections, on the port of the first time.
    pub async fn listen(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.peer.port)).await.expect("a loopback port");
        self.peer.port = listener.local_addr().expect("bound").port();
        let (config, command, sockets) = (self.config.clone(), self.command.clone(), self.sockets.clone());
        let (connections, known) = (self.connections.clone(), self.client_key.public_key().clone());
        self.listening.spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                socket.set_nodelay(true).expect("a TCP socket");
                let handler = Door { known: known.clone(), command: command.clone(), channels: HashMap::new() };
                // Between the socket and the session, so that a cut looks like a network that is gone.
                let (mut near, far) = tokio::io::duplex(1 << 16);
                sockets.lock().unwrap().spawn(async move {
                    drop(tokio::io::copy_bidirectional(&mut socket, &mut near).await);
                });
                let config = config.clone();
                sockets.lock().unwrap().spawn(async move {
                    if let Ok(session) = russh::server::run_stream(config, far, handler).await {
                        drop(session.await);
                    }
                });
            }
        });
    }

    /// Cuts every connection; with `listening` false new ones are refused too.
    pub async fn cut(&mut self, listening: bool) {
        if !listening {
            self.listening.shutdown().await;
        }
        self.sockets.lock().unwrap().abort_all();
    }

    pub fn peers(&self) -> Peers {
        Arc::new([(self.peer.name.clone(), self.peer.clone())].into())
    }

    /// Links that know this peer, and the handle that changes what they know.
    pub fn links(&self) -> (Links, watch::Sender<Peers>) {
        let (sender, receiver) = watch::channel(self.peers());
        (Links::new(self.client_key.clone(), receiver), sender)
    }
}

struct Door {
    known: russh::keys::PublicKey,
    command: Command,
    channels: HashMap<ChannelId, Channel<Msg>>,
}

impl Handler for Door {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, _: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        Ok(if key.public_key.key_data() == self.known.key_data() { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.channels.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(&mut self, id: ChannelId, data: &[u8], session: &mut Session) -> Result<(), Self::Error> {
        let exec = String::from_utf8_lossy(data).into_owned();
        let channel = self.channels.remove(&id).ok_or(russh::Error::WrongChannel)?;
        if exec == "refused" {
            return session.channel_failure(id);
        }
        session.channel_success(id)?;
        let (handle, running) = (session.handle(), (self.command)(exec, channel));
        tokio::spawn(async move {
            let status = running.await;
            let _ = handle.exit_status_request(id, status).await;
            let _ = handle.eof(id).await;
            let _ = handle.close(id).await;
        });
        Ok(())
    }
}
