//! What this room needs of the repositories on disk, as a trait, so that its tests can have unlucky ones.

use std::io;
use std::path::{Path, PathBuf};

use crate::model::{HostName, RepoName, UserName};
use crate::repo::{Ownership, Prepare};

/// What activation needs of the repositories on disk.
pub trait Store: Send + Sync {
    /// Makes empty repositories, with one answer each: `false` if there was one. `prepare` is given each directory
    /// before anybody sees it.
    fn create_all(&self, repos: &[&RepoName], prepare: &Prepare<'_>) -> Vec<io::Result<bool>>;
    /// As [`Store::create_all`], for one.
    fn create_with(&self, repo: &RepoName, prepare: &dyn Fn(&Path) -> io::Result<()>) -> io::Result<bool> {
        self.create_all(&[repo], &|_, dir| prepare(dir)).pop().unwrap_or(Ok(false))
    }
    fn exists(&self, repo: &RepoName) -> bool;
    /// Whose an existing repository is, and who has which role in it.
    fn ownership(&self, repo: &RepoName) -> Option<Ownership>;
    /// The first half of that, which is all that git config depends on.
    fn creator(&self, repo: &RepoName) -> Option<UserName>;
    /// The node that has sent it, of a copy.
    fn copy_of(&self, repo: &RepoName) -> Option<HostName>;
    /// Forgets that: this node is its master.
    fn is_no_copy(&self, repo: &RepoName) -> io::Result<()>;
    /// Moves a copy that does not belong here any more to the trash; `false` if it is not there.
    fn put_away(&self, repo: &RepoName) -> io::Result<bool>;
    /// Takes such a copy out of the trash again, if it `belongs` here; `false` if there is none.
    fn bring_back(&self, repo: &RepoName, belongs: &dyn Fn() -> bool) -> io::Result<bool>;
    /// All that exist.
    fn list(&self) -> io::Result<Vec<RepoName>>;
    /// The directory of an existing repository.
    fn dir(&self, repo: &RepoName) -> PathBuf;
    /// The directory of the admin repository.
    fn admin_dir(&self) -> PathBuf;
}
