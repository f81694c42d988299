//! A second repository with the branches, the tags and the objects of a first one, in the time it takes to name files.
//!
//! Packs and loose objects never change, so they get a second name (link(2)) and no second copy; neither repository
//! needs the other afterwards, and what one deletes the other keeps. There are no alternates between them. Names are
//! taken before objects, and loose objects before packs, so whatever a name leads to is in one of the files seen, also
//! while git repacks; a file that goes meanwhile starts the search again. Blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::refs::{Head, Snapshot};
use crate::durable;

/// What of the references goes along; the rest is of no use to a fork, or is kept by us.
const PREFIXES: [&[u8]; 2] = [b"refs/heads/", b"refs/tags/"];
/// A repository that is repacked more often than this while it is read is left to its work.
const TRIES: usize = 5;
/// Alternates that borrow from alternates (git's own limit, object-file.c).
const BORROWED_MAX: usize = 5;

/// Gives the empty repository at `into` what the one at `from` has. A crash in between leaves `into` unfinished.
pub fn fork(from: &Path, into: &Path) -> io::Result<()> {
    copy_references(from, into)?;
    let mut stores = vec![from.join("objects")];
    for _ in 0..BORROWED_MAX {
        let more: Vec<PathBuf> = stores.iter().flat_map(|store| borrowed(store)).collect();
        let known: BTreeSet<&PathBuf> = stores.iter().collect();
        let new: Vec<PathBuf> = more.into_iter().filter(|store| !known.contains(store)).collect();
        if new.is_empty() {
            break;
        }
        stores.extend(new);
    }
    for store in stores {
        link_objects(&store, &into.join("objects"))?;
    }
    match fs::read(from.join("shallow")) {
        Ok(shallow) => write(&into.join("shallow"), &shallow)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    durable::sync("git.fork.root", into)
}

/// Writes them packed (git-pack-refs(1)), since there may be a million.
fn copy_references(from: &Path, into: &Path) -> io::Result<()> {
    let prefixes = PREFIXES.map(<[u8]>::to_vec);
    let snapshot = Snapshot::read(from, &prefixes)?;
    let mut found = BTreeMap::new();
    snapshot.list(&prefixes, |reference| {
        found.insert(reference.name, reference.oid);
        Ok(())
    })?;
    let mut text = b"# pack-refs with: sorted \n".to_vec();
    for (name, oid) in &found {
        text.extend_from_slice(oid);
        text.push(b' ');
        text.extend_from_slice(name);
        text.push(b'\n');
    }
    if !found.is_empty() {
        write(&into.join("packed-refs"), &text)?;
    }
    if let Some(Head::Branch(name, _)) = snapshot.head()? {
        write(&into.join("HEAD"), &[b"ref: ", &name[..], b"\n"].concat())?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::write(path, bytes)?;
    durable::sync("git.fork.file", path)
}

/// The stores that this one borrows from (gitrepository-layout(5), objects/info/alternates).
fn borrowed(store: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(store.join("info/alternates")).unwrap_or_default();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| store.join(line)).collect()
}

fn link_objects(store: &Path, into: &Path) -> io::Result<()> {
    for last in (0..TRIES).rev() {
        match link_all(store, into) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && last > 0 => {}
            done => return done,
        }
    }
    Ok(())
}

fn link_all(store: &Path, into: &Path) -> io::Result<()> {
    let is_hex = |name: &str| name.len() == 2 && name.bytes().all(|b| b.is_ascii_hexdigit());
    for folder in names(store)?.iter().filter(|name| is_hex(name)) {
        let objects = names(&store.join(folder))?;
        link_folder(&store.join(folder), &into.join(folder), objects.iter().filter(|name| !name.starts_with("tmp_")))?;
    }
    // With its index a pack is seen, so that comes last.
    let mut packs = names(&store.join("pack"))?;
    packs.retain(|name| {
        let kinds = [".pack", ".idx", ".rev", ".bitmap"];
        name.starts_with("pack-") && kinds.iter().any(|kind| name.ends_with(kind))
    });
    packs.sort_by_key(|name| name.ends_with(".idx"));
    link_folder(&store.join("pack"), &into.join("pack"), packs.iter())
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(folder)?;
    entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned())).collect()
}

fn link_folder<'n>(from: &Path, into: &Path, files: impl Iterator<Item = &'n String>) -> io::Result<()> {
    let mut files = files.peekable();
    if files.peek().is_none() {
        return Ok(());
    }
    fs::create_dir_all(into)?;
    for name in files {
        match fs::hard_link(from.join(name), into.join(name)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
            // Another file system, or a file with as many names as it may have.
            Err(_) => {
                fs::copy(from.join(name), into.join(name))?;
                durable::sync("git.fork.file", &into.join(name))?;
            }
        }
    }
    durable::sync("git.fork.dir", into)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::git::objects::{self, Author};
    use crate::git::ref_state;

    fn commit(dir: &Path, branch: &str, text: &str) -> crate::model::Oid {
        let files = [("a".to_owned(), text.as_bytes().to_vec())].into();
        let author = Author { name: "alice", email: "alice@example.com" };
        objects::commit_files(dir, branch, &files, author, "test", None).unwrap()
    }

    #[test]
    fn names_and_objects_go_along_and_nothing_is_shared_but_bytes() {
        let tmp = tempfile::tempdir().unwrap();
        let (one, two) = (tmp.path().join("one.git"), tmp.path().join("two.git"));
        for dir in [&one, &two] {
            objects::init_bare(dir, "main").unwrap();
        }
        let main = commit(&one, "main", "x");
        commit(&one, "refs/tags/v1", "y");
        commit(&one, "refs/gitmesh/lost/1", "z");
        objects::set_head(&one, &crate::model::RefName::parse("refs/heads/dev").unwrap()).unwrap();
        fork(&one, &two).unwrap();
        let refs = ref_state::read_refs(&two).unwrap();
        let names: Vec<String> = refs.refs.keys().map(ToString::to_string).collect();
        assert_eq!(names, ["refs/heads/main", "refs/tags/v1"]);
        assert_eq!(refs.head.map(|head| head.to_string()).as_deref(), Some("refs/heads/dev"));
        let object = format!("objects/{}/{}", &main.as_str()[..2], &main.as_str()[2..]);
        assert_eq!(fs::metadata(two.join(&object)).unwrap().nlink(), 2);
        fs::remove_dir_all(&one).unwrap();
        assert_eq!(objects::file_at(&two, &main, "a").unwrap().unwrap().1, b"x");
    }

    #[test]
    fn what_is_borrowed_goes_along() {
        let tmp = tempfile::tempdir().unwrap();
        let [base, one, two] = ["base.git", "one.git", "two.git"].map(|name| tmp.path().join(name));
        for dir in [&base, &one, &two] {
            objects::init_bare(dir, "main").unwrap();
        }
        let main = commit(&base, "main", "x");
        fs::write(one.join("objects/info/alternates"), "../../base.git/objects\n").unwrap();
        fs::write(one.join("refs/heads/main"), format!("{main}\n")).unwrap();
        fork(&one, &two).unwrap();
        fs::remove_dir_all(&base).unwrap();
        assert_eq!(objects::file_at(&two, &main, "a").unwrap().unwrap().1, b"x");
    }

    #[test]
    fn an_empty_repository_is_forked_too() {
        let tmp = tempfile::tempdir().unwrap();
        let (one, two) = (tmp.path().join("one.git"), tmp.path().join("two.git"));
        for dir in [&one, &two] {
            objects::init_bare(dir, "main").unwrap();
        }
        fork(&one, &two).unwrap();
        assert!(ref_state::read_refs(&two).unwrap().refs.is_empty());
    }
}
