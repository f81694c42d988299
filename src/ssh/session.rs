//! One connection's handler: key → actor, exec → transfer or control. It decides nothing and waits for nothing; work
//! is handed to a task, since russh calls these methods inside the connection's own loop.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use russh::keys::{Algorithm, Certificate, HashAlg, PublicKeyBase64};
use russh::server::{
    Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Response, Session as Connection, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, ChannelOpenFailure, ChannelWriteHalf, MethodKind, MethodSet};
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::alive::Alive;
use super::command::{self, Forwarded, Order};
use super::places::Member;
use super::taken::{Counted, telling};
use super::waiting::Seat;
use crate::admin::{Denial, Invited};
use crate::audit::{Kind, Outcome, Record};
use crate::control::{Live, at_a_terminal, reads_input};
use crate::git::{pktline, service::Service};
use crate::model::{Actor, Voucher};
use crate::observe::metrics;
use crate::peer::ahead;
use crate::transfer::{Request, Streams, Via};

/// Channels of one connection; OpenSSH's default is 10 (sshd_config(5), MaxSessions).
const CHANNELS: usize = 64;
/// Connections of newcomers with an invitation at once.
const INVITED: usize = 16;

pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) from: SocketAddr,
    pub(super) seat: Arc<Seat>,
    /// Cancelled when the connection has ended.
    gone: CancellationToken,
    pub(super) actor: Option<Actor>,
    /// The key that was proved (RFC 4253, section 6.6); who owns it is asked again for each session.
    pub(super) key: Vec<u8>,
    /// The certificate instead, if that was proved; whether it counts is asked again for each session too.
    pub(super) certificate: Option<Certificate>,
    /// Fingerprints of the keys that were offered and are not known, for the explanation.
    pub(super) unknown: Vec<String>,
    /// What the holder of a key is told that has expired, or is bound to other addresses.
    pub(super) barred: Option<Denial>,
    pub(super) wrong_login: Option<String>,
    /// The invitation whose key was proved, by somebody who is nobody yet.
    invited: Option<Invited>,
    /// This user's place among the connections; one user leaves half of them to others.
    pub(super) connection: Option<Member>,
    pub(super) crowded: bool,
    channels: HashMap<ChannelId, Opened>,
    /// Channels whose task may still be running.
    at_work: HashMap<ChannelId, CancellationToken>,
}

/// A channel that has not been told what to run yet.
struct Opened {
    channel: Channel<Msg>,
    protocol: Option<String>,
    /// A terminal was asked for and refused.
    terminal: bool,
}

/// A channel at work.
struct Line<'a> {
    channel: Channel<Msg>,
    over: &'a CancellationToken,
    /// Who is at its other end wants to know what is taken of a push.
    counts: bool,
}

/// What is said of a key whose client would sign with SHA-1.
const SHA1: &str = "(with SHA-1, which is too weak; a client of OpenSSH 7.2 or newer signs with rsa-sha2-256)";
/// What a client that asks for a terminal is told beside its answer.
const NO_TERMINAL: &str = "(there is no terminal and no shell here; 'help' lists the commands)\n";
/// What a client that asks to forward something is told.
const NO_FORWARDING: &str = "this server does git and its own commands only; it forwards nothing [E0241]";

impl Session {
    pub(super) fn new(shared: Arc<Shared>, from: SocketAddr, seat: Arc<Seat>, gone: CancellationToken) -> Self {
        Self {
            shared,
            from,
            seat,
            gone,
            actor: None,
            key: Vec::new(),
            certificate: None,
            unknown: Vec::new(),
            barred: None,
            wrong_login: None,
            invited: None,
            connection: None,
            crowded: false,
            channels: HashMap::new(),
            at_work: HashMap::new(),
        }
    }

    fn refuse_channel(&mut self, id: ChannelId, text: &str, connection: &mut Connection) -> Result<(), russh::Error> {
        let Some(opened) = self.channels.remove(&id) else { return connection.channel_failure(id) };
        connection.channel_success(id)?;
        let text = format!("{text}\n");
        let over = self.over(id);
        self.shared.sessions.spawn(async move {
            let _over = over.clone().drop_guard();
            let (_, writer) = opened.channel.split();
            write_to(&writer, &over, Some(1), text.as_bytes()).await;
            finish(&writer, 1).await;
        });
        Ok(())
    }

    /// Whoever holds an invitation is nobody yet, so no other room is asked: one command, and it goes to `control`.
    fn introduce(
        &mut self,
        id: ChannelId,
        invited: Invited,
        order: Order,
        connection: &mut Connection,
    ) -> Result<(), russh::Error> {
        let Some(opened) = self.channels.remove(&id) else { return connection.channel_failure(id) };
        connection.channel_success(id)?;
        let words = if let Order::Command(words) = order { words } else { Vec::new() };
        let (shared, from, over) = (self.shared.clone(), self.from, self.over(id));
        self.shared.sessions.spawn(async move {
            let _over = over.clone().drop_guard();
            let (_, writer) = opened.channel.split();
            let reply = shared.control.join(invited, &words, from).await;
            write_to(&writer, &over, None, reply.out.as_bytes()).await;
            write_to(&writer, &over, Some(1), reply.err.as_bytes()).await;
            finish(&writer, reply.code.cast_unsigned()).await;
        });
        Ok(())
    }

    /// A token for a channel's task, which cancels it at its end; cancelled as well when the client closes the channel
    /// or is gone.
    fn over(&mut self, id: ChannelId) -> CancellationToken {
        let over = self.gone.child_token();
        self.at_work.retain(|_, over| !over.is_cancelled());
        self.at_work.insert(id, over.clone());
        over
    }

    /// Hands the channel to a task that does what was ordered.
    fn start(&mut self, id: ChannelId, order: Order, connection: &mut Connection) -> Result<(), russh::Error> {
        self.seat.settled();
        if let Some(invited) = self.invited.clone() {
            return self.introduce(id, invited, order, connection);
        }
        if let Err(text) = self.still_known() {
            return self.refuse_channel(id, &text, connection);
        }
        let (Some(Opened { channel, protocol, terminal }), Some(actor)) =
            (self.channels.remove(&id), self.actor.clone())
        else {
            return connection.channel_failure(id);
        };
        let Some(place) = self.shared.session_places.try_take(self.shared.settings().config.max_sessions) else {
            self.channels.insert(id, Opened { channel, protocol, terminal });
            return self.refuse_channel(
                id,
                &Denial::coded(Denial::BUSY, "FATAL: this server has as many sessions as it may"),
                connection,
            );
        };
        // Nodes share one connection for all their repositories, and mirroring has limits of its own.
        let busy = match &actor {
            Actor::User { .. } => {
                match self.shared.busy.enter(actor.to_string(), self.shared.settings().config.max_sessions_per_user) {
                    Some(busy) => Some(busy),
                    None => {
                        self.channels.insert(id, Opened { channel, protocol, terminal });
                        return self.refuse_channel(
                            id,
                            &Denial::plain(
                                Denial::BUSY,
                                "FATAL: you have as many sessions here as one user may",
                                "wait for some to end",
                            )
                            .to_string(),
                            connection,
                        );
                    }
                }
            }
            _ => None,
        };
        connection.channel_success(id)?;
        let (shared, from) = (self.shared.clone(), self.from.to_string());
        // A node's link takes all that was written before it hears that we end; OpenSSH needs time for that.
        let seat = (!matches!(actor, Actor::Node(_))).then(|| self.seat.clone());
        let over = self.over(id);
        let counts = ahead::understands(connection.remote_sshid());
        self.shared.sessions.spawn(async move {
            let _over = over.clone().drop_guard();
            let channel = if terminal { told(channel, &over, NO_TERMINAL).await } else { channel };
            let order = match order {
                Order::Command(words) if terminal => Order::Command(at_a_terminal(words)),
                order => order,
            };
            work(&shared, Line { channel, over: &over, counts }, actor, order, protocol, from).await;
            if let Some(seat) = seat {
                seat.session_ended();
            }
            drop((place, busy));
        });
        Ok(())
    }
}

async fn told(channel: Channel<Msg>, over: &CancellationToken, text: &str) -> Channel<Msg> {
    let mut out = Alive::new(Box::pin(channel.make_writer_ext(Some(1))), over);
    if let Err(error) = out.write_all(text.as_bytes()).await {
        tracing::debug!(%error, "the client left before its answer");
    }
    channel
}

async fn work(shared: &Shared, line: Line<'_>, actor: Actor, order: Order, protocol: Option<String>, from: String) {
    let Line { channel, over, counts } = line;
    let (mut reader, writer) = channel.split();
    let request = |service, repo, mirror| Request {
        actor: actor.clone(),
        service,
        repo,
        protocol,
        from: from.clone(),
        mirror,
        via: None,
    };
    // A node's word for a user is believed or not further down; from anybody else it is nonsense.
    let order = match (order, &actor) {
        (Order::Forwarded(..), Actor::User { .. } | Actor::Local) => {
            let text = "FATAL: only the nodes of the mesh forward what their users want";
            Order::RefuseGit(Denial::coded(Denial::NOT_FOR_USERS, text))
        }
        (order, _) => order,
    };
    let code = match order {
        Order::Git(..) | Order::MirrorReceive(..) | Order::Forwarded(_, Forwarded::Push(_)) => {
            let request = match order {
                Order::Git(service, repo) => request(service, repo, None),
                Order::MirrorReceive(repo, push) => request(Service::ReceivePack, repo, Some(push)),
                Order::Forwarded(voucher, Forwarded::Push(repo)) => {
                    carried(request(Service::ReceivePack, repo, None), voucher)
                }
                _ => unreachable!("matched above"),
            };
            let (input, taken) = Counted::new(reader.make_reader());
            let streams = Streams {
                input: Box::pin(input),
                output: Alive::new(Box::pin(writer.make_writer()), over),
                errors: Alive::new(Box::pin(writer.make_writer_ext(Some(1))), over),
            };
            let serving = shared.transfer.serve(request, streams);
            if counts { telling(&writer, taken, serving).await } else { serving.await }
        }
        Order::Command(words) => {
            let (live, mut said) = Live::channel();
            let named: Vec<&str> = words.iter().map(String::as_str).collect();
            // What a user sends to a command that reads nothing is thrown away by russh once nobody is there to take
            // it; in a queue it would stay in memory, and then stop the whole connection.
            let reads = !matches!(actor, Actor::User { .. }) || reads_input(&named);
            let mut reader = Some(reader).filter(|_| reads);
            let input: Pin<Box<dyn AsyncRead + Send>> = match &mut reader {
                Some(reader) => Box::pin(reader.make_reader()),
                None => Box::pin(tokio::io::empty()),
            };
            let mut run = std::pin::pin!(shared.control.run(&actor, &words, &from, input, live));
            let reply = loop {
                tokio::select! {
                    biased;
                    Some(text) = said.recv() => write_to(&writer, over, None, text.as_bytes()).await,
                    reply = &mut run => break reply,
                    // A command that watches ends when it sees this; any other is not stopped half way.
                    () = over.cancelled(), if !said.is_closed() => said.close(),
                }
            };
            while let Ok(text) = said.try_recv() {
                write_to(&writer, over, None, text.as_bytes()).await;
            }
            write_to(&writer, over, None, reply.out.as_bytes()).await;
            write_to(&writer, over, Some(1), reply.err.as_bytes()).await;
            reply.code.cast_unsigned()
        }
        Order::Forwarded(voucher, Forwarded::Command(words)) => {
            let Actor::Node(node) = &actor else { unreachable!("refused above") };
            let input = Box::pin(reader.make_reader());
            let reply = shared.control.run_forwarded(node, &voucher, &words, input).await;
            write_to(&writer, over, None, reply.out.as_bytes()).await;
            write_to(&writer, over, Some(1), reply.err.as_bytes()).await;
            reply.code.cast_unsigned()
        }
        Order::RefuseGit(text) => {
            tracing::info!(user = %actor, from, reason = text.lines().next().unwrap_or_default(), "refused");
            let text = Denial::coded(Denial::NOT_UNDERSTOOD, &text);
            write_to(&writer, over, None, &pktline::err_line(&text)).await;
            1
        }
        Order::Refuse(text) => {
            let text = Denial::coded(Denial::NOT_UNDERSTOOD, &text);
            write_to(&writer, over, Some(1), format!("{text}\n").as_bytes()).await;
            1
        }
    };
    finish(&writer, code).await;
}

/// The user's own push, as the node that carries it tells.
fn carried(request: Request, voucher: Voucher) -> Request {
    let Actor::Node(node) = &request.actor else { return request };
    let via = Some(Via { node: node.clone(), epoch: voucher.epoch });
    Request { from: format!("{} by {node}", voucher.from), actor: voucher.actor(), via, ..request }
}

/// Writes through the channel's own writer, which waits for the client's window; `Handle::data` of russh does not, and
/// one client that does not read would then stall everything else on its connection.
async fn write_to(writer: &ChannelWriteHalf<Msg>, over: &CancellationToken, stream: Option<u32>, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let mut out = Alive::new(Box::pin(writer.make_writer_ext(stream)), over);
    if let Err(error) = out.write_all(bytes).await {
        tracing::debug!(%error, "the client left before its answer");
    }
}

/// Ends a channel: exit status, end of file, close (RFC 4254, sections 5.3 and 6.10).
async fn finish(writer: &ChannelWriteHalf<Msg>, code: u32) {
    let ended = async {
        writer.exit_status(code).await?;
        writer.eof().await?;
        writer.close().await
    };
    if let Err(error) = ended.await {
        tracing::debug!(%error, "the client left before the exit status");
    }
}

fn only(method: MethodKind) -> Auth {
    Auth::Reject { proceed_with_methods: Some(MethodSet::from(&[method][..])), partial_success: false }
}

impl Handler for Session {
    type Error = russh::Error;

    async fn auth_publickey_offered(&mut self, login: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, russh::Error> {
        if login != self.shared.settings().config.user {
            self.wrong_login = Some(login.chars().filter(|c| !c.is_control()).take(64).collect());
            return Ok(Auth::reject());
        }
        // Signatures with SHA-1 are forged by those who can pay for it; OpenSSH takes none since 8.8 (RFC 8332).
        if *offer.algorithm == (Algorithm::Rsa { hash: None }) {
            metrics::AUTH.of(&["publickey", "refused"]).add(1);
            let fingerprint = offer.public_key.fingerprint(HashAlg::Sha256);
            self.note_unknown(format!("ssh-rsa {fingerprint} {SHA1}"));
            return Ok(Auth::reject());
        }
        let blob = offer.public_key.public_key_bytes();
        let realm = &self.shared.control.realm;
        let known = realm.identify(&blob, self.from.ip()).is_some() || self.shared.control.invited(&blob).is_some();
        // Here a certificate looks like its key; which of both it is, is told once it has signed.
        if known || realm.takes_certificates() {
            return Ok(Auth::Accept);
        }
        self.refuse_key(offer.public_key);
        Ok(Auth::reject())
    }

    async fn auth_publickey(&mut self, login: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, russh::Error> {
        if login != self.shared.settings().config.user {
            return Ok(Auth::reject());
        }
        self.certificate = None;
        self.key = key.public_key.public_key_bytes();
        self.actor = self.shared.control.realm.identify(&self.key, self.from.ip());
        let Some(actor) = &self.actor else {
            let Some(invited) = self.shared.control.invited(&self.key) else {
                self.refuse_key(key.public_key);
                return Ok(Auth::reject());
            };
            self.connection = self.shared.connected.enter("an invitation".to_owned(), INVITED);
            if self.connection.is_none() {
                return Ok(Auth::reject());
            }
            tracing::info!(from = %self.from, "an invitation is used");
            self.invited = Some(invited);
            self.seat.authenticated();
            return Ok(Auth::Accept);
        };
        let actor = actor.clone();
        Ok(self.admit(actor))
    }

    async fn auth_openssh_certificate(&mut self, login: &str, signed: &Certificate) -> Result<Auth, russh::Error> {
        if login != self.shared.settings().config.user {
            return Ok(Auth::reject());
        }
        match self.shared.control.realm.certify(signed, login, self.from.ip()) {
            Ok(actor) => {
                self.key.clear();
                self.certificate = Some(signed.clone());
                Ok(self.admit(actor))
            }
            Err(denial) => {
                self.refuse_certificate(signed, denial);
                Ok(Auth::reject())
            }
        }
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        login: &str,
        _submethods: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, russh::Error> {
        if response.is_some() || !self.shared.settings().config.explain_unknown_keys {
            // Said once; offering the method again would print it three times.
            return Ok(only(MethodKind::PublicKey));
        }
        // The line that fail2ban reads.
        tracing::warn!(from = %self.from, user = login, keys = self.unknown.join(", "), "auth failed");
        let keys = if self.unknown.is_empty() { "no key at all".to_owned() } else { self.unknown.join(", ") };
        let record = Record { from: self.from.to_string(), ..Record::new(Kind::Auth) };
        self.shared.control.audit.note(record.ended(Outcome::Refused, &format!("login with {keys}")));
        Ok(Auth::Partial { name: "".into(), instructions: self.explanation().into(), prompts: (&[][..]).into() })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _connection: &mut Connection,
    ) -> Result<(), russh::Error> {
        if self.channels.len() >= CHANNELS {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        self.channels.insert(channel.id(), Opened { channel, protocol: None, terminal: false });
        reply.accept().await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        _channel: Channel<Msg>,
        _host: &str,
        _port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _connection: &mut Connection,
    ) -> Result<(), russh::Error> {
        // SSH_OPEN_ADMINISTRATIVELY_PROHIBITED (RFC 4254, section 5.1), with our sentence.
        reply.reject(ChannelOpenFailure::Other { code: 1, reason: NO_FORWARDING.to_owned() }).await;
        Ok(())
    }

    async fn data(&mut self, id: ChannelId, _: &[u8], connection: &mut Connection) -> Result<(), russh::Error> {
        // A client says what to run before it sends anything to it. What comes before would be kept in memory, window
        // after window, on every channel that one connection may open.
        if self.channels.remove(&id).is_some() {
            connection.close(id)?;
        }
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _connection: &mut Connection) -> Result<(), russh::Error> {
        self.channels.remove(&id);
        self.at_work.remove(&id).inspect(CancellationToken::cancel);
        Ok(())
    }

    async fn env_request(
        &mut self,
        id: ChannelId,
        name: &str,
        value: &str,
        connection: &mut Connection,
    ) -> Result<(), russh::Error> {
        let plain = value.len() <= 200 && value.bytes().all(|b| b.is_ascii_graphic());
        match self.channels.get_mut(&id) {
            // The only variable that a client may set (git(1), GIT_PROTOCOL).
            Some(opened) if name == "GIT_PROTOCOL" && plain => {
                opened.protocol = Some(value.to_owned());
                connection.channel_success(id)
            }
            _ => connection.channel_failure(id),
        }
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        _term: &str,
        _columns: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(russh::Pty, u32)],
        connection: &mut Connection,
    ) -> Result<(), russh::Error> {
        if let Some(opened) = self.channels.get_mut(&id) {
            opened.terminal = true;
        }
        connection.channel_failure(id)
    }

    async fn shell_request(&mut self, id: ChannelId, connection: &mut Connection) -> Result<(), russh::Error> {
        self.start(id, Order::Command(Vec::new()), connection)
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        line: &[u8],
        connection: &mut Connection,
    ) -> Result<(), russh::Error> {
        self.start(id, command::parse(line), connection)
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        connection: &mut Connection,
    ) -> Result<(), russh::Error> {
        let name: String = name.chars().filter(|c| c.is_ascii_graphic()).take(64).collect();
        let text = format!(
            "FATAL: there is no subsystem '{name}' here: this server does git and its own commands only (try 'help')"
        );
        self.refuse_channel(id, &Denial::coded(Denial::NOT_UNDERSTOOD, &text), connection)
    }

    async fn x11_request(
        &mut self,
        id: ChannelId,
        _single: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        connection: &mut Connection,
    ) -> Result<(), russh::Error> {
        connection.channel_failure(id)
    }

    async fn agent_request(&mut self, id: ChannelId, connection: &mut Connection) -> Result<bool, russh::Error> {
        connection.channel_failure(id)?;
        Ok(false)
    }
}
