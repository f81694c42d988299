//! What a push changes: paths that differ between two trees, and the commits that are new to the repository.
//!
//! Trees are compared entry by entry, as raw bytes and without looking for renames, so that both names of a moved file
//! are seen. All work of one push shares one limit, since a few objects can hold endless paths.

use std::cell::{Cell, OnceCell};
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use git2::{ObjectType, Repository, Tree, TreeEntry};

use super::objects::{self, ObjectsError};
use crate::model::{Oid, RefUpdate};

/// Tree entries and commits looked at for one push; it takes some ten seconds.
const WORK_MAX: u64 = 20_000_000;
/// git itself refuses trees of more than 2,048 levels by default; each level costs some stack here.
const DEPTH_MAX: usize = 512;
/// A larger file counts as binary without being read, and no mark is looked for in it.
const READ_MAX: usize = 16 << 20;

/// One push, read once. Blocks, and belongs to one thread.
pub struct Changes {
    dir: PathBuf,
    repo: OnceCell<Repository>,
    tips: Vec<Oid>,
    until: Instant,
    work: Cell<u64>,
    /// New commits with their parents.
    added: OnceCell<HashMap<git2::Oid, Vec<git2::Oid>>>,
}

/// A commit that the push brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NewCommit(git2::Oid);

/// The contents of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blob(git2::Oid);

/// What stands under a path: a file or a link, or a submodule, which has no contents here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub blob: Option<Blob>,
}

/// One path that differs, from the top of the tree; no side means that there was nothing.
#[derive(Debug)]
pub struct Difference<'a> {
    pub path: &'a [u8],
    pub old: Option<Entry>,
    pub new: Option<Entry>,
}

/// Folders whose differences have all been passed already: ten thousand references to one tree are one tree's work.
/// Keys are hashes under two secret seeds, so that memory does not grow with the length of paths.
#[derive(Default)]
pub struct Seen {
    seeds: (RandomState, RandomState),
    passed: HashSet<(u64, u64)>,
}

impl Seen {
    fn key(&self, path: &[u8], old: Option<git2::Oid>, new: Option<git2::Oid>) -> (u64, u64) {
        let what = (path, old.map(|o| o.as_bytes().to_vec()), new.map(|o| o.as_bytes().to_vec()));
        (self.seeds.0.hash_one(&what), self.seeds.1.hash_one(&what))
    }
}

type Each<'f> = &'f mut dyn FnMut(&Difference<'_>) -> ControlFlow<()>;

impl Changes {
    /// `updates` are those of the push to the repository at `dir`, none of them done yet. Work that is not over at
    /// `until` is given up. Nothing is opened before it is needed.
    pub fn new<'u>(dir: &Path, updates: impl IntoIterator<Item = &'u RefUpdate>, until: Instant) -> Self {
        let tips = updates.into_iter().filter(|u| !u.new.is_zero()).map(|u| u.new.clone()).collect();
        let (repo, added) = (OnceCell::new(), OnceCell::new());
        Self { dir: dir.to_owned(), repo, tips, until, work: Cell::new(0), added }
    }

    /// The repository's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn repo(&self) -> Result<&Repository, ObjectsError> {
        if let Some(repo) = self.repo.get() {
            return Ok(repo);
        }
        let repo = Repository::open_bare(&self.dir)?;
        Ok(self.repo.get_or_init(|| repo))
    }

    /// Whether `old..new` holds a merge commit; `false` for what is created, deleted, or no commit.
    pub fn brings_merge(&self, update: &RefUpdate) -> Result<bool, ObjectsError> {
        self.tick()?;
        objects::has_merge(self.repo()?, &update.old, &update.new)
    }

    fn tick(&self) -> Result<(), ObjectsError> {
        let done = self.work.get() + 1;
        self.work.set(done);
        if done > WORK_MAX || (done.is_multiple_of(512) && Instant::now() > self.until) {
            return Err(ObjectsError::TooMuchWork);
        }
        Ok(())
    }

    /// Every path that differs between the two ends of an update; what is created or deleted is compared with the
    /// empty tree. `each` may stop. Folders in `seen` are left out, and those that passed are added.
    pub fn differences(
        &self,
        update: &RefUpdate,
        seen: &mut Seen,
        each: Each<'_>,
    ) -> Result<ControlFlow<()>, ObjectsError> {
        let (old, new) = (self.tree_at(&update.old)?, self.tree_at(&update.new)?);
        self.compare(&mut Vec::new(), old.as_ref(), new.as_ref(), 0, seen, each)
    }

    /// The tree of a commit or of a tag on one; `None` for nothing, and for objects that have no tree.
    fn tree_at(&self, oid: &Oid) -> Result<Option<Tree<'_>>, ObjectsError> {
        if oid.is_zero() {
            return Ok(None);
        }
        // An old object that is gone leaves nothing to compare with; git refuses such an update when it locks.
        let object = match self.repo()?.find_object(raw(oid)?, None) {
            Ok(object) => object,
            Err(e) if e.code() == git2::ErrorCode::NotFound => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        Ok(object.peel_to_tree().ok())
    }

    /// Walks both lists in git's order, where a folder sorts as if its name ended in a slash. A file that became a
    /// folder is thus a file less and files more. A list out of order is still reported whole.
    fn compare(
        &self,
        at: &mut Vec<u8>,
        old: Option<&Tree<'_>>,
        new: Option<&Tree<'_>>,
        depth: usize,
        seen: &mut Seen,
        each: Each<'_>,
    ) -> Result<ControlFlow<()>, ObjectsError> {
        let ids = (old.map(Tree::id), new.map(Tree::id));
        if ids.0 == ids.1 {
            return Ok(ControlFlow::Continue(()));
        }
        let key = seen.key(at, ids.0, ids.1);
        if seen.passed.contains(&key) {
            return Ok(ControlFlow::Continue(()));
        }
        if depth > DEPTH_MAX {
            return Err(ObjectsError::TooMuchWork);
        }
        let (mut i, mut j) = (0, 0);
        loop {
            self.tick()?;
            let (left, right) = (old.and_then(|t| t.get(i)), new.and_then(|t| t.get(j)));
            let order = match (&left, &right) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(left), Some(right)) => order(left, right),
            };
            let left = left.filter(|_| order.is_le());
            let right = right.filter(|_| order.is_ge());
            i += usize::from(left.is_some());
            j += usize::from(right.is_some());
            if self.entry(at, left.as_ref(), right.as_ref(), depth, seen, each)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        seen.passed.insert(key);
        Ok(ControlFlow::Continue(()))
    }

    fn entry(
        &self,
        at: &mut Vec<u8>,
        old: Option<&TreeEntry<'_>>,
        new: Option<&TreeEntry<'_>>,
        depth: usize,
        seen: &mut Seen,
        each: Each<'_>,
    ) -> Result<ControlFlow<()>, ObjectsError> {
        let same = |a: &TreeEntry<'_>, b: &TreeEntry<'_>| a.id() == b.id() && a.filemode_raw() == b.filemode_raw();
        let Some(any) = new.or(old) else { return Ok(ControlFlow::Continue(())) };
        if old.zip(new).is_some_and(|(a, b)| same(a, b)) {
            return Ok(ControlFlow::Continue(()));
        }
        let length = at.len();
        at.extend_from_slice(any.name_bytes());
        let flow = if any.kind() == Some(ObjectType::Tree) {
            at.push(b'/');
            let repo = self.repo()?;
            let tree = |entry: &TreeEntry<'_>| repo.find_tree(entry.id());
            let (old, new) = (old.map(tree).transpose()?, new.map(tree).transpose()?);
            self.compare(at, old.as_ref(), new.as_ref(), depth + 1, seen, each)?
        } else {
            let blob = |e: &TreeEntry<'_>| Entry { blob: (e.kind() == Some(ObjectType::Blob)).then(|| Blob(e.id())) };
            each(&Difference { path: at, old: old.map(blob), new: new.map(blob) })
        };
        at.truncate(length);
        Ok(flow)
    }

    /// The commits that lead to `tip` and that no reference of the repository reached before the push; those in
    /// `passed` and what is behind them are left out.
    pub fn new_commits(&self, tip: &Oid, passed: &HashSet<NewCommit>) -> Result<Vec<NewCommit>, ObjectsError> {
        let Some(tip) = self.commit_at(tip)? else { return Ok(Vec::new()) };
        let added = self.added()?;
        let (mut found, mut met, mut queue) = (Vec::new(), HashSet::new(), vec![tip]);
        while let Some(id) = queue.pop() {
            self.tick()?;
            // What is behind a commit that is not new is not new either.
            let Some(parents) = added.get(&id) else { continue };
            if !passed.contains(&NewCommit(id)) && met.insert(id) {
                found.push(NewCommit(id));
                queue.extend(parents);
            }
        }
        Ok(found)
    }

    /// All commits that the push brings.
    pub fn all_new_commits(&self) -> Result<Vec<NewCommit>, ObjectsError> {
        Ok(self.added()?.keys().copied().map(NewCommit).collect())
    }

    fn commit_at(&self, oid: &Oid) -> Result<Option<git2::Oid>, ObjectsError> {
        if oid.is_zero() {
            return Ok(None);
        }
        Ok(self.repo()?.find_object(raw(oid)?, None)?.peel_to_commit().ok().map(|commit| commit.id()))
    }

    fn added(&self) -> Result<&HashMap<git2::Oid, Vec<git2::Oid>>, ObjectsError> {
        if let Some(added) = self.added.get() {
            return Ok(added);
        }
        let repo = self.repo()?;
        let mut walk = repo.revwalk()?;
        let commit = |id| repo.find_object(id, None).ok().and_then(|o| o.peel_to_commit().ok()).map(|c| c.id());
        for tip in self.tips.iter().collect::<HashSet<_>>() {
            if let Some(id) = commit(raw(tip)?) {
                walk.push(id)?;
            }
        }
        let mut known = HashSet::new();
        for reference in self.repo()?.references()? {
            self.tick()?;
            if let Some(target) = reference?.target()
                && known.insert(target)
                && let Some(id) = commit(target)
            {
                walk.hide(id)?;
            }
        }
        let mut added = HashMap::new();
        for id in walk {
            self.tick()?;
            let id = id?;
            added.insert(id, self.repo()?.find_commit(id)?.parent_ids().collect());
        }
        Ok(self.added.get_or_init(|| added))
    }

    pub fn is_merge(&self, commit: NewCommit) -> Result<bool, ObjectsError> {
        Ok(self.added()?.get(&commit.0).is_some_and(|parents| parents.len() > 1))
    }

    /// As its author wrote it.
    pub fn author_mail(&self, commit: NewCommit) -> Result<String, ObjectsError> {
        let commit = self.repo()?.find_commit(commit.0)?;
        let mail = String::from_utf8_lossy(commit.author().email_bytes()).into_owned();
        Ok(mail)
    }

    /// The author's mail and the message of the commit at `tip`.
    pub fn signed(&self, tip: &Oid) -> Result<Option<(String, String)>, ObjectsError> {
        let Some(id) = self.commit_at(tip)? else { return Ok(None) };
        let commit = self.repo()?.find_commit(id)?;
        let text = String::from_utf8_lossy(commit.message_bytes()).into_owned();
        Ok(Some((self.author_mail(NewCommit(id))?, text)))
    }

    /// The paths that a new commit itself touches: those that differ from its parent, or from all its parents.
    pub fn touched(&self, commit: NewCommit, each: Each<'_>) -> Result<ControlFlow<()>, ObjectsError> {
        self.tick()?;
        let repo = self.repo()?;
        let commit = repo.find_commit(commit.0)?;
        let new = commit.tree()?;
        let trees = commit.parents().map(|parent| parent.tree()).collect::<Result<Vec<_>, _>>()?;
        let others = trees.get(1..).unwrap_or_default();
        let mut own = |found: &Difference<'_>| {
            let taken = |tree: &Tree<'_>| blob_at(repo, tree, found.path) == found.new;
            if others.iter().any(taken) { ControlFlow::Continue(()) } else { each(found) }
        };
        self.compare(&mut Vec::new(), trees.first(), Some(&new), 0, &mut Seen::default(), &mut own)
    }

    /// In bytes.
    pub fn size(&self, blob: Blob) -> Result<u64, ObjectsError> {
        Ok(self.repo()?.odb()?.read_header(blob.0)?.0 as u64)
    }

    /// As git sees it: a NUL among the first 8,000 bytes.
    pub fn is_binary(&self, blob: Blob) -> Result<bool, ObjectsError> {
        if self.size(blob)? > READ_MAX as u64 {
            return Ok(true);
        }
        Ok(self.repo()?.find_blob(blob.0)?.content().iter().take(8000).any(|byte| *byte == 0))
    }

    pub fn holds(&self, blob: Blob, text: &str) -> Result<bool, ObjectsError> {
        self.tick()?;
        if self.size(blob)? > READ_MAX as u64 {
            return Ok(false);
        }
        let blob = self.repo()?.find_blob(blob.0)?;
        Ok(blob.content().windows(text.len()).any(|window| window == text.as_bytes()))
    }

    /// How many references `refs/heads/votes/*/BRANCH` are at `tip`.
    pub fn votes(&self, branch: &str, tip: &Oid) -> Result<u64, ObjectsError> {
        let tip = raw(tip)?;
        let mut votes = 0;
        for reference in self.repo()?.references_glob("refs/heads/votes/*")? {
            let reference = reference?;
            let name = reference.name().ok().and_then(|name| name.strip_prefix("refs/heads/votes/"));
            let counts = name.and_then(|name| name.split_once('/')).is_some_and(|(_, voted)| voted == branch);
            votes += u64::from(counts && reference.target() == Some(tip));
        }
        Ok(votes)
    }
}

fn raw(oid: &Oid) -> Result<git2::Oid, ObjectsError> {
    git2::Oid::from_str(oid.as_str()).map_err(|_| ObjectsError::Missing(oid.clone()))
}

fn order(left: &TreeEntry<'_>, right: &TreeEntry<'_>) -> Ordering {
    let key = |entry: &TreeEntry<'_>| entry.kind() == Some(ObjectType::Tree);
    let (a, b) = (left.name_bytes(), right.name_bytes());
    let slash = |is_folder: bool| is_folder.then_some(&b'/');
    a.iter().chain(slash(key(left))).cmp(b.iter().chain(slash(key(right))))
}

fn blob_at(repo: &Repository, tree: &Tree<'_>, path: &[u8]) -> Option<Entry> {
    let (mut tree, mut rest) = (tree.clone(), path);
    loop {
        let (name, below) = match rest.iter().position(|b| *b == b'/') {
            Some(at) => (&rest[..at], Some(&rest[at + 1..])),
            None => (rest, None),
        };
        let entry = tree.iter().find(|entry| entry.name_bytes() == name)?.to_owned();
        match below {
            Some(below) => (tree, rest) = (repo.find_tree(entry.id()).ok()?, below),
            None => return Some(Entry { blob: (entry.kind() == Some(ObjectType::Blob)).then(|| Blob(entry.id())) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::RefName;

    struct Fixture {
        dir: tempfile::TempDir,
        repo: Repository,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let repo = Repository::init_bare(dir.path()).unwrap();
            Self { dir, repo }
        }

        /// A commit whose whole tree is `files`, on no branch.
        fn commit(&self, files: &[(&[u8], &str)], parents: &[&Oid]) -> Oid {
            let parents: Vec<_> = parents.iter().map(|p| self.repo.find_commit(raw(p).unwrap()).unwrap()).collect();
            let mut index = git2::Index::new().unwrap();
            for (path, text) in files {
                let id = self.repo.blob(text.as_bytes()).unwrap();
                let (path, zero) = (path.to_vec(), git2::IndexTime::new(0, 0));
                let (dev, ino, uid, gid, file_size, flags, flags_extended) = (0, 0, 0, 0, 0, 0, 0);
                let (ctime, mtime, mode) = (zero, zero, 0o100_644);
                index
                    .add(&git2::IndexEntry {
                        ctime,
                        mtime,
                        dev,
                        ino,
                        mode,
                        uid,
                        gid,
                        file_size,
                        id,
                        flags,
                        flags_extended,
                        path,
                    })
                    .unwrap();
            }
            let tree = self.repo.find_tree(index.write_tree_to(&self.repo).unwrap()).unwrap();
            let who = git2::Signature::now("alice", "alice@example.com").unwrap();
            let parents: Vec<_> = parents.iter().collect();
            let text = format!("{}", files.len());
            Oid::parse(&self.repo.commit(None, &who, &who, &text, &tree, &parents).unwrap().to_string()).unwrap()
        }

        fn land(&self, name: &str, oid: &Oid) {
            self.repo.reference(name, raw(oid).unwrap(), true, "").unwrap();
        }

        fn open(&self, updates: &[RefUpdate]) -> Changes {
            Changes::new(self.dir.path(), updates, Instant::now() + Duration::from_secs(60))
        }

        fn paths(&self, update: &RefUpdate) -> Vec<String> {
            let mut found = Vec::new();
            let mut each = |d: &Difference<'_>| {
                let sign = match (d.old, d.new) {
                    (None, _) => '+',
                    (_, None) => '-',
                    _ => '~',
                };
                found.push(format!("{sign}{}", d.path.escape_ascii()));
                ControlFlow::Continue(())
            };
            let flow = self.open(&[]).differences(update, &mut Seen::default(), &mut each).unwrap();
            assert!(flow.is_continue());
            found
        }
    }

    fn update(old: &Oid, new: &Oid) -> RefUpdate {
        RefUpdate { name: RefName::parse("refs/heads/main").unwrap(), old: old.clone(), new: new.clone() }
    }

    #[test]
    fn both_sides_of_a_move_and_raw_bytes() {
        let repo = Fixture::new();
        let one = repo.commit(&[(b"secret/\xfc", "1"), (b"a", "2"), (b"same/x", "3")], &[]);
        let two = repo.commit(&[(b"public/u", "1"), (b"a/b", "2"), (b"same/x", "3")], &[&one]);
        assert_eq!(repo.paths(&update(&one, &two)), ["-a", "+a/b", "+public/u", "-secret/\\xfc"]);
        assert_eq!(repo.paths(&update(&one.to_zero(), &one)).len(), 3, "a new reference holds every file");
        assert_eq!(repo.paths(&update(&one, &one.to_zero())).len(), 3);
        assert!(repo.paths(&update(&one, &one)).is_empty());
    }

    #[test]
    fn what_passed_once_is_not_walked_again() {
        let repo = Fixture::new();
        let one = repo.commit(&[(b"d/x", "1"), (b"y", "1")], &[]);
        let two = repo.commit(&[(b"d/x", "1"), (b"y", "2")], &[&one]);
        let changes = repo.open(&[]);
        let mut seen = Seen::default();
        let mut paths = |new: &Oid| {
            let mut count = 0;
            let mut each = |_: &Difference<'_>| {
                count += 1;
                ControlFlow::Continue(())
            };
            assert!(changes.differences(&update(&one.to_zero(), new), &mut seen, &mut each).unwrap().is_continue());
            count
        };
        assert_eq!((paths(&one), paths(&one), paths(&two)), (2, 0, 1));
        let late = Changes::new(repo.dir.path(), &[], Instant::now());
        late.work.set(WORK_MAX);
        let late = late.differences(&update(&one, &two), &mut Seen::default(), &mut |_| ControlFlow::Continue(()));
        assert!(matches!(late, Err(ObjectsError::TooMuchWork)));
    }

    #[test]
    fn commits_new_to_the_repository() {
        let repo = Fixture::new();
        let base = repo.commit(&[(b"a", "1")], &[]);
        repo.land("refs/heads/main", &base);
        let left = repo.commit(&[(b"a", "2")], &[&base]);
        let right = repo.commit(&[(b"a", "1"), (b"b", "1")], &[&base]);
        repo.land("refs/heads/known", &right);
        let merge = repo.commit(&[(b"a", "2"), (b"b", "1"), (b"evil", "1")], &[&left, &right]);
        let push = update(&base, &merge);
        let changes = repo.open(std::slice::from_ref(&push));
        let found = changes.new_commits(&merge, &HashSet::new()).unwrap();
        assert_eq!(found.len(), 2, "the merge and its left parent");
        assert_eq!(found.iter().filter(|c| changes.is_merge(**c).unwrap()).count(), 1);
        let mut touched = Vec::new();
        let mut each = |d: &Difference<'_>| {
            touched.push(String::from_utf8_lossy(d.path).into_owned());
            ControlFlow::Continue(())
        };
        assert!(changes.touched(found[0], &mut each).unwrap().is_continue());
        assert_eq!(touched, ["evil"], "a merge touches what comes from none of its parents");
        assert!(changes.brings_merge(&push).unwrap());
        assert!(changes.new_commits(&merge, &found.into_iter().collect()).unwrap().is_empty());
        assert!(changes.new_commits(&base, &HashSet::new()).unwrap().is_empty());
        assert_eq!(changes.signed(&merge).unwrap().unwrap(), ("alice@example.com".to_owned(), "3".to_owned()));
    }

    #[test]
    fn votes_and_contents() {
        let repo = Fixture::new();
        let one = repo.commit(&[(b"a", "1")], &[]);
        let changes = repo.open(&[]);
        repo.land("refs/heads/votes/bob/rel/1", &one);
        repo.land("refs/heads/votes/eve/rel/2", &one);
        assert_eq!(changes.votes("rel/1", &one).unwrap(), 1);
        let blob = Blob(repo.repo.blob(b"\0binary").unwrap());
        assert!(changes.is_binary(blob).unwrap() && changes.holds(blob, "nary").unwrap());
        assert_eq!(changes.size(blob).unwrap(), 7);
    }
}
