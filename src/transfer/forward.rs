//! A push to a replica, carried to the master: the replica vouches for its user, and the master judges, runs hooks and
//! answers as if the push had been made there.
//!
//! The whole session goes over, the advertisement of references included, so that what the user's git compares with is
//! the master's state. What was carried once is never carried on: the master serves it or refuses it.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::request::{Input, Output, Request, Streams};
use super::{Refusal, Transfer};
use crate::admin::{Access, Denial};
use crate::cluster::Place;
use crate::git::service::Service;
use crate::model::{Actor, HostName, RepoName, Voucher};
use crate::peer::{Finished, Pipe, PipeReader, PipeWriter};

/// Read at once from either side: one packet to a node.
const CHUNK: usize = 65_535;
/// A push on which nothing moves for so long, either way, is given up; git itself says something every few seconds.
const SILENCE: Duration = Duration::from_secs(600);
/// How long the master may take to close the session after its last byte.
const END: Duration = Duration::from_secs(30);
/// When the link is lost, how long a user's git has to show that it had not said all.
const LEFT_OVER: Duration = Duration::from_millis(500);
/// How long a push waits at its end for the replica it came through, so that the next fetch from there has it.
const FRESH: Duration = Duration::from_secs(2);

/// How the carrying ended, as far as the replica can tell.
struct Carried {
    finished: Option<Finished>,
    /// Something of the master's has reached the user, so git's protocol has begun.
    begun: bool,
    /// The user's git has said nothing yet, or had more to say than the master can have taken.
    cut_short: bool,
    why: Option<String>,
}

impl Transfer {
    /// The master to which a push goes on, if it is not to be served here. What these rules refuse is refused here.
    pub(super) fn carried_to(&self, request: &Request) -> Result<Option<HostName>, Refusal> {
        let Request { actor: actor @ Actor::User { name, .. }, repo, service: Service::ReceivePack, via: None, .. } =
            request
        else {
            return Ok(None);
        };
        let Place::There { master, redirect: true } = self.cluster.locate_for(repo, Some(name)) else {
            return Ok(None);
        };
        let Err(denial) = self.realm.authorize(actor, repo, Access::Write) else { return Ok(Some(master)) };
        let may_make = || self.realm.may_create(actor, repo).is_err_and(|denial| denial.code == Denial::COPY);
        if !self.store.exists(repo) && may_make() {
            return Ok(Some(master));
        }
        let node = self.cluster.host();
        // A stranger learns nothing about who is master.
        let known = denial.code == Denial::NO_WRITE;
        let on = if known {
            format!("\n  node: {node}, before anything went on to the master {master}")
        } else {
            String::new()
        };
        Err(format!("{denial}{on}").into())
    }

    /// Carries the session to the master; the exit code is the master's.
    pub(super) async fn forward<R: Input, W: Output, E: Output>(
        &self,
        request: &Request,
        master: &HostName,
        streams: &mut Streams<R, W, E>,
    ) -> Result<u32, Refusal> {
        let Request { actor: Actor::User { name, key, by }, repo, service, from, protocol, .. } = request else {
            return Err("only users' pushes are carried to a master".into());
        };
        let epoch = self.cluster.epoch(repo);
        let voucher = Voucher { user: name.clone(), key: key.clone(), by: by.clone(), from: from.clone(), epoch };
        let line = format!("gitmesh-forward {service} '{repo}' {voucher}");
        let env: Vec<(&str, &str)> = protocol.iter().map(|p| ("GIT_PROTOCOL", p.as_str())).collect();
        let pipe = self.links.run_with_env(master, &line, &env).await;
        let unreachable =
            |error| Denial::unreachable(self.cluster.host(), master, repo, &error, self.links.down_for(master));
        let pipe = pipe.map_err(unreachable)?;
        let carried = carry(pipe, streams).await;
        self.ended(request, master, carried, streams).await
    }

    async fn ended<R: Input, W: Output, E: Output>(
        &self,
        request: &Request,
        master: &HostName,
        carried: Carried,
        streams: &mut Streams<R, W, E>,
    ) -> Result<u32, Refusal> {
        let (repo, node) = (&request.repo, self.cluster.host());
        let why = match carried.finished {
            Some(Finished { exit: Some(code), stderr, failure: None }) => {
                if let Err(error) = streams.errors.write_all(stderr.as_bytes()).await {
                    tracing::debug!(%error, "the client left before the end");
                }
                return Ok(code);
            }
            Some(Finished { failure: Some(error), .. }) => error.to_string(),
            _ => carried.why.unwrap_or_else(|| format!("{master} hung up without an answer")),
        };
        let outcome = if carried.cut_short || !carried.begun {
            "nothing of it has landed; push again"
        } else {
            "it may have landed or not; fetch to see, then push again if it has not"
        };
        let text = format!(
            "FATAL: {node} carried this push to {master}, the master of '{repo}', and lost it: {why}\n  help: {outcome} [{}]",
            Denial::UNREACHABLE
        );
        tracing::warn!(user = %request.actor, %repo, %master, why, begun = carried.begun, "a carried push was lost");
        if !carried.begun {
            return Err(text.into());
        }
        if let Err(error) = streams.errors.write_all(format!("{text}\n").as_bytes()).await {
            tracing::debug!(%error, "the client left before the end");
        }
        Ok(1)
    }

    /// On the master, before a carried push: is the node believed, and does it take us for a master of the past?
    pub(super) fn admit_carried(&self, request: &Request) -> Result<(), Refusal> {
        let Some(via) = &request.via else { return Ok(()) };
        self.realm.believe(&via.node, &request.actor, &request.repo)?;
        self.realm.refuse_from(&request.actor, &request.from)?;
        match self.cluster.locate(&request.repo) {
            Place::Here { epoch, .. } if epoch < via.epoch => {
                // It knows of a promotion of which we do not.
                self.mirror.ask_masters(&via.node);
                Err(format!(
                    "epoch {epoch} of '{}' is over: {} has promised {}; {} is no longer its master [{}]",
                    request.repo,
                    via.node,
                    via.epoch,
                    self.cluster.host(),
                    Denial::PAST
                )
                .into())
            }
            _ => Ok(()),
        }
    }

    /// Where a refusal of a carried push was made, for a user who pushed elsewhere.
    pub(super) fn whose_rule(&self, repo: &RepoName, via: &HostName) -> String {
        format!("  node: {}, the master of '{repo}', to which {via} carried this push\n", self.cluster.host())
    }

    /// On the master, after a carried push: waits a little until the node it came through has it, and says so if not.
    pub(super) async fn freshen<E: Output>(&self, request: &Request, errors: &mut E) {
        let Some(via) = &request.via else { return };
        let (repo, node) = (&request.repo, &via.node);
        if let Err(why) = self.mirror.let_know(repo, node, FRESH).await {
            let text = format!(
                "warning: the push stands on {}; {node}, through which it came, does not have it yet: {why}\n",
                self.cluster.host()
            );
            if let Err(error) = errors.write_all(text.as_bytes()).await {
                tracing::debug!(%error, "the client left before the end");
            }
        }
    }
}

/// Bytes that have gone either way, and whether the link took what the user's git said.
#[derive(Default)]
struct Progress {
    up: AtomicU64,
    down: AtomicU64,
    cut_short: AtomicBool,
}

impl Progress {
    fn moved(&self) -> u64 {
        self.up.load(Ordering::Relaxed) + self.down.load(Ordering::Relaxed)
    }
}

/// Copies bytes both ways until the master has closed the session or the link is lost.
async fn carry<R: Input, W: Output, E: Output>(mut pipe: Pipe, streams: &mut Streams<R, W, E>) -> Carried {
    let progress = Progress::default();
    let Streams { input, output, .. } = streams;
    let heard = tokio::select! {
        () = up(input, &mut pipe.writer, &progress) => unreachable!("what the user says never ends a session"),
        heard = down(&mut pipe.reader, output, &progress) => heard,
    };
    let (why, finished) = match heard {
        Ok(()) => (None, timeout(END, pipe.finish()).await.ok()),
        Err(error) => (Some(error.to_string()), None),
    };
    let mut cut_short = progress.cut_short.into_inner() || progress.up.into_inner() == 0;
    if why.is_some() && !cut_short {
        // What is still coming cannot have gone over.
        cut_short = matches!(timeout(LEFT_OVER, input.read(&mut [0])).await, Ok(Ok(1..)));
    }
    Carried { finished, begun: progress.down.into_inner() > 0, cut_short, why }
}

async fn up(input: &mut impl Input, writer: &mut PipeWriter, progress: &Progress) {
    let mut buffer = vec![0; CHUNK];
    // At the end the user has said all, or is gone; either way the master reads the end and judges what it has.
    while let Ok(n @ 1..) = read_ready(input, &mut buffer).await {
        progress.up.fetch_add(n as u64, Ordering::Relaxed);
        if writer.write_all(&buffer[..n]).await.is_err() {
            progress.cut_short.store(true, Ordering::Relaxed);
            break;
        }
    }
    if let Err(error) = writer.shutdown().await {
        tracing::debug!(%error, "the end of a carried push could not be told");
    }
    std::future::pending::<()>().await;
}

/// Waits for something, and takes what else is there already: a user's packets are small, and the link bounds how many are
/// on their way.
async fn read_ready(input: &mut impl Input, buffer: &mut [u8]) -> io::Result<usize> {
    let mut n = input.read(buffer).await?;
    while 0 < n && n < buffer.len() {
        tokio::select! {
            biased;
            // The end, or what went wrong, is met again by the next read.
            more = input.read(&mut buffer[n..]) => match more {
                Ok(more @ 1..) => n += more,
                _ => break,
            },
            () = std::future::ready(()) => break,
        }
    }
    Ok(n)
}

async fn down(reader: &mut PipeReader, output: &mut impl Output, progress: &Progress) -> io::Result<()> {
    let (mut buffer, mut listening) = (vec![0; CHUNK], true);
    loop {
        let before = progress.moved();
        let n = match timeout(SILENCE, reader.read(&mut buffer)).await {
            Ok(read) => read?,
            Err(_) if progress.moved() != before => continue,
            Err(_) => return Err(io::Error::other(format!("nothing moved for {} s", SILENCE.as_secs()))),
        };
        if n == 0 {
            return Ok(());
        }
        progress.down.fetch_add(n as u64, Ordering::Relaxed);
        // What has been received may still land when the user is gone, so the master is heard to its end.
        listening = listening && output.write_all(&buffer[..n]).await.is_ok();
    }
}
