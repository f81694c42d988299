//! The local door: git's hooks and commands typed on the machine.
//!
//! Promises: only root and the daemon's own user are heard, by the kernel's word (unix(7), SO_PEERCRED), never by
//! what they say. Never: a decision; a hook's question goes to `transfer`, a command to `control`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control::{Control, Live};
use crate::hook::wire::{self, Answer, Ask, Knock, Push};
use crate::model::{Actor, Oid, RefName, RefUpdate};
use crate::transfer::Transfer;

/// A caller sends its request at once; anything slower is stuck.
const REQUEST: Duration = Duration::from_secs(30);
/// A hook that waits for a verdict or for copies is told so often that it is not forgotten.
const ALIVE: Duration = Duration::from_secs(20);
/// After a push has landed its hook is answered within this time, which is half of what the hook waits.
const ANSWERED_AFTER: Duration = Duration::from_secs(60);
/// Hooks and commands at the same time; more of them wait in the listen queue.
const CONNECTIONS: usize = 512;

/// The `[admin_socket]` table of `gitmesh.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Absolute after loading.
    pub path: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self { path: PathBuf::from("control.sock") }
    }
}

/// The local door, bound and ready to serve.
pub struct Door {
    listener: UnixListener,
    path: PathBuf,
    transfer: Transfer,
    control: Control,
    reload: Arc<Notify>,
}

impl Door {
    /// Binds `path`, which must not be longer than the kernel takes (107 bytes). A socket that nobody answers at is
    /// replaced; one that somebody answers at means that a daemon is running already.
    pub fn bind(path: &Path, transfer: Transfer, control: Control, reload: Arc<Notify>) -> io::Result<Self> {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            let text = format!("a daemon is running already: it answers at {}", path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        }
        match std::fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned(), transfer, control, reload })
    }

    /// Serves until told to stop, then ends what is running. Pushes in progress still ask through here, so this door
    /// is the last one to close.
    pub async fn run(self, stop: CancellationToken) -> io::Result<()> {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let tasks = TaskTracker::new();
        let me = Arc::new(self);
        let own = rustix::process::geteuid().as_raw();
        loop {
            let place = tokio::select! {
                () = stop.cancelled() => break,
                place = places.clone().acquire_owned() => place.map_err(io::Error::other)?,
            };
            let stream = tokio::select! {
                () = stop.cancelled() => break,
                accepted = me.listener.accept() => accepted.and_then(|(stream, _)| Ok((stream.peer_cred()?.uid(), stream))),
            };
            let (uid, stream) = match stream {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, or the caller left: neither ends the daemon.
                    tracing::warn!(%error, "cannot accept a local request");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            if uid != 0 && uid != own {
                tracing::warn!(uid, "a local user who is neither root nor ours knocked at the control socket");
                continue;
            }
            let me = me.clone();
            tasks.spawn(async move {
                if let Err(error) = me.answer(stream).await {
                    tracing::warn!(%error, "a local request failed");
                }
                drop(place);
            });
        }
        tasks.close();
        tasks.wait().await;
        match std::fs::remove_file(&me.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    async fn answer(&self, stream: UnixStream) -> io::Result<()> {
        let (from, mut to) = stream.into_split();
        let mut line = Vec::new();
        let mut from = BufReader::new(from.take(wire::MAX_LINE));
        match tokio::time::timeout(REQUEST, from.read_until(b'\n', &mut line)).await {
            Ok(read) => read?,
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "no request came")),
        };
        if line.is_empty() {
            return Ok(()); // a second daemon that looks whether this one lives
        }
        let knock: Knock = match serde_json::from_slice(&line) {
            Ok(knock) => knock,
            Err(error) => return refuse(&mut to, format!("this is no request: {error}")).await,
        };
        if knock.version != wire::VERSION {
            let text = format!(
                "this daemon speaks version {}, the caller {}; restart the daemon",
                wire::VERSION,
                knock.version
            );
            return refuse(&mut to, text).await;
        }
        match knock.ask {
            Ask::Judge(push) => {
                let transfer = self.transfer.clone();
                let verdicts = in_background(move || {
                    let updates = unpack(&push)?;
                    transfer.judge(push.id.as_deref(), Path::new(&push.dir), push.atomic, &push.options, &updates)
                });
                let mut verdicts = std::pin::pin!(verdicts);
                // A site's own programs may take their time; the hook is not to take it for silence.
                let verdicts = loop {
                    tokio::select! {
                        verdicts = &mut verdicts => break verdicts,
                        () = tokio::time::sleep(ALIVE) => send(&mut to, &Answer::Out(String::new())).await?,
                    }
                };
                match verdicts {
                    Ok(v) => send(&mut to, &Answer::Verdicts { refused: v.refused, text: v.text }).await,
                    Err(why) => refuse(&mut to, why).await,
                }
            }
            Ask::Landed(push) => {
                let transfer = self.transfer.clone();
                let told = in_background(move || {
                    let updates = unpack(&push)?;
                    transfer.landed(push.id.as_deref(), Path::new(&push.dir), &push.options, &updates)
                });
                // What goes on after this is not given up: a thread runs it.
                let told = tokio::select! {
                    told = told => told,
                    () = tokio::time::sleep(ANSWERED_AFTER) => Ok((self.transfer.under_way(), None)),
                };
                match told {
                    Ok((text, patience)) => {
                        send(&mut to, &Answer::Out(text)).await?;
                        if let Some(patience) = patience {
                            let mut wait = std::pin::pin!(self.transfer.wait_for_copies(patience));
                            let text = loop {
                                tokio::select! {
                                    text = &mut wait => break text,
                                    // The hook waits for a while only, and leaves when its push is cut off.
                                    () = tokio::time::sleep(ALIVE) => send(&mut to, &Answer::Out(String::new())).await?,
                                }
                            };
                            send(&mut to, &Answer::Out(text)).await?;
                        }
                        send(&mut to, &Answer::Exit(0)).await
                    }
                    Err(why) => refuse(&mut to, why).await,
                }
            }
            Ask::Command(words) => self.carry_out(&words, String::new(), from, to).await,
            Ask::CommandWithInput { words, input } => self.carry_out(&words, input, from, to).await,
            Ask::Done(words) => {
                self.control.note_done(&words);
                send(&mut to, &Answer::Exit(0)).await
            }
            Ask::Reload => {
                self.reload.notify_one();
                send(&mut to, &Answer::Exit(0)).await
            }
        }
    }

    /// A command typed on the machine.
    async fn carry_out(
        &self,
        words: &[String],
        input: String,
        mut from: impl tokio::io::AsyncRead + Unpin,
        mut to: impl tokio::io::AsyncWrite + Unpin,
    ) -> io::Result<()> {
        let (live, mut said) = Live::channel();
        let mut run = std::pin::pin!(self.control.run(&Actor::Local, words, "local", input.as_bytes(), live));
        let mut left = std::pin::pin!(hung_up(&mut from));
        let reply = loop {
            tokio::select! {
                biased;
                Some(text) = said.recv() => send(&mut to, &Answer::Out(text)).await?,
                reply = &mut run => break reply,
                () = &mut left, if !said.is_closed() => said.close(),
            }
        };
        while let Ok(text) = said.try_recv() {
            send(&mut to, &Answer::Out(text)).await?;
        }
        send(&mut to, &Answer::Out(reply.out)).await?;
        send(&mut to, &Answer::Err(reply.err)).await?;
        send(&mut to, &Answer::Exit(reply.code)).await
    }
}

/// Returns when the caller is gone; one that has asked says nothing more.
async fn hung_up(from: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut more = [0; 64];
    while matches!(from.read(&mut more).await, Ok(1..)) {}
}

async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "judging a push panicked");
        Err("the daemon has a problem of its own; tell an administrator, then push again".to_owned())
    })
}

/// git's hook has its words from git, but the socket is open to all of root's programs.
fn unpack(push: &Push) -> Result<Vec<RefUpdate>, String> {
    let one = |u: &wire::Update| {
        let name = RefName::parse(&u.name).ok_or_else(|| format!("{:?} is no reference name", u.name))?;
        let oid = |text: &str| Oid::parse(text).ok_or_else(|| format!("{text:?} is no object id"));
        Ok(RefUpdate { name, old: oid(&u.old)?, new: oid(&u.new)? })
    };
    push.updates.iter().map(one).collect()
}

async fn refuse(to: &mut (impl tokio::io::AsyncWrite + Unpin), why: String) -> io::Result<()> {
    send(to, &Answer::Refused(why)).await
}

async fn send(to: &mut (impl tokio::io::AsyncWrite + Unpin), answer: &Answer) -> io::Result<()> {
    let mut line = Vec::new();
    wire::write_line(&mut line, answer)?;
    to.write_all(&line).await
}
