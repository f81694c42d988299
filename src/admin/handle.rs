//! The handle through which pushes and signals reach the one writer of the live policy.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::activate::Ready;
use super::{ADMIN_REPO, Activator, Address, Applied, Making, ReloadError, Store, check_on};
use crate::model::{HostName, Oid, RefName, RepoName, UserName};
use crate::policy::Settings;
use crate::repo::{self, Ownership, Prepare, Why};

/// Cheap to clone; every call blocks and belongs in `spawn_blocking`.
#[derive(Clone)]
pub struct Admin {
    activator: Arc<Mutex<Activator>>,
    pub(super) dir: Arc<PathBuf>,
    /// The newest commit that was checked, until it lands: it need not be compiled twice.
    ready: Arc<Mutex<Option<Ready>>>,
    making: Making,
    /// Held by the command that commits.
    pub(super) commits: Arc<Mutex<()>>,
}

/// What there is to say about a commit that may come alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Good {
    pub warnings: String,
    /// What it changes; empty when nothing.
    pub plan: String,
}

impl Admin {
    /// `dir` is the admin repository's directory.
    pub fn new(activator: Activator, dir: PathBuf) -> Self {
        let making = activator.making();
        Self {
            activator: Arc::new(Mutex::new(activator)),
            dir: Arc::new(dir),
            ready: Arc::default(),
            making,
            commits: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Activator> {
        // An activation may run again at any time, so one that panicked leaves nothing to repair.
        self.activator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ready(&self) -> MutexGuard<'_, Option<Ready>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn surroundings(&self) -> std::io::Result<super::Surroundings> {
        self.lock().surroundings()
    }

    pub(super) fn node(&self) -> HostName {
        self.lock().live().node.clone()
    }

    /// Would this commit be a good configuration, as the newest of a branch that is live, or becomes so? The texts are
    /// for whoever pushes it.
    pub fn check(&self, commit: &Oid, branch: &RefName) -> Result<Good, String> {
        let (around, live) = {
            let activator = self.lock();
            let around = activator.surroundings().map_err(|e| format!("FATAL: the peers cannot be read: {e}\n"))?;
            (around, activator.live())
        };
        // Without the lock: a long compilation must not hold up another push's activation.
        match check_on(&self.dir, commit, branch, &around) {
            Ok(checked) => {
                let good =
                    Good { plan: checked.plan(&live, around.programs.as_ref()), warnings: checked.warnings.clone() };
                *self.ready() = Some(Ready { checked, around });
                Ok(good)
            }
            Err(rejected) => Err(format!("{rejected}\n")),
        }
    }

    /// Changes what the machine's settings say; the next reload puts it in force.
    pub fn set(&self, address: Address, settings: Settings, guard_repositories: u8) {
        self.lock().set(address, settings, guard_repositories);
    }

    /// Reads everything again and puts it in force, or says why not and leaves all as it is.
    pub fn reload(&self) -> Result<Applied, ReloadError> {
        let ready = self.ready().take();
        self.lock().reload(ready)
    }

    /// How far an activation that runs at this moment is. Does not wait for it.
    pub fn making(&self) -> &Making {
        &self.making
    }

    /// Tries again what could not be done; see [`Activator::complete`].
    pub fn complete(&self) -> Option<Applied> {
        self.lock().complete()
    }

    /// Looks at every repository again; see [`Activator::look_after`].
    pub fn look_after(&self) -> Applied {
        self.lock().look_after()
    }
}

impl Store for repo::Store {
    fn create_all(&self, repos: &[&RepoName], prepare: &Prepare<'_>) -> Vec<std::io::Result<bool>> {
        Self::create_all(self, repos, prepare)
    }

    fn ownership(&self, repo: &RepoName) -> Option<Ownership> {
        Self::ownership(self, repo)
    }

    fn creator(&self, repo: &RepoName) -> Option<UserName> {
        Self::creator(self, repo)
    }

    fn copy_of(&self, repo: &RepoName) -> Option<HostName> {
        Self::copy_of(self, repo)
    }

    fn is_no_copy(&self, repo: &RepoName) -> std::io::Result<()> {
        self.set_copy_of(repo, None)
    }

    fn put_away(&self, repo: &RepoName) -> std::io::Result<bool> {
        self.to_trash(repo, self.free_stamp(repo), Why::Unnamed)
    }

    fn bring_back(&self, repo: &RepoName, belongs: &dyn Fn() -> bool) -> std::io::Result<bool> {
        Ok(self.has_trash(repo) && belongs() && Self::bring_back(self, repo, None)?)
    }

    fn list(&self) -> std::io::Result<Vec<RepoName>> {
        Self::list(self)
    }

    fn exists(&self, repo: &RepoName) -> bool {
        Self::exists(self, repo)
    }

    fn dir(&self, repo: &RepoName) -> PathBuf {
        Self::dir(self, repo)
    }

    fn admin_dir(&self) -> PathBuf {
        Self::dir(self, &RepoName::new(ADMIN_REPO).expect("a constant, and a valid name"))
    }
}
