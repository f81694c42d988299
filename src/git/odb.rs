//! Which objects a repository has, and new ones: commits made here.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use git2::{ErrorCode, FileMode, OdbLookupFlags, Repository};

use super::objects::{Author, ObjectsError, raw};
use super::refs::Hex;
use crate::durable;
use crate::model::{Oid, RefName, RefUpdate};

/// Those of `oids` that the repository at `dir` holds, in the given order. Blocking; costs no process.
///
/// What landed after the call began may be missing from the answer.
pub fn present<'a>(dir: &Path, oids: impl IntoIterator<Item = &'a Oid>) -> Result<Vec<Oid>, ObjectsError> {
    let oids: Vec<&Oid> = oids.into_iter().collect();
    let found = seen(dir, &oids)?;
    if found.len() == oids.len() {
        return Ok(found);
    }
    // A pack that went while it was about to be opened has been packed anew, so that a second look sees it.
    let known: BTreeSet<Oid> = found.into_iter().collect();
    let missed: Vec<&Oid> = oids.iter().copied().filter(|oid| !known.contains(*oid)).collect();
    let later: BTreeSet<Oid> = seen(dir, &missed)?.into_iter().collect();
    Ok(oids.into_iter().filter(|oid| known.contains(*oid) || later.contains(*oid)).cloned().collect())
}

fn seen(dir: &Path, oids: &[&Oid]) -> Result<Vec<Oid>, ObjectsError> {
    let repo = Repository::open_bare(dir)?;
    let odb = repo.odb()?;
    // Freshly opened, the list of packs is up to date; looking for new ones at every miss would be slow.
    let exists = |oid: &&&Oid| {
        git2::Oid::from_str(oid.as_str()).is_ok_and(|raw| odb.exists_ext(raw, OdbLookupFlags::NO_REFRESH))
    };
    Ok(oids.iter().filter(exists).map(|oid| (*oid).clone()).collect())
}

/// What tags lead to, for listings.
pub struct Peeler(Repository);

impl Peeler {
    pub fn open(dir: &Path) -> Result<Self, ObjectsError> {
        Ok(Self(Repository::open_bare(dir)?))
    }

    /// Whether there is such a commit.
    pub fn is_commit(&self, oid: &Hex) -> bool {
        let oid = std::str::from_utf8(oid).ok().and_then(|text| git2::Oid::from_str(text).ok());
        let header = |oid| self.0.odb().ok()?.read_header(oid).ok();
        oid.and_then(header).is_some_and(|(_, kind)| kind == git2::ObjectType::Commit)
    }

    /// Whether there is such an object.
    pub fn is_there(&self, oid: &Hex) -> bool {
        let oid = std::str::from_utf8(oid).ok().and_then(|text| git2::Oid::from_str(text).ok());
        oid.is_some_and(|oid| self.0.odb().is_ok_and(|odb| odb.exists(oid)))
    }

    /// The object that a tag object leads to in the end; `None` for what is no tag, and for what cannot be read.
    pub fn peel(&self, oid: &Hex) -> Option<Hex> {
        let oid = git2::Oid::from_str(std::str::from_utf8(oid).ok()?).ok()?;
        if self.0.odb().ok()?.read_header(oid).ok()?.1 != git2::ObjectType::Tag {
            return None;
        }
        let target = self.0.find_tag(oid).ok()?.into_object().peel(git2::ObjectType::Any).ok()?;
        target.id().to_string().into_bytes().try_into().ok()
    }
}

/// Makes references; those that lead to their object already are left as they are. Not synced to the disk.
///
/// # Errors
/// [`ObjectsError::Moved`] for a name that leads elsewhere, at which it stops.
pub fn create_refs(dir: &Path, refs: &[(RefName, Oid)], message: &str) -> Result<(), ObjectsError> {
    let repo = Repository::open_bare(dir)?;
    for (name, oid) in refs {
        let target = raw(oid)?;
        match repo.reference(name.as_str(), target, false, message) {
            Ok(_) => {}
            Err(e) if e.code() == ErrorCode::Exists => {
                if repo.find_reference(name.as_str())?.target() != Some(target) {
                    return Err(ObjectsError::Moved(name.to_string()));
                }
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Deletes references that have these values; those that are gone or have others are left alone.
pub fn delete_refs(dir: &Path, refs: &[(RefName, Oid)]) -> Result<(), ObjectsError> {
    let repo = Repository::open_bare(dir)?;
    for (name, oid) in refs {
        match repo.find_reference(name.as_str()) {
            Ok(mut reference) if reference.target() == Some(raw(oid)?) => reference.delete()?,
            Err(e) if e.code() != ErrorCode::NotFound => return Err(e.into()),
            _ => {}
        }
    }
    Ok(())
}

/// The one commit whose id begins so; none if there is none, or more than one.
pub fn find_commit(dir: &Path, prefix: &str) -> Option<Oid> {
    let repo = Repository::open_bare(dir).ok()?;
    let found = repo.find_commit_by_prefix(prefix).ok()?.id();
    Oid::parse(&found.to_string())
}

/// The branch that HEAD names; none if it is detached.
pub fn head_branch(dir: &Path) -> Result<Option<RefName>, ObjectsError> {
    let head = Repository::open_bare(dir)?
        .find_reference("HEAD")
        .map(|head| head.symbolic_target().ok().flatten().and_then(RefName::parse))?;
    Ok(head)
}

/// Makes HEAD name an object and no branch.
pub fn detach_head(dir: &Path, oid: &Oid) -> Result<(), ObjectsError> {
    // What HEAD leads to has to be there.
    Repository::open_bare(dir)?.find_commit(raw(oid)?)?;
    Ok(durable::write_whole(dir, "HEAD", &format!("{oid}\n"))?)
}

/// Sets (`Some`) or removes (`None`) keys of the repository's own `config` file; `true` if one was not so before.
///
/// # Errors
/// A key that git's config cannot hold (`section.name` or `section.sub.name`); earlier keys, in byte order, are written.
pub fn write_config(dir: &Path, values: &BTreeMap<&str, Option<&str>>) -> Result<bool, ObjectsError> {
    let mut config = git2::Config::open(&dir.join("config"))?;
    let mut changed = false;
    for (key, value) in values {
        let now = match config.get_string(key) {
            Ok(now) => Some(now),
            Err(e) if e.code() == ErrorCode::NotFound => None,
            Err(e) => return Err(e.into()),
        };
        match value {
            Some(value) if now.as_deref() != Some(value) => config.set_str(key, value)?,
            None if now.is_some() => config.remove_multivar(key, ".*")?,
            _ => continue,
        }
        changed = true;
    }
    Ok(changed)
}

/// The values of those of `keys` that are set in the repository's own `config` file.
pub fn read_config(dir: &Path, keys: &[&str]) -> Result<BTreeMap<String, String>, ObjectsError> {
    let config = git2::Config::open(&dir.join("config"))?;
    let mut found = BTreeMap::new();
    for key in keys {
        match config.get_string(key) {
            Ok(value) => drop(found.insert((*key).to_owned(), value)),
            Err(e) if e.code() == ErrorCode::NotFound => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(found)
}

/// For each update, the reference that its name stands for, if it is a symbolic one (git-symbolic-ref(1)).
pub fn symbolic_targets(dir: &Path, updates: &[RefUpdate]) -> Result<Vec<Option<String>>, ObjectsError> {
    let repo = Repository::open_bare(dir)?;
    let target = |update: &RefUpdate| {
        let found = repo.find_reference(update.name.as_str()).ok()?;
        found.symbolic_target().ok().flatten().map(str::to_owned)
    };
    Ok(updates.iter().map(target).collect())
}

/// What time a commit bears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dated {
    Now,
    /// That of its parent, so that the same change makes the same commit wherever and whenever it is made.
    AsParent,
}

/// As [`super::objects::commit_files`], for changes of any kind: contents by path from the top, `None` for a file that
/// goes.
///
/// # Errors
/// Besides those, a path that goes and is not there.
pub fn commit_changes(
    dir: &Path,
    branch: &str,
    changes: &BTreeMap<&str, Option<&[u8]>>,
    author: Author<'_>,
    message: &str,
    parent: Option<&Oid>,
    dated: Dated,
) -> Result<Oid, ObjectsError> {
    let repo = Repository::open_bare(dir)?;
    let parent = parent.map(|oid| raw(oid).and_then(|id| Ok(repo.find_commit(id)?))).transpose()?;
    let base = match &parent {
        Some(commit) => commit.tree()?,
        None => repo.find_tree(repo.treebuilder(None)?.write()?)?,
    };
    let tree = repo.find_tree(changed_tree(&repo, &base, changes)?)?;
    let who = match (&parent, dated) {
        (Some(parent), Dated::AsParent) => git2::Signature::new(author.name, author.email, &parent.time())?,
        _ => git2::Signature::now(author.name, author.email)?,
    };
    let prefix = if branch.starts_with("refs/") { "" } else { "refs/heads/" };
    match repo.commit(Some(&format!("{prefix}{branch}")), &who, &who, message, &tree, &Vec::from_iter(&parent)) {
        Ok(id) => Ok(Oid::parse(&id.to_string()).expect("git2 prints 40 hexadecimal digits")),
        Err(e) if matches!(e.code(), ErrorCode::Modified | ErrorCode::Exists) => {
            Err(ObjectsError::Moved(branch.to_owned()))
        }
        Err(e) => Err(e.into()),
    }
}

fn changed_tree(
    repo: &Repository,
    base: &git2::Tree<'_>,
    changes: &BTreeMap<&str, Option<&[u8]>>,
) -> Result<git2::Oid, ObjectsError> {
    let mut update = git2::build::TreeUpdateBuilder::new();
    for (path, contents) in changes {
        match contents {
            Some(contents) => drop(update.upsert(*path, repo.blob(contents)?, FileMode::Blob)),
            None => drop(update.remove(*path)),
        }
    }
    Ok(update.create_updated(repo, base)?)
}

/// Makes a commit on top of `parent` that no reference leads to yet: it can be looked at before it counts. Its objects
/// are on the disk when this returns.
///
/// # Errors
/// As [`commit_changes`].
pub fn prepare_commit(
    dir: &Path,
    changes: &BTreeMap<&str, Option<&[u8]>>,
    author: Author<'_>,
    committer: Author<'_>,
    message: &str,
    parent: &Oid,
) -> Result<Oid, ObjectsError> {
    let repo = Repository::open_bare(dir)?;
    let parent = repo.find_commit(raw(parent)?)?;
    let tree = repo.find_tree(changed_tree(&repo, &parent.tree()?, changes)?)?;
    let [author, committer] = [author, committer].map(|who| git2::Signature::now(who.name, who.email));
    let commit = repo.commit(None, &author?, &committer?, message, &tree, &[&parent])?;
    let mut made = vec![commit, tree.id()];
    for path in changes.keys().map(Path::new) {
        made.extend(path.ancestors().filter_map(|path| Some(tree.get_path(path).ok()?.id())));
    }
    made.sort_unstable();
    made.dedup();
    for id in made.iter().map(ToString::to_string) {
        sync_if_there(&dir.join("objects").join(&id[..2]).join(&id[2..]))?;
    }
    Ok(Oid::parse(&commit.to_string()).expect("git2 prints 40 hexadecimal digits"))
}

/// Moves a branch that is at `old` to `new`; on the disk when this returns.
///
/// # Errors
/// [`ObjectsError::Moved`] if it is elsewhere, or somebody else is moving it at this moment.
pub fn move_branch(dir: &Path, branch: &RefName, old: &Oid, new: &Oid, message: &str) -> Result<(), ObjectsError> {
    durable::at("git.commit.branch", dir)?;
    let repo = Repository::open_bare(dir)?;
    match repo.reference_matching(branch.as_str(), raw(new)?, true, raw(old)?, message) {
        Ok(_) => Ok(sync_if_there(&dir.join(branch.as_str()))?),
        Err(e) if matches!(e.code(), ErrorCode::Modified | ErrorCode::Locked | ErrorCode::NotFound) => {
            Err(ObjectsError::Moved(branch.to_string()))
        }
        Err(e) => Err(e.into()),
    }
}

/// A file, and its name in its folder. What is not there as a file of its own was there before, in a pack.
fn sync_if_there(path: &Path) -> io::Result<()> {
    for path in [Some(path), path.parent()].into_iter().flatten() {
        match durable::sync("git.commit.sync", path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
