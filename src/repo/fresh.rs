//! A damaged copy is made anew beside itself, and then changes places with what is damaged.
//!
//! Promises: who reads sees the old copy or the new one, whole; what is replaced is in the trash, never gone; a
//! fresh copy that was not finished leaves nothing that the next start would not remove.

use std::io;
use std::path::Path;

use super::maintenance::DAMAGED;
use super::store::{Repo, Store};
use super::trash::Why;
use crate::durable;
use crate::git::objects;
use crate::model::RepoName;
use crate::model::time::Stamp;

/// What a fresh copy gets anew, and does not take over.
const REFILLED: [&str; 6] = ["objects", "refs", "logs", "packed-refs", "HEAD", DAMAGED];

/// An empty repository with the settings and marks of another, which it is to replace. Gone when dropped.
#[derive(Debug)]
pub struct Fresh {
    repo: Option<Repo>,
}

impl Fresh {
    /// To be filled by git.
    pub fn repo(&self) -> &Repo {
        self.repo.as_ref().expect("only `replace` takes it, and the value with it")
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if let Some(repo) = &self.repo
            && let Err(error) = std::fs::remove_dir_all(repo.dir())
        {
            tracing::warn!(%error, repo = %repo.name, "a fresh copy that was not finished cannot be removed");
        }
    }
}

impl Store {
    /// Begins a fresh copy beside an existing repository.
    pub fn fresh(&self, name: &RepoName) -> io::Result<Fresh> {
        let dir = self.beside();
        let fresh = Fresh { repo: Some(Repo::at(name.clone(), dir)) };
        let dir = fresh.repo().dir();
        objects::init_bare(dir, "main")?;
        take_over(&self.dir(name), dir)?;
        Ok(fresh)
    }

    /// The fresh copy takes the place of the old one, which is in the trash afterwards, under the returned time.
    pub fn replace(&self, mut fresh: Fresh, by: &str) -> io::Result<Stamp> {
        let name = fresh.repo().name.clone();
        let at = self.free_stamp(&name);
        self.exchange(fresh.repo().dir(), &name, at, Why::Asked(by))?;
        fresh.repo = None;
        Ok(at)
    }
}

/// Everything that is neither objects nor references: settings, marks, roles, hooks.
fn take_over(from: &Path, to: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        let lock = Path::new(&name).extension().is_some_and(|end| end == "lock");
        if lock || REFILLED.iter().any(|refilled| name == *refilled) {
            continue;
        }
        let to = to.join(&name);
        if kind.is_dir() {
            std::fs::create_dir_all(&to)?;
            take_over(&entry.path(), &to)?;
        } else if kind.is_file() {
            std::fs::copy(entry.path(), &to)?;
            durable::sync("repo.fresh.file", &to)?;
        }
    }
    durable::sync("repo.fresh.dir", to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_copy_takes_the_place_of_the_old_one() {
        let tmp = tempfile::tempdir().unwrap();
        let store = Store::new(tmp.path().join("repositories"), "/dev/null".into());
        std::fs::create_dir(store.root()).unwrap();
        let name = RepoName::new("docs/a").unwrap();
        store.create(&name).unwrap();
        let dir = store.dir(&name);
        for (file, text) in [("gl-perms", "READERS bob\n"), ("packed-refs", "nonsense"), ("HEAD.lock", "")] {
            std::fs::write(dir.join(file), text).unwrap();
        }
        std::fs::write(dir.join("objects/damaged"), "x").unwrap();
        drop(store.fresh(&name).unwrap());
        assert_eq!(std::fs::read_dir(store.root()).unwrap().count(), 1, "what was not finished is gone");
        let at = store.replace(store.fresh(&name).unwrap(), "server1").unwrap();
        let has = |dir: &Path, file: &str| dir.join(file).exists();
        let trashed = tmp.path().join("trash/docs/a").join(at.to_string());
        for (file, new, old) in [
            ("gl-perms", true, true),
            ("packed-refs", false, true),
            ("HEAD.lock", false, true),
            ("objects/damaged", false, true),
        ] {
            assert_eq!((has(&dir, file), has(&trashed, file)), (new, old), "{file}");
        }
        assert!(store.exists(&name) && store.is_in_trash(&name, at));
        assert_eq!(store.trashed().unwrap().len(), 1);
    }
}
