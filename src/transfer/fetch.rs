//! Fetches: what is asked most is answered here, the rest by git.
//!
//! Listing references costs no process. A clone's pack comes from git-pack-objects(1) itself, without git-upload-pack
//! between it and us, and clones of one state share it (`git::packs`). In protocol version 2 (gitprotocol-v2(5)) each
//! other request is handed to a git of its own, which is how that version is meant to be served; in the first
//! (gitprotocol-pack(5)) git takes over the conversation. Archives and repositories with settings of their own about
//! the protocol are served by git alone.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::listing::{Item, list};
use super::looked::size_of_packs;
use super::relay::Movement;
use super::request::{Input, Output, Streams};
use super::sending::Sending;
use super::turns::Turn;
use super::{Refusal, Request, Transfer, exit_code};
use crate::admin::Denial;
use crate::git::pktline::{self, Packet, PktError, Reader};
use crate::git::process::{SILENT, Serving};
use crate::git::protocol::{self, Advertisement, Asked, LsRefs, Version};
use crate::git::service::Service;
use crate::observe::metrics;
use crate::repo::Repo;

/// A request that is longer is not collected but streamed to git; ten thousand `have` lines fit.
const REQUEST_MAX: usize = 1 << 20;
/// Bytes of a pack handed to the channel at once.
pub(super) const CHUNK: usize = 256 << 10;
/// A client that hears nothing for so long while a pack is prepared gets an empty packet, as from git
/// (uploadpack.keepAlive).
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(5);
pub(super) const KEEP_ALIVE_PACKET: &[u8] = b"0005\x01";
/// Packs of a repository from which on its clones wait for a turn, in bytes. They do not give way beside that:
/// to be done sooner leaves small questions more than a low priority does (scripts/fairness, 1.9 against 2.4).
pub(super) const LARGE: u64 = 8 << 20;
/// The longest wait for a turn at making a pack.
const TURN: Duration = Duration::from_secs(600);
/// After so long, the client is told what it waits for.
const PATIENCE: Duration = Duration::from_secs(1);
/// The line before a pack (gitprotocol-v2(5), fetch).
const PACKFILE: &[u8] = b"000dpackfile\n";

/// Why a session ends early.
pub(super) enum Stop {
    /// The client is gone, or does not speak the protocol.
    Client(String),
    Ours(Refusal),
}

impl From<PktError> for Stop {
    fn from(error: PktError) -> Self {
        Self::Client(error.to_string())
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Client(error.to_string())
    }
}

impl Transfer {
    /// Whether [`Transfer::fetch`] may serve this session.
    pub(super) fn fetches_here(&self, request: &Request, repo: &Repo) -> bool {
        if protocol::version(request.protocol.as_deref()) == Version::Other {
            return false;
        }
        self.is_plain(repo, protocol::OF_FETCHES)
    }

    /// Serves requests until the client has no more, and returns the exit code.
    pub(super) async fn fetch<R: Input, W: Output, E: Output>(
        &self,
        request: &Request,
        repo: &Repo,
        streams: &mut Streams<R, W, E>,
    ) -> Result<u32, Refusal> {
        let Streams { input, output, errors } = streams;
        let mut session = Session { transfer: self, request, repo, input: Reader::new(input), output, errors };
        let ran = match protocol::version(request.protocol.as_deref()) {
            Version::First => session.run_first().await,
            _ => session.run().await,
        };
        match ran {
            Ok(code) => Ok(code),
            Err(Stop::Client(why)) => {
                tracing::debug!(why, repo = %repo.name, "the client left in the middle of a fetch");
                Ok(1)
            }
            Err(Stop::Ours(refusal)) => Err(refusal),
        }
    }
}

pub(super) struct Session<'a, R, W, E> {
    pub(super) transfer: &'a Transfer,
    request: &'a Request,
    pub(super) repo: &'a Repo,
    input: Reader<R>,
    pub(super) output: W,
    errors: E,
}

impl<R: Input, W: Output, E: Output> Session<'_, R, W, E> {
    /// The first version: one advertisement, one request.
    async fn run_first(&mut self) -> Result<u32, Stop> {
        let advertised = self.transfer.send_listing(self.repo, &mut self.output, |dir, send| {
            let mut advertisement = Advertisement::of_fetch();
            let listed = list(dir, &[], send, |out, item| match item {
                Item::Head(head) => advertisement.head(out, head),
                Item::Reference(reference) => advertisement.reference(out, reference),
                Item::End => advertisement.end(out),
            });
            listed.map(drop)
        });
        if !advertised.await? {
            let git = self.transfer.git.serve(Service::UploadPack, self.repo.dir(), &[], &[]);
            let _permit = self.transfer.permit().await.map_err(Stop::Ours)?;
            return self.converse(git.map_err(|error| self.internal(&error))?, &[], More::ToEnd, None).await;
        }
        let mut asked = Vec::new();
        let whole = self.read_request(&mut asked).await?;
        if asked.is_empty() {
            return Ok(0);
        }
        // A client that asks for less than everything waits for an answer before it says more.
        let clone = if whole { protocol::parse_first(&asked) } else { None };
        if let Some(clone) = clone
            && let Some(next) = self.input.next().await?
        {
            let done = protocol::is_done(next);
            append(&mut asked, next);
            if done && let Some(code) = self.clone(clone, b"0008NAK\n").await? {
                return Ok(code);
            }
        }
        let _permit = self.transfer.permit().await.map_err(Stop::Ours)?;
        let git = self.transfer.git.serve(Service::UploadPack, self.repo.dir(), &[], &[]);
        let mut git = git.map_err(|error| self.internal(&error))?;
        // What it advertises, the client knows from us; it says no more before it is asked.
        if let Some(stdout) = &mut git.child.stdout {
            let mut advertised = Reader::new(stdout);
            while !matches!(advertised.next().await?, None | Some(Packet::Flush)) {}
        }
        self.converse(git, &asked, More::ToEnd, None).await
    }

    async fn run(&mut self) -> Result<u32, Stop> {
        self.output.write_all(&protocol::advertisement()).await?;
        loop {
            let mut asked = Vec::new();
            let whole = self.read_request(&mut asked).await?;
            if asked.is_empty() {
                return Ok(0);
            }
            let code = match if whole { protocol::parse(&asked) } else { Asked::Other } {
                Asked::LsRefs(listing) => match self.ls_refs(listing).await? {
                    true => 0,
                    false => self.by_git(&asked, whole).await?,
                },
                Asked::Clone(clone) => match self.clone(clone, PACKFILE).await? {
                    Some(code) => code,
                    None => self.by_git(&asked, whole).await?,
                },
                Asked::Other => self.by_git(&asked, whole).await?,
            };
            if code != 0 {
                return Ok(code);
            }
        }
    }

    /// Collects one request with its flush; nothing when there are no more. False when it is too long and goes on.
    async fn read_request(&mut self, asked: &mut Vec<u8>) -> Result<bool, Stop> {
        loop {
            match self.input.next().await? {
                None if asked.is_empty() => return Ok(true),
                None => return Err(Stop::Client("the conversation ended within a request".to_owned())),
                Some(Packet::Flush) if asked.is_empty() => return Ok(true),
                Some(packet) => {
                    if append(asked, packet) {
                        return Ok(true);
                    }
                }
            }
            if asked.len() > REQUEST_MAX {
                return Ok(false);
            }
        }
    }

    /// Lists references; false, with nothing said yet, when only git can.
    async fn ls_refs(&mut self, asked: LsRefs) -> Result<bool, Stop> {
        let listed = self.transfer.send_listing(self.repo, &mut self.output, move |dir, send| {
            list(dir, &asked.prefixes, send, |out, item| match item {
                Item::Head(head) if asked.head() => asked.write_head(out, head),
                Item::Head(_) => {}
                Item::Reference(reference) => asked.write(out, reference),
                Item::End => out.extend_from_slice(pktline::FLUSH),
            })
        });
        Ok(listed.await?)
    }

    /// Hands the request to a git of its own.
    async fn by_git(&mut self, asked: &[u8], whole: bool) -> Result<u32, Stop> {
        let turn = if protocol::wants_all(asked) {
            let dir = self.repo.dir().to_owned();
            let size = tokio::task::spawn_blocking(move || size_of_packs(&dir)).await;
            self.turn(size.map_err(io::Error::other)??, None).await.map_err(Stop::Ours)?
        } else {
            None
        };
        let _permit = self.transfer.permit().await.map_err(Stop::Ours)?;
        let protocol = self.request.protocol.as_deref().unwrap_or_default();
        let git = self.transfer.git.answer(self.repo.dir(), protocol).map_err(|error| self.internal(&error))?;
        self.converse(git, asked, if whole { More::Nothing } else { More::ToFlush }, turn).await
    }

    /// Waits until it is this client's turn to have a large pack made.
    pub(super) async fn turn(&mut self, size: u64, words: Option<bool>) -> Result<Option<Turn>, Refusal> {
        if size < LARGE {
            return Ok(None);
        }
        match self.wait_for_turn(words, TURN).await? {
            None => {
                let text = "this server is busy with large packs for others; try again in a few minutes";
                Err(Denial::coded(Denial::BUSY, text).into())
            }
            turn => Ok(turn),
        }
    }

    /// A turn, unless it takes too long. A client whose answer is multiplexed already hears from us meanwhile, in
    /// `words` if it wants any.
    pub(super) async fn wait_for_turn(
        &mut self,
        words: Option<bool>,
        longest: Duration,
    ) -> Result<Option<Turn>, Refusal> {
        let begun = Instant::now();
        let mut place = match self.transfer.turns.ask(&self.request.actor.to_string()) {
            Ok(turn) => return Ok(Some(turn)),
            Err(place) => place,
        };
        let mut told = false;
        let mut turn = None;
        while turn.is_none() && begun.elapsed() < longest {
            let pause = if told { KEEP_ALIVE } else { PATIENCE };
            tokio::select! {
                given = place.turn() => {
                    turn = Some(given);
                    continue;
                }
                () = tokio::time::sleep(pause) => {}
            }
            let mut said = Vec::new();
            match words {
                Some(true) if !told => pktline::multiplex(&mut said, 2, b"waiting until other large packs are sent\n"),
                Some(_) => said.extend_from_slice(KEEP_ALIVE_PACKET),
                None => {}
            }
            told = true;
            if !said.is_empty() && self.output.write_all(&said).await.is_err() {
                return Err("the client left".into());
            }
        }
        metrics::QUEUE.since(begun);
        Ok(turn)
    }

    /// Gives git what has been read and what follows, and the client what git says, until git ends.
    /// The turn is kept while git prepares, and then as long as the client is a fast one.
    async fn converse(&mut self, mut git: Serving, asked: &[u8], more: More, turn: Option<Turn>) -> Result<u32, Stop> {
        let (Some(mut stdin), Some(mut stdout), Some(mut stderr)) =
            (git.child.stdin.take(), git.child.stdout.take(), git.child.stderr.take())
        else {
            unreachable!("all three streams are piped");
        };
        let (input, output, errors) = (&mut self.input, &mut self.output, &mut self.errors);
        let movement = Movement::new(SILENT);
        let to_git = async {
            // A git that has ended needs no more of the request; what it said tells why.
            let mut listens = stdin.write_all(asked).await.is_ok();
            let mut packets = Vec::new();
            let mut ended = more == More::Nothing;
            while listens && !ended {
                let Some(packet) = input.next().await? else { break };
                let flush = append(&mut packets, packet);
                ended = flush && more == More::ToFlush;
                if flush || more == More::ToEnd || packets.len() >= CHUNK {
                    listens = stdin.write_all(&packets).await.is_ok();
                    movement.seen(&packets);
                    packets.clear();
                }
            }
            drop(stdin);
            if more == More::ToEnd {
                // Only git's end ends the conversation.
                std::future::pending::<()>().await;
            }
            Ok::<_, Stop>(())
        };
        let from_git = async {
            let (mut buffer, mut said) = (vec![0; CHUNK], 0);
            let (mut preparing, mut sending) = (turn, Sending::new(None));
            loop {
                let n = stdout.read(&mut buffer).await?;
                if n == 0 {
                    return Ok::<_, Stop>(());
                }
                said += n;
                if said > CHUNK && preparing.is_some() {
                    // More than git says while it prepares a pack.
                    sending = Sending::new(preparing.take().map(Arc::new));
                }
                sending.write(output, &buffer[..n]).await?;
                movement.seen(&buffer[..n]);
            }
        };
        let messages = async { tokio::io::copy(&mut stderr, errors).await.map(drop).map_err(Stop::from) };
        let both = async {
            if more == More::ToEnd {
                tokio::select! {
                    asked = to_git => asked?,
                    said = async { tokio::try_join!(from_git, messages) } => drop(said?),
                }
            } else {
                tokio::try_join!(to_git, from_git, messages)?;
            }
            Ok::<_, Stop>(())
        };
        tokio::select! {
            both = both => both?,
            () = movement.ended() => return Err(Stop::Client("nothing has moved for too long".to_owned())),
        }
        Ok(exit_code(git.child.wait().await?))
    }

    pub(super) fn internal(&self, error: &dyn std::fmt::Display) -> Stop {
        Stop::Ours(Refusal(self.transfer.internal(error)))
    }
}

/// Adds a frame to a request; true for the flush, which ends it.
fn append(asked: &mut Vec<u8>, packet: Packet<'_>) -> bool {
    match packet {
        Packet::Data(data) => pktline::encode(asked, data),
        Packet::Delim => asked.extend_from_slice(pktline::DELIM),
        Packet::ResponseEnd => asked.extend_from_slice(b"0002"),
        Packet::Flush => asked.extend_from_slice(pktline::FLUSH),
    }
    packet == Packet::Flush
}

/// How much of what the client still says is for git.
#[derive(Clone, Copy, PartialEq, Eq)]
enum More {
    Nothing,
    ToFlush,
    ToEnd,
}
