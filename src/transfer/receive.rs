//! Pushes: git-receive-pack's part of the conversation, played here.
//!
//! What git does in one process and three hooks is a story in this file: offer the references, take the commands, let
//! git-index-pack(1) check the pack in quarantine, see that nothing is missing, judge, move the references
//! (`moving`), report, tell what follows. Judging and what comes after are the functions that the
//! hooks call for a push by path, without hooks between. Signed and shallow pushes, other object formats, repositories
//! with settings of their own about pushes, and a site that has hooks of its own are git's: it takes the conversation
//! over, or has it from the start.
//!
//! Promises: nothing is visible before it is whole and judged; a push that has been received lands or is refused as
//! a whole even if the client is gone; what is reported as done is on the disk (core.fsync).

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;

use super::listing::{Item, list};
use super::push::Entry;
use super::relay::{Abandoned, relay};
use super::request::{Input, Output, Streams};
use super::{Refusal, Request, Transfer, exit_code};
use crate::admin::Denial;
use crate::durable;
use crate::git::etag::Look;
use crate::git::pktline::{self, Packet, PktError, Reader};
use crate::git::process::Serving;
use crate::git::protocol::{self, Advertisement, Version};
use crate::git::receive::{self, Asked, Push};
use crate::model::{Oid, RefUpdate};
use crate::observe::metrics;
use crate::repo::{Quarantine, Repo};

/// Commands are collected up to here, some two hundred thousand of them; of more, git takes care.
pub(super) const COMMANDS_MAX: usize = 32 << 20;
/// From here on they are many, some six thousand, and so few pushes with as many are kept in memory at once; the others
/// are git's from the start.
const COMMANDS_FEW: usize = 1 << 20;
static MANY_COMMANDS: Semaphore = Semaphore::const_new(4);
/// Options of one push, in bytes.
const OPTIONS_MAX: usize = 1 << 20;
/// Read from the client at once, who sends packets of 32 KiB.
const CHUNK: usize = 64 << 10;
/// A client that hears nothing for so long gets an empty packet, as from git (receive.keepAlive).
const KEEP_ALIVE: std::time::Duration = std::time::Duration::from_secs(5);
const KEEP_ALIVE_PACKET: &[u8] = b"0005\x02";
/// Packs of so many objects, or bytes, give way to everything else.
const BULK_OBJECTS: u32 = 1000;
const BULK_BYTES: u64 = 8 << 20;
/// A git that takes nothing of a pack for so long is stuck. What the client sends meanwhile is held for it, and when
/// that is full a user's whole connection stands still, so the wait has an end.
const STUCK: std::time::Duration = std::time::Duration::from_secs(300);
/// Of what a failing git says, so much is told.
const WORDS_MAX: usize = 64 << 10;

/// What became of a pack.
#[derive(Default)]
pub(super) struct Taken {
    /// The new values that lead to what is not there.
    pub(super) missing: HashSet<Oid>,
    /// Where it is now.
    pack: Option<PathBuf>,
}

/// How a push ended, for whoever has to tidy up after it.
pub(super) enum Ended {
    Code(u32),
    /// git has to serve it; with it, what the client has said.
    ForGit(Vec<u8>),
}

/// The client's side of the answer.
pub(super) struct Client<'a, W, E> {
    pub(super) output: &'a mut W,
    pub(super) errors: &'a mut E,
    pub(super) banded: bool,
    /// A client that left is told nothing more; its push goes on.
    pub(super) there: bool,
}

impl<W: Output, E: Output> Client<'_, W, E> {
    pub(super) async fn write(&mut self, bytes: &[u8]) {
        if self.there && self.output.write_all(bytes).await.is_err() {
            self.there = false;
        }
    }

    /// Text for the pusher's terminal.
    pub(super) async fn say(&mut self, text: &[u8]) {
        if text.is_empty() {
            return;
        }
        if self.banded {
            let mut out = Vec::new();
            pktline::multiplex(&mut out, 2, text);
            self.write(&out).await;
        } else if self.there && self.errors.write_all(text).await.is_err() {
            self.there = false;
        }
    }

    /// Awaits work, with a sign of life now and then.
    pub(super) async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(KEEP_ALIVE), if self.banded => self.write(KEEP_ALIVE_PACKET).await,
            }
        }
    }
}

impl Transfer {
    /// Serves a push that came through a door. `entry` is its place in the table, `mirror` whether a master sends it.
    pub(super) async fn receive_here<R: Input, W: Output, E: Output>(
        &self,
        entry: &Entry,
        request: &Request,
        repo: &Repo,
        streams: &mut Streams<R, W, E>,
    ) -> Result<u32, Refusal> {
        let Streams { input, output, errors } = streams;
        let mut input = Reader::new(input);
        match self.converse(entry, request, repo, &mut input, output, errors).await {
            Ok(Ended::Code(code)) => Ok(code),
            Ok(Ended::ForGit(said)) => {
                let (more, input) = input.into_parts();
                let said = [said, more].concat();
                let mut git = self.receive_pack(entry, request, repo)?;
                // What it offers, the client knows from us; it says no more before it is asked.
                if let Some(stdout) = &mut git.child.stdout {
                    let mut offered = Reader::new(stdout);
                    while !matches!(offered.next().await, Ok(None | Some(Packet::Flush)) | Err(_)) {}
                }
                let input = (&said[..]).chain(input);
                let status = relay(git, &mut Streams { input, output, errors }, Abandoned::Drain).await;
                status.map(exit_code).map_err(|error| self.internal(&error).into())
            }
            Err(error) => {
                tracing::debug!(%error, repo = %repo.name, "the client left in the middle of a push");
                Ok(1)
            }
        }
    }

    /// Whether [`Transfer::receive_here`] may serve this session.
    pub(super) fn receives_here(&self, request: &Request, repo: &Repo) -> bool {
        protocol::version(request.protocol.as_deref()) != Version::Other
            && receive::has_only_our_hooks(Path::new(&*self.hooks))
            && self.is_plain(repo, protocol::OF_PUSHES)
    }

    async fn converse<R: Input, W: Output, E: Output>(
        &self,
        entry: &Entry,
        request: &Request,
        repo: &Repo,
        input: &mut Reader<R>,
        output: &mut W,
        errors: &mut E,
    ) -> Result<Ended, PktError> {
        let look = self.look(request, repo).await;
        let believed = request.mirror.as_ref().and_then(|push| push.etag.clone());
        let etag = look.as_ref().map(Look::etag);
        let offered = self.send_listing(repo, output, move |dir, send| {
            let mut advertisement = Advertisement::of_push();
            if let Some(etag) = &etag {
                let unchanged = believed.as_ref() == Some(etag);
                advertisement = advertisement.with_etag(etag, unchanged);
                if unchanged {
                    let mut out = Vec::new();
                    advertisement.end(&mut out);
                    return send(out);
                }
            }
            list(dir, &[], send, |out, item| match item {
                Item::Head(_) => {}
                Item::Reference(reference) => advertisement.reference(out, reference),
                Item::End => advertisement.end(out),
            })
        });
        if !offered.await? {
            return Err(io::Error::from(io::ErrorKind::Unsupported).into());
        }
        let mut said = Vec::new();
        let mut whole = collect(input, &mut said, COMMANDS_FEW).await?;
        let many = if whole { None } else { MANY_COMMANDS.try_acquire().ok() };
        if many.is_some() {
            whole = collect(input, &mut said, COMMANDS_MAX).await?;
        }
        if !whole {
            return Ok(Ended::ForGit(said));
        }
        let push = match receive::parse(&said) {
            Asked::Nothing => return Ok(Ended::Code(0)),
            Asked::Other => return Ok(Ended::ForGit(said)),
            Asked::Push(push) => push,
        };
        let mut options = Vec::new();
        if push.options {
            let mut lines = Vec::new();
            if !collect(input, &mut lines, OPTIONS_MAX).await? {
                return Ok(Ended::ForGit([said, lines].concat()));
            }
            options = texts(&lines);
        }
        drop(said);
        let mut client = Client { output, errors, banded: push.banded, there: true };
        let received = if push.updates.iter().any(|update| !update.new.is_zero()) {
            self.take_pack(request, repo, &push, look.is_some(), input, &mut client).await
        } else {
            Ok(Taken::default())
        };
        Ok(Ended::Code(self.land(entry, request, repo, push, look, received, options, &mut client).await))
    }

    /// From a pack that is here to the last word.
    #[expect(clippy::too_many_arguments, reason = "a step of one story, called once")]
    async fn land<W: Output, E: Output>(
        &self,
        entry: &Entry,
        request: &Request,
        repo: &Repo,
        push: Push,
        look: Option<Look>,
        received: Result<Taken, String>,
        options: Vec<String>,
        client: &mut Client<'_, W, E>,
    ) -> u32 {
        let Push { mut updates, bad, atomic, report, .. } = push;
        let mut code = 0;
        let mut results: Vec<(String, Option<String>)> =
            bad.into_iter().map(|(name, why)| (name, Some(why.to_owned()))).collect();
        if let Ok(taken) = &received {
            let broken = updates.extract_if(.., |update| taken.missing.contains(&update.new));
            results.extend(broken.map(|update| (update.name.to_string(), Some(git_says("missing necessary objects")))));
        }
        let refused = match &received {
            Ok(_) if updates.is_empty() => Vec::new(),
            Ok(_) => self.verdicts(entry, repo, atomic, &options, &updates, client).await,
            Err(_) => vec![Some(git_says("unpacker error")); updates.len()],
        };
        let spoilt = atomic && !results.is_empty();
        let mut landing = Vec::new();
        for (update, refusal) in updates.into_iter().zip(refused) {
            let refusal = refusal.or_else(|| spoilt.then(|| git_says("atomic push failure")));
            match refusal {
                Some(why) => results.push((update.name.to_string(), Some(why))),
                None => landing.push(update),
            }
        }
        let moved = self.move_references(request, repo, landing, atomic, client).await;
        let mut landed = Vec::new();
        for (update, failure) in moved {
            results.push((update.name.to_string(), failure.clone()));
            if failure.is_none() {
                landed.push(update);
            }
        }
        if let (true, true, Ok(Taken { pack: Some(pack), .. })) =
            (request.mirror.is_none(), landed.len() == results.len(), &received)
        {
            self.mirror.pushed(&repo.name, landed.clone(), pack.clone());
        }
        metrics::PUSH_REFS.of(&["landed"]).add(landed.len() as u64);
        metrics::PUSH_REFS.of(&["refused"]).add((results.len() - landed.len()) as u64);
        if report {
            let whole = results.iter().all(|(_, failure)| failure.is_none());
            let etag = match look {
                Some(look) if whole => self.etag_after(repo, look, &landed).await,
                _ => None,
            };
            let text = receive::report(received.as_ref().map(drop).map_err(String::as_str), &results, etag.as_deref());
            let mut out = Vec::new();
            if client.banded {
                pktline::multiplex(&mut out, 1, &text)
            } else {
                out = text
            }
            client.write(&out).await;
        }
        if received.is_err() {
            code = 1;
        }
        if !landed.is_empty() {
            self.tell(entry, repo, landed, options, client).await;
        }
        if client.banded {
            client.write(pktline::FLUSH).await;
        }
        code
    }

    /// What follows a push that has landed, and what the pusher hears of it.
    async fn tell<W: Output, E: Output>(
        &self,
        entry: &Entry,
        repo: &Repo,
        landed: Vec<RefUpdate>,
        options: Vec<String>,
        client: &mut Client<'_, W, E>,
    ) {
        let (me, id, dir) = (self.clone(), entry.id().expose().to_owned(), repo.dir().to_owned());
        let following = tokio::task::spawn_blocking(move || me.landed(Some(&id), &dir, &options, &landed));
        let followed = client.meanwhile(following).await;
        match followed.map_err(|error| self.internal(&error)).and_then(|told| told) {
            Ok((text, patience)) => {
                client.say(text.as_bytes()).await;
                if let Some(patience) = patience {
                    let text = client.meanwhile(self.wait_for_copies(patience)).await;
                    client.say(text.as_bytes()).await;
                }
            }
            Err(why) => client.say(format!("gitmesh: {why}\n").as_bytes()).await,
        }
    }

    /// Asks the rules. Without an answer everything is refused.
    async fn verdicts<W: Output, E: Output>(
        &self,
        entry: &Entry,
        repo: &Repo,
        atomic: bool,
        options: &[String],
        updates: &[RefUpdate],
        client: &mut Client<'_, W, E>,
    ) -> Vec<Option<String>> {
        let (me, id, dir) = (self.clone(), entry.id().expose().to_owned(), repo.dir().to_owned());
        let (options, asked) = (options.to_vec(), updates.to_vec());
        if !self.cluster.locate(&repo.name).replicas().is_empty() {
            // This process may have stood still while the pack came.
            client.meanwhile(self.mirror.settled()).await;
        }
        let judging = tokio::task::spawn_blocking(move || me.judge(Some(&id), &dir, atomic, &options, &asked));
        let judged = client.meanwhile(judging).await;
        match judged.map_err(|error| self.internal(&error)).and_then(|verdicts| verdicts) {
            Ok(verdicts) => {
                client.say(verdicts.text.as_bytes()).await;
                verdicts.refused
            }
            Err(why) => {
                let told = Denial::coded(Denial::FAILED, &format!("gitmesh: {why}"));
                client.say(format!("{told}\n").as_bytes()).await;
                // A master hears the verdicts alone, and tells them to whoever asks.
                let refusal = Denial::in_short(Denial::FAILED, &format!("gitmesh could not judge this push: {why}"));
                vec![Some(refusal); updates.len()]
            }
        }
    }

    /// Takes the pack into quarantine, checks it, and gives it to the repository. The error is for the report.
    pub(super) async fn take_pack<R: Input, W: Output, E: Output>(
        &self,
        request: &Request,
        repo: &Repo,
        push: &Push,
        large: bool,
        input: &mut Reader<R>,
        client: &mut Client<'_, W, E>,
    ) -> Result<Taken, String> {
        let ours = |error: &dyn std::fmt::Display| self.internal(error).lines().next().unwrap_or_default().to_owned();
        let (ahead, raw) = input.parts();
        let mut stream = (&ahead[..]).chain(raw);
        let mut header = [0; 12];
        stream.read_exact(&mut header).await.map_err(|_| git_says("the pack did not come"))?;
        let objects = receive::pack_objects(&header).ok_or_else(|| git_says("the pack has an unknown form"))?;
        if objects == 0 {
            let mut trailer = [0; 20];
            stream.read_exact(&mut trailer).await.map_err(|_| git_says("the pack broke off"))?;
            let missing = self.missing(repo, push, large, None, false, client).await?;
            return Ok(Taken { missing, pack: None });
        }
        let dir = repo.dir().to_owned();
        let quarantine = tokio::task::spawn_blocking(move || Quarantine::new(&dir)).await;
        let quarantine = quarantine.map_err(|error| ours(&error))?.map_err(|error| ours(&error))?;
        let env = quarantine.environment();
        let mut arguments = vec!["index-pack", "--stdin", "--fix-thin", "--report-end-of-input"];
        if !push.quiet {
            arguments.push("--show-resolving-progress");
        }
        // A master has checked what it sends.
        if self.fsck && request.mirror.is_none() {
            arguments.push("--strict");
        }
        let git = self.git.start(repo.dir(), &arguments, &env).map_err(|error| ours(&error))?;
        if objects >= BULK_OBJECTS {
            git.give_way();
        }
        let source = (&header[..]).chain(stream);
        if !run(git, source, client).await.map_err(|error| ours(&error))? {
            return Err(git_says("index-pack abnormal exit"));
        }
        let missing = self.missing(repo, push, large, Some(&quarantine), objects >= BULK_OBJECTS, client).await?;
        if push.updates.iter().all(|update| update.new.is_zero() || missing.contains(&update.new)) {
            return Ok(Taken { missing, pack: None });
        }
        let released = tokio::task::spawn_blocking(move || quarantine.release()).await;
        let pack = released.map_err(|error| ours(&error))?.map_err(|error| ours(&error))?;
        Ok(Taken { missing, pack })
    }
}

/// Collects frames up to a flush; false when they are more than `most` bytes.
pub(super) async fn collect<R: AsyncRead + Unpin>(
    input: &mut Reader<R>,
    said: &mut Vec<u8>,
    most: usize,
) -> Result<bool, PktError> {
    loop {
        match input.next().await? {
            None => return Ok(true),
            Some(Packet::Data(data)) => pktline::encode(said, data),
            Some(Packet::Flush) => {
                said.extend_from_slice(pktline::FLUSH);
                return Ok(true);
            }
            Some(Packet::Delim) => said.extend_from_slice(pktline::DELIM),
            Some(Packet::ResponseEnd) => said.extend_from_slice(b"0002"),
        }
        if said.len() > most {
            return Ok(false);
        }
    }
}

/// git's words about a push, with their code: a status line has no room for a cure.
pub(super) fn git_says(words: &str) -> String {
    format!("{words} [{}]", Denial::GIT)
}

/// The texts of collected frames.
fn texts(lines: &[u8]) -> Vec<String> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Ok(Some((packet, length))) = pktline::decode(&lines[at..]) {
        at += length;
        found.extend(packet.text().map(|text| String::from_utf8_lossy(text).into_owned()));
    }
    found
}

/// Gives git its input, passes on what it says, and returns whether it ended well.
pub(super) async fn run<W: Output, E: Output>(
    mut git: Serving,
    mut input: impl AsyncRead + Unpin,
    client: &mut Client<'_, W, E>,
) -> io::Result<bool> {
    let missing = || io::Error::other("git was started without its pipes");
    let mut stdin = git.child.stdin.take().ok_or_else(missing)?;
    let mut stdout = git.child.stdout.take().ok_or_else(missing)?;
    let mut stderr = git.child.stderr.take().ok_or_else(missing)?;
    let feed = async {
        let (mut buffer, mut fed) = (vec![0; CHUNK], 0);
        loop {
            match input.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(n) => {
                    if (fed..fed + n as u64).contains(&BULK_BYTES) {
                        git.give_way();
                    }
                    fed += n as u64;
                    match tokio::time::timeout(STUCK, stdin.write_all(&buffer[..n])).await {
                        Ok(Ok(())) => {}
                        // git that has ended needs no more.
                        Ok(Err(_)) => break,
                        Err(_) => return io::Error::new(io::ErrorKind::TimedOut, "git has taken nothing of a pack"),
                    }
                }
            }
        }
        drop(stdin);
        // Only git's end ends the work: the client says nothing after its pack, and may leave the stream open.
        std::future::pending().await
    };
    let mut trouble = None;
    let listen = async {
        let (mut words, mut said, mut all_in) = (vec![0; 4096], 0, false);
        loop {
            let silence = tokio::time::sleep(KEEP_ALIVE);
            tokio::select! {
                n = stderr.read(&mut words) => {
                    let n = n?;
                    if n == 0 {
                        return Ok::<_, io::Error>(());
                    }
                    // index-pack's mark that the input has ended (receive-pack's --report-end-of-input).
                    all_in |= words[..n].contains(&0);
                    let text: Vec<u8> = words[..n].iter().copied().filter(|byte| *byte != 0).collect();
                    trouble = trouble.or(durable::trouble(&String::from_utf8_lossy(&text)));
                    said += text.len();
                    if said <= WORDS_MAX {
                        client.say(&text).await;
                    }
                }
                () = silence, if all_in && client.banded => client.write(KEEP_ALIVE_PACKET).await,
            }
        }
    };
    let listened = async {
        let out = async { tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await.map(drop) };
        tokio::try_join!(out, listen)
    };
    tokio::select! {
        stuck = feed => return Err(stuck),
        listened = listened => drop(listened?),
    }
    let well = git.child.wait().await?.success();
    if let Some(trouble) = trouble.filter(|_| !well) {
        client.say(format!("gitmesh: {trouble}\n").as_bytes()).await;
    }
    Ok(well)
}
