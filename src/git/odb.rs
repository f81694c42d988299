//! Which objects a repository has.

use std::path::Path;

use git2::{OdbLookupFlags, Repository};

use super::objects::ObjectsError;
use crate::model::{Oid, RefUpdate};

/// Those of `oids` that the repository at `dir` holds, in the given order. Blocking; costs no process.
///
/// What landed after the call began may be missing from the answer.
pub fn present<'a>(dir: &Path, oids: impl IntoIterator<Item = &'a Oid>) -> Result<Vec<Oid>, ObjectsError> {
    let repo = Repository::open_bare(dir)?;
    let odb = repo.odb()?;
    // Freshly opened, the list of packs is up to date; looking for new ones at every miss would be slow.
    let exists =
        |oid: &&Oid| git2::Oid::from_str(oid.as_str()).is_ok_and(|raw| odb.exists_ext(raw, OdbLookupFlags::NO_REFRESH));
    Ok(oids.into_iter().filter(exists).cloned().collect())
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
