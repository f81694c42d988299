//! Copies to which somebody has stopped the pushes: one small file, so that a restart keeps them stopped.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::model::{HostName, RepoName};
use crate::repo::write_whole;

const FILE: &str = "mirror-pauses.json";
const VERSION: u32 = 1;
/// More than anybody pauses by hand; an order, not a way to configure.
const PAUSES_MAX: usize = 10_000;

/// What an order to pause or resume is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// All copies of a repository.
    Repo(RepoName),
    /// All copies on a peer.
    Peer(HostName),
    /// One copy.
    Copy(RepoName, HostName),
}

impl Scope {
    pub fn covers(&self, repo: &RepoName, peer: &HostName) -> bool {
        match self {
            Self::Repo(r) => r == repo,
            Self::Peer(p) => p == peer,
            Self::Copy(r, p) => r == repo && p == peer,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repo(repo) => write!(f, "all copies of {repo}"),
            Self::Peer(peer) => write!(f, "all copies on {peer}"),
            Self::Copy(repo, peer) => write!(f, "the copy of {repo} on {peer}"),
        }
    }
}

/// An order that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    pub scope: Scope,
    pub by: String,
    pub reason: String,
    pub since: SystemTime,
}

impl Pause {
    /// Who has ordered it, and why, as far as they said so.
    pub fn by_whom(&self) -> String {
        let Self { by, reason, .. } = self;
        if reason.is_empty() { by.clone() } else { format!("{by} ({reason})") }
    }
}

/// The orders that stand, and their file.
#[derive(Debug)]
pub(super) struct Pauses {
    dir: PathBuf,
    orders: BTreeMap<Scope, Pause>,
}

/// The file's own shape.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    pauses: Vec<StoredPause>,
}

#[derive(Serialize, Deserialize)]
struct StoredPause {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    repo: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    by: String,
    #[serde(default)]
    reason: String,
    since: u64,
}

impl Pauses {
    /// Reads what an earlier run kept in `dir`. A file that cannot be understood is an error: pushing to what somebody
    /// has stopped is worse than not starting.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let file = dir.join(FILE);
        let orders = match std::fs::read(&file) {
            Ok(bytes) => parse(&bytes).map_err(|why| {
                let path = file.display();
                io::Error::other(format!("{path}: {why}; mend it, or remove it and all pauses with it"))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { dir: dir.to_owned(), orders })
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Pause> {
        self.orders.values()
    }

    /// The order that stops this copy.
    pub(super) fn of(&self, repo: &RepoName, peer: &HostName) -> Option<&Pause> {
        if self.orders.is_empty() {
            return None;
        }
        let scopes = [Scope::Peer(peer.clone()), Scope::Repo(repo.clone()), Scope::Copy(repo.clone(), peer.clone())];
        scopes.iter().find_map(|scope| self.orders.get(scope))
    }

    /// The order that stops all copies on a peer.
    pub(super) fn of_peer(&self, peer: &HostName) -> Option<&Pause> {
        self.orders.get(&Scope::Peer(peer.clone()))
    }

    /// Afterwards it stands, also after a crash. `false` if one with this scope stood already, which is kept.
    pub(super) fn add(&mut self, pause: Pause) -> io::Result<bool> {
        if self.orders.contains_key(&pause.scope) {
            return Ok(false);
        }
        if self.orders.len() >= PAUSES_MAX {
            return Err(io::Error::other(format!("there are {PAUSES_MAX} pauses already; pause a whole peer instead")));
        }
        let scope = pause.scope.clone();
        self.orders.insert(scope.clone(), pause);
        self.write().inspect_err(|_| drop(self.orders.remove(&scope)))?;
        Ok(true)
    }

    /// Takes back the order that says exactly this; of a whole repository or peer, also those on its single copies.
    /// Returns them.
    pub(super) fn remove(&mut self, scope: &Scope) -> io::Result<Vec<Pause>> {
        let within =
            |other: &Scope| other == scope || matches!(other, Scope::Copy(repo, peer) if scope.covers(repo, peer));
        let gone: Vec<Pause> = self.orders.values().filter(|pause| within(&pause.scope)).cloned().collect();
        if !gone.is_empty() {
            let before = self.orders.clone();
            self.orders.retain(|other, _| !within(other));
            self.write().inspect_err(|_| self.orders = before)?;
        }
        Ok(gone)
    }

    fn write(&self) -> io::Result<()> {
        let stored = |pause: &Pause| {
            let (repo, peer) = match &pause.scope {
                Scope::Repo(repo) => (Some(repo), None),
                Scope::Peer(peer) => (None, Some(peer)),
                Scope::Copy(repo, peer) => (Some(repo), Some(peer)),
            };
            let since = pause.since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
            StoredPause {
                repo: repo.map(ToString::to_string),
                peer: peer.map(ToString::to_string),
                by: pause.by.clone(),
                reason: pause.reason.clone(),
                since,
            }
        };
        let stored = Stored { version: VERSION, pauses: self.orders.values().map(stored).collect() };
        let text = serde_json::to_string_pretty(&stored).map_err(io::Error::other)?;
        write_whole(&self.dir, FILE, &(text + "\n"))
    }
}

fn parse(bytes: &[u8]) -> Result<BTreeMap<Scope, Pause>, String> {
    let stored: Stored = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if stored.version != VERSION {
        return Err(format!("version {} where {VERSION} was expected", stored.version));
    }
    let pause = |stored: StoredPause| {
        let repo = stored.repo.map(|r| RepoName::new(&r).map_err(|e| e.to_string())).transpose()?;
        let peer = stored.peer.map(|p| HostName::new(&p).map_err(|e| e.to_string())).transpose()?;
        let scope = match (repo, peer) {
            (Some(repo), Some(peer)) => Scope::Copy(repo, peer),
            (Some(repo), None) => Scope::Repo(repo),
            (None, Some(peer)) => Scope::Peer(peer),
            (None, None) => return Err("a pause names neither a repository nor a peer".to_owned()),
        };
        let since = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(stored.since)).ok_or("a far future")?;
        Ok((scope.clone(), Pause { scope, by: stored.by, reason: stored.reason, since }))
    };
    stored.pauses.into_iter().map(pause).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_outlive_the_process_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (RepoName::new("a").unwrap(), RepoName::new("b").unwrap());
        let (two, three) = (HostName::new("server2").unwrap(), HostName::new("server3").unwrap());
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let pause = |scope| Pause { scope, by: "alice".into(), reason: "disk".into(), since };
        let mut pauses = Pauses::open(dir.path()).unwrap();
        pauses.add(pause(Scope::Copy(a.clone(), two.clone()))).unwrap();
        pauses.add(pause(Scope::Repo(b.clone()))).unwrap();
        assert!(pauses.add(pause(Scope::Peer(three.clone()))).unwrap());
        assert!(!pauses.add(pause(Scope::Peer(three.clone()))).unwrap());
        let mut again = Pauses::open(dir.path()).unwrap();
        assert!(again.all().eq(pauses.all()) && again.all().count() == 3);
        let stopped = |p: &Pauses, repo, peer| p.of(repo, peer).is_some();
        assert!(stopped(&again, &a, &two) && stopped(&again, &b, &two) && stopped(&again, &a, &three));
        again.remove(&Scope::Repo(b.clone())).unwrap();
        assert!(!stopped(&again, &b, &two) && stopped(&again, &b, &three));
        assert_eq!(again.remove(&Scope::Peer(two.clone())).unwrap().len(), 1, "the single copy goes on too");
        assert!(!stopped(&Pauses::open(dir.path()).unwrap(), &a, &two));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        for bad in ["", "{\"version\":2,\"pauses\":[]}", "{\"version\":1,\"pauses\":[{\"by\":\"x\",\"since\":1}]}"] {
            std::fs::write(dir.path().join(FILE), bad).unwrap();
            let error = Pauses::open(dir.path()).unwrap_err().to_string();
            assert!(error.contains(FILE) && error.contains("remove it"), "{error}");
        }
    }
}
