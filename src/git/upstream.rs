//! What a clone's branch is compared with: the branch it follows elsewhere, as last fetched.

use std::path::{Path, PathBuf};

use git2::{ErrorCode, Repository};

use super::objects::ObjectsError;
use crate::model::Oid;

/// Where a clone's upstream branch stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// `origin/main`
    pub name: String,
    pub commit: Oid,
    /// The clone's object store, for [`super::objects::files_at`].
    pub git_dir: PathBuf,
}

/// The upstream of the branch that is checked out in `dir`, or else what HEAD of `origin` names. `None` when there is
/// neither, or when `dir` is not the top of a clone.
pub fn upstream(dir: &Path) -> Result<Option<Upstream>, ObjectsError> {
    let repo = match Repository::open(dir) {
        Ok(repo) => repo,
        Err(error) if error.code() == ErrorCode::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let branch = repo.head().ok().filter(git2::Reference::is_branch).map(git2::Branch::wrap);
    let followed = branch.and_then(|branch| branch.upstream().ok()).map(git2::Branch::into_reference);
    let Some(reference) = followed.or_else(|| repo.find_reference("refs/remotes/origin/HEAD").ok()) else {
        return Ok(None);
    };
    let direct = reference.resolve()?;
    let name = direct.shorthand().unwrap_or("upstream").to_owned();
    let commit = Oid::parse(&direct.peel_to_commit()?.id().to_string()).expect("git2 prints 40 hexadecimal digits");
    Ok(Some(Upstream { name, commit, git_dir: repo.path().to_owned() }))
}
