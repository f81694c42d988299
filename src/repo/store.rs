//! Name to directory: create, list, open.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::digests::Digests;
use super::dir_memory::DirMemory;
use super::gate::Gates;
use super::gone::Gone;
use super::metadata::Metadata;
use super::ownership::{self, Ownership};
use super::weight::{self, Weight};
use crate::durable;
use crate::git::objects::{self, ObjectsError};
use crate::model::time::Stamp;
use crate::model::{RepoName, UserName};
use crate::policy::Grant;

/// What is put into a new repository's directory before anybody sees it.
pub type Prepare<'a> = dyn Fn(&RepoName, &Path) -> io::Result<()> + 'a;

/// How the directory of a repository that is being made begins.
pub(super) const MAKING: &str = ".making-";
/// More files and directories than this are made durable all at once.
const SYNCED_SINGLY: usize = 24;

/// The directory of all repositories. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    root: Arc<Path>,
    /// The file with our git settings, which each repository's own configuration includes.
    settings: Arc<Path>,
    digests: Arc<Digests>,
    /// Repositories without an owner's files.
    unowned: Arc<DirMemory<()>>,
    /// What the packs in a directory weigh, in bytes.
    packs: Arc<DirMemory<u64>>,
    /// Where deleted repositories are kept, beside the root.
    pub(super) trash: Arc<Path>,
    gone: Gone,
    gates: Gates,
    /// Times that were given to what is in the trash lately.
    moving: Arc<Mutex<BTreeMap<RepoName, Stamp>>>,
}

/// A repository that may be used: proof that a grant was shown.
#[derive(Debug)]
pub struct Repo {
    pub name: RepoName,
    dir: PathBuf,
}

/// How full the file system of the repositories is, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// What is left for this process (statvfs(3), `f_bavail`).
    pub free: u64,
    pub total: u64,
}

impl Repo {
    /// For this room alone: what is made here has no grant yet.
    pub(super) fn at(name: RepoName, dir: PathBuf) -> Self {
        Self { name, dir }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Store {
    /// `root` holds the repositories; `settings` is the file written by the daemon for `git::process`.
    pub fn new(root: PathBuf, settings: PathBuf) -> Self {
        let beside = root.parent().unwrap_or(&root).to_owned();
        let (trash, gone) = (beside.join("trash").into(), Gone::new(beside.join("orders/gone")));
        Self {
            root: root.into(),
            settings: settings.into(),
            digests: Arc::default(),
            unowned: Arc::default(),
            packs: Arc::default(),
            trash,
            gone,
            gates: Gates::default(),
            moving: Arc::default(),
        }
    }

    /// Takes over what an earlier run has left to tell about repositories that are gone.
    pub fn load_gone(&self) -> io::Result<()> {
        self.gone.load(|repo| self.exists(repo))
    }

    /// The gates before pushes.
    pub fn gates(&self) -> &Gates {
        &self.gates
    }

    /// The repositories that were taken away and whose copies have not all followed.
    pub fn gone(&self) -> &Gone {
        &self.gone
    }

    /// Held while a repository is moved as a whole.
    pub(super) fn moving(&self) -> MutexGuard<'_, BTreeMap<RepoName, Stamp>> {
        // What a panic in between has left is what a crash would have left.
        self.moving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directory that holds all repositories, for hooks to be told.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the repository is, or would be. See [`Store::open_as_daemon`] for who may ask.
    pub fn dir(&self, name: &RepoName) -> PathBuf {
        self.root.join(format!("{name}.git"))
    }

    pub(super) fn settings(&self) -> &Path {
        &self.settings
    }

    pub fn space(&self) -> io::Result<Space> {
        let of = rustix::fs::statvfs(&*self.root)?;
        Ok(Space { free: of.f_bavail * of.f_frsize, total: of.f_blocks * of.f_frsize })
    }

    /// Opens what the grant names; `None` when no such repository is on this disk.
    pub fn open(&self, grant: &Grant) -> Option<Repo> {
        let name = grant.repo().clone();
        self.open_as_daemon(&name).map(|dir| Repo { name, dir })
    }

    /// Why an existing repository cannot be served: one that was put on the disk by hand may have a format that we do
    /// not read. What it keeps, as a clause.
    pub fn unread_format(&self, name: &RepoName) -> Option<&'static str> {
        let config = std::fs::read_to_string(self.dir(name).join("config")).ok()?.to_ascii_lowercase();
        let has = |key: &str, value: &str| {
            let mut pairs = config.lines().filter_map(|line| line.split_once('='));
            pairs.any(|(k, v)| k.trim() == key && v.trim().trim_matches('"') == value)
        };
        if has("objectformat", "sha256") {
            return Some("keeps its objects by SHA-256");
        }
        has("refstorage", "reftable").then_some("keeps its references in the reftable format")
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
        let dir = self.dir(name);
        let asked = std::fs::metadata(&dir).ok()?;
        if self.unowned.of(&asked).is_some() {
            return Some(Ownership::default());
        }
        if !dir.join("HEAD").exists() {
            return None;
        }
        let owned = Ownership::read(&dir);
        if owned == Ownership::default() && ownership::is_without(&dir) {
            self.unowned.learn(&asked, ());
        }
        Some(owned)
    }

    /// The description and settings of an existing repository that is mastered here.
    pub fn metadata(&self, name: &RepoName) -> Metadata {
        self.open_as_daemon(name).map(|dir| Metadata::read(&dir)).unwrap_or_default()
    }

    /// The fingerprint of a repository's references, see [`crate::git::ref_state::RefState::digest`]. One that has not changed since
    /// the last question costs a look at its files' times.
    pub fn digest(&self, name: &RepoName) -> Result<String, ObjectsError> {
        self.digests.of(name, &self.dir(name))
    }

    /// What a repository weighs; one that is not there weighs nothing. Blocking.
    pub fn weigh(&self, name: &RepoName) -> Weight {
        weight::weigh_with(&self.dir(name), &self.packs)
    }

    /// Who made a repository; `None` for one that the configuration names, and for one that is not there.
    pub fn creator(&self, name: &RepoName) -> Option<UserName> {
        let dir = self.dir(name);
        let known = std::fs::metadata(&dir).is_ok_and(|asked| self.unowned.of(&asked).is_some());
        if known { None } else { ownership::read_creator(&dir) }
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
        self.create_all(&[name], &|_, dir| prepare(dir)).pop().expect("one answer for one name")
    }

    /// As [`Store::create_with`] for each of `names`, with one answer each in their order. A power cut leaves each of
    /// them whole or absent, and all of them together cost the disk hardly more than one.
    pub fn create_all(&self, names: &[&RepoName], prepare: &Prepare<'_>) -> Vec<io::Result<bool>> {
        let made: Vec<_> = names.iter().map(|name| self.make(name, prepare)).collect();
        let fresh = made.iter().filter_map(|made| made.as_ref().ok()?.as_ref());
        let files = fresh.flat_map(|dir| [dir.join("HEAD"), dir.join("config"), dir.clone()]).collect();
        // Before any is seen under its name: HEAD and config must not turn out empty after a power cut.
        let settled = self.settle(&files);
        let shown: Vec<_> = names.iter().zip(made).map(|(name, made)| self.show(name, made?, &settled)).collect();
        let parents = names.iter().filter_map(|name| Some(self.dir(name).parent()?.into())).collect();
        match self.settle(&parents) {
            Ok(()) => shown,
            Err(error) => shown.into_iter().map(|answer| answer.and(Err(again(&error)))).collect(),
        }
    }

    /// Makes a repository under a name of its own; `None` if there is one already.
    fn make(&self, name: &RepoName, prepare: &Prepare<'_>) -> io::Result<Option<PathBuf>> {
        if self.exists(name) {
            return Ok(None);
        }
        let making = self.beside();
        let made = objects::init_bare(&making, "main")
            .and_then(|()| include_settings(&making, &self.settings))
            .and_then(|()| prepare(name, &making));
        if made.is_err() && making.exists() {
            std::fs::remove_dir_all(&making)?;
        }
        made.map(|()| Some(making))
    }

    /// A place for what is being made: nobody sees it, and the next start removes what is left there.
    pub(super) fn beside(&self) -> PathBuf {
        self.root.join(format!("{MAKING}{}-{:016x}", std::process::id(), rand::random::<u64>()))
    }

    /// Gives a repository its name; false if another task was quicker.
    fn show(&self, name: &RepoName, made: Option<PathBuf>, settled: &io::Result<()>) -> io::Result<bool> {
        let Some(making) = made else { return Ok(false) };
        let dir = self.dir(name);
        let shown = match settled {
            Ok(()) => dir
                .parent()
                .map_or(Ok(()), std::fs::create_dir_all)
                .and_then(|()| durable::rename("repo.create.rename", &making, &dir)),
            Err(error) => Err(again(error)),
        };
        if shown.is_err() {
            std::fs::remove_dir_all(&making)?;
        }
        match shown {
            Ok(()) => Ok(true),
            Err(_) if self.exists(name) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes files and directories durable: one by one, or, since that costs milliseconds each, many of them by one
    /// call for the whole file system (syncfs(2)).
    fn settle(&self, paths: &BTreeSet<PathBuf>) -> io::Result<()> {
        if paths.len() > SYNCED_SINGLY {
            return durable::sync_disk("repo.create.settle", &self.root);
        }
        paths.iter().try_for_each(|path| durable::sync("repo.create.sync", path))
    }

    /// Gives a repository that something else made our settings, so that a push by path is judged and seen there too.
    /// Does nothing where they are in force, or where no such repository is.
    pub fn adopt(&self, name: &RepoName) -> io::Result<()> {
        let Some(dir) = self.open_as_daemon(name) else { return Ok(()) };
        let config = std::fs::read_to_string(dir.join("config"))?;
        let path = format!("path = \"{}\"", self.settings.display());
        if config.lines().any(|line| line.trim() == path) {
            return Ok(());
        }
        include_settings(&dir, &self.settings)?;
        durable::sync("repo.adopt.sync", &dir.join("config"))
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
                    // A repository that is being made; its final name cannot start so.
                    None if name.starts_with('.') => {}
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
            if entry.file_name().as_encoded_bytes().starts_with(MAKING.as_bytes()) {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Lets a push made on the machine by path meet the same settings and hooks as one that comes through a door.
pub(super) fn include_settings(dir: &Path, settings: &Path) -> io::Result<()> {
    use io::Write;
    let mut config = std::fs::OpenOptions::new().append(true).open(dir.join("config"))?;
    writeln!(config, "[include]\n\tpath = \"{}\"", settings.display())
}

/// One failure that several names share.
fn again(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
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
