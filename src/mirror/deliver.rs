//! One mirror push from beginning to end: what is read here, the sessions on the pooled link, and what went wrong.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::beside::Beside;
use super::ours::{Belief, Ours};
use super::patience::Patience;
use super::plan::{Obstacle, Order};
use super::send::{self, Manner, SendError, Sent, Terms, Toll};
use super::state::Moment;
use super::worker::{END_TIMEOUT, local};
use super::{Inner, MirrorError, Report, foreign};
use crate::cluster::Place;
use crate::git::service::MAX_LINE;
use crate::model::{HostName, RepoName};
use crate::peer::{Finished, LinkError};
use crate::repo::{FileLocks, Metadata, Papers};

/// The first word of the order that brings the file locks: `gitmesh-mirror-locks 'REPO' version=1 epoch=N`, with the file as
/// its input. There may be too many of them for the line of a push.
pub const LOCKS: &str = "gitmesh-mirror-locks";
/// The same for the texts beside a repository ([`Papers`]).
pub const PAPERS: &str = "gitmesh-mirror-papers";
/// When the peer has refused, its closing of the channel is awaited so long, as that is cheaper for the link.
const REFUSED_END_TIMEOUT: Duration = Duration::from_secs(1);
/// Sessions that one push may take: one transaction, a second where names make room for others, a third where the
/// replica refuses a reference, one more where a former master has what the new one lacks. What is left then is found again by the difference.
const SESSIONS_MAX: usize = 4;

/// Makes one copy equal; the one path of every mirror push.
///
/// All references change in one transaction of the replica's git. If that is refused because of some of them, those
/// that can be made equal are, and the error names the others.
pub(super) async fn push(
    inner: &Arc<Inner>,
    peer: &HostName,
    repo: &RepoName,
    order: Order,
) -> Result<Report, MirrorError> {
    let began = Instant::now();
    if let Some(role) = inner.role(repo, peer) {
        return foreign::carry(inner, &role, repo, order).await;
    }
    let place = (inner.world.locate)(repo);
    let Place::Here { epoch, .. } = place else {
        return Err(MirrorError::NotMaster(repo.clone()));
    };
    if place.replica(peer).is_none() {
        return Err(MirrorError::NotReplica { repo: repo.clone(), peer: peer.clone() });
    }
    inner.refuse_paused(repo, peer)?;
    let behind = inner.board().lag(repo, peer, Moment::now()).is_some();
    let gone = inner.tell_gone(peer, repo, epoch, order).await?;
    let mut report = Report { refs: 0, pack_bytes: 0, elapsed: began.elapsed(), gone, fresh: false, beside: false };
    let dir = match (inner.world.dir)(repo) {
        Some(dir) => dir,
        None if gone => return Ok(report),
        None => return Err(MirrorError::NoRepository(repo.clone())),
    };
    report.gone = false;
    // Before the command, which carries HEAD. What lands from here on has marked the pair again.
    let belief = inner.beliefs.take(repo, peer).filter(|_| order == Order::Usual);
    let pushed = inner.pushes.offer(repo, peer).filter(|_| order == Order::Usual);
    let ours = read(dir.clone(), belief).await?.with_pushed(pushed);
    let owned = (inner.world.ownership)(repo).unwrap_or_default();
    let metadata = (inner.world.metadata)(repo);
    let mut repairing = "";
    if order == Order::Repair && is_damaged(inner, peer, repo).await? {
        repairing = " fresh=yes";
        report.fresh = true;
    }
    let of = dir.clone();
    let beside = tokio::task::spawn_blocking(move || (FileLocks::to_send(&of), Papers::to_send(&of))).await;
    let (locks, papers) = beside.expect("reading files does not panic, and is not cancelled");
    let now = Beside::of(&ours, &owned, &metadata, [locks.as_deref(), papers.as_deref()]);
    let unlocked = if locks.is_none() { " locks=none" } else { "" };
    let no_papers = if papers.is_none() { " papers=none" } else { "" };
    // A replica that has no such copy takes its own out of the trash first.
    let restored = (inner.world.restored)(repo).map_or_else(String::new, |at| format!(" restored={at}"));
    let line = |order, metadata: Option<&Metadata>| {
        let exec = send::exec_line(repo, epoch, &ours, &owned, metadata, order);
        format!("{exec}{repairing}{unlocked}{no_papers}{restored}")
    };
    // Settings that are too long for the line keep nothing else back, and are told when the rest is there.
    let mut said = Some(&metadata);
    if line(Order::Repair, said).len() > MAX_LINE {
        said = None;
    }
    let mut exec = line(order, said);
    if exec.len() > MAX_LINE {
        return Err(MirrorError::Local("its role file is too long to be sent; use groups".to_owned()));
    }
    let lane = inner.lane(peer);
    let toll = |bytes: usize| lane.toll(repo, bytes, inner.config().bandwidth);
    let mut terms = Terms { order, manner: Manner::Atomic, guard_refs: inner.config().guard_refs };
    for _ in 0..SESSIONS_MAX {
        match session(inner, peer, &exec, (&dir, &ours, terms), &toll).await {
            Ok(sent) => {
                report.refs += sent.refs;
                report.pack_bytes += sent.pack_bytes;
                if !sent.more {
                    if let Some(belief) = sent.etag.and_then(|etag| ours.believed(etag)) {
                        inner.beliefs.keep(repo, peer, belief);
                    }
                    break;
                }
            }
            Err(MirrorError::Send(error)) if terms.manner == Manner::Atomic && matches!(*error, SendError::Refs(_)) => {
                tracing::debug!(%repo, %peer, %error, "not in one transaction; one reference after the other");
                terms.manner = Manner::OneByOne;
            }
            // What a replica has from an earlier master, and this one lacks, is no accident: it is kept there.
            Err(MirrorError::Send(error))
                if terms.order < Order::Repair
                    && matches!(*error, SendError::Held(Obstacle::Diverged(_)))
                    && inner.talk.is_new_master(repo, peer, epoch) =>
            {
                tracing::warn!(%repo, %peer, %error, "it is kept aside there, for a person has made this node the master");
                terms.order = Order::Repair;
                exec = line(Order::Repair, said);
            }
            Err(error) => return Err(error),
        }
    }
    for (order, text) in [(LOCKS, locks), (PAPERS, papers)] {
        let Some(text) = text else { continue };
        bring(inner, peer, &format!("{order} '{repo}' version=1 epoch={epoch}"), &text).await?;
    }
    if said.is_none() {
        let bytes = metadata.to_word().len();
        return Err(MirrorError::Local(format!(
            "its description and git settings take {bytes} bytes, and {MAX_LINE} is the most that travels with all \
             else that it is told; everything else is there"
        )));
    }
    inner.talk.made_equal(repo, peer, epoch);
    // One that is empty, and that its node's own configuration has made, was most likely made so.
    report.beside = inner.brought.keep(repo, peer, now).unwrap_or(behind && report.refs == 0 && !ours.is_empty());
    report.elapsed = began.elapsed();
    Ok(report)
}

/// What stands beside the references and is too long for a line.
async fn bring(inner: &Inner, peer: &HostName, exec: &str, text: &str) -> Result<(), MirrorError> {
    let mut pipe = inner.links.run(peer, exec).await?;
    let patience = Patience::new(inner.config().timeout);
    let said = patience.with(async {
        let mut writer = patience.watch(&mut pipe.writer);
        writer.write_all(text.as_bytes()).await?;
        writer.shutdown().await?;
        tokio::io::copy(&mut patience.watch(&mut pipe.reader), &mut tokio::io::sink()).await
    });
    let said = said.await?;
    check(peer, timeout(END_TIMEOUT, pipe.finish()).await.map_err(|_| MirrorError::Timeout(END_TIMEOUT))?)?;
    said.map(drop).map_err(|error| LinkError::Closed { peer: peer.clone(), why: error.to_string() }.into())
}

/// Whether git finds damage in the copy, which no push would mend: git takes objects that it has for good.
async fn is_damaged(inner: &Inner, peer: &HostName, repo: &RepoName) -> Result<bool, MirrorError> {
    match inner.fsck_there(repo, peer).await {
        Ok(damage) if damage.is_empty() => Ok(false),
        Ok(damage) => {
            tracing::warn!(%repo, %peer, ?damage, "the copy is damaged; it is made anew");
            Ok(true)
        }
        // The push itself says better what is wrong, or there is nothing to be checked yet.
        Err(MirrorError::Remote { .. }) => Ok(false),
        Err(error @ MirrorError::Timeout(_)) => {
            tracing::warn!(%repo, %peer, %error, "whether the copy is damaged was not found out; it is repaired as it is");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

async fn read(dir: PathBuf, belief: Option<Belief>) -> Result<Ours, MirrorError> {
    let reading = tokio::task::spawn_blocking(move || Ours::read(&dir, belief));
    reading.await.expect("reading references does not panic, and is not cancelled").map_err(local)
}

async fn session(
    inner: &Arc<Inner>,
    peer: &HostName,
    exec: &str,
    (dir, ours, terms): (&Path, &Ours, Terms),
    toll: Toll<'_>,
) -> Result<Sent, MirrorError> {
    let mut pipe = inner.links.run(peer, exec).await?;
    let patience = Patience::new(inner.config().timeout);
    // A piece that waits for its share of the bandwidth gets on.
    let toll = |bytes: usize| {
        let rest = toll(bytes);
        patience.moved(rest);
        rest
    };
    let sent = {
        let (reader, writer) = (patience.watch(&mut pipe.reader), patience.watch(&mut pipe.writer));
        patience.with(send::send(reader, writer, &inner.git, dir, ours, terms, &toll)).await?
    };
    let end_timeout = if sent.is_ok() { END_TIMEOUT } else { REFUSED_END_TIMEOUT };
    let finished = timeout(end_timeout, pipe.finish()).await;
    match (sent, finished) {
        (Err(error), finished) => Err(explain(peer, error, finished.ok())),
        (Ok(_), Err(_)) => Err(MirrorError::Timeout(END_TIMEOUT)),
        (Ok(sent), Ok(finished)) => check(peer, finished).map(|()| sent),
    }
}

/// A stream that broke is the link's failure, and a command that never spoke git has said why on its stderr.
pub(super) fn explain(peer: &HostName, error: SendError, finished: Option<Finished>) -> MirrorError {
    let silent = matches!(error, SendError::Ended | SendError::Io(_) | SendError::Protocol(_));
    match finished {
        Some(Finished { failure: Some(failure), .. }) if silent => MirrorError::Link(failure),
        Some(Finished { exit, stderr, .. }) if silent && !stderr.trim().is_empty() => {
            MirrorError::Remote { peer: peer.clone(), exit: exit.unwrap_or(255), said: stderr.trim().to_owned() }
        }
        _ => MirrorError::Send(Arc::new(error)),
    }
}

/// Whether a command ended well.
pub(super) fn check(peer: &HostName, finished: Finished) -> Result<(), MirrorError> {
    match finished {
        Finished { failure: Some(failure), .. } => Err(failure.into()),
        Finished { exit: Some(0), .. } => Ok(()),
        Finished { exit, stderr, .. } => {
            let (exit, said) = (exit.unwrap_or(255), stderr.trim().to_owned());
            Err(MirrorError::Remote { peer: peer.clone(), exit, said })
        }
    }
}
