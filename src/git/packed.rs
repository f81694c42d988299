//! Very many new references at once: by one rewriting of `packed-refs` instead of a file and an fsync for each.
//!
//! It is done as git's files backend does it (refs/files-backend.c, refs/packed-backend.c), so that git may work in the
//! repository at the same time: each name is locked by creating `NAME.lock`, `packed-refs` by `packed-refs.lock`; what
//! is there is looked at only then; the new text goes to `packed-refs.new`, is synced, and is renamed over
//! `packed-refs`, by which all references appear at once. The locks are given back in any case, and say whose they are,
//! so that those of a daemon that was killed need not grow old before they count for nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::odb::Peeler;
use super::refs::{Hex, Snapshot};
use crate::durable;
use crate::model::RefUpdate;

/// Fewer are written one by one, by git.
pub const MANY: usize = 100;
/// A larger `packed-refs`, some four million references, is left to git.
const BYTES_MAX: u64 = 256 << 20;
/// So long is another writer of `packed-refs` waited for, as git does (core.packedRefsTimeout).
const PATIENCE: Duration = Duration::from_secs(1);
const HEADER: &str = "# pack-refs with: peeled fully-peeled sorted \n";

/// What stands in a lock of ours; git's own are empty, or hold a new value.
fn mark() -> String {
    format!("gitmesh {}\n", durable::run())
}

/// Whether the lock was ours in a run of the daemon that is over, so that nobody holds it.
pub fn is_left_over(lock: &Path) -> bool {
    let long = mark().len() as u64;
    // Most locks are git's; no need to read a large one.
    lock.metadata().is_ok_and(|about| about.len() == long)
        && std::fs::read_to_string(lock).is_ok_and(|text| text.starts_with("gitmesh ") && text != mark())
}

/// Locks that are held; what is dropped is given back.
#[derive(Default)]
pub(super) struct Locks(Vec<PathBuf>);

impl Drop for Locks {
    fn drop(&mut self) {
        for path in &self.0 {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::error!(file = %path.display(), %error, "a lock cannot be given back");
            }
        }
    }
}

impl Locks {
    /// `false` if somebody else holds it, or if a reference is where a folder has to be.
    pub(super) fn take(&mut self, path: PathBuf) -> io::Result<bool> {
        let create = || OpenOptions::new().write(true).create_new(true).open(&path);
        let made = create().or_else(|error| match path.parent() {
            Some(folder) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(folder)?;
                create()
            }
            _ => Err(error),
        });
        match made {
            Ok(mut file) => {
                self.0.push(path);
                file.write_all(mark().as_bytes())?;
                Ok(true)
            }
            // git may have removed a folder that was empty in between; it is asked instead.
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory | io::ErrorKind::NotFound
                ) =>
            {
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }
}

/// Makes all these references, whose objects are in the repository at `dir`, or none of them. `false` when it is not
/// for us to do or not to be done: git is to be asked, which does it or has the words. Blocks.
///
/// What it returns `true` for is on the disk.
pub fn create_many(dir: &Path, updates: &[RefUpdate]) -> io::Result<bool> {
    let mut new: BTreeMap<&str, Hex> = BTreeMap::new();
    for RefUpdate { name, old, new: value } in updates {
        let Ok(value) = Hex::try_from(value.as_str().as_bytes()) else { return Ok(false) };
        if !old.is_zero() || value == [b'0'; 40] || new.insert(name.as_str(), value).is_some() {
            return Ok(false);
        }
    }
    let above: HashSet<&str> = new.keys().flat_map(|name| parents(name)).collect();
    if above.iter().any(|name| new.contains_key(name)) || keeps_reflogs(dir)? {
        return Ok(false);
    }
    let Some(peeled) = peel(dir, &new)? else { return Ok(false) };
    let mut locks = Locks::default();
    for name in new.keys() {
        if !locks.take(dir.join(format!("{name}.lock")))? {
            return Ok(false);
        }
    }
    let since = Instant::now();
    while !locks.take(dir.join("packed-refs.lock"))? {
        if since.elapsed() > PATIENCE {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let Some(text) = merge(dir, &new, &above, &peeled)? else { return Ok(false) };
    let fresh = dir.join("packed-refs.new");
    let mut file = File::create(&fresh)?;
    let written = file.write_all(&text).and_then(|()| durable::sync_open("git.packed.sync", &file, &fresh));
    let shown = written.and_then(|()| durable::rename("git.packed.rename", &fresh, &dir.join("packed-refs")));
    if shown.is_err() {
        // git would not write past it; the first error is the one to tell.
        drop(std::fs::remove_file(&fresh));
    }
    shown?;
    // The references are there for all to see, so it is too late for a refusal; git never syncs a directory.
    if let Err(error) = durable::sync("git.packed.dir", dir) {
        tracing::error!(dir = %dir.display(), %error, "new references may not outlive a power cut: the disk fails");
    }
    Ok(true)
}

/// The names that would have to be folders: `refs/heads/a` for `refs/heads/a/b`.
fn parents(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('/').skip(1).map(|(at, _)| &name[..at])
}

/// Reflogs are git's to write; bare repositories have none, unless somebody wants them.
pub(super) fn keeps_reflogs(dir: &Path) -> io::Result<bool> {
    let config = std::fs::read_to_string(dir.join("config"))?;
    Ok(config.to_ascii_lowercase().contains("logallrefupdates"))
}

/// What the new values that are tags lead to. `None` where git would refuse one: a branch is a commit.
fn peel(dir: &Path, new: &BTreeMap<&str, Hex>) -> io::Result<Option<HashMap<Hex, Option<Hex>>>> {
    let peeler = Peeler::open(dir).map_err(io::Error::other)?;
    let (mut peeled, mut commits) = (HashMap::new(), HashSet::new());
    for (name, value) in new {
        if name.starts_with("refs/heads/") {
            if !commits.contains(value) && !peeler.is_commit(value) {
                return Ok(None);
            }
            commits.insert(*value);
        } else if !peeled.contains_key(value) && !commits.contains(value) {
            peeled.insert(*value, peeler.peel(value));
        }
    }
    Ok(Some(peeled))
}

/// The whole new text. `None` if a name is there already, or is a folder, or has to be one.
fn merge(
    dir: &Path,
    new: &BTreeMap<&str, Hex>,
    above: &HashSet<&str>,
    peeled: &HashMap<Hex, Option<Hex>>,
) -> io::Result<Option<Vec<u8>>> {
    let old = match Snapshot::of_all(dir) {
        Ok(snapshot) => snapshot,
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(None),
        Err(error) => return Err(error),
    };
    let stands_in_the_way = |name: &str| {
        new.contains_key(name) || above.contains(name) || parents(name).any(|parent| new.contains_key(parent))
    };
    fn text_of(name: &[u8]) -> &str {
        std::str::from_utf8(name).unwrap_or_default() // another name than any of the new ones
    }
    if old.loose().any(|(name, _)| stands_in_the_way(text_of(name)))
        || old.packed_metadata()?.is_some_and(|file| file.len() > BYTES_MAX)
    {
        return Ok(None);
    }
    let mut text = HEADER.as_bytes().to_vec();
    let mut write = |value: &Hex, name: &[u8], peeled: Option<&Hex>| {
        text.extend_from_slice(&[&value[..], b" ", name, b"\n"].concat());
        if let Some(peeled) = peeled {
            text.extend_from_slice(&[&b"^"[..], peeled, b"\n"].concat());
        }
    };
    let mut coming = new.iter().peekable();
    let mut free = true;
    old.packed(|name, value, target| {
        free &= !stands_in_the_way(text_of(name));
        while let Some((next, oid)) = coming.next_if(|(next, _)| next.as_bytes() < name) {
            write(oid, next.as_bytes(), peeled.get(oid).and_then(Option::as_ref));
        }
        write(value, name, target);
    })?;
    for (next, oid) in coming {
        write(oid, next.as_bytes(), peeled.get(oid).and_then(Option::as_ref));
    }
    Ok(free.then_some(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::objects::init_bare;
    use crate::git::ref_state::read_refs;
    use crate::model::{Oid, RefName};

    struct Fixture {
        _tmp: tempfile::TempDir,
        dir: PathBuf,
        commit: String,
        tag: String,
    }

    impl Fixture {
        fn new() -> Self {
            let tmp = tempfile::tempdir().unwrap();
            let dir = tmp.path().join("a.git");
            init_bare(&dir, "main").unwrap();
            let mut fixture = Self { _tmp: tmp, dir, commit: String::new(), tag: String::new() };
            let tree = fixture.git(&["hash-object", "-t", "tree", "-w", "/dev/null"]);
            fixture.commit = fixture.git(&["commit-tree", "-m", "x", &tree]);
            fixture.git(&["tag", "-a", "-m", "x", "seed", &fixture.commit]);
            fixture.tag = fixture.git(&["rev-parse", "refs/tags/seed"]);
            fixture
        }

        fn git(&self, args: &[&str]) -> String {
            let mut command = std::process::Command::new("git");
            for who in ["AUTHOR", "COMMITTER"] {
                command.env(format!("GIT_{who}_NAME"), "a").env(format!("GIT_{who}_EMAIL"), "a@b");
            }
            let done = command.arg("-C").arg(&self.dir).args(args).output().unwrap();
            assert!(done.status.success(), "{args:?} {done:?}");
            String::from_utf8(done.stdout).unwrap().trim().to_owned()
        }

        fn create(&self, names: &[(&str, &str)]) -> bool {
            let update = |(name, value): &(&str, &str)| {
                let new = Oid::parse(value).unwrap();
                RefUpdate { name: RefName::parse(&format!("refs/{name}")).unwrap(), old: new.to_zero(), new }
            };
            let done = create_many(&self.dir, &names.iter().map(update).collect::<Vec<_>>()).unwrap();
            let left = walk(&self.dir).into_iter().filter(|path| path.ends_with(".lock") || path.ends_with(".new"));
            assert_eq!(left.collect::<Vec<_>>(), [""; 0]);
            done
        }

        /// As git lists them, with what tags lead to.
        fn listed(&self) -> String {
            self.git(&["show-ref", "-d"])
        }
    }

    fn walk(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|p| if p.is_dir() { walk(&p) } else { vec![p.display().to_string()] }).collect()
    }

    #[test]
    fn what_is_written_is_what_git_would_have_written() {
        for packed in [false, true] {
            let (ours, gits) = (Fixture::new(), Fixture::new());
            for f in [&ours, &gits] {
                f.git(&["update-ref", "refs/heads/b-loose", &f.commit]);
                f.git(&["update-ref", "refs/x/z", &f.tag]);
                if packed {
                    f.git(&["pack-refs", "--all"]);
                }
                f.git(&["update-ref", "refs/heads/c-later", &f.commit]);
            }
            let names = ["heads/a", "heads/b", "heads/b-m/x", "heads/z", "tags/v1", "tags/a/b", "notes/x"];
            let value =
                |f: &Fixture, name: &str| if name.starts_with("tags") { f.tag.clone() } else { f.commit.clone() };
            let values: Vec<_> = names.iter().map(|name| value(&ours, name)).collect();
            let pairs: Vec<_> = names.iter().copied().zip(values.iter().map(String::as_str)).collect();
            assert!(ours.create(&pairs));
            for name in names {
                gits.git(&["update-ref", &format!("refs/{name}"), &value(&gits, name)]);
            }
            gits.git(&["pack-refs", "--all"]);
            let shown = |f: &Fixture| f.listed().replace(&f.commit, "C").replace(&f.tag, "T");
            assert_eq!(shown(&ours), shown(&gits));
            assert_eq!(read_refs(&ours.dir).unwrap().refs.len(), 11);
            // git goes on from there.
            ours.git(&["update-ref", "refs/heads/a", &ours.commit, &ours.commit]);
            ours.git(&["update-ref", "-d", "refs/tags/v1"]);
            ours.git(&["pack-refs", "--all"]);
            assert_eq!(read_refs(&ours.dir).unwrap().refs.len(), 10);
            ours.git(&["fsck", "--strict"]);
        }
    }

    #[test]
    fn what_is_not_to_be_done_changes_nothing() {
        let f = Fixture::new();
        for name in ["heads/loose", "heads/dir/loose", "x/packed", "x/dir/packed"] {
            if name.contains("loose") {
                f.git(&["pack-refs", "--all"]);
            }
            f.git(&["update-ref", &format!("refs/{name}"), &f.commit]);
        }
        f.git(&["update-ref", "refs/y/packed", &f.commit]);
        f.git(&["pack-refs", "--all"]);
        f.git(&["update-ref", "refs/heads/late", &f.commit]);
        let (c, t, before) = (f.commit.clone(), f.tag.clone(), f.listed());
        let nothing = "1".repeat(40);
        let bad: [&[(&str, &str)]; 9] = [
            &[("heads/late", &c)],
            &[("y/packed", &c)],
            &[("heads/late/below", &c)],
            &[("x/packed/below", &c)],
            &[("heads/dir", &c)],
            &[("x/dir", &c)],
            &[("z/a", &c), ("z/a/b", &c)],
            &[("heads/tag", &t)],
            &[("heads/nothing", &nothing)],
        ];
        for names in bad {
            assert!(!f.create(&[names, &[("w/fine", &c)]].concat()), "{names:?}");
            assert_eq!(f.listed(), before, "{names:?}");
        }
        // Somebody else is at it.
        for lock in ["packed-refs.lock", "refs/w/fine.lock"] {
            let path = f.dir.join(lock);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            let new = Oid::parse(&c).unwrap();
            let update = RefUpdate { name: RefName::parse("refs/w/fine").unwrap(), old: new.to_zero(), new };
            assert!(!create_many(&f.dir, &[update]).unwrap(), "{lock}");
            std::fs::remove_file(&path).expect("it is theirs");
        }
        let config = std::fs::read_to_string(f.dir.join("config")).unwrap();
        std::fs::write(f.dir.join("config"), format!("{config}[core]\n\tlogAllRefUpdates = always\n")).unwrap();
        assert!(!f.create(&[("w/fine", &c)]));
        assert_eq!(f.listed(), before);
    }
}
