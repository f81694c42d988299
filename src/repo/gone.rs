//! Repositories that were taken away here, as long as a copy elsewhere has not followed: a small file each under
//! `orders/gone/`, so that a replica that is away learns it at its return, also when this node has been killed meanwhile.
//!
//! The file is there before the repository goes, and says so itself once it has gone; one that does not, of a
//! repository that is still there, is of an order that never happened.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::durable::write_whole;
use crate::model::time::Stamp;
use crate::model::{HostName, RepoName, UserName};

const VERSION: u32 = 1;

/// One repository that was taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tombstone {
    pub repo: RepoName,
    /// Its name in the trash.
    pub at: Stamp,
    /// Whose it was, since that decides where its copies are.
    pub creator: Option<UserName>,
    /// Its new name, if it was renamed instead.
    pub to: Option<RepoName>,
    /// The nodes whose copies have not followed.
    pub waiting: BTreeSet<HostName>,
}

/// All that stand. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gone {
    dir: Arc<Path>,
    stones: Arc<Mutex<BTreeMap<RepoName, Tombstone>>>,
}

/// The file's own shape.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    repo: String,
    time: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    creator: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    waiting: Vec<String>,
    /// The repository has gone.
    done: bool,
}

impl Gone {
    /// None stand until [`Gone::load`]; `dir` is made when the first is.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir: dir.into(), stones: Arc::default() }
    }

    /// Takes over what an earlier run has left. `exists` tells which repositories are there.
    pub fn load(&self, exists: impl Fn(&RepoName) -> bool) -> io::Result<()> {
        let entries = match std::fs::read_dir(&*self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue; // half written
            }
            let (stone, done) = parse(&std::fs::read(&path)?).map_err(|why| {
                let path = path.display();
                io::Error::other(format!("{path}: {why}; remove it, and move the copies to trash by hand"))
            })?;
            if done || !exists(&stone.repo) {
                self.lock().insert(stone.repo.clone(), stone);
            } else {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// The innermost lock but for the board's; a few lines each time.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<RepoName, Tombstone>> {
        self.stones.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down that the repository is about to go.
    pub(super) fn intend(&self, stone: &Tombstone) -> io::Result<()> {
        std::fs::create_dir_all(&*self.dir)?;
        self.write(stone, false)
    }

    /// It has gone: from now on its copies are told.
    pub(super) fn went(&self, stone: Tombstone) -> io::Result<()> {
        let written = self.write(&stone, true);
        self.lock().insert(stone.repo.clone(), stone);
        written
    }

    /// Takes the stone back: the repository has not gone, or has come back.
    pub(super) fn forget(&self, repo: &RepoName, at: Stamp) -> io::Result<()> {
        let mut stones = self.lock();
        if stones.get(repo).is_some_and(|stone| stone.at != at) {
            return Ok(());
        }
        stones.remove(repo);
        absent_is_fine(std::fs::remove_file(self.file(repo)))
    }

    /// A node's copy has followed, or there is none there any more.
    pub fn confirm(&self, repo: &RepoName, at: Stamp, peer: &HostName) -> io::Result<()> {
        let mut stones = self.lock();
        let Some(stone) = stones.get_mut(repo).filter(|stone| stone.at == at) else { return Ok(()) };
        if !stone.waiting.remove(peer) {
            return Ok(());
        }
        if stone.waiting.is_empty() {
            stones.remove(repo);
            return absent_is_fine(std::fs::remove_file(self.file(repo)));
        }
        self.write(stone, true)
    }

    pub fn of(&self, repo: &RepoName) -> Option<Tombstone> {
        self.lock().get(repo).cloned()
    }

    /// The repository that got this name by being renamed.
    pub fn renamed_to(&self, repo: &RepoName) -> Option<Tombstone> {
        self.lock().values().find(|stone| stone.to.as_ref() == Some(repo)).cloned()
    }

    pub fn all(&self) -> Vec<Tombstone> {
        self.lock().values().cloned().collect()
    }

    /// Names may be longer than a file's, and hold slashes.
    fn file_name(repo: &RepoName) -> String {
        format!("{:x}.json", Sha256::digest(repo.as_str()))
    }

    fn file(&self, repo: &RepoName) -> PathBuf {
        self.dir.join(Self::file_name(repo))
    }

    fn write(&self, stone: &Tombstone, done: bool) -> io::Result<()> {
        let stored = Stored {
            version: VERSION,
            repo: stone.repo.to_string(),
            time: stone.at.to_string(),
            creator: stone.creator.as_ref().map(ToString::to_string),
            to: stone.to.as_ref().map(ToString::to_string),
            waiting: stone.waiting.iter().map(ToString::to_string).collect(),
            done,
        };
        let text = serde_json::to_string_pretty(&stored).map_err(io::Error::other)?;
        write_whole(&self.dir, &Self::file_name(&stone.repo), &(text + "\n"))
    }
}

fn absent_is_fine(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn parse(bytes: &[u8]) -> Result<(Tombstone, bool), String> {
    let stored: Stored = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if stored.version != VERSION {
        return Err(format!("version {} where {VERSION} was expected", stored.version));
    }
    let repo = |text: String| RepoName::new(&text).map_err(|error| error.to_string());
    let node = |text: &String| HostName::new(text).map_err(|error| error.to_string());
    let stone = Tombstone {
        repo: repo(stored.repo)?,
        at: Stamp::parse(&stored.time).ok_or("the time is none")?,
        creator: stored.creator.map(|name| UserName::new(&name).map_err(|e| e.to_string())).transpose()?,
        to: stored.to.map(repo).transpose()?,
        waiting: stored.waiting.iter().map(node).collect::<Result<_, _>>()?,
    };
    Ok((stone, stored.done))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stones_outlive_the_process_and_orders_that_never_happened_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gone");
        let repo = |name: &str| RepoName::new(name).unwrap();
        let node = |name: &str| HostName::new(name).unwrap();
        let stone = |name: &str| Tombstone {
            repo: repo(name),
            at: Stamp::parse("2026-11-21_08:30:00").unwrap(),
            creator: UserName::new("alice").ok(),
            to: None,
            waiting: [node("server2"), node("server3")].into(),
        };
        let gone = Gone::new(path.clone());
        gone.load(|_| false).unwrap();
        for name in ["docs/a", "b", "c"] {
            gone.intend(&stone(name)).unwrap();
        }
        gone.went(stone("docs/a")).unwrap();
        gone.went(Tombstone { to: Some(repo("d")), ..stone("c") }).unwrap();
        gone.confirm(&repo("docs/a"), stone("b").at, &node("server3")).unwrap();
        gone.confirm(&repo("docs/a"), stone("b").at.next(), &node("server2")).unwrap();

        // 'b' is there still: the node was killed before it went.
        let again = Gone::new(path.clone());
        again.load(|name| name.as_str() == "b").unwrap();
        assert_eq!(again.all(), gone.all());
        assert_eq!(again.of(&repo("docs/a")).unwrap().waiting, [node("server2")].into());
        assert_eq!(again.renamed_to(&repo("d")).unwrap().repo, repo("c"));
        assert_eq!(again.of(&repo("b")), None);
        again.confirm(&repo("docs/a"), stone("b").at, &node("server2")).unwrap();
        again.forget(&repo("c"), stone("c").at).unwrap();
        assert_eq!((again.all().len(), std::fs::read_dir(&path).unwrap().count()), (0, 0));

        std::fs::write(path.join("x.json"), "{}").unwrap();
        assert!(Gone::new(path).load(|_| true).unwrap_err().to_string().contains("x.json"));
    }
}
