//! Whether all is there that a small push leads to, seen without starting git (git's word is connectivity).
//!
//! This only ever says "surely" or "not known"; git-rev-list(1) is asked then, which also has the words for the user. So
//! whatever is rare, costly or read differently by libgit2 is not known. What is said is what git would say: all that
//! existing references lead to is there; what they are not known to lead to is looked for, and into it.
//! New commits have to end in the present values of the references that move, or in HEAD, and their trees are compared
//! with those of these values, so that of a large tree only what differs is read.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;

use git2::{ErrorCode, ObjectType, Odb, OdbLookupFlags, Oid, Repository, Tree, TreeEntry};

use super::objects::{ObjectsError, raw};
use super::refs::{Head, Hex, Snapshot};
use crate::model::RefUpdate;

/// Objects looked at for one push. In so few no tree has the more than 2,048 levels at which git refuses it
/// (core.maxTreeDepth).
const OBJECTS_MAX: usize = 2_000;
/// Bytes of commits, tags and trees read for one push: some hundred thousand entries of trees.
const BYTES_MAX: usize = 4 << 20;
/// Finding the value of a reference is a look at two files.
pub const UPDATES_MAX: usize = 100;
/// What makes git see other objects, or others behind them, than are stored here (gitrepository-layout(5)).
const DIFFERENT: [&str; 3] = ["shallow", "info/grafts", "objects/info/alternates"];
const REPLACED: &[u8] = b"refs/replace/";

/// Whether every object surely is there that the new values of `updates` lead to; `false` is not known. `quarantine` is the
/// folder of objects with the push's pack, if it has one. Blocks; costs no process.
///
/// # Errors
/// A repository that cannot be read: nothing is known either.
pub fn is_whole(dir: &Path, quarantine: Option<&Path>, updates: &[RefUpdate]) -> Result<bool, ObjectsError> {
    if updates.len() > UPDATES_MAX {
        return Ok(false);
    }
    for file in DIFFERENT {
        if dir.join(file).try_exists()? {
            return Ok(false);
        }
    }
    let snapshot = Snapshot::read(dir, &[REPLACED.to_vec()])?;
    if !snapshot.first(REPLACED, 1)?.is_empty() {
        return Ok(false);
    }
    let known = known(&snapshot, updates)?;
    // Freshly opened, the lists of packs are up to date.
    let all = Repository::from_odb(objects_in(quarantine.into_iter().chain([&*dir.join("objects")]))?)?;
    let mut look = Look {
        all: &all,
        odb: all.odb()?,
        new: objects_in(quarantine)?,
        beside: HashMap::new(),
        whole: HashSet::new(),
        objects_left: OBJECTS_MAX,
        bytes_left: BYTES_MAX,
    };
    let tips = updates.iter().filter(|update| !update.new.is_zero());
    let tips = tips.map(|update| raw(&update.new)).collect::<Result<_, _>>()?;
    match look.leads_to_nothing_missing(tips, &known) {
        Err(ObjectsError::TooMuchWork) => Ok(false),
        Err(ObjectsError::Git(error)) if error.code() == ErrorCode::NotFound => Ok(false),
        answer => answer,
    }
}

/// What HEAD and the references that move lead to now. What the pusher says of that proves nothing.
fn known(snapshot: &Snapshot, updates: &[RefUpdate]) -> io::Result<HashSet<Oid>> {
    let mut known: Vec<Hex> = match snapshot.head()? {
        Some(Head::Detached(oid) | Head::Branch(_, Some(oid))) => vec![oid],
        _ => Vec::new(),
    };
    for update in updates {
        known.extend(snapshot.resolve(update.name.as_str().as_bytes())?);
    }
    Ok(known.iter().filter_map(|hex| Oid::from_str(std::str::from_utf8(hex).ok()?).ok()).collect())
}

fn objects_in<'p>(folders: impl IntoIterator<Item = &'p Path>) -> Result<Odb<'static>, ObjectsError> {
    let odb = Odb::new()?;
    for folder in folders {
        odb.add_disk_alternate(folder.to_str().ok_or(io::ErrorKind::InvalidFilename).map_err(io::Error::from)?)?;
    }
    Ok(odb)
}

struct Look<'r> {
    all: &'r Repository,
    odb: Odb<'r>,
    /// What the push has brought alone.
    new: Odb<'r>,
    /// Trees that a reference leads to, as far as new ones were compared with them.
    beside: HashMap<Oid, Tree<'r>>,
    /// Objects below such trees, and those that are there and whose own are about to be looked at.
    whole: HashSet<(Oid, Kind)>,
    objects_left: usize,
    bytes_left: usize,
}

/// What an entry of a tree says that it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Tree,
    Blob,
}

impl Kind {
    /// `None` for a submodule, which lies elsewhere, and for what git takes for one (object.h, `canon_mode`).
    fn of(entry: &TreeEntry<'_>) -> Option<Self> {
        match entry.filemode_raw() & 0o170_000 {
            0o040_000 => Some(Self::Tree),
            0o100_000 | 0o120_000 => Some(Self::Blob),
            _ => None,
        }
    }
}

impl<'r> Look<'r> {
    /// An object that is there.
    fn find(&mut self, id: Oid) -> Result<ObjectType, ObjectsError> {
        let (size, kind) = self.odb.read_header(id)?;
        let read = if kind == ObjectType::Blob { 0 } else { size };
        self.objects_left = self.objects_left.checked_sub(1).ok_or(ObjectsError::TooMuchWork)?;
        self.bytes_left = self.bytes_left.checked_sub(read).ok_or(ObjectsError::TooMuchWork)?;
        Ok(kind)
    }

    fn tree(&mut self, id: Oid) -> Result<Tree<'r>, ObjectsError> {
        self.find(id)?;
        Ok(self.all.find_tree(id)?)
    }

    /// Looks at commits and tags from `tips` back to `known` ones, and at their trees.
    fn leads_to_nothing_missing(&mut self, tips: Vec<Oid>, known: &HashSet<Oid>) -> Result<bool, ObjectsError> {
        let (mut trees, mut parents, mut found) = (Vec::new(), HashSet::new(), HashMap::new());
        for id in known {
            found.insert(*id, self.find(*id)?);
        }
        // Each with what it is said to be.
        let mut todo: Vec<_> = tips.into_iter().map(|tip| (tip, ObjectType::Any)).collect();
        while let Some((id, said)) = todo.pop() {
            let kind = match found.get(&id) {
                Some(kind) => *kind,
                None if self.new.exists_ext(id, OdbLookupFlags::NO_REFRESH) => self.find(id)?,
                None => return Ok(false),
            };
            if said != ObjectType::Any && said != kind {
                return Ok(false);
            }
            if found.insert(id, kind).is_some() {
                continue;
            }
            match kind {
                ObjectType::Commit => {
                    let commit = self.all.find_commit(id)?;
                    trees.push(commit.tree_id());
                    parents.extend(commit.parent_ids());
                    todo.extend(commit.parent_ids().map(|parent| (parent, ObjectType::Commit)));
                }
                ObjectType::Tag => {
                    let tag = self.all.find_tag(id)?;
                    todo.push((tag.target_id(), tag.target_type().unwrap_or(ObjectType::Any)));
                }
                _ => return Ok(false),
            }
        }
        let mut edges = Vec::new();
        for parent in parents.intersection(known) {
            edges.push(self.all.find_commit(*parent)?.tree_id());
        }
        self.whole.extend(edges.iter().map(|edge| (*edge, Kind::Tree)));
        self.have_nothing_missing(trees.into_iter().map(|tree| (tree, edges.clone())).collect())
    }

    /// Looks at trees, each with those known ones at the same path.
    fn have_nothing_missing(&mut self, mut todo: Vec<(Oid, Vec<Oid>)>) -> Result<bool, ObjectsError> {
        while let Some((id, beside)) = todo.pop() {
            if !self.whole.insert((id, Kind::Tree)) {
                continue;
            }
            let tree = self.tree(id)?;
            for known in &beside {
                self.compare_with(*known)?;
            }
            for entry in &tree {
                let Some(kind) = Kind::of(&entry) else { continue };
                if self.whole.contains(&(entry.id(), kind)) {
                    continue;
                }
                if kind == Kind::Blob {
                    if self.find(entry.id())? != ObjectType::Blob {
                        return Ok(false);
                    }
                    self.whole.insert((entry.id(), kind));
                    continue;
                }
                let same = beside.iter().filter_map(|known| self.beside[known].get_name_bytes(entry.name_bytes()));
                let same = same.filter(|known| Kind::of(known) == Some(Kind::Tree)).map(|known| known.id());
                todo.push((entry.id(), same.collect()));
            }
        }
        Ok(true)
    }

    /// Takes in what a known tree holds.
    fn compare_with(&mut self, id: Oid) -> Result<(), ObjectsError> {
        if !self.beside.contains_key(&id) {
            let tree = self.tree(id)?;
            self.whole.extend(tree.iter().filter_map(|entry| Some((entry.id(), Kind::of(&entry)?))));
            self.beside.insert(id, tree);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
