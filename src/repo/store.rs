//! Name to directory: create, list, open.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ownership::{self, Ownership};
use crate::git::objects;
use crate::model::{RepoName, UserName};
use crate::policy::Grant;

/// The directory of all repositories. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    root: Arc<Path>,
    /// The file with our git settings, which each repository's own configuration includes.
    settings: Arc<Path>,
}

/// A repository that may be used: proof that a grant was shown.
#[derive(Debug)]
pub struct Repo {
    pub name: RepoName,
    dir: PathBuf,
}

impl Repo {
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Store {
    /// `root` holds the repositories; `settings` is the file written by the daemon for `git::process`.
    pub fn new(root: PathBuf, settings: PathBuf) -> Self {
        Self { root: root.into(), settings: settings.into() }
    }

    /// The directory that holds all repositories, for hooks to be told.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the repository is, or would be. See [`Store::open_as_daemon`] for who may ask.
    pub fn dir(&self, name: &RepoName) -> PathBuf {
        self.root.join(format!("{name}.git"))
    }

    /// Opens what the grant names; `None` when no such repository is on this disk.
    pub fn open(&self, grant: &Grant) -> Option<Repo> {
        let name = grant.repo().clone();
        self.open_as_daemon(&name).map(|dir| Repo { name, dir })
    }

    /// The directory of a repository, for the daemon's own work. Each call site is one to audit: no grant is shown.
    pub fn open_as_daemon(&self, name: &RepoName) -> Option<PathBuf> {
        let dir = self.dir(name);
        dir.join("HEAD").exists().then_some(dir)
    }

    pub fn exists(&self, name: &RepoName) -> bool {
        self.open_as_daemon(name).is_some()
    }

    /// Whose an existing repository is, and who has which role in it; `None` when there is no such repository.
    pub fn ownership(&self, name: &RepoName) -> Option<Ownership> {
        self.open_as_daemon(name).map(|dir| Ownership::read(&dir))
    }

    /// Who made a repository; `None` for one that the configuration names, and for one that is not there.
    pub fn creator(&self, name: &RepoName) -> Option<UserName> {
        ownership::read_creator(&self.dir(name))
    }

    /// The repository that a directory belongs to, if it lies under the root.
    pub fn name_of(&self, dir: &Path) -> Option<RepoName> {
        let dir = dir.canonicalize().ok()?;
        let below = dir.strip_prefix(self.root.canonicalize().ok()?).ok()?.to_str()?;
        RepoName::new(below.strip_suffix(".git")?).ok()
    }

    /// Makes an empty bare repository; false when it is there already. It appears under its name by one rename.
    pub fn create(&self, name: &RepoName) -> io::Result<bool> {
        self.create_with(name, &|_| Ok(()))
    }

    /// As [`Store::create`]; `prepare` is given the directory before anybody sees the repository.
    pub fn create_with(&self, name: &RepoName, prepare: &dyn Fn(&Path) -> io::Result<()>) -> io::Result<bool> {
        let dir = self.dir(name);
        if dir.join("HEAD").exists() {
            return Ok(false);
        }
        let parent = dir.parent().unwrap_or(&self.root);
        std::fs::create_dir_all(parent)?;
        let making = self.root.join(format!(".making-{}-{:016x}", std::process::id(), rand::random::<u64>()));
        let made = objects::init_bare(&making, "main")
            .map_err(io::Error::other)
            .and_then(|()| include_settings(&making, &self.settings))
            .and_then(|()| prepare(&making))
            .and_then(|()| std::fs::rename(&making, &dir));
        match made {
            Ok(()) => {
                std::fs::File::open(parent)?.sync_all()?;
                Ok(true)
            }
            Err(error) => {
                if making.exists() {
                    std::fs::remove_dir_all(&making)?;
                }
                // Another task may have made it in the meantime.
                if dir.join("HEAD").exists() { Ok(false) } else { Err(error) }
            }
        }
    }

    /// Gives a repository that something else made our settings, so that a push by path is judged and seen there too.
    /// Does nothing where they are in force, or where no such repository is.
    pub fn adopt(&self, name: &RepoName) -> io::Result<()> {
        let Some(dir) = self.open_as_daemon(name) else { return Ok(()) };
        let config = std::fs::read_to_string(dir.join("config"))?;
        let path = format!("path = \"{}\"", self.settings.display());
        if config.lines().any(|line| line.trim() == path) { Ok(()) } else { include_settings(&dir, &self.settings) }
    }

    /// Every repository on the disk, sorted by name.
    pub fn list(&self) -> io::Result<Vec<RepoName>> {
        let mut names = Vec::new();
        let mut todo = vec![(self.root.to_path_buf(), String::new())];
        while let Some((at, prefix)) = todo.pop() {
            for entry in std::fs::read_dir(&at)? {
                let entry = entry?;
                let Some(name) = entry.file_name().to_str().map(|n| format!("{prefix}{n}")) else { continue };
                if !entry.file_type()?.is_dir() {
                    continue;
                }
                match name.strip_suffix(".git") {
                    Some(name) => names.extend(RepoName::new(name)),
                    None if entry.file_name().as_encoded_bytes().starts_with(b".") => {}
                    None => todo.push((entry.path(), format!("{name}/"))),
                }
            }
        }
        names.sort();
        Ok(names)
    }

    /// Removes what a killed creation left behind. Call it before anything else uses the store.
    pub fn sweep_unfinished(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&*self.root)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(b".making-") {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Lets a push made on the machine by path meet the same settings and hooks as one that comes through a door.
fn include_settings(dir: &Path, settings: &Path) -> io::Result<()> {
    use io::Write;
    let mut config = std::fs::OpenOptions::new().append(true).open(dir.join("config"))?;
    writeln!(config, "[include]\n\tpath = \"{}\"", settings.display())?;
    config.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn created_once_and_listed() {
        let tmp = tempfile::tempdir().expect("temporary directory");
        let store = Store::new(tmp.path().into(), "/dev/null".into());
        let name = |n: &str| RepoName::new(n).expect("a good name");
        assert!(store.create(&name("docs/b")).expect("created"));
        assert!(!store.create(&name("docs/b")).expect("there already"));
        let owned = Ownership { creator: UserName::new("alice").ok(), roles: None };
        assert!(store.create_with(&name("a"), &|dir| owned.write(dir)).expect("created"));
        assert_eq!((store.ownership(&name("a")), store.creator(&name("a"))), (Some(owned.clone()), owned.creator));
        assert_eq!(store.ownership(&name("docs/b")), Some(Ownership::default()));
        assert_eq!(store.ownership(&name("c")), None);
        assert!(store.create_with(&name("c"), &|_| Err(io::Error::other("no"))).is_err());
        assert!(!store.exists(&name("c")));
        std::fs::create_dir(tmp.path().join(".making-1-2")).expect("a left-over");
        store.sweep_unfinished().expect("swept");
        assert_eq!(store.list().expect("listed"), [name("a"), name("docs/b")]);
        assert_eq!(store.name_of(&tmp.path().join("docs/b.git")), Some(name("docs/b")));
        assert_eq!(store.name_of(Path::new("/etc")), None);
        let config = || std::fs::read_to_string(tmp.path().join("a.git/config")).expect("readable");
        let before = config();
        store.adopt(&name("a")).expect("has its settings already");
        assert_eq!(config(), before);
        std::fs::write(tmp.path().join("a.git/config"), "[core]\n\tbare = true\n").expect("writable");
        store.adopt(&name("a")).expect("written");
        assert!(config().contains("path = \"/dev/null\""));
    }
}
