//! Looking whether copies really are what they should be: digests compared now, and on demand every object checked on
//! both sides. What is found to differ is pushed like everything else that differs.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::deliver::check;
use super::patience::AT_WORK;
use super::pause::Pause;
use super::settle::Shown;
use super::state::Moment;
use super::worker::{END_TIMEOUT, digests, shown};
use super::{Inner, Mirror, MirrorError, foreign};
use crate::git::fsck;
use crate::git::process::Git;
use crate::model::{HostName, RepoName};
use crate::peer::LinkError;

/// The exec line by which a master has its copy checked: `gitmesh-mirror-fsck version=1 'REPO'`. The answer is a line
/// for each kind of damage, none if it is sound.
const FSCK: &str = "gitmesh-mirror-fsck version=1";
/// What is read of git's own words, in bytes.
const SAID_MAX: u64 = 1 << 20;
/// What is kept of a peer's words about a damaged repository, in bytes.
const DAMAGE_MAX: u64 = 4096;
/// So many lines of it are told.
const DAMAGE_LINES: usize = 10;
/// A repository in which packs go each time is one that is pushed to all the time; what is found in the end counts.
const CHECKS: usize = 5;

/// What was found about one copy.
#[derive(Debug, Clone)]
pub struct Checked {
    pub repo: RepoName,
    pub peer: HostName,
    pub verdict: Verdict,
}

#[derive(Debug, Clone)]
pub enum Verdict {
    /// All references, HEAD and what else is mirrored are the same. `deep`: and git finds no damage on either side.
    Equal { deep: bool },
    /// It is behind, or ahead; a push has been asked for.
    Differs,
    /// It differs, and the configuration says that it is pushed by hand.
    ByHand,
    /// The peer has no such copy; a push has been asked for.
    Missing,
    /// git's words about the objects here, and about those there; one of them may be empty.
    Damaged { here: Vec<String>, there: Vec<String> },
    /// Not looked at.
    Paused(Box<Pause>),
    /// It could not be found out.
    Failed(MirrorError),
}

impl Mirror {
    /// Compares the copies of the chosen repositories, on one peer or on all, with what is here now. `deep` has git
    /// check every object of those that are equal, on both sides, one after the other: minutes for large ones.
    /// Each goes into `found` as soon as it is known, one peer after the other.
    pub async fn verify(
        &self,
        choose: impl Fn(&RepoName) -> bool,
        peer: Option<&HostName>,
        deep: bool,
        found: mpsc::Sender<Checked>,
    ) {
        self.inner.verify(choose, peer, deep, &found).await;
    }

    /// Has git check every object of a repository here, for its master elsewhere or for ourselves. Returns git's words
    /// about what is damaged; none if it is sound.
    pub async fn fsck(&self, repo: &RepoName) -> Result<Vec<String>, MirrorError> {
        self.inner.fsck(repo).await
    }
}

impl Inner {
    pub(super) async fn verify(
        self: &Arc<Self>,
        choose: impl Fn(&RepoName) -> bool,
        peer: Option<&HostName>,
        deep: bool,
        found: &mpsc::Sender<Checked>,
    ) {
        let assigned = self.assigned();
        for (name, repos) in assigned.repos.iter().filter(|(name, _)| peer.is_none_or(|only| only == *name)) {
            // What has gone, and whose copy has followed, stays in the list until the next look around.
            let is_here = |repo: &RepoName| (self.world.dir)(repo).is_some();
            let waits = |repo: &RepoName| self.world.gone.of(repo).is_some_and(|stone| stone.waiting.contains(name));
            let chosen = repos.iter().filter(|repo| choose(repo) && (is_here(repo) || waits(repo)));
            let chosen: BTreeSet<&RepoName> = chosen.collect();
            self.verify_peer(name, &chosen, deep, found).await;
        }
    }

    async fn verify_peer(
        self: &Arc<Self>,
        peer: &HostName,
        repos: &BTreeSet<&RepoName>,
        deep: bool,
        found: &mpsc::Sender<Checked>,
    ) {
        // Who does not listen any more asks for no more either.
        let tell = async |repo: &RepoName, verdict| {
            drop(found.send(Checked { repo: repo.clone(), peer: peer.clone(), verdict }).await);
        };
        let mut open = Vec::new();
        for repo in repos.iter().copied() {
            let paused = self.pauses().of(repo, peer).cloned();
            match paused {
                Some(pause) => tell(repo, Verdict::Paused(Box::new(pause))).await,
                None => match self.role(repo, peer) {
                    Some(role) => tell(repo, self.verify_foreign(peer, &role, repo).await).await,
                    None => open.push(repo),
                },
            }
        }
        if open.is_empty() {
            return; // not worth a connection
        }
        let (began, limit) = (Moment::now(), self.config().timeout);
        let theirs = match timeout(limit, digests(self, peer)).await {
            Ok(theirs) => theirs,
            Err(_) => Err(MirrorError::Timeout(limit)),
        };
        for repo in open {
            let verdict = match &theirs {
                Err(error) => Verdict::Failed(error.clone()),
                Ok(theirs) => {
                    let shown = self.shown(repo, theirs.get(repo).cloned()).await;
                    self.compared(&self.lane(peer), repo, shown, began);
                    match shown {
                        Shown::Equal if deep => self.verify_objects(repo, peer).await,
                        Shown::Equal => Verdict::Equal { deep: false },
                        _ if self.assigned().is_manual(peer, repo) => Verdict::ByHand,
                        Shown::Differs | Shown::Blank(_) => Verdict::Differs,
                        Shown::Missing(_) => Verdict::Missing,
                    }
                }
            };
            tell(repo, verdict).await;
        }
    }

    /// A server outside the mesh tells its references; more than those is not compared.
    async fn verify_foreign(self: &Arc<Self>, peer: &HostName, role: &foreign::Role, repo: &RepoName) -> Verdict {
        match foreign::compare(self, role, repo).await {
            Ok(Shown::Equal) => Verdict::Equal { deep: false },
            Ok(_) => {
                self.lane(peer).mark(repo);
                Verdict::Differs
            }
            Err(error) => Verdict::Failed(error),
        }
    }

    async fn shown(self: &Arc<Self>, repo: &RepoName, there: Option<String>) -> Shown {
        let (this, repo) = (self.clone(), repo.clone());
        let comparing = tokio::task::spawn_blocking(move || shown(&this, &repo, there.as_deref()));
        comparing.await.expect("comparing does not panic, and is not cancelled")
    }

    async fn verify_objects(&self, repo: &RepoName, peer: &HostName) -> Verdict {
        let both = async { Ok::<_, MirrorError>((self.fsck(repo).await?, self.fsck_there(repo, peer).await?)) };
        match both.await {
            Ok((here, there)) if here.is_empty() && there.is_empty() => Verdict::Equal { deep: true },
            Ok((here, there)) => Verdict::Damaged { here, there },
            Err(error) => Verdict::Failed(error),
        }
    }

    async fn fsck(&self, repo: &RepoName) -> Result<Vec<String>, MirrorError> {
        let dir = (self.world.dir)(repo).ok_or_else(|| MirrorError::NoRepository(repo.clone()))?;
        let limit = self.check_limit();
        let checked = timeout(limit, check_objects(&self.git, &dir)).await.map_err(|_| MirrorError::Timeout(limit))?;
        checked.map_err(|error| MirrorError::Local(format!("git fsck: {error}")))
    }

    /// How long git may take to check every object of a repository.
    fn check_limit(&self) -> Duration {
        self.config().timeout.saturating_mul(AT_WORK)
    }

    pub(super) async fn fsck_there(&self, repo: &RepoName, peer: &HostName) -> Result<Vec<String>, MirrorError> {
        let mut pipe = self.links.run(peer, &format!("{FSCK} '{repo}'")).await?;
        // A little more than the peer gives itself, whose words say more than silence.
        let limit = self.check_limit().saturating_add(END_TIMEOUT);
        let said = timeout(limit, capped(Some(&mut pipe.reader), DAMAGE_MAX))
            .await
            .map_err(|_| MirrorError::Timeout(limit))?;
        let finished = timeout(END_TIMEOUT, pipe.finish()).await.map_err(|_| MirrorError::Timeout(END_TIMEOUT))?;
        check(peer, finished)?;
        let said = said.map_err(|error| LinkError::Closed { peer: peer.clone(), why: error.to_string() })?;
        Ok(lines(&said))
    }
}

/// Connectivity and every object's own soundness (git-fsck(1)). What is only unreachable is no damage.
///
/// git takes a pack that goes while it begins, packed anew with others, for a damage. So what it finds counts when no pack
/// has gone.
async fn check_objects(git: &Git, dir: &Path) -> std::io::Result<Vec<String>> {
    let mut found = Vec::new();
    for _ in 0..CHECKS {
        let packs = fsck::packs(dir)?;
        found = check_objects_once(git, dir).await?;
        if found.is_empty() || packs.is_subset(&fsck::packs(dir)?) {
            break;
        }
    }
    Ok(found)
}

async fn check_objects_once(git: &Git, dir: &Path) -> std::io::Result<Vec<String>> {
    let mut command = git.command(dir);
    command.args(fsck::arguments());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (out, err) = tokio::join!(capped(stdout, SAID_MAX), capped(stderr, SAID_MAX));
    let status = child.wait().await?;
    let (out, err) = (out?, err?);
    let whole = [&out, &err].iter().all(|said| (said.len() as u64) < SAID_MAX);
    let said = String::from_utf8_lossy(&err).into_owned() + &String::from_utf8_lossy(&out);
    // What was not read may be damage.
    let found = fsck::damage(status, &said).or_else(|| (!whole && !status.success()).then_some(said));
    Ok(found.map_or_else(Vec::new, |found| lines(found.as_bytes())))
}

/// The beginning is kept; the rest is read, so that git can go on to its end.
async fn capped(from: Option<impl AsyncRead + Unpin>, most: u64) -> std::io::Result<Vec<u8>> {
    let (mut kept, Some(mut from)) = (Vec::new(), from) else { return Ok(Vec::new()) };
    (&mut from).take(most).read_to_end(&mut kept).await?;
    tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
    Ok(kept)
}

fn lines(said: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(said)
        .lines()
        .filter(|l| !l.trim().is_empty())
        .take(DAMAGE_LINES)
        .map(str::to_owned)
        .collect()
}
