//! File locks of a repository: who holds them, who may take, give back and break them (gitolite's command `lock`).
//! What a lock forbids is for a rule with `VREF/lock` to say.

use std::io;
use std::sync::PoisonError;
use std::time::SystemTime;

use crate::git::objects::{self, ObjectsError};
use crate::model::time::rfc3339;
use crate::model::{Actor, RepoName};
use crate::policy::{Op, Target};
use crate::repo::{FileLock, FileLocks};

use super::here::{refuse_here, you};
use super::realm::{Live, Realm};
use super::wild::at_master;
use super::{Access, Denial};

/// What somebody wants done to one lock; each holds the path of the file, from the top of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockChange {
    Take(String),
    Release(String),
    /// Somebody else's too.
    Break(String),
}

/// Why a lock was not changed, or the locks not told.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("{0}")]
    Denied(Box<Denial>),
    #[error("file '{0}' is in no branch; give its path from the top of the repository, as 'git ls-files' does")]
    NoFile(String),
    #[error("'{path}' locked by '{}' since {}", .lock.user, rfc3339(.lock.since))]
    Held { path: String, lock: FileLock },
    #[error("'{path}' not locked by '{user}'")]
    NotYours { path: String, user: String },
    #[error("'{0}' was not locked")]
    NotLocked(String),
    #[error("locks are held by users; log in with a key")]
    NoUser,
    #[error("read the branches")]
    Objects(#[from] ObjectsError),
    #[error("read or write the locks")]
    Failed(#[from] io::Error),
}

impl Realm {
    /// The locks of a repository, for those who may write to it, where its master is. Blocks, as the next.
    pub fn file_locks(&self, actor: &Actor, repo: &RepoName) -> Result<FileLocks, LockError> {
        self.may_lock(&self.live(), actor, repo, false)?;
        Ok(FileLocks::read(&self.store.dir(repo))?)
    }

    /// Takes, gives back or breaks a lock, for those who may write; to break one, they must be allowed to rewind too.
    pub fn change_file_lock(&self, actor: &Actor, repo: &RepoName, change: &LockChange) -> Result<(), LockError> {
        self.may_lock(&self.live(), actor, repo, matches!(change, LockChange::Break(_)))?;
        let dir = self.store.dir(repo);
        // A panic in between has left the old file or the new one.
        let _one_at_a_time = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let mut locks = FileLocks::read(&dir)?;
        let user = actor.to_string();
        match change {
            LockChange::Take(path) => {
                let Actor::User { .. } = actor else { return Err(LockError::NoUser) };
                if !FileLocks::can_name(path) || !objects::any_branch_holds(&dir, path)? {
                    return Err(LockError::NoFile(path.clone()));
                }
                if let Some(lock) = locks.held.get(path) {
                    return Err(LockError::Held { path: path.clone(), lock: lock.clone() });
                }
                locks.held.insert(path.clone(), FileLock { user, since: SystemTime::now() });
            }
            // The file may be gone from all branches by now: its lock must not stay for ever.
            LockChange::Release(path) => {
                if locks.held.get(path).is_none_or(|lock| lock.user != user) {
                    return Err(LockError::NotYours { path: path.clone(), user });
                }
                locks.held.remove(path);
            }
            LockChange::Break(path) => {
                let broken = locks.break_lock(path, &user, SystemTime::now());
                let lock = broken.ok_or_else(|| LockError::NotLocked(path.clone()))?;
                tracing::info!(%repo, %user, path, of = lock.user, "a file lock was broken");
            }
        }
        Ok(locks.write(&dir)?)
    }

    fn may_lock(&self, live: &Live, actor: &Actor, repo: &RepoName, breaks: bool) -> Result<(), LockError> {
        let denied = |denial| LockError::Denied(Box::new(denial));
        self.authorize(actor, repo, Access::Write).map_err(denied)?;
        let (disk, name) = (self.store.ownership(repo), actor.to_string());
        let facts = live.facts(repo, disk.as_ref(), &name);
        if let Some(denial) = refuse_here(live, &facts, actor, repo, Access::Write) {
            return Err(denied(at_master(live, &facts, repo, denial, "lock", "has its locks on")));
        }
        if !breaks || *actor == Actor::Local || live.by_emergency(actor, repo) == Some(true) {
            return Ok(());
        }
        let decision = live.policy.decide(&facts, &name, Op::Force, Target::Any);
        if decision.allowed {
            return Ok(());
        }
        let insider = self.sees_rules(live, actor);
        Err(denied(Denial {
            first: format!("FATAL: + any {repo} {actor} DENIED by {}", decision.refex),
            you: Some(you(actor)),
            rule: decision.rule.zip(decision.place).map(Box::new).filter(|_| insider),
            help: "breaking somebody's lock needs RW+; ask its holder, or an administrator".to_owned(),
            code: Denial::NO_WRITE,
        }))
    }
}
