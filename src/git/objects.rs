//! References, ancestry and small trees of a repository on disk, read in this process instead of by starting git.
//!
//! Every call opens the repository anew, so nothing is ever stale and no handle is shared between threads; all
//! calls block and belong in `spawn_blocking`. The whole crate names git2 only here.
//!
//! Never used for what must stay git's own: receiving packs, repacking, checking. Repositories in the SHA-256
//! object format and in the reftable format are answered with an error, since libgit2 reads neither.

use std::collections::BTreeMap;
use std::path::Path;

use git2::{ErrorCode, FileMode, ObjectType, Repository};

use super::odb::{self, Dated};
use crate::durable;
use crate::model::{Oid, RefName, RefUpdate};

/// Most files that [`files_at`] takes out of one commit; the largest known keydir holds half as many.
pub const FILES_MAX: usize = 100_000;
/// Most bytes that [`files_at`] takes out of one commit.
pub const FILES_BYTES_MAX: usize = 64 << 20;
/// Deepest folder that [`files_at`] enters, so that a tree built to be deep cannot exhaust the stack.
const DEPTH_MAX: usize = 64;

/// Why a repository could not be read or written. `Display` names no path: callers know which repository they asked for.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    /// The repository does not hold this object; a push that names it is broken, or the repository is damaged.
    #[error("object {0} is missing")]
    Missing(Oid),
    #[error("object {0} is not a commit")]
    NotACommit(Oid),
    /// A symbolic link or a submodule where only plain files may be.
    #[error("'{path}' is a {what}, and only plain files are allowed here")]
    NotAFile { path: String, what: &'static str },
    #[error("a file name below '{0}' is not UTF-8")]
    BadPath(String),
    #[error("more than {FILES_MAX} files, more than {} MiB, or folders nested too deeply", FILES_BYTES_MAX >> 20)]
    TooLarge,
    /// The branch moved while a commit was being made on it.
    #[error("branch '{0}' has moved")]
    Moved(String),
    /// A push whose changes would take too long to look at.
    #[error("the push changes more than can be looked at in time")]
    TooMuchWork,
    #[error("read or write the repository")]
    Git(#[from] git2::Error),
    #[error("read or write the repository's files")]
    Io(#[from] std::io::Error),
}

/// What one line of a push does to its reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Create,
    /// The new commit has the old one among its ancestors, or is the same.
    FastForward,
    /// Anything else, also every change of a reference to a tag object, a tree or a blob.
    Rewind,
    Delete,
}

pub(super) fn open(dir: &Path) -> Result<Repository, ObjectsError> {
    Ok(Repository::open_bare(dir)?)
}

/// git2 knows SHA-1 ids only; an id it cannot hold is one this repository cannot hold either.
pub(super) fn raw(oid: &Oid) -> Result<git2::Oid, ObjectsError> {
    git2::Oid::from_str(oid.as_str()).map_err(|_| ObjectsError::Missing(oid.clone()))
}

pub(super) fn own(oid: git2::Oid) -> Oid {
    Oid::parse(&oid.to_string()).expect("git2 prints 40 hexadecimal digits")
}

/// Makes HEAD name `branch`, which need not exist yet. One that does so already is left as it is.
pub fn set_head(dir: &Path, branch: &RefName) -> Result<(), ObjectsError> {
    if std::fs::read_to_string(dir.join("HEAD"))?.trim_end() == format!("ref: {branch}") {
        return Ok(());
    }
    // libgit2 would not sync it, and without a sound HEAD a directory is no repository.
    Ok(durable::write_whole(dir, "HEAD", &format!("ref: {branch}\n"))?)
}

/// The commit that HEAD leads to; `None` while its branch is unborn.
pub fn head_commit(dir: &Path) -> Result<Option<Oid>, ObjectsError> {
    let repo = open(dir)?;
    match repo.head() {
        Ok(head) => Ok(Some(own(head.peel_to_commit()?.id()))),
        Err(e) if matches!(e.code(), ErrorCode::UnbornBranch | ErrorCode::NotFound) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Number of commits up to `commit`. With an ancestor and its number in `counted`, only what came after is walked.
pub fn commit_count(dir: &Path, commit: &Oid, counted: Option<&(Oid, u64)>) -> Result<u64, ObjectsError> {
    let repo = open(dir)?;
    let mut walk = repo.revwalk()?;
    walk.push(raw(commit)?)?;
    let counted = counted.filter(|(old, _)| descends(&repo, old, commit).unwrap_or(false));
    if let Some((old, _)) = counted {
        walk.hide(raw(old)?)?;
    }
    walk.try_fold(counted.map_or(0, |(_, before)| *before), |count, step| Ok(step.map(|_| count + 1)?))
}

fn commit_kind(repo: &Repository, oid: &Oid) -> Result<ObjectType, ObjectsError> {
    let (_, kind) = repo.odb()?.read_header(raw(oid)?).map_err(|e| match e.code() {
        ErrorCode::NotFound => ObjectsError::Missing(oid.clone()),
        _ => e.into(),
    })?;
    Ok(kind)
}

/// Whether `old` is `new` or one of its ancestors. Both must be commits.
pub fn is_ancestor(dir: &Path, old: &Oid, new: &Oid) -> Result<bool, ObjectsError> {
    let repo = open(dir)?;
    for oid in [old, new] {
        if commit_kind(&repo, oid)? != ObjectType::Commit {
            return Err(ObjectsError::NotACommit(oid.clone()));
        }
    }
    descends(&repo, old, new)
}

fn descends(repo: &Repository, old: &Oid, new: &Oid) -> Result<bool, ObjectsError> {
    Ok(old == new || repo.graph_descendant_of(raw(new)?, raw(old)?)?)
}

/// What one update does; see [`kinds`].
pub fn update_kind(dir: &Path, update: &RefUpdate) -> Result<Kind, ObjectsError> {
    kind_in(&mut None, dir, update)
}

/// What each of the updates does, in their order. Creates and deletes cost nothing; the repository is opened once,
/// and only if an update needs it.
///
/// An `old` that the repository does not hold makes a [`Kind::Rewind`], the more demanding reading; git itself will
/// refuse such an update when it locks the reference. A `new` that is missing is an error.
pub fn kinds(dir: &Path, updates: &[RefUpdate]) -> Result<Vec<Kind>, ObjectsError> {
    let mut repo = None;
    updates.iter().map(|update| kind_in(&mut repo, dir, update)).collect()
}

fn kind_in(repo: &mut Option<Repository>, dir: &Path, update: &RefUpdate) -> Result<Kind, ObjectsError> {
    let RefUpdate { old, new, .. } = update;
    if new.is_zero() {
        return Ok(Kind::Delete);
    }
    if old.is_zero() {
        return Ok(Kind::Create);
    }
    let repo = match repo {
        Some(repo) => repo,
        None => repo.insert(open(dir)?),
    };
    if commit_kind(repo, new)? != ObjectType::Commit {
        return Ok(Kind::Rewind);
    }
    match commit_kind(repo, old) {
        Ok(ObjectType::Commit) => {}
        Ok(_) | Err(ObjectsError::Missing(_)) => return Ok(Kind::Rewind),
        Err(e) => return Err(e),
    }
    Ok(if descends(repo, old, new)? { Kind::FastForward } else { Kind::Rewind })
}

/// Whether a commit that `new` brings and `old` lacks has two parents or more. `false` when either is null or no commit.
pub(super) fn has_merge(repo: &Repository, old: &Oid, new: &Oid) -> Result<bool, ObjectsError> {
    if old.is_zero() || new.is_zero() {
        return Ok(false);
    }
    for oid in [old, new] {
        if commit_kind(repo, oid)? != ObjectType::Commit {
            return Ok(false);
        }
    }
    let mut walk = repo.revwalk()?;
    walk.push(raw(new)?)?;
    walk.hide(raw(old)?)?;
    for oid in walk {
        if repo.find_commit(oid?)?.parent_count() > 1 {
            return Ok(true);
        }
    }
    Ok(false)
}

fn tree_of<'r>(repo: &'r Repository, commit: &Oid) -> Result<git2::Tree<'r>, ObjectsError> {
    if commit_kind(repo, commit)? != ObjectType::Commit {
        return Err(ObjectsError::NotACommit(commit.clone()));
    }
    Ok(repo.find_commit(raw(commit)?)?.tree()?)
}

/// The names at the top of a commit's tree, in git's order; those that are not UTF-8 are left out.
pub fn top_level(dir: &Path, commit: &Oid) -> Result<Vec<String>, ObjectsError> {
    let repo = open(dir)?;
    let tree = tree_of(&repo, commit)?;
    Ok(tree.iter().filter_map(|entry| entry.name().ok().map(str::to_owned)).collect())
}

/// The contents of all files of a commit whose path starts with one of `prefixes`, each a folder with its slash
/// (`conf/`), by path.
///
/// # Errors
/// [`ObjectsError::TooLarge`] beyond [`FILES_MAX`] or [`FILES_BYTES_MAX`]; [`ObjectsError::NotAFile`] for a symbolic
/// link or a submodule, which could lead out of the commit.
pub fn files_at(dir: &Path, commit: &Oid, prefixes: &[&str]) -> Result<BTreeMap<String, Vec<u8>>, ObjectsError> {
    let repo = open(dir)?;
    let root = tree_of(&repo, commit)?;
    let mut taken = Taken { files: BTreeMap::new(), bytes: 0, trees: 0 };
    for prefix in prefixes {
        let Ok(entry) = root.get_path(Path::new(prefix.trim_end_matches('/'))) else { continue };
        // A plain file with the folder's name holds nothing below it.
        if entry.kind() == Some(ObjectType::Tree) {
            taken.walk(&repo, &repo.find_tree(entry.id())?, prefix, 0)?;
        } else if entry.kind() != Some(ObjectType::Blob) || entry.filemode() == i32::from(FileMode::Link) {
            return Err(not_a_file(&entry, prefix.trim_end_matches('/').to_owned()));
        }
    }
    Ok(taken.files)
}

/// One file of a commit, with its object id; `None` if there is no plain file of that path.
///
/// # Errors
/// [`ObjectsError::TooLarge`] beyond 16 MiB.
pub fn file_at(dir: &Path, commit: &Oid, path: &str) -> Result<Option<(Oid, Vec<u8>)>, ObjectsError> {
    let repo = open(dir)?;
    let entry = match tree_of(&repo, commit)?.get_path(Path::new(path)) {
        Ok(entry) => entry,
        Err(e) if e.code() == ErrorCode::NotFound => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    if entry.kind() != Some(ObjectType::Blob) || entry.filemode() == i32::from(FileMode::Link) {
        return Ok(None);
    }
    if repo.odb()?.read_header(entry.id())?.0 > FILES_BYTES_MAX / 4 {
        return Err(ObjectsError::TooLarge);
    }
    Ok(Some((own(entry.id()), repo.find_blob(entry.id())?.content().to_vec())))
}

/// Whether some branch holds a file or a link at this path.
pub fn any_branch_holds(dir: &Path, path: &str) -> Result<bool, ObjectsError> {
    let repo = open(dir)?;
    for branch in repo.references_glob("refs/heads/*")? {
        // A branch that leads nowhere holds nothing.
        let Ok(tree) = branch?.peel_to_tree() else { continue };
        if tree.get_path(Path::new(path)).is_ok_and(|entry| entry.kind() == Some(ObjectType::Blob)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn not_a_file(entry: &git2::TreeEntry<'_>, path: String) -> ObjectsError {
    let what = if entry.kind() == Some(ObjectType::Commit) { "submodule" } else { "symbolic link" };
    ObjectsError::NotAFile { path, what }
}

struct Taken {
    files: BTreeMap<String, Vec<u8>>,
    bytes: usize,
    /// Folders entered: a tree that repeats one subtree over and over holds few objects but endless paths.
    trees: usize,
}

impl Taken {
    fn walk(&mut self, repo: &Repository, tree: &git2::Tree<'_>, at: &str, depth: usize) -> Result<(), ObjectsError> {
        self.trees += 1;
        if depth > DEPTH_MAX || self.trees > FILES_MAX {
            return Err(ObjectsError::TooLarge);
        }
        for entry in tree.iter() {
            let name = entry.name().map_err(|_| ObjectsError::BadPath(at.to_owned()))?;
            let path = format!("{at}{name}");
            match entry.kind() {
                Some(ObjectType::Tree) => {
                    self.walk(repo, &repo.find_tree(entry.id())?, &format!("{path}/"), depth + 1)?;
                }
                Some(ObjectType::Blob) if entry.filemode() != i32::from(FileMode::Link) => {
                    self.take(repo, path, entry.id())?;
                }
                _ => return Err(not_a_file(&entry, path)),
            }
        }
        Ok(())
    }

    fn take(&mut self, repo: &Repository, path: String, id: git2::Oid) -> Result<(), ObjectsError> {
        // The size comes first, so that a huge blob is refused without being unpacked.
        let (size, _) = repo.odb()?.read_header(id)?;
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > FILES_BYTES_MAX || self.files.len() >= FILES_MAX {
            return Err(ObjectsError::TooLarge);
        }
        self.files.insert(path, repo.find_blob(id)?.content().to_vec());
        Ok(())
    }
}

/// Makes an empty bare repository whose HEAD names the branch `head`, as gitrepository-layout(5) asks and no more:
/// libgit2 takes two hundred system calls for it. One that is there already is left as it is.
pub fn init_bare(dir: &Path, head: &str) -> std::io::Result<()> {
    if dir.join("HEAD").exists() {
        return Ok(());
    }
    for folder in ["objects/info", "objects/pack", "refs/heads", "refs/tags"] {
        std::fs::create_dir_all(dir.join(folder))?;
    }
    std::fs::write(dir.join("config"), "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n")?;
    std::fs::write(dir.join("HEAD"), format!("ref: refs/heads/{head}\n"))
}

/// Who makes a commit in the name of gitmesh or of a user.
#[derive(Debug, Clone, Copy)]
pub struct Author<'a> {
    pub name: &'a str,
    pub email: &'a str,
}

/// Commits `files` (path from the top, contents) on `branch` (`main`, or a whole name), on top of `parent`'s tree, and moves the branch.
///
/// # Errors
/// [`ObjectsError::Moved`] if the branch is not at `parent` (or exists, without a parent) any more.
pub fn commit_files(
    dir: &Path,
    branch: &str,
    files: &BTreeMap<String, Vec<u8>>,
    author: Author<'_>,
    message: &str,
    parent: Option<&Oid>,
) -> Result<Oid, ObjectsError> {
    let changes = files.iter().map(|(path, contents)| (path.as_str(), Some(contents.as_slice()))).collect();
    odb::commit_changes(dir, branch, &changes, author, message, parent, Dated::Now)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTHOR: Author<'static> = Author { name: "alice", email: "alice@example.com" };

    struct Fixture {
        dir: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            init_bare(dir.path(), "main").unwrap();
            Self { dir }
        }

        fn path(&self) -> &Path {
            self.dir.path()
        }

        fn commit(&self, branch: &str, files: &[(&str, &str)], parent: Option<&Oid>) -> Oid {
            let files = files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect();
            commit_files(self.path(), branch, &files, AUTHOR, "test", parent).unwrap()
        }

        fn kind(&self, old: &Oid, new: &Oid) -> Kind {
            let name = RefName::parse("refs/heads/main").unwrap();
            update_kind(self.path(), &RefUpdate { name, old: old.clone(), new: new.clone() }).unwrap()
        }
    }

    #[test]
    fn kinds_of_updates() {
        let repo = Fixture::new();
        let one = repo.commit("main", &[("a", "1")], None);
        let two = repo.commit("main", &[("a", "2")], Some(&one));
        let side = repo.commit("side", &[("a", "3")], None);
        let zero = one.to_zero();
        assert_eq!(repo.kind(&zero, &one), Kind::Create);
        assert_eq!(repo.kind(&one, &zero), Kind::Delete);
        assert_eq!(repo.kind(&one, &two), Kind::FastForward);
        assert_eq!(repo.kind(&one, &one), Kind::FastForward);
        assert_eq!(repo.kind(&two, &one), Kind::Rewind);
        assert_eq!(repo.kind(&one, &side), Kind::Rewind);
        let blob = own(open(repo.path()).unwrap().blob(b"x").unwrap());
        assert_eq!(repo.kind(&one, &blob), Kind::Rewind);
        assert_eq!(repo.kind(&blob, &one), Kind::Rewind);
        let missing = Oid::parse(&"1".repeat(40)).unwrap();
        assert_eq!(repo.kind(&missing, &one), Kind::Rewind);
        let name = RefName::parse("refs/heads/main").unwrap();
        let update = RefUpdate { name, old: one.clone(), new: missing.clone() };
        assert!(matches!(update_kind(repo.path(), &update), Err(ObjectsError::Missing(oid)) if oid == missing));
        assert!(is_ancestor(repo.path(), &one, &two).unwrap());
        assert!(!is_ancestor(repo.path(), &two, &one).unwrap());
        assert!(matches!(is_ancestor(repo.path(), &blob, &one), Err(ObjectsError::NotACommit(_))));
        let count = |from: Option<&Oid>| commit_count(repo.path(), &two, from.map(|oid| (oid.clone(), 7)).as_ref());
        assert_eq!([None, Some(&one), Some(&two), Some(&missing)].map(|from| count(from).unwrap()), [2, 8, 7, 2]);
    }

    #[test]
    fn ten_thousand_creates_touch_no_repository() {
        let new = Oid::parse(&"1".repeat(40)).unwrap();
        let updates: Vec<_> = (0..10_000)
            .map(|n| RefUpdate {
                name: RefName::parse(&format!("refs/heads/b{n}")).unwrap(),
                old: new.to_zero(),
                new: new.clone(),
            })
            .collect();
        let all = kinds(Path::new("/nowhere"), &updates).unwrap();
        assert!(all.len() == 10_000 && all.iter().all(|kind| *kind == Kind::Create));
    }

    #[test]
    fn merges_are_seen() {
        let repo = Fixture::new();
        let one = repo.commit("main", &[("a", "1")], None);
        let two = repo.commit("main", &[("a", "2")], Some(&one));
        let side = repo.commit("side", &[("b", "3")], None);
        assert!(!has_merge(&open(repo.path()).unwrap(), &one, &two).unwrap());
        let git = open(repo.path()).unwrap();
        let commit = |oid: &Oid| git.find_commit(raw(oid).unwrap()).unwrap();
        let (ours, theirs) = (commit(&two), commit(&side));
        let who = git2::Signature::now("a", "a@b").unwrap();
        let merged = git.commit(None, &who, &who, "m", &ours.tree().unwrap(), &[&ours, &theirs]).unwrap();
        assert!(has_merge(&open(repo.path()).unwrap(), &two, &own(merged)).unwrap());
        assert!(!has_merge(&open(repo.path()).unwrap(), &own(merged), &own(merged)).unwrap());
        assert!(!has_merge(&open(repo.path()).unwrap(), &one.to_zero(), &own(merged)).unwrap());
    }

    #[test]
    fn files_below_the_prefixes_only() {
        let repo = Fixture::new();
        let one = repo.commit(
            "main",
            &[("conf/gitmesh.conf", "x"), ("keydir/a/b.pub", "k"), ("README", "no"), ("conference/x", "no")],
            None,
        );
        let files = files_at(repo.path(), &one, &["conf/", "keydir/"]).unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["conf/gitmesh.conf", "keydir/a/b.pub"]);
        assert_eq!(files["keydir/a/b.pub"], b"k");
        assert_eq!(top_level(repo.path(), &one).unwrap(), ["README", "conf", "conference", "keydir"]);
        assert!(files_at(repo.path(), &one, &["nothing/"]).unwrap().is_empty());
    }

    #[test]
    fn links_and_endless_trees_are_refused() {
        let repo = Fixture::new();
        let git = open(repo.path()).unwrap();
        let empty = git.find_tree(git.treebuilder(None).unwrap().write().unwrap()).unwrap();
        let who = git2::Signature::now("a", "a@b").unwrap();
        let blob = git.blob(b"/etc/passwd").unwrap();
        let mut link = git2::build::TreeUpdateBuilder::new();
        link.upsert("keydir/a.pub", blob, FileMode::Link);
        let tree = git.find_tree(link.create_updated(&git, &empty).unwrap()).unwrap();
        let commit = own(git.commit(None, &who, &who, "link", &tree, &[]).unwrap());
        let error = files_at(repo.path(), &commit, &["keydir/"]).unwrap_err();
        assert_eq!(error.to_string(), "'keydir/a.pub' is a symbolic link, and only plain files are allowed here");

        // Each level holds the one below twice: 2^40 paths from 41 trees.
        let mut level = empty.id();
        for _ in 0..40 {
            let mut builder = git.treebuilder(None).unwrap();
            builder.insert("a", level, FileMode::Tree.into()).unwrap();
            builder.insert("b", level, FileMode::Tree.into()).unwrap();
            level = builder.write().unwrap();
        }
        let mut builder = git.treebuilder(None).unwrap();
        builder.insert("conf", level, FileMode::Tree.into()).unwrap();
        let tree = git.find_tree(builder.write().unwrap()).unwrap();
        let commit = own(git.commit(None, &who, &who, "bomb", &tree, &[]).unwrap());
        assert!(matches!(files_at(repo.path(), &commit, &["conf/"]), Err(ObjectsError::TooLarge)));
    }

    #[test]
    fn a_branch_that_moved_is_not_overwritten() {
        let repo = Fixture::new();
        let one = repo.commit("main", &[("a", "1")], None);
        repo.commit("main", &[("a", "2")], Some(&one));
        let files = BTreeMap::from([("b".to_owned(), b"3".to_vec())]);
        for parent in [None, Some(&one)] {
            let outcome = commit_files(repo.path(), "main", &files, AUTHOR, "late", parent);
            assert!(matches!(outcome, Err(ObjectsError::Moved(_))), "{outcome:?}");
        }
    }
}
