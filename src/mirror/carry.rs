//! What only a former master had: kept here under `refs/gitmesh/lost/`, and carried to the new master, so that it is
//! found on both sides.
//!
//! A mirror push that would overwrite it gives it names first ([`crate::repo::keep_lost`]). Those names wait in one small
//! file until the master has them; the master takes them as new references below `refs/gitmesh/lost/NODE/` and nothing
//! else, and both sides tell people.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::notice::{Kind, Notice};
use super::send::{self, SendError};
use super::state::Moment;
use super::worker::{END_TIMEOUT, blocking_refs, local};
use super::{Inner, Mirror, MirrorError, deliver};
use crate::cluster::Place;
use crate::model::{Epoch, HostName, RefName, RefUpdate, RepoName};
use crate::repo::{promised_epoch, write_whole};

/// The exec line's first word.
pub const LOST: &str = "gitmesh-lost-receive";
/// Why a master refuses a name that it has with the same value: it has been carried.
pub const HAVE_IT: &str = "kept here already";
const FILE: &str = "lost-to-carry";
/// Pause after a round in which something could not be carried.
const RETRY: Duration = Duration::from_secs(15);
/// Names told in one notice.
const NAMED: usize = 3;

/// The names that wait for their master.
pub(super) struct Cargo {
    dir: PathBuf,
    waiting: Mutex<BTreeSet<(RepoName, RefName)>>,
    bell: Notify,
}

impl Cargo {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let text = match std::fs::read_to_string(dir.join(FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        let parse = |line: &str| {
            let (repo, name) = line.split_once(' ')?;
            Some((RepoName::new(repo).ok()?, RefName::parse(name)?))
        };
        // A line that is cut names something that stays here; the names themselves are in the repository.
        let waiting = Mutex::new(text.lines().filter_map(parse).collect());
        Ok(Self { dir: dir.to_owned(), waiting, bell: Notify::new() })
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeSet<(RepoName, RefName)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut BTreeSet<(RepoName, RefName)>)) -> io::Result<()> {
        let mut waiting = self.waiting();
        change(&mut waiting);
        let text: String = waiting.iter().map(|(repo, name)| format!("{repo} {name}\n")).collect();
        write_whole(&self.dir, FILE, &text)
    }
}

fn told(names: &[&RefName]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMED).map(|name| name.as_str()).collect();
    let more = names.len().saturating_sub(NAMED);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

impl Mirror {
    /// References that a push of a new master would have overwritten here were given these names; they go to the master
    /// too. Blocks.
    pub fn kept(&self, repo: &RepoName, master: &HostName, names: &[RefName]) {
        let inner = &self.inner;
        let kept = inner.cargo.change(|waiting| waiting.extend(names.iter().map(|name| (repo.clone(), name.clone()))));
        if let Err(error) = kept {
            tracing::warn!(%error, %repo, "it cannot be written down that lost references go to the master; a restart forgets it");
        }
        inner.tell_lost(repo, &inner.world.node, master, &names.iter().collect::<Vec<_>>());
        inner.cargo.bell.notify_one();
    }

    /// A former master has brought what only it had.
    pub fn lost_arrived(&self, repo: &RepoName, from: &HostName, updates: &[RefUpdate]) {
        let names: Vec<&RefName> = updates.iter().map(|update| &update.name).collect();
        self.inner.tell_lost(repo, from, from, &names);
    }

    /// The references here that wait to be carried to their masters.
    pub fn lost_waiting(&self) -> BTreeSet<(RepoName, RefName)> {
        self.inner.cargo.waiting().clone()
    }

    /// A person has let go of what was kept here.
    pub fn lost_dropped(&self, repo: &RepoName, names: &[&RefName], by: &str) {
        let (now, here) = (Moment::now(), &self.inner.world.node);
        let detail = format!("{} let go of {}", by, told(names));
        self.inner.board().journal.add(repo, here, "dropped", &detail, now.wall);
    }
}

impl Inner {
    /// `of` had what is lost; `peer` is the other side.
    fn tell_lost(&self, repo: &RepoName, of: &HostName, peer: &HostName, names: &[&RefName]) {
        let (now, detail) = (Moment::now(), told(names));
        self.board().journal.add(repo, peer, "lost", &format!("only {of} had it; kept as {detail}"), now.wall);
        let mut notice = Notice::new(Kind::Lost, of.clone(), now.wall);
        notice.add(repo.clone(), &detail, Duration::ZERO);
        self.tell(Arc::new(notice));
    }

    /// Carries what waits of one repository; true if nothing of it waits any more.
    async fn carry(&self, repo: &RepoName, names: &BTreeSet<RefName>) -> Result<bool, MirrorError> {
        let master = match (self.world.locate)(repo) {
            Place::There { master, .. } => master,
            // This node is the master again, and has them.
            Place::Here { .. } => return Ok(true),
            Place::Elsewhere => return Ok(false),
        };
        let Some(dir) = (self.world.dir)(repo) else { return Ok(true) };
        let refs = blocking_refs(dir.clone()).await.map_err(local)?.refs;
        let new: Vec<_> = names.iter().filter_map(|name| Some((name.clone(), refs.get(name)?.clone()))).collect();
        if new.is_empty() {
            return Ok(true);
        }
        let ordered = self.world.masters.of(repo).map_or(Epoch::FIRST, |promotion| promotion.epoch);
        let promised = promised_epoch(&dir).map_err(|error| MirrorError::Local(error.to_string()))?;
        let epoch = ordered.max(promised);
        let mut pipe = self.links.run(&master, &format!("{LOST} '{repo}' version=1 epoch={epoch}")).await?;
        let sent = send::create(&mut pipe.reader, &mut pipe.writer, &self.git, &dir, &new).await;
        let finished = timeout(END_TIMEOUT, pipe.finish()).await.map_err(|_| MirrorError::Timeout(END_TIMEOUT))?;
        match sent {
            Ok(()) => deliver::check(&master, finished).map(|()| true),
            Err(SendError::Refs(refused)) if refused.iter().all(|(_, why)| why.contains(HAVE_IT)) => Ok(true),
            Err(error) => Err(deliver::explain(&master, error, Some(finished))),
        }
    }
}

/// Carries what waits until `stop`.
pub(super) async fn run(inner: Arc<Inner>, stop: CancellationToken) {
    let mut failing = false;
    loop {
        let mut repos = std::collections::BTreeMap::<RepoName, BTreeSet<RefName>>::new();
        for (repo, name) in inner.cargo.waiting().iter() {
            repos.entry(repo.clone()).or_default().insert(name.clone());
        }
        let mut left = false;
        for (repo, names) in repos {
            let carried = tokio::select! {
                () = stop.cancelled() => return,
                carried = timeout(inner.config().timeout, inner.carry(&repo, &names)) => carried,
            };
            match carried {
                Ok(Ok(true)) => {
                    tracing::info!(%repo, references = names.len(), "what only this node had is on the master too");
                    let this = inner.clone();
                    let done = tokio::task::spawn_blocking(move || {
                        this.cargo.change(|waiting| waiting.retain(|(r, name)| *r != repo || !names.contains(name)))
                    });
                    if let Ok(Err(error)) = done.await {
                        tracing::warn!(%error, "it cannot be written down what was carried; it is offered once more");
                    }
                }
                Ok(Ok(false)) => left = true,
                Ok(Err(error)) => {
                    left = true;
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%repo, %error, "what only this node had cannot be carried to the master yet");
                    }
                }
                Err(_) => left = true,
            }
        }
        failing = failing && left;
        let pause = async { if left { tokio::time::sleep(RETRY).await } else { std::future::pending().await } };
        tokio::select! {
            () = stop.cancelled() => return,
            () = inner.cargo.bell.notified() => {}
            () = pause => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_outlives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (repo, name) =
            (RepoName::new("a/b").unwrap(), RefName::parse("refs/gitmesh/lost/s1/T/heads/main").unwrap());
        let cargo = Cargo::open(dir.path()).unwrap();
        cargo.change(|waiting| waiting.extend([(repo.clone(), name.clone())])).unwrap();
        assert_eq!(*Cargo::open(dir.path()).unwrap().waiting(), BTreeSet::from([(repo, name)]));
        cargo.change(BTreeSet::clear).unwrap();
        assert!(Cargo::open(dir.path()).unwrap().waiting().is_empty());
    }
}
