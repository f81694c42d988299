//! What of the placement is on the data disk: promotions, those that have ended here, this disk's own identity, and those of the peers.
//!
//! Promises: a promotion that makes this node the master is on the disk (synced, with its directory) before anybody acts
//! upon it, or is nowhere; one that makes another node the master counts here at once, also when the disk takes nothing, and
//! is written as soon as it does. All of one call cost one write; readers never wait for a write. Three small files of lines beside what persons have ordered, one beside the
//! repositories that it vouches for, and the mark `restored` that a backup leaves (see [`crate::cluster::identity`]).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::watch;

use super::identity::{Disk, Verdict};
use super::masters::{Promotion, Table};
use crate::model::{Epoch, HostName, RepoName};

const MASTERS: &str = "masters";
/// Promotions that the configuration here has ended: lines `REPO EPOCH`.
const ENDED: &str = "masters-ended";
/// Beside the repositories: who loses them loses the identity, and who loses anything else does not.
const OWN: &str = ".disk";
const DISKS: &str = "disks";
/// Left by `gitmesh backup restore`: JSON, of which `backup` says when the backup was made (RFC 3339).
const RESTORED: &str = "restored";
/// Before the reason for which this disk is doubted.
const DOUBT: &str = "doubt ";

/// Writes a file of that name with that text into a directory, whole or not at all, and synced.
pub type Write = fn(&Path, &str, &str) -> io::Result<()>;

/// Where the files are.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// Of what was ordered and heard: promotions, the peers' disks.
    pub orders: &'a Path,
    /// Of the repositories.
    pub repositories: &'a Path,
    /// Where a restored backup leaves its mark.
    pub state: &'a Path,
}

impl<'a> Files<'a> {
    #[cfg(test)]
    pub fn all_in(dir: &'a Path) -> Self {
        Self { orders: dir, repositories: dir, state: dir }
    }
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Masters(Arc<Inner>);

struct Inner {
    host: HostName,
    dir: PathBuf,
    repositories: PathBuf,
    write: Write,
    /// Held while a file is written; readers look at `known` alone. True: the file of promotions is not what is known.
    writing: Mutex<bool>,
    known: RwLock<Known>,
    changed: watch::Sender<u64>,
}

#[derive(Clone)]
struct Known {
    table: Arc<Table>,
    ended: Arc<BTreeMap<RepoName, Epoch>>,
    own: Disk,
    doubt: Option<Arc<str>>,
    disks: Arc<BTreeMap<HostName, Disk>>,
    /// Peers whose disk is not the one that is remembered, until they say that they know.
    suspects: BTreeMap<HostName, Verdict>,
    /// Peers that say that they wait for a person's decision about their disk.
    waiting: BTreeSet<HostName>,
}

fn random_id() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// Why a disk with that mark is doubted.
fn restored_from(mark: &str) -> String {
    let mark: serde_json::Value = serde_json::from_str(mark).unwrap_or_default();
    let of = mark["backup"].as_str().map_or_else(String::new, |time| format!(" of {time}"));
    format!("this disk was restored from a backup{of}")
}

fn bad(path: &Path, why: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!(
        "{}: {why}; restore it from a backup, or remove it and let the peers tell it",
        path.display()
    ))
}

impl Masters {
    /// Takes over what an earlier run left, and counts this start. A file that cannot be understood is an error: to
    /// forget a promotion may make two masters.
    pub fn open(host: &HostName, files: Files<'_>, write: Write) -> io::Result<Self> {
        let Files { orders: dir, repositories, state } = files;
        let read_in = |dir: &Path, name: &str| match std::fs::read_to_string(dir.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let read = |name: &str| read_in(dir, name);
        let table = match read(MASTERS)? {
            Some(text) => Table::parse(&text).map_err(|why| bad(&dir.join(MASTERS), why))?,
            None => Table::default(),
        };
        let mut ended = BTreeMap::new();
        for line in read(ENDED)?.unwrap_or_default().lines() {
            let parsed =
                line.split_once(' ').and_then(|(repo, epoch)| Some((RepoName::new(repo).ok()?, Epoch::parse(epoch)?)));
            let (repo, epoch) = parsed.ok_or_else(|| bad(&dir.join(ENDED), format!("{line:?} is no promotion")))?;
            ended.insert(repo, epoch);
        }
        let mut disks = BTreeMap::new();
        for line in read(DISKS)?.unwrap_or_default().lines() {
            let parsed =
                line.split_once(' ').and_then(|(name, disk)| Some((HostName::new(name).ok()?, Disk::parse(disk)?)));
            let (name, disk) = parsed.ok_or_else(|| bad(&dir.join(DISKS), format!("{line:?} is no disk")))?;
            disks.insert(name, disk);
        }
        let (own, doubt) = match read_in(repositories, OWN)? {
            Some(text) => {
                let mut lines = text.lines();
                let own = lines
                    .next()
                    .and_then(Disk::parse)
                    .ok_or_else(|| bad(&repositories.join(OWN), "it names no disk"))?;
                let doubt = lines.next().and_then(|line| line.strip_prefix(DOUBT)).map(Arc::from);
                (Disk { count: own.count + 1, run: random_id(), ..own }, doubt)
            }
            None => (Disk { id: random_id(), count: 1, run: random_id(), former: Vec::new() }, None),
        };
        let restored = read_in(state, RESTORED)?;
        let (own, doubt) = match &restored {
            Some(mark) => (own.clone().renamed(random_id(), &own), Some(restored_from(mark).into())),
            None => (own, doubt),
        };
        let known = Known {
            table: Arc::new(table),
            ended: Arc::new(ended),
            own,
            doubt,
            disks: Arc::new(disks),
            suspects: BTreeMap::new(),
            waiting: BTreeSet::new(),
        };
        let inner = Inner {
            host: host.clone(),
            dir: dir.to_owned(),
            repositories: repositories.to_owned(),
            write,
            writing: Mutex::new(false),
            known: RwLock::new(known),
            changed: watch::Sender::new(0),
        };
        inner.write_own(&inner.known())?;
        if restored.is_some() {
            // Only now: if this start ends before, the next one finds the mark again.
            std::fs::remove_file(state.join(RESTORED))?;
        }
        Ok(Self(Arc::new(inner)))
    }

    pub fn of(&self, repo: &RepoName) -> Option<Promotion> {
        self.0.known.read().unwrap_or_else(PoisonError::into_inner).table.get(repo).cloned()
    }

    pub fn table(&self) -> Arc<Table> {
        self.0.known().table
    }

    /// Takes over promotions that are better than the known ones, in one write, and returns the repositories of which
    /// that is so.
    ///
    /// # Errors
    /// They cannot be written, and some would make this node a master: those do not count. The others do all the same,
    /// since a node that goes on as master when it has heard of another is worse than one that forgets it in a restart
    /// and is told once more.
    pub fn adopt(&self, heard: impl IntoIterator<Item = (RepoName, Promotion)>) -> io::Result<Vec<RepoName>> {
        let mut unwritten = self.0.writing();
        let before = self.0.known().table;
        let mut table = Table::clone(&before);
        let news = table.merge(heard);
        if news.is_empty() {
            return Ok(news);
        }
        let written = (self.0.write)(&self.0.dir, MASTERS, &table.text());
        let Err(error) = written else {
            *unwritten = false;
            self.0.change(|known| known.table = Arc::new(table));
            return Ok(news);
        };
        let others: Vec<_> = news.iter().filter_map(|repo| Some((repo.clone(), table.get(repo)?.clone()))).collect();
        let others: Vec<_> = others.into_iter().filter(|(_, order)| order.master != self.0.host).collect();
        let mut safe = Table::clone(&before);
        let counts = safe.merge(others);
        if !counts.is_empty() {
            self.0.change(|known| known.table = Arc::new(safe));
        }
        // The failed write may have come as far as its name.
        *unwritten = true;
        self.0.write_table(&mut unwritten);
        if counts.len() < news.len() {
            return Err(error);
        }
        tracing::error!(%error, repos = counts.len(), "who masters what is known and cannot be written; it is tried again");
        Ok(counts)
    }

    /// Writes down what a full disk did not take before.
    pub fn catch_up(&self) {
        let mut unwritten = self.0.writing();
        self.0.write_table(&mut unwritten);
    }

    /// The promotions that the configuration here has ended, by repository.
    pub fn ended(&self) -> Arc<BTreeMap<RepoName, Epoch>> {
        self.0.known().ended
    }

    /// Whether the promotion of the repository to that epoch has ended here.
    pub fn has_ended(&self, repo: &RepoName, epoch: Epoch) -> bool {
        self.0.known.read().unwrap_or_else(PoisonError::into_inner).ended.get(repo) == Some(&epoch)
    }

    /// Writes down, durably, which promotions have ended.
    pub fn end(&self, ended: BTreeMap<RepoName, Epoch>) -> io::Result<()> {
        let _writing = self.0.writing();
        if *self.0.known().ended != ended {
            let text: String = ended.iter().map(|(repo, epoch)| format!("{repo} {epoch}\n")).collect();
            (self.0.write)(&self.0.dir, ENDED, &text)?;
            self.0.change(|known| known.ended = Arc::new(ended));
        }
        Ok(())
    }

    /// This disk, as its peers are told of it.
    pub fn disk(&self) -> Disk {
        self.0.known().own
    }

    /// Why this disk is not trusted to be the newest.
    pub fn doubt(&self) -> Option<Arc<str>> {
        self.0.known.read().unwrap_or_else(PoisonError::into_inner).doubt.clone()
    }

    /// Raises the counter, durably.
    pub fn tick(&self) -> io::Result<()> {
        let _writing = self.0.writing();
        let mut known = self.0.known();
        known.own.count += 1;
        self.0.write_own(&known)?;
        self.0.known.write().unwrap_or_else(PoisonError::into_inner).own = known.own;
        Ok(())
    }

    /// A peer remembers `remembered` of this disk. If it cannot be the same any more, it is doubted from now on, and
    /// the reason is returned.
    pub fn confront(&self, peer: &HostName, remembered: &Disk) -> io::Result<Option<Arc<str>>> {
        let _writing = self.0.writing();
        let mut known = self.0.known();
        let doubt: Arc<str> = match known.own.judged_by(remembered) {
            Verdict::Same => return Ok(None),
            Verdict::Older => {
                format!("{peer} has seen a newer state of this disk; it was restored from a backup").into()
            }
            Verdict::Other => {
                format!("{peer} knows another disk under this node's name; this one is new, or was wiped").into()
            }
        };
        known.own = known.own.renamed(random_id(), remembered);
        // The first reason says most: of a restored backup peers know only that it is another disk.
        let doubt = known.doubt.take().unwrap_or(doubt);
        known.doubt = Some(doubt.clone());
        // A disk that cannot be written is doubted all the same; after a restart the peer says so again.
        let written = self.0.write_own(&known);
        self.0.change(|k| (k.own, k.doubt) = (known.own, known.doubt));
        written.map(|()| Some(doubt))
    }

    /// A person has decided that this disk is good.
    pub fn trust(&self) -> io::Result<()> {
        let _writing = self.0.writing();
        let mut known = self.0.known();
        if known.doubt.take().is_some() {
            self.0.write_own(&known)?;
            self.0.change(|k| k.doubt = None);
        }
        Ok(())
    }

    /// A peer has told of its disk. Returns what is remembered of it, and what it is now taken for.
    pub fn meet(&self, peer: &HostName, said: &Disk) -> io::Result<(Disk, Verdict)> {
        let _writing = self.0.writing();
        let known = self.0.known();
        let Some(before) = known.disks.get(peer) else {
            self.remember(peer, said, &known)?;
            return Ok((said.clone(), Verdict::Same));
        };
        let verdict = said.judged_by(before);
        if verdict == Verdict::Same {
            if before != said {
                self.remember(peer, said, &known)?;
            } else if known.suspects.contains_key(peer) {
                // What was suspect came late, after what it says now.
                self.0.known.write().unwrap_or_else(PoisonError::into_inner).suspects.remove(peer);
            }
            return Ok((said.clone(), verdict));
        }
        self.0.known.write().unwrap_or_else(PoisonError::into_inner).suspects.insert(peer.clone(), verdict);
        Ok((before.clone(), verdict))
    }

    /// What is remembered of the peer's disk.
    pub fn remembered(&self, peer: &HostName) -> Option<Disk> {
        self.0.known().disks.get(peer).cloned()
    }

    fn remember(&self, peer: &HostName, said: &Disk, known: &Known) -> io::Result<()> {
        let mut disks = BTreeMap::clone(&known.disks);
        disks.insert(peer.clone(), said.clone());
        let text: String = disks.iter().map(|(name, disk)| format!("{name} {disk}\n")).collect();
        (self.0.write)(&self.0.dir, DISKS, &text)?;
        let mut known = self.0.known.write().unwrap_or_else(PoisonError::into_inner);
        known.disks = Arc::new(disks);
        known.suspects.remove(peer);
        Ok(())
    }

    /// Whether the peer's disk is older than, or another than, the one that is remembered.
    pub fn suspects(&self, peer: &HostName) -> Option<Verdict> {
        self.0.known.read().unwrap_or_else(PoisonError::into_inner).suspects.get(peer).copied()
    }

    /// A peer says whether it waits for a person's decision about its disk.
    pub fn note_waiting(&self, peer: &HostName, waits: bool) {
        let mut known = self.0.known.write().unwrap_or_else(PoisonError::into_inner);
        if waits {
            known.waiting.insert(peer.clone());
        } else {
            known.waiting.remove(peer);
        }
    }

    /// Whether the peer is no master before a person has decided about its disk, as far as this node knows.
    pub fn is_waiting(&self, peer: &HostName) -> bool {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        known.waiting.contains(peer) || known.suspects.contains_key(peer)
    }

    /// Counts what has changed here who masters what.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }
}

impl Inner {
    fn known(&self) -> Known {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn writing(&self) -> MutexGuard<'_, bool> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_table(&self, unwritten: &mut bool) {
        if *unwritten {
            match (self.write)(&self.dir, MASTERS, &self.known().table.text()) {
                Ok(()) => *unwritten = false,
                Err(error) => tracing::debug!(%error, "who masters what cannot be written yet"),
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known.write().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_modify(|count| *count += 1);
    }

    fn write_own(&self, known: &Known) -> io::Result<()> {
        let doubt = known.doubt.as_ref().map_or_else(String::new, |why| format!("{DOUBT}{why}\n"));
        (self.write)(&self.repositories, OWN, &format!("{}\n{doubt}", known.own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_said_of_its_disk_and_came_late_does_not_count_for_long() {
        let (dir, name) = (tempfile::tempdir().unwrap(), |name: &str| HostName::new(name).unwrap());
        let masters = Masters::open(&name("s2"), Files::all_in(dir.path()), |_, _, _| Ok(())).unwrap();
        let disk = |id: &str, count: u64, former: &[&str]| {
            let former = former.iter().map(|id| id.repeat(16)).collect();
            Disk { id: id.repeat(16), count, run: "0".repeat(16), former }
        };
        let said = |disk: &Disk| {
            let verdict = masters.meet(&name("s1"), disk).unwrap().1;
            (verdict, masters.suspects(&name("s1")))
        };
        let (restored, renamed) = (disk("a", 3, &[]), disk("b", 3, &["a"]));
        assert_eq!(said(&disk("a", 5, &[])), (Verdict::Same, None));
        assert_eq!(said(&restored), (Verdict::Older, Some(Verdict::Older)));
        assert_eq!(said(&renamed), (Verdict::Same, None));
        // From before it took a new id, on a slower way.
        assert_eq!(said(&restored), (Verdict::Other, Some(Verdict::Other)));
        assert_eq!(said(&renamed), (Verdict::Same, None));
    }
}
