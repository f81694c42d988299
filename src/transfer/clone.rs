//! Clones: everything that the wants reach, from the cheapest place that has it.
//!
//! A stored pack that holds nothing else is sent as it is (`git::stored`); otherwise git-pack-objects(1) makes one, without
//! git-upload-pack between it and us, for this client alone or for all who ask for the same state (`git::packs`).

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::OwnedSemaphorePermit;

use super::Refusal;
use super::fetch::{CHUNK, KEEP_ALIVE, KEEP_ALIVE_PACKET, LARGE, Session, Stop};
use super::looked::{Looked, look};
use super::request::{Input, Output};
use super::sending::Sending;
use super::turns::Turn;
use crate::admin::Denial;
use crate::git::packs::{Pack, Use};
use crate::git::pktline;
use crate::git::process::{SILENT, Serving};
use crate::git::protocol::{self, Clone};
use crate::git::stored::Stored;
use crate::observe::metrics;

/// The longest wait for a turn at sending a pack that is made already.
const TURN_TO_SEND: Duration = Duration::from_secs(20);
/// The longest look whether a stored pack will do; a client hears nothing meanwhile.
const PROOF: Duration = Duration::from_secs(5);

impl<R: Input, W: Output, E: Output> Session<'_, R, W, E> {
    /// Sends everything that the wants reach; `None`, with nothing said yet, when git has to say why it cannot be.
    pub(super) async fn clone(&mut self, asked: Clone, head: &[u8]) -> Result<Option<u32>, Stop> {
        let begun = Instant::now();
        let (dir, name) = (self.repo.dir().to_owned(), self.repo.name.clone());
        let looking = tokio::task::spawn_blocking(move || look(&dir, name.as_str(), asked));
        let looked = looking.await.map_err(|error| self.internal(&error))?;
        let Ok(Some(looked)) = looked else { return Ok(None) };
        self.output.write_all(head).await?;
        // From here on the client takes nothing but packets of a pack, so a refusal is one too.
        let why = match self.send(&looked, begun).await {
            Ok(Sent::Whole) => {
                self.output.write_all(pktline::FLUSH).await?;
                return Ok(Some(0));
            }
            Ok(Sent::Nothing(why) | Sent::Part(why)) => {
                tracing::warn!(why, repo = %self.repo.name, "a pack broke off");
                Denial::coded(Denial::INTERNAL, "the pack could not be made")
            }
            Err(Stop::Ours(Refusal(why))) => why,
            Err(stop) => return Err(stop),
        };
        let mut last = Vec::new();
        pktline::multiplex(&mut last, 3, format!("gitmesh: {why}\n").as_bytes());
        self.output.write_all(&last).await?;
        Ok(Some(128))
    }

    /// Sends the pack: one that others read too, or one for this client alone.
    async fn send(&mut self, looked: &Looked, begun: Instant) -> Result<Sent, Stop> {
        let Looked { asked, key, expected, .. } = looked;
        let stored = if *expected >= LARGE { self.stored(looked).await? } else { None };
        let mut from = if stored.is_some() { "stored" } else { "kept" };
        let pack = match stored.map_or_else(|| self.transfer.packs.request(*key, *expected), Use::Read) {
            Use::Read(pack) if *expected < LARGE => Some((pack, None)),
            Use::Read(pack) => {
                let turn = if self.begins(&pack).await? {
                    self.wait_for_turn(Some(asked.progress), TURN_TO_SEND).await.map_err(Stop::Ours)?
                } else {
                    None
                };
                Some((pack, turn.map(Arc::new)))
            }
            Use::Fill(filling, pack) => {
                from = "made";
                let (git, permit, turn) = self.start(asked, *expected, false).await?;
                let turn = turn.map(Arc::new);
                let makes = turn.clone();
                // On its own, so that it goes on for the others when this client leaves.
                tokio::spawn(async move {
                    filling.fill(git).await;
                    drop((permit, makes));
                });
                Some((pack, turn))
            }
            Use::Alone => None,
        };
        if let Some((pack, turn)) = pack {
            match self.send_shared(pack, Sending::new(turn), begun).await? {
                // What went wrong for somebody else need not do so for this one.
                Sent::Nothing(why) => tracing::debug!(why, repo = %self.repo.name, "a shared pack failed"),
                sent => {
                    metrics::PACKS.of(&[from]).add(1);
                    return Ok(sent);
                }
            }
        }
        metrics::PACKS.of(&["made"]).add(1);
        let (git, _permit, turn) = self.start(asked, *expected, asked.progress).await?;
        self.send_own(git, turn, begun).await
    }

    /// The repository's largest pack with what it lacks, if it holds nothing else. Whoever asks for a state a second
    /// time has been through this in vain.
    async fn stored(&self, looked: &Looked) -> Result<Option<Arc<Pack>>, Stop> {
        let Looked { asked, key, expected, tags } = looked;
        // A tag that comes along unasked is reached by none of the wants.
        if !asked.ofs_delta || (asked.include_tag && !tags) || self.transfer.packs.knows(*key) {
            return Ok(None);
        }
        let dir = self.repo.dir().to_owned();
        let stored = tokio::task::spawn_blocking(move || Stored::largest(&dir)).await.map_err(io::Error::other)?;
        let Ok(Some(stored)) = stored else { return Ok(None) };
        if stored.size() < expected / 2 {
            return Ok(None);
        }
        let _permit = self.transfer.permit().await.map_err(Stop::Ours)?;
        let complete = stored.complete(&self.transfer.git, self.repo.dir(), &asked.wants);
        match tokio::time::timeout(PROOF, complete).await {
            Ok(Ok(completed)) => Ok(completed.map(Pack::stored)),
            Ok(Err(error)) => {
                tracing::debug!(%error, repo = %self.repo.name, "a stored pack cannot be sent");
                Ok(None)
            }
            Err(_) => {
                tracing::debug!(repo = %self.repo.name, "counting for a stored pack takes too long");
                Ok(None)
            }
        }
    }

    /// Waits for the first bytes of a pack that is made for somebody else; false when it could not be made. Without a
    /// turn: those who only wait would keep one from whoever makes it.
    async fn begins(&mut self, pack: &Pack) -> Result<bool, Stop> {
        loop {
            match tokio::time::timeout(KEEP_ALIVE, pack.ready(0)).await {
                Ok(ready) => return Ok(ready.is_ok()),
                Err(_) => self.output.write_all(KEEP_ALIVE_PACKET).await?,
            }
        }
    }

    /// Starts git on the pack when there is room for it. Of one that many read, nobody is shown the progress.
    async fn start(
        &mut self,
        asked: &Clone,
        expected: u64,
        progress: bool,
    ) -> Result<(Serving, OwnedSemaphorePermit, Option<Turn>), Stop> {
        let turn = self.turn(expected, Some(asked.progress)).await.map_err(Stop::Ours)?;
        let mut arguments = vec!["--revs", "--stdout", if progress { "--progress" } else { "-q" }];
        let options = [(asked.ofs_delta, "--delta-base-offset"), (asked.include_tag, "--include-tag")];
        arguments.extend(options.iter().filter(|(wanted, _)| *wanted).map(|(_, argument)| argument));
        let permit = self.transfer.permit().await.map_err(Stop::Ours)?;
        let mut git = self.transfer.git.pack(self.repo.dir(), &arguments).map_err(|error| self.internal(&error))?;
        feed(&mut git, &protocol::revisions(&asked.wants)).await?;
        Ok((git, permit, turn))
    }

    /// Sends what git makes for this client alone, with its progress.
    async fn send_own(&mut self, mut git: Serving, turn: Option<Turn>, begun: Instant) -> Result<Sent, Stop> {
        let (Some(mut stdout), Some(mut stderr)) = (git.child.stdout.take(), git.child.stderr.take()) else {
            unreachable!("all three streams are piped");
        };
        let (mut preparing, mut sending) = (Some(turn), Sending::new(None));
        let (mut pack, mut words, mut out) = (vec![0; CHUNK], vec![0; 4096], Vec::with_capacity(CHUNK + 64));
        let (mut packing, mut talking) = (true, true);
        let mut said = String::new();
        let mut heard = Instant::now();
        while packing || talking {
            out.clear();
            tokio::select! {
                n = stdout.read(&mut pack), if packing => match n? {
                    0 => packing = false,
                    n => {
                        if let Some(turn) = preparing.take() {
                            metrics::FIRST_PACK_BYTE.since(begun);
                            sending = Sending::new(turn.map(Arc::new));
                        }
                        pktline::multiplex(&mut out, 1, &pack[..n]);
                    }
                },
                n = stderr.read(&mut words), if talking => match n? {
                    0 => talking = false,
                    n => {
                        pktline::multiplex(&mut out, 2, &words[..n]);
                        said = String::from_utf8_lossy(&words[..n]).trim().to_owned();
                    }
                },
                () = tokio::time::sleep(KEEP_ALIVE) => out.extend_from_slice(KEEP_ALIVE_PACKET),
            }
            if out != KEEP_ALIVE_PACKET {
                heard = Instant::now();
            } else if heard.elapsed() > SILENT {
                let why = "git pack-objects has said nothing for too long".to_owned();
                return Ok(if preparing.is_some() { Sent::Nothing(why) } else { Sent::Part(why) });
            }
            if !out.is_empty() {
                sending.write(&mut self.output, &out).await?;
            }
        }
        let status = git.child.wait().await?;
        let why = || format!("git pack-objects: {status}: {said}");
        Ok(match (status.success(), preparing) {
            (true, _) => Sent::Whole,
            (false, Some(_)) => Sent::Nothing(why()),
            (false, None) => Sent::Part(why()),
        })
    }

    /// Sends a pack that others read too, while it grows. One piece is read while the one before it is sent.
    async fn send_shared(&mut self, pack: Arc<Pack>, mut sending: Sending, begun: Instant) -> Result<Sent, Stop> {
        let broken = |sent, error: io::Error| match sent {
            0 => Sent::Nothing(error.to_string()),
            _ => Sent::Part(error.to_string()),
        };
        let (mut at, mut sent, mut piece, mut buffers) = (0, 0, Vec::new(), (Vec::new(), Vec::new()));
        loop {
            let more = usize::try_from(pack.at_hand(at)).unwrap_or(CHUNK).min(CHUNK);
            let framed = (more > 0).then(|| {
                let (reading, (mut raw, mut packets)) = (pack.clone(), std::mem::take(&mut buffers));
                tokio::task::spawn_blocking(move || {
                    raw.resize(more, 0);
                    reading.read_at(&mut raw, at)?;
                    packets.clear();
                    pktline::multiplex(&mut packets, 1, &raw);
                    Ok::<_, io::Error>((raw, packets))
                })
            });
            if at > sent {
                if sent == 0 {
                    metrics::FIRST_PACK_BYTE.since(begun);
                }
                sending.write(&mut self.output, &piece).await?;
                sent = at;
            }
            let Some(framed) = framed else {
                match tokio::time::timeout(KEEP_ALIVE, sending.waits(pack.ready(at))).await {
                    Err(_) => self.output.write_all(KEEP_ALIVE_PACKET).await?,
                    Ok(Err(error)) => return Ok(broken(sent, error)),
                    Ok(Ok(0)) => return Ok(Sent::Whole),
                    Ok(Ok(_)) => {}
                }
                continue;
            };
            match framed.await.map_err(io::Error::other).and_then(|framed| framed) {
                Ok((raw, packets)) => buffers = (raw, std::mem::replace(&mut piece, packets)),
                Err(error) => return Ok(broken(sent, error)),
            }
            at += more as u64;
        }
    }
}

/// Gives git its input. One that has ended already needs none, and its status will tell why.
async fn feed(git: &mut Serving, input: &[u8]) -> io::Result<()> {
    let mut stdin = git.child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    match stdin.write_all(input).await {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// How far a pack got, and why not further.
enum Sent {
    Whole,
    Nothing(String),
    Part(String),
}
